//! Serves the QUIC connections of a port. One socket receives for all of them, since a client may come from another address at any
//! time; the workers share the connections.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::handshakes::{ListenerId, Permit};
use super::places::Places;
use super::quic_packets::{Packets, Serve};
use super::quic_visitors::{Connection, FAREWELL, Task};
use super::room::Room;
use super::worker::{Job, ListenerService, Phase, Shared};
use crate::limits::{MAX_QUIC_WAITING, QUIC_TIMEOUT};
use crate::net::quic::{Arrival, Claim, Listener, Server, Session};
use crate::net::sampled::{self, Source};
use crate::relay::failed::{Network, Noted};
use crate::relay::tcp::{Inbound, Outbound};

/// A port.
pub(super) struct QuicService<I, O> {
    port: Arc<ListenerService<I, O>>,
    server: Arc<Server>,
    /// Serves UDP, where it is offered.
    packets: Option<Serve>,
    /// Connections whose client is authenticated.
    admitted: AtomicUsize,
    /// Those whose client is not.
    strangers: AtomicUsize,
}

impl<I: Inbound + Send + 'static, O: Outbound + Send + 'static> QuicService<I, O> {
    /// The jobs that serve a port: one that listens, to be run by the first worker, and one for each worker.
    pub(super) fn jobs(
        port: Arc<ListenerService<I, O>>,
        (server, packets): (Arc<Server>, Option<Serve>),
        claim: Claim,
        workers: usize,
    ) -> (Job, Vec<Job>) {
        let service = Arc::new(Self {
            port,
            server,
            packets,
            admitted: AtomicUsize::new(0),
            strangers: AtomicUsize::new(0),
        });
        let (served, ended) = mpsc::channel(1);
        let mut hands = Vec::new();
        let mut jobs: Vec<Job> = Vec::new();
        for _ in 0..workers.max(1) {
            let (hand, arrivals) = mpsc::channel(MAX_QUIC_WAITING);
            hands.push(hand);
            let (service, served) = (Arc::clone(&service), served.clone());
            jobs.push(Box::new(move |shared| {
                Box::pin(async move {
                    service.share(arrivals, shared).await;
                    drop(served);
                })
            }));
        }
        let listen: Job =
            Box::new(move |shared| Box::pin(service.listen(claim, (hands, ended), shared)));
        (listen, jobs)
    }

    /// Hands out connections until others serve in the place of this port, or the process ends. Connections go on to their end where
    /// the listener of the others passes on what comes for them.
    async fn listen(
        self: Arc<Self>,
        claim: Claim,
        (hands, mut ended): (Vec<mpsc::Sender<Arrival>>, mpsc::Receiver<()>),
        mut shared: Shared,
    ) {
        let listener = match self.server.listen(claim) {
            Ok(listener) => listener,
            Err(error) => {
                tracing::error!(%error, "cannot serve QUIC");
                return;
            }
        };
        tokio::select! {
            biased;
            () = shared.reached(Phase::Retire) => {}
            () = self.hand_out(&listener, &hands) => {}
            () = listener.tidy() => {}
        }
        drop(hands);
        if !shared.is_retired() || listener.is_followed().await {
            drop(shared.stop_listening());
            listener.retire();
            let open = pin!(ended.recv());
            tokio::select! {
                () = shared.reached(Phase::Stop) => {}
                () = listener.cut_off() => {}
                _ = open => {}
            }
        }
        listener.close().await;
    }

    async fn hand_out(&self, listener: &Listener, hands: &[mpsc::Sender<Arrival>]) {
        let mut next = hands.iter().cycle();
        while let Some(arrival) = listener.accept().await {
            // While many are in their handshake, a client must show that it is where it says.
            let is_loaded = self.strangers.load(Relaxed) > MAX_QUIC_WAITING;
            let arrival = match is_loaded {
                true => arrival.validated(),
                false => Some(arrival),
            };
            if let (Some(arrival), Some(hand)) = (arrival, next.next())
                && let Err(full) = hand.try_send(arrival)
            {
                // It tries again.
                full.into_inner().ignore();
            }
        }
    }

    /// Serves the connections of one worker.
    async fn share(self: Arc<Self>, mut arrivals: mpsc::Receiver<Arrival>, mut shared: Shared) {
        let mut connections = JoinSet::new();
        let id = self.port.handshakes.listener();
        let mut stop = shared.clone();
        drop(stop.stop_listening());
        let mut stop = pin!(stop.reached(Phase::Stop));
        loop {
            tokio::select! {
                biased;
                () = &mut stop => return,
                Some(_) = connections.join_next() => {}
                arrival = arrivals.recv() => match arrival {
                    Some(arrival) => self.spawn(&mut connections, arrival, id, shared.clone()),
                    None => break,
                },
            }
        }
        drop(shared.stop_listening());
        let ended = async { while connections.join_next().await.is_some() {} };
        tokio::select! {
            () = stop => {}
            () = ended => {}
        }
    }

    fn spawn(
        self: &Arc<Self>,
        connections: &mut JoinSet<()>,
        arrival: Arrival,
        listener: ListenerId,
        mut shared: Shared,
    ) {
        let permit = self.port.handshakes.begin(listener);
        let id = permit.id();
        drop(shared.stop_listening());
        let counted = Counted::stranger(Arc::clone(self));
        let task = match self.port.room {
            Room::Users(_) => connections.spawn(Box::pin(counted.serve(arrival, permit, shared))),
            Room::Visitors(_) => {
                let own = Task::default();
                let seat = (Arc::clone(&own), listener, permit);
                let served = counted.serve_visitors(arrival, seat, shared);
                let task = connections.spawn(Box::pin(served));
                let _ = own.set(task.clone());
                task
            }
        };
        self.port.handshakes.attach(id, task);
    }

