//! HTTP/1.1 as a forward proxy speaks it (RFC 9110, RFC 9112): heads are read and rewritten, bodies pass unchanged.
//!
//! ```text
//! CONNECT host:port HTTP/1.1          -> a tunnel
//! GET http://host/path HTTP/1.1       -> GET /path HTTP/1.1, Host: host
//! ```
//!
//! What a proxy and a server could read differently is refused: two lengths, a length beside a transfer coding, an unknown
//! transfer coding, a folded header line. Hop-by-hop fields end here, those that `Connection` names too.

mod body;
mod error;
mod fields;

pub use body::Body;
pub use error::Error;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use httparse::{EMPTY_HEADER, Header, Status};

use super::Address;
use fields::{Fields, is_hop_by_hop, write_field};

/// Maximum length of a head, in bytes.
pub const MAX_HEAD: usize = 64 * 1024;
/// Maximum number of header lines.
const MAX_FIELDS: usize = 128;

/// The answer to CONNECT when the target has been reached.
pub const CONNECTED: &[u8] = b"HTTP/1.1 200 Connection established\r\n\r\n";

/// What a request asks the proxy for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A tunnel to the target (RFC 9110 §9.3.6).
    Connect,
    /// A message to forward.
    Forward(Forward),
}

/// A message to forward.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forward {
    /// The rewritten head.
    pub head: Vec<u8>,
    /// Where the request's body ends.
    pub body: Body,
    /// The request is HEAD: its response has no body.
    pub is_head: bool,
    /// The request asks for another protocol.
    pub upgrades: bool,
    /// The client's connection may be used for another request.
    pub persists: bool,
    /// The client speaks HTTP/1.1, so its response may be chunked.
    pub is_modern: bool,
}

impl Forward {
    /// Whether the request may be made twice (RFC 9110 §9.2.2). To be asked before its head is taken.
    #[must_use]
    pub fn is_idempotent(&self) -> bool {
        let method = self.head.split(|byte| *byte == b' ').next();
        let idempotent = [
            &b"GET"[..],
            b"HEAD",
            b"OPTIONS",
            b"TRACE",
            b"PUT",
            b"DELETE",
        ];
        method.is_some_and(|method| idempotent.contains(&method))
    }
}

/// A request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Where it goes.
    pub target: Address,
    /// What is asked for.
    pub kind: Kind,
    /// User name and password of `Proxy-Authorization: Basic` (RFC 7617), separated by a colon.
    pub credentials: Option<Vec<u8>>,
}

impl Request {
    /// Reads a request's head and returns it with the head's length; `None` if more bytes are needed.
    ///
    /// # Errors
    /// What is wrong with it, to be answered with [`response`].
    pub fn parse(bytes: &[u8]) -> Result<Option<(Self, usize)>, Error> {
        let mut headers = [EMPTY_HEADER; MAX_FIELDS];
        let mut request = httparse::Request::new(&mut headers);
        let Some(len) = complete(request.parse(head_of(bytes)), bytes)? else {
            return Ok(None);
        };
        let (Some(method), Some(target), Some(version)) =
            (request.method, request.path, request.version)
        else {
            return Err(Error::Malformed);
        };
        let fields = Fields(request.headers);
        let credentials = credentials(&fields);
        if method == "CONNECT" {
            let target = authority(target, None)?;
            let kind = Kind::Connect;
            return Ok(Some((
                Self {
                    target,
                    kind,
                    credentials,
                },
                len,
            )));
        }
        let (scheme, rest) = target.split_once("://").ok_or(Error::NotForProxy)?;
        if !scheme.eq_ignore_ascii_case("http") {
            return Err(Error::NotForProxy);
        }
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (host, path) = rest.split_at_checked(end).ok_or(Error::Malformed)?;
        let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
        let upgrades = version == 1
            && fields.has_token("connection", "upgrade")
            && fields.all("upgrade").next().is_some();
        let body = Body::of_request(&fields, version)?;
        let forward = Forward {
            head: rewritten(&fields, (method, path, host, version), upgrades),
            body,
            is_head: method == "HEAD",
            upgrades,
            persists: fields.persists(version),
            is_modern: version == 1,
        };
        let target = authority(host, Some(80))?;
        Ok(Some((
            Self {
                target,
                kind: Kind::Forward(forward),
                credentials,
            },
            len,
        )))
    }
}

/// A response's head, as it goes to the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The rewritten head.
    pub head: Vec<u8>,
    /// Its status.
    pub status: u16,
    /// Where the response's body ends.
    pub body: Body,
    /// The server's connection may be used for another request.
    pub persists: bool,
}

