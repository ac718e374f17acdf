//! HTTP/1.1 requests on their way through a proxy (RFC 9112): their heads are rewritten, their bodies are not looked
//! at, and none is taken for another.
//!
//! What could be read in two ways is refused, since the server behind might read it in the other: both lengths, two
//! lengths, an unknown transfer coding, two Hosts, a body's end that is not one.

use std::net::IpAddr;

use httparse::{EMPTY_HEADER, Status};

/// Bytes of the longest head.
pub const MAX_HEAD: usize = 16 * 1024;
/// Lines of the longest head.
const MAX_HEADERS: usize = 100;
/// Bytes of the longest line that gives a chunk's size.
const MAX_SIZE_LINE: usize = 256;

/// What is wrong with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It is no HTTP/1.1, or can be read in two ways.
    #[error("not a request of HTTP/1.1, or one that can be read in two ways")]
    Malformed,
    /// Its head is longer than 16 KiB or a hundred lines.
    #[error("the head of the request is too long")]
    TooLong,
    /// It is for another Host than the first of its connection.
    #[error("a request for another Host on the same connection")]
    OtherHost,
}

impl Error {
    /// The status that says so (RFC 9110 §15.5).
    #[must_use]
    pub const fn status(self) -> (u16, &'static str) {
        match self {
            Self::Malformed => (400, "Bad Request"),
            Self::TooLong => (431, "Request Header Fields Too Large"),
            Self::OtherHost => (421, "Misdirected Request"),
        }
    }
}

/// A whole response that ends the connection.
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
pub struct Requests {
    visitor: IpAddr,
    /// The Host of the first request, in small letters and without its port.
    host: Option<String>,
    count: u64,
    state: State,
    /// The beginning of a head, of a line of chunks, or of the response to an upgrade.
    held: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Head,
    /// So many bytes of a body are left.
    Body(u64),
    /// The line with a chunk's size.
    Size,
    /// So many bytes of a chunk are left.
    Chunk(u64),
    /// The CRLF behind a chunk.
    ChunkEnd,
    /// The lines behind the last chunk.
    Trailers,
    /// Whether the protocol changes is for the server to say.
    Switching,
    /// It has changed: anything may come.
    Tunnel,
    Broken(Error),
}

impl Requests {
    /// The requests of a connection from `visitor`.
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

    /// The Host of the first request, in small letters and without its port, once it is known.
    #[must_use]
    pub fn host(&self) -> Option<&str> {
        self.host.as_deref()
    }

    /// Whether nothing may be read before the response to an upgrade has begun.
    #[must_use]
    pub fn is_switching(&self) -> bool {
        self.state == State::Switching
    }

