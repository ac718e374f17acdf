//! Associations in a connection that carries the datagrams of one client. The client may come from another address at any time, so
//! what is known of an association is kept by its connection and its number in it.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use tokio::sync::Notify;

use crate::net::alive::{Alive, Limit};

/// What stands for an association in a connection: an address inside the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inside(Ipv6Addr);

impl Inside {
    /// The segments before the number of the connection: in the discard prefix, 100::/64 (RFC 6666), and behind the addresses of
    /// sockets inside the process.
    const PREFIX: u128 = (0x100 << 112) | (1 << 64);

    fn new(connection: u64, association: u16) -> Self {
        // There is no process in which so many connections begin that their numbers lose digits.
        let low = connection << 16 | u64::from(association);
        Self(Ipv6Addr::from_bits(Self::PREFIX | u128::from(low)))
    }

    pub(super) fn of(ip: IpAddr) -> Option<Self> {
        match ip {
            IpAddr::V6(ip) => Some(Self(ip)),
            IpAddr::V4(_) => None,
        }
    }

    pub(super) const fn ip(self) -> IpAddr {
        IpAddr::V6(self.0)
    }

    /// The number of the association in its connection.
    #[must_use]
    pub const fn association(self) -> u16 {
        let [.., association] = self.0.segments();
        association
    }

    /// An address that no other association of the process has, and no peer on a network.
    #[must_use]
    pub const fn address(self) -> SocketAddr {
        SocketAddr::new(self.ip(), 0)
    }
}

/// The connection of an in-memory socket.
pub struct Connection {
    number: u64,
    /// Associations that have begun in it and not ended.
    associations: Limit,
    /// From so many on, one ends when another begins.
    capacity: usize,
    is_authenticated: AtomicBool,
    authenticated: Arc<Notify>,
    remote: Box<dyn Fn() -> SocketAddr + Send + Sync>,
}

impl Connection {
    /// A connection in which `associations` are counted, of which there are `capacity`, and more for as long as they take to end.
    /// `authenticated` is notified when a packet of the client was opened, and `remote` tells the address of the client.
    #[must_use]
    pub fn new(
        associations: Limit,
        capacity: usize,
        authenticated: Arc<Notify>,
        remote: impl Fn() -> SocketAddr + Send + Sync + 'static,
    ) -> Self {
        static CONNECTIONS: AtomicU64 = AtomicU64::new(0);
        Self {
            number: CONNECTIONS.fetch_add(1, Relaxed),
            associations,
            capacity,
            is_authenticated: AtomicBool::new(false),
            authenticated,
            remote: Box::new(remote),
        }
    }

    /// Its number in this process.
    #[must_use]
    pub const fn number(&self) -> u64 {
        self.number
    }

    /// The address of the client now.
    pub(super) fn remote(&self) -> SocketAddr {
        (self.remote)()
    }

    pub(super) fn inside(&self, association: u16) -> Inside {
        Inside::new(self.number, association)
    }

    /// A packet of the client was opened.
    pub fn authenticated(&self) {
        if !self.is_authenticated.swap(true, Relaxed) {
            self.authenticated.notify_one();
        }
    }

    /// Whether an association has to end before another begins.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.associations.count() >= self.capacity
    }

    /// Whether associations were told to end, and have not yet.
    #[must_use]
    pub fn is_crowded(&self) -> bool {
        self.associations.count() > self.capacity
    }

    /// Counts an association for as long as it lasts; `None`: there are too many.
    #[must_use]
    pub fn begin(&self) -> Option<Alive> {
        self.associations.take(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn associations_are_told_apart_by_connection_and_number() {
        let all = [(0, 0), (0, 1), (1, 0), (1, 1), (0, 65_535), (2, 65_535)];
        for (index, (connection, association)) in all.into_iter().enumerate() {
            let inside = Inside::new(connection, association);
            assert_eq!(inside.association(), association);
            assert_eq!(Inside::of(inside.ip()), Some(inside));
            for (other, (connection, association)) in all.into_iter().enumerate() {
                let is_same = inside.address() == Inside::new(connection, association).address();
                assert_eq!(is_same, index == other);
            }
        }
    }
}
