//! One client of a packet socket.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use tokio::sync::Notify;

use super::carry::Carrying;
use super::framing::{Decoder, Encoder};
use super::sides::{ClientKey, Opened, PacketInbound, Upstream};
use crate::net::sync::lock;
use crate::net::udp::{Batch, Path, Socket};
use crate::wire::{self, Address};

/// One client: its upstream socket, and what the way there has to remember.
pub(super) struct Association<S> {
    pub(super) key: ClientKey,
    pub(super) upstream: Socket,
    /// The server that all datagrams go to; `None`: each goes to its target.
    pub(super) server: Option<Address>,
    /// Whether all datagrams go to one place, and replies come from there.
    pub(super) is_pinned: bool,
    client: Mutex<Client<S>>,
    outgoing: Mutex<Outgoing>,
    activity: AtomicU64,
    closed: AtomicBool,
    closing: Notify,
    _carrying: Option<Carrying>,
}

struct Client<S> {
    session: S,
    path: Path,
}

struct Outgoing {
    encoder: Encoder,
    /// The address that the last datagram was sent to.
    sent_to: Option<SocketAddr>,
}

impl<S> Association<S> {
    /// An association with the client on `path`, and the decoder of its upstream.
    pub(super) fn new(
        key: ClientKey,
        session: S,
        path: Path,
        upstream: Upstream,
    ) -> (Self, Decoder) {
        let association = Self {
            key,
            upstream: upstream.socket,
            is_pinned: upstream.server.is_some() || matches!(upstream.decoder, Decoder::PassOn),
            server: upstream.server,
            client: Mutex::new(Client { session, path }),
            outgoing: Mutex::new(Outgoing {
                encoder: upstream.encoder,
                sent_to: None,
            }),
            activity: AtomicU64::new(0),
            closed: AtomicBool::new(false),
            closing: Notify::new(),
            _carrying: upstream.carrying,
        };
        (association, upstream.decoder)
    }

    /// Opens a datagram of the client's. Once it is authenticated, replies go to where it came from.
    pub(super) fn open<'a, I: PacketInbound<Session = S>>(
        &self,
        inbound: &'a I,
        header: &mut I::Header,
        datagram: &mut [u8],
        path: Path,
    ) -> Result<Opened<'a>, wire::Error> {
        let mut client = lock(&self.client);
        let opened = inbound.open(&mut client.session, header, datagram)?;
        client.path = path;
        Ok(opened)
    }

    /// Takes over a datagram that was opened before this association was found.
    pub(super) fn take_over<I: PacketInbound<Session = S>>(
        &self,
        inbound: &I,
        header: &I::Header,
        path: Path,
    ) -> Result<(), wire::Error> {
        let mut client = lock(&self.client);
        inbound.mark_seen(&mut client.session, header)?;
        client.path = path;
        Ok(())
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
        let path = Path { peer, local: None };
        outgoing.encoder.push(batch, path, address, data)
    }

    /// The client's address, and ours that it uses.
    pub(super) fn client_path(&self) -> Path {
        lock(&self.client).path
    }

    /// The address that the last datagram was sent to.
    pub(super) fn sent_to(&self) -> Option<SocketAddr> {
        lock(&self.outgoing).sent_to
    }

    /// Counts a datagram that keeps the association alive.
    pub(super) fn note_activity(&self) {
        self.activity.fetch_add(1, Relaxed);
    }

    /// The number of datagrams that kept the association alive.
    pub(super) fn activity(&self) -> u64 {
        self.activity.load(Relaxed)
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
