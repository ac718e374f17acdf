//! `udp_over_tcp`: whether `ssr local` sends datagrams in streams, as sing-box and mihomo do.

use super::context::{Context, key_at};
use super::model::{Mode, Transport};
use crate::config::role::Role;
use crate::config::written::file;
use crate::config::written::scalar::{Number, Switch};
use crate::wire::udp_over_tcp::Version;

/// The version that the entry at `at` asks for; `None`: it does not, or the role is not the one that sends.
pub(super) fn version(
    entry: &file::Server,
    at: &str,
    transport: Option<&Transport>,
    mode: Mode,
    cx: &mut Context<'_>,
) -> Option<Version> {
    let path = key_at(at, "udp_over_tcp");
    let Some(Switch::On(keys)) = &entry.udp_over_tcp else {
        return None;
    };
    let version = match keys.version {
        None | Some(Number(0 | 2)) => Version::V2,
        Some(Number(1)) => Version::V1,
        Some(Number(other)) => {
            let message = format!("{other} is not a version of UDP over TCP: use 1 or 2");
            cx.report.error(&key_at(&path, "version"), message);
            return None;
        }
    };
    if keys.enabled == Some(false) || cx.role != Role::Local {
        // The server takes datagrams in streams anyway.
        return None;
    }
    let written = entry.transport.as_ref();
    let asks_for_another = written.is_some_and(|written| written.udp_over.is_some());
    if asks_for_another && transport.is_some_and(|transport| transport.udp_inside) {
        cx.report.error_hint(
            &path,
            "`udp_over_tcp` and `udp_over` of the transport exclude each other",
            "keep `udp_over` if the server is `ssr`, and `udp_over_tcp` for other servers",
        );
    }
    if !mode.udp {
        cx.report
            .warn(&path, "no effect: `mode` is `tcp_only`, so there is no UDP");
    }
    Some(version)
}
