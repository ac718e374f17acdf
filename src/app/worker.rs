//! Worker threads, each with its own reactor, listeners and flows.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};

use super::handshakes::{Handshakes, ListenerId};
use super::places::Places;
use super::room::{Place, Room, Seat, SeatReady};
use crate::net::listener::{Acceptor, Listener};
use crate::net::sampled::{self, Source};
use crate::net::udp::Socket;
use crate::net::{Stream, UdpOptions, transport, ws};
use crate::relay::failed::{Network, Noted};
use crate::relay::tcp::{Inbound, Outbound, Service};
use crate::relay::udp::{PacketInbound, PacketOutbound, Relay};

/// How long to wait after a failed accept, when the system has no files or memory left for connections.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);
/// Tasks that a worker polls before it looks at its sockets again. Tokio's default is 61. The smaller the number, the
/// sooner an interactive flow gets its turn among bulk flows.
const EVENT_INTERVAL: u32 = 3;

/// Tasks polled between two looks for those that other workers have woken, such as associations that have made room. With
/// tokio's 31, a busy worker would end one of them after 31 batches of datagrams.
const REMOTE_INTERVAL: u32 = 3;

/// How long connections may stay in their handshake after the process has begun to drain. Clients' spare connections
/// stay silent and must not delay the end.
const HANDSHAKE_GRACE: Duration = Duration::from_secs(1);

/// While there are flows, one timer is always due within this time. To set a timer that is due before all others wakes
/// the reactor, and every connection sets some; with this one, they are never the first.
const FIRST_TIMER: Duration = Duration::from_secs(1);

/// What the process is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    /// Serving.
    Run,
    /// Accepting nothing new, while others serve in its place: what is open goes on to its end.
    Retire,
    /// Accepting nothing new.
    Drain,
    /// Ending.
    Stop,
}

/// What jobs need to end in time: the phase, and a sign that they have.
#[derive(Clone)]
pub(super) struct Shared {
    phase: watch::Receiver<Phase>,
    /// Dropped when the job no longer has anything to finish.
    drained: mpsc::Sender<()>,
    /// Dropped when the job has closed the sockets that it listens on.
    listening: Option<mpsc::Sender<()>>,
}

impl Shared {
    /// For the jobs of one service.
    pub(super) const fn new(
        phase: watch::Receiver<Phase>,
        drained: mpsc::Sender<()>,
        listening: mpsc::Sender<()>,
    ) -> Self {
        Self {
            phase,
            drained,
            listening: Some(listening),
        }
    }

    /// For a flow, which does not listen.
    pub(super) const fn of_flow(phase: watch::Receiver<Phase>, drained: mpsc::Sender<()>) -> Self {
        Self {
            phase,
            drained,
            listening: None,
        }
    }

    /// For work with a phase of its own.
    pub(super) fn under(phase: watch::Receiver<Phase>) -> Self {
        let (drained, _) = mpsc::channel(1);
        Self::of_flow(phase, drained)
    }

    /// For what has nothing more to finish, and goes on until others have.
    pub(super) fn without_drain(self) -> Self {
        Self::under(self.phase)
    }

    /// Gives up the sign that it listens, to be dropped once it does not.
    pub(super) const fn stop_listening(&mut self) -> Option<mpsc::Sender<()>> {
        self.listening.take()
    }

    /// Whether others serve in its place.
    pub(super) fn is_retired(&self) -> bool {
        *self.phase.borrow() == Phase::Retire
    }

    /// Waits until the process has reached `phase`.
    pub(super) async fn reached(&mut self, phase: Phase) {
        // If the main thread is gone, every phase has been reached.
        let _ = self.phase.wait_for(|current| *current >= phase).await;
    }
}

/// What a worker runs: a listener, a client's reverse link, or the HTTP ports of reverse tunnels.
pub(super) type Job = Box<dyn FnOnce(Shared) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send>;

/// A job, and what it needs to end in time.
type Order = (Job, Shared);

/// Jobs that wait for a worker.
const WAITING_JOBS: usize = 64;

/// The worker threads.
pub(super) struct Threads {
    threads: Vec<JoinHandle<()>>,
    orders: Vec<mpsc::Sender<Order>>,
}

