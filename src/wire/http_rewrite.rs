//! Rewrites HTTP/1.1 requests that pass through a proxy (RFC 9112). It writes their heads and the lines with the sizes of
//! chunks anew, passes the rest of their bodies unchanged, and finds where each request ends.
//!
//! An ambiguous request is refused, since the server behind the proxy might read it differently: one with a length and a
//! transfer coding, two lengths, an unknown transfer coding, two Hosts, or a malformed end of the body. What follows a
//! request with `Connection: close` is dropped, as the server does not read it.

mod fields;

use std::io::Write as _;
use std::net::IpAddr;

use httparse::{EMPTY_HEADER, Status};

use super::http_strict::{Malformed, chunk_size, trailers};
use crate::limits::MAX_HEAD;
use fields::{Fields, Framing, write_field};

/// Maximum number of header lines.
const MAX_HEADERS: usize = 100;
/// Maximum length of the line with a chunk's size, in bytes.
const MAX_SIZE_LINE: usize = 256;
/// Maximum length of all lines with sizes of a body beyond [`PLAIN_SIZE_LINE`], in bytes.
const MAX_EXTENSIONS: usize = 16 * 1024;
/// The longest line with a size alone.
const PLAIN_SIZE_LINE: usize = 17;

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

impl From<Malformed> for RewriteError {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
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
    /// No other request follows the current one.
    is_last: bool,
    /// Bytes of the body's lines with sizes beyond [`PLAIN_SIZE_LINE`].
    extensions: usize,
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
    /// The last request of the connection has ended: all bytes are dropped.
    Done,
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
            is_last: false,
            extensions: 0,
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
                State::Done => return Ok(input.len()),
                State::Upgraded => {
                    out.extend_from_slice(rest);
                    return Ok(input.len());
                }
                State::Body(left) => {
                    let len = copy(rest, left, out);
                    used += len;
                    self.state = match left - len as u64 {
                        0 => self.after_request(),
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

    const fn after_request(&self) -> State {
        if self.is_last {
            State::Done
        } else {
            State::Head
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
        let fresh = input.get(..room.min(input.len())).unwrap_or_default();
        self.held.extend_from_slice(fresh);
        // A part that comes in many pieces is parsed when a line ends, not for each piece.
        if before > 0 && self.held.len() < limit && !fresh.contains(&b'\n') {
            return Ok(input.len());
        }
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
        let Some((len, size)) = chunk_size(held)? else {
            return Ok(None);
        };
        self.extensions += len.saturating_sub(PLAIN_SIZE_LINE);
        if self.extensions > MAX_EXTENSIONS {
            return Err(RewriteError::TooLong);
        }
        let _ = write!(out, "{size:x}\r\n");
        self.state = match size {
            0 => State::Trailers,
            size => State::Chunk(size),
        };
        Ok(Some(len))
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
        let len = trailers(held)?;
        if len.is_some() {
            // Trailers are dropped: they could mislead a server that trusts its proxy.
            out.extend_from_slice(b"\r\n");
            self.state = self.after_request();
        }
        Ok(len)
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
        if !is_target(method, path) {
            return Err(RewriteError::Malformed);
        }
        let fields = Fields::read(request.headers, version)?;
        let host = bare_host(fields.host);
        match &self.host {
            Some(first) if *first != host => return Err(RewriteError::OtherHost),
            Some(_) => {}
            None => self.host = Some(host),
        }
        // Only for the first request of a connection it is certain that the next response belongs to it. A switch to
        // another protocol, such as h2c, would let everything pass.
        let switches = fields.asks_for_websocket
            && method == "GET"
            && self.count == 0
            && fields.framing == Framing::Length(0);
        let _ = write!(out, "{method} {path} HTTP/1.{version}\r\n");
        fields.write(switches, out);
        self.write_origin(out);
        self.count += 1;
        self.is_last = !fields.persists;
        self.extensions = 0;
        self.state = match fields.framing {
            _ if switches => State::Switching,
            Framing::Length(0) => self.after_request(),
            Framing::Length(length) => State::Body(length),
            Framing::Chunked => State::Size,
        };
        Ok(Some(len))
    }

    /// Appends who came, and the end of the head.
    fn write_origin(&self, out: &mut Vec<u8>) {
        let host = self.host.as_deref().unwrap_or_default();
        write_field("X-Forwarded-For", self.visitor.to_string().as_bytes(), out);
        write_field("X-Forwarded-Proto", b"http", out);
        write_field("X-Forwarded-Host", host.as_bytes(), out);
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
            let is_websocket = |header: &httparse::Header<'_>| {
                header.name.eq_ignore_ascii_case("upgrade")
                    && header.value.eq_ignore_ascii_case(b"websocket")
            };
            match code {
                101 if answer.headers.iter().any(is_websocket) => self.state = State::Upgraded,
                101 => self.state = State::Broken(RewriteError::Malformed),
                100..200 => {
                    self.held.drain(..len);
                    continue;
                }
                _ => self.state = self.after_request(),
            }
            self.held = Vec::new();
            return;
        }
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

/// Whether a request may have this target: only the origin form and `OPTIONS *` are accepted, since other forms could name
/// another host than the field Host.
fn is_target(method: &str, path: &str) -> bool {
    let is_form = path.starts_with('/') || (path == "*" && method == "OPTIONS");
    let read = path.parse::<http::Uri>();
    let read = read.as_ref().ok().and_then(http::Uri::path_and_query);
    // A fragment would not be read.
    is_form && method != "CONNECT" && read.is_some_and(|read| read.as_str() == path)
}

/// `Example.COM:8080` -> `example.com`.
fn bare_host(host: &str) -> String {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    name.trim_end_matches('.').to_ascii_lowercase()
}

#[cfg(test)]
mod tests;
