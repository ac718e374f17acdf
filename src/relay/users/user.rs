//! A user: its counters, its limits, and whether it may go on.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError, RwLock};
use std::time::Duration;

use super::limits::{Limits, Refusal};
use super::pace::Pace;
use super::sessions::Sessions;
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
    /// The name in the config.
    pub name: Box<str>,
    limits: RwLock<Limits>,
    up: AtomicU64,
    down: AtomicU64,
    /// Bytes of the period, and when it began.
    period: AtomicU64,
    period_start: AtomicU64,
    failures: AtomicU64,
    last_seen: AtomicU64,
    pace_up: Pace,
    pace_down: Pace,
    /// Flows that wait for the rate.
    waiting: AtomicU32,
    /// Bytes that the period may have; the most that there can be: without a quota.
    quota: AtomicU64,
    /// 0: it may go on; else the number of the reason in [`Refusal::ENDING`], from 1.
    shut: AtomicU8,
    sessions: Mutex<Sessions>,
}

impl User {
    /// A user without limits.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self::with(name, Limits::default())
    }

    /// A user with limits.
    #[must_use]
    pub fn with(name: &str, limits: Limits) -> Self {
        let user = Self {
            name: name.into(),
            limits: RwLock::default(),
            up: AtomicU64::new(0),
            down: AtomicU64::new(0),
            period: AtomicU64::new(0),
            period_start: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            last_seen: AtomicU64::new(0),
            pace_up: Pace::default(),
            pace_down: Pace::default(),
            waiting: AtomicU32::new(0),
            quota: AtomicU64::new(u64::MAX),
            shut: AtomicU8::new(0),
            sessions: Mutex::default(),
        };
        user.limit(limits);
        user
    }

    /// What it may use.
    #[must_use]
    pub fn limits(&self) -> Limits {
        *self.limits.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets what it may use. It holds for flows that run, too.
    pub fn limit(&self, limits: Limits) {
        self.pace_up.set(limits.rate);
        self.pace_down.set(limits.rate);
        let quota = limits.quota.map_or(u64::MAX, |(bytes, _)| bytes);
        self.quota.store(quota, Relaxed);
        *self.limits.write().unwrap_or_else(PoisonError::into_inner) = limits;
        self.review(unix_now());
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

    /// Begins a new period where it is time, and decides whether the user may go on. To be called about once a second: it
    /// ends the flows of a user that may not.
    pub fn review(&self, now: u64) {
        let limits = self.limits();
        let spent = limits.quota.is_some_and(|(bytes, period)| {
            let start = period.start(now);
            // A clock that is set back does not begin an earlier period.
            if self.period_start.fetch_max(start, Relaxed) < start {
                self.period.store(0, Relaxed);
            }
            self.period.load(Relaxed) >= bytes
        });
        let refusal = match limits.expires {
            Some(expires) if expires <= now => Some(Refusal::Expired),
            _ if spent => Some(Refusal::Quota),
            _ => None,
        };
        self.shut(refusal);
    }

    fn shut(&self, refusal: Option<Refusal>) {
        let place = |refusal| Refusal::ENDING.iter().position(|other| *other == refusal);
        let number = refusal.and_then(place).map_or(0, |place| place + 1);
        let number = u8::try_from(number).unwrap_or(u8::MAX);
        if self.shut.swap(number, Relaxed) != number && number != 0 {
            let reason = refusal.map(tracing::field::display);
            tracing::info!(user = %self.name, reason, "the user's connections end");
            lock(&self.sessions).wake_all();
        }
    }

    /// Why it may not go on.
    #[must_use]
    pub fn refusal(&self) -> Option<Refusal> {
        let number = usize::from(self.shut.load(Relaxed));
        Refusal::ENDING.get(number.checked_sub(1)?).copied()
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
        self.up.fetch_add(up, Relaxed);
        self.down.fetch_add(down, Relaxed);
        let before = self.period.fetch_add(all, Relaxed);
        self.check_quota(before + all);
        let others = self.waiting.load(Relaxed);
        let (up, down) = (
            self.pace_up.pass(up, others),
            self.pace_down.pass(down, others),
        );
        up.max(down)
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
        self.shut.load(Relaxed) == 0 && pace.is_free()
    }

    /// Ends a user at once whose quota has just been used up, and does not wait for the next review.
    fn check_quota(&self, used: u64) {
        if self.quota.load(Relaxed) <= used && self.shut.load(Relaxed) == 0 {
            self.review(unix_now());
        }
    }

    /// Counts a session of the client at `ip`. Returns the address that it is counted under.
    pub(super) fn admit(&self, ip: IpAddr, is_udp: bool) -> Result<IpAddr, Refusal> {
        let begun = match self.refusal() {
            Some(refusal) => Err(refusal),
            None => {
                let limits = self.limits();
                self.last_seen.fetch_max(unix_now(), Relaxed);
                lock(&self.sessions).begin(ip, is_udp, &limits)
            }
        };
        if begun.is_err() {
            self.fail();
        }
        begun
    }

    /// Its sessions.
    pub(super) const fn sessions(&self) -> &Mutex<Sessions> {
        &self.sessions
    }
}
