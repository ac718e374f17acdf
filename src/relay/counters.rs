//! What has happened, in numbers.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::net::sync::lock;

/// Counters of one process. All but `streams_now` and `associations_now` only grow.
#[derive(Debug, Default)]
pub struct Counters {
    /// Streams accepted.
    pub streams: AtomicU64,
    /// Streams being served.
    pub streams_now: AtomicU64,
    /// Payload bytes from clients to upstreams.
    pub bytes_up: AtomicU64,
    /// Payload bytes from upstreams to clients.
    pub bytes_down: AtomicU64,
    /// UDP associations made.
    pub associations: AtomicU64,
    /// UDP associations alive.
    pub associations_now: AtomicU64,
    /// Datagrams from clients to upstreams.
    pub datagrams_up: AtomicU64,
    /// Datagrams from upstreams to clients.
    pub datagrams_down: AtomicU64,
    /// Datagrams that a full socket did not take.
    pub datagrams_lost: AtomicU64,
    failures: Mutex<BTreeMap<&'static str, u64>>,
}

impl Counters {
    /// Counts a failure by its short name.
    pub fn fail(&self, status: &'static str) {
        *lock(&self.failures).entry(status).or_default() += 1;
    }

    /// How often each kind of failure has been seen.
    #[must_use]
    pub fn failures(&self) -> BTreeMap<&'static str, u64> {
        lock(&self.failures).clone()
    }
}

impl std::fmt::Display for Counters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let get = |counter: &AtomicU64| counter.load(Relaxed);
        write!(
            f,
            "streams={} streams_now={} bytes_up={} bytes_down={} associations={} associations_now={} datagrams_up={} \
             datagrams_down={} datagrams_lost={}",
            get(&self.streams),
            get(&self.streams_now),
            get(&self.bytes_up),
            get(&self.bytes_down),
            get(&self.associations),
            get(&self.associations_now),
            get(&self.datagrams_up),
            get(&self.datagrams_down),
            get(&self.datagrams_lost),
        )?;
        self.failures()
            .iter()
            .try_for_each(|(status, count)| write!(f, " failed.{status}={count}"))
    }
}

/// Counts itself for as long as it lives.
pub(super) struct Gauge<'a>(&'a AtomicU64);

impl<'a> Gauge<'a> {
    pub(super) fn new(counter: &'a AtomicU64) -> Self {
        counter.fetch_add(1, Relaxed);
        Self(counter)
    }
}

impl Drop for Gauge<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}
