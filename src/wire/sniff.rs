//! The name of the host that a client's first bytes are for: the server name of a TLS ClientHello (RFC 8446 §4.1.2,
//! RFC 6066 §3), or the `Host` of a request of HTTP/1.1 (RFC 9112 §3.2).

use crate::limits::MAX_SNIFFED;

/// Bytes of the longest method of HTTP that is recognized.
const MAX_METHOD: usize = 16;

/// What the first bytes of a client say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sniffed {
    /// The name, in lower case and without a port. It is a name and no IP address.
    Host(String),
    /// More bytes may tell.
    NeedMore,
    /// It is another protocol, it has no name, or the name did not come within [`MAX_SNIFFED`] bytes.
    Unknown,
}

/// Finds the host that a client's first `bytes` are for.
#[must_use]
pub fn host(bytes: &[u8]) -> Sniffed {
    let is_all = bytes.len() >= MAX_SNIFFED;
    let bytes = bytes.get(..MAX_SNIFFED).unwrap_or(bytes);
    let found = match bytes.first() {
        None => Err(Reason::Cut),
        Some(&HANDSHAKE) => server_name(bytes),
        Some(first) if first.is_ascii_uppercase() => http_host(bytes),
        Some(_) => Err(Reason::Other),
    };
    match found {
        Ok(name) => valid(name.as_ref()).map_or(Sniffed::Unknown, Sniffed::Host),
        Err(Reason::Cut) if !is_all => Sniffed::NeedMore,
        Err(_) => Sniffed::Unknown,
    }
}

/// Why no name was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reason {
    /// The bytes end before it.
    Cut,
    /// These bytes are no request or ClientHello, or name no host.
    Other,
}

/// The name, if it can be one of DNS.
fn valid(name: &[u8]) -> Option<String> {
    let is_allowed = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    let text = std::str::from_utf8(name).ok()?;
    let is_name = (1..=253).contains(&name.len())
        && name.iter().all(is_allowed)
        && text.parse::<std::net::IpAddr>().is_err();
    is_name.then(|| text.to_ascii_lowercase())
}

/// The type of a TLS record with handshake messages.
const HANDSHAKE: u8 = 22;
/// The type of the message ClientHello.
const CLIENT_HELLO: u8 = 1;

/// Takes values from the front of bytes.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], Reason> {
        let (front, rest) = self.0.split_at_checked(len).ok_or(Reason::Cut)?;
        self.0 = rest;
        Ok(front)
    }

    /// A number of `width` bytes, at most three.
    fn number(&mut self, width: usize) -> Result<usize, Reason> {
        let bytes = self.take(width)?;
        Ok(bytes
            .iter()
            .fold(0, |number, byte| number << 8 | usize::from(*byte)))
    }

    /// Skips a field whose length is in `width` bytes before it.
    fn skip(&mut self, width: usize) -> Result<(), Reason> {
        let len = self.number(width)?;
        self.take(len).map(drop)
    }
}

/// The server name of a ClientHello, which may be cut and may lie in several records.
fn server_name(bytes: &[u8]) -> Result<Vec<u8>, Reason> {
    let mut records = Reader(bytes);
    let mut message = Vec::new();
    while let Ok(kind) = records.number(1) {
        let Ok(version) = records.number(2) else {
            break;
        };
        if kind != usize::from(HANDSHAKE) || version >> 8 != 3 {
            return Err(Reason::Other);
        }
        let Ok(len) = records.number(2) else { break };
        if len == 0 {
            return Err(Reason::Other);
        }
        let present = len.min(records.0.len());
        message.extend_from_slice(records.take(present)?);
    }
    let mut hello = Reader(&message);
    if hello.number(1)? != usize::from(CLIENT_HELLO) {
        return Err(Reason::Other);
    }
    let len = hello.number(3)?;
    let is_whole = hello.0.len() >= len;
    let body = hello.0.get(..len).unwrap_or(hello.0);
    // In a whole message, what is missing does not come any more.
    name_of(&mut Reader(body)).map_err(|reason| if is_whole { Reason::Other } else { reason })
}

fn name_of(hello: &mut Reader<'_>) -> Result<Vec<u8>, Reason> {
    hello.take(2 + 32)?; // version, random
    hello.skip(1)?; // session id
    hello.skip(2)?; // cipher suites
    hello.skip(1)?; // compression methods
    hello.number(2)?; // length of the extensions
    loop {
        let kind = hello.number(2)?;
        if kind != 0 {
            hello.skip(2)?;
            continue;
        }
        hello.number(2)?; // length of the extension
        hello.number(2)?; // length of the list, which has one name (RFC 6066 §3)
        if hello.number(1)? != 0 {
            return Err(Reason::Other);
        }
        let len = hello.number(2)?;
        return hello.take(len).map(<[u8]>::to_vec);
    }
}

