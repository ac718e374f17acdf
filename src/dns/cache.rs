//! What is known about names, and which names are being asked for. Pure: `now` is an argument, waiting is the caller's.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use lru::LruCache;
use tokio::time::Instant;

use super::{Addresses, Answer, Config, Error};

/// How long a failure to get any answer is remembered, and how long a refresh waits after one. RFC 9520 §3.2 asks for at
/// least 1 s; more than a few would outlast the trouble.
pub(super) const FAILURE_TTL: Duration = Duration::from_secs(3);

/// Names being asked for at once. Each costs a task, two sockets and their buffers.
pub(super) const MAX_PENDING: usize = 1024;

/// What asking for one name led to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Addresses, good for `ttl`.
    Found { addresses: Addresses, ttl: Duration },
    /// A server said that there is none; `ttl` is what its SOA record allows (RFC 2308 §5).
    Absent { error: Error, ttl: Option<Duration> },
    /// Nobody said anything that can be relied upon.
    Failed(Error),
}

impl Outcome {
    /// The outcome as those see it who asked.
    pub(super) fn answer(&self) -> Answer {
        match self {
            Self::Found { addresses, .. } => Ok(Arc::clone(addresses)),
            Self::Absent { error, .. } | Self::Failed(error) => Err(error.clone()),
        }
    }
}

/// How good a remembered answer still is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Freshness {
    /// Within its TTL.
    Fresh,
    /// Past its TTL; a new one is on its way, or was not to be had a moment ago.
    Stale,
    /// Past its TTL, and now is the time to ask again.
    Expired,
}

/// What a lookup that found nothing in the cache has to do.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Join<W> {
    /// Ask, then [`Cache::store`] and [`Cache::release`] under this name.
    Start(W, Arc<str>),
    /// Wait for what another lookup asked.
    Joined(W),
    /// Too much is being asked already.
    Busy,
}

struct Entry {
    answer: Answer,
    expires: Instant,
    /// Not served from here on. Equal to `expires` for everything but addresses.
    useless: Instant,
    /// No refresh before this.
    refresh: Instant,
}

/// The table of answers, and of names on their way. `W` is what one waits with.
pub(super) struct Cache<W> {
    // Unbounded as far as `lru` goes: its bounded form allocates for the full size at once.
    entries: LruCache<Arc<str>, Entry>,
    pending: HashMap<Arc<str>, W>,
    size: usize,
    ttl_floor: Duration,
    ttl_ceiling: Duration,
    negative_ceiling: Duration,
    stale_for: Duration,
    evicted: u64,
}

impl<W: Clone> Cache<W> {
    /// An empty cache with the bounds of `config`. A floor above a ceiling gives way to the ceiling.
    pub(super) fn new(config: &Config) -> Self {
        Self {
            entries: LruCache::unbounded(),
            pending: HashMap::new(),
            size: config.cache_size,
            ttl_floor: config.ttl_floor.min(config.ttl_ceiling),
            ttl_ceiling: config.ttl_ceiling,
            negative_ceiling: config.negative_ceiling,
            stale_for: config.stale_for,
            evicted: 0,
        }
    }

    /// What is remembered of `name` and may still be served. After [`Freshness::Expired`] the caller should
    /// [`Cache::join`] and ask again.
    pub(super) fn get(&mut self, name: &str, now: Instant) -> Option<(Answer, Freshness)> {
        let entry = self.entries.get(name)?;
        if now < entry.expires {
            return Some((entry.answer.clone(), Freshness::Fresh));
        }
        if now < entry.useless {
            let waits = now < entry.refresh || self.pending.contains_key(name);
            let freshness = if waits {
                Freshness::Stale
            } else {
                Freshness::Expired
            };
            return Some((entry.answer.clone(), freshness));
        }
        self.entries.pop(name);
        None
    }

    /// Joins the query for `name` that is under way, or starts one that others can join by `waiter`'s result.
    pub(super) fn join(&mut self, name: &str, waiter: impl FnOnce() -> W) -> Join<W> {
        if let Some(waiter) = self.pending.get(name) {
            return Join::Joined(waiter.clone());
        }
        if self.pending.len() >= MAX_PENDING {
            return Join::Busy;
        }
        let (name, waiter) = (Arc::<str>::from(name), waiter());
        self.pending.insert(Arc::clone(&name), waiter.clone());
        Join::Start(waiter, name)
    }

