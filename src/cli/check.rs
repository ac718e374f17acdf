//! `ssr check`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueHint};
use ssr::config::{self, Diagnostic, Overrides, Role};

use super::output::{CONFIG, no_config, print, report, usage_error};

#[derive(Args)]
pub(crate) struct CheckArgs {
    /// The config file [default: the file that each role would use]
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    config: Option<PathBuf>,
    /// Check it for one role only: local, server or forward [default: local and server]
    #[arg(long, value_name = "ROLE", value_parser = role)]
    role: Option<Role>,
    /// Fail on warnings too
    #[arg(long)]
    strict: bool,
}

/// `ssr check`.
pub(crate) fn check(args: &CheckArgs) -> ExitCode {
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
        report(&new, args.strict);
        reported.extend(new);
        match summary {
            Some(summary) if !args.strict || found.is_empty() => {
                print(&summary);
                outcomes.push(Outcome::Runs);
            }
            _ => outcomes.push(Outcome::Fails),
        }
    }
    if outcomes.is_empty() {
        let places: Vec<PathBuf> = roles
            .iter()
            .flat_map(|role| config::lookup_places(*role))
            .collect();
        return usage_error(&no_config(&places));
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
                report(&found, args.strict);
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

pub(crate) fn role(text: &str) -> Result<Role, String> {
    match text {
        "local" => Ok(Role::Local),
        "server" => Ok(Role::Server),
        "forward" => Ok(Role::Forward),
        _ => Err("use `local`, `server` or `forward`".to_owned()),
    }
}
