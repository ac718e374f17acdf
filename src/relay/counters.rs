//! Counts what happens.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::failed::{FailedFlows, Noted, Whose};
use super::strangers;
use super::users::Users;
use crate::net::sync::lock;

/// The counters of a process. All but `streams_now` and `associations_now` only grow.
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
    /// UDP associations created.
    pub associations: AtomicU64,
    /// UDP associations that exist.
    pub associations_now: AtomicU64,
    /// Datagrams from clients to upstreams.
    pub datagrams_up: AtomicU64,
    /// Datagrams from upstreams to clients.
    pub datagrams_down: AtomicU64,
    /// Datagrams that were lost at a full socket.
    pub datagrams_lost: AtomicU64,
    /// The users.
    pub users: Users,
    /// The last flows that failed.
    pub failed: FailedFlows,
    failures: Mutex<BTreeMap<&'static str, u64>>,
}

impl Counters {
    /// Notes a flow that failed, and says it in the log if it was a stranger's.
    pub fn note(&self, noted: &Noted<'_>) {
        if noted.whose == Whose::Stranger {
            strangers::say(noted);
        }
        self.failed.note(noted);
    }

    /// Counts a failure by its short name.
    pub fn fail(&self, status: &'static str) {
        *lock(&self.failures).entry(status).or_default() += 1;
    }

    /// The number of failures of each kind.
    #[must_use]
    pub fn failures(&self) -> BTreeMap<&'static str, u64> {
        lock(&self.failures).clone()
    }

    /// The numbers with their names; failures are apart.
    #[must_use]
    pub fn numbers(&self) -> [(&'static str, u64); 9] {
        let get = |counter: &AtomicU64| counter.load(Relaxed);
        [
            ("streams", get(&self.streams)),
            ("streams_now", get(&self.streams_now)),
            ("bytes_up", get(&self.bytes_up)),
            ("bytes_down", get(&self.bytes_down)),
            ("associations", get(&self.associations)),
            ("associations_now", get(&self.associations_now)),
            ("datagrams_up", get(&self.datagrams_up)),
            ("datagrams_down", get(&self.datagrams_down)),
            ("datagrams_lost", get(&self.datagrams_lost)),
        ]
    }
}

impl std::fmt::Display for Counters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut blank = "";
        for (name, number) in self.numbers() {
            write!(f, "{blank}{name}={number}")?;
            blank = " ";
        }
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
