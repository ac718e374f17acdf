//! Rewrites HTTP/1.1 requests that pass through a proxy (RFC 9112). It changes their heads, passes their bodies unchanged, and
//! finds where each request ends.
//!
//! An ambiguous request is refused, since the server behind the proxy might read it differently: one with a length and a
//! transfer coding, two lengths, an unknown transfer coding, two Hosts, or a malformed end of the body.

use std::net::IpAddr;

use httparse::{EMPTY_HEADER, Status};

use crate::limits::MAX_HEAD;

/// Maximum number of header lines.
const MAX_HEADERS: usize = 100;
/// Maximum length of the line with a chunk's size, in bytes.
const MAX_SIZE_LINE: usize = 256;

/// What is wrong with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RewriteError {
    /// The request is not HTTP/1.1, or is ambiguous.
    #[error("the request is not valid HTTP/1.1, or is ambiguous")]
    Malformed,
    /// The head is longer than [`MAX_HEAD`], or has more than a hundred lines.
    #[error("the head of the request is too long")]
    TooLong,
    /// The request is for another Host than the first one of its connection.
    #[error("the request is for another Host than the first one of its connection")]
    OtherHost,
}

impl RewriteError {
    /// The HTTP status of the response, and its reason phrase (RFC 9110 §15.5).
    #[must_use]
    pub const fn status(self) -> (u16, &'static str) {
        match self {
            Self::Malformed => (400, "Bad Request"),
            Self::TooLong => (431, "Request Header Fields Too Large"),
            Self::OtherHost => (421, "Misdirected Request"),
        }
    }
}

