//! What all parts of the translation share: the context, and kinds of values that several keys have.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use crate::wire::address::Address;

use super::model::Mode;
use crate::config::role::Role;
use crate::config::text::reporter::Reporter;
use crate::config::written::scalar::Number;

/// How to get the default of a key.
const USE_DEFAULT: &str = "remove the key to use the default";

/// What all parts of the translation share.
pub(crate) struct Context<'a> {
    /// The role that reads the config.
    pub(crate) role: Role,
    /// The environment, for `"${VAR}"`.
    pub(crate) env: &'a dyn Fn(&str) -> Option<String>,
    /// Whether the files named in the config are read.
    pub(crate) files: bool,
    /// The file of the config; empty: there is none.
    pub(crate) file: &'a Path,
    /// Where diagnostics go.
    pub(crate) report: Reporter,
}

impl Context<'_> {
    /// The mode at `path`; `default` if the key is missing.
    pub(super) fn mode(&mut self, path: &str, written: Option<&str>, default: Mode) -> Mode {
        match written {
            None => default,
            Some("tcp_only") => Mode::TCP_ONLY,
            Some("udp_only") => Mode::UDP_ONLY,
            Some("tcp_and_udp") => Mode::TCP_AND_UDP,
            Some(other) => {
                let hint = "use `tcp_only`, `udp_only` or `tcp_and_udp`";
                self.report.unknown(path, "mode", other, hint);
                default
            }
        }
    }

    /// A duration in seconds, at least one.
    pub(super) fn seconds(&mut self, path: &str, written: Option<Number<u64>>) -> Option<Duration> {
        let Number(seconds) = written?;
        if seconds == 0 {
            self.report
                .error_hint(path, "must be at least 1 second", USE_DEFAULT);
            return None;
        }
        // A hundred years: anything longer is a mistake, and overflows some clocks.
        Some(Duration::from_secs(seconds.min(3_155_760_000)))
    }

    /// A limit, at least one.
    pub(super) fn count(&mut self, path: &str, written: Option<Number<u64>>) -> Option<usize> {
        let Number(count) = written?;
        if count == 0 {
            self.report
                .error_hint(path, "must be at least 1", USE_DEFAULT);
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

/// The address of a host (IP address or name, either with a port of its own) and the port from another key; port 0 if
/// neither has one.
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
            "a URL is not an address",
            "write only the host, without `scheme://` and path",
        );
        return None;
    }
    if host.is_empty() || host.contains(char::is_whitespace) {
        cx.report.error(path, "not an IP address or host name");
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
                .error(path, "not a host name: it must have 1 to 255 bytes");
            None
        }
    }
}

/// The text, unless it is missing or empty.
pub(super) fn filled(text: Option<&str>) -> Option<String> {
    text.filter(|text| !text.is_empty()).map(str::to_owned)
}

/// Reports each listener whose address another one uses already. Each of `listeners` has the path to blame, the address
/// and the transport, `TCP` or `UDP`.
pub(super) fn refuse_same_address<'a>(
    listeners: impl IntoIterator<Item = (String, &'a Address, &'static str)>,
    cx: &mut Context<'_>,
) {
    let mut taken: HashMap<(&Address, &str), String> = HashMap::new();
    for (path, address, transport) in listeners {
        if address.port() == 0 {
            continue;
        }
        if let Some(first) = taken.get(&(address, transport)) {
            let message = format!("{transport} {address} is already used by `{first}`");
            cx.report.error(&path, message);
        } else {
            taken.insert((address, transport), path);
        }
    }
}
