//! What all parts of the translation share: the context, and values that stand in more than one place.

use std::net::IpAddr;
use std::time::Duration;

use crate::wire::address::Address;

use super::model::Mode;
use crate::config::role::Role;
use crate::config::text::reporter::Reporter;
use crate::config::written::scalar::Number;

/// What all parts of the translation share.
pub(crate) struct Context<'a> {
    pub(crate) role: Role,
    /// The environment, for `"${VAR}"`.
    pub(crate) env: &'a dyn Fn(&str) -> Option<String>,
    /// Whether files that the config names are read.
    pub(crate) files: bool,
    pub(crate) report: Reporter,
}

impl Context<'_> {
    /// `tcp_only`, `udp_only` or `tcp_and_udp`; `default` where the key is missing.
    pub(super) fn mode(&mut self, path: &str, written: Option<&str>, default: Mode) -> Mode {
        match written {
            None => default,
            Some("tcp_only") => Mode::TCP_ONLY,
            Some("udp_only") => Mode::UDP_ONLY,
            Some("tcp_and_udp") => Mode::TCP_AND_UDP,
            Some(other) => {
                let message = format!("`{other}` is no mode");
                self.report.error_hint(
                    path,
                    message,
                    "it is `tcp_and_udp`, `tcp_only` or `udp_only`",
                );
                default
            }
        }
    }

    /// Seconds, at least one.
    pub(super) fn seconds(&mut self, path: &str, written: Option<Number<u64>>) -> Option<Duration> {
        let Number(seconds) = written?;
        if seconds == 0 {
            self.report
                .error_hint(path, "0 seconds", "leave the key out for the default");
            return None;
        }
        // A hundred years: longer is a slip, and overflows some clocks.
        Some(Duration::from_secs(seconds.min(3_155_760_000)))
    }

    /// How many there may be: at least one.
    pub(super) fn count(&mut self, path: &str, written: Option<Number<u64>>) -> Option<usize> {
        let Number(count) = written?;
        if count == 0 {
            self.report.error_hint(
                path,
                "0 would let nothing through",
                "leave the key out for the default",
            );
            return None;
        }
        Some(usize::try_from(count).unwrap_or(usize::MAX))
    }
}

/// Whether we listen at an address or connect to it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum EndpointRole {
    Listen,
    Target,
}

/// The path of `key` in the object at `at`.
pub(super) fn key_at(at: &str, key: &str) -> String {
    match at {
        "" => key.to_owned(),
        _ => format!("{at}.{key}"),
    }
}

/// A host as written (IP address, name, or either with its own port) and the port beside it; port 0 if neither says.
pub(super) fn host_address(
    path: &str,
    text: &str,
    port: Option<u16>,
    cx: &mut Context<'_>,
) -> Option<Address> {
    let beside = port.unwrap_or(0);
    let host = text.trim();
    let unbracketed = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(host);
    if let Ok(ip) = unbracketed.parse::<IpAddr>() {
        return Some(Address::Ip((ip, beside).into()));
    }
    if host.contains("://") || host.contains('/') {
        cx.report.error_hint(
            path,
            "not an address",
            "give the host alone, without `scheme://` and path",
        );
        return None;
    }
    if host.is_empty() || host.contains(char::is_whitespace) {
        cx.report
            .error(path, "not an address: a host name or IP address");
        return None;
    }
    if host.contains(':') {
        return match host.parse::<Address>() {
            Ok(address) => Some(address),
            Err(error) => {
                cx.report.error(path, error.to_string());
                None
            }
        };
    }
    match Address::domain(host, beside) {
        Ok(address) => Some(address),
        Err(_) => {
            cx.report
                .error(path, "not an address: a host name has 1 to 255 bytes");
            None
        }
    }
}

/// The text, unless it is missing or empty.
pub(super) fn filled(text: Option<&str>) -> Option<String> {
    text.filter(|text| !text.is_empty()).map(str::to_owned)
}
