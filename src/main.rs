//! The `ssr` binary: parse, start, exit code.

mod cli;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::Parser as _;
use ssr::config::{self, Config, Diagnostic, Overrides, Role, Severity};
use ssr::crypto::{Family, Method};
use zeroize::Zeroizing;

use crate::cli::{CheckArgs, Cli, Command, GenkeyArgs, Request};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `EX_USAGE` of sysexits.h: the command line is wrong.
const USAGE: u8 = 64;
/// `EX_SOFTWARE`: the program is.
const SOFTWARE: u8 = 70;
/// `EX_CONFIG`: the config is.
const CONFIG: u8 = 78;

/// Bytes of randomness in the password of a method that takes any.
const PASSWORD_LEN: usize = 32;

fn main() -> ExitCode {
    let command = match Cli::try_parse() {
        Ok(cli) => cli.command,
        Err(error) => {
            // Help and version are answers, not errors. Nobody is left to tell if this cannot be printed.
            let _ = error.print();
            let asked = matches!(error.exit_code(), 0);
            return if asked {
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
        Command::Check(args) => check(&args),
        Command::Genkey(args) => genkey(&args),
    }
}

/// Runs a role until it ends.
fn start(role: Role, request: Result<Request, String>) -> ExitCode {
    let Request { config, flags } = match request {
        Ok(request) => request,
        Err(message) => return usage(&message),
    };
    // What is given by flags needs no file; one that lies about must not change what the flags say.
    let path = match config {
        None if flags.are_enough() => None,
        None => match config::default_path(role) {
            None => return usage(&nowhere(&[role])),
            found => found,
        },
        named => named,
    };
    match config::load(path.as_deref(), role, &flags) {
        Ok(config) => run(&config),
        Err(found) => {
            report(&found, false);
            CONFIG.into()
        }
    }
}

fn run(config: &Config) -> ExitCode {
    if let Err(error) = ssr::app::log::init(&config.log) {
        complain(&format!("error: cannot open the log: {error}"));
        return CONFIG.into();
    }
    ssr::app::run(config)
}

/// `ssr check`.
fn check(args: &CheckArgs) -> ExitCode {
    let roles = match args.role {
        Some(role) => vec![role],
        None => vec![Role::Server, Role::Local, Role::Forward],
    };
    let mut outcomes = Vec::new();
    let mut told: Vec<Diagnostic> = Vec::new();
    for &role in &roles {
        // A file that either half can run says there what it forwards.
        let halves = |outcome| matches!(outcome, &Outcome::OtherRole(..));
        if args.role.is_none() && role == Role::Forward && !outcomes.iter().all(halves) {
            continue;
        }
        // Most machines have the file of one role only.
        let Some(path) = args.config.clone().or_else(|| config::default_path(role)) else {
            continue;
        };
        let (summary, found) = match config::load(Some(&path), role, &Overrides::default()) {
            Ok(config) => (Some(config.summary()), config.warnings),
            Err(found) => (None, found),
        };
        if args.role.is_none() && config::is_for_other_role(&found) {
            outcomes.push(Outcome::OtherRole(role, found));
            continue;
        }
        // What both roles find is said once.
        let new: Vec<Diagnostic> = found
            .iter()
            .filter(|finding| !told.contains(finding))
            .cloned()
            .collect();
        report(&new, true);
        told.extend(new);
        match summary {
            Some(summary) if !found.iter().any(Diagnostic::fails_check) => {
                print(&summary);
                outcomes.push(Outcome::Runs);
            }
            _ => outcomes.push(Outcome::Fails),
        }
    }
    if outcomes.is_empty() {
        return usage(&nowhere(&roles));
    }
    let mut code = ExitCode::SUCCESS;
    let runs = outcomes
        .iter()
        .any(|outcome| matches!(outcome, Outcome::Runs));
    for outcome in outcomes {
        match outcome {
            Outcome::Runs => {}
            Outcome::OtherRole(role, _) if runs => {
                print(&format!("ssr {}: not with this file\n", role.name()))
            }
            Outcome::OtherRole(_, found) => {
                report(&found, true);
                code = CONFIG.into();
            }
            Outcome::Fails => code = CONFIG.into(),
        }
    }
    code
}

/// How one role takes a config.
enum Outcome {
    Runs,
    Fails,
    /// It would run as the other role; with what this one says.
    OtherRole(Role, Vec<Diagnostic>),
}

/// `ssr genkey`: the key first, then one for each user.
fn genkey(args: &GenkeyArgs) -> ExitCode {
    let method = args.method;
    let length = match method.family() {
        Family::Plain => return usage(&format!("{method} has no key")),
        Family::Aead2017 => PASSWORD_LEN,
        Family::Aead2022 => method.key_len(),
    };
    if args.users > 0 && !method.supports_identity() {
        let instead = Method::Blake3Aes256Gcm;
        return usage(&format!("{method} cannot tell users apart: use {instead}"));
    }
    let mut text = Zeroizing::new(String::new());
    for _ in 0..=args.users {
        let mut key = Zeroizing::new([0; PASSWORD_LEN]);
        let Some(bytes) = key.get_mut(..length) else {
            return SOFTWARE.into();
        };
        if rand::TryRng::try_fill_bytes(&mut rand::rngs::SysRng, bytes).is_err() {
            complain("the system has no randomness to give");
            return SOFTWARE.into();
        }
        STANDARD.encode_string(bytes, &mut text);
        text.push('\n');
    }
    print(&text);
    ExitCode::SUCCESS
}

/// Says where a config of any of `roles` was looked for.
fn nowhere(roles: &[Role]) -> String {
    let mut places: Vec<PathBuf> = Vec::new();
    for place in roles.iter().flat_map(|role| config::lookup_places(*role)) {
        if !places.contains(&place) {
            places.push(place);
        }
    }
    let list: String = places
        .iter()
        .map(|place| format!("\n  {}", shown(place)))
        .collect();
    format!("no config: name one with -c FILE, or put one at\n{list}\n")
}

fn shown(place: &Path) -> String {
    match place.parent() {
        Some(parent) if parent.as_os_str().is_empty() => format!("./{}", place.display()),
        _ => place.display().to_string(),
    }
}

fn usage(message: &str) -> ExitCode {
    complain(message);
    USAGE.into()
}

/// Prints findings; keys of other programs are errors where that is `strict`.
fn report(found: &[Diagnostic], strict: bool) {
    for finding in found {
        let severity = match finding.severity {
            Severity::Error => "error",
            Severity::Foreign if strict => "error",
            Severity::Foreign | Severity::Warning => "warning",
        };
        complain(&format!("{severity}: {finding}"));
    }
}

/// A line on standard error. Nobody is left to tell if it cannot be written.
fn complain(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Text on standard output; a reader that went away (`| head`) is no error.
fn print(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}
