//! Every message: complete, truncated, with trailing bytes, and invalid.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::fmt::Debug;

use proptest::prelude::*;

use super::*;
use crate::wire::address::tests::addresses;
use crate::wire::peer_protocol::PeerProtocol;

type Parse<'a, T> = fn(&'a [u8]) -> Result<Option<(T, usize)>, Error>;

/// Runs `encode` on a buffer that is large enough and returns what it wrote; it must fail with one byte less.
fn written(encode: impl Fn(&mut [u8]) -> Option<usize>) -> Vec<u8> {
    let mut out = vec![0xee; 1024];
    let len = encode(&mut out).unwrap();
    assert!(
        out[len..].iter().all(|byte| *byte == 0xee),
        "wrote behind its end"
    );
    for short in 0..len {
        assert_eq!(encode(&mut vec![0; short]), None);
    }
    out.truncate(len);
    out
}

/// The message parses to `expected` whatever follows it, and every truncation asks for more.
fn check<'a, T: PartialEq + Debug>(parse: Parse<'a, T>, bytes: &'a [u8], len: usize, expected: &T) {
    for cut in 0..len {
        assert_eq!(parse(&bytes[..cut]), Ok(None));
    }
    for end in len..=bytes.len() {
        let (value, used) = parse(&bytes[..end]).unwrap().unwrap();
        assert_eq!((&value, used), (expected, len));
    }
}

/// The message with three bytes after it.
fn followed(mut bytes: Vec<u8>) -> (Vec<u8>, usize) {
    let len = bytes.len();
    bytes.extend([5, 1, 0]);
    (bytes, len)
}

#[test]
fn greetings_read_as_written() {
    for methods in [
        &[][..],
        &[AuthMethod::None],
        &[
            AuthMethod::None,
            AuthMethod::Password,
            AuthMethod::Other(0x80),
        ],
        &[AuthMethod::Other(1); 255],
    ] {
        let (bytes, len) = followed(written(|out| Greeting::encode(methods, out)));
        check(
            Greeting::parse,
            &bytes,
            len,
            &Greeting {
                methods: &bytes[2..len],
            },
        );
        let (greeting, _) = Greeting::parse(&bytes).unwrap().unwrap();
        for method in methods {
            assert!(greeting.offers(*method));
        }
        assert!(!greeting.offers(AuthMethod::Other(0x55)));
    }
    assert_eq!(
        written(|out| Greeting::encode(&[AuthMethod::None, AuthMethod::Password], out)),
        [5, 2, 0, 2]
    );
    assert_eq!(
        Greeting::encode(&[AuthMethod::None; 256], &mut [0; 512]),
        None
    );
}

#[test]
fn selections_read_as_written() {
    for method in (0..=u8::MAX).map(AuthMethod::from) {
        let (bytes, len) = followed(MethodSelection(method).encode().to_vec());
        check(
            MethodSelection::parse,
            &bytes,
            len,
            &MethodSelection(method),
        );
    }
    assert_eq!(
        MethodSelection(AuthMethod::Unacceptable).encode(),
        [5, 0xff]
    );
}

#[test]
fn credentials_read_as_written() {
    let long = [b'x'; 255];
    for (user, password) in [
        (&b"user"[..], &b"pass word"[..]),
        (b"u", b""),
        (b"", b""),
        (&long, &long),
    ] {
        let credentials = Credentials { user, password };
        let (bytes, len) = followed(written(|out| credentials.encode(out)));
        check(Credentials::parse, &bytes, len, &credentials);
    }
    assert_eq!(
        written(|out| Credentials {
            user: b"ab",
            password: b"c"
        }
        .encode(out)),
        b"\x01\x02ab\x01c"
    );
    assert_eq!(
        Credentials {
            user: &[0; 256],
            password: b""
        }
        .encode(&mut [0; 999]),
        None
    );
}

#[test]
fn passwords_stay_out_of_debug() {
    let text = format!(
        "{:?}",
        Credentials {
            user: b"al\nice",
            password: b"secret"
        }
    );
    assert_eq!(text, "Credentials(\"al\\nice\", …)");
}

#[test]
fn verdicts_read_as_written() {
    for verdict in [AuthStatus::Success, AuthStatus::Failure] {
        let (bytes, len) = followed(verdict.encode().to_vec());
        check(AuthStatus::parse, &bytes, len, &verdict);
    }
    assert_eq!(
        AuthStatus::parse(&[1, 0x2a]),
        Ok(Some((AuthStatus::Failure, 2)))
    );
}

#[test]
fn writes_the_bytes_of_rfc_1928() {
    let address: super::super::Address = "192.0.2.1:80".parse().unwrap();
    let request = Request {
        command: Command::Connect,
        address: address.as_ref(),
    };
    assert_eq!(
        written(|out| request.encode(out)),
        [5, 1, 0, 1, 192, 0, 2, 1, 0, 80]
    );
    let failure = Response::failure(Reply::ConnectionRefused);
    assert_eq!(
        written(|out| failure.encode(out)),
        [5, 5, 0, 1, 0, 0, 0, 0, 0, 0]
    );
}

