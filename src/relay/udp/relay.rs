//! From clients to upstreams.

use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::task::{JoinSet, yield_now};

use super::association::{Association, Key};
use super::framing::split;
use super::replies::Replies;
use super::sides::{ClientKey, Destination, Opened, PacketInbound, PacketOutbound, Route};
use super::table::{AssociationTable, with_ending};
use super::waiting::{Decidable, Dropped, Encoded, Undecided, Unresolved, Waiting};
use crate::limits::MAX_RESOLVING;
use crate::net::alive::{Alive, Limit};
use crate::net::sampled;
use crate::net::shares::{Party, Places};
use crate::net::tasks::Tasks;
use crate::net::udp::{Batch, Connection, Path, Socket};
use crate::relay::counters::Counters;
use crate::relay::failed::{Network, Noted, Phase, Whose};
use crate::relay::users::{Protocol, Session, User};
use crate::wire::{self, Address, AddressRef};

/// Serves the packet sockets of one listening address, one per worker.
pub struct Relay<I: PacketInbound, O> {
    inbound: I,
    outbound: O,
    table: Arc<AssociationTable<I::Session>>,
    capacity: usize,
    /// Associations whose sockets are open: also those that are evicted and have not ended yet.
    alive: Limit,
    /// Of the datagrams that wait for a name.
    resolving: Places,
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
            capacity: capacity.get(),
            alive: Limit::new(with_ending(capacity.get())),
            resolving: Places::new(MAX_RESOLVING),
            timeout,
            counters,
        }
    }

    /// Ends the associations of a client that is known by its address.
    pub fn close(&self, client: SocketAddr) {
        self.table
            .close(ClientKey::Address(client), self.outbound.upstreams());
    }

    /// Serves `socket` until it fails or the future is dropped, which ends the associations that began here. If the other
    /// end of an in-memory socket is dropped, they live on until their timeout, since their clients may come back
    /// through another socket.
    ///
    /// # Errors
    /// What the system says of the socket.
    pub async fn serve(self: Arc<Self>, socket: Arc<Socket>) -> io::Result<()> {
        let replies = Tasks::default();
        self.receive(&socket, I::Batch::default(), &replies).await?;
        replies.ended().await;
        Ok(())
    }

    /// Serves an in-memory socket of one client, of which `batch` tells the inbound something. When the other end is
    /// dropped, what has come still goes out, then the client's associations end.
    ///
    /// # Errors
    /// What the system says of the socket.
    pub async fn serve_client(
        self: Arc<Self>,
        socket: Arc<Socket>,
        batch: I::Batch,
    ) -> io::Result<()> {
        let replies = Tasks::default();
        let received = Arc::clone(&self).receive(&socket, batch, &replies);
        received.await?;
        if let Some(peer) = socket.peer() {
            self.close(peer);
        }
        replies.ended().await;
        Ok(())
    }

    /// Serves an in-memory socket of a connection. When the connection ends, so do the associations that began in it.
    ///
    /// # Errors
    /// What the system says of the socket.
    pub async fn serve_connection(self: Arc<Self>, socket: Arc<Socket>) -> io::Result<()> {
        let replies = Tasks::default();
        self.receive(&socket, I::Batch::default(), &replies).await
    }

    /// Forwards what comes to `socket` until the other end of an in-memory socket is gone and nothing waits for a name.
    async fn receive(
        self: Arc<Self>,
        socket: &Arc<Socket>,
        batch: I::Batch,
        replies: &Tasks,
    ) -> io::Result<()> {
        let mut tasks = JoinSet::new();
        let mut work = WorkOf::<I> {
            inbound: batch,
            ..Work::default()
        };
        loop {
            tokio::select! {
                received = poll_fn(|cx| socket.poll_receive(cx, |mut received| {
                    work.outgoing = Batch::spare();
                    self.inbound.prepare(&mut work.inbound, received.contents());
                    for (datagram, path) in received.datagrams() {
                        self.forward_or_drop(&mut work, socket, datagram, path, None);
                    }
                    self.flush(&mut work);
                    std::mem::take(&mut work.outgoing).keep();
                })) => match received {
                    Err(error) if error.kind() == io::ErrorKind::BrokenPipe => break,
                    received => received?,
                },
                Some(ended) = tasks.join_next() => {
                    if let Ok(Some(decidable)) = ended {
                        self.forward_decidable(&mut work, socket, decidable);
                    }
                }
                () = replies.reap() => {}
            }
            while let Some(ended) = tasks.try_join_next() {
                if let Ok(Some(decidable)) = ended {
                    self.forward_decidable(&mut work, socket, decidable);
                }
            }
            for started in work.started.drain(..) {
                replies.spawn(started.run());
            }
            self.spawn_waiting(&mut work, &mut tasks);
            let is_crowded = self.alive.count() > self.capacity
                || tasks.len() > MAX_RESOLVING
                || socket.connection().is_some_and(Connection::is_crowded);
            if is_crowded || std::mem::take(&mut work.is_busy) {
                // Those that have made room, or given way, end now; what sends goes on.
                yield_now().await;
            }
        }
        while tasks.join_next().await.is_some() {}
        Ok(())
    }

    /// Starts tasks for the datagrams that wait for an address, as far as there may be more.
    fn spawn_waiting(self: &Arc<Self>, work: &mut WorkOf<I>, tasks: &mut Waiting) {
        // Those that gave way have not ended yet.
        let mut room = (2 * MAX_RESOLVING).saturating_sub(tasks.len());
        let mut has_room = || {
            let has_room = room > 0;
            room = room.saturating_sub(1);
            if !has_room {
                self.counters.fail(wire::Error::NoResources.status());
            }
            has_room
        };
        for waiting in work.unresolved.drain(..).filter(|_| has_room()) {
            let relay = Arc::clone(self);
            tasks.spawn(async move {
                relay.send_when_resolved(waiting).await;
                None
            });
        }
        for waiting in work.undecided.drain(..).filter(|_| has_room()) {
            tasks.spawn(Arc::clone(self).find_addresses(waiting));
        }
    }

    /// Forwards a datagram whose route was undecided, now that the addresses of its target are known.
    fn forward_decidable(
        &self,
        work: &mut WorkOf<I>,
        socket: &Arc<Socket>,
        (mut waiting, addresses): Decidable,
    ) {
        work.outgoing = Batch::spare();
        let datagram = &mut *waiting.datagram;
        self.inbound
            .prepare(&mut work.inbound, std::iter::once(&*datagram));
        self.forward_or_drop(work, socket, datagram, waiting.path, Some(&addresses));
        self.flush(work);
        std::mem::take(&mut work.outgoing).keep();
    }

    fn forward_or_drop(
        &self,
        work: &mut WorkOf<I>,
        socket: &Arc<Socket>,
        datagram: &mut [u8],
        path: Path,
        addresses: Option<&[IpAddr]>,
    ) {
        if let Err(Dropped {
            error,
            target,
            user,
        }) = self.forward(work, socket, datagram, path, addresses)
        {
            self.counters.fail(error.status());
            self.note(path.peer, target.as_deref(), user.as_deref(), error);
            sampled::debug!(by error.status(), "datagram dropped", peer = %path.peer, status = error.status(), %error);
        }
    }

    /// Forwards one datagram of a client. `addresses` are those of its target, if a query has found them.
    fn forward(
        &self,
        work: &mut WorkOf<I>,
        socket: &Arc<Socket>,
        datagram: &mut [u8],
        path: Path,
        addresses: Option<&[IpAddr]>,
    ) -> Result<(), Dropped> {
        let (client, mut header) = self
            .inbound
            .identify(&mut work.inbound, datagram, path.peer)?;
        let client = client.within(path.inside);
        let has_routes = self.outbound.upstreams() > 1;
        let mut key = Key {
            client,
            upstream: 0,
        };
        let mut known = if has_routes {
            None
        } else {
            self.find(work, key)
        };
        let mut session = I::Session::default();
        let opened = match &known {
            Some(association) => {
                association.open(&self.inbound, &mut header, datagram, path, socket)
            }
            None => self.inbound.open(&mut session, &mut header, datagram),
        };
        let opened = opened.map_err(|error| Dropped {
            user: self.inbound.user(&header),
            ..Dropped::from(error)
        })?;
        let trusted = matches!(opened, Opened::Fixed(..) | Opened::Passed(..));
        let is_only = matches!(opened, Opened::Connected(..) | Opened::Named(..));
        let fixed_target = trusted || is_only;
        let (named, passed, room);
        let (target, address, data) = match opened {
            Opened::Named(target, data) => {
                named = target;
                room = Encoded::of(&named)?;
                (named.as_ref(), room.bytes(), datagram.get(data))
            }
            Opened::Passed(target, data) => {
                passed = target;
                room = Encoded::of(&passed)?;
                ((*passed).as_ref(), room.bytes(), datagram.get(data))
            }
            Opened::Fixed(target, data) => {
                room = Encoded::of(target)?;
                (target.as_ref(), room.bytes(), datagram.get(data))
            }
            Opened::Addressed(body) | Opened::Connected(body) => {
                let (target, address, data) = split(datagram.get(body).unwrap_or_default())?;
                (target, address, Some(data))
            }
        };
        let mut destination = None;
        if has_routes {
            let user = self.inbound.user(&header);
            let user = user.as_ref().and_then(|user| user.name());
            match self.outbound.route_for(user, target, addresses) {
                Route::Upstream(upstream, address) => {
                    key.upstream = upstream;
                    destination = address;
                }
                Route::Unresolved => {
                    return Ok(self.postpone(work, target.to_owned(), datagram, path)?);
                }
                Route::Blocked => return Err(Dropped::of(target, wire::Error::Blocked)),
            }
            known = self.find(work, key);
            if let Some(association) = &known {
                association.note_client(path, socket);
            }
        }
        let association = match known {
            Some(association) => association,
            None => {
                let client = (path, socket, session);
                self.associate(work, key, client, &header, (target, fixed_target))?
            }
        };
        let data = data.unwrap_or_default();
        let destination = destination.map_or_else(
            || self.locate(&association, target, trusted),
            Destination::Address,
        );
        let to = (target, trusted, destination);
        self.dispatch(work, &association, to, address, data)
            .map_err(|error| Dropped::of(target, error))
    }

    /// Notes a datagram that was dropped; without a target it was not understood.
    fn note(
        &self,
        peer: SocketAddr,
        target: Option<&Address>,
        user: Option<&User>,
        error: wire::Error,
    ) {
        let handshake = Noted {
            user: user.and_then(User::name),
            ..Noted::handshake(Network::Udp, peer, error.status(), &error)
        };
        let Some(target) = target else {
            return self.counters.note(&handshake);
        };
        if I::IS_REMOTE {
            let (status, user) = (error.status(), handshake.user);
            sampled::info!(by status, "a client's request got no connection", network = "udp", user, %target, status, %error);
        }
        self.counters.note(&Noted {
            whose: Whose::Client,
            phase: match error {
                wire::Error::Blocked | wire::Error::Denied => Phase::Rule,
                wire::Error::Unresolvable => Phase::Resolve,
                _ => Phase::Relay,
            },
            target: Some(&target.to_string()),
            way: self.outbound.packet_way(target),
            ..handshake
        });
    }

    /// Keeps a datagram until the addresses of its target are known.
    fn postpone(
        &self,
        work: &mut WorkOf<I>,
        target: Address,
        datagram: &[u8],
        path: Path,
    ) -> Result<(), wire::Error> {
        if work.undecided.len() >= MAX_RESOLVING {
            return Err(wire::Error::NoResources);
        }
        work.undecided.push(Undecided {
            target,
            datagram: datagram.into(),
            path,
        });
        Ok(())
    }

    /// Finds the addresses that decide about a datagram.
    async fn find_addresses(self: Arc<Self>, waiting: Undecided) -> Option<Decidable> {
        let client = waiting.path.peer;
        let addresses = self.outbound.addresses(client, &waiting.target);
        let addresses = self.in_turn((None, client), addresses).await?;
        Some((waiting, addresses))
    }

    /// Where a datagram for `target` goes: to the association's server, or to the target itself.
    fn locate(
        &self,
        association: &Association<I::Session>,
        target: AddressRef<'_>,
        trusted: bool,
    ) -> Destination {
        match &association.server {
            Some(server) => self.outbound.locate(server.as_ref(), true),
            None => {
                let user = association.user_name();
                self.outbound.locate_for(user, target, trusted)
            }
        }
    }

    /// Finds the association of a client, which mostly is that of the datagram before.
    fn find(&self, work: &WorkOf<I>, key: Key) -> Option<Arc<Association<I::Session>>> {
        let current = work.current.as_ref();
        let found = current
            .filter(|current| current.key == key && !current.is_closed())
            .cloned()
            .or_else(|| self.table.find(key))?;
        if found.has_failed() {
            sampled::debug!("association moves to another server");
            found.close();
            return None;
        }
        Some(found)
    }

    /// The place of a new association among those of its connection, if it comes in one.
    fn place_in(&self, socket: &Socket) -> Result<Option<Alive>, wire::Error> {
        let Some(connection) = socket.connection() else {
            return Ok(None);
        };
        connection.authenticated();
        if connection.is_full() {
            self.table.evict_of(connection.number());
        }
        let place = connection.begin().ok_or(wire::Error::NoResources)?;
        Ok(Some(place))
    }

    /// Begins an association for a client whose first datagram has been opened.
    fn associate(
        &self,
        work: &mut WorkOf<I>,
        key: Key,
        (path, socket, session): (Path, &Arc<Socket>, I::Session),
        header: &I::Header,
        (target, fixed_target): (AddressRef<'_>, bool),
    ) -> Result<Arc<Association<I::Session>>, wire::Error> {
        let encoder = self.inbound.encoder(header)?;
        let in_connection = self.place_in(socket)?;
        let alive = self.alive.take(1).ok_or(wire::Error::NoResources)?;
        let user = self.inbound.user(header);
        let begin = |user: &Arc<User>| {
            let target = target.to_owned().to_string().into();
            Session::begin(user, path.peer, target, Protocol::Udp)
        };
        let everybody = self.counters.users.everybody();
        let session_of_user = user.as_ref().or(everybody).map(begin).transpose();
        let session_of_user = session_of_user.map_err(|_| wire::Error::OverLimit)?;
        let upstream = self
            .outbound
            .associate_by(key.upstream, path.peer, fixed_target)
            .map_err(|error| {
                sampled::warn!("cannot open a socket for a UDP association", %error);
                wire::Error::NoResources
            })?;
        let client = (key, session_of_user);
        let client_path = (path, Arc::clone(socket));
        let answers = upstream.answers.clone();
        let (association, decoder) = Association::new(
            client,
            session,
            client_path,
            upstream,
            (alive, in_connection),
        );
        let association = Arc::new(association);
        if !self.table.insert(&association) {
            // Another worker began the same session at this moment. Only its window knows what has been seen.
            return Err(wire::Error::Replayed);
        }
        self.counters.associations.fetch_add(1, Relaxed);
        sampled::debug!(by path.peer, "association began", peer = %path.peer);
        work.started.push(Replies {
            association: Arc::clone(&association),
            decoder,
            encoder,
            table: Arc::clone(&self.table),
            counters: Arc::clone(&self.counters),
            timeout: self.timeout,
            answered: false,
            is_busy: false,
            answers,
        });
        Ok(association)
    }

    /// Encodes a datagram for `target` into the outgoing batch, or keeps it until the target's name is resolved. A
    /// trusted target may have a private address.
    fn dispatch(
        &self,
        work: &mut WorkOf<I>,
        association: &Arc<Association<I::Session>>,
        (target, trusted, destination): (AddressRef<'_>, bool, Destination),
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
        if !association.may_pass(true) {
            return Err(wire::Error::OverLimit);
        }
        match destination {
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
            Destination::Unresolvable => return Err(wire::Error::Unresolvable),
            Destination::Denied => return Err(wire::Error::Denied),
        }
        association.activity.fetch_add(1, Relaxed);
        association.count(true, data.len());
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
            work.is_busy |= association.upstream.is_busy();
        }
    }

    /// Waits for a name; `None`: too many wait, and the datagram gave way to another one.
    async fn in_turn<T>(
        &self,
        (user, client): (Option<&str>, SocketAddr),
        found: impl Future<Output = T>,
    ) -> Option<T> {
        let party = Party::of(user, Some(client.ip()));
        let found = self.resolving.hold(party, found).await;
        if found.is_none() {
            self.counters.fail(wire::Error::NoResources.status());
        }
        found
    }

    /// Resolves the target of a datagram and sends it there.
    async fn send_when_resolved(self: Arc<Self>, waiting: Unresolved<I::Session>) {
        let user = waiting.association.user_name();
        let client = (user, waiting.association.client().0.peer);
        let (target, trusted) = (&waiting.target, waiting.trusted);
        let resolved = self.outbound.resolve_for(client, target, trusted);
        let Some(resolved) = self.in_turn(client, resolved).await else {
            return;
        };
        let Some(peer) = resolved else {
            // The answer is in the cache now.
            let error = match self.outbound.locate_for(user, target.as_ref(), trusted) {
                Destination::Denied => wire::Error::Denied,
                _ => wire::Error::Unresolvable,
            };
            self.counters.fail(error.status());
            let (client, _) = waiting.association.client();
            self.note(client.peer, Some(&waiting.target), None, error);
            sampled::debug!(by error.status(), "datagram dropped", target = %waiting.target, status = error.status(), %error);
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

/// State of one batch of datagrams.
#[derive(Default)]
struct Work<B, S: Default> {
    inbound: B,
    /// The association that `outgoing` is for.
    current: Option<Arc<Association<S>>>,
    outgoing: Batch,
    /// What takes the datagrams needs a turn.
    is_busy: bool,
    started: Vec<Replies<S>>,
    unresolved: Vec<Unresolved<S>>,
    undecided: Vec<Undecided>,
}

/// The work of an inbound.
type WorkOf<I> = Work<<I as PacketInbound>::Batch, <I as PacketInbound>::Session>;
