//! `ssr status`.

use std::process::ExitCode;

use clap::Args;
use ssr::control::status::text;

use super::asked::Asked;
use super::output::print;

#[derive(Args)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    asked: Asked,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// `ssr status`.
pub(crate) fn status(args: &StatusArgs) -> ExitCode {
    match args.asked.ask("status") {
        Ok(answer) if args.json => print(&format!("{answer:#}\n")),
        Ok(answer) => print(&text(&answer)),
        Err(code) => return code,
    }
    ExitCode::SUCCESS
}
