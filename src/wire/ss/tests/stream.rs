use std::io::IoSliceMut;

use super::super::stream::{CHUNK, Fresh, MAX_CHUNK_2017, MAX_CHUNK_2022, Opener, Sealer};
use super::*;

/// Payload lengths around every limit.
const LENGTHS: [usize; 10] = [
    0,
    1,
    2,
    17,
    CHUNK - 300,
    CHUNK - 1,
    CHUNK,
    CHUNK + 1,
    3 * CHUNK,
    7 * CHUNK + 5,
];

#[test]
fn request_reaches_the_server() {
    for ends in every_end() {
        for target in targets() {
            for len in LENGTHS {
                let payload = pattern(len);
                let mut server = Receiver::server(&ends.accounts);
                server.feed(&request(&ends, &target, &payload)).unwrap();
                assert_eq!(
                    server.target.as_ref(),
                    Some(&target),
                    "{} {len}",
                    ends.accounts.method()
                );
                assert!(
                    server.plain == payload && server.at_boundary(),
                    "{} {len}",
                    ends.accounts.method()
                );
                assert_eq!(server.user, ends.accounts.has_users().then_some(1));
            }
        }
    }
}

#[test]
fn response_reaches_the_client() {
    for ends in every_end() {
        for len in LENGTHS {
            let payload = pattern(len);
            let mut client = Receiver::client(&ends.credentials);
            let user = ends.accounts.has_users().then_some(1);
            client.feed(&response(&ends, user, &payload)).unwrap();
            assert!(
                client.plain == payload && client.at_boundary(),
                "{} {len}",
                ends.accounts.method()
            );
        }
    }
}

#[test]
fn streams_open_in_any_two_pieces_and_byte_by_byte() {
    for ends in every_end() {
        let payload = pattern(40);
        let sealed = request(&ends, &target(), &payload);
        let user = ends.accounts.has_users().then_some(1);
        let answer = response(&ends, user, &payload);
        for cut in 0..=sealed.len() {
            let mut server = Receiver::server(&ends.accounts);
            server.feed(&sealed[..cut]).unwrap();
            assert!(payload.starts_with(&server.plain));
            server.feed(&sealed[cut..]).unwrap();
            assert_eq!(
                (server.plain, server.target),
                (payload.clone(), Some(target()))
            );
        }
        for cut in 0..=answer.len() {
            let mut client = Receiver::client(&ends.credentials);
            client.feed(&answer[..cut]).unwrap();
            assert!(payload.starts_with(&client.plain));
            client.feed(&answer[cut..]).unwrap();
            assert_eq!(client.plain, payload);
        }
        let (mut server, mut client) = (
            Receiver::server(&ends.accounts),
            Receiver::client(&ends.credentials),
        );
        sealed
            .iter()
            .for_each(|byte| server.feed(&[*byte]).unwrap());
        answer
            .iter()
            .for_each(|byte| client.feed(&[*byte]).unwrap());
        assert_eq!((server.plain, client.plain), (payload.clone(), payload));
    }
}

#[test]
fn streams_of_many_chunks_open_byte_by_byte() {
    for method in SEALED {
        let ends = single(method);
        let mut sealer = Sealer::request(&ends.credentials, salt(method, 5), target().as_ref());
        let mut sealed = Vec::new();
        for len in [3, 1, 30, 2] {
            sealed.extend(seal_all(&mut sealer, &pattern(len), 1000));
        }
        let mut server = Receiver::server(&ends.accounts);
        sealed
            .iter()
            .for_each(|byte| server.feed(&[*byte]).unwrap());
        assert_eq!(
            server.plain,
            [pattern(3), pattern(1), pattern(30), pattern(2)].concat()
        );
        assert!(server.at_boundary());
    }
}

