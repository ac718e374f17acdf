//! The HTTP upgrade to WebSocket (RFC 6455 §4), both sides, and responses to other requests.
//!
//! The client's request is the same as v2ray-plugin's, byte for byte. Other requests get the response of a web server that
//! has nothing at their path.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{Request, Version, header};
use sha1::{Digest as _, Sha1};

use super::http_strict::{is_token, trim, words};
use crate::limits::MAX_HEAD;

/// Maximum number of header fields.
const MAX_FIELDS: usize = 64;
/// Maximum number of addresses of `X-Forwarded-For` that are kept.
const MAX_FORWARDED: usize = 16;
/// Random bytes of a `Sec-WebSocket-Key` (RFC 6455 §4.1).
pub const NONCE_LEN: usize = 16;
/// Appended to the key before it is hashed (RFC 6455 §1.3).
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// What a client requests, or what a server serves.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Endpoint {
    /// The path, and for a client also the query.
    pub path: String,
    /// The `Host` that a client sends or a server requires; a server with `None` accepts any.
    pub host: Option<String>,
    /// Header fields that a client adds.
    pub fields: Vec<(String, String)>,
}

/// Why a response does not complete our upgrade.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ResponseError {
    /// The response is not HTTP.
    #[error("the server does not speak HTTP")]
    NotHttp,
    /// The head is longer than [`MAX_HEAD`].
    #[error("the head of the response is longer than 16 KiB")]
    TooLong,
    /// The status is not 101.
    #[error("the server answered with status {0} instead of 101: check path and host")]
    Status(u16),
    /// The status is 101, but this field does not match the request.
    #[error("the server answered 101, but its field {0} does not match the request")]
    Field(&'static str),
}

/// Why a request is not served.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RequestError {
    /// The request is not HTTP/1.x, or an upgrade without a key.
    #[error("the request is not valid HTTP")]
    BadRequest,
    /// The path, method or host is another, or there is no upgrade.
    #[error("the request is not an upgrade for this path and host")]
    NotFound,
    /// The version of WebSocket is not 13.
    #[error("the request is for another version of WebSocket")]
    Version,
    /// The head is longer than [`MAX_HEAD`].
    #[error("the head of the request is longer than 16 KiB")]
    TooLong,
    /// The target of the request cannot be reached.
    #[error("the target of the request cannot be reached")]
    BadGateway,
}

/// An upgrade that a client requests.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Upgrade {
    /// The value of `Sec-WebSocket-Accept` in the response.
    accept: String,
    /// The addresses of `X-Forwarded-For`, the nearest first, up to the first entry that is not an address.
    pub forwarded_for: Vec<IpAddr>,
}

/// The request of a client; `None` if path, host or a field contains characters that a head cannot contain.
#[must_use]
pub fn request(endpoint: &Endpoint, nonce: [u8; NONCE_LEN]) -> Option<String> {
    let host = endpoint.host.as_deref().unwrap_or_default();
    let path = endpoint.path.as_str();
    let is_clean = |text: &str| !text.bytes().any(|byte| byte.is_ascii_control());
    let fields = &endpoint.fields;
    let clean = is_clean(path)
        && path.starts_with('/')
        && !path.contains(' ')
        && is_clean(host)
        && fields
            .iter()
            .all(|(name, value)| is_token(name) && is_clean(value));
    if !clean {
        return None;
    }
    // Fields from the config replace ours.
    let given = |name: &str| {
        fields
            .iter()
            .any(|(given, _)| given.eq_ignore_ascii_case(name))
    };
    let mut head = format!("GET {path} HTTP/1.1\r\n");
    if !given("Host") {
        let _ = write!(head, "Host: {host}\r\n");
    }
    if !given("User-Agent") {
        head.push_str("User-Agent: Go-http-client/1.1\r\n");
    }
    let key = STANDARD.encode(nonce);
    let _ = write!(
        head,
        "Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\nUpgrade: websocket\r\n"
    );
    for (name, value) in fields {
        let _ = write!(head, "{name}: {value}\r\n");
    }
    head.push_str("\r\n");
    (head.len() <= MAX_HEAD).then_some(head)
}

/// Reads a client's request and returns it with the length of its head; `Ok(None)` if more bytes are needed.
///
/// # Errors
/// [`RequestError`], to be answered with [`RequestError::page`].
pub fn parse_request(
    bytes: &[u8],
    endpoint: &Endpoint,
) -> Result<Option<(Upgrade, usize)>, RequestError> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut request = httparse::Request::new(&mut fields);
    let parsed = request
        .parse(bytes.get(..bytes.len().min(MAX_HEAD)).unwrap_or_default())
        .map_err(|error| match error {
            httparse::Error::TooManyHeaders => RequestError::TooLong,
            _ => RequestError::BadRequest,
        })?;
    let httparse::Status::Complete(len) = parsed else {
        return if bytes.len() >= MAX_HEAD {
            Err(RequestError::TooLong)
        } else {
            Ok(None)
        };
    };
    let asked = Asked {
        method: request.method.unwrap_or_default(),
        target: request.path.unwrap_or_default(),
        is_current: request.version == Some(1),
        fields: Fields(request.headers),
    };
    Ok(Some((asked.upgrade(endpoint)?, len)))
}