    /// Takes bytes off the front of `input` and adds what is to be passed on to `out`; returns how many it took. All
    /// are taken, unless the next ones have to wait for a response.
    ///
    /// # Errors
    /// What is wrong, and that again.
    pub fn feed(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<usize, Error> {
        let mut used = 0;
        loop {
            let rest = input.get(used..).unwrap_or_default();
            if rest.is_empty() {
                return Ok(used);
            }
            match self.state {
                State::Broken(error) => return Err(error),
                State::Switching => return Ok(used),
                State::Tunnel => {
                    out.extend_from_slice(rest);
                    return Ok(input.len());
                }
                State::Body(left) => {
                    let len = pass(rest, left, out);
                    used += len;
                    self.state = match left - len as u64 {
                        0 => State::Head,
                        left => State::Body(left),
                    };
                }
                State::Chunk(left) => {
                    let len = pass(rest, left, out);
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

    /// Goes on with what ends with a line.
    fn line(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<usize, Error> {
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
            None if held.len() >= limit => Err(Error::TooLong),
            None => {
                self.held = held;
                Ok(input.len())
            }
        }
    }

    fn size(&mut self, held: &[u8], out: &mut Vec<u8>) -> Result<Option<usize>, Error> {
        match httparse::parse_chunk_size(held).map_err(|_| Error::Malformed)? {
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

    fn chunk_end(&mut self, held: &[u8], out: &mut Vec<u8>) -> Result<Option<usize>, Error> {
        match held {
            b"\r\n" => {
                out.extend_from_slice(held);
                self.state = State::Size;
                Ok(Some(held.len()))
            }
            b"\r" => Ok(None),
            _ => Err(Error::Malformed),
        }
    }

    fn trailers(&mut self, held: &[u8], out: &mut Vec<u8>) -> Result<Option<usize>, Error> {
        let mut headers = [EMPTY_HEADER; MAX_HEADERS];
        match httparse::parse_headers(held, &mut headers).map_err(too_long_or_malformed)? {
            Status::Partial => Ok(None),
            Status::Complete((len, _)) => {
                // What they say is of no use to a server that trusts its proxy, and could mislead it.
                out.extend_from_slice(b"\r\n");
                self.state = State::Head;
                Ok(Some(len))
            }
        }
    }

    fn head(&mut self, held: &[u8], out: &mut Vec<u8>) -> Result<Option<usize>, Error> {
        let mut headers = [EMPTY_HEADER; MAX_HEADERS];
        let mut request = httparse::Request::new(&mut headers);
        let len = match request.parse(held).map_err(too_long_or_malformed)? {
            Status::Partial => return Ok(None),
            Status::Complete(len) => len,
        };
        let (Some(method), Some(path), Some(version)) =
            (request.method, request.path, request.version)
        else {
            return Err(Error::Malformed);
        };
        // Only the origin form, and `OPTIONS *`: the others name another place than Host may.
        if method == "CONNECT" || !(path.starts_with('/') || path == "*") {
            return Err(Error::Malformed);
        }
        let seen = Seen::read(request.headers, version)?;
        let host = bare_host(seen.host.ok_or(Error::Malformed)?);
        match &self.host {
            Some(first) if *first != host => return Err(Error::OtherHost),
            Some(_) => {}
            None => self.host = Some(host),
        }
        // Only the first request of a connection is sure to be the one that the next response answers.
        let switches = seen.upgrade && self.count == 0 && seen.body == State::Head;
        self.write_head(request.headers, (method, path, version), switches, out);
        self.count += 1;
        self.state = if switches {
            State::Switching
        } else {
            seen.body
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

    /// Looks at bytes of the response while an upgrade waits for its answer. Afterwards [`Requests::feed`] takes
    /// bytes again, if it did not.
    pub fn watch(&mut self, response: &[u8]) {
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
                // Whatever this is, it is no consent.
                Ok(Status::Partial) | Err(_) => (0, 0),
            };
            match code {
                101 => self.state = State::Tunnel,
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

/// What the header lines say about a request.
struct Seen<'a> {
    host: Option<&'a str>,
    upgrade: bool,
    body: State,
}

impl<'a> Seen<'a> {
    fn read(headers: &[httparse::Header<'a>], version: u8) -> Result<Self, Error> {
        let (mut host, mut length, mut chunked, mut upgrade) = (None, None, false, false);
        for header in headers {
            let is = |name: &str| header.name.eq_ignore_ascii_case(name);
            let text = || std::str::from_utf8(header.value).map_err(|_| Error::Malformed);
            if is("host") {
                once(&mut host, text()?.trim())?;
            } else if is("content-length") {
                let digits = text()?.trim();
                if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
                    return Err(Error::Malformed);
                }
                once(&mut length, digits.parse().map_err(|_| Error::Malformed)?)?;
            } else if is("transfer-encoding") {
                if chunked || version == 0 || !text()?.trim().eq_ignore_ascii_case("chunked") {
                    return Err(Error::Malformed);
                }
                chunked = true;
            } else if is("upgrade") {
                upgrade = true;
            }
        }
        let body = match (length, chunked) {
            (Some(_), true) => return Err(Error::Malformed),
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

fn once<T>(place: &mut Option<T>, value: T) -> Result<(), Error> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(Error::Malformed),
    }
}

/// Passes on at most `left` bytes.
fn pass(bytes: &[u8], left: u64, out: &mut Vec<u8>) -> usize {
    let len = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
    out.extend_from_slice(bytes.get(..len).unwrap_or_default());
    len
}

fn too_long_or_malformed(error: httparse::Error) -> Error {
    match error {
        httparse::Error::TooManyHeaders => Error::TooLong,
        _ => Error::Malformed,
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