#[test]
fn whole_request_in_one_read_needs_nothing_more() {
    // Address and payload in the first chunk, then nothing: the client waits for the response.
    for ends in every_end() {
        let sealed = request(&ends, &target(), b"GET /");
        let mut server = Receiver::server(&ends.accounts);
        server.feed(&sealed).unwrap();
        assert_eq!(
            (server.target, server.plain.as_slice()),
            (Some(target()), b"GET /".as_slice())
        );
    }
}

#[test]
fn truncated_stream_gives_a_true_beginning_and_no_end() {
    for ends in every_end() {
        let payload = pattern(60);
        let sealed = request(&ends, &target(), &payload);
        for cut in 0..sealed.len() {
            let mut server = Receiver::server(&ends.accounts);
            server.feed(&sealed[..cut]).unwrap();
            assert!(payload.starts_with(&server.plain));
            assert!(
                !server.at_boundary() || ends.accounts.method() == Method::None,
                "{cut}"
            );
        }
    }
}

#[test]
fn one_changed_bit_is_noticed_wherever_it_is() {
    let payload = pattern(20);
    for ends in every_end().filter(|ends| ends.accounts.method() != Method::None) {
        let method = ends.accounts.method();
        let mut sealer = Sealer::request(&ends.credentials, salt(method, 5), target().as_ref());
        let mut sealed = seal_all(&mut sealer, &payload[..12], 1000);
        sealed.extend(seal_all(&mut sealer, &payload[12..], 1000));
        let user = ends.accounts.has_users().then_some(1);
        let mut sealer = Sealer::response(
            method,
            ends.accounts.session_key(user).unwrap(),
            salt(method, 6),
            salt(method, 5),
        );
        let mut answer = seal_all(&mut sealer, &payload[..12], 1000);
        answer.extend(seal_all(&mut sealer, &payload[12..], 1000));
        for bit in [0, 3, 7] {
            for at in 0..sealed.len() {
                let mut changed = sealed.clone();
                changed[at] ^= 1 << bit;
                let mut server = Receiver::server(&ends.accounts);
                assert!(server.feed(&changed).is_err(), "{method} {at}");
                assert!(payload.starts_with(&server.plain));
                assert!(server.target.is_none() || server.target == Some(target()));
            }
            for at in 0..answer.len() {
                let mut changed = answer.clone();
                changed[at] ^= 1 << bit;
                let mut client = Receiver::client(&ends.credentials);
                assert!(client.feed(&changed).is_err(), "{method} {at}");
                assert!(payload.starts_with(&client.plain));
            }
        }
    }
}

#[test]
fn nothing_opens_after_an_error() {
    for ends in every_end().filter(|ends| ends.accounts.method() != Method::None) {
        let sealed = request(&ends, &target(), &pattern(20));
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            let mut server = Receiver::server(&ends.accounts);
            let error = server.feed(&changed).unwrap_err();
            let known = server.plain.len();
            for _ in 0..3 {
                assert_eq!(server.feed(&sealed), Err(error));
            }
            assert_eq!(server.plain.len(), known);
        }
    }
}

#[test]
fn slots_and_seal_agree_on_every_geometry() {
    let payload = pattern(5 * CHUNK);
    let small = [0, 1, 16, 17, 18, 34, 35, 60, 100, 400];
    let large = [0, 33, 34, 35, 500, CHUNK + 68, 3 * CHUNK].map(|more| CHUNK + more);
    for ends in every_end() {
        let method = ends.accounts.method();
        for room in small.into_iter().chain(large) {
            for most in [0, 1, 2, 3, 64] {
                let mut sealer =
                    Sealer::request(&ends.credentials, salt(method, 5), target().as_ref());
                let mut buf = vec![0; room];
                let all = fill(&sealer, &mut buf, &payload, most);
                // All slots full; the last one not; the first one not.
                for count in [all, all.saturating_sub(1), all.min(1)] {
                    if count == 0 {
                        continue;
                    }
                    sealer = Sealer::request(&ends.credentials, salt(method, 5), target().as_ref());
                    fill(&sealer, &mut buf, &payload[..count], most);
                    let len = sealer.seal(&mut buf, count, FRESH).unwrap();
                    let mut server = Receiver::server(&ends.accounts);
                    server.feed(&buf[..len]).unwrap();
                    assert!(
                        server.plain == payload[..count] && server.at_boundary(),
                        "{method} {room} {most} {count}"
                    );
                }
            }
        }
    }
}

