//! The web servers behind a site: which of them gets a request, and how they are.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash as _, Hasher as _};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use http::uri::Authority;
use tokio::time::Instant;

use crate::limits::UPSTREAM_DOWN;
use crate::net::sync::lock;
use crate::wire::Address;

/// Which web server gets a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Strategy {
    /// One after the other.
    #[default]
    RoundRobin,
    /// The one with the fewest requests now.
    LeastConnections,
    /// The same for each visitor's address, as long as it is well.
    Hash,
}

impl Strategy {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::RoundRobin, Self::LeastConnections, Self::Hash];

    /// Its name in a config.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::RoundRobin => "round_robin",
            Self::LeastConnections => "least_connections",
            Self::Hash => "hash",
        }
    }
}

/// One web server.
pub(super) struct Upstream {
    pub(super) address: Address,
    /// The same as it stands in a URL.
    pub(super) authority: Authority,
    /// Its requests now.
    running: AtomicUsize,
    /// After a failure: until when others are asked first.
    down_until: Mutex<Option<Instant>>,
    /// What the last check has found.
    is_sick: AtomicBool,
}

impl Upstream {
    fn is_well(&self) -> bool {
        !self.is_sick.load(Ordering::Relaxed)
            && lock(&self.down_until).is_none_or(|until| until <= Instant::now())
    }

    /// Notes that a request got no answer. Returns whether the server was well until now.
    pub(super) fn note_failure(&self) -> bool {
        let was_well = self.is_well();
        *lock(&self.down_until) = Some(Instant::now() + UPSTREAM_DOWN);
        was_well
    }

    /// Notes that a request was answered.
    pub(super) fn note_answer(&self) {
        lock(&self.down_until).take();
    }

    /// Notes what a check has found. Returns whether that is new.
    pub(super) fn note_check(&self, is_well: bool) -> bool {
        if is_well {
            lock(&self.down_until).take();
        }
        self.is_sick.swap(!is_well, Ordering::Relaxed) == is_well
    }
}

/// A request that a web server has now.
pub(super) struct Running(Arc<Upstream>);

impl Running {
    pub(super) fn begin(upstream: &Arc<Upstream>) -> Self {
        upstream.running.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(upstream))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::Relaxed);
    }
}

/// All web servers behind a site.
pub(super) struct Upstreams {
    pub(super) all: Vec<Arc<Upstream>>,
    strategy: Strategy,
    next: AtomicUsize,
}

impl Upstreams {
    /// Those at addresses that can stand in a URL.
    pub(super) fn new(addresses: Vec<Address>, strategy: Strategy) -> Self {
        let upstream = |address: Address| {
            let authority = address.to_string().parse().ok()?;
            Some(Arc::new(Upstream {
                address,
                authority,
                running: AtomicUsize::new(0),
                down_until: Mutex::new(None),
                is_sick: AtomicBool::new(false),
            }))
        };
        Self {
            all: addresses.into_iter().filter_map(upstream).collect(),
            strategy,
            next: AtomicUsize::new(0),
        }
    }

    /// In which order they are tried for a visitor: those that are well first.
    pub(super) fn order(&self, visitor: IpAddr) -> Vec<Arc<Upstream>> {
        let mut order = self.all.clone();
        match self.strategy {
            Strategy::RoundRobin => rotate(&mut order, &self.next),
            Strategy::LeastConnections => {
                // Of those with as many requests, one after the other.
                rotate(&mut order, &self.next);
                order.sort_by_key(|one| one.running.load(Ordering::Relaxed));
            }
            // The highest of the hashes of both: when a server leaves, only its visitors go elsewhere.
            Strategy::Hash => order.sort_by_cached_key(|one| {
                let mut hasher = DefaultHasher::new();
                (visitor.to_canonical(), one.authority.as_str()).hash(&mut hasher);
                std::cmp::Reverse(hasher.finish())
            }),
        }
        order.sort_by_cached_key(|one| !one.is_well());
        order
    }
}

fn rotate(order: &mut [Arc<Upstream>], next: &AtomicUsize) {
    if let Some(by) = next
        .fetch_add(1, Ordering::Relaxed)
        .checked_rem(order.len())
    {
        order.rotate_left(by);
    }
}
