//! `transport` of type `quic`.

use std::time::Duration;

use super::between::ProxyHop;
use super::context::{Context, EndpointRole, filled, key_at};
use super::model::{Fallback, Mode, Transport};
use super::websocket;
use crate::config::role::Role;
use crate::config::written::file;
use crate::config::written::scalar::NameOr;
use crate::net::quic::{Congestion, Settings};

/// The protocol that the TLS handshake names, where the config does not: that of HTTP/3.
const ALPN: &str = "h3";
/// Bytes of such a name (RFC 7301 §3.1).
const MAX_ALPN: usize = 255;
/// How long QUIC is not tried after it has lost, where the config does not say.
const RETRY: Duration = Duration::from_secs(300);
/// Said of keys that only QUIC has.
const ONLY_QUIC: &str = "no effect without `\"type\": \"quic\"`";

fn alpn(written: Option<&str>, at: &str, cx: &mut Context<'_>) -> String {
    let alpn = filled(written).unwrap_or_else(|| ALPN.to_owned());
    if alpn.len() > MAX_ALPN {
        cx.report.error(at, format!("longer than {MAX_ALPN} bytes"));
    }
    alpn
}

/// The settings of QUIC in an endpoint of a forward, whose `alpn` is at `at`.
pub(super) fn endpoint(written: Option<&str>, at: &str, cx: &mut Context<'_>) -> Settings {
    Settings {
        alpn: alpn(written, at, cx),
        congestion: Congestion::Bbr,
    }
}

/// The settings of QUIC in the transport at `at`.
pub(super) fn quic(written: &file::Transport, at: &str, cx: &mut Context<'_>) -> Settings {
    let alpn = alpn(written.alpn.as_deref(), &key_at(at, "alpn"), cx);
    let congestion = match written.congestion.as_deref() {
        None | Some("" | "bbr") => Congestion::Bbr,
        Some("cubic") => Congestion::Cubic,
        Some(other) => {
            let hint = "use `bbr`, which does not slow down at each loss, or `cubic`";
            cx.report
                .unknown(&key_at(at, "congestion"), "congestion control", other, hint);
            Congestion::Bbr
        }
    };
    Settings { alpn, congestion }
}

/// What is beside QUIC in the transport at `at`.
pub(super) fn fallback(
    written: &file::Transport,
    at: &str,
    cx: &mut Context<'_>,
) -> Option<Fallback> {
    let path = key_at(at, "fallback");
    let name = match &written.fallback {
        None => None,
        Some(NameOr::Name(name)) => Some(name.as_str()).filter(|name| !name.is_empty()),
        Some(NameOr::Object(_)) => {
            cx.report.error_hint(
                &path,
                "there is no site in front of QUIC",
                "remove it; `\"ws\"` or `\"tcp\"` is what `ssr local` uses on networks that block UDP",
            );
            None
        }
    };
    let retry_at = key_at(at, "fallback_retry");
    let retry = cx.seconds(&retry_at, written.fallback_retry);
    if name.is_none() && retry.is_some() {
        cx.report.warn(&retry_at, "no effect without `fallback`");
    }
    let ws = match name {
        Some("ws") => Some(websocket::websocket(written, at, cx)),
        _ => {
            websocket::warn_of_keys(written, at, cx);
            None
        }
    };
    if let Some(other) = name.filter(|name| !matches!(*name, "ws" | "tcp")) {
        let hint = "use `ws`, a WebSocket with the same certificate, or `tcp`";
        cx.report.unknown(&path, "fallback of QUIC", other, hint);
        return None;
    }
    let retry = retry.unwrap_or(RETRY);
    name.map(|_| Fallback { ws, retry })
}

/// Whether packets of UDP go in datagrams, and not in streams.
pub(super) fn udp_in_datagrams(written: &file::Transport, at: &str, cx: &mut Context<'_>) -> bool {
    match written.udp_over.as_deref() {
        None | Some("" | "quic") => true,
        Some("stream") => false,
        Some(other) => {
            let hint = "use `quic`, which is the default: datagrams in the QUIC connection, or `stream`: streams in it";
            cx.report
                .unknown(&key_at(at, "udp_over"), "value", other, hint);
            true
        }
    }
}

/// The TLS keys of QUIC: there is no QUIC without TLS.
pub(super) fn tls_keys(
    written: &file::Transport,
    role: EndpointRole,
    at: &str,
    cx: &mut Context<'_>,
) -> file::Tls {
    use crate::config::written::scalar::Switch;
    match &written.tls {
        Some(Switch::On(keys)) => (**keys).clone(),
        None if role == EndpointRole::Target => file::Tls::default(),
        _ => {
            cx.report.error_hint(
                &key_at(at, "tls"),
                "QUIC always has TLS",
                "write the keys of TLS: `\"tls\": {\"cert\": \"FILE\", \"key\": \"FILE\"}` on the server",
            );
            file::Tls::default()
        }
    }
}

/// Warns of keys that need QUIC.
pub(super) fn warn_of_keys(written: &file::Transport, at: &str, cx: &mut Context<'_>) {
    for (key, given) in [
        ("alpn", written.alpn.is_some()),
        ("congestion", written.congestion.is_some()),
        ("fallback_retry", written.fallback_retry.is_some()),
    ] {
        if given {
            cx.report.warn(&key_at(at, key), ONLY_QUIC);
        }
    }
}

/// Refuses proxies on the way to a server that is reached by QUIC.
pub(super) fn refuse_proxies(
    proxies: &[ProxyHop],
    transport: Option<&Transport>,
    cx: &mut Context<'_>,
) {
    let is_quic = transport.is_some_and(|layers| layers.quic.is_some());
    if let (Role::Local, true, [first, ..]) = (cx.role, is_quic, proxies) {
        cx.report.error_hint(
            &first.at,
            "a `quic` transport cannot go through a proxy: QUIC is UDP",
            "remove `outbound_proxy`, or use the transport `ws` or `tcp`",
        );
    }
}

/// Refuses a server whose `mode` leaves QUIC nothing to serve.
pub(super) fn refuse_mode(
    mode: Mode,
    transport: Option<&Transport>,
    at: &str,
    cx: &mut Context<'_>,
) {
    let is_quic = transport.is_some_and(|layers| layers.quic.is_some());
    if cx.role == Role::Server && is_quic && !mode.tcp {
        cx.report.error_hint(
            &key_at(at, "mode"),
            "`udp_only` is not possible with a `quic` transport",
            "use `tcp_and_udp`: both go in the QUIC connection, and no TCP port is opened",
        );
    }
}

/// Refuses what cannot be beside QUIC in the entry at `at`.
pub(super) fn refuse_beside(entry: &file::Server, at: &str, cx: &mut Context<'_>) {
    let asks_for_sessions = entry
        .multiplex
        .as_ref()
        .is_some_and(|keys| keys.enabled == Some(true));
    if asks_for_sessions {
        cx.report.error_hint(
            &key_at(at, "multiplex"),
            "`multiplex` and a `quic` transport exclude each other",
            "remove `multiplex`: QUIC has a stream for each request in one connection",
        );
    }
    if entry.warm_connections.is_some() {
        let message = "no effect with a `quic` transport: requests share one connection";
        cx.report.warn(&key_at(at, "warm_connections"), message);
    }
}
