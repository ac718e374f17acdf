//! What a `ws://` or `wss://` side of a forward says beyond its address: in the URL's query, or in keys beside it.

use std::path::PathBuf;

use crate::net::tls::{Pem, Trust};
use crate::wire::address::Address;
use crate::wire::http;

use super::context::{Context, EndpointRole, key_at};
use super::endpoint::EndpointUrl;
use super::model::{EndpointTls, EndpointWs, Scheme};
use super::transport::pin;
use crate::config::written::file;

/// What stands at `at`: the URL, taken apart, and the keys beside it.
pub(super) struct Written<'a> {
    pub(super) at: &'a str,
    /// The path of the URL itself.
    pub(super) url_at: &'a str,
    pub(super) url: &'a EndpointUrl,
    pub(super) keys: &'a file::Endpoint,
}

/// An option, wherever it stood.
struct Given {
    name: &'static str,
    value: String,
    /// The path to blame.
    at: String,
}

/// Every option, and on which end and in which schemes it means something.
const OPTIONS: [(&str, Option<EndpointRole>, bool); 8] = [
    ("host", None, false),
    ("header", Some(EndpointRole::Target), false),
    ("server_name", Some(EndpointRole::Target), true),
    ("ca", Some(EndpointRole::Target), true),
    ("pin_sha256", Some(EndpointRole::Target), true),
    ("insecure", Some(EndpointRole::Target), true),
    ("cert", Some(EndpointRole::Listen), true),
    ("key", Some(EndpointRole::Listen), true),
];

impl Written<'_> {
    /// Judges the options; `None` after an error.
    pub(super) fn websocket(&self, end: EndpointRole, cx: &mut Context<'_>) -> Option<EndpointWs> {
        let given = self.given(cx)?;
        for option in &given {
            self.fits(option, end, cx)?;
        }
        let one = |name: &str| {
            let mut all = given.iter().filter(|option| option.name == name);
            all.next().map(|option| option.value.clone())
        };
        let mut fields = Vec::new();
        for option in given.iter().filter(|option| option.name == "header") {
            fields.push(field(option, cx)?);
        }
        let host =
            one("host").or_else(|| (end == EndpointRole::Target).then(|| self.default_host()));
        let tls = match (self.url.scheme, end) {
            (Scheme::Wss, EndpointRole::Listen) => Some(EndpointTls::Server {
                cert: self.file(one("cert"), "cert", cx)?,
                key: self.file(one("key"), "key", cx)?,
            }),
            (Scheme::Wss, EndpointRole::Target) => Some(EndpointTls::Client {
                name: one("server_name").unwrap_or_else(|| bare(host.as_deref()).to_owned()),
                trust: trust(&given, cx)?,
            }),
            _ => None,
        };
        let path = match self.url.path.as_str() {
            "" => "/".to_owned(),
            path => path.to_owned(),
        };
        let request = http::Endpoint { path, host, fields };
        Some(EndpointWs { request, tls })
    }

    /// All options of both places. One that stands in both, or is unknown, is an error.
    fn given(&self, cx: &mut Context<'_>) -> Option<Vec<Given>> {
        let mut given = self.keys_given();
        for (name, value) in &self.url.options {
            let Some((name, ..)) = OPTIONS.iter().find(|(known, ..)| known == name) else {
                cx.report.error_hint(
                    self.url_at,
                    format!("the URL has an unknown option `{name}`"),
                    "a `?` that belongs to the path is written as `%3F`",
                );
                return None;
            };
            if *name != "header" && given.iter().any(|other| other.name == *name) {
                cx.report
                    .error(self.url_at, format!("`{name}` is given twice"));
                return None;
            }
            given.push(Given {
                name,
                value: value.clone(),
                at: self.url_at.to_owned(),
            });
        }
        Some(given)
    }

    fn keys_given(&self) -> Vec<Given> {
        let keys = self.keys;
        let none = file::ForwardTls::default();
        let tls = keys.tls.as_ref().unwrap_or(&none);
        let tls_at = key_at(self.at, "tls");
        let insecure = tls.insecure.map(|insecure| insecure.to_string());
        let all = [
            ("host", self.at, keys.host.as_ref()),
            ("server_name", tls_at.as_str(), tls.server_name.as_ref()),
            ("ca", tls_at.as_str(), tls.ca.as_ref()),
            ("pin_sha256", tls_at.as_str(), tls.pin_sha256.as_ref()),
            ("insecure", tls_at.as_str(), insecure.as_ref()),
            ("cert", tls_at.as_str(), tls.cert.as_ref()),
            ("key", tls_at.as_str(), tls.key.as_ref()),
        ];
        let headers = keys.headers.iter().flatten().map(|(name, value)| Given {
            name: "header",
            value: format!("{name}: {}", value.as_deref().unwrap_or_default()),
            at: key_at(&key_at(self.at, "headers"), name),
        });
        all.into_iter()
            .filter_map(|(name, at, value)| {
                Some(Given {
                    name,
                    value: value?.clone(),
                    at: key_at(at, name),
                })
            })
            .chain(headers)
            .collect()
    }

    /// Whether an option means something here.
    fn fits(&self, option: &Given, end: EndpointRole, cx: &mut Context<'_>) -> Option<()> {
        let (_, only, needs_tls) = OPTIONS.iter().find(|(name, ..)| *name == option.name)?;
        let (name, scheme) = (option.name, self.url.scheme);
        if !scheme.is_ws() || *needs_tls && scheme != Scheme::Wss {
            let message = format!("a `{}` URL has no option `{name}`", scheme.name());
            let hint = if scheme.is_ws() {
                "with TLS it is `wss`"
            } else {
                "leave it out"
            };
            cx.report.error_hint(&option.at, message, hint);
            return None;
        }
        if only.is_some_and(|only| only != end) {
            let (message, hint) = match end {
                EndpointRole::Listen => (
                    format!("`{name}` has no meaning where ssr listens"),
                    "`cert`, `key` and `host` have one there",
                ),
                EndpointRole::Target => (
                    format!("`{name}` has no meaning towards a target"),
                    "`server_name`, `ca`, `pin_sha256`, `insecure`, `host` and `header` have one there",
                ),
            };
            cx.report.error_hint(&option.at, message, hint);
            return None;
        }
        Some(())
    }

    fn file(&self, value: Option<String>, name: &str, cx: &mut Context<'_>) -> Option<Pem> {
        let file = value.filter(|value| !value.is_empty()).map(pem);
        if file.is_none() {
            cx.report.error_hint(
                self.url_at,
                format!("missing: `{name}`, without which nobody can connect by TLS"),
                format!("`?cert=FILE&key=FILE` in the URL, or `\"tls\": {{\"{name}\": …}}`"),
            );
        }
        file
    }

    /// The host of the URL, with the port where it is not the scheme's.
    fn default_host(&self) -> String {
        let url = self.url;
        let whole = url.address.to_string();
        if url.scheme.default_port() != Some(url.address.port()) {
            return whole;
        }
        match &url.address {
            Address::Domain(name, _) => name.to_string(),
            Address::Ip(ip) if ip.is_ipv6() => format!("[{}]", ip.ip()),
            Address::Ip(ip) => ip.ip().to_string(),
        }
    }
}

