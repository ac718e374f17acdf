//! The ids of connections. Whoever has the key of the port reads in an id which of its listeners has made it; for everybody else it
//! is random.
//!
//! ```text
//! id     random (6 bytes) ‖ generation u16be XOR the first bytes of HMAC-SHA256(key, random)
//! ```
//!
//! Ids of an unrelated process say any generation: it answers that it does not know them.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::hmac;
use quinn::{ConnectionId, ConnectionIdGenerator};
use zeroize::Zeroizing;

pub(super) const ID_LEN: usize = 8;
const RANDOM_LEN: usize = 6;
/// Bytes of an id of others (RFC 9000 §17.2).
pub(super) const MAX_ID_LEN: usize = 20;
/// Set in the first byte of packets whose header says how long the id is (RFC 9000 §17.2).
const LONG: u8 = 0x80;

/// Counts the listeners that a port has had.
pub(super) type Generation = u16;

/// What the listeners of a port have in common, one after the other.
pub(super) struct Lineage {
    secret: Zeroizing<[u8; 32]>,
    key: hmac::Key,
}

impl fmt::Debug for Lineage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Lineage")
    }
}

impl Default for Lineage {
    /// A new one, with a random key.
    fn default() -> Self {
        Self::from(Zeroizing::new(rand::random()))
    }
}

impl From<Zeroizing<[u8; 32]>> for Lineage {
    fn from(secret: Zeroizing<[u8; 32]>) -> Self {
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_ref());
        Self { secret, key }
    }
}

impl Lineage {
    pub(super) fn secret(&self) -> &[u8] {
        self.secret.as_ref()
    }

    /// A new id of a listener.
    fn id(&self, generation: Generation) -> [u8; ID_LEN] {
        let [a, b, c, d, e, f] = rand::random::<[u8; RANDOM_LEN]>();
        let [g, h] = (generation ^ self.mask(&[a, b, c, d, e, f])).to_be_bytes();
        [a, b, c, d, e, f, g, h]
    }

    /// Which listener has made the id.
    pub(super) fn generation(&self, id: [u8; ID_LEN]) -> Generation {
        let [a, b, c, d, e, f, g, h] = id;
        u16::from_be_bytes([g, h]) ^ self.mask(&[a, b, c, d, e, f])
    }

    fn mask(&self, random: &[u8; RANDOM_LEN]) -> u16 {
        let tag = hmac::sign(&self.key, random);
        match tag.as_ref() {
            [one, other, ..] => u16::from_be_bytes([*one, *other]),
            _ => 0,
        }
    }
}

/// The id of the connection that a datagram belongs to, if it is as long as ours.
pub(super) fn id_of(datagram: &[u8]) -> Option<[u8; ID_LEN]> {
    match datagram {
        [first, rest @ ..] if first & LONG == 0 => rest.first_chunk().copied(),
        _ => long_id(datagram)?.try_into().ok(),
    }
}

/// The id that the client has chosen for its first packets, if the datagram may be one of these.
pub(super) fn first_id_of(datagram: &[u8]) -> Option<ConnectionId> {
    let id = long_id(datagram)?;
    (id.len() <= MAX_ID_LEN).then(|| ConnectionId::new(id))
}

fn long_id(datagram: &[u8]) -> Option<&[u8]> {
    match datagram {
        [first, _, _, _, _, len, rest @ ..] if first & LONG != 0 => rest.get(..usize::from(*len)),
        _ => None,
    }
}

/// Makes the ids of one listener. quinn's would be bound to one process.
pub(super) struct Ids {
    pub(super) lineage: Arc<Lineage>,
    pub(super) generation: Generation,
}

impl ConnectionIdGenerator for Ids {
    fn generate_cid(&mut self) -> ConnectionId {
        ConnectionId::new(&self.lineage.id(self.generation))
    }

    fn cid_len(&self) -> usize {
        ID_LEN
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn id_says_who_has_made_it_only_with_the_key() {
        let (ours, others) = (Lineage::default(), Lineage::default());
        let mut known_to_others = 0;
        for generation in 0..1000 {
            let id = ours.id(generation);
            assert_eq!(ours.generation(id), generation);
            known_to_others += u32::from(others.generation(id) == generation);
        }
        assert!(known_to_others < 5, "{known_to_others}");
    }

    #[test]
    fn id_is_found_in_short_and_long_headers() {
        let id = [1, 2, 3, 4, 5, 6, 7, 8];
        let short = [&[0x40][..], &id, &[9; 20]].concat();
        assert_eq!(id_of(&short), Some(id));
        let long = |len: u8| [&[0xc0, 0, 0, 0, 1, len][..], &id, &[9; 20]].concat();
        assert_eq!(id_of(&long(8)), Some(id));
        assert_eq!(id_of(&long(7)), None);
        assert_eq!(id_of(&long(20)), None);
        assert_eq!(first_id_of(&long(20)).map(|id| id.len()), Some(20));
        assert_eq!(first_id_of(&long(21)), None);
        assert_eq!(first_id_of(&short), None);
        for len in 0..9 {
            assert_eq!(id_of(short.get(..len).unwrap_or_default()), None);
        }
    }
}
