use std::collections::HashMap;
use std::ops::Range;

use super::super::packet::{
    ClientPackets, PacketHeader, PacketSealer, ServerPackets, has_sessions,
};
use super::*;
use crate::crypto::Block;

/// The client's session of all tests.
pub(super) const SESSION: u64 = 0x0102_0304_0506_0708;
/// The server's session.
pub(super) const SERVER: u64 = 0x1112_1314_1516_1718;

/// Seals one packet with a salt or nonce derived from `seed`.
pub(super) fn seal(sealer: &mut PacketSealer, body: &[u8], seed: u8) -> Vec<u8> {
    let start = sealer.headroom();
    let mut buf = vec![0xEE; start + body.len() + if sealer.is_plain() { 0 } else { 16 }];
    buf[start..start + body.len()].copy_from_slice(body);
    let whole = buf.len();
    let packet = sealer
        .seal(&mut buf, start..start + body.len(), NOW, || [seed; 32])
        .unwrap();
    assert_eq!(packet, 0..whole);
    buf
}

pub(super) fn client_sealer(ends: &Ends) -> PacketSealer {
    PacketSealer::client(&ends.credentials, SESSION).unwrap()
}

/// Seals the server's responses in `session`.
pub(super) fn server_sealer(ends: &Ends, session: u64) -> PacketSealer {
    let user = ends.accounts.has_users().then_some(1);
    PacketSealer::server(&ends.accounts, user, session, SESSION).unwrap()
}

/// A server with the sessions of its clients.
pub(super) struct Server<'a> {
    accounts: &'a Accounts,
    sessions: HashMap<(Option<u64>, Option<usize>), ServerPackets>,
    pub(super) user: Option<usize>,
}

impl<'a> Server<'a> {
    pub(super) fn new(accounts: &'a Accounts) -> Self {
        Self {
            accounts,
            sessions: HashMap::new(),
            user: None,
        }
    }

    pub(super) fn open(&mut self, packet: &[u8]) -> Result<Vec<u8>, Error> {
        self.open_at(packet, NOW)
    }

    pub(super) fn open_at(&mut self, packet: &[u8], now: u64) -> Result<Vec<u8>, Error> {
        let mut packet = packet.to_vec();
        let found = self.accounts.identify(&mut packet)?;
        let key = (found.session, found.user);
        let body = match self.sessions.get_mut(&key) {
            Some(session) => session.open(&mut packet, None, &found, now)?,
            None => {
                let mut session = ServerPackets::new(self.accounts, &found)?;
                let body = session.open(&mut packet, None, &found, now)?;
                self.sessions.insert(key, session);
                body
            }
        };
        self.user = found.user;
        Ok(packet[body].to_vec())
    }
}

pub(super) fn open(client: &mut ClientPackets, packet: &[u8]) -> Result<Vec<u8>, Error> {
    open_at(client, packet, NOW)
}

fn open_at(client: &mut ClientPackets, packet: &[u8], now: u64) -> Result<Vec<u8>, Error> {
    let mut packet = packet.to_vec();
    let body: Range<usize> = client.open(&mut packet, None, now)?;
    Ok(packet[body].to_vec())
}

/// Address and `len` bytes.
pub(super) fn body(len: usize) -> Vec<u8> {
    [encoded(&target()), pattern(len)].concat()
}

fn with_sessions() -> impl Iterator<Item = Ends> {
    every_end().filter(|ends| has_sessions(ends.accounts.method()))
}

#[test]
fn packet_reaches_the_server() {
    for ends in every_end() {
        let mut server = Server::new(&ends.accounts);
        let mut sealer = client_sealer(&ends);
        for (seed, len) in (1..).zip([0, 1, 16, 1400, 65_000]) {
            assert_eq!(
                server.open(&seal(&mut sealer, &body(len), seed)),
                Ok(body(len)),
                "{}",
                ends.accounts.method()
            );
            assert_eq!(server.user, ends.accounts.has_users().then_some(1));
        }
    }
}

#[test]
fn answer_reaches_the_client() {
    for ends in every_end() {
        let mut client = ClientPackets::new(&ends.credentials, SESSION);
        let mut sealer = server_sealer(&ends, SERVER);
        for (seed, len) in (1..).zip([0, 1, 16, 1400, 65_000]) {
            assert_eq!(
                open(&mut client, &seal(&mut sealer, &body(len), seed)),
                Ok(body(len))
            );
        }
    }
}