impl Threads {
    /// Starts `count` threads.
    pub(super) fn start(count: usize) -> io::Result<Self> {
        let (mut threads, mut all) = (Vec::new(), Vec::new());
        for number in 0..count {
            let reactor = runtime::Builder::new_current_thread()
                .enable_all()
                .event_interval(EVENT_INTERVAL)
                .global_queue_interval(REMOTE_INTERVAL)
                .build()?;
            let (orders, jobs) = mpsc::channel(WAITING_JOBS);
            let thread = std::thread::Builder::new()
                .name(format!("worker-{number}"))
                .spawn(move || reactor.block_on(work(jobs)))?;
            threads.push(thread);
            all.push(orders);
        }
        let orders = all;
        Ok(Self { threads, orders })
    }

    /// Has the workers run more jobs: a list for each of them.
    pub(super) async fn run(&self, jobs: Vec<Vec<Job>>, shared: &Shared) {
        for (jobs, orders) in jobs.into_iter().zip(&self.orders) {
            for job in jobs {
                // A thread that has panicked is reported when it is joined.
                let _ = orders.send((job, shared.clone())).await;
            }
        }
    }

    /// What gives them single jobs, as long as they take any.
    pub(super) fn hands(&self) -> Hands {
        Hands {
            orders: self.orders.iter().map(mpsc::Sender::downgrade).collect(),
            next: 0,
        }
    }

    /// Nothing is added any more: the threads end with their jobs.
    pub(super) fn close(&mut self) {
        self.orders.clear();
    }

    /// Waits until all threads have ended.
    pub(super) fn join(self) {
        for thread in self.threads {
            if thread.join().is_err() {
                tracing::error!("a worker thread panicked");
            }
        }
    }
}

/// Gives jobs to the workers in turn.
pub(super) struct Hands {
    orders: Vec<mpsc::WeakSender<Order>>,
    next: usize,
}

impl Hands {
    /// Has the next worker run `job`. If the workers take no more, it is dropped.
    pub(super) async fn give(&mut self, job: Job, shared: Shared) {
        self.next = (self.next + 1) % self.orders.len().max(1);
        let worker = self
            .orders
            .get(self.next)
            .and_then(mpsc::WeakSender::upgrade);
        if let Some(worker) = worker {
            // A thread that has panicked is reported when it is joined.
            let _ = worker.send((job, shared)).await;
        }
    }
}

/// Runs jobs until no more can come and all have ended.
async fn work(mut orders: mpsc::Receiver<Order>) {
    let mut running = JoinSet::new();
    loop {
        tokio::select! {
            order = orders.recv() => match order {
                Some((job, shared)) => {
                    running.spawn(job(shared));
                }
                None => break,
            },
            Some(_) = running.join_next() => {}
        }
    }
    running.join_all().await;
}

/// What the connections of a TCP listener share.
pub(super) struct ListenerService<I, O> {
    pub(super) service: Service<I, O>,
    pub(super) room: Room,
    pub(super) handshakes: Arc<Handshakes>,
    /// The transport below the inbound's protocol.
    pub(super) transport: Option<transport::Server>,
}

impl<I: Inbound + Send + 'static, O: Outbound + Send + 'static> ListenerService<I, O> {
    /// The job that serves `listener`.
    pub(super) fn job(self: &Arc<Self>, listener: Listener) -> Job {
        let port = Arc::clone(self);
        Box::new(move |shared| Box::pin(port.serve(listener, shared)))
    }

    pub(super) async fn serve(self: Arc<Self>, listener: Listener, shared: Shared) {
        self.serve_beside(listener, shared, Alone).await;
    }

