//! Encoding, text, and invalid addresses.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::net::SocketAddrV4;

use proptest::prelude::*;

use super::*;

/// Addresses of all three types.
pub(in crate::wire) fn addresses() -> impl Strategy<Value = Address> {
    prop_oneof![
        any::<SocketAddrV4>().prop_map(|address| Address::Ip(address.into())),
        any::<(Ipv6Addr, u16)>().prop_map(|address| Address::Ip(address.into())),
        ("[^\\s\\p{Cc}]{1,63}", any::<u16>())
            .prop_map(|(name, port)| Address::domain(&name, port).unwrap()),
    ]
}

fn encoded(address: &Address) -> Vec<u8> {
    let mut out = vec![0; address.as_ref().encoded_len()];
    assert_eq!(address.as_ref().encode(&mut out), Some(out.len()));
    out
}

/// `0x03 ‖ length ‖ name ‖ port 80`.
fn domain(name: &[u8]) -> Vec<u8> {
    let len = u8::try_from(name.len()).unwrap();
    [&[DOMAIN, len], name, &[0, 80]].concat()
}

#[test]
fn writes_the_bytes_of_rfc_1928() {
    for (text, bytes) in [
        ("192.0.2.1:80", "01c00002010050"),
        (
            "[2001:db8::1]:443",
            "0420010db800000000000000000000000101bb",
        ),
        (
            "[::ffff:192.0.2.1]:1",
            "0400000000000000000000ffffc00002010001",
        ),
        ("example.com:65535", "030b6578616d706c652e636f6dffff"),
    ] {
        let address: Address = text.parse().unwrap();
        assert_eq!(hex::encode(encoded(&address)), bytes);
        let bytes = hex::decode(bytes).unwrap();
        assert_eq!(
            AddressRef::parse(&bytes),
            Ok(Some((address.as_ref(), bytes.len())))
        );
        assert_eq!(address.to_string(), text);
    }
}

#[test]
fn a_name_that_is_an_ip_address_stays_a_name() {
    for (name, text) in [
        ("192.0.2.1", "192.0.2.1:80"),
        ("2001:db8::1", "[2001:db8::1]:80"),
    ] {
        let bytes = domain(name.as_bytes());
        let (address, _) = AddressRef::parse(&bytes).unwrap().unwrap();
        assert_eq!(address, AddressRef::Domain(name, 80));
        assert_eq!(address.to_string(), text);
    }
}

#[test]
fn refuses_other_types() {
    for kind in (0..=u8::MAX).filter(|kind| ![IPV4, DOMAIN, IPV6].contains(kind)) {
        assert_eq!(AddressRef::parse(&[kind]), Err(Error::AddressType(kind)));
        assert_eq!(
            AddressRef::parse(&[kind; 300]),
            Err(Error::AddressType(kind))
        );
    }
}

#[test]
fn refuses_names_that_could_harm_a_log_or_a_resolver() {
    let bad: [&[u8]; 9] = [
        b"",
        b"\0",
        b"a b",
        b"a\n",
        b"\ta",
        b"a\x7f",
        b"\xff\xfe",
        "a\u{85}b".as_bytes(),
        "a\u{2028}b".as_bytes(),
    ];
    for name in bad {
        assert_eq!(
            AddressRef::parse(&domain(name)),
            Err(Error::AddressDomain),
            "{name:?}"
        );
        if let Ok(name) = std::str::from_utf8(name) {
            assert_eq!(Address::domain(name, 80), Err(Error::AddressDomain));
        }
    }
    // An empty name is refused before the port has arrived.
    assert_eq!(AddressRef::parse(&[DOMAIN, 0]), Err(Error::AddressDomain));
}

#[test]
fn takes_names_of_1_to_255_bytes() {
    for len in [1, 63, 64, 254, 255] {
        let name = "x".repeat(len);
        let bytes = domain(name.as_bytes());
        let (address, used) = AddressRef::parse(&bytes).unwrap().unwrap();
        assert_eq!(
            (address, used),
            (AddressRef::Domain(&name, 80), bytes.len())
        );
        assert!(used <= Address::MAX_LEN);
    }
    assert_eq!(Address::MAX_LEN, 259);
    let long = "x".repeat(256);
    assert_eq!(Address::domain(&long, 80), Err(Error::AddressDomain));
    assert_eq!(AddressRef::Domain(&long, 80).encode(&mut [0; 300]), None);
    assert_eq!(AddressRef::Domain("", 80).encode(&mut [0; 300]), None);
}

#[test]
fn says_what_is_wrong_with_a_text() {
    for (text, error) in [
        ("", AddressTextError::NoPort),
        ("example.com", AddressTextError::NoPort),
        ("[::1]", AddressTextError::NoPort),
        ("example.com:", AddressTextError::Port),
        ("example.com:http", AddressTextError::Port),
        ("example.com:65536", AddressTextError::Port),
        ("example.com:+80", AddressTextError::Port),
        ("::1:80", AddressTextError::Brackets),
        ("[example.com]:80", AddressTextError::Brackets),
        ("[192.0.2.1]:80", AddressTextError::Brackets),
        ("http://example.com:80", AddressTextError::Url),
        ("http://example.com", AddressTextError::Url),
        ("example.com:80/", AddressTextError::Url),
        (":80", AddressTextError::Host),
        ("exam ple.com:80", AddressTextError::Host),
    ] {
        assert_eq!(text.parse::<Address>(), Err(error), "{text}");
    }
    let localhost = Address::domain("localhost", 0).unwrap();
    assert_eq!("localhost:0".parse(), Ok(localhost));
}

proptest! {
    #[test]
    fn round_trips(address in addresses(), tail in prop::collection::vec(any::<u8>(), 0..9)) {
        let mut bytes = encoded(&address);
        let len = bytes.len();
        bytes.extend(&tail);
        let (parsed, used) = AddressRef::parse(&bytes).unwrap().unwrap();
        prop_assert_eq!(used, len);
        prop_assert_eq!(parsed.encoded_len(), len);
        prop_assert_eq!(parsed.port(), address.port());
        prop_assert_eq!(&AddressRef::to_owned(&parsed), &address);
        prop_assert_eq!(&Address::from(parsed), &address);
    }

    #[test]
    fn waits_for_the_rest(address in addresses()) {
        let bytes = encoded(&address);
        for len in 0..bytes.len() {
            prop_assert_eq!(AddressRef::parse(&bytes[..len]), Ok(None));
            prop_assert_eq!(address.as_ref().encode(&mut vec![0; len]), None);
        }
    }

    #[test]
    fn text_round_trips(address in prop_oneof![
        any::<SocketAddrV4>().prop_map(|address| Address::Ip(address.into())),
        any::<(Ipv6Addr, u16)>().prop_map(|address| Address::Ip(address.into())),
        ("[a-z][a-z0-9.-]{0,60}", any::<u16>()).prop_map(|(name, port)| Address::Domain(name.into(), port)),
    ]) {
        prop_assert_eq!(address.to_string().parse(), Ok(address));
    }

    #[test]
    fn survives_garbage(bytes in prop::collection::vec(any::<u8>(), 0..300), kind in 0_u8..6) {
        let bytes = [&[kind], &*bytes].concat();
        if let Ok(Some((address, used))) = AddressRef::parse(&bytes) {
            prop_assert_eq!(encoded(&address.into()), &bytes[..used]);
        }
    }
}
