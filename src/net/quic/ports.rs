//! The ports of a process on which QUIC is served, and how one listener follows another.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, Weak};

use quinn::ConnectionId;
use zeroize::Zeroizing;

use super::ids::{Lineage, MAX_ID_LEN};
use super::port::{Earlier, Heir, Legacy, Port};
use crate::limits::{MAX_QUIC_EARLIER, MAX_QUIC_WAITING};
use crate::net::sync::lock;

/// The ports of this process.
#[derive(Clone, Default)]
pub struct Ports(Arc<Mutex<HashMap<SocketAddr, Entry>>>);

#[derive(Default)]
struct Entry {
    /// Who receives.
    newest: Weak<Port>,
    /// Listeners that were built and have not begun.
    claims: usize,
    /// What an earlier process has left.
    inherited: Option<Legacy>,
}

impl Entry {
    /// Tells the listener that receives whether there will be another.
    fn tell(&self, from: Heir, to: Heir) {
        if let Some(newest) = self.newest.upgrade() {
            newest.heir.send_if_modified(|heir| {
                let is_news = *heir == from;
                if is_news {
                    *heir = to;
                }
                is_news
            });
        }
    }
}

/// A way to an earlier listener, for another process.
pub struct Passage {
    /// The address of the port.
    pub address: SocketAddr,
    /// The key of its ids, and what clients may send to it with ids of their own.
    pub secret: Zeroizing<Vec<u8>>,
    /// The number of the listener.
    pub generation: u16,
    socket: OwnedFd,
}

impl AsFd for Passage {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Ports {
    /// Prepares a listener on `socket`: it will take the place of the one that is there. Nothing changes until it begins.
    ///
    /// # Errors
    /// What the system says.
    pub fn claim(&self, socket: UdpSocket) -> io::Result<Claim> {
        let address = socket.local_addr()?;
        let mut ports = lock(&self.0);
        ports.retain(|_, entry| entry.claims > 0 || entry.newest.strong_count() > 0);
        let entry = ports.entry(address).or_default();
        entry.claims += 1;
        entry.tell(Heir::Nobody, Heir::Expected);
        Ok(Claim {
            ports: self.clone(),
            address,
            socket: Some(socket),
        })
    }

    /// Leaves all ports to another process. From now on, listeners receive only what it passes to them.
    #[must_use]
    pub fn leave(&self) -> Vec<Passage> {
        let newest: Vec<_> = lock(&self.0)
            .iter()
            .filter_map(|(address, entry)| Some((*address, entry.newest.upgrade()?)))
            .collect();
        let left = newest
            .into_iter()
            .filter_map(|(address, port)| Some((address, port.leave()?)));
        left.flat_map(|(address, legacy)| {
            let Legacy { lineage, earlier } = legacy;
            earlier.into_iter().map(move |one| Passage {
                address,
                secret: record(&lineage, &one.first_ids),
                generation: one.generation,
                socket: one.way.into(),
            })
        })
        .collect()
    }

