//! The UDP socket of a listener, which may have had others before it, and may have others after it.
//!
//! One of them receives: the newest. Connections of an earlier one are told apart by their ids, since a client may come from another
//! address at any time, and their datagrams are passed to it. All send from the same port.

use std::collections::{HashSet, VecDeque};
use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, ConnectionId, UdpPoller};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::ids::{Generation, ID_LEN, Lineage, first_id_of, id_of};
use super::passage::{self, Inlet, Way};
use crate::limits::{MAX_QUIC_EARLIER, MAX_QUIC_WAITING};
use crate::net::sync::lock;

/// It receives, and there is no earlier listener.
const ALONE: u8 = 0;
/// It receives, for earlier listeners too.
const NEWEST: u8 = 1;
/// Another receives.
const EARLIER: u8 = 2;

/// How long a client may repeat its first packets.
const FIRST_TIME: Duration = Duration::from_secs(10);
/// How often it is looked whether earlier listeners are gone.
const TIDY_PAUSE: Duration = Duration::from_secs(1);

/// Whether another listener takes the place of this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heir {
    Nobody,
    /// One was built, and has not begun.
    Expected,
    Begun,
}

/// The socket of a listener.
pub(super) struct Port {
    socket: Arc<dyn AsyncUdpSocket>,
    lineage: Arc<Lineage>,
    generation: Generation,
    role: AtomicU8,
    earlier: Mutex<Vec<Earlier>>,
    /// The ids that clients have chosen for the first packets of their last connections, and when these came. The client may send
    /// such packets again: they are for the listener that has answered.
    first_ids: Mutex<VecDeque<(Instant, ConnectionId)>>,
    inlet: OnceLock<Inlet>,
    /// Wakes the task that receives; it is the same one always.
    receiver: OnceLock<Waker>,
    pub(super) heir: watch::Sender<Heir>,
}

/// An earlier listener.
pub(super) struct Earlier {
    pub(super) generation: Generation,
    pub(super) way: Way,
    pub(super) first_ids: HashSet<ConnectionId>,
}

/// What a listener leaves to the next.
#[derive(Default)]
pub(super) struct Legacy {
    pub(super) lineage: Arc<Lineage>,
    /// The oldest first.
    pub(super) earlier: Vec<Earlier>,
}

impl Legacy {
    /// A number for the next listener.
    pub(super) fn next(&self) -> Generation {
        let last = self.earlier.last().map_or(0, |last| last.generation);
        let mut next = last.wrapping_add(1);
        while self.earlier.iter().any(|one| one.generation == next) {
            next = next.wrapping_add(1);
        }
        next
    }
}

impl fmt::Debug for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Port");
        shown.field("generation", &self.generation);
        shown.finish_non_exhaustive()
    }
}

impl Port {
    pub(super) fn new(
        socket: Arc<dyn AsyncUdpSocket>,
        generation: Generation,
        legacy: Legacy,
    ) -> Arc<Self> {
        let role = if legacy.earlier.is_empty() {
            ALONE
        } else {
            NEWEST
        };
        Arc::new(Self {
            socket,
            lineage: legacy.lineage,
            generation,
            role: AtomicU8::new(role),
            earlier: Mutex::new(legacy.earlier),
            first_ids: Mutex::default(),
            inlet: OnceLock::new(),
            receiver: OnceLock::new(),
            heir: watch::Sender::new(Heir::Nobody),
        })
    }

    /// Takes note of a connection that is accepted, by the id that its client has chosen.
    pub(super) fn note(&self, first_id: ConnectionId) {
        let mut first_ids = lock(&self.first_ids);
        if first_ids.len() >= MAX_QUIC_WAITING {
            first_ids.pop_front();
        }
        first_ids.push_back((Instant::now(), first_id));
    }

    /// Forgets earlier listeners that are gone, for as long as it is polled. Cancel safe.
    pub(super) async fn tidy(&self) {
        while self.role.load(Ordering::Acquire) == NEWEST {
            sleep(TIDY_PAUSE).await;
            let mut earlier = lock(&self.earlier);
            earlier.retain(|one| !one.way.is_over());
            self.note_left(&earlier);
        }
        std::future::pending().await
    }

    /// Passes everything through once no earlier listener is left.
    fn note_left(&self, earlier: &[Earlier]) {
        if earlier.is_empty() {
            let (newest, alone) = (NEWEST, ALONE);
            let (set, get) = (Ordering::AcqRel, Ordering::Acquire);
            // Otherwise it is an earlier one itself.
            let _ = self.role.compare_exchange(newest, alone, set, get);
        }
    }

