//! `transport` of type `quic`.

use super::between::ProxyHop;
use super::context::{Context, EndpointRole, filled, key_at};
use super::model::Transport;
use crate::config::role::Role;
use crate::config::written::file;
use crate::net::quic::{Congestion, Settings};

/// The protocol that the TLS handshake names, where the config does not: that of HTTP/3.
const ALPN: &str = "h3";
/// Bytes of such a name (RFC 7301 §3.1).
const MAX_ALPN: usize = 255;
/// Said of keys that only QUIC has.
const ONLY_QUIC: &str = "no effect without `\"type\": \"quic\"`";

/// The settings of QUIC in the transport at `at`.
pub(super) fn quic(written: &file::Transport, at: &str, cx: &mut Context<'_>) -> Settings {
    let alpn = filled(written.alpn.as_deref()).unwrap_or_else(|| ALPN.to_owned());
    if alpn.len() > MAX_ALPN {
        let message = format!("longer than {MAX_ALPN} bytes");
        cx.report.error(&key_at(at, "alpn"), message);
    }
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
