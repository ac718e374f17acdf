//! A thread with its own reactor, its own listeners and its own flows.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::runtime;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};

use super::handshakes::{Handshakes, Listener, Place};
use crate::net::udp::Socket;
use crate::net::{Stream, UdpOptions, transport, ws};
use crate::relay::Counters;
use crate::relay::tcp::{self, Inbound, Outbound, Timeouts};
use crate::relay::udp::{PacketInbound, PacketOutbound, Relay};

/// How long accepting rests when the system has no more files or memory for connections.
const ACCEPT_REST: Duration = Duration::from_millis(100);
/// Rests that are logged: the first and every hundredth.
const LOG_EVERY: u32 = 100;
/// Tasks polled between two looks at the sockets. A turn of a bulk flow takes long enough for small flows to wait for,
/// so far fewer than tokio's 61.
const EVENT_INTERVAL: u32 = 3;

/// How long a connection that came before the end may take to say what it wants. Spare connections of clients say
/// nothing, and are no reason to go on.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// While there are flows, a timer is due within this time. A timer that is due before all others costs the reactor a
/// wake-up by itself when it is set, and every connection sets some; behind this one they are never the first.
const BEAT: Duration = Duration::from_secs(1);

/// What the process is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    /// Serving.
    Run,
    /// Taking nothing new.
    Drain,
    /// Ending.
    Stop,
}

/// What a worker's jobs have in common.
#[derive(Clone)]
pub(super) struct Shared {
    phase: watch::Receiver<Phase>,
    /// Dropped when there is nothing left that should be let end.
    drained: mpsc::Sender<()>,
}

impl Shared {
    /// For what ends by a phase of its own.
    pub(super) fn under(phase: watch::Receiver<Phase>) -> Self {
        let (drained, _) = mpsc::channel(1);
        Self { phase, drained }
    }

    /// Waits until the process has come to `phase`.
    pub(super) async fn reached(&mut self, phase: Phase) {
        // A main thread that is gone has come to its end.
        let _ = self.phase.wait_for(|current| *current >= phase).await;
    }
}

/// One listener's work on one worker.
pub(super) type Job = Box<dyn FnOnce(Shared) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send>;

/// The worker threads.
pub(super) struct Threads(Vec<JoinHandle<()>>);

impl Threads {
    /// Starts a thread for each list of jobs.
    pub(super) fn start(
        jobs: Vec<Vec<Job>>,
        phase: watch::Receiver<Phase>,
        drained: mpsc::Sender<()>,
    ) -> io::Result<Self> {
        let shared = Shared { phase, drained };
        let mut threads = Vec::new();
        for (number, jobs) in jobs.into_iter().enumerate() {
            let reactor = runtime::Builder::new_current_thread()
                .enable_all()
                .event_interval(EVENT_INTERVAL)
                .build()?;
            let shared = shared.clone();
            let thread = std::thread::Builder::new()
                .name(format!("worker-{number}"))
                .spawn(move || {
                    reactor.block_on(async move {
                        let mut running = JoinSet::new();
                        for job in jobs {
                            running.spawn(job(shared.clone()));
                        }
                        drop(shared);
                        running.join_all().await;
                    });
                })?;
            threads.push(thread);
        }
        Ok(Self(threads))
    }

    /// Waits until all have ended.
    pub(super) fn join(self) {
        for thread in self.0 {
            if thread.join().is_err() {
                tracing::error!("a worker ended by a panic");
            }
        }
    }
}

/// Everything that a stream listener's connections share.
pub(super) struct Port<I, O> {
    pub(super) inbound: I,
    pub(super) outbound: O,
    pub(super) timeouts: Timeouts,
    pub(super) counters: Arc<Counters>,
    pub(super) connections: Arc<Semaphore>,
    pub(super) handshakes: Arc<Handshakes>,
    /// What stands between TCP and what the inbound speaks.
    pub(super) transport: Option<transport::Server>,
}

