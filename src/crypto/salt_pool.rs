//! Salts seen before: a stream that starts with one of them is a replay.

use std::collections::HashSet;
use std::mem;
use std::time::Duration;

/// The longest salt of any method.
const MAX_SALT_LEN: usize = 32;

/// An exact set of salts, bounded in number and, if asked, in age.
///
/// Exact, because SIP022 §3.1.6 wants no honest client refused, which a Bloom filter would do now and then.
///
/// Salts are kept in two generations of `capacity / 2`. New ones go to the young generation; when that is full or as
/// old as `keep`, it becomes the old one, and what was the old one is forgotten. So:
/// - without a rotation by count, a salt is remembered for at least `keep` and, while salts keep coming, at most
///   twice as long;
/// - in any case the last `capacity / 2` salts are remembered. When more than that arrive within `keep`, the oldest are
///   forgotten early; [`SaltPool::forgotten_early`] counts how often. Only salts of authenticated streams should be
///   inserted, so nobody without a key can bring that about.
///
/// Memory grows with use, up to about 80 bytes a salt.
#[derive(Debug)]
pub struct SaltPool {
    young: HashSet<Salt>,
    old: HashSet<Salt>,
    born: Duration,
    keep: Option<Duration>,
    generation: usize,
    forgotten_early: u64,
}

/// A salt, padded with zeros, and its length.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Salt([u8; MAX_SALT_LEN], usize);

impl Salt {
    fn new(salt: &[u8]) -> Option<Self> {
        let mut padded = [0; MAX_SALT_LEN];
        padded.get_mut(..salt.len())?.copy_from_slice(salt);
        Some(Self(padded, salt.len()))
    }
}

impl SaltPool {
    /// An empty pool for at most `capacity` salts (2 at least). `keep` is how long a salt must be remembered: 60 s for
    /// SIP022 (§3.1.6), whose timestamps bound what can be replayed; `None` for SIP004, which knows no time, so that
    /// only the count forgets.
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