    /// Receives nothing more from the network, but what the next listener passes on. `None`: there is a next one already, or the
    /// system has no socket for it.
    pub(super) fn leave(&self) -> Option<Legacy> {
        // Not in the middle of a batch: what is in it for earlier listeners is passed on first.
        let mut earlier = lock(&self.earlier);
        if self.inlet.get().is_some() {
            return None;
        }
        let (way, inlet) = passage::pair().ok()?;
        let mut ways = std::mem::take(&mut *earlier);
        ways.retain(|one| !one.way.is_over());
        let first_ids = std::mem::take(&mut *lock(&self.first_ids)).into_iter();
        let first_ids = first_ids.filter(|(at, _)| at.elapsed() < FIRST_TIME);
        ways.push(Earlier {
            generation: self.generation,
            way,
            first_ids: first_ids.map(|(_, id)| id).collect(),
        });
        // Those that lose their way end.
        let beyond = ways.len().saturating_sub(MAX_QUIC_EARLIER);
        ways.drain(..beyond);
        self.inlet.set(inlet).ok()?;
        self.role.store(EARLIER, Ordering::Release);
        drop(earlier);
        if let Some(receiver) = self.receiver.get() {
            receiver.wake_by_ref();
        }
        self.heir.send_replace(Heir::Begun);
        Some(Legacy {
            lineage: Arc::clone(&self.lineage),
            earlier: ways,
        })
    }

    /// Waits until nobody passes anything to this listener any more. Cancel safe.
    pub(super) async fn cut_off(&self) {
        match self.inlet.get() {
            Some(inlet) => inlet.ended.notified().await,
            None => std::future::pending().await,
        }
    }

    /// Receives, and passes on what belongs to earlier listeners.
    fn poll_recv_for_all(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut earlier = lock(&self.earlier);
        if self.role.load(Ordering::Acquire) == EARLIER {
            // It has been left in the meantime.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let count = ready!(self.socket.poll_recv(cx, buffers, metas))?;
        let mut router = Router {
            lineage: &self.lineage,
            earlier: &mut earlier,
            last: None,
        };
        for (buffer, meta) in buffers.iter_mut().zip(metas).take(count) {
            meta.len = router.pass_on(buffer, meta);
        }
        self.note_left(&earlier);
        Poll::Ready(Ok(count))
    }
}

impl AsyncUdpSocket for Port {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.socket).create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.socket.try_send(transmit)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        self.receiver.get_or_init(|| cx.waker().clone());
        match (self.role.load(Ordering::Acquire), self.inlet.get()) {
            (ALONE, _) => self.socket.poll_recv(cx, buffers, metas),
            (EARLIER, Some(inlet)) => inlet.poll_recv(cx, buffers, metas).map(Ok),
            _ => self.poll_recv_for_all(cx, buffers, metas),
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.socket.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.socket.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.socket.may_fragment()
    }
}

/// Tells whose datagrams are in a batch.
struct Router<'a> {
    lineage: &'a Lineage,
    earlier: &'a mut Vec<Earlier>,
    /// The id that came last, and whose it is.
    last: Option<([u8; ID_LEN], Option<Generation>)>,
}

