//! Packets opened by a server, a relay and a client, one after the other in one session.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use ssr::crypto::{Aead, Block, Family};
use ssr::wire::ss::packet::{ClientPackets, PacketSealer, ServerPackets, has_sessions};
use ssr::wire::{AddressRef, Error};
use ssr_fuzz::{Edit, Ends, NOW, Setting, edit, is_sealed, key};

const SESSION: u64 = 0x0102_0304_0506_0708;

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    setting: Setting,
    to_client: bool,
    packets: Vec<Packet<'a>>,
}

#[derive(Arbitrary, Debug)]
enum Packet<'a> {
    /// Random bytes.
    Garbage(&'a [u8]),
    /// The next packet of the session, damaged.
    Damaged {
        body: &'a [u8],
        seed: u8,
        edits: Vec<Edit>,
    },
    /// An earlier packet, unchanged.
    Again(u8),
    /// A packet of a key holder who violates the protocol.
    Nonsense {
        session: u64,
        id: u64,
        kind: u8,
        off: i8,
        peer: Option<u64>,
        padding: u16,
        rest: &'a [u8],
    },
}

fuzz_target!(|input: Input<'_>| {
    let ends = input.setting.ends();
    let mut sealer = if input.to_client {
        PacketSealer::server(&ends.accounts, ends.user, SESSION + 1, SESSION)
    } else {
        PacketSealer::client(&ends.credentials, SESSION)
    }
    .expect("the keys fit");
    let strangers = input.setting.strangers();
    let mut receiver = Receiver::new(&ends, input.to_client);
    let mut sent: Vec<(Vec<u8>, &[u8], bool)> = Vec::new();
    // Whether an invalid packet of a key holder has used ids of the session, and perhaps moved its window far ahead.
    let mut taken = false;
    for packet in input.packets.iter().take(24) {
        match packet {
            Packet::Garbage(bytes) => {
                let opened = Receiver::new(&strangers, input.to_client).open(bytes);
                assert!(!is_sealed(ends.method) || opened.is_err());
                // The fuzzer may have reproduced a packet that it has seen sealed.
                if receiver.open(bytes).is_ok() {
                    sent.clear();
                    taken = true;
                }
            }
            Packet::Damaged { body, seed, edits } => {
                let whole = seal(&mut sealer, body, *seed);
                let mut bytes = whole.clone();
                let damaged = edit(&mut bytes, edits);
                let opened = receiver.open(&bytes);
                if is_sealed(ends.method) && damaged {
                    // One packet cannot turn into another one by repeating parts of it.
                    assert!(opened.is_err(), "a damaged packet opened");
                } else if !damaged && !(taken && opened == Err(Error::Replayed)) {
                    assert_eq!(opened.as_deref(), Ok(*body));
                }
                sent.push((whole, body, !damaged));
            }
            Packet::Again(at) => {
                let len = sent.len();
                let Some((bytes, body, seen)) = sent.get_mut(usize::from(*at) % len.max(1)) else {
                    continue;
                };
                let opened = receiver.open(bytes);
                if *seen && has_sessions(ends.method) {
                    assert_eq!(opened, Err(Error::Replayed));
                } else if !(taken && opened == Err(Error::Replayed)) {
                    assert_eq!(opened.as_deref(), Ok(*body));
                    *seen = true;
                }
            }
            Packet::Nonsense {
                session,
                id,
                kind,
                off,
                peer,
                padding,
                rest,
            } => {
                // Mostly in current sessions.
                let session = if session % 4 == 0 {
                    *session
                } else {
                    SESSION + u64::from(input.to_client)
                };
                let mut content = vec![*kind];
                content.extend_from_slice(&NOW.saturating_add_signed((*off).into()).to_be_bytes());
                let peer = peer.map(|peer| if peer % 2 == 0 { SESSION } else { peer });
                content.extend(peer.into_iter().flat_map(u64::to_be_bytes));
                content.extend_from_slice(&padding.to_be_bytes());
                content.extend_from_slice(rest);
                // Ids close to each other, so that they collide.
                if let Some(bytes) = by_hand(&ends, input.to_client, session, id % 20_000, &content)
                {
                    if receiver.open(&bytes).is_ok() {
                        // (The server here remembers one session.)
                        if input.to_client || session == SESSION {
                            assert_eq!(receiver.open(&bytes), Err(Error::Replayed));
                        }
                        // A client remembers two sessions: that of the packet may be forgotten.
                        sent.clear();
                        taken = true;
                    }
                }
            }
        }
    }
});

