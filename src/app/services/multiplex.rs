//! The sessions of sing-box's `multiplex` on a server.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::timeout;

use crate::app::places::Places;
use crate::app::room::Room;
use crate::app::worker::{Job, Phase, Shared};
use crate::inbound::multiplex::MultiplexStreams;
use crate::net::{Stream, multiplex};
use crate::relay::plain::plain;
use crate::relay::tcp::{Leg, Outbound, Service, Timeouts};
use crate::relay::{Counters, Error, Side, User};
use crate::wire::multiplex::Head;

/// Serves the sessions of one server's clients. Each stream in them is an ordinary request of the client's user.
pub(super) struct Sessions<O> {
    outbound: Arc<O>,
    settings: Settings,
}

/// What the sessions of one server share.
pub(super) struct Settings {
    pub(super) timeouts: Timeouts,
    pub(super) counters: Arc<Counters>,
    pub(super) room: Room,
    /// Whether sessions without streams are to end.
    pub(super) draining: watch::Receiver<bool>,
}

impl<O: Outbound + Send + 'static> Sessions<O> {
    pub(super) fn new(outbound: O, settings: Settings) -> Self {
        Self {
            outbound: Arc::new(outbound),
            settings,
        }
    }

    /// Serves a session to its end.
    pub(super) async fn serve(
        self: Arc<Self>,
        leg: Leg,
        peer: SocketAddr,
        user: Option<Arc<User>>,
    ) -> Result<(), Error> {
        let stream = plain(leg);
        let head = timeout(self.settings.timeouts.handshake, read_head(&stream)).await;
        let head = head.map_err(|_| Error::HandshakeTimeout)??;
        let name = user.as_ref().and_then(|user| user.name());
        tracing::debug!(%peer, user = name, protocol = head.protocol.name(), padding = head.padding, "multiplex: session is up");
        let service = Arc::new(Service {
            inbound: MultiplexStreams { user },
            outbound: Arc::clone(&self.outbound),
            timeouts: self.settings.timeouts,
            counters: Arc::clone(&self.settings.counters),
        });
        let places = Places::new(&self.settings.room);
        let serve = |stream| {
            let (service, places) = (Arc::clone(&service), places.clone());
            async move { places.serve(&service, stream, peer).await }
        };
        let (idle, draining) = (self.settings.timeouts.idle, self.settings.draining.clone());
        let served = Box::pin(multiplex::serve(stream, head, idle, draining, serve));
        served.await.map_err(Error::io(Side::Client))
    }
}

/// Reads the head of a session, and no byte more.
async fn read_head(stream: &Stream) -> Result<Head, Error> {
    let mut bytes = Vec::new();
    loop {
        let parsed = Head::parse(&bytes).map_err(|source| Error::Wire {
            side: Side::Client,
            source,
        })?;
        if let Some((head, _)) = parsed {
            return Ok(head);
        }
        let mut byte = [0];
        match stream.read(&mut byte).await {
            Ok(0) => return Err(Error::HandshakeEnd),
            Ok(_) => bytes.extend(byte),
            Err(error) => return Err(Error::io(Side::Client)(error)),
        }
    }
}

/// Turns true when the service accepts nothing new any more, by the job that is returned.
pub(super) fn draining() -> (watch::Receiver<bool>, Job) {
    at_the_end(|_| true)
}

/// Turns true when others serve in the place of this service, by the job that is returned; not when the process stops.
pub(super) fn retired() -> (watch::Receiver<bool>, Job) {
    at_the_end(Shared::is_retired)
}

/// Is what `sign` says when the service accepts nothing new any more.
fn at_the_end(sign: fn(&Shared) -> bool) -> (watch::Receiver<bool>, Job) {
    let (sender, receiver) = watch::channel(false);
    let job: Job = Box::new(
        move |mut shared| -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>> {
            Box::pin(async move {
                shared.reached(Phase::Retire).await;
                sender.send_replace(sign(&shared));
            })
        },
    );
    (receiver, job)
}
