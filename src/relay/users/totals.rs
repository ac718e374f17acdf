//! What a user has used, for whoever keeps it beyond this process.

use std::sync::atomic::Ordering::Relaxed;

use super::period::Period;
use super::user::User;
use crate::net::sync::lock;

/// What a user has used. Bytes of a period are those since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Payload bytes from its clients.
    pub up: u64,
    /// Payload bytes to its clients.
    pub down: u64,
    /// Requests that failed or were refused.
    pub failures: u64,
    /// When it was last active, in seconds since 1970; 0: never.
    pub last_seen: u64,
    /// Bytes of the period of its quota.
    pub period: u64,
    /// When that period began, in seconds since 1970.
    pub period_start: u64,
    /// The kind of the period: bytes of another kind are not those of this one. 0: there is no quota.
    pub period_kind: u8,
}

impl Totals {
    /// What has come since `before`, of the same user.
    #[must_use]
    pub const fn since(&self, before: &Self) -> Self {
        let same = self.is_same_period(before);
        Self {
            up: self.up.saturating_sub(before.up),
            down: self.down.saturating_sub(before.down),
            failures: self.failures.saturating_sub(before.failures),
            period: match same {
                true => self.period.saturating_sub(before.period),
                false => self.period,
            },
            ..*self
        }
    }

    /// Whether the bytes of both periods belong together.
    #[must_use]
    pub const fn is_same_period(&self, other: &Self) -> bool {
        self.period_kind == other.period_kind && self.period_start == other.period_start
    }
}

impl User {
    /// All that it has used.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let kind = self.limits().quota.map(|(_, period)| kind(period));
        // A period does not begin meanwhile.
        let _period = lock(self.sessions());
        Totals {
            up: self.up.load(Relaxed),
            down: self.down.load(Relaxed),
            failures: self.failures.load(Relaxed),
            last_seen: self.last_seen.load(Relaxed),
            period: self.period.load(Relaxed),
            period_start: self.period_start.load(Relaxed),
            period_kind: kind.unwrap_or(0),
        }
    }

    /// Adds what it has used elsewhere: before this process, or beside it.
    pub fn absorb(&self, other: &Totals) {
        self.tally().leave_out(other.up, other.down);
        self.up.fetch_add(other.up, Relaxed);
        self.down.fetch_add(other.down, Relaxed);
        self.failures.fetch_add(other.failures, Relaxed);
        self.last_seen.fetch_max(other.last_seen, Relaxed);
        let known = self.totals();
        let _period = lock(self.sessions());
        if known.period_kind != other.period_kind || known.period_kind == 0 {
            return;
        }
        if known.period_start == other.period_start {
            self.period.fetch_add(other.period, Relaxed);
        } else if known.period_start < other.period_start {
            self.period_start.store(other.period_start, Relaxed);
            self.period.store(other.period, Relaxed);
        }
    }
}

impl User {
    /// Adds what it has used on other servers. Bytes of a period that is not the one of now are left out.
    pub fn absorb_shared(&self, other: &Totals) {
        self.tally().leave_out(other.up, other.down);
        self.up.fetch_add(other.up, Relaxed);
        self.down.fetch_add(other.down, Relaxed);
        self.failures.fetch_add(other.failures, Relaxed);
        self.last_seen.fetch_max(other.last_seen, Relaxed);
        if other.period > 0 && self.totals().is_shared_period(other) {
            let _period = lock(self.sessions());
            self.period.fetch_add(other.period, Relaxed);
        }
    }
}

impl Totals {
    /// Whether the bytes of both periods belong together, where each server has counted its own. One that never begins anew
    /// may have begun at any time.
    #[must_use]
    pub const fn is_shared_period(&self, other: &Self) -> bool {
        self.period_kind == other.period_kind
            && self.period_kind > 0
            && (self.period_kind == kind(Period::Once) || self.period_start == other.period_start)
    }
}

const fn kind(period: Period) -> u8 {
    match period {
        Period::Once => 100,
        Period::Daily => 101,
        Period::Monthly(day) => day,
    }
}