#[test]
fn session_of_a_packet_is_the_clients() {
    for ends in every_end() {
        let mut packet = seal(&mut client_sealer(&ends), &body(3), 1);
        let found: PacketHeader = ends.accounts.identify(&mut packet).unwrap();
        assert_eq!(
            found.session,
            has_sessions(ends.accounts.method()).then_some(SESSION)
        );
    }
}

#[test]
fn body_stands_behind_any_headroom() {
    for ends in every_end() {
        let mut sealer = client_sealer(&ends);
        let (from, body) = (sealer.headroom() + 13, body(5));
        let mut buf = vec![0xEE; from + body.len() + 40];
        buf[from..from + body.len()].copy_from_slice(&body);
        let packet = sealer
            .seal(&mut buf, from..from + body.len(), NOW, || [1; 32])
            .unwrap();
        assert_eq!(packet.start, 13);
        assert_eq!(Server::new(&ends.accounts).open(&buf[packet]), Ok(body));
        assert!(buf[..13].iter().all(|byte| *byte == 0xEE));
    }
}

#[test]
fn missing_room_is_an_error_and_not_a_panic() {
    for ends in every_end() {
        for mut sealer in [client_sealer(&ends), server_sealer(&ends, SERVER)] {
            let (head, tail) = (sealer.headroom(), if sealer.is_plain() { 0 } else { 16 });
            for start in 0..head {
                let sealed = sealer.seal(&mut [0; 200], start..start + 5, NOW, || [1; 32]);
                assert_eq!(sealed, Err(Error::Truncated));
            }
            for room in 0..head + 5 + tail {
                let sealed = sealer.seal(&mut vec![0; room], head..head + 5, NOW, || [1; 32]);
                assert_eq!(
                    sealed,
                    Err(Error::Truncated),
                    "{} {room}",
                    ends.accounts.method()
                );
            }
            assert!(
                sealer
                    .seal(&mut vec![0; head + 5 + tail], head..head + 5, NOW, || [1;
                        32])
                    .is_ok()
            );
        }
    }
}

#[test]
fn repeated_packet_is_refused() {
    for ends in with_sessions() {
        let (mut sealer, mut answers) = (client_sealer(&ends), server_sealer(&ends, SERVER));
        let mut server = Server::new(&ends.accounts);
        let mut client = ClientPackets::new(&ends.credentials, SESSION);
        let packets: Vec<_> = (0..20)
            .map(|seed| seal(&mut sealer, &body(3), seed))
            .collect();
        let answered: Vec<_> = (0..20)
            .map(|seed| seal(&mut answers, &body(3), seed))
            .collect();
        // Packets open in any order, each once.
        for at in [7, 0, 19, 3, 18, 1, 2] {
            assert_eq!(server.open(&packets[at]), Ok(body(3)));
            assert_eq!(open(&mut client, &answered[at]), Ok(body(3)));
            for again in [at, 7] {
                assert_eq!(server.open(&packets[again]), Err(Error::Replayed));
                assert_eq!(open(&mut client, &answered[again]), Err(Error::Replayed));
            }
        }
    }
}

#[test]
fn packet_older_than_the_window_is_refused() {
    for ends in with_sessions() {
        let (mut sealer, mut answers) = (client_sealer(&ends), server_sealer(&ends, SERVER));
        let packets: Vec<_> = (0..8129)
            .map(|_| (seal(&mut sealer, b"", 1), seal(&mut answers, b"", 1)))
            .collect();
        let mut server = Server::new(&ends.accounts);
        let mut client = ClientPackets::new(&ends.credentials, SESSION);
        for (at, result) in [
            (8128, Ok(Vec::new())),
            (0, Err(Error::Replayed)),
            (1, Ok(Vec::new())),
        ] {
            assert_eq!(server.open(&packets[at].0), result);
            assert_eq!(open(&mut client, &packets[at].1), result);
        }
    }
}

