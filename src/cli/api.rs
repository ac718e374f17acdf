//! Which admin API a command calls.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueHint};
use ssr::config::{self, Admin, Overrides, Role};
use ssr::control::call::{Api, CallError};
use ssr::wire::Address;

use super::output::{CONFIG, UNAVAILABLE, no_config, print_error, report, usage_error};

#[derive(Args)]
pub(crate) struct ApiArgs {
    /// The config file of the running process, with `admin`
    #[arg(short, long, global = true, value_name = "FILE", value_hint = ValueHint::FilePath)]
    config: Option<PathBuf>,
    /// The address of the API, in place of that in the config: http://127.0.0.1:9080
    #[arg(long, global = true, value_name = "URL", value_hint = ValueHint::Url)]
    api: Option<String>,
    /// The token, with --api
    #[arg(
        long,
        global = true,
        value_name = "TOKEN",
        env = "SSR_ADMIN_TOKEN",
        hide_env_values = true
    )]
    token: Option<String>,
}

impl ApiArgs {
    /// The API that is meant, or the exit code after an error was printed.
    pub(crate) fn find(&self) -> Result<Api, ExitCode> {
        let made = match &self.api {
            Some(url) => Api::new(url, self.token.as_deref(), false),
            None => {
                let admin = self.admin()?;
                let token = admin.token.as_ref().map(|token| token.expose());
                let token = self.token.as_deref().or(token);
                let (url, is_own) = url(&admin);
                Api::new(&url, token, is_own)
            }
        };
        made.map_err(|error| {
            print_error(&format!("error: {error}"));
            UNAVAILABLE.into()
        })
    }

    /// `admin` of the config.
    fn admin(&self) -> Result<Admin, ExitCode> {
        let path = match &self.config {
            Some(path) => path.clone(),
            None => config::default_path(Role::Server)
                .or_else(|| config::default_path(Role::Local))
                .ok_or_else(|| usage_error(&no_config(&config::lookup_places(Role::Server))))?,
        };
        let flags = Overrides::default();
        let mut found = Vec::new();
        for role in [Role::Server, Role::Local, Role::Forward] {
            match config::load(Some(&path), role, &flags) {
                Ok(config) => {
                    return config.admin.ok_or_else(|| {
                        print_error(&format!(
                            "error: {}: there is no `admin` in it: add `\"admin\": {{}}` and restart ssr",
                            path.display()
                        ));
                        CONFIG.into()
                    });
                }
                Err(errors) if found.is_empty() => found = errors,
                Err(_) => {}
            }
        }
        report(&found, false);
        Err(CONFIG.into())
    }
}

/// The URL of an API, and whether it is on this machine. What listens on all addresses is called on loopback.
fn url(admin: &Admin) -> (String, bool) {
    let scheme = if admin.tls.is_some() { "https" } else { "http" };
    let address = &admin.address;
    let port = address.port();
    let ip = match address {
        Address::Ip(address) => Some(address.ip()),
        Address::Domain(..) => None,
    };
    match ip {
        Some(ip) if ip.is_unspecified() && ip.is_ipv6() => {
            (format!("{scheme}://[::1]:{port}"), true)
        }
        Some(ip) if ip.is_unspecified() => (format!("{scheme}://127.0.0.1:{port}"), true),
        ip => (
            format!("{scheme}://{address}"),
            ip.is_some_and(|ip| ip.is_loopback()),
        ),
    }
}

/// Prints why a call failed.
pub(crate) fn failed(error: &CallError) -> ExitCode {
    print_error(&format!("error: {error}"));
    UNAVAILABLE.into()
}
