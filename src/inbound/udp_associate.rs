//! Decides which clients may send datagrams: those with an open UDP ASSOCIATE (RFC 1928 §6).

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::net::sync::lock;
use crate::relay::User;

/// The open UDP ASSOCIATE connections of one listening address. Each admits one client address: the first that sends a
/// datagram and has no association yet.
#[derive(Debug, Default)]
pub struct Associations(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    next: u64,
    /// The association of each client address.
    bound: HashMap<SocketAddr, (u64, Admitted)>,
    /// Associations without a datagram yet, oldest first.
    waiting: HashMap<IpAddr, Vec<Waiting>>,
}

#[derive(Debug)]
struct Waiting {
    number: u64,
    /// The port that the client announced, or 0.
    port: u16,
    user: Admitted,
}

/// The user of a client that may send datagrams, if it has logged in.
pub type Admitted = Option<Arc<User>>;

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
        user: Admitted,
        ended: F,
    ) -> Ticket<F> {
        let mut table = self.table();
        table.next += 1;
        let number = table.next;
        let waiting = Waiting { number, port, user };
        table.waiting.entry(ip).or_default().push(waiting);
        Ticket {
            associations: Arc::clone(self),
            ip,
            number,
            ended: Some(ended),
        }
    }

    /// Whose open association a datagram from `peer` belongs to; `None`: to none.
    pub fn admit(&self, peer: SocketAddr) -> Option<Admitted> {
        let mut table = self.table();
        if let Some((_, user)) = table.bound.get(&peer) {
            return Some(user.clone());
        }
        let waiting = table.waiting.get_mut(&peer.ip())?;
        // The association that announced this port, else the newest that announced none, else the newest.
        let index = waiting
            .iter()
            .rposition(|one| one.port == peer.port())
            .or_else(|| waiting.iter().rposition(|one| one.port == 0))
            .or_else(|| waiting.len().checked_sub(1))?;
        let Waiting { number, user, .. } = waiting.remove(index);
        if waiting.is_empty() {
            table.waiting.remove(&peer.ip());
        }
        table.bound.insert(peer, (number, user.clone()));
        Some(user)
    }

    fn close(&self, ip: IpAddr, number: u64) -> Option<SocketAddr> {
        let mut table = self.table();
        if let Some(waiting) = table.waiting.get_mut(&ip) {
            waiting.retain(|other| other.number != number);
            if waiting.is_empty() {
                table.waiting.remove(&ip);
            }
        }
        let peer = table
            .bound
            .iter()
            .find(|(_, (other, _))| *other == number)
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
        let _open = associations.open(peer(0).ip(), 0, None, |_| {});
        assert!(associations.admit(([10, 0, 0, 2], 5).into()).is_none());
    }

    #[test]
    fn one_association_stands_for_one_client_address() {
        let associations = Arc::new(Associations::default());
        let _open = associations.open(peer(0).ip(), 0, None, |_| {});
        assert!(associations.admit(peer(5)).is_some());
        assert!(associations.admit(peer(5)).is_some());
        assert!(associations.admit(peer(6)).is_none());
    }

    #[test]
    fn announced_port_finds_its_own_association() {
        let associations = Arc::new(Associations::default());
        let mut ended = Vec::new();
        {
            let first = associations.open(peer(0).ip(), 7, None, |peer| ended.push(peer));
            let _second = associations.open(peer(0).ip(), 0, None, |_| {});
            assert!(associations.admit(peer(7)).is_some());
            drop(first);
        }
        assert_eq!(ended, [peer(7)]);
    }

    #[test]
    fn association_ends_with_its_ticket() {
        let associations = Arc::new(Associations::default());
        let open = associations.open(peer(0).ip(), 0, None, |_| {});
        assert!(associations.admit(peer(5)).is_some());
        drop(open);
        assert!(associations.admit(peer(5)).is_none());
        assert!(associations.table().bound.is_empty() && associations.table().waiting.is_empty());
    }
}