impl<I: Inbound + Send + 'static, O: Outbound + Send + 'static> Port<I, O> {
    /// The job of serving `listener`.
    pub(super) fn job(self: &Arc<Self>, listener: std::net::TcpListener) -> Job {
        let port = Arc::clone(self);
        Box::new(move |shared| Box::pin(port.serve(listener, shared)))
    }

    pub(super) async fn serve(
        self: Arc<Self>,
        listener: std::net::TcpListener,
        mut shared: Shared,
    ) {
        let listener = match TcpListener::from_std(listener) {
            Ok(listener) => listener,
            Err(error) => {
                tracing::error!(%error, "cannot listen");
                return;
            }
        };
        let mut flows = JoinSet::new();
        let of = self.handshakes.listener();
        let mut next = None;
        let mut rests: u32 = 0;
        let mut beat = interval(BEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = shared.reached(Phase::Drain) => break,
                Some(_) = flows.join_next() => {}
                _ = beat.tick(), if !flows.is_empty() => {}
                accepted = self.accept(&listener, &mut next) => match accepted {
                    Ok(accepted) => {
                        rests = 0;
                        self.begin(&mut flows, accepted, of);
                    }
                    Err(error) => {
                        if rests.is_multiple_of(LOG_EVERY) {
                            tracing::warn!(%error, "cannot accept for the moment");
                        }
                        rests = rests.saturating_add(1);
                        sleep(ACCEPT_REST).await;
                    }
                },
            }
        }
        drop((listener, next));
        let mut ended = pin!(async { while flows.join_next().await.is_some() {} });
        tokio::select! {
            () = shared.reached(Phase::Stop) => return,
            () = &mut ended => return,
            () = sleep(LAST_WORDS) => self.handshakes.end_of(of),
        }
        tokio::select! {
            () = shared.reached(Phase::Stop) => {}
            () = ended => {}
        }
    }

    /// Waits for a connection, and then until there is room for it. In this order, since a listener to which nobody comes
    /// would keep room from the others. Cancel safe: what has come stays in `next`.
    async fn accept(
        &self,
        listener: &TcpListener,
        next: &mut Option<(TcpStream, SocketAddr)>,
    ) -> io::Result<Accepted> {
        loop {
            if next.is_none() {
                match listener.accept().await {
                    Ok(arrived) => *next = Some(arrived),
                    Err(error) if is_passing(&error) => continue,
                    Err(error) => return Err(error),
                }
            }
            let room = Arc::clone(&self.connections)
                .acquire_owned()
                .await
                .map_err(io::Error::other)?;
            if let Some((stream, peer)) = next.take() {
                return Ok(Accepted {
                    stream: Stream::new(stream),
                    peer,
                    room,
                });
            }
        }
    }

    fn begin(self: &Arc<Self>, flows: &mut JoinSet<()>, accepted: Accepted, of: Listener) {
        let place = self.handshakes.begin(of);
        let number = place.number();
        let port = Arc::clone(self);
        // In a box, whose parts are where they belong before the flow begins: the task keeps no room for them.
        let begun = Box::new((accepted, place));
        let flow = flows.spawn(async move {
            let (stream, peer, _room, place) = Accepted::apart(begun);
            match &port.transport {
                None => port.flow(stream, peer, move || drop(place)).await,
                Some(transport) => {
                    Box::pin(port.within(transport, stream, peer, place)).await;
                }
            }
        });
        self.handshakes.attach(number, flow);
    }

    /// Serves one stream to its end.
    fn flow(
        &self,
        stream: Stream,
        peer: SocketAddr,
        ready: impl FnOnce() + Send,
    ) -> impl Future<Output = ()> + Send {
        let (inbound, outbound) = (&self.inbound, &self.outbound);
        let (timeouts, counters) = (&self.timeouts, &self.counters);
        tcp::serve(stream, peer, inbound, outbound, timeouts, counters, ready)
    }

    /// Serves what comes within a transport.
    async fn within(
        self: &Arc<Self>,
        transport: &transport::Server,
        stream: Stream,
        mut peer: SocketAddr,
        place: Place,
    ) {
        let deadline = Instant::now() + self.timeouts.handshake;
        let accepted = Box::pin(transport.accept(stream, peer.ip(), deadline)).await;
        match accepted {
            Ok((ws::Accepted::Bare(stream), ip)) => {
                peer.set_ip(ip);
                self.flow(stream, peer, move || drop(place)).await;
            }
            Ok((ws::Accepted::Mux(streams), ip)) => {
                peer.set_ip(ip);
                self.streams(streams, peer, place, deadline).await;
            }
            Err(error) => {
                self.counters.fail("transport");
                tracing::debug!(%peer, %error, "not a client of the transport");
            }
        }
    }

    /// Serves the streams of one WebSocket. It is in its handshake until one of them has shown that it is a client's.
    /// Streams are connections too, once their clients are known: the first has the WebSocket's own place, and one that
    /// finds none is closed, since all the others would have to wait with it (mux.cool has no windows).
    async fn streams(
        self: &Arc<Self>,
        streams: Box<ws::mux::Server>,
        peer: SocketAddr,
        place: Place,
        deadline: Instant,
    ) {
        let known = Arc::new(Notify::new());
        let own = Arc::new(Semaphore::new(1));
        let serve = |stream| {
            let (port, known) = (Arc::clone(self), Arc::clone(&known));
            let own = Arc::clone(&own);
            async move {
                let (room, none) = (OnceLock::new(), Notify::new());
                let ready = || {
                    known.notify_one();
                    let other = |_| Arc::clone(&port.connections).try_acquire_owned();
                    match own.try_acquire_owned().or_else(other) {
                        Ok(place) => drop(room.set(place)),
                        Err(_) => none.notify_one(),
                    }
                };
                tokio::select! {
                    () = port.flow(stream, peer, ready) => {}
                    () = none.notified() => tracing::debug!(%peer, "no room for a stream: limits.connections"),
                }
            }
        };
        let mut running = pin!(streams.run(serve));
        let ended = tokio::select! {
            ended = &mut running => ended,
            () = known.notified() => {
                drop(place);
                running.await
            }
            () = sleep_until(deadline) => Err(io::ErrorKind::TimedOut.into()),
        };
        if let Err(error) = ended {
            tracing::debug!(%peer, %error, "mux.cool ended");
        }
    }
}

