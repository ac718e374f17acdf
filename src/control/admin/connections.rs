//! Accepts connections, and ends those that take too long.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};

use super::access::Access;
use super::context::{Actions, Caller, Context};
use super::routes::router;
use crate::control::facts::Facts;
use crate::limits::{ADMIN_CONNECTION_TIME, ADMIN_TIMEOUT, MAX_ADMIN_CONNECTIONS, MAX_HEAD};
use crate::net::listener::Acceptor;
use crate::net::multiplex::Carrier;
use crate::net::{Stream, tls};

/// How long to wait after a failed accept, when the system has no files left.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// The admin API on one address.
pub struct Server {
    router: Router,
    tls: Option<tls::Server>,
}

/// A connection that is served.
struct Running {
    task: AbortHandle,
    is_known: Arc<AtomicBool>,
}

impl Server {
    /// `token`: what callers must send.
    #[must_use]
    pub fn new(
        token: Option<&str>,
        tls: Option<tls::Server>,
        facts: Facts,
        actions: Actions,
    ) -> Self {
        let context = Context {
            access: Access::new(token),
            facts,
            actions,
        };
        let router = router(Arc::new(context));
        Self { router, tls }
    }

    /// Serves callers for as long as it is polled.
    pub async fn serve(self, acceptor: Acceptor) {
        let server = Arc::new(self);
        let mut tasks = JoinSet::new();
        let mut running = VecDeque::new();
        loop {
            tokio::select! {
                Some(_) = tasks.join_next() => {
                    running.retain(|one: &Running| !one.task.is_finished());
                }
                accepted = acceptor.accept() => {
                    let Ok((stream, peer)) = accepted else {
                        sleep(ACCEPT_BACKOFF).await;
                        continue;
                    };
                    make_room(&mut running);
                    let is_known = Arc::new(AtomicBool::new(false));
                    let server = Arc::clone(&server);
                    let known = Arc::clone(&is_known);
                    let task = tasks.spawn(async move {
                        server.serve_one(stream, peer, known).await;
                    });
                    running.push_back(Running { task, is_known });
                }
            }
        }
    }

    async fn serve_one(&self, stream: Stream, peer: SocketAddr, is_known: Arc<AtomicBool>) {
        let stream = match &self.tls {
            None => stream,
            Some(tls) => match timeout(ADMIN_TIMEOUT, tls.handshake(stream)).await {
                Ok(Ok(stream)) => stream,
                // A scanner, or a caller that speaks plain HTTP.
                _ => return,
            },
        };
        let caller = Caller {
            ip: peer.ip(),
            is_known,
        };
        let router = self.router.clone().layer(Extension(caller));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(ADMIN_TIMEOUT)
            .max_buf_size(MAX_HEAD)
            .serve_connection(
                TokioIo::new(Carrier::new(stream)),
                TowerToHyperService::new(router),
            );
        let mut connection = pin!(connection);
        tokio::select! {
            // A caller that is gone has no need of an answer.
            _ = connection.as_mut() => {}
            () = sleep(ADMIN_CONNECTION_TIME) => {
                connection.as_mut().graceful_shutdown();
                let _ = timeout(ADMIN_TIMEOUT, connection).await;
            }
        }
    }
}

/// Ends the oldest connection of a stranger, or else the oldest of all, when there are too many.
fn make_room(running: &mut VecDeque<Running>) {
    running.retain(|one| !one.task.is_finished());
    while running.len() >= MAX_ADMIN_CONNECTIONS {
        let mut callers = running.iter();
        let stranger = callers.position(|one| !one.is_known.load(Relaxed));
        if let Some(oldest) = running.remove(stranger.unwrap_or(0)) {
            oldest.task.abort();
        }
    }
}
