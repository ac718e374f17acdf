//! The fields of a visitor's request: what they say of its end and of its connection, and which of them go on.

use std::io::Write as _;

use httparse::Header;

use super::super::http_strict::{Malformed, content_length, is_token, trim, words};

/// Fields that go on even if `Connection` names them, since the request cannot be read without them.
const ESSENTIAL: [&str; 3] = ["host", "content-length", "transfer-encoding"];
/// Fields that end here: those of this connection (RFC 9110 §7.6.1), and those that a service believes of its proxy or of
/// its own environment.
const ENDS_HERE: [&str; 10] = [
    "connection",
    "forwarded",
    "http2-settings",
    "keep-alive",
    "proxy",
    "proxy-connection",
    "te",
    "trailer",
    "upgrade",
    "x-real-ip",
];
/// How the names of the fields begin by which a proxy says who came.
const FORWARDED: &str = "x-forwarded";
/// Maximum number of words in `Connection`.
const MAX_OPTIONS: usize = 32;

/// Where a request's body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// This many bytes follow.
    Length(u64),
    /// Chunks follow.
    Chunked,
}

/// What the fields of a request say.
#[derive(Debug)]
pub(super) struct Fields<'a> {
    headers: &'a [Header<'a>],
    pub(super) host: &'a str,
    pub(super) framing: Framing,
    /// The client asks for WebSocket, and for nothing else.
    pub(super) asks_for_websocket: bool,
    /// The connection can be used for another request (RFC 9112 §9.3).
    pub(super) persists: bool,
    says_keep_alive: bool,
    /// The words of `Connection`.
    options: Vec<&'a str>,
}

impl<'a> Fields<'a> {
    /// Reads the fields of a request of HTTP/1.`version`.
    pub(super) fn read(headers: &'a [Header<'a>], version: u8) -> Result<Self, Malformed> {
        let (mut host, mut length, mut chunked) = (None, None, false);
        let mut protocols = Vec::new();
        let mut options = Vec::new();
        for header in headers {
            let is = |name: &str| header.name.eq_ignore_ascii_case(name);
            let text = || std::str::from_utf8(header.value).map_err(|_| Malformed);
            if is("host") {
                once(&mut host, trim(text()?))?;
            } else if is("content-length") {
                once(&mut length, content_length(trim(text()?))?)?;
            } else if is("transfer-encoding") {
                let is_chunked = trim(text()?).eq_ignore_ascii_case("chunked");
                if chunked || version == 0 || !is_chunked {
                    return Err(Malformed);
                }
                chunked = true;
            } else if is("upgrade") {
                protocols.extend(words(text()?));
            } else if is("connection") {
                options.extend(words(text()?).take(MAX_OPTIONS + 1));
            }
        }
        if options.len() > MAX_OPTIONS || !options.iter().all(|option| is_token(option)) {
            return Err(Malformed);
        }
        let says = |word: &str| {
            options
                .iter()
                .any(|option| option.eq_ignore_ascii_case(word))
        };
        let (says_close, says_keep_alive) = (says("close"), says("keep-alive"));
        let persists = !says_close && (version == 1 || says_keep_alive);
        let is_websocket = matches!(*protocols, [one] if one.eq_ignore_ascii_case("websocket"));
        let framing = match (length, chunked) {
            (Some(_), true) => return Err(Malformed),
            (None, true) => Framing::Chunked,
            (length, false) => Framing::Length(length.unwrap_or(0)),
        };
        Ok(Self {
            headers,
            host: host.filter(|host| is_host(host)).ok_or(Malformed)?,
            framing,
            asks_for_websocket: version == 1 && persists && is_websocket && says("upgrade"),
            persists,
            says_keep_alive,
            options,
        })
    }

    /// Appends the fields that go on to `out`, and a `Connection` of our own. `upgrades`: the request for WebSocket does.
    pub(super) fn write(&self, upgrades: bool, out: &mut Vec<u8>) {
        for header in self.headers {
            if self.passes(header.name) {
                write_field(header.name, header.value, out);
            }
        }
        if upgrades {
            write_field("Connection", b"Upgrade", out);
            write_field("Upgrade", b"websocket", out);
        } else if !self.persists {
            write_field("Connection", b"close", out);
        } else if self.says_keep_alive {
            write_field("Connection", b"keep-alive", out);
        }
    }

    fn passes(&self, name: &str) -> bool {
        let plain = plain(name);
        if plain.starts_with(FORWARDED) || ENDS_HERE.contains(&plain.as_str()) {
            return false;
        }
        if ESSENTIAL.contains(&plain.as_str()) {
            return plain.eq_ignore_ascii_case(name);
        }
        !self
            .options
            .iter()
            .any(|option| option.eq_ignore_ascii_case(name))
    }
}

/// A name as a service may read it: CGI and WSGI do not tell `X_Forwarded_For` from `X-Forwarded-For`, and some servers
/// take any other character for an underscore, too.
fn plain(name: &str) -> String {
    let plain = |letter: char| match letter.to_ascii_lowercase() {
        letter if letter.is_ascii_alphanumeric() => letter,
        _ => '-',
    };
    name.chars().map(plain).collect()
}

/// Whether a text can be a host with its port (RFC 9110 §7.2).
fn is_host(text: &str) -> bool {
    let is_host_byte =
        |byte: u8| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=:[]".contains(&byte);
    !text.is_empty() && text.bytes().all(is_host_byte)
}

fn once<T>(place: &mut Option<T>, value: T) -> Result<(), Malformed> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(Malformed),
    }
}

/// Appends a field to `out`.
pub(super) fn write_field(name: &str, value: &[u8], out: &mut Vec<u8>) {
    let _ = write!(out, "{name}: ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}
