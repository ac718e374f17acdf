//! The connections that programs open through a tun device, each known to our listener by a port.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::num::NonZeroUsize;

use lru::LruCache;

use crate::limits::{MAX_TUN_CONNECTIONS, MAX_TUN_OPENING};

/// The two ends of a connection, as its program sees them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Flow {
    /// The program.
    pub source: SocketAddr,
    /// What it connects to.
    pub destination: SocketAddr,
}

/// Which way a segment goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// From the program.
    Up,
    /// To the program.
    Down,
}

/// The table. Connections that nobody has accepted, and those that have ended, do not take the place of others.
pub(super) struct Nat {
    by_port: HashMap<u16, Entry>,
    /// Not yet accepted, or ended.
    passing: LruCache<Flow, u16>,
    /// Accepted.
    open: LruCache<Flow, u16>,
    /// Where the search for a free port begins.
    next: u16,
}

struct Entry {
    flow: Flow,
    ended_up: bool,
    ended_down: bool,
}

impl Entry {
    const fn has_ended(&self) -> bool {
        self.ended_up && self.ended_down
    }
}

impl Nat {
    pub(super) fn new() -> Self {
        Self::with_room(MAX_TUN_OPENING, MAX_TUN_CONNECTIONS)
    }

    fn with_room(passing: usize, open: usize) -> Self {
        let room = |count| NonZeroUsize::new(count).unwrap_or(NonZeroUsize::MIN);
        Self {
            by_port: HashMap::new(),
            passing: LruCache::sparse(room(passing)),
            open: LruCache::sparse(room(open)),
            next: 1,
        }
    }

    /// The port of a connection.
    pub(super) fn port(&mut self, flow: &Flow) -> Option<u16> {
        let known = self.open.get(flow);
        known.or_else(|| self.passing.get(flow)).copied()
    }

    /// The port of a connection that its program opens, perhaps not for the first time.
    pub(super) fn begin(&mut self, flow: Flow) -> u16 {
        if let Some(port) = self.port(&flow) {
            if let Some(entry) = self.by_port.get_mut(&port) {
                (entry.ended_up, entry.ended_down) = (false, false);
            }
            return port;
        }
        if self.passing.len() >= self.passing.cap().get()
            && let Some((_, port)) = self.passing.pop_lru()
        {
            self.by_port.remove(&port);
        }
        let port = self.free_port();
        let entry = Entry {
            flow,
            ended_up: false,
            ended_down: false,
        };
        self.by_port.insert(port, entry);
        self.passing.put(flow, port);
        port
    }

    /// In turn, so that a port rests for as long as possible: the system remembers its last connection for a while. There
    /// are fewer places than ports.
    fn free_port(&mut self) -> u16 {
        loop {
            let port = self.next;
            self.next = port.checked_add(1).unwrap_or(1);
            if !self.by_port.contains_key(&port) {
                return port;
            }
        }
    }

    /// The connection behind a port.
    pub(super) fn flow(&self, port: u16) -> Option<Flow> {
        self.by_port.get(&port).map(|entry| entry.flow)
    }

    /// The connection behind a port that our listener has accepted; it stays known until it ends.
    pub(super) fn accept(&mut self, port: u16) -> Option<Flow> {
        let entry = self.by_port.get(&port)?;
        let flow = entry.flow;
        if !entry.has_ended() && self.passing.pop(&flow).is_some() {
            self.keep_open(flow, port);
        }
        Some(flow)
    }

    fn keep_open(&mut self, flow: Flow, port: u16) {
        if self.open.len() >= self.open.cap().get()
            && let Some((_, oldest)) = self.open.pop_lru()
        {
            self.by_port.remove(&oldest);
        }
        self.open.put(flow, port);
    }

    /// Notes that a direction has ended, or both.
    pub(super) fn end(&mut self, port: u16, way: Way, both: bool) {
        let Some(entry) = self.by_port.get_mut(&port) else {
            return;
        };
        entry.ended_up |= both || way == Way::Up;
        entry.ended_down |= both || way == Way::Down;
        let (flow, has_ended) = (entry.flow, entry.has_ended());
        if has_ended && self.open.pop(&flow).is_some() {
            if self.passing.len() >= self.passing.cap().get()
                && let Some((_, oldest)) = self.passing.pop_lru()
            {
                self.by_port.remove(&oldest);
            }
            self.passing.put(flow, port);
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.by_port.len()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn flow(port: u16) -> Flow {
        Flow {
            source: ([10, 0, 0, 1], port).into(),
            destination: ([198, 51, 100, 7], 443).into(),
        }
    }

    #[test]
    fn flood_of_openings_leaves_accepted_connections_alone() {
        let mut nat = Nat::with_room(8, 4);
        let port = nat.begin(flow(1));
        assert_eq!(nat.accept(port), Some(flow(1)));
        for other in 2..1000 {
            nat.begin(flow(other));
        }
        assert_eq!(nat.len(), 1 + 8);
        assert_eq!(nat.port(&flow(1)), Some(port));
        assert_eq!(nat.flow(port), Some(flow(1)));
        assert_eq!(nat.port(&flow(2)), None);
    }

    #[test]
    fn silent_connections_make_room_for_accepted_ones() {
        let mut nat = Nat::with_room(8, 4);
        for number in 1..=5 {
            let port = nat.begin(flow(number));
            nat.accept(port).unwrap();
            nat.port(&flow(1));
        }
        assert_eq!(nat.len(), 4);
        assert!(nat.port(&flow(1)).is_some() && nat.port(&flow(2)).is_none());
    }

    #[test]
    fn ended_connections_keep_no_place_of_open_ones() {
        let mut nat = Nat::with_room(2, 8);
        for number in 1..=8 {
            let port = nat.begin(flow(number));
            nat.accept(port).unwrap();
            nat.end(port, Way::Up, false);
            assert_eq!(nat.open.len(), 1);
            nat.end(port, Way::Down, false);
            assert_eq!(nat.open.len(), 0);
        }
        assert_eq!(nat.len(), 2);
        let port = nat.port(&flow(8)).unwrap();
        nat.end(port, Way::Down, true);
        assert_eq!(nat.begin(flow(8)), port);
        nat.accept(port).unwrap();
        assert_eq!(nat.open.len(), 1);
    }

    #[test]
    fn ports_rest_before_they_are_used_again() {
        let mut nat = Nat::with_room(2, 2);
        let mut last = 0;
        for number in 1..=u16::MAX {
            let port = nat.begin(flow(number));
            assert!(port > last, "{port} after {last}");
            last = port;
        }
        assert_eq!(nat.begin(flow(0)), 1);
    }
}