#[test]
fn lead_is_where_the_first_payload_stands() {
    for ends in every_end() {
        let method = ends.accounts.method();
        let user = ends.accounts.has_users().then_some(1);
        let mut sealers = [
            Sealer::request(&ends.credentials, salt(method, 5), target().as_ref()),
            Sealer::response(
                method,
                ends.accounts.session_key(user).unwrap(),
                salt(method, 6),
                salt(method, 5),
            ),
        ];
        for sealer in &mut sealers {
            for _ in 0..2 {
                let lead = sealer.lead();
                let mut buf = vec![0; 1000];
                let from = buf.as_ptr().addr();
                let mut slots = [IoSliceMut::new(&mut [])];
                assert_eq!(sealer.slots(&mut buf, &mut slots), 1);
                assert_eq!(slots[0].as_ptr().addr() - from, lead);
                let len = sealer.seal(&mut buf, 1, FRESH).unwrap();
                assert_eq!(len, lead + 1 + method.tag_len());
            }
        }
    }
}

#[test]
fn too_small_a_buffer_is_an_error_and_not_a_panic() {
    for ends in every_end() {
        let method = ends.accounts.method();
        let sealers = |response: bool| match response {
            false => Sealer::request(&ends.credentials, salt(method, 5), target().as_ref()),
            true => Sealer::response(
                method,
                ends.accounts.session_key(None).unwrap(),
                salt(method, 6),
                salt(method, 5),
            ),
        };
        for response in [false, true] {
            for payload in [0, 1, 30] {
                let whole = sealers(response)
                    .seal(&mut vec![0; 2000], payload, FRESH)
                    .unwrap();
                for room in 0..whole {
                    let sealed = sealers(response).seal(&mut vec![0; room], payload, FRESH);
                    assert_eq!(
                        sealed,
                        Err(Error::Truncated),
                        "{method} {response} {payload} {room}"
                    );
                }
                assert_eq!(
                    sealers(response).seal(&mut vec![0; whole], payload, FRESH),
                    Ok(whole)
                );
                let mut sealer = sealers(response);
                sealer.seal(&mut vec![0; 2000], 1, FRESH).unwrap();
                let len = sealer.seal(&mut vec![0; 2000], payload, FRESH).unwrap();
                for room in 0..len {
                    let mut sealer = sealers(response);
                    sealer.seal(&mut vec![0; 2000], 1, FRESH).unwrap();
                    assert_eq!(
                        sealer.seal(&mut vec![0; room], payload, FRESH),
                        Err(Error::Truncated)
                    );
                }
            }
        }
    }
}

#[test]
fn no_chunk_of_ours_is_longer_than_the_oldest_receivers_take() {
    let payload = pattern(3 * CHUNK);
    for method in SEALED {
        let ends = single(method);
        for response_to in [false, true] {
            let sealed = if response_to {
                response(&ends, None, &payload)
            } else {
                request(&ends, &target(), &payload)
            };
            let mut opener = Opener::response(&ends.credentials, salt(method, 5));
            if response_to {
                let (mut buf, mut at) = (sealed, 0);
                while at < buf.len() {
                    let opened = opener.open(&mut buf[at..], || NOW).unwrap();
                    assert!(opened.payload.len() <= CHUNK && opened.used > 0);
                    at += opened.used;
                }
            } else {
                assert!(sealed.len() > 3 * CHUNK);
            }
        }
    }
}

