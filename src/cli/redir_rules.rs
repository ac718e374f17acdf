//! `ssr redir-rules`.

use std::net::ToSocketAddrs as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueHint};
use ssr::app::redir_rules as rules;
use ssr::config::{self, Overrides, Role};

use super::output::{CONFIG, no_config, print, print_error, report, usage_error};

#[derive(Args)]
pub(crate) struct RedirRulesArgs {
    /// The config file [default: the file that `ssr local` would use]
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    config: Option<PathBuf>,
    /// Redirect other machines on this network interface only; may be repeated [default: all interfaces]
    #[arg(short, long, value_name = "NAME")]
    interface: Vec<String>,
    /// Print a shell script that loads the rules, and the routes that TPROXY needs
    #[arg(long)]
    script: bool,
}

/// `ssr redir-rules`.
pub(crate) fn redir_rules(args: &RedirRulesArgs) -> ExitCode {
    let place = args.config.clone();
    let Some(path) = place.or_else(|| config::default_path(Role::Local)) else {
        return usage_error(&no_config(&config::lookup_places(Role::Local)));
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
    let wanted = rules::Wanted {
        interfaces: &args.interface,
        script: args.script,
        resolve: &resolve,
    };
    match rules::rules(&config, &wanted) {
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
