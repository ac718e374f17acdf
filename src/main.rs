//! The `ssr` binary: parse, start, exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let role = match args.next().as_deref() { Some("server") => ssr::config::Role::Server, _ => ssr::config::Role::Local };
    let file = args.nth(1);
    let config = match ssr::config::load(file.as_deref().map(std::path::Path::new), role, &ssr::config::Overrides::default()) {
        Ok(config) => config,
        Err(errors) => { for e in errors { eprintln!("{e}"); } return ExitCode::from(78); }
    };
    if ssr::app::log::init(&config.log).is_err() { return ExitCode::from(70); }
    ssr::app::run(&config)
}