    /// The same beside other listeners of the port, with which it exchanges connections.
    pub(super) async fn serve_beside(
        self: Arc<Self>,
        listener: Listener,
        mut shared: Shared,
        mut others: impl Exchange,
    ) {
        let listener = match Acceptor::new(listener) {
            Ok(listener) => listener,
            Err(error) => {
                tracing::error!(%error, "cannot use a listening socket");
                return;
            }
        };
        let mut flows = JoinSet::new();
        let id = self.handshakes.listener();
        let mut next = None;
        let mut first_timer = interval(FIRST_TIMER);
        first_timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = shared.reached(Phase::Retire) => break,
                Some(_) = flows.join_next() => {}
                _ = first_timer.tick(), if !flows.is_empty() => {}
                accepted = self.accept(&listener, &mut next) => match accepted {
                    Ok(accepted) => if let Some(accepted) = others.keep(accepted) {
                        self.spawn(&mut flows, accepted, id);
                    },
                    Err(error) => {
                        sampled::warn!("cannot accept connections; trying again", %error);
                        sleep(ACCEPT_BACKOFF).await;
                    }
                },
                accepted = others.next() => self.spawn(&mut flows, accepted, id),
            }
        }
        drop((listener, next, others, shared.listening.take()));
        let mut ended = pin!(async { while flows.join_next().await.is_some() {} });
        // A listener that others replace leaves its clients the time that their handshakes may take.
        tokio::select! {
            () = shared.reached(Phase::Drain) => {}
            () = &mut ended => return,
        }
        tokio::select! {
            () = shared.reached(Phase::Stop) => return,
            () = &mut ended => return,
            () = sleep(HANDSHAKE_GRACE) => self.handshakes.abort_all(id),
        }
        tokio::select! {
            () = shared.reached(Phase::Stop) => {}
            () = ended => {}
        }
    }

    /// Waits for a connection, and then until there is a place for it. In this order, since a listener without
    /// clients must not hold room that others need. Cancel safe: an accepted socket stays in `next`.
    async fn accept(
        &self,
        listener: &Acceptor,
        next: &mut Option<(Stream, SocketAddr)>,
    ) -> io::Result<Accepted> {
        loop {
            if next.is_none() {
                match listener.accept().await {
                    Ok(arrived) => *next = Some(arrived),
                    Err(error) if is_transient(&error) => continue,
                    Err(error) => return Err(error),
                }
            }
            let place = self.room.enter().await;
            if let Some((stream, peer)) = next.take() {
                return Ok((stream, peer, place));
            }
        }
    }

    /// Serves an accepted connection in a task of its own.
    pub(super) fn spawn(
        self: &Arc<Self>,
        flows: &mut JoinSet<()>,
        accepted: Accepted,
        listener: ListenerId,
    ) {
        let permit = self.handshakes.begin(listener);
        let id = permit.id();
        let port = Arc::clone(self);
        // In a box, which is freed before the flow begins: the task keeps no room for its contents.
        let parts = Box::new((accepted, permit));
        let attached = parts.0.2.attachment();
        let flow = flows.spawn(async move {
            let ((stream, peer, place), permit) = unbox(parts);
            match &port.transport {
                None => {
                    let ready = place.when_ready(permit);
                    port.service.serve(stream, peer, ready).await;
                }
                Some(transport) => {
                    let seat = Seat::new(place, permit);
                    Box::pin(port.serve_transport(transport, stream, peer, seat)).await;
                }
            }
        });
        if let Some(attachment) = attached {
            attachment.attach(flow.clone());
        }
        self.handshakes.attach(id, flow);
    }

    /// Serves the streams within a transport.
    async fn serve_transport(
        self: &Arc<Self>,
        transport: &transport::Server,
        stream: Stream,
        mut peer: SocketAddr,
        seat: Arc<Seat>,
    ) {
        let time = self.service.timeouts.handshake;
        let visits = || seat.leave();
        let entered = Box::pin(transport.handshake(stream, peer.ip(), time, visits)).await;
        match entered {
            Ok(transport::Entered::Visitor) => {}
            Ok(transport::Entered::Client(streams, ip)) => {
                peer.set_ip(ip);
                if !seat.is_taken_again(&self.room) {
                    sampled::debug!(by Source(ip), "a client was closed: `limits.connections` is reached", %peer);
                    return;
                }
                match streams {
                    ws::Streams::One(stream) => {
                        let ready = SeatReady(Arc::clone(&seat));
                        self.service.serve(stream, peer, ready).await;
                    }
                    ws::Streams::Many(streams) => {
                        let deadline = Instant::now() + time;
                        self.serve_mux(streams, peer, &seat, deadline).await;
                    }
                }
            }
            Err(error) => {
                let status = match error.kind() {
                    // A health check, perhaps.
                    io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => {
                        "handshake_end"
                    }
                    _ => "transport",
                };
                self.service.counters.fail(status);
                let noted = Noted::handshake(Network::Tcp, peer, status, &error);
                self.service.counters.note(&noted);
                sampled::debug!(by Source(peer.ip()), "the transport's handshake failed", %peer, %error);
            }
        }
    }

    /// Serves the mux.cool streams of one WebSocket. The WebSocket is in its handshake until the handshake of one stream has
    /// succeeded: its client is authenticated then. From then on each stream counts as a connection.
    async fn serve_mux(
        self: &Arc<Self>,
        streams: Box<ws::mux::Server>,
        peer: SocketAddr,
        seat: &Seat,
        deadline: Instant,
    ) {
        let admission = Arc::new(ws::mux::Admission::new(self.handshakes.streams()));
        let succeeded = Arc::new(Notify::new());
        let places = Places::new(&self.room);
        let serve = |stream, admitted: ws::mux::Admitted| {
            let (port, places) = (Arc::clone(self), places.clone());
            let (admission, succeeded) = (Arc::clone(&admission), Arc::clone(&succeeded));
            async move {
                if admitted.is_authenticated() {
                    return places.serve(&port.service, stream, peer).await;
                }
                let ready = || {
                    drop(admitted);
                    admission.authenticate();
                    succeeded.notify_one();
                };
                places
                    .serve_stranger(&port.service, stream, peer, ready)
                    .await;
            }
        };
        let mut running = pin!(streams.run(&admission, serve));
        let ended = tokio::select! {
            ended = &mut running => ended,
            () = succeeded.notified() => {
                seat.end_handshake();
                running.await
            }
            () = sleep_until(deadline) => Err(io::ErrorKind::TimedOut.into()),
        };
        if let Err(error) = ended {
            sampled::debug!(by Source(peer.ip()), "the WebSocket of mux.cool streams broke", %peer, %error);
        }
    }
}

