//! HTTP CONNECT as a client of a proxy speaks it (RFC 9110 §9.3.6).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::AddressRef;

/// Fields of a response's head.
const MAX_FIELDS: usize = 64;

/// Why a proxy does not connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// The answer is not HTTP/1.
    #[error("the answer is not HTTP: is the port right, and does the proxy need `https`?")]
    NotHttp,
    /// The proxy wants a login, or another one.
    #[error("wants a user name and a password, or others (407)")]
    Login,
    /// The proxy refused the target, or cannot reach it.
    #[error("refused to connect, with status {0}")]
    Status(u16),
}

/// The request for a connection to `target`, with the user name and password that the proxy requires.
#[must_use]
pub fn request(target: AddressRef<'_>, login: Option<(&str, &str)>) -> String {
    let login = login.map_or_else(String::new, |(user, password)| {
        let basic = STANDARD.encode(format!("{user}:{password}"));
        format!("Proxy-Authorization: Basic {basic}\r\n")
    });
    format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{login}\r\n")
}

/// How many bytes of a head can be read at once without reading behind its end. `bytes` are those read so far.
#[must_use]
pub const fn missing(bytes: &[u8]) -> usize {
    match bytes {
        [.., b'\n'] | [.., b'\n', b'\r'] => 1,
        _ => 2,
    }
}

/// Reads the response and returns the length of its head; `Ok(None)` if more bytes are needed.
///
/// # Errors
/// [`ConnectError`].
pub fn parse_response(bytes: &[u8]) -> Result<Option<((), usize)>, ConnectError> {
    // A head ends with an empty line: before that there is nothing to parse, but for what can be none.
    if !(bytes.ends_with(b"\n\r\n") || bytes.ends_with(b"\n\n")) {
        let begins_right = bytes
            .iter()
            .zip(b"HTTP/1.")
            .all(|(one, other)| one == other);
        return begins_right.then_some(None).ok_or(ConnectError::NotHttp);
    }
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut response = httparse::Response::new(&mut fields);
    let parsed = response.parse(bytes).map_err(|_| ConnectError::NotHttp)?;
    match (parsed, response.code.unwrap_or_default()) {
        (httparse::Status::Partial, _) => Ok(None),
        (httparse::Status::Complete(len), 200..300) => Ok(Some(((), len))),
        (_, 407) => Err(ConnectError::Login),
        (_, status) => Err(ConnectError::Status(status)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use super::*;

    /// Feeds `text` as a reader does that reads no more than [`missing`]; returns the result and what was read.
    fn read(text: &str) -> (Result<(), ConnectError>, &str) {
        let mut end = 0;
        loop {
            end = (end + missing(&text.as_bytes()[..end])).min(text.len());
            match parse_response(&text.as_bytes()[..end]) {
                Ok(None) => assert!(end < text.len(), "{text}"),
                Ok(Some(_)) => return (Ok(()), &text[..end]),
                Err(error) => return (Err(error), &text[..end]),
            }
        }
    }

    #[test]
    fn head_is_read_and_nothing_behind_it() {
        for head in [
            "HTTP/1.1 200 Connection established\r\n\r\n",
            "HTTP/1.0 200 OK\r\nVia: x\r\n\r\n",
            "HTTP/1.1 200 OK\n\n",
            "HTTP/1.1 204 OK\nA: b\r\n\n",
            "HTTP/1.1 200\r\nA: bc\r\n\r\n",
        ] {
            for behind in ["", "\r\n\r\n", "\n", "SSH-2.0"] {
                let text = format!("{head}{behind}");
                assert_eq!(read(&text), (Ok(()), head), "{text:?}");
            }
        }
    }

    #[test]
    fn refusals_are_told_apart() {
        for (text, error) in [
            (
                "HTTP/1.1 407 Proxy Authentication Required\r\n\r\n",
                ConnectError::Login,
            ),
            (
                "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 3\r\n\r\n",
                ConnectError::Status(502),
            ),
            ("HTTP/1.1 101 Switching\r\n\r\n", ConnectError::Status(101)),
            ("SSH-2.0-OpenSSH\r\n", ConnectError::NotHttp),
            ("\x05\x00", ConnectError::NotHttp),
            ("HTTP/1.1 x\r\n\r\n", ConnectError::NotHttp),
        ] {
            assert_eq!(read(text).0, Err(error), "{text:?}");
        }
    }

    #[test]
    fn request_names_the_target_and_logs_in() {
        let target = AddressRef::Domain("a.example", 443);
        assert_eq!(
            request(target, None),
            "CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n"
        );
        // RFC 7617 §2.
        let request = request(target, Some(("Aladdin", "open sesame")));
        assert!(request.contains("Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==\r\n"));
    }
}
