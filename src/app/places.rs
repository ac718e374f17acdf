//! The places of many streams in one connection among `limits.connections`.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use super::room::{Place, Room};
use crate::net::Stream;
use crate::net::sampled::{self, Source};
use crate::relay::tcp::{Inbound, Outbound, Service};

/// Each stream needs a place. The first uses that of the connection.
#[derive(Clone)]
pub(super) struct Places {
    own: Arc<Semaphore>,
    room: Room,
}

/// What a stream holds: the place of its connection, or one of its own.
enum Held {
    Own(#[allow(dead_code, reason = "it is dropped")] OwnedSemaphorePermit),
    Other(#[allow(dead_code, reason = "it is dropped")] Place),
}

impl Places {
    pub(super) fn new(room: &Room) -> Self {
        Self {
            own: Arc::new(Semaphore::new(1)),
            room: room.clone(),
        }
    }

    fn take(&self) -> Option<Held> {
        match Arc::clone(&self.own).try_acquire_owned() {
            Ok(own) => Some(Held::Own(own)),
            Err(_) => self.room.try_enter().map(Held::Other),
        }
    }

    /// Serves a stream of an authenticated client to its end, or closes it when there is no place: waiting could hold up the
    /// streams beside it. It needs the place before it has sent its request.
    pub(super) async fn serve<I: Inbound, O: Outbound>(
        &self,
        service: &Service<I, O>,
        stream: Stream,
        peer: SocketAddr,
    ) {
        match self.take() {
            Some(_held) => service.serve(stream, peer, || ()).await,
            None => refused(peer),
        }
    }

    /// The same for a client that is not authenticated: the place is needed when the handshake has succeeded, and `ready` is
    /// called then.
    pub(super) async fn serve_stranger<I: Inbound, O: Outbound>(
        &self,
        service: &Service<I, O>,
        stream: Stream,
        peer: SocketAddr,
        ready: impl FnOnce() + Send,
    ) {
        let (place, no_place) = (OnceLock::new(), Notify::new());
        let ready = || {
            ready();
            match self.take() {
                Some(held) => drop(place.set(held)),
                None => no_place.notify_one(),
            }
        };
        tokio::select! {
            () = service.serve(stream, peer, ready) => {}
            () = no_place.notified() => refused(peer),
        }
    }
}

fn refused(peer: SocketAddr) {
    sampled::debug!(by Source(peer.ip()), "a stream was closed: `limits.connections` is reached", %peer);
}
