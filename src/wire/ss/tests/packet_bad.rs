use super::super::packet::{ClientPackets, has_sessions};
use super::packet::{SERVER, SESSION, Server, body, client_sealer, open, seal, server_sealer};
use super::*;
use crate::crypto::Block;
use crate::wire::ss::{MAX_PADDING, MAX_TIME_SKEW};

/// An AEAD-2022 packet sealed manually, without identities.
fn by_hand(method: Method, session: u64, id: u64, content: &[u8]) -> Vec<u8> {
    let header = [session.to_be_bytes(), id.to_be_bytes()].concat();
    let psk = key(method, 1);
    if method.supports_identity() {
        let aead = Aead::packet(method, &psk.session_subkey(method, &header[..8])).unwrap();
        let mut sealed = content.to_vec();
        let tag = aead.seal(&header[4..], &mut sealed).unwrap();
        let mut block: [u8; 16] = header.try_into().unwrap();
        Block::new(&psk).encrypt(&mut block);
        return [&block[..], &sealed, &tag].concat();
    }
    let aead = Aead::packet(method, &psk).unwrap();
    let mut sealed = [&header, content].concat();
    let tag = aead.seal(&[9; 24], &mut sealed).unwrap();
    [&[9; 24], &sealed[..], &tag].concat()
}

/// Type, time, client session (responses only), padding length, padding.
fn front(kind: u8, time: u64, peer: Option<u64>, padding: usize, given: usize) -> Vec<u8> {
    let mut bytes = vec![kind];
    bytes.extend_from_slice(&time.to_be_bytes());
    bytes.extend(peer.into_iter().flat_map(u64::to_be_bytes));
    bytes.extend_from_slice(&u16::try_from(padding).unwrap().to_be_bytes());
    bytes.extend(vec![0x77; given]);
    bytes
}

fn served(method: Method, content: &[u8]) -> Result<Vec<u8>, Error> {
    Server::new(&single(method).accounts).open(&by_hand(method, SESSION, 7, content))
}

fn answered(method: Method, content: &[u8]) -> Result<Vec<u8>, Error> {
    let mut client = ClientPackets::new(&single(method).credentials, SESSION);
    open(&mut client, &by_hand(method, SERVER, 7, content))
}

#[test]
fn packet_is_refused_more_than_30_s_off() {
    for method in of_2022() {
        let to_server = |time| served(method, &[front(0, time, None, 0, 0), body(1)].concat());
        let to_client = |time| {
            answered(
                method,
                &[front(1, time, Some(SESSION), 0, 0), body(1)].concat(),
            )
        };
        for time in [NOW - MAX_TIME_SKEW, NOW, NOW + MAX_TIME_SKEW] {
            assert_eq!(
                (to_server(time), to_client(time)),
                (Ok(body(1)), Ok(body(1)))
            );
        }
        for (time, seconds) in [(NOW - 31, -31), (NOW + 31, 31)] {
            let error = Err(Error::TimestampSkew { seconds });
            assert_eq!((to_server(time), to_client(time)), (error.clone(), error));
        }
        for time in [0, u64::MAX] {
            assert!(matches!(to_server(time), Err(Error::TimestampSkew { .. })));
            assert!(matches!(to_client(time), Err(Error::TimestampSkew { .. })));
        }
    }
}

#[test]
fn packet_of_the_other_direction_is_refused() {
    for method in of_2022() {
        let ends = single(method);
        let (packet, answer) = (
            seal(&mut client_sealer(&ends), &body(9), 1),
            seal(&mut server_sealer(&ends, SERVER), &body(9), 1),
        );
        assert_eq!(
            Server::new(&ends.accounts).open(&answer),
            Err(Error::HeaderType(1))
        );
        let mut client = ClientPackets::new(&ends.credentials, SESSION);
        assert_eq!(open(&mut client, &packet), Err(Error::HeaderType(0)));
        for kind in [2, 255] {
            let content = [front(kind, NOW, Some(SESSION), 0, 0), body(1)].concat();
            assert_eq!(served(method, &content), Err(Error::HeaderType(kind)));
            assert_eq!(answered(method, &content), Err(Error::HeaderType(kind)));
        }
    }
}

#[test]
fn packet_padding_is_skipped_and_bounded() {
    for method in of_2022() {
        for len in [0, 1, MAX_PADDING] {
            assert_eq!(
                served(method, &[front(0, NOW, None, len, len), body(1)].concat()),
                Ok(body(1))
            );
            assert_eq!(
                answered(
                    method,
                    &[front(1, NOW, Some(SESSION), len, len), body(1)].concat()
                ),
                Ok(body(1))
            );
        }
        let long = MAX_PADDING + 1;
        assert_eq!(
            served(method, &[front(0, NOW, None, long, long), body(1)].concat()),
            Err(Error::Padding)
        );
        assert_eq!(
            served(method, &front(0, NOW, None, 20, 19)),
            Err(Error::Padding)
        );
        assert_eq!(
            answered(method, &front(1, NOW, Some(SESSION), 20, 19)),
            Err(Error::Padding)
        );
    }
}

#[test]
fn body_cut_short_is_refused_at_every_byte() {
    for method in of_2022() {
        let content = front(0, NOW, None, 0, 0);
        for cut in 0..content.len() {
            assert_eq!(served(method, &content[..cut]), Err(Error::Truncated));
        }
        assert_eq!(served(method, &content), Ok(Vec::new()));
        let content = front(1, NOW, Some(SESSION), 0, 0);
        for cut in 0..content.len() {
            assert_eq!(answered(method, &content[..cut]), Err(Error::Truncated));
        }
        assert_eq!(answered(method, &content), Ok(Vec::new()));
    }
}

