use super::*;
use crate::wire::ss::{MAX_PADDING, MAX_TIME_SKEW};

/// Address, padding length, padding, payload.
fn variable(padding: usize, payload: &[u8]) -> Vec<u8> {
    let mut bytes = encoded(&target());
    bytes.extend_from_slice(&u16::try_from(padding).unwrap().to_be_bytes());
    bytes.extend(vec![0x77; padding]);
    bytes.extend_from_slice(payload);
    bytes
}

/// Opens a request with this variable header on a server with one key.
fn served(method: Method, header: &[u8]) -> Result<(Option<Address>, Vec<u8>), Error> {
    let ends = single(method);
    let mut hand = Hand::new(method, &key(method, 1), salt(method, 5));
    hand.head(0, NOW, header.len(), header);
    let mut server = Receiver::server(&ends.accounts);
    server.feed(&hand.bytes)?;
    Ok((server.target, server.plain))
}

#[test]
fn request_is_refused_more_than_30_s_off() {
    for method in of_2022() {
        let ends = single(method);
        let header = variable(1, &[]);
        let served = |time: u64| {
            let mut hand = Hand::new(method, &key(method, 1), salt(method, 5));
            hand.head(0, time, header.len(), &header);
            Receiver::server(&ends.accounts).feed(&hand.bytes)
        };
        for off in [0, 1, MAX_TIME_SKEW] {
            assert_eq!((served(NOW - off), served(NOW + off)), (Ok(()), Ok(())));
        }
        let text = served(NOW + 31).unwrap_err().to_string();
        assert!(
            text.contains(&format!("at most {MAX_TIME_SKEW} s")),
            "{text}"
        );
        assert_eq!(served(NOW + 31), Err(Error::TimestampSkew { seconds: 31 }));
        assert_eq!(served(NOW - 31), Err(Error::TimestampSkew { seconds: -31 }));
        let ahead = |time| match served(time) {
            Err(Error::TimestampSkew { seconds }) => seconds,
            other => panic!("{other:?}"),
        };
        assert!(ahead(0) < -31 && ahead(u64::MAX) > 31);
    }
}

#[test]
fn response_is_refused_more_than_30_s_off() {
    for method in of_2022() {
        let ends = single(method);
        let answered = |now: u64| {
            Receiver::client(&ends.credentials)
                .at(now)
                .feed(&response(&ends, None, b"x"))
        };
        for now in [NOW - MAX_TIME_SKEW, NOW, NOW + MAX_TIME_SKEW] {
            assert_eq!(answered(now), Ok(()));
        }
        let skew = |seconds| Err(Error::TimestampSkew { seconds });
        assert_eq!(answered(NOW + 31), skew(-31));
        assert_eq!(answered(NOW - 31), skew(31));
    }
}

#[test]
fn sip004_asks_for_no_time() {
    for method in aead_2017().chain([Method::None]) {
        let ends = single(method);
        let sealed = request(&ends, &target(), b"x");
        assert_eq!(
            Receiver::server(&ends.accounts).at(u64::MAX).feed(&sealed),
            Ok(())
        );
        let answer = response(&ends, None, b"x");
        assert_eq!(
            Receiver::client(&ends.credentials).at(0).feed(&answer),
            Ok(())
        );
    }
}

#[test]
fn header_of_the_other_direction_is_refused() {
    for method in of_2022() {
        let ends = single(method);
        let header = variable(1, &[]);
        for kind in [1, 2, 255] {
            let mut hand = Hand::new(method, &key(method, 1), salt(method, 5));
            hand.head(kind, NOW, header.len(), &header);
            assert_eq!(
                Receiver::server(&ends.accounts).feed(&hand.bytes),
                Err(Error::HeaderType(kind))
            );
        }
        for kind in [0, 2, 255] {
            let mut hand = Hand::new(method, &key(method, 1), salt(method, 6));
            hand.answer(kind, NOW, salt(method, 5).as_slice(), b"x");
            assert_eq!(
                Receiver::client(&ends.credentials).feed(&hand.bytes),
                Err(Error::HeaderType(kind))
            );
        }
    }
}

#[test]
fn stream_sent_back_to_its_sender_does_not_open() {
    for method in of_2022() {
        let ends = single(method);
        let mut client = Receiver::client(&ends.credentials);
        assert!(
            client
                .feed(&request(&ends, &target(), &pattern(300)))
                .is_err()
        );
        let mut server = Receiver::server(&ends.accounts);
        assert!(server.feed(&response(&ends, None, &pattern(300))).is_err());
        assert!(!server.authenticated && server.plain.is_empty() && client.plain.is_empty());
    }
}

#[test]
fn request_of_2017_sent_back_is_no_response() {
    for method in aead_2017() {
        let ends = single(method);
        let mut client = Receiver::client(&ends.credentials);
        let sent_back = client.feed(&request(&ends, &target(), &pattern(300)));
        assert_eq!(
            (sent_back, client.plain),
            (Err(Error::Replayed), Vec::new())
        );
    }
}

