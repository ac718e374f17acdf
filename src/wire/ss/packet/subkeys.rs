//! The subkeys of SIP004 packets, derived several at a time.

use crate::crypto::{Family, Key, LANES, Method, TAG_LEN};
use crate::wire::ss::keys::Salt;

/// Fewer are derived one by one: that is quicker where vector registers hold four lanes, and not much slower elsewhere.
const FEWEST: usize = 4;

/// Subkeys that are derived before their packets are sealed or opened, each for one packet, in the packets' order.
/// There are none for methods whose packets share the subkey of a session.
#[derive(Default)]
pub struct Subkeys {
    derived: Vec<(Salt, Option<Key>)>,
    /// The first that has not been taken.
    next: usize,
}

impl Subkeys {
    /// Derives what opens `packets`, which have arrived together; what is left of others is forgotten.
    pub(super) fn derive<'a>(
        &mut self,
        method: Method,
        key: &Key,
        packets: impl Iterator<Item = &'a [u8]>,
    ) {
        let least = method.salt_len() + TAG_LEN;
        let salts = packets
            .filter(|packet| packet.len() >= least)
            .filter_map(|packet| Salt::read(method, packet));
        self.fill(method, key, salts);
    }

    /// What was derived for `packet`, if anything. To be asked for each packet of those that came together, in turn.
    pub fn take(&mut self, packet: &[u8]) -> Option<Key> {
        let (salt, subkey) = self.derived.get_mut(self.next)?;
        if !packet.starts_with(salt.as_slice()) {
            return None;
        }
        self.next += 1;
        subkey.take()
    }

    /// The next subkey and its salt.
    pub(super) fn pop(&mut self) -> Option<(Salt, Key)> {
        let (salt, subkey) = self.derived.get_mut(self.next)?;
        self.next += 1;
        Some((*salt, subkey.take()?))
    }

    /// Whether all have been taken.
    pub(super) const fn is_empty(&self) -> bool {
        self.next >= self.derived.len()
    }

    /// Derives the subkeys for `salts`.
    pub(super) fn fill(&mut self, method: Method, key: &Key, salts: impl Iterator<Item = Salt>) {
        self.derived.clear();
        self.next = 0;
        if method.family() != Family::Aead2017 {
            return;
        }
        self.derived.extend(salts.map(|salt| (salt, None)));
        for some in self.derived.chunks_mut(LANES) {
            let Some(&(first, _)) = some.first().filter(|_| some.len() >= FEWEST) else {
                continue;
            };
            // Lanes without a packet do the work of the first once more.
            let salts: [Salt; LANES] =
                std::array::from_fn(|lane| some.get(lane).map_or(first, |(salt, _)| *salt));
            let subkeys = key.session_subkeys(method, &salts.each_ref().map(Salt::as_slice));
            for ((_, place), subkey) in some.iter_mut().zip(subkeys) {
                *place = Some(subkey);
            }
        }
    }
}