/// A new connection, with its place among those allowed.
struct Accepted {
    stream: Stream,
    peer: SocketAddr,
    room: OwnedSemaphorePermit,
}

impl Accepted {
    /// Frees the box before the flow begins; taken apart where it is awaited, it would stay until the end.
    #[allow(clippy::boxed_local, reason = "the box is what is to go")]
    fn apart(begun: Box<(Self, Place)>) -> (Stream, SocketAddr, OwnedSemaphorePermit, Place) {
        let (accepted, place) = *begun;
        (accepted.stream, accepted.peer, accepted.room, place)
    }
}

/// Errors of a connection that went away before it was accepted.
fn is_passing(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted
    )
}

/// The job of serving a packet socket.
pub(super) fn packets<I: PacketInbound, O: PacketOutbound>(
    relay: Arc<Relay<I, O>>,
    socket: std::net::UdpSocket,
    options: UdpOptions,
) -> Job {
    Box::new(move |shared| {
        let Shared { phase, drained } = shared;
        // Datagrams have no end to wait for: only the phase ends this.
        drop(drained);
        Box::pin(async move {
            let mut phase = phase;
            let served = async {
                let socket = Socket::new(socket.into(), options)?;
                relay.serve(Arc::new(socket)).await
            };
            tokio::select! {
                _ = async { phase.wait_for(|phase| *phase == Phase::Stop).await.is_ok() } => {}
                result = served => if let Err(error) = result {
                    tracing::error!(%error, "a datagram socket failed");
                },
            }
        })
    })
}