#[test]
fn every_code_has_one_meaning() {
    for code in 0..=u8::MAX {
        assert_eq!(AuthMethod::from(code).code(), code);
        assert_eq!(Command::from(code).code(), code);
        let reply = Reply::from(code);
        assert_eq!(reply.code(), if code <= 8 { code } else { 1 });
    }
}

#[test]
fn refuses_wrong_versions_at_the_first_byte() {
    for version in (0..=u8::MAX).filter(|version| *version != 5) {
        let error = Error::SocksVersion(version);
        assert_eq!(Greeting::parse(&[version]), Err(error));
        assert_eq!(MethodSelection::parse(&[version]), Err(error));
        assert_eq!(Request::parse(&[version, 1, 0, 1]), Err(error));
        assert_eq!(Response::parse(&[version, 1, 0, 1]), Err(error));
    }
    for version in (0..=u8::MAX).filter(|version| *version != 1) {
        let error = Error::SocksAuthVersion(version);
        assert_eq!(Credentials::parse(&[version]), Err(error));
        assert_eq!(AuthStatus::parse(&[version]), Err(error));
    }
}

#[test]
fn an_unknown_address_type_has_a_reply_of_its_own() {
    let error = Request::parse(&[5, 1, 0, 2]).unwrap_err();
    assert_eq!(error, Error::AddressType(2));
    assert_eq!(Reply::of(error), Reply::AddressTypeNotSupported);
    let error = Request::parse(&[5, 1, 0, 3, 0]).unwrap_err();
    assert_eq!(
        (error, Reply::of(error)),
        (Error::AddressDomain, Reply::GeneralFailure)
    );
}

#[test]
fn an_unknown_command_still_has_its_address() {
    let bytes = [5, 0xf0, 0, 1, 192, 0, 2, 1, 0, 80];
    let (request, _) = Request::parse(&bytes).unwrap().unwrap();
    assert_eq!(
        (request.command, request.address.port()),
        (Command::Other(0xf0), 80)
    );
}

#[test]
fn trims_datagrams() {
    for len in 0..3 {
        assert_eq!(parse_udp_prefix(&[0; 3][..len]), Err(Error::Truncated));
    }
    assert_eq!(parse_udp_prefix(&UDP_PREFIX), Ok((0, 3)));
    assert_eq!(parse_udp_prefix(&[0, 0, 7, 1, 2]), Ok((7, 3)));
    assert_eq!(parse_udp_prefix(&[9, 9, 0, 1]), Ok((0, 3)));
}

proptest! {
    #[test]
    fn requests_read_as_written(code: u8, address in addresses()) {
        let request = Request { command: code.into(), address: address.as_ref() };
        let (bytes, len) = followed(written(|out| request.encode(out)));
        prop_assert!(len <= MAX_REQUEST_LEN);
        check(Request::parse, &bytes, len, &request);
    }

    #[test]
    fn responses_read_as_written(code in 0_u8..9, address in addresses()) {
        let response = Response { reply: code.into(), bound: address.as_ref() };
        let (bytes, len) = followed(written(|out| response.encode(out)));
        check(Response::parse, &bytes, len, &response);
    }

    #[test]
    fn survives_garbage(first in prop_oneof![Just(5_u8), Just(1_u8), any::<u8>()], rest: Vec<u8>) {
        let bytes = [&[first], &*rest].concat();
        let used = [
            Greeting::parse(&bytes).map(|some| some.map(|(_, used)| used)),
            MethodSelection::parse(&bytes).map(|some| some.map(|(_, used)| used)),
            Credentials::parse(&bytes).map(|some| some.map(|(_, used)| used)),
            AuthStatus::parse(&bytes).map(|some| some.map(|(_, used)| used)),
            Request::parse(&bytes).map(|some| some.map(|(_, used)| used)),
            Response::parse(&bytes).map(|some| some.map(|(_, used)| used)),
            parse_udp_prefix(&bytes).map(|(_, used)| Some(used)),
        ];
        for used in used.into_iter().flatten().flatten() {
            prop_assert!(used <= bytes.len());
        }
    }
}

#[test]
fn tells_other_protocols_by_their_first_byte() {
    for (first, protocol) in [
        (0x05, PeerProtocol::Socks5),
        (0x04, PeerProtocol::Socks4),
        (b'G', PeerProtocol::Http),
        (b'C', PeerProtocol::Http),
        (b'P', PeerProtocol::Http),
        (0x16, PeerProtocol::Tls),
        (0x00, PeerProtocol::Unknown),
        (b'g', PeerProtocol::Http),
        (b'!', PeerProtocol::Http),
        (b'~', PeerProtocol::Http),
        (b'"', PeerProtocol::Unknown),
        (0x7f, PeerProtocol::Unknown),
        (0xff, PeerProtocol::Unknown),
    ] {
        assert_eq!(PeerProtocol::of(first), protocol);
        let expected = if first == 5 {
            None
        } else {
            Some(Error::SocksVersion(first))
        };
        assert_eq!(Greeting::parse(&[first]).err(), expected);
        assert_eq!(Request::parse(&[first]).err(), expected);
    }
    assert_eq!(
        Error::SocksVersion(b'G').to_string(),
        "not SOCKS5: this is HTTP (first byte 0x47)"
    );
    assert_eq!(Error::SocksVersion(b'G').status(), "socks_version");
}
