//! The HTTP upgrade: anything that a client or server may send, and anything that may be configured.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use ssr::wire::http::{self, Endpoint, NONCE_LEN, parse_request, parse_response};

const NONCE: [u8; NONCE_LEN] = *b"the sample nonce";

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    path: &'a str,
    host: &'a str,
    field: (&'a str, &'a str),
    checks_host: bool,
    bytes: &'a [u8],
}

/// A complete head is complete whatever follows, and an error stays.
fn check<T: PartialEq + std::fmt::Debug, E: PartialEq + std::fmt::Debug>(
    bytes: &[u8],
    parse: impl Fn(&[u8]) -> Result<Option<T>, E>,
) {
    let parsed = parse(bytes);
    for cut in 0..bytes.len() {
        match parse(&bytes[..cut]) {
            Ok(None) => {}
            early => {
                assert_eq!(early.is_err(), parsed.is_err());
                if early.is_ok() {
                    assert_eq!(early, parsed);
                }
            }
        }
    }
}

fuzz_target!(|input: Input<'_>| {
    let bytes = &input.bytes[..input.bytes.len().min(700)];
    let endpoint = Endpoint {
        path: input.path.into(),
        host: Some(input.host.into()),
        fields: vec![(input.field.0.into(), input.field.1.into())],
    };
    check(bytes, |bytes| parse_response(bytes, NONCE));
    let plain = Endpoint {
        path: "/".into(),
        host: input.checks_host.then(|| "example.com".into()),
        fields: Vec::new(),
    };
    check(bytes, |bytes| parse_request(bytes, &plain));
    if let Ok(Some((upgrade, len))) = parse_request(bytes, &plain) {
        assert!(len <= bytes.len());
        let peer = std::net::Ipv4Addr::LOCALHOST.into();
        assert_eq!(upgrade.client(peer, |_| false), peer);
        let _ = upgrade.client(peer, |_| true);
    }
    // A request of ours is exactly one head.
    if let Some(request) = http::request(&endpoint, NONCE) {
        assert_eq!(request.matches("\r\n\r\n").count(), 1);
        assert!(request.ends_with("\r\n\r\n"));
        let any = Endpoint {
            host: None,
            ..endpoint
        };
        if let Ok(Some((upgrade, len))) = parse_request(request.as_bytes(), &any) {
            assert_eq!(len, request.len());
            let response = upgrade.response();
            assert_eq!(
                parse_response(response.as_bytes(), NONCE),
                Ok(Some(response.len()))
            );
        }
    }
    for refusal in [http::RequestError::NotFound, http::RequestError::Version] {
        assert!(refusal.page(bytes.len() as u64).starts_with("HTTP/1.1 4"));
    }
});
