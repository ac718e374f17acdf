//! The subkeys of AEAD-2017 packets, derived several at a time.

use crate::crypto::{Family, Key, LANES, Method, TAG_LEN};
use crate::wire::ss::keys::Salt;

/// Fewer subkeys are derived one by one: this is faster with vector registers of four lanes, and not much slower with others.
const MIN_BATCH: usize = 4;

/// Subkeys derived before their packets are sealed or opened, one for each packet, in the order of the packets. Methods whose
/// packets share the subkey of a session have none.
#[derive(Default)]
pub struct Subkeys {
    derived: Vec<(Salt, Option<Key>)>,
    /// Index of the first that has not been used.
    next: usize,
}

impl Subkeys {
    /// Derives the subkeys of `packets`, which have arrived together, and forgets those of others.
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

    /// The subkey of `packet`, if it was derived. Call it for each packet of a batch in order.
    pub fn next_for(&mut self, packet: &[u8]) -> Option<Key> {
        let (salt, subkey) = self.derived.get_mut(self.next)?;
        if !packet.starts_with(salt.as_slice()) {
            return None;
        }
        self.next += 1;
        subkey.take()
    }

    /// Forgets all.
    pub(super) fn clear(&mut self) {
        self.derived.clear();
        self.next = 0;
    }

    /// The next subkey and its salt.
    pub(super) fn pop(&mut self) -> Option<(Salt, Key)> {
        let (salt, subkey) = self.derived.get_mut(self.next)?;
        self.next += 1;
        Some((*salt, subkey.take()?))
    }

    /// Whether all have been used.
    pub(super) const fn is_empty(&self) -> bool {
        self.next >= self.derived.len()
    }

    /// Derives the subkeys for `salts`.
    pub(super) fn fill(&mut self, method: Method, key: &Key, salts: impl Iterator<Item = Salt>) {
        self.clear();
        if method.family() != Family::Aead2017 {
            return;
        }
        self.derived.extend(salts.map(|salt| (salt, None)));
        for batch in self.derived.chunks_mut(LANES) {
            let Some(&(first, _)) = batch.first().filter(|_| batch.len() >= MIN_BATCH) else {
                continue;
            };
            // Lanes without a packet repeat the first one.
            let salts: [Salt; LANES] =
                std::array::from_fn(|lane| batch.get(lane).map_or(first, |(salt, _)| *salt));
            let subkeys = key.session_subkeys(method, &salts.each_ref().map(Salt::as_slice));
            for ((_, place), subkey) in batch.iter_mut().zip(subkeys) {
                *place = Some(subkey);
            }
        }
    }
}
