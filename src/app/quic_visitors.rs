//! Serves a QUIC connection of a forward's client, who is not authenticated. Each of its streams is one visitor, as a TCP connection
//! would be: it takes a place among `limits.visitors`. The connection itself takes none; without streams it is in its handshake, and
//! makes room for others first.

use std::io;
use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::handshakes::{ListenerId, Permit};
use super::worker::{ListenerService, Phase, Shared};
use crate::limits::QUIC_TIMEOUT;
use crate::net::quic::{Arrival, Session};
use crate::relay::tcp::{Inbound, Outbound};

/// How long a connection without flows goes on after others have taken the place of its port. The client was told, and closes it.
pub(super) const FAREWELL: Duration = Duration::from_secs(5);

/// Lets a connection be ended while it has no streams: its task, once it is known.
pub(super) type Task = Arc<OnceLock<AbortHandle>>;

/// A connection of visitors.
pub(super) struct Connection<I, O> {
    pub(super) port: Arc<ListenerService<I, O>>,
    pub(super) listener: ListenerId,
    pub(super) task: Task,
    /// How many other connections the port has.
    pub(super) others: usize,
}

impl<I: Inbound + Send + 'static, O: Outbound + Send + 'static> Connection<I, O> {
    /// Serves the connection to its end.
    ///
    /// # Errors
    /// When its handshake fails.
    pub(super) async fn serve(
        self,
        arrival: Arrival,
        permit: Permit,
        shared: Shared,
    ) -> io::Result<()> {
        let deadline = Instant::now() + self.port.service.timeouts.handshake;
        let accepted = timeout_at(deadline, arrival.accept()).await;
        let session = accepted.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
        self.streams(&session, permit, deadline, shared).await;
        Ok(())
    }

    async fn streams(
        self,
        session: &Session,
        permit: Permit,
        deadline: Instant,
        mut shared: Shared,
    ) {
        let mut flows = JoinSet::new();
        // What has ended and is on its way to the client still.
        let mut deliveries = JoinSet::new();
        let (mut waiting, mut until) = (Some(permit), deadline);
        let mut left = shared.clone();
        let mut leave = pin!(left.reached(Phase::Retire));
        let mut drain = pin!(shared.reached(Phase::Drain));
        let (mut idle, mut is_leaving, mut is_draining) = (QUIC_TIMEOUT, false, false);
        loop {
            tokio::select! {
                () = &mut leave, if !is_leaving => {
                    (is_leaving, idle) = (true, FAREWELL);
                    until = until.min(Instant::now() + idle);
                    session.say_farewell();
                }
                () = &mut drain, if !is_draining => is_draining = true,
                Some(_) = flows.join_next() => if flows.is_empty() {
                    until = Instant::now() + idle;
                    waiting = Some(self.wait());
                },
                Some(_) = deliveries.join_next() => {}
                () = sleep_until(until), if waiting.is_some() => break,
                stream = session.stream(), if !is_draining => {
                    let Ok((stream, delivery)) = stream else { break };
                    deliveries.spawn(delivery);
                    if waiting.is_some() {
                        // Streams come when the handshake is over: the client is where it says.
                        session.admit(self.others);
                    }
                    let place = self.port.room.enter().await;
                    self.port.spawn(&mut flows, (stream, session.peer(), place), self.listener);
                    waiting = None;
                }
            }
            if is_draining && flows.is_empty() && deliveries.is_empty() {
                break;
            }
        }
        session.close();
        drop(waiting);
        // What is left of its flows ends by the end of the connection.
        while flows.join_next().await.is_some() {}
    }

    /// The connection has no streams.
    fn wait(&self) -> Permit {
        let permit = self.port.handshakes.begin(self.listener);
        if let Some(task) = self.task.get() {
            self.port.handshakes.attach(permit.id(), task.clone());
        }
        permit
    }
}
