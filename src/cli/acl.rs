//! `ssr acl`: questions about rules.

use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand, ValueHint};
use ssr::app::explain::{Question, explain};
use ssr::config::{self, Overrides, Role};
use ssr::wire::Address;

use super::check::role;
use super::output::{CONFIG, SOFTWARE, no_config, print, print_error, report, usage_error};

#[derive(Args)]
pub(crate) struct AclArgs {
    #[command(subcommand)]
    pub(crate) command: AclCommand,
}

#[derive(Subcommand)]
pub(crate) enum AclCommand {
    /// Say which rule decides about a target, and what it decides
    Test(AclTestArgs),
}

#[derive(Args)]
pub(crate) struct AclTestArgs {
    /// The config file [default: the file that the role would use]
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) config: Option<PathBuf>,
    /// An ACL file in place of that of the config
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) acl: Option<PathBuf>,
    /// The role whose rules are asked: local or server [default: local, if the file is for it]
    #[arg(long, value_name = "ROLE", value_parser = role)]
    pub(crate) role: Option<Role>,
    /// Ask about datagrams, and not about a connection
    #[arg(short = 'u', long)]
    pub(crate) udp: bool,
    /// Ask for this user
    #[arg(long, value_name = "NAME")]
    pub(crate) user: Option<String>,
    /// The target [default port: 443]
    #[arg(value_name = "HOST[:PORT]")]
    pub(crate) target: String,
}

/// `ssr acl test`.
pub(crate) fn acl(args: AclArgs) -> ExitCode {
    let AclCommand::Test(args) = args.command;
    let target = match args.address() {
        Ok(target) => target,
        Err(message) => return usage_error(&message),
    };
    let mut flags = Overrides::default();
    if let Some(file) = &args.acl {
        flags.set("acl", file.display().to_string(), "--acl");
    }
    let load = |role| match args.config.clone().or_else(|| config::default_path(role)) {
        Some(path) => Ok(config::load(Some(&path), role, &flags)),
        None => Err(usage_error(&no_config(&config::lookup_places(role)))),
    };
    let loaded = match load(args.role.unwrap_or(Role::Local)) {
        Ok(Err(found)) if args.role.is_none() && config::is_for_other_role(&found) => {
            load(Role::Server)
        }
        loaded => loaded,
    };
    let config = match loaded {
        Ok(Ok(config)) => config,
        Ok(Err(found)) => {
            report(&found, false);
            return CONFIG.into();
        }
        Err(code) => return code,
    };
    let question = Question {
        target,
        is_udp: args.udp,
        user: args.user,
    };
    match explain(&config, &question) {
        Ok(answer) => {
            print(&answer);
            ExitCode::SUCCESS
        }
        Err(message) => {
            print_error(&message);
            SOFTWARE.into()
        }
    }
}

impl AclTestArgs {
    /// The host and port that are asked about.
    ///
    /// # Errors
    /// When the target is not an address or name.
    pub(crate) fn address(&self) -> Result<Address, String> {
        const PORT: u16 = 443;
        let text = self.target.as_str();
        let bare = text
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
            .unwrap_or(text);
        if let Ok(ip) = bare.parse::<IpAddr>() {
            return Ok(Address::Ip((ip, PORT).into()));
        }
        let address = match text.contains(':') {
            true => text.parse::<Address>().map_err(|error| error.to_string()),
            false => Address::domain(text, PORT).map_err(|error| error.to_string()),
        };
        address.map_err(|error| format!("{text}: {error}"))
    }
}
