//! Packet ids seen before: a datagram with one of them is a replay.

/// Bits of one word of the ring.
const WORD: u64 = 64;
/// Words of the ring; a power of two.
const WORDS: usize = 128;
/// Ids that the window covers, the greatest included: the ring without the word that is being filled.
const SIZE: u64 = WORD * (WORDS as u64 - 1);

/// A sliding window over packet ids (RFC 6479, in WireGuard's size: 8128 ids).
///
/// Ids may arrive in any order. Each is accepted once, and not at all if it is 8128 or more below the greatest accepted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Window {
    greatest: u64,
    ring: [u64; WORDS],
}

impl Window {
    /// A window that has seen no id; all ids are fresh.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            greatest: 0,
            ring: [0; WORDS],
        }
    }

    /// A window that has seen all ids up to `greatest`.
    #[must_use]
    pub fn after(greatest: u64) -> Self {
        let mut window = Self {
            greatest,
            ring: [u64::MAX; WORDS],
        };
        let (word, bit) = place(greatest);
        if let Some(word) = window.ring.get_mut(word) {
            *word = bit | (bit - 1);
        }
        window
    }

    /// The greatest id that was accepted, if any was.
    #[must_use]
    pub fn greatest(&self) -> Option<u64> {
        (self.greatest > 0 || !self.is_fresh(0)).then_some(self.greatest)
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

    /// Marks the id as seen. Returns `false` if it was seen before or is too old to tell.
    ///
    /// Call it only after the packet has been authenticated. Otherwise a stranger could move the window past honest packets.
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
        let skipped = (id / WORD - current).min(WORDS as u64);
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

/// The place of an id in the ring: the index of its word, and its bit.
const fn place(id: u64) -> (usize, u64) {
    ((id / WORD % WORDS as u64) as usize, 1 << (id % WORD))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    /// RFC 6479 by definition: every accepted id, and the greatest.
    #[derive(Default)]
    struct Model {
        accepted: HashSet<u64>,
        greatest: u64,
    }

    impl Model {
        fn accept(&mut self, id: u64) -> bool {
            let fresh = self.greatest.saturating_sub(id) < 8128 && self.accepted.insert(id);
            if fresh {
                self.greatest = self.greatest.max(id);
            }
            fresh
        }
    }

    #[test]
    fn accepts_each_id_once() {
        let mut window = Window::new();
        for id in [0, 1, 2, 9, 8, 7, 63, 64, 65, 8127, 8128] {
            assert!(window.is_fresh(id), "{id}");
            assert!(window.accept(id), "{id}");
            assert!(!window.is_fresh(id), "{id}");
            assert!(!window.accept(id), "{id}");
        }
    }

    #[test]
    fn refuses_what_is_8128_below_the_greatest() {
        let mut window = Window::new();
        assert!(window.accept(8128));
        assert!(!window.accept(0));
        assert!(window.accept(1));
        assert!(window.accept(100_000));
        assert!(!window.accept(8127));
        assert!(!window.accept(100_000 - 8128));
        assert!(window.accept(100_000 - 8127));
    }

    #[test]
    fn a_window_after_an_id_takes_what_is_greater() {
        for greatest in [0, 1, 63, 64, 1000, 8127, 8128, u64::MAX - 70] {
            let mut window = Window::after(greatest);
            assert_eq!(window.greatest(), Some(greatest));
            for id in (0..=greatest.min(9000)).chain([greatest]) {
                assert!(!window.is_fresh(id), "{id} of {greatest}");
            }
            for id in [greatest + 3, greatest + 1, greatest + 70, greatest + 69] {
                assert!(window.accept(id), "{id} after {greatest}");
                assert!(!window.accept(id));
            }
        }
        assert_eq!(Window::new().greatest(), None);
    }

    #[test]
    fn a_refused_id_changes_nothing() {
        let mut window = Window::new();
        assert!(window.accept(10_000));
        let before = window.clone();
        assert!(!window.accept(10_000) && !window.accept(3));
        assert_eq!(window, before);
    }

    #[test]
    fn reaches_the_last_id() {
        let mut window = Window::new();
        assert!(window.accept(u64::MAX));
        assert!(!window.accept(u64::MAX));
        assert!(!window.accept(0));
        assert!(window.accept(u64::MAX - 1));
        assert!(window.accept(u64::MAX - 8127));
        assert!(!window.accept(u64::MAX - 8128));
    }

    /// Ids near a cursor that creeps and sometimes leaps, as a network with loss and reordering delivers them.
    fn ids() -> impl Strategy<Value = Vec<u64>> {
        let step = prop_oneof![
            8 => (0_u64..4, 0_u64..200),
            4 => (0_u64..200, 0_u64..9000),
            1 => (0_u64..20_000, 0_u64..20_000),
            1 => (Just(u64::MAX / 4), 0_u64..9000),
        ];
        prop::collection::vec(step, 0..500).prop_map(|steps| {
            let mut cursor = 0_u64;
            let place = |(ahead, behind)| {
                cursor = cursor.saturating_add(ahead);
                cursor.saturating_sub(behind)
            };
            steps.into_iter().map(place).collect()
        })
    }

    proptest! {
        #[test]
        fn agrees_with_a_model(ids in ids()) {
            let mut window = Window::new();
            let mut model = Model::default();
            for id in ids {
                let fresh = window.is_fresh(id);
                let accepted = window.accept(id);
                prop_assert_eq!(accepted, model.accept(id), "{}", id);
                prop_assert_eq!(fresh, accepted);
            }
        }
    }
}
