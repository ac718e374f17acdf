//! From clients to upstreams.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::association::Association;
use super::framing::split;
use super::replies::Replies;
use super::sides::{ClientKey, Destination, Opened, PacketInbound, PacketOutbound};
use super::table::AssociationTable;
use crate::limits::MAX_RESOLVING;
use crate::net::udp::{Batch, Path, Socket};
use crate::relay::counters::Counters;
use crate::wire::{self, Address, AddressRef};

/// Serves the packet sockets of one listening address, one per worker.
pub struct Relay<I: PacketInbound, O> {
    inbound: I,
    outbound: O,
    table: Arc<AssociationTable<I::Session>>,
    resolving: Semaphore,
    timeout: Duration,
    counters: Arc<Counters>,
}

impl<I: PacketInbound, O: PacketOutbound> Relay<I, O> {
    /// A relay for at most `capacity` associations. An association ends after `timeout` without a datagram.
    #[must_use]
    pub fn new(
        inbound: I,
        outbound: O,
        capacity: NonZeroUsize,
        timeout: Duration,
        counters: Arc<Counters>,
    ) -> Self {
        Self {
            inbound,
            outbound,
            table: Arc::new(AssociationTable::new(capacity)),
            resolving: Semaphore::new(MAX_RESOLVING),
            timeout,
            counters,
        }
    }

    /// Ends the association of a client that is known by its address.
    pub fn close(&self, client: SocketAddr) {
        self.table.close(ClientKey::Address(client));
    }

    /// Serves `socket` until it fails or the future is dropped, which ends the associations that began here. If the other
    /// end of an in-memory socket is dropped, they live on until their timeout, since their clients may come back
    /// through another socket.
    ///
    /// # Errors
    /// What the system says of the socket.
    pub async fn serve(self: Arc<Self>, socket: Arc<Socket>) -> io::Result<()> {
        let mut tasks = JoinSet::new();
        let mut work = WorkOf::<I>::default();
        loop {
            tokio::select! {
                received = poll_fn(|cx| socket.poll_receive(cx, |mut received| {
                    work.outgoing = Batch::spare();
                    self.inbound.prepare(&mut work.inbound, received.contents());
                    for (datagram, path) in received.datagrams() {
                        if let Err(error) = self.forward(&mut work, &socket, datagram, path) {
                            self.counters.fail(error.status());
                            tracing::debug!(peer = %path.peer, status = error.status(), %error, "datagram dropped");
                        }
                    }
                    self.flush(&mut work);
                    std::mem::take(&mut work.outgoing).keep();
                })) => match received {
                    Err(error) if error.kind() == io::ErrorKind::BrokenPipe => break,
                    received => received?,
                },
                Some(_) = tasks.join_next() => continue,
            }
            for replies in work.started.drain(..) {
                tasks.spawn(replies.run());
            }
            for waiting in work.unresolved.drain(..) {
                tasks.spawn(Arc::clone(&self).send_when_resolved(waiting));
            }
        }
        while tasks.join_next().await.is_some() {}
        Ok(())
    }

    /// Forwards one datagram of a client.
    fn forward(
        &self,
        work: &mut WorkOf<I>,
        socket: &Arc<Socket>,
        datagram: &mut [u8],
        path: Path,
    ) -> Result<(), wire::Error> {
        let (key, mut header) = self
            .inbound
            .identify(&mut work.inbound, datagram, path.peer)?;
        let known = self.find(work, key);
        let mut session = I::Session::default();
        let opened = match &known {
            Some(association) => {
                association.open(&self.inbound, &mut header, datagram, path, socket)?
            }
            None => self.inbound.open(&mut session, &mut header, datagram)?,
        };
        let fixed_target = matches!(opened, Opened::Fixed(..));
        let room;
        let (target, address, data) = match opened {
            Opened::Fixed(target, data) => {
                room = Encoded::of(target)?;
                (target.as_ref(), room.bytes(), datagram.get(data))
            }
            Opened::Addressed(body) => {
                let (target, address, data) = split(datagram.get(body).unwrap_or_default())?;
                (target, address, Some(data))
            }
        };
        let association = match known {
            Some(association) => association,
            None => {
                let client = (path, socket, session);
                self.associate(work, key, client, &header, fixed_target)?
            }
        };
        let data = data.unwrap_or_default();
        self.dispatch(work, &association, (target, fixed_target), address, data)
    }

    /// Finds the association of a client, which mostly is that of the datagram before.
    fn find(&self, work: &WorkOf<I>, key: ClientKey) -> Option<Arc<Association<I::Session>>> {
        let current = work.current.as_ref();
        current
            .filter(|current| current.key == key && !current.is_closed())
            .cloned()
            .or_else(|| self.table.find(key))
    }