/// A whole response, after which the connection is closed.
#[must_use]
pub fn response(status: u16, reason: &str) -> Vec<u8> {
    let body = format!("{status} {reason}\n");
    format!(
        "HTTP/1.1 {status} {reason}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// Rewrites the requests of one connection.
#[derive(Debug)]
pub struct RequestRewriter {
    visitor: IpAddr,
    /// The Host of the first request, in lower case and without its port.
    host: Option<String>,
    count: u64,
    state: State,
    /// The beginning of a head, of a chunk's size line, or of the response to an upgrade.
    held: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Head,
    /// This many bytes of a body are left.
    Body(u64),
    /// The line with a chunk's size.
    Size,
    /// This many bytes of a chunk are left.
    Chunk(u64),
    /// The CRLF after a chunk.
    ChunkEnd,
    /// The lines after the last chunk.
    Trailers,
    /// An upgrade was requested, and the server has not responded yet.
    Switching,
    /// The protocol has been upgraded: all bytes pass unchanged.
    Upgraded,
    Broken(RewriteError),
}

impl RequestRewriter {
    /// A rewriter for a connection from `visitor`.
    #[must_use]
    pub const fn new(visitor: IpAddr) -> Self {
        Self {
            visitor,
            host: None,
            count: 0,
            state: State::Head,
            held: Vec::new(),
        }
    }

    /// The Host of the first request, in lower case and without its port, once it is known.
    #[must_use]
    pub fn host(&self) -> Option<&str> {
        self.host.as_deref()
    }

    /// Whether input must wait for the response to an upgrade.
    #[must_use]
    pub fn awaits_response(&self) -> bool {
        self.state == State::Switching
    }

    /// Rewrites `input` and appends the result to `out`; returns how many bytes it has read: all, unless the rest must wait
    /// for a response.
    ///
    /// # Errors
    /// What is wrong with the request; later calls return the same error.
    pub fn rewrite(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<usize, RewriteError> {
        let mut used = 0;
        loop {
            let rest = input.get(used..).unwrap_or_default();
            if rest.is_empty() {
                return Ok(used);
            }
            match self.state {
                State::Broken(error) => return Err(error),
                State::Switching => return Ok(used),
                State::Upgraded => {
                    out.extend_from_slice(rest);
                    return Ok(input.len());
                }
                State::Body(left) => {
                    let len = copy(rest, left, out);
                    used += len;
                    self.state = match left - len as u64 {
                        0 => State::Head,
                        left => State::Body(left),
                    };
                }
                State::Chunk(left) => {
                    let len = copy(rest, left, out);
                    used += len;
                    self.state = match left - len as u64 {
                        0 => State::ChunkEnd,
                        left => State::Chunk(left),
                    };
                }
                State::Head | State::Size | State::ChunkEnd | State::Trailers => {
                    used += self.line(rest, out).inspect_err(|error| {
                        self.state = State::Broken(*error);
                    })?;
                }
            }
        }
    }

    /// Continues with a part that ends with a line.
    fn line(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<usize, RewriteError> {
        let limit = match self.state {
            State::Size => MAX_SIZE_LINE,
            State::ChunkEnd => 2,
            _ => MAX_HEAD,
        };
        let before = self.held.len();
        let room = limit.saturating_sub(before);
        self.held
            .extend_from_slice(input.get(..room.min(input.len())).unwrap_or_default());
        let held = std::mem::take(&mut self.held);
        let taken = match self.state {
            State::Size => self.size(&held, out)?,
            State::ChunkEnd => self.chunk_end(&held, out)?,
            State::Trailers => self.trailers(&held, out)?,
            _ => self.head(&held, out)?,
        };
        match taken {
            Some(len) => Ok(len.saturating_sub(before)),
            None if held.len() >= limit => Err(RewriteError::TooLong),
            None => {
                self.held = held;
                Ok(input.len())
            }
        }
    }

    fn size(&mut self, held: &[u8], out: &mut Vec<u8>) -> Result<Option<usize>, RewriteError> {
        match httparse::parse_chunk_size(held).map_err(|_| RewriteError::Malformed)? {
            Status::Partial => Ok(None),
            Status::Complete((len, size)) => {
                out.extend_from_slice(held.get(..len).unwrap_or_default());
                self.state = if size == 0 {
                    State::Trailers
                } else {
                    State::Chunk(size)
                };
                Ok(Some(len))
            }
        }
    }

    fn chunk_end(&mut self, held: &[u8], out: &mut Vec<u8>) -> Result<Option<usize>, RewriteError> {
        match held {
            b"\r\n" => {
                out.extend_from_slice(held);
                self.state = State::Size;
                Ok(Some(held.len()))
            }
            b"\r" => Ok(None),
            _ => Err(RewriteError::Malformed),
        }
    }

    fn trailers(&mut self, held: &[u8], out: &mut Vec<u8>) -> Result<Option<usize>, RewriteError> {
        let mut headers = [EMPTY_HEADER; MAX_HEADERS];
        match httparse::parse_headers(held, &mut headers).map_err(too_long_or_malformed)? {
            Status::Partial => Ok(None),
            Status::Complete((len, _)) => {
                // Trailers are dropped: they could mislead a server that trusts its proxy.
                out.extend_from_slice(b"\r\n");
                self.state = State::Head;
                Ok(Some(len))
            }
        }
    }

    fn head(&mut self, held: &[u8], out: &mut Vec<u8>) -> Result<Option<usize>, RewriteError> {
        let mut headers = [EMPTY_HEADER; MAX_HEADERS];
        let mut request = httparse::Request::new(&mut headers);
        let len = match request.parse(held).map_err(too_long_or_malformed)? {
            Status::Partial => return Ok(None),
            Status::Complete(len) => len,
        };
        let (Some(method), Some(path), Some(version)) =
            (request.method, request.path, request.version)
        else {
            return Err(RewriteError::Malformed);
        };
        // Only the origin form and `OPTIONS *` are accepted: other forms could name another host than the field Host.
        if method == "CONNECT" || !(path.starts_with('/') || path == "*") {
            return Err(RewriteError::Malformed);
        }
        let framing = Framing::read(request.headers, version)?;
        let host = bare_host(framing.host.ok_or(RewriteError::Malformed)?);
        match &self.host {
            Some(first) if *first != host => return Err(RewriteError::OtherHost),
            Some(_) => {}
            None => self.host = Some(host),
        }
        // Only for the first request of a connection it is certain that the next response belongs to it.
        let switches = framing.upgrade && self.count == 0 && framing.body == State::Head;
        self.write_head(request.headers, (method, path, version), switches, out);
        self.count += 1;
        self.state = if switches {
            State::Switching
        } else {
            framing.body
        };
        Ok(Some(len))
    }

    fn write_head(
        &self,
        headers: &[httparse::Header<'_>],
        (method, path, version): (&str, &str, u8),
        switches: bool,
        out: &mut Vec<u8>,
    ) {
        out.extend_from_slice(format!("{method} {path} HTTP/1.{version}\r\n").as_bytes());
        let mut put = |name: &str, value: &[u8]| {
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(b": ");
            out.extend_from_slice(value);
            out.extend_from_slice(b"\r\n");
        };
        for header in headers {
            let is = |name: &str| header.name.eq_ignore_ascii_case(name);
            let ours = is("x-forwarded-for")
                || is("x-forwarded-proto")
                || is("x-forwarded-host")
                || is("forwarded")
                || is("x-real-ip");
            if ours || (!switches && (is("upgrade") || is("http2-settings"))) {
                continue;
            }
            if !switches && is("connection") {
                put(header.name, &without_upgrade(header.value));
                continue;
            }
            put(header.name, header.value);
        }
        put("X-Forwarded-For", self.visitor.to_string().as_bytes());
        put("X-Forwarded-Proto", b"http");
        put(
            "X-Forwarded-Host",
            self.host.as_deref().unwrap_or_default().as_bytes(),
        );
        out.extend_from_slice(b"\r\n");
    }

    /// Reads bytes of the response to an upgrade. Once it has decided, [`RequestRewriter::rewrite`] continues.
    pub fn observe_response(&mut self, response: &[u8]) {
        if self.state != State::Switching {
            return;
        }
        let room = MAX_HEAD.saturating_sub(self.held.len());
        self.held
            .extend_from_slice(response.get(..room.min(response.len())).unwrap_or_default());
        loop {
            let mut headers = [EMPTY_HEADER; MAX_HEADERS];
            let mut answer = httparse::Response::new(&mut headers);
            let (len, code) = match answer.parse(&self.held) {
                Ok(Status::Complete(len)) => (len, answer.code.unwrap_or_default()),
                Ok(Status::Partial) if self.held.len() < MAX_HEAD => return,
                // Not a response that accepts the upgrade.
                Ok(Status::Partial) | Err(_) => (0, 0),
            };
            match code {
                101 => self.state = State::Upgraded,
                100..200 => {
                    self.held.drain(..len);
                    continue;
                }
                _ => self.state = State::Head,
            }
            self.held = Vec::new();
            return;
        }
    }
}

/// What the header lines say about the end of a request.
struct Framing<'a> {
    host: Option<&'a str>,
    upgrade: bool,
    body: State,
}

impl<'a> Framing<'a> {
    fn read(headers: &[httparse::Header<'a>], version: u8) -> Result<Self, RewriteError> {
        let (mut host, mut length, mut chunked, mut upgrade) = (None, None, false, false);
        for header in headers {
            let is = |name: &str| header.name.eq_ignore_ascii_case(name);
            let text = || std::str::from_utf8(header.value).map_err(|_| RewriteError::Malformed);
            if is("host") {
                once(&mut host, text()?.trim())?;
            } else if is("content-length") {
                let digits = text()?.trim();
                if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
                    return Err(RewriteError::Malformed);
                }
                once(
                    &mut length,
                    digits.parse().map_err(|_| RewriteError::Malformed)?,
                )?;
            } else if is("transfer-encoding") {
                if chunked || version == 0 || !text()?.trim().eq_ignore_ascii_case("chunked") {
                    return Err(RewriteError::Malformed);
                }
                chunked = true;
            } else if is("upgrade") {
                upgrade = true;
            }
        }
        let body = match (length, chunked) {
            (Some(_), true) => return Err(RewriteError::Malformed),
            (None, true) => State::Size,
            (None | Some(0), false) => State::Head,
            (Some(length), false) => State::Body(length),
        };
        Ok(Self {
            host,
            upgrade,
            body,
        })
    }
}

fn once<T>(place: &mut Option<T>, value: T) -> Result<(), RewriteError> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(RewriteError::Malformed),
    }
}

/// Copies at most `left` bytes to `out` and returns how many.
fn copy(bytes: &[u8], left: u64, out: &mut Vec<u8>) -> usize {
    let len = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
    out.extend_from_slice(bytes.get(..len).unwrap_or_default());
    len
}

fn too_long_or_malformed(error: httparse::Error) -> RewriteError {
    match error {
        httparse::Error::TooManyHeaders => RewriteError::TooLong,
        _ => RewriteError::Malformed,
    }
}

/// `Example.COM:8080` -> `example.com`.
fn bare_host(host: &str) -> String {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    name.trim_end_matches('.').to_ascii_lowercase()
}

fn without_upgrade(value: &[u8]) -> Vec<u8> {
    let tokens = value.split(|byte| *byte == b',').filter(|token| {
        let token = token.trim_ascii();
        !token.eq_ignore_ascii_case(b"upgrade") && !token.eq_ignore_ascii_case(b"http2-settings")
    });
    tokens.collect::<Vec<_>>().join(&b","[..])
}

#[cfg(test)]
mod tests;
