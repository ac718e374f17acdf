//! SOCKS5: anything that a client or server may send.
#![no_main]

use std::fmt::Debug;

use libfuzzer_sys::fuzz_target;
use ssr::wire::Error;
use ssr::wire::peer_protocol::PeerProtocol;
use ssr::wire::socks::{
    self, AuthStatus, Credentials, Greeting, MAX_REQUEST_LEN, MethodSelection, Request, Response,
};

/// A parser reads a prefix, the same one whatever follows, and asks for more bytes until it is complete.
fn check<'a, T: PartialEq + Debug>(
    bytes: &'a [u8],
    parse: impl Fn(&'a [u8]) -> Result<Option<(T, usize)>, Error>,
) -> Option<(T, usize)> {
    let parsed = parse(bytes);
    let whole = match &parsed {
        Ok(Some((_, len))) => *len,
        Ok(None) => bytes.len() + 1,
        // An error appears at some byte and stays.
        Err(error) => {
            let at = (0..=bytes.len())
                .find(|at| parse(&bytes[..*at]).is_err())
                .unwrap_or_default();
            for cut in at..=bytes.len() {
                assert_eq!(parse(&bytes[..cut]).as_ref().err(), Some(error));
            }
            return None;
        }
    };
    assert!(whole <= bytes.len() + 1);
    for cut in 0..bytes.len() {
        let cut_short = parse(&bytes[..cut]);
        if cut < whole {
            assert_eq!(cut_short, Ok(None));
        } else {
            assert_eq!(cut_short, parsed);
        }
    }
    parsed.ok().flatten()
}

fuzz_target!(|bytes: &[u8]| {
    let bytes = &bytes[..bytes.len().min(600)];
    if let Some(first) = bytes.first() {
        let _ = PeerProtocol::of(*first).to_string();
    }
    if let Some((greeting, _)) = check(bytes, Greeting::parse) {
        let _ = greeting.offers(socks::AuthMethod::None);
    }
    if let Some((selection, len)) = check(bytes, MethodSelection::parse) {
        assert_eq!(selection.encode(), bytes[..len]);
    }
    if let Some((verdict, len)) = check(bytes, AuthStatus::parse) {
        assert_eq!((verdict.encode()[0], len), (bytes[0], 2));
    }
    if let Some((credentials, len)) = check(bytes, Credentials::parse) {
        let mut again = [0; 600];
        assert_eq!(credentials.encode(&mut again), Some(len));
        assert_eq!(again[..len], bytes[..len]);
        assert!(!format!("{credentials:?}").is_empty());
    }
    if let Some((request, len)) = check(bytes, Request::parse) {
        let mut again = [0; MAX_REQUEST_LEN];
        assert_eq!(request.encode(&mut again), Some(len));
        assert_eq!(Request::parse(&again[..len]), Ok(Some((request, len))));
    }
    if let Some((response, len)) = check(bytes, Response::parse) {
        let mut again = [0; MAX_REQUEST_LEN];
        assert_eq!(response.encode(&mut again), Some(len));
        assert_eq!(Response::parse(&again[..len]), Ok(Some((response, len))));
    }
    assert_eq!(socks::parse_udp_prefix(bytes).is_ok(), bytes.len() >= 3);
});
