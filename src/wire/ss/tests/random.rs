use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use super::super::packet::{ClientPackets, ServerPackets};
use super::super::stream::{CHUNK, Sealer};
use super::packet::{SERVER, SESSION, Server, client_sealer, open, seal, server_sealer};
use super::*;

fn ends() -> impl Strategy<Value = usize> {
    0..every_end().count()
}

/// Feeds `bytes` in pieces cut at `cuts`.
fn feed_cut(receiver: &mut Receiver<'_>, bytes: &[u8], cuts: &[Index]) -> Result<(), Error> {
    let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
    cuts.extend([0, bytes.len()]);
    cuts.sort_unstable();
    cuts.windows(2)
        .try_for_each(|cut| receiver.feed(&bytes[cut[0]..cut[1]]))
}

/// Seals payloads one after the other, in buffers of the given sizes.
fn sealed(mut sealer: Sealer, payloads: &[(Vec<u8>, usize)]) -> Vec<u8> {
    payloads
        .iter()
        .flat_map(|(payload, room)| seal_all(&mut sealer, payload, *room))
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, ..ProptestConfig::default() })]

    #[test]
    fn any_payload_in_any_pieces_arrives(
        ends in ends(),
        payloads in vec((vec(any::<u8>(), 0..2 * CHUNK), 1400..80_000_usize), 1..4),
        cuts in vec(any::<Index>(), 0..12),
    ) {
        let ends = every_end().nth(ends).unwrap();
        let method = ends.accounts.method();
        let plain: Vec<u8> = payloads.iter().flat_map(|(payload, _)| payload.clone()).collect();
        let request = Sealer::request(&ends.credentials, salt(method, 5), target().as_ref());
        let mut server = Receiver::server(&ends.accounts);
        feed_cut(&mut server, &sealed(request, &payloads), &cuts).unwrap();
        prop_assert_eq!(server.target.clone(), Some(target()));
        prop_assert!(server.plain == plain && server.at_boundary());

        let user = server.user;
        let response = Sealer::response(method, ends.accounts.session_key(user).unwrap(), salt(method, 6), salt(method, 5));
        let mut client = Receiver::client(&ends.credentials);
        feed_cut(&mut client, &sealed(response, &payloads), &cuts).unwrap();
        prop_assert!(client.plain == plain);
    }

    #[test]
    fn any_change_is_noticed(
        ends in ends(),
        payload in vec(any::<u8>(), 1..600),
        at in any::<Index>(),
        with in 1..=255_u8,
        cuts in vec(any::<Index>(), 0..6),
    ) {
        let ends = every_end().nth(ends).unwrap();
        prop_assume!(ends.accounts.method() != Method::None);
        let user = ends.accounts.has_users().then_some(1);
        for (mut bytes, mut receiver) in [
            (request(&ends, &target(), &payload), Receiver::server(&ends.accounts)),
            (response(&ends, user, &payload), Receiver::client(&ends.credentials)),
        ] {
            let at = at.index(bytes.len());
            bytes[at] ^= with;
            prop_assert!(feed_cut(&mut receiver, &bytes, &cuts).is_err());
            prop_assert!(receiver.plain.is_empty());
        }
    }

    #[test]
    fn no_garbage_opens_or_panics(ends in ends(), garbage in vec(any::<u8>(), 0..4000), cuts in vec(any::<Index>(), 0..6)) {
        let ends = every_end().nth(ends).unwrap();
        let plain = ends.accounts.method() == Method::None;
        let mut server = Receiver::server(&ends.accounts);
        let _ = feed_cut(&mut server, &garbage, &cuts);
        prop_assert!(plain || server.plain.is_empty() && server.target.is_none());
        let mut client = Receiver::client(&ends.credentials);
        let _ = feed_cut(&mut client, &garbage, &cuts);
        prop_assert!(plain || client.plain.is_empty());
        prop_assert!(plain || Server::new(&ends.accounts).open(&garbage).is_err());
        prop_assert!(plain || open(&mut ClientPackets::new(&ends.credentials, SESSION), &garbage).is_err());
    }

    #[test]
    fn no_buffer_makes_a_sealer_panic(
        ends in ends(),
        calls in vec((0..3000_usize, 0..6000_usize, 0..4_usize), 1..6),
        response_to in any::<bool>(),
    ) {
        let ends = every_end().nth(ends).unwrap();
        let method = ends.accounts.method();
        let mut sealer = if response_to {
            Sealer::response(method, ends.accounts.session_key(None).unwrap(), salt(method, 6), salt(method, 5))
        } else {
            Sealer::request(&ends.credentials, salt(method, 5), target().as_ref())
        };
        for (room, payload, most) in calls {
            let mut buf = vec![0; room];
            fill(&sealer, &mut buf, &pattern(payload), most);
            if let Ok(len) = sealer.seal(&mut buf, payload, FRESH) {
                prop_assert!(len <= room);
            }
        }
    }

    #[test]
    fn any_packet_arrives_once(
        ends in ends(),
        bodies in vec((vec(any::<u8>(), 0..2000), any::<u8>()), 1..12),
        order in vec(any::<Index>(), 1..30),
    ) {
        let ends = every_end().nth(ends).unwrap();
        let (mut sealer, mut answers) = (client_sealer(&ends), server_sealer(&ends, SERVER));
        let packets: Vec<_> = bodies
            .iter()
            .map(|(body, seed)| (seal(&mut sealer, body, *seed), seal(&mut answers, body, *seed)))
            .collect();
        let mut server = Server::new(&ends.accounts);
        let mut client = ClientPackets::new(&ends.credentials, SESSION);
        let mut seen = vec![false; packets.len()];
        for at in order.iter().map(|at| at.index(packets.len())) {
            let repeated = std::mem::replace(&mut seen[at], true) && ends.accounts.method().family() == Family::Aead2022;
            let expected = if repeated { Err(Error::Replayed) } else { Ok(bodies[at].0.clone()) };
            prop_assert_eq!(server.open(&packets[at].0), expected.clone());
            prop_assert_eq!(open(&mut client, &packets[at].1), expected);
        }
    }

    #[test]
    fn no_changed_packet_opens_or_moves_anything(
        ends in ends(),
        body in vec(any::<u8>(), 0..300),
        at in any::<Index>(),
        with in 1..=255_u8,
        extra in vec(any::<u8>(), 0..40),
    ) {
        let ends = every_end().nth(ends).unwrap();
        prop_assume!(ends.accounts.method() != Method::None);
        let packet = seal(&mut client_sealer(&ends), &body, 1);
        let mut changed = packet.clone();
        let at = at.index(packet.len());
        changed[at] ^= with;
        let mut server = Server::new(&ends.accounts);
        prop_assert!(server.open(&changed).is_err());
        prop_assert!(server.open(&changed[..at]).is_err());
        if !extra.is_empty() {
            prop_assert!(server.open(&[packet.clone(), extra].concat()).is_err());
        }
        // An existing session does not change either.
        let mut identified = packet.clone();
        let found = ends.accounts.identify(&mut identified).unwrap();
        let mut session = ServerPackets::new(&ends.accounts, &found).unwrap();
        let mut shifted = changed.clone();
        if let Ok(found) = ends.accounts.identify(&mut shifted) {
            prop_assert!(session.open(&mut shifted, None, &found, NOW).is_err());
        }
        prop_assert!(session.open(&mut identified, None, &found, NOW).is_ok());
        prop_assert_eq!(server.open(&packet), Ok(body));
    }

    #[test]
    fn any_chunks_that_a_key_holder_makes_open_or_are_refused(
        ends in ends(),
        pieces in vec((vec(any::<u8>(), 0..40), any::<bool>()), 0..12),
        cuts in vec(any::<Index>(), 0..6),
    ) {
        // Authentic but invalid: what a hostile user can send to a server.
        let ends = every_end().nth(ends).unwrap();
        prop_assume!(ends.accounts.method() != Method::None && !ends.accounts.has_users());
        let method = ends.accounts.method();
        let mut hand = Hand::new(method, &key(method, 1), salt(method, 5));
        for (piece, framed) in &pieces {
            let _ = if *framed { hand.chunk(piece) } else { hand.seal(piece) };
        }
        let _ = feed_cut(&mut Receiver::server(&ends.accounts), &hand.bytes, &cuts);
        let mut client = Receiver::client(&ends.credentials);
        let _ = feed_cut(&mut client, &hand.bytes, &cuts);
    }
}
