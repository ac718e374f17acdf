//! `transport`: the layers between TCP and Shadowsocks. The older spelling, `plugin`, is in [`super::plugin`].

use super::context::{Context, EndpointRole, filled, key_at};
use super::model::{Site, Transport};
use super::{plugin, quic, site, tls, websocket};
use crate::config::role::Role;
use crate::config::written::file;
use crate::config::written::scalar::Switch;

/// The transport of the entry at `at`, by `transport` or `plugin`.
pub(super) fn transport(entry: &file::Server, at: &str, cx: &mut Context<'_>) -> Option<Transport> {
    let role = match cx.role {
        Role::Server => EndpointRole::Listen,
        Role::Local | Role::Forward => EndpointRole::Target,
    };
    let Some(written) = &entry.transport else {
        return plugin::plugin(entry, at, role, cx);
    };
    if filled(entry.plugin.as_deref()).is_some() {
        cx.report.error_hint(
            &key_at(at, "plugin"),
            "`plugin` and `transport` exclude each other",
            "keep `transport`: it can do everything that v2ray-plugin does; a program has a transport of its own",
        );
    }
    let at = key_at(at, "transport");
    let ws = match written.kind.as_deref() {
        Some("quic") => {
            return Some(over_quic(entry, written, (&at, role), cx));
        }
        Some("ws") => Some(websocket::websocket(written, &at, cx)),
        Some("tcp") | None => {
            websocket::warn_of_keys(written, &at, cx);
            None
        }
        Some(other) => {
            cx.report.unknown(
                &key_at(&at, "type"),
                "transport",
                other,
                "use `tcp`, `ws` or `quic`; for TLS over TCP, add the key `tls` to `tcp` or `ws`",
            );
            None
        }
    };
    quic::warn_of_keys(written, &at, cx);
    let tls_at = key_at(&at, "tls");
    let path_of = |key: &str| key_at(&tls_at, key);
    let tls = match &written.tls {
        None | Some(Switch::Off) => None,
        Some(Switch::On(keys)) => Some(tls::tls(keys, role, &tls_at, &path_of, cx)),
    };
    if let Some(tls) = &tls {
        let name = tls.server_name.as_deref().unwrap_or("localhost");
        tls::try_files(tls, role, name, &path_of, cx);
    }
    let transport = Transport {
        udp_inside: udp_over(written, &at, ws.is_some(), cx),
        udp_datagrams: false,
        site: site_of(written, &at, tls.is_some() || ws.is_some(), cx),
        tls,
        ws,
        quic: None,
        fallback: None,
    };
    (transport.tls.is_some() || transport.ws.is_some()).then_some(transport)
}

/// QUIC in the place of TCP.
fn over_quic(
    entry: &file::Server,
    written: &file::Transport,
    (at, role): (&str, EndpointRole),
    cx: &mut Context<'_>,
) -> Transport {
    quic::refuse_beside(entry, at.strip_suffix(".transport").unwrap_or_default(), cx);
    let tls_at = key_at(at, "tls");
    let path_of = |key: &str| key_at(&tls_at, key);
    let keys = quic::tls_keys(written, role, at, cx);
    let tls = tls::tls(&keys, role, &tls_at, &path_of, cx);
    let name = tls.server_name.as_deref().unwrap_or("localhost");
    tls::try_files(&tls, role, name, &path_of, cx);
    let fallback = quic::fallback(written, at, cx);
    Transport {
        tls: Some(tls),
        ws: None,
        quic: Some(quic::quic(written, at, cx)),
        fallback,
        udp_inside: true,
        udp_datagrams: quic::udp_in_datagrams(written, at, cx),
        site: None,
    }
}

fn site_of(
    written: &file::Transport,
    at: &str,
    has_layer: bool,
    cx: &mut Context<'_>,
) -> Option<Site> {
    let path = key_at(at, "fallback");
    let site = site::fallback(written.fallback.as_ref(), &path, cx);
    if site.is_some() && !has_layer {
        cx.report.error_hint(
            &path,
            "without TLS or WebSocket, there is no web server to be taken for",
            "add `\"type\": \"ws\"` or `tls` to the transport",
        );
    }
    site
}

fn udp_over(written: &file::Transport, at: &str, ws: bool, cx: &mut Context<'_>) -> bool {
    let path = key_at(at, "udp_over");
    match written.udp_over.as_deref() {
        None | Some("udp" | "") => false,
        Some("ws") if ws => true,
        Some("ws") => {
            cx.report.error_hint(
                &path,
                "`ws` needs a WebSocket transport, and `type` is not `ws`",
                "set `\"type\": \"ws\"`, or use `udp`",
            );
            false
        }
        Some(other) => {
            cx.report.unknown(
                &path,
                "value",
                other,
                "use `ws` to send datagrams through the WebSocket, or `udp` to send them directly to the same port",
            );
            false
        }
    }
}
