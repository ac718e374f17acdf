//! The `ssr` binary: parses the command line, starts the role, returns the exit code.

mod cli;

use std::io::Write as _;
use std::net::ToSocketAddrs as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::Parser as _;
use ssr::app::redir_rules;
use ssr::config::{self, Config, Diagnostic, Overrides, Role, Severity};
use ssr::crypto::{Family, Method};
use zeroize::Zeroizing;

use crate::cli::{CheckArgs, Cli, Command, GenkeyArgs, RedirRulesArgs, Request};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `EX_USAGE` of sysexits.h: the command line is wrong.
const USAGE: u8 = 64;
/// `EX_SOFTWARE`: an internal error.
const SOFTWARE: u8 = 70;
/// `EX_CONFIG`: the config is wrong.
const CONFIG: u8 = 78;

/// Random bytes in the password of a method that accepts any password.
const PASSWORD_LEN: usize = 32;

fn main() -> ExitCode {
    let command = match Cli::try_parse() {
        Ok(cli) => cli.command,
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
        Command::Check(args) => check(&args),
        Command::Genkey(args) => genkey(&args),
        Command::RedirRules(args) => redir_rules(&args),
    }
}

/// Runs a role until it ends.
fn start(role: Role, request: Result<Request, String>) -> ExitCode {
    let Request { config, flags } = match request {
        Ok(request) => request,
        Err(message) => return usage_error(&message),
    };
    // Complete flags need no file; a file in a default place must not change what they mean.
    let path = match config {
        None if flags.are_enough() => None,
        None => match config::default_path(role) {
            None => return usage_error(&no_config(&[role])),
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
        print_error(&format!("error: cannot open the log: {error}"));
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
    let mut reported: Vec<Diagnostic> = Vec::new();
    for &role in &roles {
        // If `local` or `server` accepts the file, their summaries list its forwards.
        let is_other_role = |outcome| matches!(outcome, &Outcome::OtherRole(..));
        if args.role.is_none() && role == Role::Forward && !outcomes.iter().all(is_other_role) {
            continue;
        }
        // Most machines have a file for one role only.
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
        // Report what both roles find only once.
        let new: Vec<Diagnostic> = found
            .iter()
            .filter(|finding| !reported.contains(finding))
            .cloned()
            .collect();
        report(&new, true);
        reported.extend(new);
        match summary {
            Some(summary) if !found.iter().any(Diagnostic::fails_check) => {
                print(&summary);
                outcomes.push(Outcome::Runs);
            }
            _ => outcomes.push(Outcome::Fails),
        }
    }
    if outcomes.is_empty() {
        return usage_error(&no_config(&roles));
    }
    let mut code = ExitCode::SUCCESS;
    let runs = outcomes
        .iter()
        .any(|outcome| matches!(outcome, Outcome::Runs));
    for outcome in outcomes {
        match outcome {
            Outcome::Runs => {}
            Outcome::OtherRole(role, _) if runs => {
                print(&format!("ssr {}: cannot run with this file\n", role.name()))
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

/// The result of checking a config for one role.
enum Outcome {
    Runs,
    Fails,
    /// The config is for the other role; with the findings of this one.
    OtherRole(Role, Vec<Diagnostic>),
}

/// `ssr genkey`: prints the key, then one for each user.
fn genkey(args: &GenkeyArgs) -> ExitCode {
    let method = args.method;
    let length = match method.family() {
        Family::Plain => return usage_error(&format!("{method} does not encrypt and has no key")),
        Family::Aead2017 => PASSWORD_LEN,
        Family::Aead2022 => method.key_len(),
    };
    if args.users > 0 && !method.supports_identity() {
        let instead = Method::Blake3Aes256Gcm;
        return usage_error(&format!("{method} does not support users; use {instead}"));
    }
    let mut text = Zeroizing::new(String::new());
    for _ in 0..=args.users {
        let mut key = Zeroizing::new([0; PASSWORD_LEN]);
        let Some(bytes) = key.get_mut(..length) else {
            return SOFTWARE.into();
        };
        if rand::TryRng::try_fill_bytes(&mut rand::rngs::SysRng, bytes).is_err() {
            print_error("cannot get random bytes from the system");
            return SOFTWARE.into();
        }
        STANDARD.encode_string(bytes, &mut text);
        text.push('\n');
    }
    print(&text);
    ExitCode::SUCCESS
}

/// `ssr redir-rules`.
fn redir_rules(args: &RedirRulesArgs) -> ExitCode {
    let place = args.config.clone();
    let Some(path) = place.or_else(|| config::default_path(Role::Local)) else {
        return usage_error(&no_config(&[Role::Local]));
    };
    let config = match config::load(Some(&path), Role::Local, &Overrides::default()) {
        Ok(config) => config,
        Err(found) => {
            report(&found, false);
            return CONFIG.into();
        }
    };
    let resolve = |name: &str| {
        let found = (name, 0).to_socket_addrs();
        found.map_or_else(
            |_| Vec::new(),
            |found| found.map(|address| address.ip()).collect(),
        )
    };
    let wanted = redir_rules::Wanted {
        interfaces: &args.interface,
        script: args.script,
        resolve: &resolve,
    };
    match redir_rules::rules(&config, &wanted) {
        Ok(rules) => {
            print(&rules);
            ExitCode::SUCCESS
        }
        Err(message) => {
            print_error(&format!("error: {}: {message}", path.display()));
            CONFIG.into()
        }
    }
}

/// Lists the places where a config of any of `roles` was looked for.
fn no_config(roles: &[Role]) -> String {
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
    format!("no config found: name one with -c FILE, or put it in one of these places:\n{list}\n")
}

fn shown(place: &Path) -> String {
    match place.parent() {
        Some(parent) if parent.as_os_str().is_empty() => format!("./{}", place.display()),
        _ => place.display().to_string(),
    }
}

fn usage_error(message: &str) -> ExitCode {
    print_error(message);
    USAGE.into()
}

/// Prints findings. If `strict`, keys of other programs are errors.
fn report(found: &[Diagnostic], strict: bool) {
    for finding in found {
        let severity = match finding.severity {
            Severity::Error => "error",
            Severity::Foreign if strict => "error",
            Severity::Foreign | Severity::Warning => "warning",
        };
        print_error(&format!("{severity}: {finding}"));
    }
}

/// Prints a line on standard error. A failure has nowhere to be reported.
fn print_error(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Prints text on standard output. It is not an error if the reader is gone (`| head`).
fn print(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}
