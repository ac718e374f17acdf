use super::super::packet::{ClientPackets, ServerPackets, Subkeys};
use super::packet::{SESSION, Server, body, client_sealer, open, seal, server_sealer};
use super::*;
use crate::crypto::LANES;

/// Both ends for the methods whose packets have a subkey each.
fn single_packets() -> impl Iterator<Item = Ends> {
    every_end().filter(|ends| ends.accounts.method().family() == Family::Aead2017)
}

/// Salts that begin with `from`, `from + 1`, ….
fn counted(from: u8) -> [[u8; 32]; LANES] {
    let mut next = from;
    [(); LANES].map(|()| {
        next += 1;
        [next - 1; 32]
    })
}

#[test]
fn packets_behind_the_first_are_prepared_by_eights_and_open_like_others() {
    for ends in single_packets() {
        let method = ends.accounts.method();
        let mut sealer = client_sealer(&ends);
        sealer.prepare(|| unreachable!());
        let first = seal(&mut sealer, &body(1), 0xFF);
        assert!(first.starts_with(&[0xFF; 16]));
        let mut prepared = 0;
        for number in 0..24 {
            sealer.prepare(|| {
                prepared += 1;
                counted(number)
            });
            let packet = seal(&mut sealer, &body(number.into()), 0xFF);
            assert_eq!(packet[..method.salt_len()], vec![number; method.salt_len()]);
            assert_eq!(
                Server::new(&ends.accounts).open(&packet),
                Ok(body(number.into())),
                "{method}"
            );
        }
        assert_eq!(prepared * LANES, 24, "{method}");
        let unprepared = seal(&mut sealer, &body(1), 0xFE);
        assert!(unprepared.starts_with(&[0xFE; 16]));
    }
}

#[test]
fn methods_with_sessions_prepare_nothing() {
    for ends in every_end().filter(|ends| ends.accounts.method().family() != Family::Aead2017) {
        let mut sealer = client_sealer(&ends);
        sealer.prepare(|| unreachable!());
        let packet = seal(&mut sealer, &body(5), 1);
        let mut subkeys = Subkeys::default();
        ends.accounts
            .derive_subkeys(&mut subkeys, [&packet[..]; LANES].into_iter());
        assert!(subkeys.next_for(&packet).is_none());
    }
}

#[test]
fn batch_opens_by_subkeys_derived_together() {
    for ends in single_packets() {
        let method = ends.accounts.method();
        for count in 1..=17_u8 {
            let mut sealer = client_sealer(&ends);
            let mut batch: Vec<Vec<u8>> = (1..=count)
                .map(|seed| seal(&mut sealer, &body(seed.into()), seed))
                .collect();
            let mut subkeys = Subkeys::default();
            ends.accounts
                .derive_subkeys(&mut subkeys, batch.iter().map(Vec::as_slice));
            let mut derived = 0;
            for (number, packet) in (1..).zip(&mut batch) {
                let subkey = subkeys.next_for(packet);
                derived += usize::from(subkey.is_some());
                let found = ends.accounts.identify(packet).unwrap();
                let mut session = ServerPackets::new(&ends.accounts, &found).unwrap();
                let place = session.open(packet, subkey, &found, NOW).unwrap();
                assert_eq!(packet[place], body(number), "{method} {number} of {count}");
            }
            // Three or fewer left after whole batches of eight are derived one by one.
            let count = usize::from(count);
            let rest = count % LANES;
            assert_eq!(derived, count - if rest < 4 { rest } else { 0 }, "{method}");
        }
    }
}

#[test]
fn garbage_between_packets_takes_nobodys_subkey() {
    for ends in single_packets() {
        let mut sealer = server_sealer(&ends, SESSION + 1);
        let good: Vec<_> = (1..=6)
            .map(|seed| seal(&mut sealer, &body(9), seed))
            .collect();
        let mut forged = good[1].clone();
        *forged.last_mut().unwrap() ^= 1;
        let batch = [
            b"" as &[u8],
            &good[0],
            &good[0][..31],
            &[7; 500],
            &good[1],
            &forged,
            &good[2],
            &good[2],
            b"short",
            &good[3],
            &good[4],
            &good[5],
        ];
        let mut client = ClientPackets::new(&ends.credentials, SESSION);
        let mut subkeys = Subkeys::default();
        client.derive_subkeys(&mut subkeys, batch.into_iter());
        let mut opened = 0;
        for packet in batch {
            let mut with = packet.to_vec();
            let subkey = subkeys.next_for(&with);
            let with = client
                .open(&mut with, subkey, NOW)
                .map(|place| with[place].to_vec());
            assert_eq!(with, open(&mut client, packet));
            opened += usize::from(with.is_ok());
        }
        assert_eq!(opened, 7);
        assert!(subkeys.next_for(&good[0]).is_none());
    }
}

#[test]
fn subkeys_of_another_batch_are_forgotten() {
    let ends = single(Method::Aes256Gcm);
    let mut sealer = client_sealer(&ends);
    let batch: Vec<_> = (1..=8)
        .map(|seed| seal(&mut sealer, &body(1), seed))
        .collect();
    let mut subkeys = Subkeys::default();
    ends.accounts
        .derive_subkeys(&mut subkeys, batch.iter().map(Vec::as_slice));
    assert!(subkeys.next_for(&batch[0]).is_some());
    ends.accounts.derive_subkeys(&mut subkeys, [].into_iter());
    assert!(subkeys.next_for(&batch[1]).is_none());
}
