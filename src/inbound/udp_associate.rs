//! Decides which clients may send datagrams: those with an open UDP ASSOCIATE (RFC 1928 §6).

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::net::sync::lock;

/// The open UDP ASSOCIATE connections of one listening address. Each admits one client address: the first that sends a
/// datagram and has no association yet.
#[derive(Debug, Default)]
pub struct Associations(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    next: u64,
    /// The association of each client address.
    bound: HashMap<SocketAddr, u64>,
    /// Associations without a datagram yet, oldest first: the number, and the port that the client announced or 0.
    waiting: HashMap<IpAddr, Vec<(u64, u16)>>,
}

impl Associations {
    fn table(&self) -> MutexGuard<'_, Table> {
        lock(&self.0)
    }

    /// Opens an association for the client at `ip`, which announced that it will send from `port`; 0: it did not say.
    /// When the ticket is dropped, `ended` is called with the client's address, if it has sent a datagram.
    #[must_use]
    pub fn open<F: FnOnce(SocketAddr) + Send>(
        self: &Arc<Self>,
        ip: IpAddr,
        port: u16,
        ended: F,
    ) -> Ticket<F> {
        let mut table = self.table();
        table.next += 1;
        let number = table.next;
        table.waiting.entry(ip).or_default().push((number, port));
        Ticket {
            associations: Arc::clone(self),
            ip,
            number,
            ended: Some(ended),
        }
    }

    /// Whether a datagram from `peer` belongs to an open association.
    pub fn admits(&self, peer: SocketAddr) -> bool {
        let mut table = self.table();
        if table.bound.contains_key(&peer) {
            return true;
        }
        let Some(waiting) = table.waiting.get_mut(&peer.ip()) else {
            return false;
        };
        // The association that announced this port, else the newest that announced none, else the newest.
        let index = waiting
            .iter()
            .rposition(|(_, port)| *port == peer.port())
            .or_else(|| waiting.iter().rposition(|(_, port)| *port == 0))
            .or_else(|| waiting.len().checked_sub(1));
        let Some(index) = index else { return false };
        let (number, _) = waiting.remove(index);
        if waiting.is_empty() {
            table.waiting.remove(&peer.ip());
        }
        table.bound.insert(peer, number);
        true
    }

    fn close(&self, ip: IpAddr, number: u64) -> Option<SocketAddr> {
        let mut table = self.table();
        if let Some(waiting) = table.waiting.get_mut(&ip) {
            waiting.retain(|(other, _)| *other != number);
            if waiting.is_empty() {
                table.waiting.remove(&ip);
            }
        }
        let peer = table
            .bound
            .iter()
            .find(|(_, other)| **other == number)
            .map(|(peer, _)| *peer)?;
        table.bound.remove(&peer);
        Some(peer)
    }
}

/// An open association, which ends when this is dropped.
pub struct Ticket<F: FnOnce(SocketAddr) + Send> {
    associations: Arc<Associations>,
    ip: IpAddr,
    number: u64,
    ended: Option<F>,
}

impl<F: FnOnce(SocketAddr) + Send> Drop for Ticket<F> {
    fn drop(&mut self) {
        if let (Some(peer), Some(ended)) = (
            self.associations.close(self.ip, self.number),
            self.ended.take(),
        ) {
            ended(peer);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn peer(port: u16) -> SocketAddr {
        ([10, 0, 0, 1], port).into()
    }

    #[test]
    fn stranger_is_not_admitted() {
        let associations = Arc::new(Associations::default());
        let _open = associations.open(peer(0).ip(), 0, |_| {});
        assert!(!associations.admits(([10, 0, 0, 2], 5).into()));
    }

    #[test]
    fn one_association_stands_for_one_client_address() {
        let associations = Arc::new(Associations::default());
        let _open = associations.open(peer(0).ip(), 0, |_| {});
        assert!(associations.admits(peer(5)));
        assert!(associations.admits(peer(5)));
        assert!(!associations.admits(peer(6)));
    }

    #[test]
    fn announced_port_finds_its_own_association() {
        let associations = Arc::new(Associations::default());
        let mut ended = Vec::new();
        {
            let first = associations.open(peer(0).ip(), 7, |peer| ended.push(peer));
            let _second = associations.open(peer(0).ip(), 0, |_| {});
            assert!(associations.admits(peer(7)));
            drop(first);
        }
        assert_eq!(ended, [peer(7)]);
    }

    #[test]
    fn association_ends_with_its_ticket() {
        let associations = Arc::new(Associations::default());
        let open = associations.open(peer(0).ip(), 0, |_| {});
        assert!(associations.admits(peer(5)));
        drop(open);
        assert!(!associations.admits(peer(5)));
        assert!(associations.table().bound.is_empty() && associations.table().waiting.is_empty());
    }
}