    /// Takes over a way from the process before this one, where a listener was built for that port. Otherwise the earlier listener
    /// ends: nobody will pass anything to it.
    pub fn restore(&self, address: SocketAddr, generation: u16, secret: &[u8], way: OwnedFd) {
        let (Some((secret, first_ids)), mut ports) = (parse(secret), lock(&self.0)) else {
            return;
        };
        let Some(entry) = ports.get_mut(&address).filter(|entry| entry.claims > 0) else {
            return;
        };
        let legacy = entry.inherited.get_or_insert_with(|| Legacy {
            lineage: Arc::new(Lineage::from(secret)),
            earlier: Vec::new(),
        });
        if legacy.earlier.len() < MAX_QUIC_EARLIER {
            legacy.earlier.push(Earlier {
                generation,
                way: way.into(),
                first_ids,
            });
        }
    }
}

/// The key of a port, and the ids that clients have chosen, each with its length before it.
fn record(lineage: &Lineage, first_ids: &HashSet<ConnectionId>) -> Zeroizing<Vec<u8>> {
    let mut bytes = Zeroizing::new(lineage.secret().to_vec());
    for id in first_ids {
        bytes.extend(u8::try_from(id.len()));
        bytes.extend_from_slice(id);
    }
    bytes
}

fn parse(bytes: &[u8]) -> Option<(Zeroizing<[u8; 32]>, HashSet<ConnectionId>)> {
    let (secret, mut rest) = bytes.split_first_chunk()?;
    let mut first_ids = HashSet::new();
    while let Some((len, after)) = rest.split_first() {
        let (id, left) = after.split_at_checked(usize::from(*len))?;
        if id.len() > MAX_ID_LEN || first_ids.len() >= MAX_QUIC_WAITING {
            return None;
        }
        first_ids.insert(ConnectionId::new(id));
        rest = left;
    }
    Some((Zeroizing::new(*secret), first_ids))
}

/// The right to listen on a port after the listener that is there.
pub struct Claim {
    ports: Ports,
    address: SocketAddr,
    socket: Option<UdpSocket>,
}

impl Claim {
    /// Begins: the socket, and what earlier listeners leave.
    pub(super) fn begin(&mut self) -> io::Result<(UdpSocket, Legacy)> {
        let socket = self.socket.take();
        let socket = socket.ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected))?;
        let mut ports = lock(&self.ports.0);
        let entry = ports.entry(self.address).or_default();
        let left = entry.newest.upgrade().and_then(|before| before.leave());
        let legacy = left.or_else(|| entry.inherited.take());
        Ok((socket, legacy.unwrap_or_default()))
    }

    /// The listener receives from now on.
    pub(super) fn note(&self, port: &Arc<Port>) {
        let mut ports = lock(&self.ports.0);
        let entry = ports.entry(self.address).or_default();
        entry.newest = Arc::downgrade(port);
        if entry.claims > 1 {
            entry.tell(Heir::Nobody, Heir::Expected);
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if let Some(entry) = lock(&self.ports.0).get_mut(&self.address) {
            entry.claims = entry.claims.saturating_sub(1);
            if entry.claims == 0 {
                entry.inherited = None;
                entry.tell(Heir::Expected, Heir::Nobody);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use quinn::{Runtime as _, TokioRuntime};

    use super::*;

    #[test]
    fn what_another_process_needs_is_read_as_it_was_written() {
        let lineage = Lineage::default();
        let ids = [0, 8, 20].map(|len| ConnectionId::new(&vec![7; len]));
        let bytes = record(&lineage, &HashSet::from(ids));
        let (secret, first_ids) = parse(&bytes).unwrap();
        assert_eq!(secret.as_ref(), lineage.secret());
        assert_eq!(first_ids, HashSet::from(ids));
        assert!(parse(&bytes[..31]).is_none());
        // One id alone: of several, any can be the last, and the empty one ends where it begins.
        let bytes = record(&lineage, &HashSet::from([ids[2]]));
        assert!(parse(&bytes[..bytes.len() - 1]).is_none());
        assert!(parse(&[&bytes[..32], &[21; 22]].concat()).is_none());
    }

    #[test]
    fn listener_is_followed_only_by_one_that_begins() {
        let ports = Ports::default();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let copy = || socket.try_clone().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let _entered = runtime.enter();
        let begin = |mut claim: Claim| {
            let (socket, legacy) = claim.begin().unwrap();
            let socket = TokioRuntime.wrap_udp_socket(socket).unwrap();
            let port = Port::new(socket, legacy.next(), legacy);
            claim.note(&port);
            port
        };
        let first = begin(ports.claim(copy()).unwrap());
        assert_eq!(*first.heir.borrow(), Heir::Nobody);
        let given_up = ports.claim(copy()).unwrap();
        let other = ports.claim(copy()).unwrap();
        assert_eq!(*first.heir.borrow(), Heir::Expected);
        drop(given_up);
        assert_eq!(*first.heir.borrow(), Heir::Expected);
        let second = begin(other);
        assert_eq!(*first.heir.borrow(), Heir::Begun);
        assert_eq!(*second.heir.borrow(), Heir::Nobody);
        drop(ports.claim(copy()).unwrap());
        assert_eq!(*second.heir.borrow(), Heir::Nobody);
        // To another process, which has a listener for that port, or has not.
        let passages = ports.leave();
        assert_eq!(passages.len(), 2);
        assert_eq!(*second.heir.borrow(), Heir::Begun);
        let (new, without) = (Ports::default(), Ports::default());
        let claim = new.claim(copy()).unwrap();
        for passage in passages {
            let Passage {
                address,
                secret,
                generation,
                socket,
            } = passage;
            let way = socket.try_clone().unwrap();
            without.restore(address, generation, &secret, way);
            new.restore(address, generation, &secret, socket);
        }
        assert!(lock(&without.0).is_empty());
        let third = begin(claim);
        let left = third.leave().unwrap();
        assert_eq!(left.earlier.len(), 3);
    }
}
