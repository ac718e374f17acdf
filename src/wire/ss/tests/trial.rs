//! Users of AEAD-2017, found by trial.

use super::*;
use crate::crypto::TAG_LEN;
use crate::wire::ss::packet::{PacketSealer, Subkeys};

/// Users of a server: more than are tried at once.
const USERS: u8 = 20;

fn server(method: Method) -> Accounts {
    let users = (0..USERS).map(|seed| Account::new(key(method, 100 + seed)));
    Accounts::new(method, key(method, 1), users.collect())
}

fn client(method: Method, seed: u8) -> Credentials {
    Credentials::new(method, Vec::new(), key(method, seed))
}

fn ends(method: Method, seed: u8) -> Ends {
    Ends {
        credentials: client(method, seed),
        accounts: server(method),
    }
}

fn packet(method: Method, seed: u8, body: &[u8]) -> Vec<u8> {
    let mut sealer = PacketSealer::client(&client(method, seed), 1).unwrap();
    let front = sealer.headroom();
    let mut bytes = [&vec![0; front], body, &[0; TAG_LEN]].concat();
    let place = front..front + body.len();
    let packet = sealer.seal(&mut bytes, place, 0, || [seed; 32]).unwrap();
    bytes[packet].to_vec()
}

#[test]
fn every_user_of_a_stream_is_found_whoever_is_tried_first() {
    for method in aead_2017() {
        let accounts = server(method);
        for (user, seed) in (100..100 + USERS).enumerate() {
            let sealed = request(&ends(method, seed), &target(), b"hello");
            for likely in [
                None,
                Some(user),
                Some(0),
                Some(usize::from(USERS) - 1),
                Some(99),
            ] {
                let mut opener = RequestOpener::new(method).likely_of(likely);
                let mut bytes = sealed.clone();
                let progress = opener.open(&accounts, &mut bytes, 0).unwrap();
                assert!(matches!(progress, Progress::Authenticated(_)));
                assert_eq!(opener.user(), Some(user), "{method} {likely:?}");
                accounts.note_active(user, user as u64);
                let Progress::Complete(head) = opener.open(&accounts, &mut bytes, 0).unwrap()
                else {
                    panic!("incomplete");
                };
                assert_eq!(
                    (head.target, &bytes[head.payload]),
                    (target(), b"hello".as_slice())
                );
            }
        }
    }
}

#[test]
fn strangers_and_the_own_key_of_the_server_are_no_user() {
    for method in aead_2017() {
        let accounts = server(method);
        for seed in [1, 2] {
            let sealed = request(&ends(method, seed), &target(), b"hello");
            for likely in [None, Some(3)] {
                let mut opener = RequestOpener::new(method).likely_of(likely);
                let opened = opener.open(&accounts, &mut sealed.clone(), 0);
                assert_eq!(opened.err(), Some(Error::Unauthenticated), "{method}");
                assert_eq!(opener.user(), None);
            }
            let sent = packet(method, seed, b"body");
            let mut room = Vec::new();
            let opened = accounts.open_by_trial(&mut sent.clone(), None, None, &mut room, |_| true);
            assert_eq!(opened.err(), Some(Error::Unauthenticated), "{method}");
        }
    }
}

#[test]
fn packets_are_opened_for_their_user_and_left_alone_otherwise() {
    for method in aead_2017() {
        let (accounts, mut room) = (server(method), Vec::new());
        for (user, seed) in (100..100 + USERS).enumerate() {
            let sent = packet(method, seed, b"the body");
            let mut subkeys = Subkeys::default();
            let four = [&*sent; 4];
            accounts.derive_likely(Some(user), &mut subkeys, four.into_iter());
            let right = subkeys.next_for(&sent).unwrap();
            accounts.derive_likely(Some((user + 1) % 20), &mut subkeys, four.into_iter());
            let wrong = subkeys.next_for(&sent).unwrap();
            for prepared in [None, Some((user, right)), Some(((user + 1) % 20, wrong))] {
                let mut bytes = sent.clone();
                let opened =
                    accounts.open_by_trial(&mut bytes, prepared, Some(5), &mut room, |_| true);
                let (found, body) = opened.unwrap();
                assert_eq!(found.user, Some(user));
                assert_eq!(&bytes[body], b"the body");
                // The salt, by which replays are known, is still there.
                assert_eq!(bytes[..method.salt_len()], sent[..method.salt_len()]);
            }
        }
        for len in 0..method.salt_len() + TAG_LEN {
            let mut short = vec![7; len];
            let opened = accounts.open_by_trial(&mut short, None, None, &mut room, |_| true);
            assert_eq!(opened.err(), Some(Error::Truncated));
        }
    }
}

#[test]
fn a_trial_of_everybody_can_be_refused_but_not_one_of_who_is_likely() {
    let method = Method::ChaCha20Poly1305;
    let (accounts, mut room) = (server(method), Vec::new());
    let sent = packet(method, 103, b"the body");
    let mut open = |likely, most: usize| {
        let mut bytes = sent.clone();
        let opened =
            accounts.open_by_trial(&mut bytes, None, likely, &mut room, |cost| cost <= most);
        opened.map(|(found, _)| found.user)
    };
    assert_eq!(open(Some(3), 0), Ok(Some(3)));
    assert_eq!(open(Some(4), 0), Err(Error::NoResources));
    assert_eq!(open(None, 0), Err(Error::NoResources));
    assert_eq!(open(Some(4), 20 * 600), Ok(Some(3)));
}