    fn failed(&self, peer: std::net::SocketAddr, error: &io::Error) {
        let status = match error.kind() {
            io::ErrorKind::ConnectionReset => "handshake_end",
            _ => "transport",
        };
        let counters = &self.port.service.counters;
        counters.fail(status);
        counters.note(&Noted::handshake(Network::Udp, peer, status, error));
        sampled::debug!(by Source(peer.ip()), "the handshake of QUIC failed", %peer, %error);
    }
}

/// A connection that is counted: as that of a stranger, and as that of a client when it is authenticated.
struct Counted<I, O> {
    service: Arc<QuicService<I, O>>,
    is_admitted: bool,
}

impl<I, O> Counted<I, O> {
    fn stranger(service: Arc<QuicService<I, O>>) -> Self {
        service.strangers.fetch_add(1, Relaxed);
        Self {
            service,
            is_admitted: false,
        }
    }

    /// Counts it as a client's. Returns how many others there are.
    fn admit(&mut self) -> usize {
        self.is_admitted = true;
        self.service.strangers.fetch_sub(1, Relaxed);
        self.service.admitted.fetch_add(1, Relaxed)
    }
}

impl<I, O> Drop for Counted<I, O> {
    fn drop(&mut self) {
        let count = match self.is_admitted {
            true => &self.service.admitted,
            false => &self.service.strangers,
        };
        count.fetch_sub(1, Relaxed);
    }
}

impl<I: Inbound + Send + 'static, O: Outbound + Send + 'static> Counted<I, O> {
    /// Serves one connection to its end.
    async fn serve(self, arrival: Arrival, permit: Permit, shared: Shared) {
        let port = Arc::clone(&self.service.port);
        let peer = arrival.peer();
        let deadline = Instant::now() + port.service.timeouts.handshake;
        let enter = async {
            let place = port.room.enter().await;
            Ok((place, arrival.accept().await?))
        };
        let entered = timeout_at(deadline, enter).await;
        match entered.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            Ok((_place, session)) => self.streams(&session, permit, deadline, shared).await,
            Err(error) => self.service.failed(peer, &error),
        }
    }

    /// The same for visitors.
    async fn serve_visitors(
        self,
        arrival: Arrival,
        (task, listener, permit): (Task, ListenerId, Permit),
        shared: Shared,
    ) {
        let peer = arrival.peer();
        let connection = Connection {
            port: Arc::clone(&self.service.port),
            listener,
            task,
            others: self.service.strangers.load(Relaxed),
        };
        if let Err(error) = connection.serve(arrival, permit, shared).await {
            self.service.failed(peer, &error);
        }
    }

    /// Serves the streams and packets. Until the first of them is authenticated, the connection is in its handshake.
    async fn streams(
        mut self,
        session: &Session,
        permit: Permit,
        deadline: Instant,
        mut shared: Shared,
    ) {
        let places = Places::new(&self.service.port.room);
        let succeeded = Arc::new(Notify::new());
        let mut packets = Packets::new(self.service.packets.clone(), Arc::clone(&succeeded));
        let mut permit = Some(permit);
        let mut flows = JoinSet::new();
        let mut used = Instant::now();
        let mut left = shared.clone();
        let mut leave = pin!(left.reached(Phase::Retire));
        let mut drain = pin!(shared.reached(Phase::Drain));
        let (mut is_leaving, mut is_draining) = (false, false);
        loop {
            let until = match &permit {
                Some(_) => deadline,
                None if is_leaving => used + FAREWELL,
                None => used + QUIC_TIMEOUT,
            };
            tokio::select! {
                () = succeeded.notified(), if permit.is_some() => {
                    permit = None;
                    session.admit(self.admit());
                    if is_leaving {
                        session.say_farewell();
                    }
                }
                () = &mut leave, if !is_leaving => {
                    (is_leaving, used) = (true, Instant::now());
                    if permit.is_none() {
                        session.say_farewell();
                    }
                }
                () = &mut drain, if !is_draining => is_draining = true,
                Some(_) = flows.join_next() => used = Instant::now(),
                () = sleep_until(until), if permit.is_some() || flows.is_empty() => {
                    if permit.is_some() || !packets.are_used() {
                        break;
                    }
                    used = Instant::now();
                }
                first = packets.first(session) => match first {
                    Ok(first) => packets.begin(session, first),
                    Err(_) => break,
                },
                stream = session.stream() => {
                    let Ok((stream, delivery)) = stream else { break };
                    let (port, places) = (Arc::clone(&self.service.port), places.clone());
                    let (is_known, succeeded) = (permit.is_none(), Arc::clone(&succeeded));
                    let peer = session.peer();
                    flows.spawn(async move {
                        if is_known {
                            places.serve(&port.service, stream, peer).await;
                        } else {
                            let ready = || succeeded.notify_one();
                            places.serve_stranger(&port.service, stream, peer, ready).await;
                        }
                        // The connection goes on until then.
                        delivery.await;
                    });
                }
            }
            if is_draining && flows.is_empty() {
                break;
            }
        }
        session.close();
        // What is left of its flows ends by the end of the connection.
        while flows.join_next().await.is_some() {}
    }
}
