//! Salts seen before: a stream that starts with one of them is a replay.

use std::collections::HashSet;
use std::mem;
use std::time::Duration;

/// The longest salt of any method.
const MAX_SALT_LEN: usize = 32;
/// Bytes by which a salt is known.
const KNOWN_LEN: usize = 16;

/// What a server does about a repeated salt under an AEAD-2017 method. AEAD-2022 methods always reject it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplayPolicy {
    /// Salts are not remembered.
    Ignore,
    /// A repeated salt is logged.
    Detect,
    /// A repeated salt counts as a failed authentication.
    Reject,
}

/// An exact set of salts, bounded in number and, if asked, in age.
///
/// Exact, because SIP022 §3.1.5 wants no honest client refused, which a Bloom filter would do now and then.
///
/// Salts are kept in two generations of `capacity / 2`. New ones go to the young generation; when that is full or as
/// old as `keep`, it becomes the old one, and what was the old one is forgotten. So:
/// - without a rotation by count, a salt is remembered for at least `keep` and, while salts keep coming, at most
///   twice as long;
/// - in any case the last `capacity / 2` salts are remembered. When more than that arrive within `keep`, the oldest are
///   forgotten early; [`SaltPool::forgotten_early`] counts how often. Only salts of authenticated streams should be
///   inserted, so nobody without a key can bring that about.
///
/// A salt is known by its last 16 bytes. They are random (some clients begin theirs with a constant, to look like
/// another protocol), so two salts share them no sooner than two salts of 16 bytes are the same.
///
/// Memory grows with use, up to about 40 bytes a salt.
#[derive(Debug)]
pub struct SaltPool {
    young: HashSet<Salt>,
    old: HashSet<Salt>,
    born: Duration,
    keep: Option<Duration>,
    generation: usize,
    forgotten_early: u64,
}

/// What a salt is known by; a shorter one is padded with zeros.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Salt([u8; KNOWN_LEN]);

impl Salt {
    fn new(salt: &[u8]) -> Option<Self> {
        if salt.len() > MAX_SALT_LEN {
            return None;
        }
        let end = salt.get(salt.len().saturating_sub(KNOWN_LEN)..)?;
        let mut known = [0; KNOWN_LEN];
        known.get_mut(..end.len())?.copy_from_slice(end);
        Some(Self(known))
    }
}

impl SaltPool {
    /// An empty pool for at most `capacity` salts (2 at least). `keep` is how long a salt must be remembered.
    ///
    /// For SIP022 it is the span of timestamps that a server accepts, 60 s (§3.1.5), and one second more, because
    /// timestamps are whole seconds. For SIP004, which has no timestamps, it is `None`: only the count forgets.
    #[must_use]
    pub fn new(keep: Option<Duration>, capacity: usize) -> Self {
        Self {
            young: HashSet::new(),
            old: HashSet::new(),
            born: Duration::ZERO,
            keep,
            generation: (capacity / 2).max(1),
            forgotten_early: 0,
        }
    }

    /// Remembers a salt at the time `now`, on any clock that does not run backwards. `false` when it is known already,
    /// or longer than 32 bytes, which no salt is.
    ///
    /// Insert a salt only after the stream has been authenticated: else a stranger can burn a client's salt.
    #[must_use = "a salt that was seen before is a replay"]
    pub fn insert(&mut self, salt: &[u8], now: Duration) -> bool {
        let Some(salt) = Salt::new(salt) else {
            return false;
        };
        self.age(now);
        if self.young.contains(&salt) || self.old.contains(&salt) {
            return false;
        }
        if self.young.len() >= self.generation {
            if self.keep.is_some() && !self.old.is_empty() {
                self.forgotten_early = self.forgotten_early.saturating_add(1);
            }
            self.rotate(now);
        }
        self.young.insert(salt)
    }

    /// Whether the salt is remembered. A look before the work of authentication; [`SaltPool::insert`] decides.
    #[must_use]
    pub fn contains(&self, salt: &[u8]) -> bool {
        Salt::new(salt).is_some_and(|salt| self.young.contains(&salt) || self.old.contains(&salt))
    }

    /// Salts remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }

    /// Whether no salt is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How often salts younger than `keep` may have been forgotten because the pool was full. If this grows, the
    /// capacity is too small for the number of connections.
    #[must_use]
    pub const fn forgotten_early(&self) -> u64 {
        self.forgotten_early
    }

    /// Rotates by time.
    fn age(&mut self, now: Duration) {
        let Some(keep) = self.keep else { return };
        let age = now.saturating_sub(self.born);
        if age < keep {
            return;
        }
        self.rotate(now);
        // Every salt of the generation that has just grown old came before it was `keep` old.
        if age >= keep.saturating_mul(2) {
            self.old = HashSet::new();
        }
    }

