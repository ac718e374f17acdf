//! What the main thread does while the workers serve: signals, orders, and the end.

use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Notify, mpsc};
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::admin;
use super::error::Error;
use super::reload::Reloader;
use super::upgrade::Successor;
use super::worker::Phase;
use crate::control::orders::Order;
use crate::control::why;
use crate::dns::Resolver;
use crate::limits::DRAIN_TIME;
use crate::net::notify::notify;
use crate::net::sampled;
use crate::net::tun::routes::AutoRoute;
use crate::relay::Counters;

/// When the new process is told again what this one has seen, after it has taken over: of datagrams, whose sessions end
/// then, and of handshakes that go on.
const TELL_AGAIN: [Duration; 3] = [
    Duration::from_millis(200),
    Duration::from_secs(2),
    Duration::from_secs(15),
];

/// The signals that the process handles.
pub(super) struct Signals {
    end: End,
    usr1: Signal,
    usr2: Signal,
    hangup: Signal,
}

/// Those that end it.
struct End {
    interrupt: Signal,
    terminate: Signal,
}

impl End {
    async fn come(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

impl Signals {
    pub(super) fn listen() -> Result<Self, Error> {
        let listen = |kind| signal(kind).map_err(Error::system("cannot listen for signals"));
        Ok(Self {
            end: End {
                interrupt: listen(SignalKind::interrupt())?,
                terminate: listen(SignalKind::terminate())?,
            },
            usr1: listen(SignalKind::user_defined1())?,
            usr2: listen(SignalKind::user_defined2())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }
}

/// What the main thread looks after.
pub(super) struct Supervisor<'a> {
    pub(super) signals: Signals,
    pub(super) reloader: &'a mut Reloader,
    pub(super) orders: mpsc::Receiver<Order>,
    /// Closed when no flow is left.
    pub(super) drain: mpsc::Receiver<()>,
    pub(super) resolver: &'a Resolver,
    pub(super) counters: &'a Counters,
    pub(super) routes: Option<&'a AutoRoute>,
    /// Tells those who answer commands that another process does it now.
    pub(super) leave: Arc<Notify>,
    pub(super) admin: Option<admin::Serving>,
}

impl Supervisor<'_> {
    /// Handles signals and orders until the process shall stop, then drains.
    pub(super) async fn run(mut self) {
        if let Some(successor) = self.serve().await {
            self.leave_to(successor).await;
        }
        self.stop().await;
        if let Some(admin) = self.admin {
            admin.end();
        }
    }

    /// Returns when the process shall stop, or when another has taken over.
    async fn serve(&mut self) -> Option<Successor> {
        loop {
            // A reload is never interrupted: it changes everything or nothing.
            tokio::select! {
                () = self.signals.end.come() => return None,
                _ = self.signals.usr1.recv() => {
                    report(self.resolver, self.counters);
                    why::log(&self.counters.failed);
                }
                // Whatever comes of it is in the log.
                _ = self.signals.hangup.recv() => drop(self.reloader.reload().await),
                _ = self.signals.usr2.recv() => {
                    if let Ok(successor) = self.upgrade().await {
                        return Some(successor);
                    }
                }
                Some(order) = self.orders.recv() => match order {
                    Order::Reload(done) => {
                        // Who asked may be gone.
                        let _ = done.send(self.reloader.reload().await);
                    }
                    Order::Add(port, done) => {
                        let _ = done.send(self.reloader.add_port(*port).await);
                    }
                    Order::Remove(port, done) => {
                        let _ = done.send(self.reloader.remove_port(port).await);
                    }
                    Order::Ports(done) => {
                        let _ = done.send(self.reloader.ports());
                    }
                    Order::Upgrade(done) => {
                        let upgraded = self.upgrade().await;
                        let told = upgraded.as_ref().map(Successor::id).map_err(String::clone);
                        let _ = done.send(told);
                        if let Ok(successor) = upgraded {
                            return Some(successor);
                        }
                    }
                },
                () = self.reloader.file_changed() => self.reloader.read_changed().await,
            }
        }
    }

    /// Starts a process that takes over. Until it is ready, this one serves as before.
    async fn upgrade(&mut self) -> Result<Successor, String> {
        tracing::info!("upgrade: starting the new process");
        let started = match self.reloader.sockets_to_leave() {
            Ok(sockets) => {
                let started = spawn_blocking(move || Successor::start(&sockets)).await;
                started.unwrap_or_else(|_| Err("it was interrupted".to_owned()))
            }
            Err(reason) => Err(reason),
        };
        if let Err(reason) = &started {
            tracing::error!(%reason, "upgrade: the new process does not take over; this one goes on");
        }
        started
    }

    /// Closes the sockets, lets `successor` serve, and waits until the last connection has ended.
    async fn leave_to(&mut self, mut successor: Successor) {
        let pid = successor.id();
        self.leave.notify_one();
        if let Some(admin) = self.admin.take() {
            admin.end();
        }
        let quic = match successor.passes_quic() {
            true => self.reloader.quic().leave(),
            false => Vec::new(),
        };
        self.reloader.running.leave().await;
        let seen = self.reloader.seen();
        let told = spawn_blocking(move || {
            let told = successor.tell(&seen);
            let told = told.and_then(|()| successor.leave_quic(&quic));
            let told = told.and_then(|()| successor.go());
            (told, successor)
        });
        let Ok((told, successor)) = told.await else {
            return;
        };
        if let Err(error) = told {
            tracing::error!(%error, "upgrade: the new process is gone; nobody accepts connections any more");
            return;
        }
        notify(&format!("MAINPID={pid}"));
        let Some((mut successor, flows)) = self.move_flows(successor).await else {
            return;
        };
        tracing::info!(
            pid,
            flows,
            "upgrade: the new process serves; this one ends with its last connection"
        );
        self.reloader.running.close();
        for pause in TELL_AGAIN {
            tokio::select! {
                () = sleep(pause) => {}
                _ = self.drain.recv() => {}
                () = self.signals.end.come() => return,
            }
            let seen = self.reloader.seen();
            let told = spawn_blocking(move || {
                // If it is gone already, it has no use for this.
                let _ = successor.tell(&seen);
                successor
            });
            match told.await {
                Ok(again) => successor = again,
                Err(_) => return,
            }
            if self.drain.is_closed() {
                return;
            }
        }
        tokio::select! {
            _ = self.drain.recv() => {}
            () = self.signals.end.come() => {}
        }
    }

    /// Passes on the flows that can move. Returns how many they were.
    async fn move_flows(&mut self, mut successor: Successor) -> Option<(Successor, usize)> {
        let moved = spawn_blocking(move || {
            let (taken, staying) = successor.move_flows();
            (successor, taken, staying)
        });
        let (successor, taken, staying) = moved.await.ok()?;
        if let Some(mut adopter) = self.reloader.adopter() {
            for flow in staying {
                adopter.adopt(Box::new(flow)).await;
            }
        }
        Some((successor, taken))
    }

    async fn stop(&mut self) {
        let seconds = DRAIN_TIME.as_secs();
        tracing::info!(
            seconds,
            "stopping: no new connections are accepted; open ones may finish"
        );
        // Of a process that another has taken over from, systemd takes no notice.
        notify("STOPPING=1");
        if let Some(routes) = self.routes {
            routes.release().await;
        }
        let running = &mut self.reloader.running;
        running.close();
        running.reach(Phase::Drain);
        tokio::select! {
            _ = self.drain.recv() => {}
            () = sleep(DRAIN_TIME) => tracing::info!("closing the remaining connections"),
            () = self.signals.end.come() => tracing::info!("second signal: stopping now"),
        }
        running.reach(Phase::Stop);
    }
}

/// Logs the counters: at the end, and on SIGUSR1.
pub(super) fn report(resolver: &Resolver, counters: &Counters) {
    sampled::report_all();
    tracing::info!("counters: {counters}");
    let dns = resolver.counters();
    tracing::info!(
        hits = dns.hits,
        misses = dns.misses,
        stale = dns.stale,
        joined = dns.joined,
        negative = dns.negative,
        queries = dns.queries,
        failures = dns.failures,
        timeouts = dns.timeouts,
        evicted = dns.evicted,
        entries = dns.entries,
        "dns counters"
    );
}
