//! `multiplex`: whether `ssr local` opens its streams in sessions, as sing-box and mihomo do.

use serde_json::Value;

use super::between::Multiplex;
use super::context::{Context, key_at};
use super::model::{Mode, Transport};
use crate::config::role::Role;
use crate::config::written::file;
use crate::config::written::scalar::Number;
use crate::config::written::schema::is_blank;
use crate::limits::{MAX_MULTIPLEX_SESSIONS, MAX_MULTIPLEX_STREAMS};
use crate::outbound::multiplex::Sharing;
use crate::wire::multiplex::{Head, Protocol};

/// Streams of a session before another one is opened, where the config has no numbers.
const STREAMS: usize = 8;

/// What the entry at `at` asks for; `None`: nothing, or the role is not the one that opens streams.
pub(super) fn multiplex(
    entry: &file::Server,
    at: &str,
    transport: Option<&Transport>,
    mode: Mode,
    cx: &mut Context<'_>,
) -> Option<Multiplex> {
    let path = key_at(at, "multiplex");
    let keys = entry.multiplex.as_ref()?;
    if keys.brutal.as_ref().is_some_and(is_wanted) {
        cx.report.error_hint(
            &key_at(&path, "brutal"),
            "TCP Brutal is not supported",
            "remove `brutal`; for TCP on lossy lines, let the system use BBR",
        );
    }
    let sharing = sharing(keys, &path, cx);
    let protocol = match keys.protocol.as_deref() {
        None | Some("") => Some(Protocol::H2),
        Some(name) => Protocol::named(name),
    };
    let Some(protocol) = protocol else {
        let message = "an unknown protocol: use `h2mux`, `smux` or `yamux`";
        cx.report.error(&key_at(&path, "protocol"), message);
        return None;
    };
    if keys.enabled != Some(true) || cx.role != Role::Local {
        // The server takes sessions anyway.
        return None;
    }
    if mode.udp && entry.udp_over_tcp.is_some() {
        cx.report.error_hint(
            &path,
            "`multiplex` and `udp_over_tcp` exclude each other",
            "remove `udp_over_tcp`: UDP goes in the sessions of `multiplex`",
        );
    }
    if transport.is_some_and(|transport| transport.udp_inside) {
        cx.report.error_hint(
            &path,
            "`multiplex` and `\"udp_over\": \"ws\"` exclude each other",
            "remove `udp_over`: UDP goes in the sessions of `multiplex`",
        );
    }
    if entry.warm_connections.is_some() {
        let path = key_at(at, "warm_connections");
        let message = "no effect with `multiplex`: requests share sessions";
        cx.report.warn(&path, message);
    }
    Some(Multiplex {
        head: Head {
            protocol,
            padding: keys.padding.unwrap_or(false),
        },
        sharing,
    })
}

/// When another session is opened.
fn sharing(keys: &file::Multiplex, path: &str, cx: &mut Context<'_>) -> Sharing {
    let mut number = |key: &str, value: Option<Number<u64>>, most: usize| {
        let written = value.map_or(0, |Number(number)| number);
        let number = usize::try_from(written).unwrap_or(usize::MAX);
        if number > most {
            let message = format!("{written} is out of range: use 0 to {most}");
            cx.report.error(&key_at(path, key), message);
        }
        number
    };
    let max = number(
        "max_connections",
        keys.max_connections,
        MAX_MULTIPLEX_SESSIONS,
    );
    let min_streams = number("min_streams", keys.min_streams, MAX_MULTIPLEX_STREAMS);
    let max_streams = number("max_streams", keys.max_streams, MAX_MULTIPLEX_STREAMS);
    match (max, min_streams, max_streams) {
        (0, 0, 0) => Sharing::Streams(STREAMS),
        (0, 0, most) => Sharing::Streams(most),
        (0, streams, 0) => Sharing::Connections {
            max: MAX_MULTIPLEX_SESSIONS,
            min_streams: streams,
        },
        (max, min_streams, 0) => Sharing::Connections { max, min_streams },
        _ => {
            cx.report.error_hint(
                &key_at(path, "max_streams"),
                "it excludes `max_connections` and `min_streams`",
                "keep `max_connections` to limit sessions, or `max_streams` to limit the streams of each",
            );
            Sharing::Streams(STREAMS)
        }
    }
}

/// Whether the value of `brutal` asks for it.
fn is_wanted(brutal: &Value) -> bool {
    match brutal.get("enabled") {
        Some(enabled) => !is_blank(enabled),
        None => !brutal.is_object() && !is_blank(brutal),
    }
}