#[test]
fn response_to_another_request_is_refused() {
    for method in of_2022() {
        let ends = single(method);
        let mut hand = Hand::new(method, &key(method, 1), salt(method, 6));
        hand.answer(1, NOW, salt(method, 7).as_slice(), b"x");
        assert_eq!(
            Receiver::client(&ends.credentials).feed(&hand.bytes),
            Err(Error::SaltMismatch)
        );
    }
}

#[test]
fn padding_rules_hold() {
    for method in of_2022() {
        let ok = |payload: &[u8]| Ok((Some(target()), payload.to_vec()));
        assert_eq!(served(method, &variable(0, b"x")), ok(b"x"));
        assert_eq!(served(method, &variable(1, &[])), ok(&[]));
        assert_eq!(served(method, &variable(MAX_PADDING, b"x")), ok(b"x"));
        // Neither payload nor padding.
        assert_eq!(served(method, &variable(0, &[])), Err(Error::Padding));
        assert_eq!(
            served(method, &variable(MAX_PADDING + 1, b"x")),
            Err(Error::Padding)
        );
        // Padding longer than the header.
        let mut header = variable(20, &[]);
        for _ in 0..20 {
            header.pop();
            assert_eq!(served(method, &header), Err(Error::Padding));
        }
    }
}

#[test]
fn variable_header_cut_short_is_refused_at_every_byte() {
    for method in of_2022() {
        let header = variable(1, &[]);
        for cut in 0..header.len() {
            assert!(served(method, &header[..cut]).is_err(), "{cut}");
        }
        assert_eq!(
            served(method, &[0x05, 0, 0, 0, 0, 0, 0]),
            Err(Error::AddressType(5))
        );
        assert_eq!(
            served(method, &[0x03, 0, 0, 80, 0, 0, 1]),
            Err(Error::AddressDomain)
        );
    }
}

#[test]
fn variable_header_may_be_as_long_as_its_length_can_say() {
    for method in of_2022() {
        let payload = pattern(0xFFFF - variable(900, &[]).len());
        let header = variable(900, &payload);
        assert_eq!(header.len(), 0xFFFF);
        assert!(served(method, &header) == Ok((Some(target()), payload)));
    }
}

#[test]
fn announced_length_is_waited_for_and_not_less() {
    for method in of_2022() {
        let ends = single(method);
        let header = variable(1, &[]);
        let mut hand = Hand::new(method, &key(method, 1), salt(method, 5));
        hand.head(0, NOW, 0xFFFF, &header);
        let mut server = Receiver::server(&ends.accounts);
        server.feed(&hand.bytes).unwrap();
        assert!(server.authenticated && server.target.is_none());
        assert_eq!(server.feed(&vec![0; 0xFFFF]), Err(Error::Unauthenticated));
    }
}

#[test]
fn head_is_authenticated_by_salt_and_fixed_header_alone() {
    for ends in every_end().filter(|ends| ends.accounts.method() != Method::None) {
        let method = ends.accounts.method();
        let sealed = request(&ends, &target(), b"x");
        let fixed = match method.family() {
            Family::Aead2022 => 11 + 16 + if ends.accounts.has_users() { 16 } else { 0 },
            _ => 2 + 16,
        };
        let needed = method.salt_len() + fixed;
        let mut server = Receiver::server(&ends.accounts);
        server.feed(&sealed[..needed - 1]).unwrap();
        assert!(!server.authenticated);
        server.feed(&sealed[needed - 1..needed]).unwrap();
        assert!(server.authenticated && server.target.is_none());
    }
}

#[test]
fn sip004_address_may_be_cut_by_chunks_anywhere() {
    for method in aead_2017() {
        let ends = single(method);
        let payload = pattern(9);
        let plain = [encoded(&target()), payload.clone()].concat();
        for first in 0..plain.len() {
            for second in (first..plain.len()).step_by(3) {
                let mut hand = Hand::new(method, &key(method, 1), salt(method, 5));
                hand.chunk(&plain[..first])
                    .chunk(&plain[first..second])
                    .chunk(&[])
                    .chunk(&plain[second..]);
                hand.chunk(b"more");
                for piece in [1, 7, hand.bytes.len()] {
                    let mut server = Receiver::server(&ends.accounts);
                    hand.bytes
                        .chunks(piece)
                        .for_each(|piece| server.feed(piece).unwrap());
                    assert_eq!(server.target, Some(target()));
                    assert_eq!(
                        server.plain,
                        [payload.as_slice(), b"more"].concat(),
                        "{first} {second} {piece}"
                    );
                }
            }
        }
    }
}

