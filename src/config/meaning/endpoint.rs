//! An endpoint of a forward: its URL, and the options in the URL's query or in keys beside it.

use crate::wire::address::Address;
use crate::wire::http;

use super::context::{Context, EndpointRole, filled, key_at};
use super::endpoint_url::EndpointUrl;
use super::model::{Endpoint, EndpointWs, Scheme};
use super::{quic, tls, websocket};
use crate::config::written::file;
use crate::config::written::scalar::{Strings, UrlOr};

/// Every option: the role that it belongs to, if not both, and whether it needs TLS.
const OPTIONS: [(&str, Option<EndpointRole>, bool); 9] = [
    ("alpn", None, true),
    ("host", None, false),
    ("header", Some(EndpointRole::Target), false),
    ("server_name", Some(EndpointRole::Target), true),
    ("ca", Some(EndpointRole::Target), true),
    ("pin_sha256", Some(EndpointRole::Target), true),
    ("insecure", Some(EndpointRole::Target), true),
    ("cert", Some(EndpointRole::Listen), true),
    ("key", Some(EndpointRole::Listen), true),
];

/// Translates the endpoint at `at`; `None` after an error.
pub(super) fn endpoint(
    written: Option<&UrlOr<file::Endpoint>>,
    at: &str,
    role: EndpointRole,
    cx: &mut Context<'_>,
) -> Option<Endpoint> {
    let (url_at, text, keys) = match written {
        Some(UrlOr::Url(url)) => (at.to_owned(), Some(url), file::Endpoint::default()),
        Some(UrlOr::Object(keys)) => (key_at(at, "url"), keys.url.as_ref(), keys.clone()),
        None => (at.to_owned(), None, file::Endpoint::default()),
    };
    let Some(text) = text else {
        let message = match role {
            EndpointRole::Listen => "missing: the URL to listen on",
            EndpointRole::Target => "missing: the URL of the target",
        };
        cx.report
            .error_hint(&url_at, message, "for example `tcp://127.0.0.1:9090`");
        return None;
    };
    let url = match EndpointUrl::parse(text) {
        Ok(url) => url,
        Err(error) => {
            cx.report.error_hint(&url_at, error.message, error.hint);
            return None;
        }
    };
    if role == EndpointRole::Target && !is_reachable(&url.address, &url_at, cx) {
        return None;
    }
    let mut options = Options::new(at, url_at, keys);
    options.add_query(&url, cx)?;
    options.check(url.scheme, role, cx)?;
    let quic = (url.scheme == Scheme::Quic).then(|| {
        let alpn = options.alpn.as_deref();
        quic::endpoint(alpn, &options.path_of("alpn"), cx)
    });
    Some(Endpoint {
        scheme: url.scheme,
        quic,
        ws: match url.scheme.is_ws() || url.scheme.has_tls() {
            true => Some(Box::new(options.websocket(&url, role, cx))),
            false => None,
        },
        address: url.address,
    })
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let path = self.ws.as_ref().map_or("", |ws| ws.request.path.as_str());
        write!(f, "{}://{}{path}", self.scheme.name(), self.address)
    }
}

/// A target has a port, and an address that belongs to a host.
fn is_reachable(address: &Address, path: &str, cx: &mut Context<'_>) -> bool {
    match address {
        _ if address.port() == 0 => cx.report.error_hint(
            path,
            "port 0 cannot be connected to",
            "use a port from 1 to 65535",
        ),
        Address::Ip(ip) if ip.ip().is_unspecified() => cx.report.error_hint(
            path,
            format!("{} is an address to listen on, not to connect to", ip.ip()),
            "for this machine, use 127.0.0.1",
        ),
        _ => return true,
    }
    false
}

/// The options of an endpoint, merged from both places.
struct Options {
    host: Option<String>,
    alpn: Option<String>,
    headers: Vec<(String, String)>,
    tls: file::Tls,
    /// Every option that was given, and the path to blame for it.
    given: Vec<(&'static str, String)>,
    url_at: String,
    tls_at: String,
}

impl Options {
    /// The options in the keys beside the URL.
    fn new(at: &str, url_at: String, keys: file::Endpoint) -> Self {
        let tls_at = key_at(at, "tls");
        let tls = keys.tls.unwrap_or_default();
        let given = [
            ("host", at, keys.host.is_some()),
            ("alpn", at, keys.alpn.is_some()),
            ("header", at, keys.headers.is_some()),
            ("server_name", &tls_at, tls.server_name.is_some()),
            ("ca", &tls_at, tls.ca.is_some()),
            ("pin_sha256", &tls_at, tls.pin_sha256.is_some()),
            ("insecure", &tls_at, tls.insecure.is_some()),
            ("cert", &tls_at, tls.cert.is_some()),
            ("key", &tls_at, tls.key.is_some()),
        ]
        .into_iter()
        .filter(|(.., is_given)| *is_given)
        .map(|(name, at, _)| match name {
            "header" => (name, key_at(at, "headers")),
            _ => (name, key_at(at, name)),
        })
        .collect();
        Self {
            host: keys.host,
            alpn: keys.alpn,
            headers: keys
                .headers
                .into_iter()
                .flatten()
                .map(|(name, value)| (name, value.unwrap_or_default()))
                .collect(),
            tls,
            given,
            url_at,
            tls_at,
        }
    }

