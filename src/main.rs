//! The `ssr` binary: parses the command line, starts the role, returns the exit code.

mod cli;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use clap::CommandFactory as _;
use ssr::config::{self, Config, Role};

use crate::cli::command::{Cli, Command};
use crate::cli::names::Invocation;
use crate::cli::output::{CONFIG, UNAVAILABLE, USAGE, no_config, print_error, report, usage_error};
use crate::cli::request::{Request, Source};
use crate::cli::{daemon, hint, pages};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let line: Vec<OsString> = std::env::args_os().collect();
    let command = match Invocation::parse(&line) {
        Ok(Invocation::Command(command)) => command,
        Ok(Invocation::Local(request)) => return start(Role::Local, request),
        Ok(Invocation::Server(request)) => return start(Role::Server, request),
        Ok(Invocation::Ssurl(args)) => return args.run(),
        Ok(Invocation::Missing(instead)) => return usage_error(instead),
        Err(error) => {
            // Help and version are answers, not errors. A failure to print has nowhere to be reported.
            let _ = error.print();
            let is_answer = error.exit_code() == 0;
            return if is_answer {
                ExitCode::SUCCESS
            } else {
                USAGE.into()
            };
        }
    };
    match command {
        Command::Local(args) => start(Role::Local, args.request()),
        Command::Server(args) => start(Role::Server, args.request()),
        Command::Forward(args) => start(Role::Forward, args.request()),
        Command::Check(args) => cli::check::check(&args),
        Command::Doctor(args) => args.run(),
        Command::Genkey(args) => cli::genkey::genkey(&args),
        Command::Url(command) => command.run(),
        Command::Import(args) => args.run(),
        Command::Completions(args) => args.run(Cli::command()),
        Command::Man => pages::man(Cli::command()),
        Command::Schema => pages::schema(),
        Command::Acl(args) => cli::acl::acl(args),
        Command::Why(args) => cli::why::why(&args),
        Command::Status(args) => cli::status::status(&args),
        Command::Upgrade(args) => cli::upgrade::upgrade(&args),
        #[cfg(feature = "admin")]
        Command::User(args) => args.run(),
        #[cfg(feature = "admin")]
        Command::Top(args) => args.run(),
        Command::RedirRules(args) => cli::redir_rules::redir_rules(&args),
    }
}

/// Runs a role until it ends.
fn start(role: Role, request: Result<Request, String>) -> ExitCode {
    let Request {
        source,
        flags,
        daemon,
        strict,
    } = match request {
        Ok(request) => request,
        Err(message) => return usage_error(&message),
    };
    let pid_file = match daemon {
        Some(daemon) if !daemon::is_background() => return daemon::launch(&daemon),
        Some(daemon) => daemon.pid_file,
        None => None,
    };
    let path = match source {
        Source::File(path) => Some(path),
        Source::Flags => None,
        // Complete flags need no file; a file in a default place must not change what they mean.
        Source::Usual if flags.are_enough() => None,
        Source::Usual => match config::default_path(role) {
            None => return usage_error(&no_config(&config::lookup_places(role))),
            found => found,
        },
        Source::Libev => {
            let places = config::libev_places();
            match places.iter().find(|path| path.is_file()) {
                None => return usage_error(&no_config(&places)),
                found => found.cloned(),
            }
        }
    };
    match config::load(path.as_deref(), role, &flags) {
        Ok(config) if strict && !config.warnings.is_empty() => {
            report(&config.warnings, true);
            CONFIG.into()
        }
        Ok(config) => run(config, pid_file.as_deref()),
        Err(found) => {
            report(&found, strict);
            CONFIG.into()
        }
    }
}

fn run(mut config: Config, pid_file: Option<&Path>) -> ExitCode {
    let background = daemon::is_background();
    if background && let Err(error) = daemon::leave_session(&mut config) {
        print_error(&format!("error: cannot go to the background: {error}"));
        return UNAVAILABLE.into();
    }
    // Before the log, which starts a thread.
    let sandbox = match ssr::app::sandbox::enter(&config, pid_file) {
        Ok(sandbox) => sandbox,
        Err(error) => {
            print_error(&format!("error: {error}"));
            return UNAVAILABLE.into();
        }
    };
    let log = match ssr::app::log::init(&config.log) {
        Ok(log) => log,
        Err(error) => {
            print_error(&format!("error: cannot open the log: {error}"));
            return CONFIG.into();
        }
    };
    tracing::info!("{sandbox}");
    ssr::app::run(&config, || {
        // What was logged before comes first.
        log.flush();
        match background {
            // The other end is gone: the terminal stays, and nothing is lost.
            true => drop(daemon::detach()),
            false => hint::show(&config),
        }
        if let Some(Err(error)) = pid_file.map(daemon::note_pid) {
            tracing::warn!(%error, "the file with the process id cannot be written; it still names the process before this one");
        }
    })
}
