//! What an operator's program has been told of a user: counters that it may clear.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::live::Protocol;
use crate::net::sync::lock;

/// What a user has used in this process, since it was cleared last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Payload bytes from its clients.
    pub up: u64,
    /// Payload bytes to its clients.
    pub down: u64,
    /// Datagrams from its clients.
    pub packets_up: u64,
    /// Datagrams to its clients.
    pub packets_down: u64,
    /// TCP streams that began.
    pub tcp: u64,
    /// UDP associations that began.
    pub udp: u64,
}

impl Stats {
    fn since(&self, before: &Self) -> Self {
        Self {
            up: self.up.saturating_sub(before.up),
            down: self.down.saturating_sub(before.down),
            packets_up: self.packets_up.saturating_sub(before.packets_up),
            packets_down: self.packets_down.saturating_sub(before.packets_down),
            tcp: self.tcp.saturating_sub(before.tcp),
            udp: self.udp.saturating_sub(before.udp),
        }
    }

    /// Both together.
    #[must_use]
    pub const fn and(&self, other: &Self) -> Self {
        Self {
            up: self.up.saturating_add(other.up),
            down: self.down.saturating_add(other.down),
            packets_up: self.packets_up.saturating_add(other.packets_up),
            packets_down: self.packets_down.saturating_add(other.packets_down),
            tcp: self.tcp.saturating_add(other.tcp),
            udp: self.udp.saturating_add(other.udp),
        }
    }
}

/// The counters behind [`Stats`] that nothing else has.
#[derive(Debug, Default)]
pub(super) struct Tally {
    packets_up: AtomicU64,
    packets_down: AtomicU64,
    tcp: AtomicU64,
    udp: AtomicU64,
    /// What is not told any more.
    cleared: Mutex<Stats>,
}

impl Tally {
    /// Counts a session that begins.
    pub(super) fn begin(&self, protocol: Protocol) {
        match protocol {
            Protocol::Tcp => self.tcp.fetch_add(1, Relaxed),
            Protocol::Udp => self.udp.fetch_add(1, Relaxed),
            Protocol::Link | Protocol::Multiplex => 0,
        };
    }

    /// What was used of `up` and `down` bytes since it was cleared, and whether it is to begin anew now.
    pub(super) fn told(&self, (up, down): (u64, u64), clears: bool) -> Stats {
        let mut cleared = lock(&self.cleared);
        let all = Stats {
            up,
            down,
            packets_up: self.packets_up.load(Relaxed),
            packets_down: self.packets_down.load(Relaxed),
            tcp: self.tcp.load(Relaxed),
            udp: self.udp.load(Relaxed),
        };
        let told = all.since(&cleared);
        if clears {
            *cleared = all;
        }
        told
    }

    /// Counts a datagram.
    pub(super) fn packet(&self, is_up: bool) {
        let counter = if is_up {
            &self.packets_up
        } else {
            &self.packets_down
        };
        counter.fetch_add(1, Relaxed);
    }

    /// Leaves out bytes that did not come through this process.
    pub(super) fn leave_out(&self, up: u64, down: u64) {
        let mut cleared = lock(&self.cleared);
        cleared.up = cleared.up.saturating_add(up);
        cleared.down = cleared.down.saturating_add(down);
    }
}
