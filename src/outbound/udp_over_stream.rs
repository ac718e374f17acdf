//! Packets inside streams ([`crate::wire::udp_over_stream`]): how a client sends them, and how a server takes them.

use std::future::pending;
use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::direct::Direct;
use super::endpoint::Endpoint;
use crate::limits::{MAX_UDP_STREAMS, UDP_STREAM_BUFFER, UDP_STREAM_WINDOW};
use crate::net::dial::SpeaksFirst;
use crate::net::pipe::pair;
use crate::net::tasks::Tasks;
use crate::net::udp::Socket;
use crate::relay::failed::Way;
use crate::relay::tcp::{FixedTarget, Leg, Outbound, Request, Service, Timeouts};
use crate::relay::udp::over_stream::{Closed, exchange};
use crate::relay::udp::{PacketInbound, PacketOutbound, Relay};
use crate::relay::{Counters, Error};
use crate::wire::Address;
use crate::wire::reserved::Reserved;
use crate::wire::udp_over_stream::{NAME, PORT};

/// The pause before a stream that broke is replaced.
const RECONNECT_PAUSE: Duration = Duration::from_secs(1);
/// Why no stream is opened or taken beyond [`MAX_UDP_STREAMS`].
const TOO_MANY: &str = "too many UDP associations over streams";

/// Settings of the streams that carry a client's packets.
#[derive(Clone)]
pub struct UdpOverStream {
    /// Time limits of each stream.
    pub timeouts: Timeouts,
    /// How long a stream stays without a packet.
    pub idle: Duration,
    /// Counts the streams.
    pub counters: Arc<Counters>,
}

impl UdpOverStream {
    /// The socket of a new association, whose packets one of `tasks` carries to the server at `endpoint`.
    pub(super) fn socket(&self, endpoint: &Arc<Endpoint>, tasks: &Tasks) -> io::Result<Socket> {
        let (association, carried) = Socket::pair();
        let carrier = Carrier {
            endpoint: Arc::clone(endpoint),
            settings: self.clone(),
        };
        tasks
            .try_spawn(MAX_UDP_STREAMS, carrier.run(carried))
            .map(|_| association)
            .ok_or_else(|| io::Error::other(TOO_MANY))
    }
}

/// Carries the packets of one association.
struct Carrier {
    endpoint: Arc<Endpoint>,
    settings: UdpOverStream,
}

impl Carrier {
    /// Carries packets until the association ends, in one stream after another if they break.
    async fn run(self, socket: Socket) {
        let (idle, timeouts) = (self.settings.idle, self.settings.timeouts);
        let service = Service {
            inbound: FixedTarget(Address::Domain(NAME.into(), PORT)),
            counters: Arc::clone(&self.settings.counters),
            outbound: self,
            timeouts,
        };
        let peer = (Ipv4Addr::LOCALHOST, 0).into();
        // A stream is opened only when a packet waits for it.
        while matches!(timeout(idle, socket.readable()).await, Ok(Ok(()))) {
            let (stream, pipe) = pair(UDP_STREAM_WINDOW, UDP_STREAM_BUFFER);
            let served = Box::pin(async {
                service.serve(stream, peer, || ()).await;
                // The exchange ends by itself, when it has taken what is left in the pipe.
                pending().await
            });
            let closed = tokio::select! {
                closed = exchange(pipe, &socket, idle) => closed,
                closed = served => closed,
            };
            if closed != Closed::Stream {
                return;
            }
            sleep(RECONNECT_PAUSE).await;
        }
    }
}

impl Outbound for Carrier {
    fn may_confirm_early(&self, _: &Request) -> bool {
        false
    }

    async fn connect(&self, request: &Request) -> Result<Leg, Error> {
        let stream = self.endpoint.dial(SpeaksFirst::Us).await?;
        Ok(self.endpoint.leg(stream, request.target.as_ref()))
    }

    fn way(&self, _: Option<&Address>, _: Option<&str>) -> Way {
        Way {
            server: Some(self.endpoint.address.to_string()),
            ..Way::default()
        }
    }
}

/// Connects to targets like [`Direct`], and connects the reserved target to the server's own packet relay.
pub struct DirectWithPackets<I: PacketInbound, O> {
    direct: Direct,
    relay: Arc<Relay<I, O>>,
    /// How long a stream of packets stays without any.
    idle: Duration,
    tasks: Tasks,
}

impl<I: PacketInbound, O: PacketOutbound> DirectWithPackets<I, O> {
    /// For the server whose packets `relay` serves.
    #[must_use]
    pub fn new(direct: Direct, relay: Arc<Relay<I, O>>, idle: Duration) -> Self {
        Self {
            direct,
            relay,
            idle,
            tasks: Tasks::default(),
        }
    }
}

impl<I: PacketInbound, O: PacketOutbound> Outbound for DirectWithPackets<I, O> {
    fn may_confirm_early(&self, request: &Request) -> bool {
        self.direct.may_confirm_early(request)
    }

    fn offers(&self, reserved: Reserved) -> bool {
        reserved == Reserved::Packets
    }

    async fn connect(&self, request: &Request) -> Result<Leg, Error> {
        if request.reserved() != Some(Reserved::Packets) {
            return self.direct.connect(request).await;
        }
        let (stream, pipe) = pair(UDP_STREAM_WINDOW, UDP_STREAM_BUFFER);
        let (server, client) = Socket::pair();
        let (relay, idle) = (Arc::clone(&self.relay), self.idle);
        let started = self.tasks.try_spawn(MAX_UDP_STREAMS, async move {
            let exchanged = async move { exchange(pipe, &client, idle).await };
            let _ = tokio::join!(exchanged, relay.serve(Arc::new(server)));
        });
        started
            .map(|_| Leg::plain(stream))
            .ok_or(Error::Overloaded(TOO_MANY))
    }

    fn way(&self, target: Option<&Address>, user: Option<&str>) -> Way {
        self.direct.way(target, user)
    }
}
