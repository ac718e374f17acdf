//! Answers that name servers have given, until their time has passed. No IO, no clock.

use std::sync::Arc;

use lru::LruCache;
use tokio::time::Instant;

use crate::wire::dns::Answer;

/// What an entry costs besides its key and its answer, in bytes: the table's share.
const OVERHEAD: usize = 128;

/// Answers by what was asked. At either limit, the least recently used make room.
pub(super) struct Cache {
    entries: LruCache<Box<[u8]>, Entry>,
    /// The most entries and bytes.
    most: (usize, usize),
    bytes: usize,
}

struct Entry {
    answer: Arc<Answer>,
    stored: Instant,
}

impl Cache {
    /// An empty cache; with 0 entries it keeps nothing.
    pub(super) fn new(entries: usize, bytes: usize) -> Self {
        Self {
            entries: LruCache::unbounded(),
            most: (entries, bytes),
            bytes: 0,
        }
    }

    /// The answer for `key` and its age in seconds.
    pub(super) fn get(&mut self, key: &[u8], now: Instant) -> Option<(Arc<Answer>, u32)> {
        let entry = self.entries.get(key)?;
        let age = now.saturating_duration_since(entry.stored).as_secs();
        let age = u32::try_from(age).unwrap_or(u32::MAX);
        if entry
            .answer
            .lifetime()
            .is_some_and(|lifetime| age < lifetime)
        {
            return Some((Arc::clone(&entry.answer), age));
        }
        self.remove(key);
        None
    }

    /// Keeps `answer`, if it may be kept.
    pub(super) fn store(&mut self, key: &[u8], answer: &Arc<Answer>, now: Instant) {
        self.remove(key);
        let (entries, bytes) = self.most;
        if answer.lifetime().is_none() || entries == 0 || cost(key, answer) > bytes {
            return;
        }
        self.bytes += cost(key, answer);
        let entry = Entry {
            answer: Arc::clone(answer),
            stored: now,
        };
        self.entries.put(key.into(), entry);
        while self.entries.len() > entries || self.bytes > bytes {
            let Some((key, entry)) = self.entries.pop_lru() else {
                break;
            };
            self.bytes -= cost(&key, &entry.answer);
        }
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.entries.clear();
        self.bytes = 0;
    }

    fn remove(&mut self, key: &[u8]) {
        if let Some(entry) = self.entries.pop(key) {
            self.bytes -= cost(key, &entry.answer);
        }
    }
}

fn cost(key: &[u8], answer: &Answer) -> usize {
    OVERHEAD + key.len() + answer.memory()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::time::Duration;

    use super::*;
    use crate::wire::dns::Query;

    /// The key of a name, and a failure to answer for it, which is kept for a second.
    fn entry(number: u16) -> (Vec<u8>, Arc<Answer>) {
        let [a, b] = number.to_be_bytes();
        let query = [
            &[0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 4, b'x', b'-'][..],
            &[a, b, 0, 0, 1, 0, 1],
        ];
        let query = query.concat();
        let query = Query::parse(&query).unwrap();
        let mut key = Vec::new();
        query.key(&mut key);
        (key, Arc::new(Answer::failure(&query)))
    }

    #[test]
    fn flood_of_names_stays_within_entries_and_bytes() {
        let now = Instant::now();
        for most in [(100, usize::MAX), (usize::MAX, 20_000)] {
            let mut cache = Cache::new(most.0, most.1);
            for number in 0..5000 {
                let (key, answer) = entry(number);
                cache.store(&key, &answer, now);
                assert!(cache.entries.len() <= most.0 && cache.bytes <= most.1);
            }
            assert!(cache.get(&entry(0).0, now).is_none());
            assert!(cache.get(&entry(4999).0, now).is_some());
            while let Some((key, _)) = cache.entries.peek_lru() {
                let key = key.clone();
                cache.remove(&key);
            }
            assert_eq!(cache.bytes, 0);
        }
    }

    #[test]
    fn answer_is_gone_after_its_time() {
        let now = Instant::now();
        let mut cache = Cache::new(10, 10_000);
        let (key, answer) = entry(1);
        cache.store(&key, &answer, now);
        assert_eq!(cache.get(&key, now).unwrap().1, 0);
        assert!(cache.get(&key, now + Duration::from_secs(1)).is_none());
        assert_eq!((cache.entries.len(), cache.bytes), (0, 0));
        let mut off = Cache::new(0, 10_000);
        off.store(&key, &answer, now);
        assert!(off.get(&key, now).is_none());
    }
}
