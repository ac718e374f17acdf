//! Datagrams inside the process. What does not fit into a queue is dropped, as on a network.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::net::{Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use quinn_udp::RecvMeta;

use super::batch::{Batch, MAX_DATAGRAM};
use crate::net::sync::lock;

/// The most datagrams in a queue.
const MAX_QUEUED: usize = 1024;
/// The most bytes of datagrams in a queue.
const MAX_QUEUED_BYTES: usize = 256 * 1024;

/// One end: a queue that it receives from, and a function by which it sends.
pub(super) struct Memory {
    incoming: Arc<Mutex<Queue>>,
    outgoing: Box<SendFn>,
    /// The address that datagrams come from. Each end has another one, and no peer on a network has it.
    pub(super) peer: SocketAddr,
}

/// Sends a datagram; returns whether it was not lost.
type SendFn = dyn Fn(&[u8]) -> bool + Send + Sync;

/// Sends datagrams to an in-memory socket, which is closed when this is dropped.
pub struct Sender(Arc<Mutex<Queue>>);

#[derive(Default)]
struct Queue {
    datagrams: VecDeque<Box<[u8]>>,
    bytes: usize,
    closed: bool,
    receiver: Option<Waker>,
}

impl Sender {
    /// Sends a datagram; returns whether there was room for it.
    pub fn send(&self, datagram: &[u8]) -> bool {
        let mut queue = lock(&self.0);
        let bytes = queue.bytes + datagram.len();
        let fits = datagram.len() <= MAX_DATAGRAM && bytes <= MAX_QUEUED_BYTES;
        if !fits || queue.datagrams.len() >= MAX_QUEUED {
            return false;
        }
        queue.datagrams.push_back(datagram.into());
        queue.bytes = bytes;
        queue.wake();
        true
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

    fn pop(&mut self) -> Option<Box<[u8]>> {
        let datagram = self.datagrams.pop_front()?;
        self.bytes -= datagram.len();
        Some(datagram)
    }
}

impl Memory {
    /// Two ends: what one sends, the other receives.
    pub(super) fn pair() -> (Self, Self) {
        let (a, b) = (Arc::default(), Arc::default());
        let (to_a, to_b) = (Sender(Arc::clone(&a)), Sender(Arc::clone(&b)));
        let a = Self::receiving(a, move |datagram| to_b.send(datagram));
        let b = Self::receiving(b, move |datagram| to_a.send(datagram));
        (a, b)
    }

    /// One end, and the sender of what it receives. What it sends goes to `outgoing`.
    pub(super) fn new(outgoing: impl Fn(&[u8]) -> bool + Send + Sync + 'static) -> (Self, Sender) {
        let incoming = Arc::default();
        let sender = Sender(Arc::clone(&incoming));
        (Self::receiving(incoming, outgoing), sender)
    }

    fn receiving(
        incoming: Arc<Mutex<Queue>>,
        outgoing: impl Fn(&[u8]) -> bool + Send + Sync + 'static,
    ) -> Self {
        static ENDS: AtomicU64 = AtomicU64::new(0);
        // In the discard prefix, 100::/64 (RFC 6666).
        let ip = (0x100 << 112) | u128::from(ENDS.fetch_add(1, Relaxed));
        Self {
            incoming,
            outgoing: Box::new(outgoing),
            peer: (Ipv6Addr::from_bits(ip), 0).into(),
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
        let mut queue = lock(&self.incoming);
        let slots = buffer.chunks_exact_mut(MAX_DATAGRAM).zip(metas);
        let received = slots.map_while(|(slot, meta)| {
            let datagram = queue.pop()?;
            let len = datagram.len();
            slot.get_mut(..len)?.copy_from_slice(&datagram);
            (meta.addr, meta.len, meta.stride) = (self.peer, len, len);
            Some(())
        });
        received.count()
    }

    /// Sends the datagrams of `batch`; returns how many were lost.
    pub(super) fn send(&self, batch: &Batch) -> usize {
        let (mut from, mut lost) = (0, 0);
        while let Some((run, next)) = batch.run(from, 1) {
            lost += usize::from(!(self.outgoing)(run.bytes));
            from = next;
        }
        lost
    }
}
