//! WebSocket: its keys, and the HTTP request that opens it.

use crate::net::transport::Network;
use crate::wire::address::Address;
use crate::wire::http::{self, Endpoint};

use super::context::{Context, filled, key_at};
use super::model::{EndpointWs, Fallback, Transport, WebSocket};
use crate::config::written::file;
use crate::config::written::scalar::Number;

/// The most streams that a client may put into one WebSocket connection.
const MAX_MUX: u64 = 128;
/// Said of keys that only WebSocket has.
const ONLY_WS: &str = "no effect without `\"type\": \"ws\"`";

/// Reports each part of `endpoint` that cannot stand in the head of a request.
pub(super) fn check(endpoint: &Endpoint, path_of: &dyn Fn(&str) -> String, cx: &mut Context<'_>) {
    let alone = |path: &str, host: Option<&str>, fields: &[(String, String)]| Endpoint {
        path: path.to_owned(),
        host: host.map(str::to_owned),
        fields: fields.to_vec(),
    };
    for (key, part, message, hint) in [
        (
            "path",
            alone(&endpoint.path, None, &[]),
            "not a path of a URL",
            "begin it with `/`, and write a space as `%20`",
        ),
        (
            "host",
            alone("/", endpoint.host.as_deref(), &[]),
            "not a host name: it has control characters",
            "write `cdn.example.com` or `cdn.example.com:8443`",
        ),
        (
            "headers",
            alone("/", None, &endpoint.fields),
            "not HTTP header fields",
            "a name has letters, digits and `-`; a value is one line",
        ),
    ] {
        if http::request(&part, [0; http::NONCE_LEN]).is_none() {
            cx.report.error_hint(&path_of(key), message, hint);
        }
    }
}

/// The WebSocket of the transport at `at`.
pub(super) fn websocket(written: &file::Transport, at: &str, cx: &mut Context<'_>) -> WebSocket {
    let mux = match written.mux {
        None => false,
        Some(Number(mux)) if mux <= MAX_MUX => mux > 0,
        Some(Number(mux)) => {
            let message = format!("{mux} is out of range: use 0 to {MAX_MUX}");
            cx.report.error(&key_at(at, "mux"), message);
            false
        }
    };
    let fields = written.headers.clone().unwrap_or_default();
    let endpoint = Endpoint {
        path: written.path.clone().unwrap_or_else(|| "/".to_owned()),
        host: filled(written.host.as_deref()),
        fields: fields.into_iter().collect(),
    };
    check(&endpoint, &|key| key_at(at, key), cx);
    WebSocket {
        endpoint,
        mux,
        trusted_proxies: trusted_proxies(written, &key_at(at, "trusted_proxies"), cx),
    }
}

fn trusted_proxies(written: &file::Transport, path: &str, cx: &mut Context<'_>) -> Vec<Network> {
    let list = written.trusted_proxies.clone().unwrap_or_default();
    let mut networks = Vec::new();
    for (index, text) in list.items.iter().enumerate() {
        match text.parse() {
            Ok(network) => networks.push(network),
            Err(()) => cx.report.error_hint(
                &list.path_of(path, index),
                format!("`{text}` is not a network"),
                "write an IP address, or a network as `10.0.0.0/8`",
            ),
        }
    }
    networks
}

/// Warns of keys that need WebSocket.
pub(super) fn warn_of_keys(written: &file::Transport, at: &str, cx: &mut Context<'_>) {
    for (key, given) in [
        ("path", written.path.is_some()),
        ("host", written.host.is_some()),
        ("headers", written.headers.is_some()),
        ("mux", written.mux.is_some_and(|Number(mux)| mux > 0)),
        ("trusted_proxies", written.trusted_proxies.is_some()),
    ] {
        if given {
            cx.report.warn(&key_at(at, key), ONLY_WS);
        }
    }
}

impl Transport {
    /// The name that local expects in the certificate of the server at `address`.
    #[must_use]
    pub fn server_name(&self, address: &Address) -> String {
        let given = self.tls.as_ref().and_then(|tls| tls.server_name.clone());
        let host = || {
            let beside = || self.fallback.as_ref()?.ws.as_ref();
            let ws = self.ws.as_ref().or_else(beside)?;
            let host = ws.endpoint.host.as_deref()?;
            Some(without_port(host).to_owned())
        };
        given.or_else(host).unwrap_or_else(|| match address {
            Address::Ip(ip) => ip.ip().to_string(),
            Address::Domain(name, _) => name.to_string(),
        })
    }

    /// Its name for people: `tcp`, `tls`, `ws`, `wss` or `quic`.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        if self.quic.is_some() {
            return "quic";
        }
        match (self.ws.is_some(), self.tls.is_some()) {
            (false, false) => "tcp",
            (false, true) => "tls",
            (true, false) => "ws",
            (true, true) => "wss",
        }
    }
}

impl Fallback {
    /// Its name: `ws` or `tcp`.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self.ws {
            Some(_) => "ws",
            None => "tcp",
        }
    }
}

impl WebSocket {
    /// The request that local sends to the server at `address`.
    #[must_use]
    pub fn request_to(&self, address: &Address, tls: bool) -> Endpoint {
        let mut endpoint = self.endpoint.clone();
        let usual_port = if tls { 443 } else { 80 };
        endpoint
            .host
            .get_or_insert_with(|| host_of(address, usual_port));
        endpoint
    }
}

impl EndpointWs {
    /// The name that is expected in the target's certificate.
    #[must_use]
    pub fn server_name(&self) -> &str {
        let given = self.tls.as_ref().and_then(|tls| tls.server_name.as_deref());
        let host = self.request.host.as_deref().unwrap_or_default();
        given.unwrap_or_else(|| without_port(host))
    }
}

/// The `Host` of a request to `address`: without the port where it is `usual_port`.
pub(super) fn host_of(address: &Address, usual_port: u16) -> String {
    match address {
        _ if address.port() != usual_port => address.to_string(),
        Address::Domain(name, _) => name.to_string(),
        Address::Ip(ip) if ip.is_ipv6() => format!("[{}]", ip.ip()),
        Address::Ip(ip) => ip.ip().to_string(),
    }
}

/// A `Host` without brackets and port: the name in its certificate.
pub(super) fn without_port(host: &str) -> &str {
    let host = match host.rsplit_once(':') {
        Some((name, _)) if !name.contains(':') || name.ends_with(']') => name,
        _ => host,
    };
    host.trim_start_matches('[').trim_end_matches(']')
}
