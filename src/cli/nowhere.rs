//! Flags of shadowsocks-rust for other systems and programs. They are known, so that each can be refused with its reason.

use clap::Args;

const ANDROID: &str = "only the Android app uses it";

/// Flags of both roles that have no use here.
#[derive(Args)]
pub(super) struct Nowhere {
    #[arg(long, hide = true)]
    outbound_user_cookie: Option<String>,
    #[arg(long, hide = true)]
    log_config: Option<String>,
}

/// Flags of `ssr local` that have no use here.
#[derive(Args)]
pub(super) struct LocalNowhere {
    #[arg(long, hide = true)]
    dns_addr: Option<String>,
    #[arg(long, hide = true)]
    stat_path: Option<String>,
    #[arg(long, hide = true)]
    stat_addr: Option<String>,
    #[arg(long, hide = true)]
    vpn: bool,
}

impl Nowhere {
    /// # Errors
    /// The first flag that was given, and why it is refused.
    pub(super) fn refuse(&self) -> Result<(), String> {
        refuse(&[
            (
                "--outbound-user-cookie",
                self.outbound_user_cookie.is_some(),
                "it exists on FreeBSD only",
            ),
            (
                "--log-config",
                self.log_config.is_some(),
                "log4rs files are not read: use `log.writers` in the config",
            ),
        ])
    }
}

impl LocalNowhere {
    /// # Errors
    /// The first flag that was given, and why it is refused.
    pub(super) fn refuse(&self) -> Result<(), String> {
        refuse(&[
            ("--dns-addr", self.dns_addr.is_some(), ANDROID),
            ("--stat-path", self.stat_path.is_some(), ANDROID),
            ("--stat-addr", self.stat_addr.is_some(), ANDROID),
            ("--vpn", self.vpn, ANDROID),
        ])
    }
}

fn refuse(flags: &[(&str, bool, &str)]) -> Result<(), String> {
    match flags.iter().find(|(_, given, _)| *given) {
        Some((flag, _, reason)) => Err(format!("{flag}: {reason}")),
        None => Ok(()),
    }
}
