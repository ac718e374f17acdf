//! The HTTP request that opens a WebSocket: its parts, and whether they can stand in one.

use crate::wire::address::Address;
use crate::wire::http::{self, Endpoint};

use super::context::Context;
use super::model::{EndpointWs, Transport, WebSocket};

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

impl Transport {
    /// The name that local expects in the certificate of the server at `address`.
    #[must_use]
    pub fn server_name(&self, address: &Address) -> String {
        let given = self.tls.as_ref().and_then(|tls| tls.server_name.clone());
        let host = || {
            let host = self.ws.as_ref()?.endpoint.host.as_deref()?;
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