#[test]
fn packet_cut_or_changed_is_refused_and_moves_nothing() {
    for ends in every_end().filter(|ends| ends.accounts.method() != Method::None) {
        let method = ends.accounts.method();
        let (mut sealer, mut answers) = (client_sealer(&ends), server_sealer(&ends, SERVER));
        let (packet, answer) = (
            seal(&mut sealer, &body(20), 1),
            seal(&mut answers, &body(20), 1),
        );
        for begun in [false, true] {
            let mut server = Server::new(&ends.accounts);
            let mut client = ClientPackets::new(&ends.credentials, SESSION);
            if begun {
                server.open(&seal(&mut sealer, &body(1), 2)).unwrap();
                open(&mut client, &seal(&mut answers, &body(1), 2)).unwrap();
            }
            for cut in 0..packet.len() {
                assert!(server.open(&packet[..cut]).is_err(), "{method} {cut}");
            }
            for cut in 0..answer.len() {
                assert!(open(&mut client, &answer[..cut]).is_err(), "{method} {cut}");
            }
            for bit in [0, 7] {
                for at in 0..packet.len() {
                    let mut changed = packet.clone();
                    changed[at] ^= 1 << bit;
                    assert!(server.open(&changed).is_err(), "{method} {at}");
                }
                for at in 0..answer.len() {
                    let mut changed = answer.clone();
                    changed[at] ^= 1 << bit;
                    assert!(open(&mut client, &changed).is_err(), "{method} {at}");
                }
            }
            assert_eq!(
                server.open(&[&packet[..], b"x"].concat()),
                Err(Error::Unauthenticated)
            );
            assert_eq!(server.open(&packet), Ok(body(20)));
            assert_eq!(open(&mut client, &answer), Ok(body(20)));
        }
    }
}

#[test]
fn refused_packet_does_not_move_the_window() {
    // Authentic but refused: too old, or of the other direction. Its id stays unused.
    for method in of_2022() {
        let ends = single(method);
        let mut server = Server::new(&ends.accounts);
        let good = |id| {
            by_hand(
                method,
                SESSION,
                id,
                &[front(0, NOW, None, 0, 0), body(1)].concat(),
            )
        };
        server.open(&good(5)).unwrap();
        let far = u64::MAX - 1;
        for content in [
            front(0, NOW - 31, None, 0, 0),
            front(1, NOW, Some(SESSION), 0, 0),
            front(0, NOW, None, 901, 901),
        ] {
            assert!(
                server
                    .open(&by_hand(method, SESSION, far, &content))
                    .is_err()
            );
        }
        for id in [0, 1, 4, 6, far] {
            assert_eq!(server.open(&good(id)), Ok(body(1)), "{id}");
        }
        assert_eq!(server.open(&good(7)), Err(Error::Replayed));
        let mut client = ClientPackets::new(&ends.credentials, SESSION);
        let good = |id| {
            by_hand(
                method,
                SERVER,
                id,
                &[front(1, NOW, Some(SESSION), 0, 0), body(1)].concat(),
            )
        };
        open(&mut client, &good(5)).unwrap();
        for content in [
            front(1, NOW - 31, Some(SESSION), 0, 0),
            front(0, NOW, None, 0, 0),
            front(1, NOW, Some(SESSION + 1), 0, 0),
            front(1, NOW, Some(SESSION), 901, 901),
        ] {
            assert!(open(&mut client, &by_hand(method, SERVER, far, &content)).is_err());
        }
        for id in [0, 4, 6, far] {
            assert_eq!(open(&mut client, &good(id)), Ok(body(1)), "{id}");
        }
        assert_eq!(open(&mut client, &good(7)), Err(Error::Replayed));
    }
}

#[test]
fn another_key_opens_no_packet() {
    for method in SEALED {
        let ends = single(method);
        let accounts = Accounts::new(method, key(method, 2), Vec::new());
        let packet = seal(&mut client_sealer(&ends), &body(9), 1);
        assert_eq!(
            Server::new(&accounts).open(&packet),
            Err(Error::Unauthenticated)
        );
        let credentials = Credentials::new(method, Vec::new(), key(method, 2));
        let answer = seal(&mut server_sealer(&ends, SERVER), &body(9), 1);
        assert_eq!(
            open(&mut ClientPackets::new(&credentials, SESSION), &answer),
            Err(Error::Unauthenticated)
        );
    }
}

#[test]
fn packet_found_under_one_name_does_not_open_under_another() {
    // A caller that confuses two sessions gets an error and no plaintext.
    for method in WITH_IDENTITY {
        let (ends, other) = (shared(method, 11), shared(method, 12));
        let mut packet = seal(&mut client_sealer(&ends), &body(9), 1);
        let found = ends.accounts.identify(&mut packet).unwrap();
        let mut foreign = seal(&mut client_sealer(&other), &body(9), 1);
        let mut session = super::super::packet::ServerPackets::new(&ends.accounts, &found).unwrap();
        let found = ends.accounts.identify(&mut foreign).unwrap();
        assert_eq!(
            session.open(&mut foreign, None, &found, NOW),
            Err(Error::Unauthenticated)
        );
    }
}

#[test]
fn relay_refuses_a_packet_that_has_shrunk() {
    for method in WITH_IDENTITY {
        let ends = shared(method, 11);
        let mut packet = seal(&mut client_sealer(&ends), &body(1), 1);
        let found = ends.accounts.identify(&mut packet).unwrap();
        for len in 0..32 {
            assert_eq!(
                ends.accounts
                    .rewrite_for_next_server(&mut packet[..len], &found),
                Err(Error::Truncated)
            );
        }
        let empty = single(method);
        assert!(has_sessions(method) && empty.accounts.identify(&mut []).is_err());
    }
}
