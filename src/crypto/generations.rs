//! A map that forgets its oldest entries, many at a time.

use std::hash::Hash;
use std::mem;
use std::time::Duration;

use hashbrown::HashMap;

/// Entries in two generations. New ones go to the young generation. When that is as old as `keep`, it becomes the old
/// generation, and the previous old one is forgotten. So an entry is remembered for at least `keep`, and while entries keep
/// arriving, for twice as long at most. `keep` is `None`: age forgets nothing.
///
/// A generation that has reached `most` entries becomes the old one early. Then entries younger than `keep` may be forgotten,
/// which is counted.
///
/// An entry may have a timestamp of its peer. The greatest one of the entries that were forgotten for their age is kept: what
/// has a later one was not among them. If the peers' clocks and ours do not run backwards, all that is accepted has a later
/// one.
///
/// Memory grows with use. The hash is a fast one with a random seed: keys come from those who hold the server's key.
#[derive(Debug)]
pub(super) struct Generations<K, V> {
    young: Generation<K, V>,
    old: Generation<K, V>,
    born: Duration,
    keep: Option<Duration>,
    most: usize,
    forgotten: Option<u64>,
    forgotten_early: u64,
}

#[derive(Debug)]
struct Generation<K, V> {
    entries: HashMap<K, V>,
    /// The greatest timestamp.
    latest: Option<u64>,
}

impl<K, V> Default for Generation<K, V> {
    fn default() -> Self {
        Self {
            entries: HashMap::new(),
            latest: None,
        }
    }
}

impl<K: Eq + Hash, V: Copy + Ord> Generations<K, V> {
    /// Starts empty; a generation has at least one entry.
    pub(super) fn new(keep: Option<Duration>, most: usize) -> Self {
        Self {
            young: Generation::default(),
            old: Generation::default(),
            born: Duration::ZERO,
            keep,
            most: most.max(1),
            forgotten: None,
            forgotten_early: 0,
        }
    }

    /// The value of `key`, if it is remembered.
    pub(super) fn get(&self, key: &K) -> Option<V> {
        let places = [&self.young, &self.old];
        let found = places.map(|generation| generation.entries.get(key).copied());
        found.into_iter().max().flatten()
    }

    /// Remembers `value` at the time `now` of a monotonic clock, if there is no greater one, with a timestamp of the peer.
    pub(super) fn insert(&mut self, key: K, value: V, timestamp: Option<u64>, now: Duration) {
        self.age(now);
        if self.young.entries.len() >= self.most && !self.young.entries.contains_key(&key) {
            if self.keep.is_some() && !self.old.entries.is_empty() {
                self.forgotten_early = self.forgotten_early.saturating_add(1);
            }
            let early = self.old.latest;
            self.rotate(now);
            // Those of the generation that is gone are too young to count as forgotten.
            self.old.latest = self.old.latest.max(early);
        }
        let kept = self.young.entries.entry(key).or_insert(value);
        *kept = value.max(*kept);
        self.young.latest = self.young.latest.max(timestamp);
    }

    /// Forgets what is too old at the time `now` of the monotonic clock.
    pub(super) fn age(&mut self, now: Duration) {
        let Some(keep) = self.keep else { return };
        let age = now.saturating_sub(self.born);
        if age < keep {
            return;
        }
        self.forgotten = self.forgotten.max(self.old.latest);
        self.rotate(now);
        if age >= keep.saturating_mul(2) {
            // Every entry of the generation that has just become old came before that was `keep` old.
            self.forgotten = self.forgotten.max(self.old.latest);
            self.old = Generation::default();
            self.young = Generation::default();
        }
    }

    /// The greatest timestamp of what was forgotten for its age.
    pub(super) const fn forgotten(&self) -> Option<u64> {
        self.forgotten
    }

    /// How often entries younger than `keep` may have been forgotten.
    pub(super) const fn forgotten_early(&self) -> u64 {
        self.forgotten_early
    }

    /// All entries, the older generation first.
    pub(super) fn entries(&self) -> impl Iterator<Item = (&K, V)> {
        let old = self.old.entries.iter();
        let all = old.chain(&self.young.entries);
        all.map(|(key, value)| (key, *value))
    }

    /// The greatest timestamp of what is remembered.
    pub(super) fn latest(&self) -> Option<u64> {
        self.old.latest.max(self.young.latest)
    }

    /// Something up to this timestamp was forgotten for its age, by another map.
    pub(super) fn note_forgotten(&mut self, timestamp: Option<u64>) {
        self.forgotten = self.forgotten.max(timestamp);
    }

    /// Number of entries; one in both generations counts twice.
    pub(super) fn len(&self) -> usize {
        self.young.entries.len() + self.old.entries.len()
    }

    fn rotate(&mut self, now: Duration) {
        // The next generation is likely to be as large as this one; allocating it now avoids rehashing.
        let next = Generation {
            entries: HashMap::with_capacity(self.young.entries.len()),
            latest: None,
        };
        self.old = mem::replace(&mut self.young, next);
        self.born = now;
    }

    #[cfg(test)]
    pub(super) fn capacities(&self) -> [usize; 2] {
        [&self.young, &self.old].map(|generation| generation.entries.capacity())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEEP: Duration = Duration::from_secs(60);

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn the_greatest_value_of_a_key_counts() {
        let mut map = Generations::new(Some(KEEP), 10);
        map.insert('a', 5, None, at(1));
        map.insert('a', 3, None, at(2));
        assert_eq!(map.get(&'a'), Some(5));
        // In both generations.
        map.insert('b', 0, None, at(61));
        map.insert('a', 4, None, at(61));
        assert_eq!((map.get(&'a'), map.len()), (Some(5), 3));
        map.insert('b', 0, None, at(121));
        assert_eq!(map.get(&'a'), Some(4));
    }

    #[test]
    fn timestamps_of_the_forgotten_count_once_they_are_too_old() {
        let mut map = Generations::new(Some(KEEP), 10);
        map.insert('a', (), Some(1000), at(0));
        map.insert('b', (), Some(900), at(10));
        map.insert('c', (), Some(1060), at(60));
        assert_eq!(map.forgotten(), None);
        map.insert('d', (), Some(1120), at(120));
        assert_eq!((map.forgotten(), map.get(&'a')), (Some(1000), None));
        map.age(at(1000));
        assert_eq!((map.forgotten(), map.len()), (Some(1120), 0));
    }

    #[test]
    fn timestamps_of_those_forgotten_early_do_not_refuse_others_before_their_time() {
        let mut map = Generations::new(Some(KEEP), 2);
        for key in 0..7 {
            map.insert(key, (), Some(1000), at(1));
        }
        assert_eq!((map.forgotten(), map.get(&0)), (None, None));
        assert_eq!(map.forgotten_early(), 2);
        map.age(at(61));
        map.age(at(121));
        assert_eq!(map.forgotten(), Some(1000));
    }

    #[test]
    fn memory_of_a_burst_is_freed_after_a_pause() {
        let mut map = Generations::new(Some(KEEP), 100_000);
        for key in 0..50_000 {
            map.insert(key, (), None, at(0));
        }
        map.insert(0, (), None, at(500));
        assert!(map.capacities().iter().sum::<usize>() < 100);
    }
}
