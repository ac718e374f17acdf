//! Packet ids seen before: a datagram that carries one of them is a replay.

/// Bits of one word of the ring.
const WORD: u64 = 64;
/// Words of the ring; a power of two.
const WORDS: u64 = 128;
/// How far below the greatest id a late one may be: the ring without the word that is being filled.
const SIZE: u64 = WORD * (WORDS - 1);

/// A sliding window over packet ids (RFC 6479, in WireGuard's size: 8128 ids).
///
/// Ids may come in any order; each is accepted once, and never when it is 8128 or more below the greatest accepted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Window {
    greatest: u64,
    ring: [u64; 128],
}

impl Window {
    /// A window that has seen no id: all from 0 are fresh.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            greatest: 0,
            ring: [0; 128],
        }
    }

    /// Whether [`Window::accept`] would accept the id.
    #[must_use]
    pub fn is_fresh(&self, id: u64) -> bool {
        if id > self.greatest {
            return true;
        }
        let (word, bit) = place(id);
        self.greatest - id < SIZE && self.ring.get(word).is_some_and(|word| word & bit == 0)
    }

    /// Takes the id in: `false` when it was seen before or is too old to tell.
    ///
    /// Call it only after the packet has been authenticated: else a stranger can move the window past honest packets.
    #[must_use = "an id that is not accepted is a replay"]
    pub fn accept(&mut self, id: u64) -> bool {
        if !self.is_fresh(id) {
            return false;
        }
        if id > self.greatest {
            self.advance(id);
        }
        let (word, bit) = place(id);
        if let Some(word) = self.ring.get_mut(word) {
            *word |= bit;
        }
        true
    }

    /// Clears the words between the greatest id so far and the new one.
    fn advance(&mut self, id: u64) {
        let current = self.greatest / WORD;
        let skipped = (id / WORD - current).min(WORDS);
        for word in current + 1..=current + skipped {
            let (word, _) = place(word * WORD);
            if let Some(word) = self.ring.get_mut(word) {
                *word = 0;
            }
        }
        self.greatest = id;
    }
}

impl Default for Window {
    fn default() -> Self {
        Self::new()
    }
}

/// Where the ring keeps an id: the index of the word, and the bit in it.
#[expect(clippy::cast_possible_truncation, reason = "below 128")]
const fn place(id: u64) -> (usize, u64) {
    ((id / WORD % WORDS) as usize, 1 << (id % WORD))
}
