//! One client of a packet socket.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use tokio::sync::Notify;

use super::framing::{Decoder, Encoder};
use super::sides::{ClientKey, Opened, PacketInbound, ServerCheck, Upstream};
use crate::net::alive::Alive;
use crate::net::sync::lock;
use crate::net::udp::{Batch, Connection, Path, Socket};
use crate::relay::users::{Session, User};
use crate::wire::{self, Address};

/// What identifies an association: its client, and which of the client's upstreams it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) client: ClientKey,
    pub(super) upstream: u16,
}

/// One client: its upstream socket, and what the way there has to remember.
pub(super) struct Association<S> {
    pub(super) key: Key,
    /// Its place among those of its user.
    session_of_user: Option<Session>,
    pub(super) upstream: Socket,
    /// The server that all datagrams go to; `None`: each goes to its target.
    pub(super) server: Option<Address>,
    /// Whether all datagrams go to one place, and replies come from there.
    pub(super) is_pinned: bool,
    check: Option<Arc<dyn ServerCheck>>,
    client: Mutex<Client<S>>,
    outgoing: Mutex<Outgoing>,
    /// The number of datagrams that kept the association alive.
    pub(super) activity: AtomicU64,
    closed: AtomicBool,
    closing: Notify,
    /// The connection that it began in, if there is one.
    pub(super) connection: Option<u64>,
    /// It counts as long as its socket is open; among those of its connection, too.
    _alive: (Alive, Option<Alive>),
}

struct Client<S> {
    session: S,
    path: Path,
    /// Our socket that the client uses.
    socket: Arc<Socket>,
    /// The session has been given up, so nothing can be opened any more.
    retired: bool,
}

impl<S> Client<S> {
    fn moved(&mut self, path: Path, socket: &Arc<Socket>) {
        self.path = path;
        if !Arc::ptr_eq(&self.socket, socket) {
            self.socket = Arc::clone(socket);
            if let Some(connection) = socket.connection() {
                connection.authenticated();
            }
        }
    }
}

struct Outgoing {
    encoder: Encoder,
    /// The address that the last datagram was sent to.
    sent_to: Option<SocketAddr>,
}

impl<S> Association<S> {
    /// An association with the client on `path`, and the decoder of its upstream.
    pub(super) fn new(
        (key, session_of_user): (Key, Option<Session>),
        session: S,
        (path, socket): (Path, Arc<Socket>),
        upstream: Upstream,
        alive: (Alive, Option<Alive>),
    ) -> (Self, Decoder) {
        let association = Self {
            connection: socket.connection().map(Connection::number),
            key,
            session_of_user,
            upstream: upstream.socket,
            is_pinned: upstream.server.is_some() || matches!(upstream.decoder, Decoder::PassOn),
            server: upstream.server,
            check: upstream.check,
            client: Mutex::new(Client {
                session,
                path,
                socket,
                retired: false,
            }),
            outgoing: Mutex::new(Outgoing {
                encoder: upstream.encoder,
                sent_to: None,
            }),
            activity: AtomicU64::new(0),
            closed: AtomicBool::new(false),
            closing: Notify::new(),
            _alive: alive,
        };
        (association, upstream.decoder)
    }

    /// Opens a datagram of the client. If it is authentic, replies go to where it came from.
    pub(super) fn open<'a, I: PacketInbound<Session = S>>(
        &self,
        inbound: &'a I,
        header: &mut I::Header,
        datagram: &mut [u8],
        path: Path,
        socket: &Arc<Socket>,
    ) -> Result<Opened<'a>, wire::Error> {
        let mut client = lock(&self.client);
        if client.retired {
            // Only what comes after the session knows what it has seen.
            return Err(wire::Error::Replayed);
        }
        let opened = inbound.open(&mut client.session, header, datagram)?;
        client.moved(path, socket);
        Ok(opened)
    }

    /// Gives up the session, which remembers what it has seen. Call it before a client can begin another association, which
    /// is when this one leaves the table.
    pub(super) fn retire(&self)
    where
        S: Default,
    {
        let mut client = lock(&self.client);
        client.retired = true;
        client.session = S::default();
    }

    /// Notes where a datagram of the client came from, if the association was not needed to open it.
    pub(super) fn note_client(&self, path: Path, socket: &Arc<Socket>) {
        lock(&self.client).moved(path, socket);
    }

    /// Adds a datagram for the upstream at `peer` to `batch`.
    pub(super) fn encode(
        &self,
        batch: &mut Batch,
        peer: SocketAddr,
        address: &[u8],
        data: &[u8],
    ) -> Result<(), wire::Error> {
        let mut outgoing = lock(&self.outgoing);
        outgoing.sent_to = Some(peer);
        let path = Path::to(peer);
        outgoing.encoder.push(batch, path, address, data)
    }

    /// Where replies go, and through which socket.
    pub(super) fn client(&self) -> (Path, Arc<Socket>) {
        let client = lock(&self.client);
        (client.path, Arc::clone(&client.socket))
    }

    /// The address that the last datagram was sent to.
    pub(super) fn sent_to(&self) -> Option<SocketAddr> {
        lock(&self.outgoing).sent_to
    }

    /// Its user.
    fn user(&self) -> Option<&User> {
        self.session_of_user
            .as_ref()
            .map(|session| &**session.user())
    }

    /// Ready when the user may not go on: see [`Session::poll`].
    pub(super) fn poll_refused(&self, cx: &Context<'_>) -> Poll<()> {
        match self
            .session_of_user
            .as_ref()
            .and_then(|session| session.poll(cx))
        {
            Some(_) => Poll::Ready(()),
            None => Poll::Pending,
        }
    }

    /// The name of its user.
    pub(super) fn user_name(&self) -> Option<&str> {
        self.user()?.name()
    }

    /// Whether its server has failed and another one has not.
    pub(super) fn has_failed(&self) -> bool {
        self.check.as_ref().is_some_and(|check| check.has_failed())
    }

    /// Whether its user may send or get a datagram now. The association of a user that may not go on ends.
    pub(super) fn may_pass(&self, is_up: bool) -> bool {
        let Some(session) = &self.session_of_user else {
            return true;
        };
        if session.refusal().is_some() {
            self.close();
            return false;
        }
        session.user().admits_datagram(is_up)
    }

    /// Counts a datagram and its payload for its user.
    pub(super) fn count(&self, is_up: bool, payload: usize) {
        if let Some(session) = &self.session_of_user {
            let payload = payload as u64;
            let (up, down) = if is_up { (payload, 0) } else { (0, payload) };
            session.add(up, down);
            session.user().count_packet(is_up);
            // Datagrams are not delayed: the next is dropped.
            let _wait = session.user().moved(up, down);
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Relaxed)
    }

    /// Tells the task of the replies to end.
    pub(super) fn close(&self) {
        self.closed.store(true, Relaxed);
        self.closing.notify_one();
    }

    /// Waits for [`Association::close`].
    pub(super) async fn closed(&self) {
        self.closing.notified().await;
    }
}
