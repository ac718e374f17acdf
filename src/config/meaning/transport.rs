//! `transport`: what stands between TCP and Shadowsocks. The old spelling of the same is in [`super::plugin`].

use std::path::PathBuf;

use crate::crypto::base64;
use crate::net::tls::{self, Pem, Trust};
use crate::net::transport::Network;
use crate::wire::address::Address;
use crate::wire::http::{self, Endpoint};

use super::context::key_at;
use super::model::{Tls, Transport, WebSocket};
use super::servers::Build;
use crate::config::role::Role;
use crate::config::written::file;
use crate::config::written::scalar::{Number, Switch};

/// The most streams that a client puts into one WebSocket connection.
const MAX_MUX: u64 = 128;
/// Keys of `transport` that say something of WebSocket only.
const OF_WS: &str = "no effect without `\"type\": \"ws\"`";

impl Build<'_, '_> {
    /// What `transport` says, or `plugin`.
    pub(super) fn transport(&mut self) -> Option<Transport> {
        let plugin = self.entry.plugin.as_deref().unwrap_or_default();
        let Some(written) = &self.entry.transport else {
            return self.plugin();
        };
        if !plugin.is_empty() {
            let path = self.key("plugin");
            self.cx.report.error_hint(
                &path,
                "a plugin beside `transport`",
                "keep one of them: `transport` says all that v2ray-plugin can",
            );
        }
        let at = self.key("transport");
        let ws = match written.kind.as_deref() {
            Some("ws") => Some(self.websocket(written, &at)),
            Some("tcp") | None => {
                self.unused(written, &at);
                None
            }
            Some(other) => {
                let message = format!("`{other}` is no transport");
                let hint = "it is `tcp` or `ws`; TLS is a key of its own beside either";
                let path = key_at(&at, "type");
                self.cx.report.error_hint(&path, message, hint);
                None
            }
        };
        let tls = match &written.tls {
            None | Some(Switch::Off) => None,
            Some(Switch::On(tls)) => Some(self.tls(tls, &at)),
        };
        let transport = Transport {
            udp_inside: self.udp_over(written, &at, ws.is_some()),
            tls,
            ws,
        };
        self.files(&transport);
        (transport.tls.is_some() || transport.ws.is_some()).then_some(transport)
    }

    fn udp_over(&mut self, written: &file::Transport, at: &str, ws: bool) -> bool {
        let path = key_at(at, "udp_over");
        match written.udp_over.as_deref() {
            None | Some("udp" | "") => false,
            Some("ws") if ws => true,
            Some("ws") => {
                self.cx.report.error(
                    &path,
                    "there is no WebSocket to go over: `type` is not `ws`",
                );
                false
            }
            Some(other) => {
                let message = format!("`{other}` is no way for datagrams");
                let hint =
                    "it is `ws` (inside the transport) or `udp` (beside it, to the same port)";
                self.cx.report.error_hint(&path, message, hint);
                false
            }
        }
    }

    fn unused(&mut self, written: &file::Transport, at: &str) {
        for (key, given) in [
            ("path", written.path.is_some()),
            ("host", written.host.is_some()),
            ("headers", written.headers.is_some()),
            ("mux", written.mux.is_some_and(|Number(mux)| mux > 0)),
            ("trusted_proxies", written.trusted_proxies.is_some()),
        ] {
            if given {
                self.cx.report.warn(&key_at(at, key), OF_WS);
            }
        }
    }

    fn websocket(&mut self, written: &file::Transport, at: &str) -> WebSocket {
        let path = written.path.clone().unwrap_or_else(|| "/".to_owned());
        let fields: Vec<(String, String)> = written
            .headers
            .iter()
            .flatten()
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        let host = written.host.clone().filter(|host| !host.is_empty());
        let mux = match written.mux {
            Some(Number(mux)) if mux <= MAX_MUX => mux > 0,
            None => false,
            Some(_) => {
                let message = format!("out of range: from 0 to {MAX_MUX}");
                self.cx.report.error(&key_at(at, "mux"), message);
                false
            }
        };
        let endpoint = Endpoint { path, host, fields };
        self.sound(&endpoint, at);
        WebSocket {
            endpoint,
            mux,
            trusted_proxies: self.trusted_proxies(written, at),
        }
    }

    /// Complains of what cannot stand in the head of a request.
    pub(super) fn sound(&mut self, endpoint: &Endpoint, at: &str) {
        let alone = |path: &str, host: Option<&str>| Endpoint {
            path: path.to_owned(),
            host: host.map(str::to_owned),
            fields: Vec::new(),
        };
        let fits = |endpoint: &Endpoint| http::request(endpoint, [0; http::NONCE_LEN]).is_some();
        for (key, good, message) in [
            (
                "path",
                fits(&alone(&endpoint.path, None)),
                "not a path: it begins with `/` and has no spaces",
            ),
            (
                "host",
                fits(&alone("/", endpoint.host.as_deref())),
                "not a host: it stands in a line of HTTP",
            ),
            (
                "headers",
                fits(&Endpoint {
                    fields: endpoint.fields.clone(),
                    ..alone("/", None)
                }),
                "not header fields of HTTP: names are tokens, values have one line",
            ),
        ] {
            if !good {
                self.cx.report.error(&key_at(at, key), message);
            }
        }
    }

    fn trusted_proxies(&mut self, written: &file::Transport, at: &str) -> Vec<Network> {
        let list = written.trusted_proxies.clone().unwrap_or_default();
        let path = key_at(at, "trusted_proxies");
        let mut networks = Vec::new();
        for (index, text) in list.items.iter().enumerate() {
            match text.parse() {
                Ok(network) => networks.push(network),
                Err(()) => self.cx.report.error(
                    &format!("{path}[{index}]"),
                    "not a network: an IP address, or one with the length of a prefix as in `10.0.0.0/8`",
                ),
            }
        }
        networks
    }