/// Reads a client's request of which another parser has read the head.
///
/// # Errors
/// [`RequestError`].
pub fn upgrade<B>(request: &Request<B>, endpoint: &Endpoint) -> Result<Upgrade, RequestError> {
    // What has a body is no upgrade of ours, and such a body would stand before the first frame.
    let has_body = |name| request.headers().contains_key(name);
    if has_body(header::CONTENT_LENGTH) || has_body(header::TRANSFER_ENCODING) {
        return Err(RequestError::NotFound);
    }
    let fields: Vec<_> = request
        .headers()
        .iter()
        .map(|(name, value)| httparse::Header {
            name: name.as_str(),
            value: value.as_bytes(),
        })
        .collect();
    let asked = Asked {
        method: request.method().as_str(),
        target: request.uri().path(),
        is_current: request.version() == Version::HTTP_11,
        fields: Fields(&fields),
    };
    asked.upgrade(endpoint)
}

/// The head of a request.
struct Asked<'a> {
    method: &'a str,
    target: &'a str,
    /// Whether it is of HTTP/1.1.
    is_current: bool,
    fields: Fields<'a>,
}

impl Asked<'_> {
    fn upgrade(&self, endpoint: &Endpoint) -> Result<Upgrade, RequestError> {
        let fields = &self.fields;
        let path = |target: &str| target.split(['?', '#']).next().map(str::to_owned);
        let host = fields.one("host");
        let wanted = endpoint.host.as_deref();
        if path(self.target) != path(&endpoint.path)
            || self.method != "GET"
            || wanted.is_some_and(|wanted| !host.is_some_and(|host| same_host(host, wanted)))
            || !fields.has_token("upgrade", "websocket")
        {
            return Err(RequestError::NotFound);
        }
        // An upgrade requires HTTP/1.1 and a Host (RFC 6455 §4.2.1).
        if !self.is_current || host.is_none() || !fields.has_token("connection", "upgrade") {
            return Err(RequestError::BadRequest);
        }
        if fields.one("sec-websocket-version") != Some("13") {
            return Err(RequestError::Version);
        }
        let key = fields
            .one("sec-websocket-key")
            .ok_or(RequestError::BadRequest)?;
        if STANDARD.decode(key).map_or(0, |nonce| nonce.len()) != NONCE_LEN {
            return Err(RequestError::BadRequest);
        }
        Ok(Upgrade {
            accept: accept(key),
            forwarded_for: forwarded_for(fields),
        })
    }
}