    fn rotate(&mut self, now: Duration) {
        // The next generation is likely to be as large as this one: allocating it at once spares the rehashes.
        let next = HashSet::with_capacity(self.young.len());
        self.old = mem::replace(&mut self.young, next);
        self.born = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KEEP: Duration = Duration::from_secs(60);

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// A salt of 16 bytes that stands for a number.
    fn salt(number: usize) -> [u8; 16] {
        (number as u128).to_be_bytes()
    }

    #[test]
    fn accepts_a_salt_once() {
        let mut pool = SaltPool::new(Some(KEEP), 100);
        assert!(pool.is_empty() && !pool.contains(&salt(1)));
        assert!(pool.insert(&salt(1), at(0)));
        assert!(pool.contains(&salt(1)));
        assert!(!pool.insert(&salt(1), at(0)));
        assert!(pool.insert(&salt(2), at(0)));
        assert_eq!(pool.len(), 2);
    }

    #[test]
    fn tells_salts_apart_by_their_end() {
        let mut pool = SaltPool::new(None, 100);
        let of = |head: u8, tail: u8| [[head; 16], [tail; 16]].concat();
        assert!(pool.insert(&of(0, 0), at(0)));
        assert!(pool.insert(&of(0, 1), at(0)));
        assert!(!pool.insert(&of(1, 1), at(0)));
        assert!(!pool.insert(&[0; 33], at(0)));
        assert!(!pool.contains(&[0; 33]));
    }

    #[test]
    fn forgets_after_keep_and_not_before() {
        let mut pool = SaltPool::new(Some(KEEP), 100);
        assert!(pool.insert(&salt(0), at(0)));
        for second in 1..60 {
            assert!(pool.insert(&salt(1), at(second)) == (second == 1));
            assert!(!pool.insert(&salt(0), at(second)), "{second}");
        }
        assert!(pool.insert(&salt(2), at(60)));
        assert!(pool.contains(&salt(1)), "59 s old");
        assert!(pool.insert(&salt(3), at(120)));
        assert!(!pool.contains(&salt(0)) && !pool.contains(&salt(1)) && pool.contains(&salt(2)));
        assert_eq!(pool.forgotten_early(), 0);
    }

    #[test]
    fn forgets_both_generations_after_a_pause() {
        let mut pool = SaltPool::new(Some(KEEP), 100);
        assert!(pool.insert(&salt(0), at(59)));
        assert!(pool.insert(&salt(1), at(119)));
        assert_eq!(pool.len(), 2);
        assert!(pool.insert(&salt(2), at(1000)));
        assert_eq!(pool.len(), 1);
    }

    #[test]
    fn counts_what_is_forgotten_early() {
        let mut pool = SaltPool::new(Some(KEEP), 10);
        for number in 0..100 {
            assert!(pool.insert(&salt(number), at(1)));
            assert!(pool.len() <= 10);
        }
        assert!(pool.contains(&salt(95)) && !pool.contains(&salt(85)));
        assert_eq!(pool.forgotten_early(), 18);
    }

    #[test]
    fn survives_a_clock_that_runs_backwards() {
        let mut pool = SaltPool::new(Some(KEEP), 10);
        assert!(pool.insert(&salt(0), at(100)));
        assert!(!pool.insert(&salt(0), at(0)));
        assert!(pool.insert(&salt(1), at(0)));
    }

    proptest! {
        /// The model remembers every salt with its time and its place in the order of insertion. The pool must refuse
        /// what is young and recent, must accept what was never there, and may do either with the rest.
        #[test]
        fn agrees_with_a_model(
            keep in prop::option::of(1_u64..20),
            capacity in 0_usize..40,
            steps in prop::collection::vec((0_usize..60, 0_u64..6), 0..400),
        ) {
            let mut pool = SaltPool::new(keep.map(at), capacity);
            let mut model: Vec<(usize, u64)> = Vec::new();
            let mut now = 0;
            for (number, wait) in steps {
                now += wait;
                let last = model.iter().rposition(|(seen, _)| *seen == number);
                let contained = pool.contains(&salt(number));
                let fresh = pool.insert(&salt(number), at(now));
                match last.and_then(|last| model.get(last).map(|(_, time)| (model.len() - last, *time))) {
                    None => prop_assert!(fresh && !contained),
                    Some((newer, time)) => {
                        let young = keep.is_none_or(|keep| now - time < keep);
                        let recent = newer <= (capacity / 2).max(1);
                        if young && recent {
                            prop_assert!(!fresh && contained);
                        }
                    }
                }
                if fresh {
                    model.push((number, now));
                }
                prop_assert!(pool.contains(&salt(number)));
                prop_assert!(pool.len() <= capacity.max(2));
            }
        }
    }
}
