//! The places of many streams in one connection among `limits.connections`.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use tokio::sync::{Notify, Semaphore};

use crate::net::Stream;
use crate::net::sampled::{self, Source};
use crate::relay::tcp::{Inbound, Outbound, Service};

/// Each stream needs a place from when its handshake has succeeded. The first uses that of the connection.
#[derive(Clone)]
pub(super) struct Places {
    own: Arc<Semaphore>,
    connections: Arc<Semaphore>,
}

impl Places {
    pub(super) fn new(connections: &Arc<Semaphore>) -> Self {
        Self {
            own: Arc::new(Semaphore::new(1)),
            connections: Arc::clone(connections),
        }
    }

    /// Serves a stream to its end, or closes it when there is no place: waiting could hold up the streams beside it. `ready`
    /// is called when its handshake has succeeded.
    pub(super) async fn serve<I: Inbound, O: Outbound>(
        &self,
        service: &Service<I, O>,
        stream: Stream,
        peer: SocketAddr,
        ready: impl FnOnce() + Send,
    ) {
        let (place, no_place) = (OnceLock::new(), Notify::new());
        let ready = || {
            ready();
            let own = Arc::clone(&self.own).try_acquire_owned();
            let other = |_| Arc::clone(&self.connections).try_acquire_owned();
            match own.or_else(other) {
                Ok(permit) => drop(place.set(permit)),
                Err(_) => no_place.notify_one(),
            }
        };
        tokio::select! {
            () = service.serve(stream, peer, ready) => {}
            () = no_place.notified() => sampled::debug!(by Source(peer.ip()), "a stream was closed: `limits.connections` is reached", %peer),
        }
    }
}
