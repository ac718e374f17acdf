//! Datagrams inside the process. What does not fit into a queue is dropped, as on a network.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::net::{Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use quinn_udp::RecvMeta;

use super::batch::{Batch, MAX_DATAGRAM};
use super::connection::Connection;
use crate::limits::MAX_QUEUED;
use crate::limits::MAX_QUEUED_BYTES;
use crate::net::sync::lock;
use crate::wire::quic_packets;

/// One end: a queue that it receives from, and a function by which it sends.
pub(super) struct Memory {
    incoming: Arc<Mutex<Queue>>,
    outgoing: Box<SendFn>,
    /// The address that datagrams come from. Each end has another one, and no peer on a network has it.
    pub(super) peer: SocketAddr,
    /// The connection that they come in, with the numbers of their associations in front.
    pub(super) connection: Option<Box<Connection>>,
    /// More should be sent only after others had their turn.
    pub(super) is_busy: AtomicBool,
}

/// Sends the datagrams of a batch.
pub type SendFn = dyn Fn(&Batch) -> Sent + Send + Sync;

/// What became of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// How many of its datagrams were lost.
    pub lost: usize,
    /// Whether what takes them needs a turn before it takes many more.
    pub is_busy: bool,
}

/// Sends datagrams to an in-memory socket, which is closed when this is dropped.
pub struct Sender(Arc<Mutex<Queue>>);

#[derive(Default)]
struct Queue {
    datagrams: VecDeque<Bytes>,
    bytes: usize,
    closed: bool,
    receiver: Option<Waker>,
}

impl Sender {
    /// Sends a datagram; returns whether there was room for it.
    pub fn send(&self, datagram: &[u8]) -> bool {
        let mut queue = lock(&self.0);
        let has_room = datagram.len() <= MAX_DATAGRAM && queue.has_room(datagram.len());
        if has_room {
            queue.push(Bytes::copy_from_slice(datagram));
        }
        has_room
    }

    /// As [`Sender::send`], without a copy. A head may stand in front of the datagram.
    pub fn send_bytes(&self, datagram: Bytes) -> bool {
        let mut queue = lock(&self.0);
        let has_room = queue.has_room(datagram.len());
        if has_room {
            queue.push(datagram);
        }
        has_room
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        let mut queue = lock(&self.0);
        queue.closed = true;
        queue.wake();
    }
}

impl Queue {
    fn wake(&mut self) {
        if let Some(receiver) = self.receiver.take() {
            receiver.wake();
        }
    }

    fn has_room(&self, len: usize) -> bool {
        self.datagrams.len() < MAX_QUEUED && self.bytes + len <= MAX_QUEUED_BYTES
    }

    fn push(&mut self, datagram: Bytes) {
        self.bytes += datagram.len();
        self.datagrams.push_back(datagram);
        self.wake();
    }

    fn pop(&mut self) -> Option<Bytes> {
        let datagram = self.datagrams.pop_front()?;
        self.bytes -= datagram.len();
        Some(datagram)
    }
}

/// A way out that a socket takes while it is set.
pub(super) type Direct = Arc<Mutex<Option<Box<SendFn>>>>;

impl Memory {
    /// Two ends: what one sends, the other receives.
    pub(super) fn pair() -> (Self, Self) {
        let (a, b) = (Arc::default(), Arc::default());
        let (to_a, to_b) = (Sender(Arc::clone(&a)), Sender(Arc::clone(&b)));
        let a = Self::receiving(a, each(move |datagram| to_b.send(datagram)));
        let b = Self::receiving(b, each(move |datagram| to_a.send(datagram)));
        (a, b)
    }

    /// The same, with what sends to the first, and another way for what the first sends.
    pub(super) fn switched() -> (Self, Self, Arc<Sender>, Direct) {
        let (a, b) = (Arc::default(), Arc::default());
        let (to_a, to_b) = (Arc::new(Sender(Arc::clone(&a))), Sender(Arc::clone(&b)));
        let (direct, back) = (Direct::default(), Arc::clone(&to_a));
        let other = Arc::clone(&direct);
        let to_b = each(move |datagram| to_b.send(datagram));
        let a = Self::receiving(
            a,
            Box::new(move |batch| match &*lock(&other) {
                Some(send) => send(batch),
                None => to_b(batch),
            }),
        );
        let b = Self::receiving(b, each(move |datagram| back.send(datagram)));
        (a, b, to_a, direct)
    }

