//! Visitors who send datagrams: each has a flow on the link, at both ends.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lru::LruCache;
use tokio::net::UdpSocket;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, interval, timeout};

use crate::app::worker::Phase;
use crate::net::pool::{Buffer, Size};
use crate::net::sync::lock;
use crate::net::udp::mapped;
use crate::outbound::dialer::Dialer;
use crate::relay::link::{Handle, Visitor};
use crate::wire::reverse::{Code, MAX_PAYLOAD};

/// Flows of one service, where the least recently used makes room, and of one link at the client, which refuses more.
pub(super) const MAX_FLOWS: usize = 4096;
/// Datagrams that are taken off a socket in a row.
const MAX_BATCH: usize = 64;
/// Datagrams of a flow that may wait for its socket.
pub(super) const QUEUE: usize = 256;

/// Where the answers of a link's flows go.
#[derive(Default)]
pub(super) struct Flows(Mutex<HashMap<u64, Flow>>);

struct Flow {
    socket: Arc<UdpSocket>,
    visitor: SocketAddr,
    used: Instant,
}

impl Flows {
    /// Sends an answer to the visitor of flow `id`. What its socket does not take is lost, as datagrams are.
    pub(super) fn answer(&self, id: u64, bytes: &[u8]) {
        if let Some(flow) = lock(&self.0).get_mut(&id) {
            flow.used = Instant::now();
            let _ = flow.socket.try_send_to(bytes, flow.visitor);
        }
    }

    pub(super) fn remove(&self, id: u64) {
        lock(&self.0).remove(&id);
    }
}

/// The public side of a service that takes datagrams.
pub(super) struct Public {
    pub(super) socket: Arc<UdpSocket>,
    pub(super) bound: SocketAddr,
    pub(super) link: Handle,
    pub(super) service: u64,
    pub(super) flows: Arc<Flows>,
    pub(super) idle: Duration,
}

impl Public {
    /// Takes datagrams until the link drains or the socket fails.
    pub(super) async fn serve(self, mut phase: watch::Receiver<Phase>) {
        let capacity = NonZeroUsize::new(MAX_FLOWS).unwrap_or(NonZeroUsize::MIN);
        let mut visitors: LruCache<SocketAddr, (u64, Instant)> = LruCache::new(capacity);
        let mut tick = interval((self.idle / 4).max(Duration::from_millis(100)));
        loop {
            tokio::select! {
                _ = phase.wait_for(|phase| *phase >= Phase::Drain) => return,
                _ = tick.tick() => self.expire(&mut visitors),
                ready = self.socket.readable() => {
                    if ready.is_err() {
                        return;
                    }
                    self.receive(&mut visitors);
                }
            }
        }
    }

    /// Passes on what is there.
    fn receive(&self, visitors: &mut LruCache<SocketAddr, (u64, Instant)>) {
        let mut buffer = Buffer::take(Size::Small);
        for _ in 0..MAX_BATCH {
            let (bytes, _, _) = buffer.parts();
            match self.socket.try_recv_from(bytes) {
                Ok((len, visitor)) => {
                    // One that a frame does not hold is lost, as on a path that is too narrow.
                    if let Some(bytes) = bytes.get(..len).filter(|_| len <= MAX_PAYLOAD) {
                        self.pass(visitors, visitor, bytes);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // The answer to an earlier datagram of ours.
                Err(_) => {}
            }
        }
    }

    fn pass(
        &self,
        visitors: &mut LruCache<SocketAddr, (u64, Instant)>,
        visitor: SocketAddr,
        bytes: &[u8],
    ) {
        let now = Instant::now();
        let known = visitors.get_mut(&visitor).and_then(|(id, used)| {
            *used = now;
            // The client may have ended the flow in the meantime.
            lock(&self.flows.0).contains_key(id).then_some(*id)
        });
        let Some(id) = known.or_else(|| self.open(visitors, visitor, now)) else {
            return;
        };
        self.link.datagram(id, bytes);
    }

    fn open(
        &self,
        visitors: &mut LruCache<SocketAddr, (u64, Instant)>,
        visitor: SocketAddr,
        now: Instant,
    ) -> Option<u64> {
        let (source, destination) = (visitor.into(), self.bound.into());
        let id = self.link.open_flow(self.service, source, destination)?;
        let flow = Flow {
            socket: Arc::clone(&self.socket),
            visitor,
            used: now,
        };
        lock(&self.flows.0).insert(id, flow);
        if let Some((_, (oldest, _))) = visitors.push(visitor, (id, now)) {
            self.close(oldest);
        }
        Some(id)
    }

    fn close(&self, id: u64) {
        self.flows.remove(id);
        self.link.reset(id);
    }

    /// Ends flows on which nothing has moved for long.
    fn expire(&self, visitors: &mut LruCache<SocketAddr, (u64, Instant)>) {
        let now = Instant::now();
        while let Some((_, (id, used))) = visitors.peek_lru() {
            let (id, used) = (*id, *used);
            if now.duration_since(used) < self.idle {
                return;
            }
            let answered = lock(&self.flows.0).get(&id).map(|flow| flow.used);
            match (visitors.pop_lru(), answered) {
                (Some((visitor, (id, _))), Some(answered))
                    if now.duration_since(answered) < self.idle =>
                {
                    visitors.push(visitor, (id, answered));
                    // It counts as used now: those before it are looked at the next time.
                    return;
                }
                _ => self.close(id),
            }
        }
    }
}

/// The client's side of a flow: a socket of its own towards the target, until nothing has moved for long or the
/// server has ended the flow.
pub(super) async fn carry(
    dialer: Dialer,
    target: crate::wire::Address,
    visitor: Visitor,
    link: Handle,
    mut queue: mpsc::Receiver<Box<[u8]>>,
    idle: Duration,
) {
    let id = visitor.id;
    let socket = match connect(&dialer, &target).await {
        Ok(socket) => socket,
        Err(error) => {
            tracing::info!(%target, %error, "a visitor of a reverse tunnel was turned away");
            link.answer(id, Code::UNREACHABLE, error.to_string());
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
                    Some(bytes) => {
                        // A target that is not there says so by ICMP; the next may find it again.
                        let _ = socket.send(&bytes).await;
                        true
                    }
                    None => false,
                }
            }
        };
        match timeout(idle, moved).await {
            Ok(true) => {}
            Ok(false) => return,
            Err(_) => {
                link.reset(id);
                return;
            }
        }
    }
}

async fn connect(dialer: &Dialer, target: &crate::wire::Address) -> io::Result<UdpSocket> {
    let resolved = dialer.resolve(target, true).await;
    let mut address = resolved.ok_or_else(|| io::Error::other("no usable address"))?;
    let socket = UdpSocket::from_std(dialer.options.outgoing_udp()?.into())?;
    if socket.local_addr()?.is_ipv6() {
        address = mapped(address);
    }
    socket.connect(address).await?;
    Ok(socket)
}