    /// Adds those in the URL. One that is unknown, malformed or given twice is an error.
    fn add_query(&mut self, url: &EndpointUrl, cx: &mut Context<'_>) -> Option<()> {
        for (name, value) in &url.options {
            let Some((name, ..)) = OPTIONS.iter().find(|(known, ..)| known == name) else {
                cx.report.error_hint(
                    &self.url_at,
                    format!("the URL has an unknown option `{name}`"),
                    "if the `?` belongs to the path, write it as `%3F`",
                );
                return None;
            };
            if *name != "header" && self.is_given(name) {
                let message = format!("`{name}` is given twice");
                cx.report.error_hint(&self.url_at, message, "remove one");
                return None;
            }
            self.given.push((name, self.url_at.clone()));
            self.set(name, value, cx)?;
        }
        Some(())
    }

    fn set(&mut self, name: &str, value: &str, cx: &mut Context<'_>) -> Option<()> {
        let tls = &mut self.tls;
        let text = Some(value.to_owned());
        match (name, value) {
            ("host", _) => self.host = text,
            ("alpn", _) => self.alpn = text,
            ("server_name", _) => tls.server_name = text,
            ("ca", _) => tls.ca = text,
            ("cert", _) => tls.cert = text,
            ("key", _) => tls.key = text,
            ("pin_sha256", _) => {
                tls.pin_sha256 = Some(Strings {
                    items: vec![value.to_owned()],
                    array: false,
                });
            }
            ("insecure", "" | "1" | "true") => tls.insecure = Some(true),
            ("insecure", "0" | "false") => tls.insecure = Some(false),
            ("header", _) if value.contains(':') => {
                let (name, value) = value.split_once(':').unwrap_or_default();
                self.headers
                    .push((name.trim().to_owned(), value.trim().to_owned()));
            }
            (_, _) => {
                let (message, hint) = match name {
                    "header" => (
                        "a `header` option is not `Name: value`",
                        "in a URL, write `header=X-Key:%20secret`",
                    ),
                    _ => ("`insecure` is neither on nor off", "use `1` or `0`"),
                };
                cx.report.error_hint(&self.url_at, message, hint);
                return None;
            }
        }
        Some(())
    }

    /// Refuses options that have no meaning for this scheme or role.
    fn check(&self, scheme: Scheme, role: EndpointRole, cx: &mut Context<'_>) -> Option<()> {
        for (name, path) in &self.given {
            let (_, only, needs_tls) = OPTIONS.iter().find(|(known, ..)| known == name)?;
            let fits = match needs_tls {
                true if *name == "alpn" => scheme == Scheme::Quic,
                true => scheme.has_tls(),
                false => scheme.is_ws(),
            };
            let (message, hint) = if !fits {
                (
                    format!("a `{}` URL has no option `{name}`", scheme.name()),
                    match scheme {
                        Scheme::Ws => "for TLS, use `wss`",
                        Scheme::Http => "for TLS, use `https`",
                        _ => "remove it",
                    },
                )
            } else if only.is_some_and(|only| only != role) {
                match role {
                    EndpointRole::Listen => (
                        format!("`{name}` has no effect where ssr listens"),
                        "a listener has `cert`, `key` and `host`",
                    ),
                    EndpointRole::Target => (
                        format!("`{name}` has no effect for a target"),
                        "a target has `server_name`, `ca`, `pin_sha256`, `insecure`, `host` and `header`",
                    ),
                }
            } else {
                continue;
            };
            cx.report.error_hint(path, message, hint);
            return None;
        }
        Some(())
    }

    fn websocket(self, url: &EndpointUrl, role: EndpointRole, cx: &mut Context<'_>) -> EndpointWs {
        let path_of = |key: &str| self.path_of(key);
        let request = http::Endpoint {
            path: filled(Some(&url.path)).unwrap_or_else(|| "/".to_owned()),
            host: self.host.clone().or_else(|| {
                let usual_port = url.scheme.default_port()?;
                (role == EndpointRole::Target).then(|| websocket::host_of(&url.address, usual_port))
            }),
            fields: self.headers.clone(),
        };
        websocket::check(&request, &path_of, cx);
        let tls =
            (url.scheme.has_tls()).then(|| tls::tls(&self.tls, role, &self.url_at, &path_of, cx));
        let ws = EndpointWs { request, tls };
        if let Some(tls) = &ws.tls {
            tls::try_files(tls, role, ws.server_name(), &path_of, cx);
        }
        ws
    }

    fn is_given(&self, name: &str) -> bool {
        self.given.iter().any(|(known, _)| *known == name)
    }

    /// The path to blame for an option, given or missing.
    fn path_of(&self, name: &str) -> String {
        let name = if name == "headers" { "header" } else { name };
        let given = self.given.iter().find(|(known, _)| *known == name);
        match given {
            Some((_, path)) => path.clone(),
            None if self.url_at.ends_with(".url") => key_at(&self.tls_at, name),
            None => self.url_at.clone(),
        }
    }
}
