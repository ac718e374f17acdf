//! One client of a packet socket.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{interval, sleep};

use super::carry::Carrying;
use super::codec::{Unwrap, Wrap};
use super::{Key, PacketOutbound, Relay, Upstream};
use crate::crypto;
use crate::net::sync::lock;
use crate::net::udp::{Batch, Path, Socket};
use crate::net::unix_now;
use crate::relay::Counters;
use crate::relay::tcp::Gauge;
use crate::wire::ss::packet::{PacketHeader, ServerPackets, Subkeys};
use crate::wire::{self, Address, AddressRef};

/// Looks at an association within its timeout; it ends between one timeout and one and a quarter after its last
/// datagram.
const TICKS: u32 = 4;

/// How long an association rests after an error of its socket.
const ERROR_REST: Duration = Duration::from_millis(100);

/// One client: its upstream socket and what both directions remember.
pub(super) struct Association {
    pub(super) key: Key,
    pub(super) socket: Socket,
    /// The server that all datagrams go to; `None`: each goes to its target.
    pub(super) server: Option<Address>,
    /// Whether all datagrams go to one place, and answers come from there.
    pinned: bool,
    /// Where the last datagram went, if it is pinned.
    sent_to: Mutex<Option<SocketAddr>>,
    path: Mutex<Path>,
    /// Opens what the client sends, when it is sealed.
    packets: Mutex<Option<ServerPackets>>,
    /// For what goes to the upstream.
    wrap: Mutex<Wrap>,
    /// For what comes back: taken out by the task that answers.
    back: Mutex<Option<Back>>,
    touched: AtomicU64,
    closed: AtomicBool,
    closing: Notify,
    _carrying: Option<Carrying>,
}

struct Back {
    unwrap: Unwrap,
    wrap: Wrap,
}

impl Association {
    pub(super) fn new(
        key: Key,
        path: Path,
        upstream: Upstream,
        reply: Wrap,
        packets: Option<ServerPackets>,
    ) -> Self {
        Self {
            key,
            socket: upstream.socket,
            pinned: upstream.server.is_some() || matches!(upstream.unwrap, Unwrap::Sealed),
            server: upstream.server,
            sent_to: Mutex::new(None),
            path: Mutex::new(path),
            packets: Mutex::new(packets),
            wrap: Mutex::new(upstream.wrap),
            back: Mutex::new(Some(Back {
                unwrap: upstream.unwrap,
                wrap: reply,
            })),
            touched: AtomicU64::new(0),
            closed: AtomicBool::new(false),
            closing: Notify::new(),
            _carrying: upstream.carrying,
        }
    }

    /// Opens and validates a packet of the client's.
    pub(super) fn open(
        &self,
        packet: &mut [u8],
        subkey: Option<crypto::Key>,
        found: &PacketHeader,
    ) -> Result<Range<usize>, wire::Error> {
        match &mut *lock(&self.packets) {
            Some(packets) => packets.open(packet, subkey, found, unix_now()),
            None => Err(wire::Error::SessionMismatch),
        }
    }

    /// Marks a packet that was opened elsewhere as seen.
    pub(super) fn admit(&self, found: &PacketHeader) -> Result<(), wire::Error> {
        match &mut *lock(&self.packets) {
            Some(packets) => packets.mark_received(found),
            None => Ok(()),
        }
    }

    /// The client is there now: call it only after its packet has been authenticated.
    pub(super) fn moved_to(&self, path: Path) {
        *lock(&self.path) = path;
    }

    pub(super) fn wrap(
        &self,
        batch: &mut Batch,
        path: Path,
        address: &[u8],
        data: &[u8],
    ) -> Result<(), wire::Error> {
        if self.pinned {
            *lock(&self.sent_to) = Some(path.peer);
        }
        lock(&self.wrap).push(batch, path, address, data)
    }

    pub(super) fn touch(&self) {
        self.touched.fetch_add(1, Relaxed);
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Relaxed)
    }

    pub(super) fn close(&self) {
        self.closed.store(true, Relaxed);
        self.closing.notify_one();
    }
}