#[test]
fn sealing_nothing_makes_a_head_once_and_then_nothing() {
    for ends in every_end() {
        let method = ends.accounts.method();
        let mut sealer = Sealer::request(&ends.credentials, salt(method, 5), target().as_ref());
        assert!(sealer.at_head());
        let mut buf = vec![0; 2000];
        let len = sealer.seal(&mut buf, 0, FRESH).unwrap();
        assert!(len > 0 && !sealer.at_head());
        assert_eq!(sealer.seal(&mut buf[len..], 0, FRESH), Ok(0));
        let mut server = Receiver::server(&ends.accounts);
        server.feed(&buf[..len]).unwrap();
        assert_eq!((server.target, server.plain.len()), (Some(target()), 0));
    }
}

#[test]
fn empty_request_is_padded_by_as_much_as_is_asked() {
    for method in of_2022() {
        let ends = single(method);
        let sealed = |padding: &[u8]| {
            let mut sealer = Sealer::request(&ends.credentials, salt(method, 5), target().as_ref());
            let mut buf = vec![0; 2000];
            let len = sealer
                .seal(&mut buf, 0, Fresh { now: NOW, padding })
                .unwrap();
            buf.truncate(len);
            buf
        };
        for len in [1, 2, 899, 900] {
            let request = sealed(&PADDING[..len]);
            assert_eq!(request.len(), sealed(&PADDING[..1]).len() + len - 1);
            let mut server = Receiver::server(&ends.accounts);
            server.feed(&request).unwrap();
            assert_eq!(server.target, Some(target()));
        }
    }
}

#[test]
fn foreign_chunks_of_every_allowed_length_open() {
    for method in SEALED {
        let ends = single(method);
        let longest = if method.family() == Family::Aead2022 {
            MAX_CHUNK_2022
        } else {
            MAX_CHUNK_2017
        };
        let mut hand = Hand::new(method, &key(method, 1), salt(method, 6));
        if method.family() == Family::Aead2022 {
            hand.answer(1, NOW, salt(method, 5).as_slice(), &pattern(longest));
        } else {
            hand.chunk(&pattern(longest));
        }
        hand.chunk(&[])
            .chunk(&pattern(1))
            .chunk(&[])
            .chunk(&[])
            .chunk(&pattern(longest));
        let expected = [pattern(longest), pattern(1), pattern(longest)].concat();
        let mut client = Receiver::client(&ends.credentials);
        client.feed(&hand.bytes).unwrap();
        assert!(client.plain == expected && client.at_boundary());
        let mut client = Receiver::client(&ends.credentials);
        hand.bytes
            .chunks(1009)
            .for_each(|piece| client.feed(piece).unwrap());
        assert!(client.plain == expected);
    }
}

#[test]
fn length_beyond_what_sip004_allows_is_refused() {
    for method in aead_2017() {
        for len in [0x4000_u16, 0x8000, 0xFFFF] {
            let mut hand = Hand::new(method, &key(method, 1), salt(method, 6));
            hand.seal(&len.to_be_bytes());
            let ends = single(method);
            assert_eq!(
                Receiver::client(&ends.credentials).feed(&hand.bytes),
                Err(Error::ChunkLength)
            );
            assert_eq!(
                Receiver::server(&ends.accounts).feed(&hand.bytes),
                Err(Error::ChunkLength)
            );
        }
    }
}

#[test]
fn stream_cut_in_a_chunk_is_not_at_its_boundary() {
    for method in SEALED {
        let ends = single(method);
        let mut opener = Opener::response(&ends.credentials, salt(method, 5));
        assert!(opener.at_boundary());
        let mut sealed = response(&ends, None, &pattern(9));
        let last = sealed.len() - 1;
        let opened = opener.open(&mut sealed[..last], || NOW).unwrap();
        assert!(opened.used > 0 && opened.payload.is_empty() && !opener.at_boundary());
        assert_eq!(opener.need(), 9 + 16);
        let opened = opener
            .open(&mut sealed[opened.used..], || {
                panic!("the time was asked for already")
            })
            .unwrap();
        assert_eq!(opened.payload, 0..9);
        assert!(opener.at_boundary());
    }
}