#[test]
fn answers_of_a_restarted_server_arrive_beside_late_ones() {
    for ends in with_sessions() {
        let mut client = ClientPackets::new(&ends.credentials, SESSION);
        let [mut old, mut new] = [1, 2].map(|session| server_sealer(&ends, session));
        let first = seal(&mut old, &body(1), 1);
        let late = seal(&mut old, &body(2), 2);
        let second = seal(&mut new, &body(3), 3);
        assert_eq!(open(&mut client, &first), Ok(body(1)));
        assert_eq!(open(&mut client, &second), Ok(body(3)));
        assert_eq!(open(&mut client, &late), Ok(body(2)));
        for packet in [&first, &second, &late] {
            assert_eq!(open(&mut client, packet), Err(Error::Replayed));
        }
    }
}

#[test]
fn session_is_not_forgotten_while_its_packets_could_be_replayed() {
    // Each new session would evict an old one, whose recorded packets would then open again.
    for ends in with_sessions() {
        let mut client = ClientPackets::new(&ends.credentials, SESSION);
        let sealed = |session: u64, now: u64| {
            let mut sealer = server_sealer(&ends, session);
            let (start, body) = (sealer.headroom(), body(1));
            let mut buf = vec![0; start + body.len() + 16];
            buf[start..start + body.len()].copy_from_slice(&body);
            let range = start..start + body.len();
            sealer.seal(&mut buf, range, now, || [1; 32]).unwrap();
            buf
        };
        let (first, second) = (sealed(1, NOW + 30), sealed(2, NOW + 30));
        assert_eq!(open(&mut client, &first), Ok(body(1)));
        assert_eq!(open(&mut client, &second), Ok(body(1)));
        for now in [NOW, NOW + 30, NOW + 60] {
            let third = sealed(3, now);
            assert_eq!(open_at(&mut client, &third, now), Err(Error::Replayed));
            assert_eq!(open_at(&mut client, &first, now), Err(Error::Replayed));
            assert_eq!(open_at(&mut client, &second, now), Err(Error::Replayed));
        }
        let now = NOW + 61;
        assert_eq!(open_at(&mut client, &sealed(3, now), now), Ok(body(1)));
        for packet in [&first, &second] {
            assert!(open_at(&mut client, packet, now).is_err());
        }
        // The second was silent for as long, and is replaced as well.
        assert_eq!(open_at(&mut client, &sealed(4, now), now), Ok(body(1)));
        let more = open_at(&mut client, &sealed(5, now), now);
        assert_eq!(more, Err(Error::Replayed));
    }
}

#[test]
fn server_does_not_take_over_the_clients_session() {
    for ends in with_sessions() {
        let mut client = ClientPackets::new(&ends.credentials, SESSION);
        let answer = seal(&mut server_sealer(&ends, SESSION), &body(1), 1);
        assert_eq!(open(&mut client, &answer), Ok(body(1)));
        let other = seal(&mut server_sealer(&ends, !SESSION), &body(1), 1);
        assert_eq!(answer, other);
    }
}

#[test]
fn answer_to_another_session_is_refused_and_forgotten() {
    for ends in with_sessions() {
        let mut client = ClientPackets::new(&ends.credentials, SESSION);
        let first = seal(&mut server_sealer(&ends, SERVER), &body(1), 1);
        assert_eq!(open(&mut client, &first), Ok(body(1)));
        let user = ends.accounts.has_users().then_some(1);
        for session in 1..5 {
            let mut other =
                PacketSealer::server(&ends.accounts, user, session, SESSION + 1).unwrap();
            assert_eq!(
                open(&mut client, &seal(&mut other, &body(1), 2)),
                Err(Error::SessionMismatch)
            );
        }
        // No foreign session has replaced the genuine one.
        assert_eq!(open(&mut client, &first), Err(Error::Replayed));
    }
}