impl Response {
    /// Reads the head of a response to `request` and returns it with the head's length; `None` if more bytes are needed.
    /// `is_last`: the client's connection ends after it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(
        bytes: &[u8],
        request: &Forward,
        is_last: bool,
    ) -> Result<Option<(Self, usize)>, Error> {
        let mut headers = [EMPTY_HEADER; MAX_FIELDS];
        let mut response = httparse::Response::new(&mut headers);
        let Some(len) = complete(response.parse(head_of(bytes)), bytes)? else {
            return Ok(None);
        };
        let (Some(status), Some(version)) = (response.code, response.version) else {
            return Err(Error::Malformed);
        };
        let fields = Fields(response.headers);
        let switches = status == 101;
        let body =
            if (100..200).contains(&status) || status == 204 || status == 304 || request.is_head {
                Body::Empty
            } else {
                Body::of_response(&fields, version)?
            };
        let mut head = format!(
            "HTTP/1.1 {status} {}\r\n",
            response.reason.unwrap_or_default()
        )
        .into_bytes();
        for field in fields.0 {
            let passes = !is_hop_by_hop(field, &fields)
                || (switches && field.name.eq_ignore_ascii_case("upgrade"))
                // The chunks go on as they are.
                || field.name.eq_ignore_ascii_case("transfer-encoding");
            if passes {
                write_field(&mut head, field.name, field.value);
            }
        }
        if switches {
            write_field(&mut head, "Connection", b"Upgrade");
        } else if status >= 200 && (is_last || body == Body::UntilEnd) {
            write_field(&mut head, "Connection", b"close");
        } else if status >= 200 && !request.is_modern {
            write_field(&mut head, "Connection", b"keep-alive");
        }
        head.extend_from_slice(b"\r\n");
        let persists = fields.persists(version) && body != Body::UntilEnd;
        Ok(Some((
            Self {
                head,
                status,
                body,
                persists,
            },
            len,
        )))
    }
}

/// A whole response of the proxy's own, as a page that says what happened. `fields` are header lines with their ends.
#[must_use]
pub fn response(
    status: u16,
    reason: &str,
    fields: &str,
    explanation: &str,
    is_last: bool,
) -> Vec<u8> {
    let explanation = explanation.replace('&', "&amp;").replace('<', "&lt;");
    let body = format!(
        "<!doctype html><html><head><title>{status} {reason}</title></head><body><h1>{status} {reason}</h1>\
         <p>{explanation}</p></body></html>\n"
    );
    let connection = if is_last { "close" } else { "keep-alive" };
    format!(
        "HTTP/1.1 {status} {reason}\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: {}\r\n\
         Connection: {connection}\r\n{fields}\r\n{body}",
        body.len()
    )
    .into_bytes()
}

fn head_of(bytes: &[u8]) -> &[u8] {
    bytes.get(..bytes.len().min(MAX_HEAD)).unwrap_or_default()
}

/// The length of a head that was parsed, or `None` while it is incomplete.
fn complete(parsed: httparse::Result<usize>, bytes: &[u8]) -> Result<Option<usize>, Error> {
    match parsed {
        Ok(Status::Complete(len)) => Ok(Some(len)),
        Ok(Status::Partial) if bytes.len() >= MAX_HEAD => Err(Error::TooLong),
        Ok(Status::Partial) => Ok(None),
        Err(httparse::Error::TooManyHeaders) => Err(Error::TooLong),
        Err(_) => Err(Error::Malformed),
    }
}

/// `host:port`, `[address]:port`, or without a port where there is a default (RFC 3986 §3.2).
fn authority(text: &str, default_port: Option<u16>) -> Result<Address, Error> {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, port),
        _ => (text, ""),
    };
    let port = match (port, default_port) {
        ("", Some(port)) => port,
        (port, _) => port
            .parse()
            .ok()
            .filter(|port| *port > 0)
            .ok_or(Error::Malformed)?,
    };
    let bare = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    if let Some(ip) = bare {
        let ip = ip.parse().map_err(|_| Error::Malformed)?;
        return Ok(Address::Ip(std::net::SocketAddr::new(
            std::net::IpAddr::V6(ip),
            port,
        )));
    }
    if let Ok(ip) = host.parse() {
        return Ok(Address::Ip(std::net::SocketAddr::new(
            std::net::IpAddr::V4(ip),
            port,
        )));
    }
    if host.is_empty() || host.contains([':', '/', '@', ' ']) {
        return Err(Error::Malformed);
    }
    Address::domain(host, port).map_err(|_| Error::Malformed)
}

fn credentials(fields: &Fields<'_>) -> Option<Vec<u8>> {
    let (scheme, encoded) = fields.all("proxy-authorization").next()?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    STANDARD.decode(encoded.trim()).ok()
}

/// The head that goes to the server: origin form, the URL's own host, nothing that is meant for the proxy.
fn rewritten(
    fields: &Fields<'_>,
    (method, path, host, version): (&str, &str, &str, u8),
    upgrades: bool,
) -> Vec<u8> {
    let path = path.split('#').next().unwrap_or_default();
    let slash = if path.starts_with('/') || (method == "OPTIONS" && path.is_empty()) {
        ""
    } else {
        "/"
    };
    // RFC 9112 §3.2.4: OPTIONS for a host as a whole.
    let path = if method == "OPTIONS" && path.is_empty() {
        "*"
    } else {
        path
    };
    let mut head =
        format!("{method} {slash}{path} HTTP/1.{version}\r\nHost: {host}\r\n").into_bytes();
    for Header { name, value } in fields.0 {
        let is = |other: &str| name.eq_ignore_ascii_case(other);
        let field = Header { name, value };
        let passes = !is_hop_by_hop(&field, fields)
            || is("transfer-encoding")
            || (upgrades && is("upgrade"));
        if passes && !is("host") {
            write_field(&mut head, name, value);
        }
    }
    if upgrades {
        write_field(&mut head, "Connection", b"Upgrade");
    } else if version == 0 {
        write_field(&mut head, "Connection", b"keep-alive");
    }
    head.extend_from_slice(b"\r\n");
    head
}

#[cfg(test)]
mod tests;
