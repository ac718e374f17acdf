//! Remembers answers, and which names are being queried. No clock and no waiting: `now` is an argument.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use lru::LruCache;
use tokio::time::Instant;

use super::answer::{Addresses, Answer, Error};
use super::config::Config;

use crate::limits::MAX_PENDING;
use crate::net::shares::{Party, Shares};

/// How long a failed query is remembered, and how long a refresh waits after one. RFC 9520 §3.2 requires at least 1 s;
/// more than a few seconds would outlast most failures.
pub(super) const FAILURE_TTL: Duration = Duration::from_secs(3);

/// The result of a query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Addresses, good for `ttl`.
    Found { addresses: Addresses, ttl: Duration },
    /// A server answered that there is no address; `ttl` is from its SOA record (RFC 2308 §5).
    Absent { error: Error, ttl: Option<Duration> },
    /// No server gave a usable answer.
    Failed(Error),
}

impl Outcome {
    /// The answer that callers get.
    pub(super) fn answer(&self) -> Answer {
        match self {
            Self::Found { addresses, .. } => Ok(Arc::clone(addresses)),
            Self::Absent { error, .. } | Self::Failed(error) => Err(error.clone()),
        }
    }
}

/// How old a remembered answer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Freshness {
    /// Within its TTL.
    Fresh,
    /// Past its TTL; a refresh is under way, or failed a moment ago.
    Stale,
    /// Past its TTL, and a refresh is due.
    Expired,
}

/// What a lookup must do after it found nothing in the cache.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Join<W> {
    /// Query this name, then call [`Cache::store`] and [`Cache::release`].
    Start(Start<W>),
    /// Wait for the query of another lookup.
    Joined(W),
}

/// A query that begins.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Start<W> {
    pub(super) waiter: W,
    pub(super) place: Place,
    /// The query that gives way to it: it is no longer registered.
    pub(super) displaced: Option<W>,
}

/// The place of a query under way.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) name: Arc<str>,
    party: Party,
    number: u64,
}

struct Entry {
    answer: Answer,
    expires: Instant,
    /// Until then the answer may be served stale. Equal to `expires` unless the answer has addresses.
    stale_until: Instant,
    /// The time of the next refresh, at the earliest.
    refresh_after: Instant,
}

/// The answers, and the queries under way. A lookup waits for a query with a `W`.
pub(super) struct Cache<W> {
    // `size` is enforced here: a bounded `LruCache` would allocate for the full size at once.
    entries: LruCache<Arc<str>, Entry>,
    /// Each with the number of its place.
    pending: HashMap<Arc<str>, (W, u64)>,
    places: Shares<Arc<str>>,
    size: usize,
    ttl_floor: Duration,
    ttl_ceiling: Duration,
    negative_ceiling: Duration,
    stale_for: Duration,
    evicted: u64,
}

impl<W: Clone> Cache<W> {
    /// Makes an empty cache with the limits of `config`. If a floor is above a ceiling, the ceiling applies.
    pub(super) fn new(config: &Config) -> Self {
        Self {
            entries: LruCache::unbounded(),
            pending: HashMap::new(),
            places: Shares::new(MAX_PENDING),
            size: config.cache_size,
            ttl_floor: config.ttl_floor.min(config.ttl_ceiling),
            ttl_ceiling: config.ttl_ceiling,
            negative_ceiling: config.negative_ceiling,
            stale_for: config.stale_for,
            evicted: 0,
        }
    }

    /// Returns the answer for `name` that may still be served. On [`Freshness::Expired`] the caller should call
    /// [`Cache::join`] and refresh it.
    pub(super) fn get(&mut self, name: &str, now: Instant) -> Option<(Answer, Freshness)> {
        let entry = self.entries.get(name)?;
        if now < entry.expires {
            return Some((entry.answer.clone(), Freshness::Fresh));
        }
        if now < entry.stale_until {
            let is_waiting = now < entry.refresh_after || self.pending.contains_key(name);
            let freshness = if is_waiting {
                Freshness::Stale
            } else {
                Freshness::Expired
            };
            return Some((entry.answer.clone(), freshness));
        }
        self.entries.pop(name);
        None
    }

    /// Joins the query for `name` that is under way, or registers a new one of `party` that others can join with `waiter`'s
    /// result. If too many are under way, the oldest one of the party that has the most gives way.
    pub(super) fn join(&mut self, name: &str, party: Party, waiter: impl FnOnce() -> W) -> Join<W> {
        if let Some((waiter, _)) = self.pending.get(name) {
            return Join::Joined(waiter.clone());
        }
        let (name, waiter) = (Arc::<str>::from(name), waiter());
        let (number, displaced) = self.places.add(party.clone(), Arc::clone(&name));
        let displaced = displaced.and_then(|name| self.pending.remove(&name));
        let entry = (waiter.clone(), number);
        self.pending.insert(Arc::clone(&name), entry);
        Join::Start(Start {
            waiter,
            place: Place {
                name,
                party,
                number,
            },
            displaced: displaced.map(|(waiter, _)| waiter),
        })
    }