#[test]
fn each_user_is_known_by_its_packets() {
    for method in WITH_IDENTITY {
        for seed in [10, 11, 12] {
            let ends = shared(method, seed);
            let mut server = Server::new(&ends.accounts);
            assert_eq!(
                server.open(&seal(&mut client_sealer(&ends), &body(1), 1)),
                Ok(body(1))
            );
            let user = Some(usize::from(seed - 10));
            assert_eq!(server.user, user);
            let mut sealer = PacketSealer::server(&ends.accounts, user, SERVER, SESSION).unwrap();
            let answer = seal(&mut sealer, &body(2), 2);
            assert_eq!(
                open(&mut ClientPackets::new(&ends.credentials, SESSION), &answer),
                Ok(body(2))
            );
            let other = shared(method, if seed == 10 { 11 } else { 10 });
            let mut other = ClientPackets::new(&other.credentials, SESSION);
            assert_eq!(open(&mut other, &answer), Err(Error::Unauthenticated));
        }
        let ends = shared(method, 13);
        let packet = seal(&mut client_sealer(&ends), &body(1), 1);
        assert_eq!(
            Server::new(&ends.accounts).open(&packet),
            Err(Error::UnknownIdentity)
        );
        let packet = seal(&mut client_sealer(&single(method)), &body(1), 1);
        assert_eq!(
            Server::new(&ends.accounts).open(&packet),
            Err(Error::UnknownIdentity)
        );
    }
}

#[test]
fn packet_passes_through_two_relays() {
    for method in WITH_IDENTITY {
        let credentials = Credentials::new(
            method,
            vec![key(method, 1), key(method, 2), key(method, 3)],
            key(method, 4),
        );
        let accounts = |own: u8, next: u8, relayed: bool| {
            let other = Account::new(key(method, 99));
            Accounts::new(
                method,
                key(method, own),
                vec![
                    other,
                    Account {
                        relayed,
                        ..Account::new(key(method, next))
                    },
                ],
            )
        };
        let ends = Ends {
            credentials,
            accounts: accounts(3, 4, false),
        };
        let mut sealer = client_sealer(&ends);
        let mut server = Server::new(&ends.accounts);
        for seed in 1..4 {
            let mut packet = seal(&mut sealer, &body(9), seed);
            for relay in [accounts(1, 2, true), accounts(2, 3, true)] {
                let found = relay.identify(&mut packet).unwrap();
                assert_eq!((found.session, found.user), (Some(SESSION), Some(1)));
                let rest = relay.rewrite_for_next_server(&mut packet, &found).unwrap();
                assert_eq!(rest, 16..packet.len());
                packet = packet[rest].to_vec();
            }
            assert_eq!(server.open(&packet), Ok(body(9)));
            assert_eq!(
                (server.user, server.open(&packet)),
                (Some(1), Err(Error::Replayed))
            );
        }
    }
}

#[test]
fn separate_header_and_identities_stand_under_their_keys() {
    // SIP023 §3, reimplemented: the header under the first identity key, each identity masked by the plain header.
    for method in WITH_IDENTITY {
        let credentials =
            Credentials::new(method, vec![key(method, 1), key(method, 2)], key(method, 3));
        let mut sealer = PacketSealer::client(&credentials, SESSION).unwrap();
        let packet = seal(&mut sealer, &body(1), 1);
        let block = |at: usize, seed: u8| {
            let mut block: [u8; 16] = packet[at..at + 16].try_into().unwrap();
            Block::new(&key(method, seed)).decrypt(&mut block);
            block
        };
        let header = block(0, 1);
        assert_eq!(header, *[SESSION.to_be_bytes(), [0; 8]].concat());
        for (at, under, next) in [(16, 1, 2), (32, 2, 3)] {
            let identity: Vec<u8> = block(at, under)
                .iter()
                .zip(header)
                .map(|(byte, mask)| byte ^ mask)
                .collect();
            assert_eq!(identity, key(method, next).identity_hash());
        }
    }
}

#[test]
fn packets_of_2017_differ_by_their_salts_alone() {
    for method in aead_2017() {
        let mut sealer = client_sealer(&single(method));
        let [one, same, other] = [1, 1, 2].map(|seed| seal(&mut sealer, &body(4), seed));
        assert_eq!(one, same);
        assert_ne!(one, other);
        assert_eq!(one[..method.salt_len()], vec![1; method.salt_len()]);
    }
}

#[test]
fn no_two_packets_of_a_session_are_alike() {
    for ends in with_sessions() {
        let (mut sealer, mut answers) = (client_sealer(&ends), server_sealer(&ends, SESSION));
        // Even with equal random numbers and the same session id in both directions.
        let packets: std::collections::HashSet<_> = (0..50)
            .flat_map(|_| {
                [
                    seal(&mut sealer, &body(1), 1),
                    seal(&mut answers, &body(1), 1),
                ]
            })
            .collect();
        assert_eq!(packets.len(), 100);
    }
}
