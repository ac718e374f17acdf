//! Salts seen before: a stream or an AEAD-2017 packet with one of them is a replay.

use std::hash::{Hash, Hasher};
use std::time::Duration;

use super::generations::Generations;

/// The longest salt of any method.
const MAX_SALT_LEN: usize = 32;
/// Bytes of a salt that are kept.
pub const KEPT_LEN: usize = 8;

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

/// A set of salts, limited in age, or in number, or in both.
///
/// It is no Bloom filter, which would refuse an honest client now and then (SIP022 §3.1.5).
///
/// Salts are kept in two generations of at most `capacity / 2` salts each. So the pool holds at most `capacity` salts, and
/// - with `keep`, it remembers a salt for at least that long, and for twice as long at most while salts keep arriving. Only if
///   more than `capacity / 2` salts arrive within that time, it forgets the oldest early, and
///   [`SaltPool::forgotten_early`] counts how often. Insert only salts of authenticated streams, so that nobody without a
///   key can cause this;
/// - without it, it always remembers the last `capacity / 2`.
///
/// Age is that of a monotonic clock. Where salts come with timestamps, none is accepted that is not later than those of the
/// salts that were forgotten for their age: if the clock that timestamps are judged by is set back, a replay of an old stream
/// is refused all the same.
///
/// Only the last 8 bytes of a salt are kept, so that a look for one touches less memory: each datagram takes several. They are
/// random (some clients begin their salts with a constant to look like another protocol). With four million salts
/// remembered, about one new salt in 5 trillion is taken for a known one.
///
/// Memory grows with use, up to [`SaltPool::MAX_SALT_BYTES`] for each salt.
#[derive(Debug)]
pub struct SaltPool(Generations<Salt, ()>);

/// Why a salt is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SaltRefusal {
    /// It was seen before, or is longer than 32 bytes, which no salt is.
    Known,
    /// Its timestamp is no later than that of a salt that was forgotten, so it may have been seen before.
    Forgotten,
}

/// The last bytes of a salt; a shorter one is padded with zeros.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Salt([u8; KEPT_LEN]);

impl Hash for Salt {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(u64::from_ne_bytes(self.0));
    }
}

impl Salt {
    fn new(salt: &[u8]) -> Option<Self> {
        if salt.len() > MAX_SALT_LEN {
            return None;
        }
        let end = salt.get(salt.len().saturating_sub(KEPT_LEN)..)?;
        let mut kept = [0; KEPT_LEN];
        kept.get_mut(..end.len())?.copy_from_slice(end);
        Some(Self(kept))
    }
}

impl SaltPool {
    /// Most bytes of memory that a salt takes: a hash table doubles when it is 7/8 full.
    pub const MAX_SALT_BYTES: usize = 2 * 8 * (KEPT_LEN + 1) / 7 + 1;

    /// An empty pool for at most `capacity` salts (at least 2). `keep` is how long a salt must be remembered.
    ///
    /// For AEAD-2022 it is the range of timestamps that a server accepts, 60 s (SIP022 §3.1.5), plus one second, because
    /// timestamps are whole seconds. For AEAD-2017, which has no timestamps, it is `None`: only their number forgets salts.
    #[must_use]
    pub fn new(keep: Option<Duration>, capacity: usize) -> Self {
        Self(Generations::new(keep, capacity / 2))
    }

    /// Remembers a salt at the time `now` of a monotonic clock. Returns `false` if the salt is known already or longer than
    /// 32 bytes, which no salt is.
    ///
    /// Insert a salt only after its stream has been authenticated. Otherwise a stranger could use up a client's salt.
    #[must_use = "a salt that was seen before is a replay"]
    pub fn insert(&mut self, salt: &[u8], now: Duration) -> bool {
        self.admit(salt, None, now).is_ok()
    }

    /// The same for a salt with a timestamp.
    ///
    /// # Errors
    /// Why the salt is refused.
    pub fn admit(
        &mut self,
        salt: &[u8],
        timestamp: Option<u64>,
        now: Duration,
    ) -> Result<(), SaltRefusal> {
        let salt = Salt::new(salt).ok_or(SaltRefusal::Known)?;
        self.0.age(now);
        if self.0.get(&salt).is_some() {
            return Err(SaltRefusal::Known);
        }
        if timestamp.is_some() && timestamp <= self.0.forgotten() {
            return Err(SaltRefusal::Forgotten);
        }
        self.0.insert(salt, (), timestamp, now);
        Ok(())
    }

    /// Whether the salt is remembered: an early check before authentication. [`SaltPool::insert`] decides.
    #[must_use]
    pub fn contains(&self, salt: &[u8]) -> bool {
        Salt::new(salt).is_some_and(|salt| self.0.get(&salt).is_some())
    }

    /// What is remembered of each salt, the oldest first; the greatest timestamp among them; and that of those forgotten.
    pub fn contents(&self) -> (impl Iterator<Item = &[u8]>, Option<u64>, Option<u64>) {
        let salts = self.0.entries().map(|(salt, ())| salt.0.as_slice());
        (salts, self.0.latest(), self.0.forgotten())
    }

    /// Takes over the contents of another pool at the time `now`: its salts, and the timestamps.
    pub fn restore<'a>(
        &mut self,
        salts: impl Iterator<Item = &'a [u8]>,
        (latest, forgotten): (Option<u64>, Option<u64>),
        now: Duration,
    ) {
        for salt in salts.filter_map(Salt::new) {
            self.0.insert(salt, (), latest, now);
        }
        self.0.note_forgotten(forgotten);
    }

    /// Number of salts remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
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
        self.0.forgotten_early()
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
    fn inserts_a_salt_once() {
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
    fn a_clock_set_back_does_not_make_old_salts_fresh() {
        let mut pool = SaltPool::new(Some(KEEP), 100);
        let mut admit =
            |number, timestamp, now| pool.admit(&salt(number), Some(timestamp), at(now));
        assert_eq!(admit(0, 1000, 0), Ok(()));
        assert_eq!(admit(0, 1000, 59), Err(SaltRefusal::Known));
        // Each comes 60 s after the one before, by both clocks.
        assert_eq!(admit(1, 1060, 60), Ok(()));
        assert_eq!(admit(2, 1120, 120), Ok(()));
        // Then the clock is set back by two minutes, and a replay of the first would be in time again.
        assert_eq!(admit(0, 1000, 121), Err(SaltRefusal::Forgotten));
        assert_eq!(admit(3, 1001, 121), Ok(()), "an honest one");
        assert_eq!(admit(1, 1060, 121), Err(SaltRefusal::Known));
    }

    #[test]
    fn takes_no_more_memory_than_stated() {
        // Just more than 7/8 of a power of two is the worst case.
        for generation in [57, 3585, 4096] {
            let mut pool = SaltPool::new(None, 2 * generation);
            assert!((0..2 * generation).all(|number| pool.insert(&salt(number), at(0))));
            let buckets = |capacity: usize| (capacity * 8 / 7).next_power_of_two();
            let buckets: usize = pool.0.capacities().into_iter().map(buckets).sum();
            let bytes = buckets * (KEPT_LEN + 1);
            assert!(
                bytes <= SaltPool::MAX_SALT_BYTES * 2 * generation,
                "{bytes}"
            );
        }
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