#[test]
fn bad_address_is_refused_as_soon_as_it_can_be_seen() {
    for method in aead_2017().chain([Method::None]) {
        let ends = single(method);
        for (bytes, error) in [
            ([0x00].as_slice(), Error::AddressType(0)),
            (&[0x03, 0], Error::AddressDomain),
        ] {
            let sealed = if method == Method::None {
                bytes.to_vec()
            } else {
                Hand::new(method, &key(method, 1), salt(method, 5))
                    .chunk(bytes)
                    .bytes
                    .clone()
            };
            assert_eq!(Receiver::server(&ends.accounts).feed(&sealed), Err(error));
        }
    }
}

#[test]
fn each_user_is_known_by_its_identity() {
    for method in WITH_IDENTITY {
        for seed in [10, 11, 12] {
            let ends = shared(method, seed);
            let mut server = Receiver::server(&ends.accounts);
            server.feed(&request(&ends, &target(), b"x")).unwrap();
            assert_eq!(server.user, Some(usize::from(seed - 10)));
            let answer = response(&ends, server.user, b"back");
            let mut client = Receiver::client(&ends.credentials);
            client.feed(&answer).unwrap();
            assert_eq!(client.plain, b"back");
            let mut other =
                Receiver::client(&shared(method, if seed == 10 { 11 } else { 10 }).credentials);
            assert_eq!(other.feed(&answer), Err(Error::Unauthenticated));
        }
    }
}

#[test]
fn unknown_user_is_refused() {
    for method in WITH_IDENTITY {
        let ends = shared(method, 13);
        let sealed = request(&ends, &target(), b"x");
        assert_eq!(
            Receiver::server(&ends.accounts).feed(&sealed),
            Err(Error::UnknownIdentity)
        );
        // A client that knows only the server's key.
        let stranger = single(method);
        let sealed = request(&stranger, &target(), b"x");
        assert_eq!(
            Receiver::server(&ends.accounts).feed(&sealed),
            Err(Error::UnknownIdentity)
        );
        // A client that knows only its own key.
        let credentials = Credentials::new(method, vec![key(method, 2)], key(method, 11));
        let ends = Ends {
            credentials,
            accounts: ends.accounts,
        };
        let sealed = request(&ends, &target(), b"x");
        assert_eq!(
            Receiver::server(&ends.accounts).feed(&sealed),
            Err(Error::UnknownIdentity)
        );
    }
}

#[test]
fn request_passes_through_two_relays() {
    for method in WITH_IDENTITY {
        let credentials = Credentials::new(
            method,
            vec![key(method, 1), key(method, 2), key(method, 3)],
            key(method, 4),
        );
        assert_eq!(credentials.identities(), 3);
        let relay = |own: u8, next: u8| {
            let other = Account::new(key(method, 99));
            Accounts::new(
                method,
                key(method, own),
                vec![
                    other,
                    Account {
                        relayed: true,
                        ..Account::new(key(method, next))
                    },
                ],
            )
        };
        let (first, second) = (relay(1, 2), relay(2, 3));
        let account = Account::new(key(method, 4));
        let last = Accounts::new(method, key(method, 3), vec![account]);
        let ends = Ends {
            credentials,
            accounts: last,
        };
        let sealed = request(&ends, &target(), b"hello");
        let mut passed = sealed.clone();
        for relay in [&first, &second] {
            let mut server = Receiver::server(relay);
            server.feed(&passed).unwrap();
            let (user, rest) = server.relayed.unwrap();
            assert!(user == 1 && rest.len() == passed.len() - 16 && !server.authenticated);
            passed = rest;
        }
        let mut server = Receiver::server(&ends.accounts);
        server.feed(&passed).unwrap();
        assert_eq!(
            (server.target, server.plain.as_slice(), server.user),
            (Some(target()), b"hello".as_slice(), Some(0))
        );
        // The relay's own key does not open anything at the next server.
        assert_eq!(
            Receiver::server(&second).feed(&sealed),
            Err(Error::UnknownIdentity)
        );
    }
}

#[test]
fn methods_without_users_have_none() {
    for method in Method::ALL
        .into_iter()
        .filter(|method| !method.supports_users())
    {
        let users = vec![Account {
            relayed: true,
            ..Account::new(key(method, 9))
        }];
        let accounts = Accounts::new(method, key(method, 1), users);
        assert!(!accounts.has_users());
        let ends = Ends {
            accounts,
            ..single(method)
        };
        let mut server = Receiver::server(&ends.accounts);
        server.feed(&request(&ends, &target(), b"x")).unwrap();
        assert_eq!((server.user, server.target), (None, Some(target())));
    }
}

#[test]
fn another_key_opens_nothing() {
    for method in SEALED {
        let ends = single(method);
        let accounts = Accounts::new(method, key(method, 2), Vec::new());
        let sealed = request(&ends, &target(), b"x");
        assert_eq!(
            Receiver::server(&accounts).feed(&sealed),
            Err(Error::Unauthenticated)
        );
        let credentials = Credentials::new(method, Vec::new(), key(method, 2));
        let answer = response(&ends, None, b"x");
        assert_eq!(
            Receiver::client(&credentials).feed(&answer),
            Err(Error::Unauthenticated)
        );
    }
}