    /// Remembers what asking for `name` led to. A failure does not displace addresses that may still be served.
    pub(super) fn store(&mut self, name: &Arc<str>, outcome: &Outcome, now: Instant) {
        let (ttl, stale_for) = match outcome {
            Outcome::Found { ttl, .. } => (
                (*ttl).clamp(self.ttl_floor, self.ttl_ceiling),
                self.stale_for,
            ),
            Outcome::Absent { ttl, .. } => {
                let ttl = ttl.unwrap_or(FAILURE_TTL).max(self.ttl_floor);
                (ttl.min(self.negative_ceiling), Duration::ZERO)
            }
            Outcome::Failed(_) => {
                if let Some(entry) = self.entries.peek_mut(&**name)
                    && entry.answer.is_ok()
                    && now < entry.useless
                {
                    entry.refresh = now + FAILURE_TTL;
                    return;
                }
                (FAILURE_TTL, Duration::ZERO)
            }
        };
        let expires = now + ttl;
        let entry = Entry {
            answer: outcome.answer(),
            expires,
            useless: expires + stale_for,
            refresh: expires,
        };
        self.entries.push(Arc::clone(name), entry);
        if self.entries.len() > self.size {
            self.entries.pop_lru();
            self.evicted += 1;
        }
    }

    /// Ends the query for `name`: the next one to ask starts anew.
    pub(super) fn release(&mut self, name: &str) {
        self.pending.remove(name);
    }

    /// Forgets every answer; queries under way stay joinable.
    pub(super) fn clear(&mut self) {
        self.entries.clear();
    }