/// A new connection, its peer, and its place.
pub(super) type Accepted = (Stream, SocketAddr, Place);

/// Listeners that serve each other's connections.
pub(super) trait Exchange: Send {
    /// Passes a new connection on to another listener, or returns it to be served here.
    fn keep(&mut self, accepted: Accepted) -> Option<Accepted>;

    /// Waits for a connection that another listener has accepted. Cancel safe.
    fn next(&mut self) -> impl Future<Output = Accepted> + Send;
}

/// A listener that serves its own connections only.
struct Alone;

impl Exchange for Alone {
    fn keep(&mut self, accepted: Accepted) -> Option<Accepted> {
        Some(accepted)
    }

    fn next(&mut self) -> impl Future<Output = Accepted> + Send {
        std::future::pending()
    }
}

/// Frees the box before the flow begins. Taken apart in the task itself, it would stay until the end.
#[allow(clippy::boxed_local, reason = "the box is to be freed here")]
fn unbox<T>(parts: Box<T>) -> T {
    *parts
}

/// Whether only the connection failed that was to be accepted, not the listener.
fn is_transient(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted
    )
}

/// The job that serves a packet socket.
pub(super) fn packets<I: PacketInbound, O: PacketOutbound>(
    relay: Arc<Relay<I, O>>,
    socket: std::net::UdpSocket,
    options: UdpOptions,
) -> Job {
    Box::new(move |shared| {
        let Shared {
            mut phase,
            drained,
            listening,
        } = shared;
        // Datagrams have no end to wait for: only the phase ends this job.
        drop(drained);
        Box::pin(async move {
            let _listening = listening;
            let served = async {
                let socket = Socket::new(socket.into(), options)?;
                relay.serve(Arc::new(socket)).await
            };
            tokio::select! {
                // Where others serve in its place, they get the datagrams from now on.
                _ = async { phase.wait_for(|phase| matches!(phase, Phase::Retire | Phase::Stop)).await.is_ok() } => {}
                result = served => if let Err(error) = result {
                    tracing::error!(%error, "a UDP listener failed");
                },
            }
        })
    })
}