    /// One end, and the sender of what it receives. What it sends goes to `outgoing`.
    pub(super) fn new(outgoing: impl Fn(&[u8]) -> bool + Send + Sync + 'static) -> (Self, Sender) {
        let incoming = Arc::default();
        let sender = Sender(Arc::clone(&incoming));
        (Self::receiving(incoming, each(outgoing)), sender)
    }

    /// The same for the datagrams of a connection, which are sent by batches.
    pub(super) fn in_connection(connection: Connection, outgoing: Box<SendFn>) -> (Self, Sender) {
        let incoming = Arc::default();
        let sender = Sender(Arc::clone(&incoming));
        let memory = Self {
            connection: Some(Box::new(connection)),
            ..Self::receiving(incoming, outgoing)
        };
        (memory, sender)
    }

    fn receiving(incoming: Arc<Mutex<Queue>>, outgoing: Box<SendFn>) -> Self {
        static ENDS: AtomicU64 = AtomicU64::new(0);
        // In the discard prefix, 100::/64 (RFC 6666).
        let ip = (0x100 << 112) | u128::from(ENDS.fetch_add(1, Relaxed));
        Self {
            incoming,
            outgoing,
            peer: (Ipv6Addr::from_bits(ip), 0).into(),
            connection: None,
            is_busy: AtomicBool::new(false),
        }
    }

    /// Waits for a datagram. [`ErrorKind::BrokenPipe`]: the other end has been dropped, and all has been received.
    pub(super) fn poll_ready(&self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        let mut queue = lock(&self.incoming);
        if !queue.datagrams.is_empty() {
            return Poll::Ready(Ok(()));
        }
        if queue.closed {
            return Poll::Ready(Err(ErrorKind::BrokenPipe.into()));
        }
        match &mut queue.receiver {
            Some(receiver) => receiver.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    /// Receives as many datagrams as there are slots in `buffer` and `metas`; returns how many.
    pub(super) fn receive(&self, buffer: &mut [u8], metas: &mut [RecvMeta]) -> usize {
        let connection = self.connection.as_deref();
        let peer = connection.map_or(self.peer, Connection::remote);
        let mut queue = lock(&self.incoming);
        let slots = buffer.chunks_exact_mut(MAX_DATAGRAM).zip(metas);
        let received = slots.map_while(|(slot, meta)| {
            let (datagram, inside) = loop {
                let mut datagram = queue.pop()?;
                let Some(connection) = connection else {
                    break (datagram, None);
                };
                // What is no packet is dropped.
                if let Some((association, start)) = quic_packets::parse(&datagram) {
                    let packet = datagram.split_off(start);
                    if packet.len() <= MAX_DATAGRAM {
                        break (packet, Some(connection.inside(association)));
                    }
                }
            };
            let len = datagram.len();
            slot.get_mut(..len)?.copy_from_slice(&datagram);
            (meta.addr, meta.len, meta.stride) = (peer, len, len);
            meta.dst_ip = inside.map(super::connection::Inside::ip);
            Some(())
        });
        received.count()
    }

    /// Sends the datagrams of `batch`; returns how many were lost.
    pub(super) fn send(&self, batch: &Batch) -> usize {
        let sent = (self.outgoing)(batch);
        if self.is_busy.load(Relaxed) != sent.is_busy {
            self.is_busy.store(sent.is_busy, Relaxed);
        }
        sent.lost
    }
}

/// Sends by one datagram after another.
fn each(send: impl Fn(&[u8]) -> bool + Send + Sync + 'static) -> Box<SendFn> {
    Box::new(move |batch| {
        let lost = batch.datagrams().filter(|(datagram, _)| !send(datagram));
        Sent {
            lost: lost.count(),
            is_busy: false,
        }
    })
}