/// A host without brackets and port: what a certificate is for.
fn bare(host: Option<&str>) -> &str {
    let host = host.unwrap_or_default();
    let host = match host.rsplit_once(':') {
        Some((name, _)) if !name.contains(':') || name.ends_with(']') => name,
        _ => host,
    };
    host.trim_start_matches('[').trim_end_matches(']')
}

/// `Name: value`.
fn field(option: &Given, cx: &mut Context<'_>) -> Option<(String, String)> {
    let field = option
        .value
        .split_once(':')
        .map(|(name, value)| (name.trim(), value.trim()));
    let is_clean = |text: &str| !text.bytes().any(|byte| byte.is_ascii_control());
    match field {
        Some((name, value)) if is_token(name) && is_clean(value) => {
            Some((name.to_owned(), value.to_owned()))
        }
        _ => {
            cx.report.error_hint(
                &option.at,
                "a header is neither `Name: value` nor could stand in a request",
                "in a URL: `header=X-Key:%20secret`",
            );
            None
        }
    }
}

/// Whether it can be the name of a field (RFC 9110 §5.6.2).
fn is_token(name: &str) -> bool {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !name.is_empty() && name.bytes().all(is_token)
}

fn pem(file: String) -> Pem {
    Pem::File(PathBuf::from(file))
}

/// Whom a client believes.
fn trust(given: &[Given], cx: &mut Context<'_>) -> Option<Trust> {
    let find = |name: &str| given.iter().find(|option| option.name == name);
    Some(Trust {
        ca: find("ca").map(|option| pem(option.value.clone())),
        pins: match find("pin_sha256") {
            Some(option) => pins(option, cx)?,
            None => Vec::new(),
        },
        insecure: match find("insecure") {
            Some(option) => switch(option, cx)?,
            None => false,
        },
    })
}

/// SHA-256 of public keys: base64 or hex digits, separated by commas.
fn pins(option: &Given, cx: &mut Context<'_>) -> Option<Vec<[u8; 32]>> {
    let pins: Option<Vec<[u8; 32]>> = option.value.split(',').map(pin).collect();
    if pins.is_none() {
        cx.report.error_hint(
            &option.at,
            "`pin_sha256` is not the SHA-256 of a public key",
            "32 bytes in base64 or as 64 hex digits; several are separated by commas",
        );
    }
    pins
}

fn switch(option: &Given, cx: &mut Context<'_>) -> Option<bool> {
    match option.value.as_str() {
        "" | "1" | "true" => Some(true),
        "0" | "false" => Some(false),
        _ => {
            let message = format!("`{}` is on or off", option.name);
            cx.report.error_hint(&option.at, message, "`1` or `0`");
            None
        }
    }
}