struct Receiver<'a> {
    ends: &'a Ends,
    server: Option<(Option<u64>, Option<usize>, ServerPackets)>,
    client: Option<ClientPackets>,
}

impl<'a> Receiver<'a> {
    fn new(ends: &'a Ends, to_client: bool) -> Self {
        let client = to_client.then(|| ClientPackets::new(&ends.credentials, SESSION));
        Self {
            ends,
            server: None,
            client,
        }
    }

    fn open(&mut self, packet: &[u8]) -> Result<Vec<u8>, Error> {
        let mut packet = packet.to_vec();
        let body = match &mut self.client {
            Some(client) => client.open(&mut packet, None, NOW)?,
            None => self.serve(&mut packet)?,
        };
        let body = packet
            .get(body)
            .expect("the body stands within the packet")
            .to_vec();
        let _ = AddressRef::parse(&body);
        Ok(body)
    }

    fn serve(&mut self, packet: &mut [u8]) -> Result<std::ops::Range<usize>, Error> {
        let accounts = &self.ends.accounts;
        let found = accounts.identify(packet)?;
        if found
            .user
            .and_then(|user| accounts.user(user))
            .is_some_and(|user| user.relayed)
        {
            let range = accounts.rewrite_for_next_server(packet, &found)?;
            assert_eq!(range.end, packet.len());
            return Err(Error::Denied);
        }
        if let Some((session, user, packets)) = &mut self.server
            && (*session, *user) == (found.session, found.user)
        {
            return packets.open(packet, None, &found, NOW);
        }
        let mut packets = ServerPackets::new(accounts, &found)?;
        let body = packets.open(packet, None, &found, NOW)?;
        // One session is enough here: a second one is opened and forgotten.
        if self.server.is_none() && found.session.is_none_or(|session| session == SESSION) {
            self.server = Some((found.session, found.user, packets));
        }
        Ok(body)
    }
}

fn seal(sealer: &mut PacketSealer, body: &[u8], seed: u8) -> Vec<u8> {
    let start = sealer.headroom();
    let mut buf = vec![0; start + body.len() + if sealer.is_plain() { 0 } else { 16 }];
    buf[start..start + body.len()].copy_from_slice(body);
    let packet = sealer
        .seal(&mut buf, start..start + body.len(), NOW, || [seed; 32])
        .expect("there is room");
    assert_eq!(packet, 0..buf.len());
    buf
}

/// An AEAD-2022 packet with any content; `None` for other methods.
fn by_hand(ends: &Ends, to_client: bool, session: u64, id: u64, content: &[u8]) -> Option<Vec<u8>> {
    let method = ends.method;
    if method.family() != Family::Aead2022 {
        return None;
    }
    let header = [session.to_be_bytes(), id.to_be_bytes()].concat();
    let own = ends
        .accounts
        .session_key(ends.user)
        .expect("a user that there is");
    if !method.supports_identity() {
        let mut sealed = [&header, content].concat();
        let tag = Aead::packet(method, own)?
            .seal(&[9; 24], &mut sealed)
            .ok()?;
        return Some([&[9; 24], &sealed[..], &tag].concat());
    }
    let mut sealed = content.to_vec();
    let aead = Aead::packet(method, &own.session_subkey(method, &header[..8]))?;
    let tag = aead.seal(&header[4..], &mut sealed).ok()?;
    let plain: [u8; 16] = header.try_into().ok()?;
    let outer = if to_client {
        own.clone()
    } else {
        key(method, 1)
    };
    let mut block = plain;
    Block::new(&outer).encrypt(&mut block);
    let mut packet = block.to_vec();
    if ends.user.is_some() && !to_client {
        let mut identity = own.identity_hash();
        identity
            .iter_mut()
            .zip(plain)
            .for_each(|(byte, mask)| *byte ^= mask);
        Block::new(&key(method, 1)).encrypt(&mut identity);
        packet.extend_from_slice(&identity);
    }
    Some([&packet[..], &sealed, &tag].concat())
}