    /// Names remembered.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Names forgotten for want of room.
    pub(super) fn evicted(&self) -> u64 {
        self.evicted
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

    use std::net::{IpAddr, Ipv4Addr};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn cache(size: usize) -> Cache<u32> {
        Cache::new(&Config {
            cache_size: size,
            ttl_floor: 5 * SECOND,
            ttl_ceiling: 3600 * SECOND,
            negative_ceiling: 60 * SECOND,
            stale_for: 600 * SECOND,
            ..Config::default()
        })
    }

    fn found(last: u8, ttl: u64) -> Outcome {
        let addresses = Arc::from([IpAddr::V4(Ipv4Addr::new(192, 0, 2, last))]);
        Outcome::Found {
            addresses,
            ttl: Duration::from_secs(ttl),
        }
    }

    fn absent(ttl: Option<u64>) -> Outcome {
        Outcome::Absent {
            error: Error::NoSuchName,
            ttl: ttl.map(Duration::from_secs),
        }
    }

    /// How long `outcome` is fresh, in whole seconds, when stored alone.
    fn lifetime(outcome: &Outcome) -> u32 {
        let (mut cache, now) = (cache(8), Instant::now());
        cache.store(&"name".into(), outcome, now);
        (0..10_000)
            .find(|&age| {
                !matches!(
                    cache.get("name", now + age * SECOND),
                    Some((_, Freshness::Fresh))
                )
            })
            .unwrap()
    }

    #[test]
    fn honours_ttl_between_floor_and_ceiling() {
        assert_eq!(lifetime(&found(1, 300)), 300);
        assert_eq!(lifetime(&found(1, 0)), 5);
        assert_eq!(lifetime(&found(1, 86_400)), 3600);
    }

    #[test]
    fn negative_answers_live_as_the_soa_says_but_not_long() {
        assert_eq!(lifetime(&absent(Some(30))), 30);
        assert_eq!(lifetime(&absent(Some(3600))), 60);
        assert_eq!(lifetime(&absent(None)), 5);
    }

    #[test]
    fn failures_live_for_seconds() {
        assert_eq!(lifetime(&Outcome::Failed(Error::Timeout)), 3);
    }

    #[test]
    fn floor_above_ceiling_gives_way() {
        let config = Config {
            ttl_floor: 10 * SECOND,
            ttl_ceiling: 2 * SECOND,
            ..Config::default()
        };
        let (mut cache, now) = (Cache::<u32>::new(&config), Instant::now());
        cache.store(&"name".into(), &found(1, 300), now);
        assert_eq!(
            cache.get("name", now + 2 * SECOND).unwrap().1,
            Freshness::Expired
        );
    }

    #[test]
    fn evicts_the_least_recently_used() {
        let (mut cache, now) = (cache(2), Instant::now());
        cache.store(&"a".into(), &found(1, 60), now);
        cache.store(&"b".into(), &found(2, 60), now);
        assert!(cache.get("a", now).is_some());
        cache.store(&"c".into(), &found(3, 60), now);
        assert!(cache.get("b", now).is_none());
        assert!(cache.get("a", now).is_some() && cache.get("c", now).is_some());
        assert_eq!((cache.len(), cache.evicted()), (2, 1));
    }

    #[test]
    fn storing_again_evicts_nobody() {
        let (mut cache, now) = (cache(2), Instant::now());
        cache.store(&"a".into(), &found(1, 60), now);
        cache.store(&"b".into(), &found(2, 60), now);
        cache.store(&"b".into(), &found(3, 60), now);
        assert_eq!(cache.get("b", now).unwrap().0, found(3, 0).answer());
        assert_eq!((cache.len(), cache.evicted()), (2, 0));
    }

    #[test]
    fn size_zero_remembers_nothing() {
        let (mut cache, now) = (cache(0), Instant::now());
        cache.store(&"a".into(), &found(1, 60), now);
        assert!(cache.get("a", now).is_none());
    }

    #[test]
    fn serves_stale_and_asks_for_one_refresh() {
        let (mut cache, now) = (cache(8), Instant::now());
        cache.store(&"name".into(), &found(1, 60), now);
        let later = now + 61 * SECOND;
        assert_eq!(
            cache.get("name", later).unwrap(),
            (found(1, 0).answer(), Freshness::Expired)
        );
        assert!(matches!(cache.join("name", || 7), Join::Start(7, _)));
        assert_eq!(cache.get("name", later).unwrap().1, Freshness::Stale);

        cache.store(&"name".into(), &found(2, 60), later);
        cache.release("name");
        assert_eq!(
            cache.get("name", later).unwrap(),
            (found(2, 0).answer(), Freshness::Fresh)
        );
    }

    #[test]
    fn failed_refresh_keeps_stale_and_waits_before_the_next() {
        let (mut cache, now) = (cache(8), Instant::now());
        cache.store(&"name".into(), &found(1, 60), now);
        let later = now + 61 * SECOND;
        cache.store(&"name".into(), &Outcome::Failed(Error::Timeout), later);
        assert_eq!(
            cache.get("name", later).unwrap(),
            (found(1, 0).answer(), Freshness::Stale)
        );
        assert_eq!(
            cache.get("name", later + FAILURE_TTL).unwrap().1,
            Freshness::Expired
        );
    }

    #[test]
    fn negative_refresh_replaces_stale() {
        let (mut cache, now) = (cache(8), Instant::now());
        cache.store(&"name".into(), &found(1, 60), now);
        let later = now + 61 * SECOND;
        cache.store(&"name".into(), &absent(Some(30)), later);
        assert_eq!(
            cache.get("name", later).unwrap(),
            (Err(Error::NoSuchName), Freshness::Fresh)
        );
    }

    #[test]
    fn forgets_what_is_too_stale_and_never_serves_stale_denials() {
        let (mut cache, now) = (cache(8), Instant::now());
        cache.store(&"name".into(), &found(1, 60), now);
        cache.store(&"gone".into(), &absent(Some(30)), now);
        assert!(cache.get("name", now + 660 * SECOND).is_none());
        assert!(cache.get("gone", now + 30 * SECOND).is_none());
        assert_eq!(cache.len(), 0);
    }

    #[test]
    fn joins_what_is_under_way_until_released() {
        let mut cache = cache(8);
        assert_eq!(cache.join("name", || 1), Join::Start(1, "name".into()));
        assert_eq!(cache.join("name", || 2), Join::Joined(1));
        cache.release("name");
        assert_eq!(cache.join("name", || 3), Join::Start(3, "name".into()));
    }

    #[test]
    fn bounds_what_is_under_way() {
        let mut cache = cache(8);
        for n in 0..MAX_PENDING {
            assert!(matches!(cache.join(&n.to_string(), || 0), Join::Start(..)));
        }
        assert_eq!(cache.join("one more", || 0), Join::Busy);
        assert_eq!(cache.join("7", || 0), Join::Joined(0));
        cache.release("7");
        assert!(matches!(cache.join("one more", || 0), Join::Start(..)));
    }
}
