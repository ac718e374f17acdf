//! A user: its counters, its limits, and whether it may go on.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, Mutex, OnceLock};
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use super::fair::{Fair, Share};
use super::limits::{Ending, Limits, Refusal};
use super::live::{Live, LiveSession, Protocol};
use super::pace::Pace;
use super::sessions::Sessions;
use super::tally::Tally;
use crate::net::sync::lock;
use crate::net::unix_now;

/// What a user has used. All but what is `now` only grows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Payload bytes from its clients.
    pub up: u64,
    /// Payload bytes to its clients.
    pub down: u64,
    /// Bytes of the period of its quota.
    pub period: u64,
    /// When that period began, in seconds since 1970.
    pub period_start: u64,
    /// Requests that failed or were refused.
    pub failures: u64,
    /// When it was last active, in seconds since 1970; 0: never.
    pub last_seen: u64,
    /// TCP streams now.
    pub tcp_now: u32,
    /// UDP associations now.
    pub udp_now: u32,
    /// Addresses now.
    pub ips_now: u32,
}

/// A user of this process.
#[derive(Debug)]
pub struct User {
    name: Option<Box<str>>,
    limits: RwLock<Limits>,
    pub(super) up: AtomicU64,
    pub(super) down: AtomicU64,
    /// Bytes of the period, and when it began.
    pub(super) period: AtomicU64,
    pub(super) period_start: AtomicU64,
    pub(super) failures: AtomicU64,
    pub(super) last_seen: AtomicU64,
    pace_up: Pace,
    pace_down: Pace,
    /// Changes with the rate.
    paced: AtomicU32,
    /// Flows that wait for the rate.
    waiting: AtomicU32,
    /// Bytes that the period may have; the most that there can be: without a quota.
    quota: AtomicU64,
    /// Why it may not go on.
    shut: Ending,
    /// It is not there any more.
    removed: AtomicBool,
    sessions: Mutex<Sessions>,
    tally: Tally,
    /// Its part, where users share fairly.
    share: OnceLock<Arc<Share>>,
}

