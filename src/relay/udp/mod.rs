//! Serves one packet socket: associations, their sessions and the way back.
//!
//! ```text
//! client ─> receive a batch ─> identify ─> association ─> open ─> wrap ─> upstream socket
//! client <─ reply socket    <─ wrap    <─ open         <─ receive a batch <─┘  (a task an association)
//! ```
//!
//! An association is one client, known by its address or, in SIP022, by its session id; it has one upstream socket
//! that takes answers from anybody (full cone). What it remembers of its client moves only after a packet has been
//! authenticated. The table is shared by all workers, since a client that roams reaches another worker's socket.

mod association;
pub mod carry;
pub mod codec;

use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use lru::LruCache;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::Counters;
use crate::crypto::SaltPool;
use crate::net::sync::lock;
use crate::net::udp::{Batch, Path, Socket};
use crate::net::unix_now;
use crate::wire::ss::packet::{PacketHeader, PacketSealer, ServerPackets, Subkeys, has_sessions};
use crate::wire::ss::{Accounts, Salt};
use crate::wire::{self, Address, AddressRef, socks};
use association::Association;
use carry::Carrying;
use codec::{Unwrap, Wrap};

/// Datagrams that wait for a name to be resolved, of all associations.
const MAX_RESOLVING: usize = 256;

/// How clients speak on the packet socket.
pub enum PacketInbound {
    /// SOCKS5; the function tells whether a client may use the socket.
    Socks(Box<dyn Fn(SocketAddr) -> bool + Send + Sync>),
    /// Shadowsocks.
    Shadowsocks {
        /// Who may.
        accounts: Arc<Accounts>,
        /// Salts seen, for methods whose packets have no ids; `None`: replays are let pass.
        salts: Option<Salts>,
        /// The next server of each relayed identity, by its place among the accounts (SIP023).
        next_hops: Vec<Option<Address>>,
    },
    /// Anything, from anybody, for this target.
    Forward(Address),
}

/// What tells a replayed packet that has no id.
pub struct Salts {
    /// The salts that have been here.
    pub seen: Mutex<SaltPool>,
    /// Whether a replayed packet is dropped, or only logged.
    pub reject: bool,
}

/// Where an association's datagrams go.
pub trait PacketOutbound: Send + Sync + 'static {
    /// A new association's socket and what is spoken on it. `sealed`: the client's packets are passed on unopened.
    ///
    /// # Errors
    /// What the system says.
    fn open(&self, sealed: bool) -> io::Result<Upstream>;

    /// Where a datagram for `target` is to be sent, if that can be said at once.
    fn locate(&self, target: AddressRef<'_>, trusted: bool) -> Located;

    /// Where a datagram for `target` is to be sent.
    fn resolve(
        &self,
        target: &Address,
        trusted: bool,
    ) -> impl Future<Output = Option<SocketAddr>> + Send;
}

/// The upstream side of a new association.
pub struct Upstream {
    /// Its socket.
    pub socket: Socket,
    /// The server that all its datagrams go to; `None`: each goes to its target.
    pub server: Option<Address>,
    /// For what goes out.
    pub wrap: Wrap,
    /// For what comes in.
    pub unwrap: Unwrap,
    /// What carries its datagrams further, where that is not the network.
    pub carrying: Option<Carrying>,
}

/// Where a datagram is to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Located {
    /// There.
    At(SocketAddr),
    /// The name has to be asked for.
    Unknown,
    /// Nowhere.
    Denied,
}

/// What an association is known by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Key {
    Peer(SocketAddr),
    Session(u64, Option<usize>),
}

/// The associations of one listening address, for all workers.
pub struct Relay<O> {
    inbound: PacketInbound,
    outbound: O,
    associations: Mutex<LruCache<Key, Arc<Association>>>,
    resolving: Semaphore,
    timeout: Duration,
    counters: Arc<Counters>,
}