impl Router<'_> {
    /// Passes on the datagrams of earlier listeners, and moves the others to the begin of the buffer. Returns the length of these.
    fn pass_on(&mut self, buffer: &mut [u8], meta: &RecvMeta) -> usize {
        let len = meta.len.min(buffer.len());
        let (mut at, mut kept) = (0, 0);
        while at < len {
            let end = |at: usize| at.saturating_add(meta.stride.max(1)).min(len);
            // Datagrams that were received together are of one connection, as a rule.
            let (from, owner) = (at, self.owner(buffer.get(at..end(at))));
            at = end(at);
            while at < len && self.owner(buffer.get(at..end(at))) == owner {
                at = end(at);
            }
            let run = buffer.get(from..at).unwrap_or_default();
            if !owner.is_some_and(|owner| self.pass(owner, meta, run)) {
                buffer.copy_within(from..at, kept);
                kept += at - from;
            }
        }
        kept
    }

    /// The earlier listener that a datagram belongs to.
    fn owner(&mut self, datagram: Option<&[u8]>) -> Option<Generation> {
        let datagram = datagram?;
        let ours = id_of(datagram).and_then(|id| self.maker(id));
        ours.or_else(|| {
            let id = first_id_of(datagram)?;
            self.find(|one| one.first_ids.contains(&id))
        })
    }

    /// The earlier listener that has made an id.
    fn maker(&mut self, id: [u8; ID_LEN]) -> Option<Generation> {
        if let Some((last, maker)) = self.last
            && last == id
        {
            return maker;
        }
        let generation = self.lineage.generation(id);
        let maker = self.find(|one| one.generation == generation);
        self.last = Some((id, maker));
        maker
    }

    fn find(&self, is_it: impl Fn(&Earlier) -> bool) -> Option<Generation> {
        let found = self.earlier.iter().find(|one| is_it(one));
        found.map(|one| one.generation)
    }

    /// Passes datagrams to their listener. `false`: it is gone.
    fn pass(&mut self, owner: Generation, meta: &RecvMeta, datagrams: &[u8]) -> bool {
        let mut earlier = self.earlier.iter();
        let found = earlier.position(|one| one.generation == owner);
        let Some((place, one)) = found.and_then(|place| Some((place, self.earlier.get(place)?)))
        else {
            return false;
        };
        if one.way.pass(meta, datagrams) {
            return true;
        }
        self.earlier.remove(place);
        self.last = None;
        false
    }
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::indexing_slicing,
        clippy::panic,
        reason = "tests"
    )]
    use std::future::poll_fn;
    use std::net::{Ipv4Addr, UdpSocket};

    use quinn::{ConnectionIdGenerator as _, Runtime as _, TokioRuntime};

    use super::*;
    use crate::net::quic::ids::Ids;

    const LEN: usize = 100;

    fn port(socket: &UdpSocket, legacy: Legacy) -> Arc<Port> {
        let socket = socket.try_clone().unwrap();
        let socket = TokioRuntime.wrap_udp_socket(socket).unwrap();
        let generation = legacy.next();
        Port::new(socket, generation, legacy)
    }

    /// A datagram of a connection of this listener, or of one whose client has chosen the id.
    fn datagram(port: &Port, first_id: Option<ConnectionId>) -> [u8; LEN] {
        let (lineage, generation) = (Arc::clone(&port.lineage), port.generation);
        let id = Ids {
            lineage,
            generation,
        }
        .generate_cid();
        let head = match first_id {
            None => [&[0x40][..], &id].concat(),
            Some(id) => [
                &[0xc0, 0, 0, 0, 1, u8::try_from(id.len()).unwrap()][..],
                &id,
            ]
            .concat(),
        };
        let mut datagram = [7; LEN];
        datagram[..head.len()].copy_from_slice(&head);
        datagram
    }

    async fn receive(port: &Port) -> Vec<u8> {
        let mut room = vec![0; 65536];
        let mut metas = [RecvMeta::default()];
        poll_fn(|cx| {
            let mut buffers = [IoSliceMut::new(&mut room)];
            port.poll_recv(cx, &mut buffers, &mut metas)
        })
        .await
        .unwrap();
        room.truncate(metas[0].len);
        room
    }

    fn pass_on(port: &Port, batch: &mut [u8], meta: &RecvMeta) -> usize {
        let mut earlier = lock(&port.earlier);
        let mut router = Router {
            lineage: &port.lineage,
            earlier: &mut earlier,
            last: None,
        };
        router.pass_on(batch, meta)
    }

    #[tokio::test]
    async fn datagrams_of_one_batch_go_each_to_its_listener() {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let first_id = ConnectionId::new(&[3; 20]);
        let oldest = port(&socket, Legacy::default());
        oldest.note(first_id);
        let old = port(&socket, oldest.leave().unwrap());
        let legacy = old.leave().unwrap();
        assert!(old.leave().is_none(), "only once");
        let new = port(&socket, legacy);
        let others = ConnectionId::new(&[4; 20]);
        let own = [datagram(&new, None), datagram(&new, Some(others))];
        let of_oldest = [datagram(&oldest, None), datagram(&new, Some(first_id))];
        let of_old = datagram(&old, None);
        let batch = [own[0], of_oldest[0], of_oldest[1], own[1], of_old, of_old];
        let mut batch = batch.concat();
        // The last is shorter, as it may be.
        batch.truncate(5 * LEN + 50);
        let meta = RecvMeta {
            addr: (Ipv4Addr::LOCALHOST, 7).into(),
            len: batch.len(),
            stride: LEN,
            ecn: None,
            dst_ip: None,
        };
        let kept = pass_on(&new, &mut batch, &meta);
        assert!(batch[..kept] == own.concat());
        assert!(receive(&oldest).await == of_oldest.concat());
        assert!(receive(&old).await == [&of_old[..], &of_old[..50]].concat());
    }

    #[tokio::test]
    async fn earlier_listeners_are_bounded_and_forgotten_when_they_are_gone() {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let mut all = vec![port(&socket, Legacy::default())];
        for _ in 0..MAX_QUIC_EARLIER + 3 {
            let legacy = all.last().unwrap().leave().unwrap();
            all.push(port(&socket, legacy));
        }
        let newest = all.pop().unwrap();
        assert_eq!(lock(&newest.earlier).len(), MAX_QUIC_EARLIER);
        // The oldest hears that nothing comes any more.
        let mut room = [0; 100];
        let mut metas = [RecvMeta::default()];
        let ended = poll_fn(|cx| {
            let mut buffers = [IoSliceMut::new(&mut room)];
            all[0].poll_recv(cx, &mut buffers, &mut metas)
        });
        tokio::select! {
            biased;
            _ = ended => panic!("nothing was passed"),
            () = all[0].cut_off() => {}
        }
        assert_eq!(newest.role.load(Ordering::Acquire), NEWEST);
        all.clear();
        let limit = Duration::from_secs(20);
        let alone = async {
            while newest.role.load(Ordering::Acquire) != ALONE {
                sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::select! {
            () = newest.tidy() => {}
            ended = tokio::time::timeout(limit, alone) => ended.unwrap(),
        }
    }
}
