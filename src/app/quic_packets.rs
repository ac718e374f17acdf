//! The packets of UDP associations in QUIC connections.

use std::future::{Future, pending};
use std::io;
use std::pin::Pin;
use std::sync::Arc;

use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::net::alive::Limit;
use crate::net::quic::{Arrived, Session};
use crate::net::udp::Socket;
use crate::relay::udp::{PacketInbound, PacketOutbound, Relay};

/// Serves the packets of connections, each by the socket inside the process that they come through.
pub(super) type Serve = Arc<dyn Fn(Socket) -> Serving + Send + Sync>;

type Serving = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Has `relay` serve the packets of connections.
pub(super) fn served_by<I: PacketInbound, O: PacketOutbound>(relay: Arc<Relay<I, O>>) -> Serve {
    Arc::new(move |socket| {
        let relay = Arc::clone(&relay);
        Box::pin(async move {
            if let Err(error) = relay.serve_connection(Arc::new(socket)).await {
                tracing::debug!(%error, "the packets of a QUIC connection are not served any more");
            }
        })
    })
}

/// The packets of one connection.
pub(super) struct Packets {
    /// `None`: they are not offered, or served already.
    serve: Option<Serve>,
    /// Is told that a packet was authenticated.
    authenticated: Arc<Notify>,
    associations: Option<Limit>,
    /// One at most. It ends with this, and so do the associations.
    task: JoinSet<()>,
}

impl Packets {
    pub(super) fn new(serve: Option<Serve>, authenticated: Arc<Notify>) -> Self {
        Self {
            serve,
            authenticated,
            associations: None,
            task: JoinSet::new(),
        }
    }

    /// Waits for the first packet, if it is to be served. Cancel safe.
    pub(super) async fn first(&self, session: &Session) -> io::Result<Arrived> {
        match self.serve {
            Some(_) => session.packet().await,
            None => pending().await,
        }
    }

    /// Serves what comes, beginning with `first`.
    pub(super) fn begin(&mut self, session: &Session, first: Arrived) {
        let Some(serve) = self.serve.take() else {
            return;
        };
        let (socket, associations, receiving) =
            session.packets(first, Arc::clone(&self.authenticated));
        self.associations = Some(associations);
        let served = serve(socket);
        self.task.spawn(async move {
            tokio::join!(receiving, served);
        });
    }

    /// Whether there are associations.
    pub(super) fn are_used(&self) -> bool {
        let associations = self.associations.as_ref();
        associations.is_some_and(|associations| associations.count() > 0)
    }
}