impl<O: PacketOutbound> Relay<O> {
    /// Without associations yet; of more than `capacity` the least recently used ends. An association ends after
    /// `timeout` without a datagram.
    #[must_use]
    pub fn new(
        inbound: PacketInbound,
        outbound: O,
        capacity: NonZeroUsize,
        timeout: Duration,
        counters: Arc<Counters>,
    ) -> Self {
        Self {
            inbound,
            outbound,
            associations: Mutex::new(LruCache::sparse(capacity)),
            resolving: Semaphore::new(MAX_RESOLVING),
            timeout,
            counters,
        }
    }

    /// Ends the association of a client that is known by its address.
    pub fn close(&self, peer: SocketAddr) {
        if let Some(association) = self.table().pop(&Key::Peer(peer)) {
            association.close();
        }
    }

    fn table(&self) -> MutexGuard<'_, LruCache<Key, Arc<Association>>> {
        lock(&self.associations)
    }

    /// Ends `association`, unless its place has been taken by another.
    fn remove(&self, association: &Arc<Association>) {
        let mut table = self.table();
        if table
            .peek(&association.key)
            .is_some_and(|found| Arc::ptr_eq(found, association))
        {
            table.pop(&association.key);
        }
    }

    /// Serves `socket` until it fails or the future is dropped; with it end the associations begun here.
    ///
    /// # Errors
    /// What the system says of the socket.
    pub async fn serve(self: Arc<Self>, socket: Arc<Socket>) -> io::Result<()> {
        let mut tasks = JoinSet::new();
        let mut work = Work::default();
        loop {
            tokio::select! {
                received = poll_fn(|cx| socket.poll_receive(cx, |mut received| {
                    if let PacketInbound::Shadowsocks { accounts, .. } = &self.inbound {
                        accounts.derive_subkeys(&mut work.subkeys, received.contents());
                    }
                    for (datagram, path) in received.datagrams() {
                        if let Err(error) = self.take(&mut work, datagram, path) {
                            self.counters.fail(error.status());
                            tracing::debug!(peer = %path.peer, status = error.status(), %error, "datagram dropped");
                        }
                    }
                })) => received?,
                Some(_) = tasks.join_next() => continue,
            }
            self.flush(&mut work);
            for association in work.begun.drain(..) {
                tasks.spawn(association::answer(
                    Arc::clone(&self),
                    association,
                    Arc::clone(&socket),
                ));
            }
            for waiting in work.unresolved.drain(..) {
                tasks.spawn(Arc::clone(&self).send_later(waiting));
            }
        }
    }

    /// Deals with one datagram of a client.
    fn take(&self, work: &mut Work, datagram: &mut [u8], path: Path) -> Result<(), wire::Error> {
        match &self.inbound {
            PacketInbound::Socks(admits) => {
                if !admits(path.peer) {
                    return Err(wire::Error::SessionMismatch);
                }
                let (fragment, start) = socks::parse_udp_prefix(datagram)?;
                if fragment != 0 {
                    return Err(wire::Error::Fragmented);
                }
                let body = datagram.get(start..).unwrap_or_default();
                // Looked at before an association is made for it.
                AddressRef::parse(body)?.ok_or(wire::Error::Truncated)?;
                let key = Key::Peer(path.peer);
                let association = match self.find(work, key) {
                    Some(association) => association,
                    None => self.begin(work, key, path, false, Wrap::Socks, None)?,
                };
                self.forward(work, &association, body)
            }
            PacketInbound::Shadowsocks {
                accounts,
                salts,
                next_hops,
            } => {
                let subkey = work.subkeys.next_for(datagram);
                let found = accounts.identify(datagram)?;
                if let Some(next) = found.user.and_then(|user| next_hops.get(user)?.as_ref()) {
                    return self.pass_on(work, accounts, datagram, &found, path, next);
                }
                let key = found
                    .session
                    .map_or(Key::Peer(path.peer), |id| Key::Session(id, found.user));
                let (association, body) = match self.find(work, key) {
                    Some(association) => {
                        let body = association.open(datagram, subkey, &found)?;
                        check_salt(accounts, salts.as_ref(), datagram)?;
                        (association, body)
                    }
                    None => {
                        let mut packets = ServerPackets::new(accounts, &found)?;
                        let body = packets.open(datagram, subkey, &found, unix_now())?;
                        check_salt(accounts, salts.as_ref(), datagram)?;
                        let wrap = Wrap::Seal(PacketSealer::server(
                            accounts,
                            found.user,
                            rand::random(),
                            found.session.unwrap_or_default(),
                        )?);
                        let association =
                            self.begin(work, key, path, false, wrap, Some((packets, &found)))?;
                        (association, body)
                    }
                };
                association.moved_to(path);
                self.forward(work, &association, datagram.get(body).unwrap_or_default())
            }
            PacketInbound::Forward(target) => self.carry(work, datagram, path, target),
        }
    }

    /// A packet whose identity belongs to another server (SIP023): without our header, and unopened.
    fn pass_on(
        &self,
        work: &mut Work,
        accounts: &Accounts,
        datagram: &mut [u8],
        found: &PacketHeader,
        path: Path,
        next: &Address,
    ) -> Result<(), wire::Error> {
        let packet = accounts.rewrite_for_next_server(datagram, found)?;
        let packet = datagram.get(packet).unwrap_or_default();
        self.carry(work, packet, path, next)
    }

    /// Sends a packet to `target` as it is; only what comes from there goes back.
    fn carry(
        &self,
        work: &mut Work,
        packet: &[u8],
        path: Path,
        target: &Address,
    ) -> Result<(), wire::Error> {
        let key = Key::Peer(path.peer);
        let association = match self.find(work, key) {
            Some(association) => association,
            None => self.begin(work, key, path, true, Wrap::Bare, None)?,
        };
        self.dispatch(work, &association, target.as_ref(), &[], packet, true)
    }

    /// The association known by `key`; neighbours of a batch mostly have the same.
    fn find(&self, work: &mut Work, key: Key) -> Option<Arc<Association>> {
        if let Some(current) = work
            .current
            .as_ref()
            .filter(|current| current.key == key && !current.is_closed())
        {
            return Some(Arc::clone(current));
        }
        self.table()
            .get(&key)
            .filter(|found| !found.is_closed())
            .cloned()
    }

    fn begin(
        &self,
        work: &mut Work,
        key: Key,
        path: Path,
        sealed: bool,
        reply: Wrap,
        packets: Option<(ServerPackets, &PacketHeader)>,
    ) -> Result<Arc<Association>, wire::Error> {
        let upstream = match self.outbound.open(sealed) {
            Ok(upstream) => upstream,
            Err(error) => {
                tracing::warn!(%error, "cannot open a socket for a UDP association");
                return Err(wire::Error::NoResources);
            }
        };
        let (packets, found) = packets.unzip();
        let association = Arc::new(Association::new(key, path, upstream, reply, packets));
        let evicted = {
            let mut table = self.table();
            // Another worker may have begun the same session meanwhile: then its window decides.
            let other = table.get(&key).filter(|other| !other.is_closed());
            if let Some(other) = other.cloned() {
                drop(table);
                found.map_or(Ok(()), |found| other.admit(found))?;
                return Ok(other);
            }
            table.push(key, Arc::clone(&association))
        };
        if let Some((_, evicted)) = evicted {
            evicted.close();
        }
        self.counters.associations.fetch_add(1, Relaxed);
        tracing::debug!(peer = %path.peer, "association begun");
        work.begun.push(Arc::clone(&association));
        Ok(association)
    }

    /// Sends a body on to where its address says.
    fn forward(
        &self,
        work: &mut Work,
        association: &Arc<Association>,
        body: &[u8],
    ) -> Result<(), wire::Error> {
        let (target, len) = AddressRef::parse(body)?.ok_or(wire::Error::Truncated)?;
        let (address, data) = body.split_at_checked(len).ok_or(wire::Error::Truncated)?;
        self.dispatch(work, association, target, address, data, false)
    }

    fn dispatch(
        &self,
        work: &mut Work,
        association: &Arc<Association>,
        target: AddressRef<'_>,
        address: &[u8],
        data: &[u8],
        trusted: bool,
    ) -> Result<(), wire::Error> {
        if work
            .current
            .as_ref()
            .is_none_or(|current| !Arc::ptr_eq(current, association))
        {
            self.flush(work);
            work.current = Some(Arc::clone(association));
        }
        let (target, trusted) = association
            .server
            .as_ref()
            .map_or((target, trusted), |server| (server.as_ref(), true));
        match self.outbound.locate(target, trusted) {
            Located::At(peer) => {
                association.wrap(&mut work.batch, Path { peer, local: None }, address, data)?;
                if work.batch.is_full() {
                    self.flush(work);
                }
            }
            Located::Unknown if work.unresolved.len() < MAX_RESOLVING => {
                work.unresolved.push(Unresolved {
                    association: Arc::clone(association),
                    target: target.to_owned(),
                    address: address.into(),
                    data: data.into(),
                    trusted,
                })
            }
            Located::Unknown => return Err(wire::Error::NoResources),
            Located::Denied => return Err(wire::Error::Denied),
        }
        association.touch();
        self.counters.datagrams_up.fetch_add(1, Relaxed);
        Ok(())
    }

    /// Sends what has been gathered for the current association.
    fn flush(&self, work: &mut Work) {
        if let Some(association) = work.current.take()
            && !work.batch.is_empty()
        {
            let lost = association.socket.send(&mut work.batch);
            self.counters.datagrams_lost.fetch_add(lost as u64, Relaxed);
        }
    }

    /// Sends a datagram whose target's name has to be asked for first.
    async fn send_later(self: Arc<Self>, waiting: Unresolved) {
        let Ok(_permit) = self.resolving.try_acquire() else {
            self.counters.fail(wire::Error::NoResources.status());
            return;
        };
        let Some(peer) = self
            .outbound
            .resolve(&waiting.target, waiting.trusted)
            .await
        else {
            self.counters.fail("resolve");
            tracing::debug!(target = %waiting.target, "datagram dropped: its target has no usable address");
            return;
        };
        let mut batch = Batch::default();
        let path = Path { peer, local: None };
        if waiting
            .association
            .wrap(&mut batch, path, &waiting.address, &waiting.data)
            .is_ok()
        {
            let lost = waiting.association.socket.send(&mut batch);
            self.counters.datagrams_lost.fetch_add(lost as u64, Relaxed);
        }
    }
}