    fn tls(&mut self, written: &file::Tls, at: &str) -> Tls {
        let at = key_at(at, "tls");
        let filled = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let pem = |text: &Option<String>| filled(text).map(|file| Pem::File(PathBuf::from(file)));
        let identity = match (pem(&written.cert), pem(&written.key)) {
            (Some(cert), Some(key)) => Some((cert, key)),
            (cert, key) => {
                if self.cx.role == Role::Server {
                    self.lacking(&at, cert.is_none(), key.is_none());
                }
                None
            }
        };
        let insecure = written.insecure == Some(true);
        if insecure && self.cx.role == Role::Local {
            self.cx.report.warn_hint(
                &key_at(&at, "insecure"),
                "whoever answers is taken for the server",
                "`pin_sha256` or `ca` trusts yours alone",
            );
        }
        let trust = Trust {
            ca: pem(&written.ca),
            pins: self.pins(written, &at),
            insecure,
        };
        Tls {
            at,
            server_name: filled(&written.server_name),
            trust,
            identity,
        }
    }

    /// Complains of a server without certificate or key.
    pub(super) fn lacking(&mut self, at: &str, cert: bool, key: bool) {
        let role_hint = "`openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout key.pem -out cert.pem -days 3650 -subj /CN=NAME -addext subjectAltName=DNS:NAME` makes both, for a client with `pin_sha256` or `ca`";
        for (lacks, name, what) in [
            (
                cert,
                "cert",
                "the PEM file with the server's chain of certificates",
            ),
            (
                key,
                "key",
                "the PEM file with the certificate's private key",
            ),
        ] {
            if lacks {
                let path = key_at(at, name);
                let message = format!("missing: a server with TLS needs `{name}`, {what}");
                self.cx.report.error_hint(&path, message, role_hint);
            }
        }
    }

    fn pins(&mut self, written: &file::Tls, at: &str) -> Vec<[u8; 32]> {
        let list = written.pin_sha256.clone().unwrap_or_default();
        let path = key_at(at, "pin_sha256");
        let mut pins = Vec::new();
        for (index, text) in list.items.iter().enumerate() {
            let at = match list.array {
                true => format!("{path}[{index}]"),
                false => path.clone(),
            };
            match pin(text) {
                Some(pin) => pins.push(pin),
                None => self.cx.report.error_hint(
                    &at,
                    "not the SHA-256 of a public key: 32 bytes in base64 or hex",
                    "`openssl x509 -in cert.pem -noout -pubkey | openssl pkey -pubin -outform der | openssl dgst -sha256 -binary | base64`",
                ),
            }
        }
        pins
    }

    /// Reads the files that TLS names, as the services will.
    pub(super) fn files(&mut self, transport: &Transport) {
        let (true, Some(tls)) = (self.cx.files, &transport.tls) else {
            return;
        };
        let tried = match (self.cx.role, &tls.identity) {
            (Role::Server, Some((cert, key))) => {
                tls::Server::new(cert.clone(), key.clone()).map(drop)
            }
            (Role::Server, None) => Ok(()),
            (Role::Local | Role::Forward, _) => {
                let name = tls.server_name.as_deref().unwrap_or("localhost");
                tls::Client::new(name, &tls.trust).map(drop)
            }
        };
        if let Err(error) = tried {
            let path = match tls.at.ends_with("plugin_opts") {
                true => tls.at.clone(),
                false => key_at(&tls.at, error.key()),
            };
            self.cx.report.error(&path, error.to_string());
        }
    }
}

impl Transport {
    /// The name that a client asks the server of `address` for by TLS.
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

    /// The name of it, for people: `tcp`, `tls`, `ws`, `wss`.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match (self.ws.is_some(), self.tls.is_some()) {
            (false, false) => "tcp",
            (false, true) => "tls",
            (true, false) => "ws",
            (true, true) => "wss",
        }
    }
}

impl WebSocket {
    /// What a client asks the server of `address` for.
    #[must_use]
    pub fn request_to(&self, address: &Address, tls: bool) -> Endpoint {
        let mut endpoint = self.endpoint.clone();
        if endpoint.host.is_none() {
            let usual = if tls { 443 } else { 80 };
            endpoint.host = Some(match address {
                Address::Ip(ip) if ip.port() != usual => ip.to_string(),
                Address::Ip(ip) if ip.is_ipv6() => format!("[{}]", ip.ip()),
                Address::Ip(ip) => ip.ip().to_string(),
                Address::Domain(name, port) if *port != usual => format!("{name}:{port}"),
                Address::Domain(name, _) => name.to_string(),
            });
        }
        endpoint
    }
}

/// 32 bytes in hex, or in base64 as curl takes them (`sha256//…`).
pub(super) fn pin(text: &str) -> Option<[u8; 32]> {
    let text = text.trim();
    let text = text.strip_prefix("sha256//").unwrap_or(text);
    let hex = text.replace(':', "");
    if hex.len() == 64 {
        let mut pin = [0; 32];
        for (index, byte) in pin.iter_mut().enumerate() {
            *byte = u8::from_str_radix(hex.get(2 * index..2 * index + 2)?, 16).ok()?;
        }
        return Some(pin);
    }
    base64::decode(text)?.as_slice().try_into().ok()
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((bare, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => {
            bare.trim_start_matches('[').trim_end_matches(']')
        }
        _ => host,
    }
}