    /// Remembers the result of the query for `name`. A failure does not replace addresses that may still be served.
    pub(super) fn store(&mut self, name: &Arc<str>, outcome: &Outcome, now: Instant) {
        if let Outcome::Failed(_) = outcome
            && let Some(entry) = self.entries.peek_mut(&**name)
            && entry.answer.is_ok()
            && now < entry.stale_until
        {
            entry.refresh_after = now + FAILURE_TTL;
            return;
        }
        let expires = now + self.clamp_ttl(outcome);
        let stale_for = match outcome {
            Outcome::Found { .. } => self.stale_for,
            Outcome::Absent { .. } | Outcome::Failed(_) => Duration::ZERO,
        };
        let entry = Entry {
            answer: outcome.answer(),
            expires,
            stale_until: expires + stale_for,
            refresh_after: expires,
        };
        self.entries.push(Arc::clone(name), entry);
        if self.entries.len() > self.size {
            self.entries.pop_lru();
            self.evicted += 1;
        }
    }

    /// Clamps the TTL of `outcome` to the limits of the config.
    fn clamp_ttl(&self, outcome: &Outcome) -> Duration {
        match outcome {
            Outcome::Found { ttl, .. } => (*ttl).clamp(self.ttl_floor, self.ttl_ceiling),
            Outcome::Absent { ttl, .. } => {
                let ttl = ttl.unwrap_or(FAILURE_TTL).max(self.ttl_floor);
                ttl.min(self.negative_ceiling)
            }
            Outcome::Failed(_) => FAILURE_TTL,
        }
    }

    /// Ends the query that has this place: the next lookup of its name starts a new one.
    pub(super) fn release(&mut self, place: &Place) {
        // One that gave way may have been replaced by another one for the same name.
        if self.places.remove(&place.party, place.number).is_some() {
            self.pending.remove(&place.name);
        }
    }

    /// Forgets every answer. Queries under way can still be joined.
    pub(super) fn clear(&mut self) {
        self.entries.clear();
    }

    /// The number of names remembered.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The number of names evicted because the cache was full.
    pub(super) fn evicted(&self) -> u64 {
        self.evicted
    }
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::panic,
        clippy::cast_possible_truncation,
        reason = "tests"
    )]

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
    fn keeps_ttl_between_floor_and_ceiling() {
        assert_eq!(lifetime(&found(1, 300)), 300);
        assert_eq!(lifetime(&found(1, 0)), 5);
        assert_eq!(lifetime(&found(1, 86_400)), 3600);
    }

    #[test]
    fn negative_answers_live_as_long_as_the_soa_record_allows() {
        assert_eq!(lifetime(&absent(Some(30))), 30);
        assert_eq!(lifetime(&absent(Some(3600))), 60);
        assert_eq!(lifetime(&absent(None)), 5);
    }

    #[test]
    fn failures_live_for_three_seconds() {
        assert_eq!(lifetime(&Outcome::Failed(Error::Timeout)), 3);
    }

    #[test]
    fn ceiling_overrides_floor() {
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
    fn storing_again_evicts_nothing() {
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
    fn serves_stale_and_requests_one_refresh() {
        let (mut cache, now) = (cache(8), Instant::now());
        cache.store(&"name".into(), &found(1, 60), now);
        let later = now + 61 * SECOND;
        assert_eq!(
            cache.get("name", later).unwrap(),
            (found(1, 0).answer(), Freshness::Expired)
        );
        let begun = start(&mut cache, "name", 7);
        assert_eq!(begun.waiter, 7);
        assert_eq!(cache.get("name", later).unwrap().1, Freshness::Stale);

        cache.store(&"name".into(), &found(2, 60), later);
        cache.release(&begun.place);
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
    fn drops_old_answers_and_never_serves_negative_ones_stale() {
        let (mut cache, now) = (cache(8), Instant::now());
        cache.store(&"name".into(), &found(1, 60), now);
        cache.store(&"gone".into(), &absent(Some(30)), now);
        assert!(cache.get("name", now + 660 * SECOND).is_none());
        assert!(cache.get("gone", now + 30 * SECOND).is_none());
        assert_eq!(cache.len(), 0);
    }

    #[test]
    fn joins_a_query_until_it_is_released() {
        let mut cache = cache(8);
        let begun = start(&mut cache, "name", 1);
        assert_eq!(cache.join("name", other(), || 2), Join::Joined(1));
        cache.release(&begun.place);
        assert_eq!(start(&mut cache, "name", 3).waiter, 3);
    }

    #[test]
    fn the_queries_under_way_are_limited_and_the_oldest_of_the_greediest_gives_way() {
        let mut cache = cache(8);
        let mut first = None;
        for n in 0..MAX_PENDING {
            let begun = start(&mut cache, &n.to_string(), n as u32);
            assert_eq!(begun.displaced, None);
            first.get_or_insert(begun.place);
        }
        let Join::Start(modest) = cache.join("modest", other(), || 9000) else {
            panic!("joined");
        };
        assert_eq!(modest.displaced, Some(0));
        assert_eq!(start(&mut cache, "one more", 9001).displaced, Some(1));
        assert_eq!(cache.pending.len(), MAX_PENDING);
        // It has given way: another query for the name is not ended by its end.
        let again = start(&mut cache, "0", 9002);
        cache.release(&first.unwrap());
        assert_eq!(cache.join("0", other(), || 0), Join::Joined(9002));
        cache.release(&again.place);
        assert_eq!(cache.join("modest", Party::Own, || 0), Join::Joined(9000));
    }

    fn other() -> Party {
        Party::of(Some("other"), None)
    }

    fn start(cache: &mut Cache<u32>, name: &str, waiter: u32) -> Start<u32> {
        match cache.join(name, Party::Own, || waiter) {
            Join::Start(start) => start,
            Join::Joined(waiter) => panic!("joined {waiter}"),
        }
    }
}