/// What the datagrams of one batch have come to.
#[derive(Default)]
struct Work {
    /// The association that `batch` is for.
    current: Option<Arc<Association>>,
    batch: Batch,
    /// Of the packets that are being looked at.
    subkeys: Subkeys,
    begun: Vec<Arc<Association>>,
    unresolved: Vec<Unresolved>,
}

/// A datagram that waits for its target's address.
struct Unresolved {
    association: Arc<Association>,
    target: Address,
    address: Box<[u8]>,
    data: Box<[u8]>,
    trusted: bool,
}

/// Packets without ids are known by their salts. To be called when the packet has been opened.
fn check_salt(
    accounts: &Accounts,
    salts: Option<&Salts>,
    packet: &[u8],
) -> Result<(), wire::Error> {
    let method = accounts.method();
    let salt = Salt::read(method, packet).filter(|salt| !salt.as_slice().is_empty());
    let (Some(salts), Some(salt), false) = (salts, salt, has_sessions(method)) else {
        return Ok(());
    };
    let mut seen = lock(&salts.seen);
    if seen.insert(salt.as_slice(), Duration::ZERO) {
        return Ok(());
    }
    if salts.reject {
        return Err(wire::Error::Replayed);
    }
    tracing::warn!("a packet's salt was used twice: a replay, or a network that doubles packets");
    Ok(())
}
