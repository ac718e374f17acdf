//! The client's side of visitors that send datagrams: a socket to the target for each.

use std::io;
use std::num::NonZeroUsize;
use std::task::{Context, Poll};
use std::time::Duration;

use lru::LruCache;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::net::alive::{Alive, Limit};
use crate::net::pool::{Buffer, Size};
use crate::net::sampled;
use crate::net::tasks::Tasks;
use crate::net::udp::mapped;
use crate::outbound::dialer::Dialer;
use crate::relay::link::limits::{FLOW_QUEUE, MAX_DATAGRAM_BYTES};
use crate::relay::link::{Handle, Visitor};
use crate::relay::udp::with_ending;
use crate::wire::Address;
use crate::wire::reverse::{Code, MAX_PAYLOAD};

/// The flows of one link. Beyond their limit, the one whose visitor has been silent for the longest time makes room.
pub(super) struct Flows {
    link: Handle,
    queues: LruCache<u64, mpsc::Sender<Waiting>>,
    /// Flows whose sockets are open: also those that were ended, and whose tasks have not noticed yet.
    alive: Limit,
    /// Bytes that wait for sockets.
    bytes: Limit,
    tasks: Tasks,
}

/// A datagram that waits for a socket.
struct Waiting {
    bytes: Box<[u8]>,
    _held: Alive,
}

/// Where the visitors of a service go.
pub(super) struct Way {
    pub(super) dialer: Dialer,
    pub(super) target: Address,
    /// A flow ends when nothing has moved for so long.
    pub(super) idle: Duration,
}

impl Flows {
    pub(super) fn new(link: &Handle, capacity: NonZeroUsize) -> Self {
        Self {
            link: link.clone(),
            queues: LruCache::sparse(capacity),
            alive: Limit::new(with_ending(capacity.get())),
            bytes: Limit::new(MAX_DATAGRAM_BYTES),
            tasks: Tasks::default(),
        }
    }

    /// Begins the flow of a visitor.
    pub(super) fn begin(&mut self, visitor: &Visitor, way: Way) {
        let id = visitor.id;
        let Some(alive) = self.alive.take(1) else {
            let message = "the client has too many UDP flows that are ending".to_owned();
            return self.link.connect_result(id, Code::FULL, message);
        };
        let (sender, queue) = mpsc::channel(FLOW_QUEUE);
        if let Some((evicted, _)) = self.queues.push(id, sender)
            && evicted != id
        {
            self.link.reset(evicted);
        }
        let link = self.link.clone();
        self.tasks.spawn(async move {
            relay(id, way, link, queue).await;
            drop(alive);
        });
    }

    /// A datagram of a visitor. A full queue drops it, as a full socket does.
    pub(super) fn datagram(&mut self, id: u64, payload: &[u8]) {
        let Some(queue) = self.queues.get(&id) else {
            return;
        };
        let Some(held) = self.bytes.take(payload.len()) else {
            return;
        };
        let waiting = Waiting {
            bytes: payload.into(),
            _held: held,
        };
        if let Err(mpsc::error::TrySendError::Closed(_)) = queue.try_send(waiting) {
            self.end(id);
            self.link.reset(id);
        }
    }

    /// Ends a flow.
    pub(super) fn end(&mut self, id: u64) {
        self.queues.pop(&id);
    }

    /// Ends all of them.
    pub(super) fn end_all(&mut self) {
        self.queues.clear();
    }

    /// Forgets what has ended. Ready: none is left.
    pub(super) fn poll_ended(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.tasks.poll_ended(cx)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }
}

/// Moves datagrams between the queue of a flow and a socket of its own, until nothing has moved for a while or the flow was
/// ended.
async fn relay(id: u64, way: Way, link: Handle, mut queue: mpsc::Receiver<Waiting>) {
    let Way {
        dialer,
        target,
        idle,
    } = way;
    // In a box, which is freed before the flow begins.
    let socket = match Box::pin(connect(&dialer, &target)).await {
        Ok(socket) => socket,
        Err(error) => {
            sampled::info!(by &target, "reverse: cannot reach the target of a UDP visitor", %target, %error);
            link.connect_result(id, Code::UNREACHABLE, error.to_string());
            return;
        }
    };
    loop {
        let moved = async {
            tokio::select! {
                _ = socket.readable() => {
                    let mut buffer = Buffer::take(Size::Small);
                    let (bytes, _, _) = buffer.parts();
                    let received = socket.try_recv(bytes);
                    if let Ok(len) = received && let Some(bytes) = bytes.get(..len).filter(|_| len <= MAX_PAYLOAD) {
                        link.datagram(id, bytes);
                    }
                    true
                }
                datagram = queue.recv() => match datagram {
                    Some(waiting) => {
                        // If the target is down, ICMP makes this fail. The target may be up again for the next.
                        let _ = socket.send(&waiting.bytes).await;
                        true
                    }
                    None => false,
                }
            }
        };
        match timeout(idle, moved).await {
            Ok(true) => {}
            Ok(false) => return,
            Err(_) => return link.reset(id),
        }
    }
}

async fn connect(dialer: &Dialer, target: &Address) -> io::Result<UdpSocket> {
    let resolved = dialer.resolve(target, true).await;
    let mut address = resolved.ok_or_else(|| io::Error::other("no usable address"))?;
    let socket = UdpSocket::from_std(dialer.options.outgoing_udp()?.into())?;
    if socket.local_addr()?.is_ipv6() {
        address = mapped(address);
    }
    socket.connect(address).await?;
    Ok(socket)
}