/// Whether two hosts are equal, ignoring case and the port of the first.
fn same_host(host: &str, wanted: &str) -> bool {
    let bare = match host.rsplit_once(':') {
        Some((bare, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => bare,
        _ => host,
    };
    host.eq_ignore_ascii_case(wanted) || bare.eq_ignore_ascii_case(wanted)
}

/// The fields of a head.
struct Fields<'a>(&'a [httparse::Header<'a>]);

impl<'a> Fields<'a> {
    fn all(&self, name: &'a str) -> impl DoubleEndedIterator<Item = &'a str> {
        let fields = self.0.iter();
        fields
            .filter(move |field| field.name.eq_ignore_ascii_case(name))
            .filter_map(|field| std::str::from_utf8(field.value).ok())
            .map(trim)
    }

    /// The value of a field that occurs exactly once.
    fn one(&self, name: &'a str) -> Option<&'a str> {
        let mut all = self.all(name);
        all.next().filter(|_| all.next().is_none())
    }

    /// Whether a field is a list that contains this word.
    fn has_token(&self, name: &'a str, token: &str) -> bool {
        self.all(name)
            .flat_map(words)
            .any(|word| word.eq_ignore_ascii_case(token))
    }
}

/// The addresses of `X-Forwarded-For`, the nearest first, since each proxy appends the address of its client. Stops at the
/// first entry that is not an address, because nothing before it can be trusted.
fn forwarded_for(fields: &Fields<'_>) -> Vec<IpAddr> {
    fields
        .all("x-forwarded-for")
        .rev()
        .flat_map(|value| value.rsplit(','))
        .map_while(|entry| {
            let entry = trim(entry);
            let bare = entry.trim_start_matches('[').trim_end_matches(']');
            let with_port = || entry.parse().map(|address: SocketAddr| address.ip());
            bare.parse().or_else(|_| with_port()).ok()
        })
        .take(MAX_FORWARDED)
        .collect()
}

impl Upgrade {
    /// The client's address: starting from `peer`, who connected to us, the nearest address that is not a trusted proxy.
    #[must_use]
    pub fn client(&self, peer: IpAddr, is_trusted: impl Fn(IpAddr) -> bool) -> IpAddr {
        let mut client = peer;
        for next in &self.forwarded_for {
            if !is_trusted(client) {
                break;
            }
            client = *next;
        }
        client
    }

    /// The value of `Sec-WebSocket-Accept` in the response.
    #[must_use]
    pub fn accept(&self) -> &str {
        &self.accept
    }

    /// The response that accepts the upgrade.
    #[must_use]
    pub fn response(&self) -> String {
        format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {}\r\n\r\n",
            self.accept
        )
    }
}

/// The value of `Sec-WebSocket-Accept` for a key (RFC 6455 §4.2.2).
fn accept(key: &str) -> String {
    STANDARD.encode(Sha1::new().chain_update(key).chain_update(GUID).finalize())
}

/// Reads a server's response to the request with `nonce` and returns the length of its head; `Ok(None)` if more bytes are
/// needed.
///
/// # Errors
/// [`ResponseError`].
pub fn parse_response(
    bytes: &[u8],
    nonce: [u8; NONCE_LEN],
) -> Result<Option<usize>, ResponseError> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut response = httparse::Response::new(&mut fields);
    let parsed = response
        .parse(bytes.get(..bytes.len().min(MAX_HEAD)).unwrap_or_default())
        .map_err(|error| match error {
            httparse::Error::TooManyHeaders => ResponseError::TooLong,
            _ => ResponseError::NotHttp,
        })?;
    let httparse::Status::Complete(len) = parsed else {
        return if bytes.len() >= MAX_HEAD {
            Err(ResponseError::TooLong)
        } else {
            Ok(None)
        };
    };
    let status = response.code.unwrap_or_default();
    if status != 101 {
        return Err(ResponseError::Status(status));
    }
    let fields = Fields(response.headers);
    if !fields.has_token("upgrade", "websocket") {
        return Err(ResponseError::Field("Upgrade"));
    }
    if !fields.has_token("connection", "upgrade") {
        return Err(ResponseError::Field("Connection"));
    }
    if fields.one("sec-websocket-accept") != Some(accept(&STANDARD.encode(nonce)).as_str()) {
        return Err(ResponseError::Field("Sec-WebSocket-Accept"));
    }
    // We requested neither, and could not read what would follow.
    for field in ["sec-websocket-extensions", "sec-websocket-protocol"] {
        if fields.all(field).next().is_some() {
            return Err(ResponseError::Field(field));
        }
    }
    Ok(Some(len))
}

impl RequestError {
    /// The whole response, like that of nginx, at `now` in Unix seconds. Close the connection after it.
    #[must_use]
    pub fn page(self, now: u64) -> String {
        let (status, fields) = match self {
            Self::BadRequest | Self::TooLong => ("400 Bad Request", ""),
            Self::NotFound => ("404 Not Found", ""),
            Self::BadGateway => ("502 Bad Gateway", ""),
            Self::Version => ("426 Upgrade Required", "Sec-WebSocket-Version: 13\r\n"),
        };
        let body = format!(
            "<html>\r\n<head><title>{status}</title></head>\r\n<body>\r\n<center><h1>{status}</h1></center>\r\n<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n"
        );
        format!(
            "HTTP/1.1 {status}\r\nServer: nginx\r\nDate: {}\r\nContent-Type: text/html\r\nContent-Length: {}\r\nConnection: close\r\n{fields}\r\n{body}",
            date(now),
            body.len()
        )
    }
}

/// A time in Unix seconds in the format of HTTP (RFC 9110 §5.6.7).
fn date(now: u64) -> String {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] = [
        "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec", "Jan", "Feb",
    ];
    let name = |names: &[&'static str], at: u64| {
        usize::try_from(at)
            .ok()
            .and_then(|at| names.get(at).copied())
            .unwrap_or_default()
    };
    let (days, time) = (now / 86_400, now % 86_400);
    // Years start on the first of March of the year 0, so that the leap day is the last day of a year.
    let since = days + 719_468;
    let (era, day) = (since / 146_097, since % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let year = era * 400 + year + u64::from(month >= 10);
    format!(
        "{}, {day:02} {} {year} {:02}:{:02}:{:02} GMT",
        name(&DAYS, days % 7),
        name(&MONTHS, month),
        time / 3600,
        time / 60 % 60,
        time % 60
    )
}

#[cfg(test)]
mod tests;