impl User {
    /// A user without limits.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self::with(name, Limits::default())
    }

    /// The only user of a server that has one key. It has no name.
    #[must_use]
    pub fn nameless() -> Self {
        Self {
            name: None,
            ..Self::new("")
        }
    }

    /// A user with limits.
    #[must_use]
    pub fn with(name: &str, limits: Limits) -> Self {
        let user = Self {
            name: Some(name.into()),
            limits: RwLock::default(),
            up: AtomicU64::new(0),
            down: AtomicU64::new(0),
            period: AtomicU64::new(0),
            period_start: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            last_seen: AtomicU64::new(0),
            pace_up: Pace::default(),
            pace_down: Pace::default(),
            paced: AtomicU32::new(0),
            waiting: AtomicU32::new(0),
            quota: AtomicU64::new(u64::MAX),
            shut: Ending::default(),
            removed: AtomicBool::new(false),
            sessions: Mutex::default(),
            tally: Tally::default(),
            share: OnceLock::new(),
        };
        user.limit(limits);
        user
    }

    /// Its name in the config; `None`: it is the only user of a server that has one key.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// What it may use.
    #[must_use]
    pub fn limits(&self) -> Limits {
        *self.limits.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets what it may use. It holds for flows that run, too.
    pub fn limit(&self, limits: Limits) {
        let paced = self.pace_up.set(limits.rate) | self.pace_down.set(limits.rate);
        let quota = limits.quota.map_or(u64::MAX, |(bytes, _)| bytes);
        self.quota.store(quota, Relaxed);
        *self.limits.write().unwrap_or_else(PoisonError::into_inner) = limits;
        self.review(unix_now());
        let sessions = lock(&self.sessions);
        sessions.enforce(&limits);
        if paced {
            self.paced.fetch_add(1, Relaxed);
            sessions.wake_all();
        }
    }

    /// What it has used.
    #[must_use]
    pub fn usage(&self) -> Usage {
        let (tcp_now, udp_now, ips_now) = lock(&self.sessions).counts();
        Usage {
            up: self.up.load(Relaxed),
            down: self.down.load(Relaxed),
            period: self.period.load(Relaxed),
            period_start: self.period_start.load(Relaxed),
            failures: self.failures.load(Relaxed),
            last_seen: self.last_seen.load(Relaxed),
            tcp_now,
            udp_now,
            ips_now,
        }
    }

    /// The addresses that its clients have now. The 64-bit network of IPv6 is one.
    #[must_use]
    pub fn addresses(&self) -> Vec<IpAddr> {
        lock(&self.sessions).addresses()
    }

    /// Ends its sessions, and lets it begin no others.
    pub(super) fn remove(&self) {
        self.removed.store(true, SeqCst);
        self.shut(Some(Refusal::Removed));
    }

    /// Ends the sessions that it has now.
    pub(super) fn end_sessions(&self, why: Refusal) {
        lock(&self.sessions).end_all(why);
    }

    /// Ends the session with this id, if it is one of the user's.
    pub(super) fn close(&self, id: u64) -> bool {
        lock(&self.sessions).close(id)
    }

    /// Adds its sessions to `list`, which gets no longer than `most`. Returns how many there are.
    pub(super) fn describe_sessions(&self, list: &mut Vec<LiveSession>, most: usize) -> usize {
        lock(&self.sessions).describe(list, most)
    }

    /// Begins a new period where it is time, and decides whether the user may go on. To be called about once a second: it
    /// ends the flows of a user that may not.
    pub fn review(&self, now: u64) {
        if self.removed.load(SeqCst) {
            return;
        }
        let limits = self.limits();
        let spent = limits.quota.is_some_and(|(bytes, period)| {
            let start = period.start(now);
            // A clock that is set back does not begin an earlier period.
            if self.period_start.load(Relaxed) < start {
                let _one_by_one = lock(&self.sessions);
                if self.period_start.fetch_max(start, Relaxed) < start {
                    self.period.store(0, Relaxed);
                }
            }
            self.period.load(Relaxed) >= bytes
        });
        let refusal = match limits.expires {
            Some(expires) if expires <= now => Some(Refusal::Expired),
            _ if spent => Some(Refusal::Quota),
            _ => None,
        };
        self.shut(refusal);
        if self.removed.load(SeqCst) {
            // That was at this moment.
            self.shut.set(Some(Refusal::Removed));
        }
    }

    fn shut(&self, refusal: Option<Refusal>) {
        if self.shut.set(refusal) && refusal.is_some() {
            let reason = refusal.map(tracing::field::display);
            let user = self.name().map(tracing::field::display);
            tracing::info!(user, reason, "the user's connections end");
            lock(&self.sessions).wake_all();
        }
    }

    /// Why it may not go on.
    #[must_use]
    pub fn refusal(&self) -> Option<Refusal> {
        self.shut.get()
    }

    /// Counts a request that failed.
    pub(in crate::relay) fn fail(&self) {
        self.failures.fetch_add(1, Relaxed);
    }

    /// Counts bytes that a flow has moved. Returns how long it has to wait before it moves more.
    pub(in crate::relay) fn moved(&self, up: u64, down: u64) -> Duration {
        let all = up + down;
        if all == 0 {
            return Duration::ZERO;
        }
        for (counter, bytes) in [(&self.up, up), (&self.down, down)] {
            if bytes > 0 {
                counter.fetch_add(bytes, Relaxed);
            }
        }
        if let Some(share) = self.share.get() {
            share.moved(all);
        }
        if self.quota.load(Relaxed) < u64::MAX {
            let before = self.period.fetch_add(all, Relaxed);
            self.check_quota(before + all);
        }
        let others = self.waiting.load(Relaxed);
        let (up, down) = (
            self.pace_up.pass(up, others),
            self.pace_down.pass(down, others),
        );
        up.max(down)
    }

    /// Changes with the rate: what waits for an earlier one need not.
    pub(in crate::relay) fn paced(&self) -> u32 {
        self.paced.load(Relaxed)
    }

    /// Counts a flow that waits for the user's rate.
    pub(in crate::relay) fn begin_wait(&self) {
        self.waiting.fetch_add(1, Relaxed);
    }

    /// The wait of a flow is over.
    pub(in crate::relay) fn end_wait(&self) {
        self.waiting.fetch_sub(1, Relaxed);
    }

    /// Whether a datagram may pass now, or is one too many.
    pub(in crate::relay) fn admits_datagram(&self, is_up: bool) -> bool {
        let pace = if is_up {
            &self.pace_up
        } else {
            &self.pace_down
        };
        let has_room = || self.share.get().is_none_or(|share| share.may_move());
        self.shut.get().is_none() && pace.is_free() && has_room()
    }

    /// Shares what the process can move with others, from now on.
    pub(super) fn join(&self, fair: &Arc<Fair>) {
        let _joined = self.share.get_or_init(|| Share::new(Arc::clone(fair)));
    }

    /// Its part, where users share fairly.
    pub(in crate::relay) fn share(&self) -> Option<&Arc<Share>> {
        self.share.get()
    }

    /// Ends a user at once whose quota has just been used up, and does not wait for the next review.
    fn check_quota(&self, used: u64) {
        if self.quota.load(Relaxed) <= used && self.shut.get().is_none() {
            self.review(unix_now());
        }
    }

    /// Counts a session of the client at `peer`. Returns its place.
    pub(super) fn admit(
        &self,
        peer: SocketAddr,
        target: Arc<str>,
        protocol: Protocol,
    ) -> Result<(usize, Arc<Live>), Refusal> {
        let begun = match self.refusal() {
            Some(refusal) => Err(refusal),
            None => {
                let limits = self.limits();
                self.last_seen.fetch_max(unix_now(), Relaxed);
                lock(&self.sessions).begin(peer, target, protocol, &limits)
            }
        };
        match &begun {
            Ok(_) => self.tally.begin(protocol),
            Err(_) => self.fail(),
        }
        begun
    }

    pub(super) const fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Its sessions.
    pub(super) const fn sessions(&self) -> &Mutex<Sessions> {
        &self.sessions
    }
}