/// Brings back what the upstream answers, until the association has ended.
pub(super) async fn answer<O: PacketOutbound>(
    relay: Arc<Relay<O>>,
    association: Arc<Association>,
    socket: Arc<Socket>,
) {
    let Some(mut back) = lock(&association.back).take() else {
        return;
    };
    let _now = Gauge::new(&relay.counters.associations_now);
    let mut tick = interval(relay.timeout / TICKS);
    let (mut quiet, mut seen) = (0, 0);
    loop {
        tokio::select! {
            received = poll_fn(|cx| back.poll(cx, &relay.counters, &association, &socket)) => if let Err(error) = received {
                // To end here would forget which packets have been seen. A socket that stays broken ends by its age.
                tracing::debug!(%error, "an association's socket failed");
                sleep(ERROR_REST).await;
            },
            () = association.closing.notified() => break,
            _ = tick.tick() => {
                let touched = association.touched.load(Relaxed);
                quiet = if touched == seen { quiet + 1 } else { 0 };
                seen = touched;
                if quiet >= TICKS {
                    break;
                }
            }
        }
    }
    association.close();
    relay.remove(&association);
    tracing::debug!(peer = %lock(&association.path).peer, "association ended");
}

thread_local! {
    /// A worker answers for one association at a time, so one batch and the keys of one serve them all.
    static ANSWERS: RefCell<(Batch, Subkeys)> = RefCell::default();
}

impl Back {
    /// Receives a batch from the upstream and sends it to the client.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        counters: &Counters,
        association: &Association,
        socket: &Socket,
    ) -> Poll<io::Result<()>> {
        let send = |batch: &mut Batch| {
            counters
                .datagrams_lost
                .fetch_add(socket.send(batch) as u64, Relaxed);
        };
        ANSWERS.with_borrow_mut(|(batch, subkeys)| {
            let received = ready!(association.socket.poll_receive(cx, |mut received| {
                self.unwrap.expect(subkeys, received.contents());
                for (packet, from) in received.datagrams() {
                    let subkey = subkeys.next_for(packet);
                    match self.pass(association, packet, subkey, from, batch) {
                        Ok(()) => {
                            counters.datagrams_down.fetch_add(1, Relaxed);
                        }
                        Err(error) => {
                            let status = error.status();
                            counters.fail(status);
                            tracing::debug!(upstream = %from.peer, status, %error, "datagram dropped");
                        }
                    }
                    if batch.is_full() {
                        send(batch);
                    }
                }
            }));
            if !batch.is_empty() {
                send(batch);
            }
            Poll::Ready(received)
        })
    }

    /// Puts what a packet says into `batch`, for the client.
    fn pass(
        &mut self,
        association: &Association,
        packet: &mut [u8],
        subkey: Option<crypto::Key>,
        from: Path,
        batch: &mut Batch,
    ) -> Result<(), wire::Error> {
        // An answer that proves nothing must at least come from where the question went.
        if !self.unwrap.proves_its_sender() && *lock(&association.sent_to) != Some(from.peer) {
            return Err(wire::Error::SessionMismatch);
        }
        let to = *lock(&association.path);
        self.take(packet, subkey, from, to, batch)?;
        // Strangers may send to a bare socket, but not keep it open (RFC 4787 REQ-6).
        if association.pinned {
            association.touch();
        }
        Ok(())
    }

    fn take(
        &mut self,
        packet: &mut [u8],
        subkey: Option<crypto::Key>,
        from: Path,
        to: Path,
        batch: &mut Batch,
    ) -> Result<(), wire::Error> {
        let body = self.unwrap.open(packet, subkey)?;
        let body = packet.get(body).unwrap_or_default();
        match self.unwrap {
            Unwrap::Bare => {
                let mut room = [0; Address::MAX_LEN];
                let len = AddressRef::Ip(from.peer)
                    .encode(&mut room)
                    .ok_or(wire::Error::Truncated)?;
                self.wrap
                    .push(batch, to, room.get(..len).unwrap_or_default(), body)
            }
            Unwrap::Sealed => self.wrap.push(batch, to, &[], body),
            Unwrap::Open(_) => {
                let (_, len) = AddressRef::parse(body)?.ok_or(wire::Error::Truncated)?;
                let (address, data) = body.split_at_checked(len).ok_or(wire::Error::Truncated)?;
                self.wrap.push(batch, to, address, data)
            }
        }
    }
}