    /// Begins an association for a client whose first datagram has been opened.
    fn associate(
        &self,
        work: &mut WorkOf<I>,
        key: ClientKey,
        (path, socket, session): (Path, &Arc<Socket>, I::Session),
        header: &I::Header,
        fixed_target: bool,
    ) -> Result<Arc<Association<I::Session>>, wire::Error> {
        let encoder = self.inbound.encoder(header)?;
        let upstream = self
            .outbound
            .associate(path.peer, fixed_target)
            .map_err(|error| {
                tracing::warn!(%error, "cannot open a socket for a UDP association");
                wire::Error::NoResources
            })?;
        let (association, decoder) =
            Association::new(key, session, path, Arc::clone(socket), upstream);
        let association = Arc::new(association);
        if !self.table.insert(&association) {
            // Another worker began the same session at this moment. Only its window knows what has been seen.
            return Err(wire::Error::Replayed);
        }
        self.counters.associations.fetch_add(1, Relaxed);
        tracing::debug!(peer = %path.peer, "association began");
        work.started.push(Replies {
            association: Arc::clone(&association),
            decoder,
            encoder,
            table: Arc::clone(&self.table),
            counters: Arc::clone(&self.counters),
            timeout: self.timeout,
        });
        Ok(association)
    }

    /// Encodes a datagram for `target` into the outgoing batch, or keeps it until the target's name is resolved. A
    /// trusted target may have a private address.
    fn dispatch(
        &self,
        work: &mut WorkOf<I>,
        association: &Arc<Association<I::Session>>,
        (target, trusted): (AddressRef<'_>, bool),
        address: &[u8],
        data: &[u8],
    ) -> Result<(), wire::Error> {
        let current = work.current.as_ref();
        if current.is_none_or(|current| !Arc::ptr_eq(current, association)) {
            self.flush(work);
            work.current = Some(Arc::clone(association));
        }
        let server = association.server.as_ref();
        let (target, trusted) = server.map_or((target, trusted), |server| (server.as_ref(), true));
        match self.outbound.locate(target, trusted) {
            Destination::Address(peer) => {
                association.encode(&mut work.outgoing, peer, address, data)?;
                if work.outgoing.is_full() {
                    self.flush(work);
                }
            }
            Destination::Unresolved if work.unresolved.len() < MAX_RESOLVING => {
                work.unresolved.push(Unresolved {
                    association: Arc::clone(association),
                    target: target.to_owned(),
                    address: address.into(),
                    data: data.into(),
                    trusted,
                })
            }
            Destination::Unresolved => return Err(wire::Error::NoResources),
            Destination::Denied => return Err(wire::Error::Denied),
        }
        association.activity.fetch_add(1, Relaxed);
        self.counters.datagrams_up.fetch_add(1, Relaxed);
        Ok(())
    }

    /// Sends the outgoing batch of the current association.
    fn flush(&self, work: &mut WorkOf<I>) {
        if let Some(association) = work.current.take()
            && !work.outgoing.is_empty()
        {
            let lost = association.upstream.send(&mut work.outgoing);
            self.counters.datagrams_lost.fetch_add(lost as u64, Relaxed);
        }
    }

    /// Resolves the target of a datagram and sends it there.
    async fn send_when_resolved(self: Arc<Self>, waiting: Unresolved<I::Session>) {
        let Ok(_permit) = self.resolving.try_acquire() else {
            self.counters.fail(wire::Error::NoResources.status());
            return;
        };
        let resolved = self.outbound.resolve(&waiting.target, waiting.trusted);
        let Some(peer) = resolved.await else {
            self.counters.fail("resolve");
            tracing::debug!(target = %waiting.target, "datagram dropped: its target has no usable address");
            return;
        };
        let (association, mut batch) = (&waiting.association, Batch::default());
        let encoded = association.encode(&mut batch, peer, &waiting.address, &waiting.data);
        if encoded.is_ok() {
            let lost = association.upstream.send(&mut batch);
            self.counters.datagrams_lost.fetch_add(lost as u64, Relaxed);
        }
    }
}

/// A fixed target as a server expects it before the data. A bare socket leaves it out.
struct Encoded([u8; Address::MAX_LEN], usize);

impl Encoded {
    fn of(target: &Address) -> Result<Self, wire::Error> {
        let mut room = [0; Address::MAX_LEN];
        let len = target.as_ref().encode(&mut room);
        Ok(Self(room, len.ok_or(wire::Error::Truncated)?))
    }

    fn bytes(&self) -> &[u8] {
        self.0.get(..self.1).unwrap_or_default()
    }
}

/// State of one batch of datagrams.
#[derive(Default)]
struct Work<B, S> {
    inbound: B,
    /// The association that `outgoing` is for.
    current: Option<Arc<Association<S>>>,
    outgoing: Batch,
    started: Vec<Replies<S>>,
    unresolved: Vec<Unresolved<S>>,
}

/// The work of an inbound.
type WorkOf<I> = Work<<I as PacketInbound>::Batch, <I as PacketInbound>::Session>;

/// A datagram that waits for its target's address.
struct Unresolved<S> {
    association: Arc<Association<S>>,
    target: Address,
    address: Box<[u8]>,
    data: Box<[u8]>,
    trusted: bool,
}
