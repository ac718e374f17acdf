//! `ssr why`.

use std::process::ExitCode;

use clap::Args;
use ssr::control::why::text;

use super::asked::Asked;
use super::output::print;

/// Failures of each kind that are printed without `--all`.
const MOST: usize = 10;

#[derive(Args)]
pub(crate) struct WhyArgs {
    #[command(flatten)]
    asked: Asked,
    /// Print all that is kept, not only the newest of each kind
    #[arg(long)]
    all: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// `ssr why`.
pub(crate) fn why(args: &WhyArgs) -> ExitCode {
    match args.asked.ask("why") {
        Ok(answer) if args.json => print(&format!("{answer:#}\n")),
        Ok(answer) => print(&text(&answer, if args.all { usize::MAX } else { MOST })),
        Err(code) => return code,
    }
    ExitCode::SUCCESS
}