/// The `Host` of a request, without its port.
fn http_host(bytes: &[u8]) -> Result<Vec<u8>, Reason> {
    let method = bytes
        .iter()
        .take_while(|byte| byte.is_ascii_uppercase())
        .count();
    match bytes.get(method) {
        Some(b' ') if method <= MAX_METHOD => {}
        None if method <= MAX_METHOD => return Err(Reason::Cut),
        _ => return Err(Reason::Other),
    }
    let mut lines = bytes.split_inclusive(|byte| *byte == b'\n');
    let first = line(lines.next())?;
    if !first.ends_with(b" HTTP/1.1") && !first.ends_with(b" HTTP/1.0") {
        return Err(Reason::Other);
    }
    loop {
        let field = line(lines.next())?;
        if field.is_empty() {
            return Err(Reason::Other);
        }
        let mut parts = field.splitn(2, |byte| *byte == b':');
        let (name, value) = (parts.next().unwrap_or_default(), parts.next());
        if name.eq_ignore_ascii_case(b"host") {
            let host = value.ok_or(Reason::Other)?.trim_ascii();
            let end = host.iter().position(|byte| *byte == b':');
            return Ok(host
                .get(..end.unwrap_or(host.len()))
                .unwrap_or_default()
                .to_vec());
        }
    }
}

/// A whole line, without its end.
fn line(line: Option<&[u8]>) -> Result<&[u8], Reason> {
    let line = line
        .and_then(|line| line.strip_suffix(b"\n"))
        .ok_or(Reason::Cut)?;
    Ok(line.strip_suffix(b"\r").unwrap_or(line))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use super::*;
    use proptest::prelude::*;

    /// A ClientHello of rustls.
    fn client_hello(name: &str) -> Vec<u8> {
        let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        let name = name.to_owned().try_into().unwrap();
        let mut client = rustls::ClientConnection::new(config.into(), name).unwrap();
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        bytes
    }

    /// The same message in records of `len` bytes.
    fn in_records(hello: &[u8], len: usize) -> Vec<u8> {
        let records = hello[5..].chunks(len).flat_map(|part| {
            let [high, low] = u16::try_from(part.len()).unwrap().to_be_bytes();
            [&[22, 3, 1, high, low], part].concat()
        });
        records.collect()
    }

    fn found(name: &str) -> Sniffed {
        Sniffed::Host(name.to_owned())
    }

    /// Any cut either has the name already, or needs more.
    fn whatever_the_cut(bytes: &[u8], expected: &Sniffed) {
        assert_eq!(host(bytes), *expected);
        for len in 0..bytes.len() {
            let sniffed = host(&bytes[..len]);
            assert!(
                sniffed == *expected || sniffed == Sniffed::NeedMore,
                "{len}: {sniffed:?}"
            );
        }
    }

    #[test]
    fn tls_server_name_is_found() {
        let hello = client_hello("WWW.Example.com");
        whatever_the_cut(&hello, &found("www.example.com"));
        for len in [20, 100, 700] {
            whatever_the_cut(&in_records(&hello, len), &found("www.example.com"));
        }
        // An address is no server name, and the message ends without one.
        assert_eq!(host(&client_hello("192.0.2.1")), Sniffed::Unknown);
    }

    #[test]
    fn http_host_is_found() {
        for (request, expected) in [
            ("GET / HTTP/1.1\r\nHost: A.example\r\n", "a.example"),
            (
                "POST /x HTTP/1.1\r\nAccept: a:b\r\nhost:a.example:8080\r\n\r\nbody",
                "a.example",
            ),
            ("OPTIONS * HTTP/1.0\nHOST: \t a.example \n\n", "a.example"),
        ] {
            whatever_the_cut(request.as_bytes(), &found(expected));
        }
    }

    #[test]
    fn other_first_bytes_are_unknown() {
        for bytes in [
            &b"SSH-2.0-OpenSSH_9.2\r\n"[..],
            b"GET / HTTP/1.1\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: 192.0.2.1\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
            b"GET / HTTP/2.0\r\nHost: a\r\n\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"ABCDEFGHIJKLMNOPQ",
            b"\x16\x02\x00\x00\x01\x01",
            b"\x16\x03\x01\x00\x00",
            b"\x16\x03\x01\x00\x04\x02\x00\x00\x00",
            b"\x05\x01\x00",
            b"\0",
        ] {
            assert_eq!(host(bytes), Sniffed::Unknown, "{}", bytes.escape_ascii());
        }
        assert_eq!(host(b""), Sniffed::NeedMore);
    }

    #[test]
    fn names_are_not_waited_for_for_ever() {
        let mut request = b"GET / HTTP/1.1\r\nX: ".to_vec();
        request.resize(MAX_SNIFFED - 1, b'x');
        assert_eq!(host(&request), Sniffed::NeedMore);
        request.push(b'x');
        assert_eq!(host(&request), Sniffed::Unknown);
        request.extend(b"\r\nHost: a.example\r\n");
        assert_eq!(host(&request), Sniffed::Unknown);
    }

    proptest! {
        #[test]
        fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200), kind in 0..3) {
            let head: &[u8] = [&b""[..], b"\x16\x03\x01", b"GET / HTTP/1.1\r\nHost"][kind as usize];
            let _ = host(&[head, &bytes].concat());
        }
    }
}
