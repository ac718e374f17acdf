//! Datagrams inside streams: how a client sends them, and how a server takes them. There are two kinds: sealed packets
//! ([`crate::wire::udp_over_stream`]) and plain datagrams ([`crate::wire::udp_over_tcp`]).

use std::future::pending;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::direct::Direct;
use super::endpoint::Endpoint;
use super::multiplex::Sessions;
use super::quic_packets;
use crate::limits::{MAX_UDP_STREAMS, UDP_STREAM_BUFFER, UDP_STREAM_WINDOW};
use crate::net::dial::SpeaksFirst;
use crate::net::pipe::{Pipe, pair};
use crate::net::quic;
use crate::net::tasks::Tasks;
use crate::net::udp::{Socket, Switched};
use crate::relay::failed::{Asked, Way};
use crate::relay::tcp::{FixedTarget, Leg, Outbound, Request, Service, Timeouts};
use crate::relay::udp::over_stream::{Closed, Framing, exchange, read_request};
use crate::relay::udp::{PacketInbound, PacketOutbound, Relay, StreamClient};
use crate::relay::{Counters, Error, User};
use crate::wire::reserved::Reserved;
use crate::wire::udp_over_stream::{NAME, PORT};
use crate::wire::udp_over_tcp::{Frames, Version};
use crate::wire::{self, Address, multiplex};

/// The pause before a stream that broke is replaced.
const RECONNECT_PAUSE: Duration = Duration::from_secs(1);
/// Why no stream is opened or taken beyond [`MAX_UDP_STREAMS`].
const TOO_MANY: &str = "too many UDP associations over streams";

/// What a client sends in streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carried {
    /// The packets that it would send by UDP.
    Packets,
    /// The same packets, each in a datagram of a QUIC connection.
    QuicDatagrams,
    /// Datagrams as they are, by this version of UDP over TCP.
    Datagrams(Version),
    /// Datagrams of a stream in a session of sing-box's `multiplex`.
    Multiplexed,
}

impl Carried {
    /// The reserved target of the streams.
    fn target(self) -> Address {
        match self {
            Self::Packets | Self::QuicDatagrams => Address::Domain(NAME.into(), PORT),
            // As sing-box has it; servers do not look at the port.
            Self::Datagrams(version) => Address::Domain(version.target().into(), 0),
            Self::Multiplexed => Address::Domain(multiplex::HOST.into(), multiplex::PORT),
        }
    }

    /// How a new stream begins.
    const fn framing(self) -> Framing {
        match self {
            Self::Packets | Self::QuicDatagrams => Framing::Packets,
            Self::Datagrams(version) => Framing::Datagrams {
                frames: Frames::Addressed,
                request: matches!(version, Version::V2),
            },
            // The request is that of a stream in a session.
            Self::Multiplexed => Framing::Datagrams {
                frames: Frames::Socks,
                request: true,
            },
        }
    }
}

/// Settings of the streams that carry a client's datagrams.
#[derive(Clone)]
pub struct UdpOverStream {
    /// What is sent in them.
    pub carried: Carried,
    /// Time limits of each stream.
    pub timeouts: Timeouts,
    /// How long a stream stays without a datagram.
    pub idle: Duration,
    /// Counts the streams.
    pub counters: Arc<Counters>,
}

impl UdpOverStream {
    /// The socket of a new association, whose datagrams one of `tasks` carries to the server at `endpoint`; in `sessions`
    /// if streams share them.
    pub(super) fn socket(
        &self,
        endpoint: &Arc<Endpoint>,
        sessions: Option<&Arc<Sessions>>,
        tasks: &Tasks,
    ) -> io::Result<Socket> {
        let (association, carried) = match self.carried {
            Carried::QuicDatagrams => {
                let (association, ends) = Socket::switched();
                (association, Ends::Switched(ends))
            }
            _ => {
                let (association, carried) = Socket::pair();
                (association, Ends::Plain(carried))
            }
        };
        let carrier = Carrier {
            endpoint: Arc::clone(endpoint),
            sessions: sessions.map(Arc::clone),
            settings: self.clone(),
        };
        tasks
            .try_spawn(MAX_UDP_STREAMS, carrier.run(carried))
            .map(|_| association)
            .ok_or_else(|| io::Error::other(TOO_MANY))
    }
}

/// The other end of an association's socket.
enum Ends {
    Plain(Socket),
    /// The association can be given another way out.
    Switched(Switched),
}

impl Ends {
    const fn socket(&self) -> &Socket {
        match self {
            Self::Plain(socket) => socket,
            Self::Switched(ends) => ends.socket(),
        }
    }
}

/// Carries the datagrams of one association.
struct Carrier {
    endpoint: Arc<Endpoint>,
    sessions: Option<Arc<Sessions>>,
    settings: UdpOverStream,
}

impl Carrier {
    /// Carries datagrams until the association ends, in one stream after another if they break.
    async fn run(self, ends: Ends) {
        let socket = ends.socket();
        let endpoint = Arc::clone(&self.endpoint);
        let (idle, timeouts) = (self.settings.idle, self.settings.timeouts);
        let carried = self.settings.carried;
        let service = Service {
            inbound: FixedTarget(carried.target()),
            counters: Arc::clone(&self.settings.counters),
            outbound: self,
            timeouts,
        };
        let peer = (Ipv4Addr::LOCALHOST, 0).into();
        // A stream is opened only when a datagram waits for it.
        while matches!(timeout(idle, socket.readable()).await, Ok(Ok(()))) {
            if let (Ends::Switched(ends), Some(quic)) = (&ends, &endpoint.quic) {
                match Box::pin(quic_packets::carry(&endpoint, quic, ends)).await {
                    Some(quic::Carried::Association) => return,
                    Some(quic::Carried::Connection) => {
                        sleep(RECONNECT_PAUSE).await;
                        continue;
                    }
                    Some(quic::Carried::Doubt) => continue,
                    // The network blocks UDP: they go in streams as over TCP.
                    None => {}
                }
            }
            let (stream, pipe) = pair(UDP_STREAM_WINDOW, UDP_STREAM_BUFFER);
            let served = Box::pin(async {
                service.serve(stream, peer, || ()).await;
                // The exchange ends by itself, when it has taken what is left in the pipe.
                pending().await
            });
            let closed = tokio::select! {
                closed = exchange(pipe, socket, carried.framing(), idle) => closed,
                closed = served => closed,
            };
            match closed {
                Closed::Stream => {}
                Closed::Invalid(error) => {
                    tracing::debug!(%error, "the server sent an invalid datagram in a stream");
                }
                Closed::Socket | Closed::Idle => return,
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
        if let Some(sessions) = &self.sessions {
            let opened = sessions.open().await?;
            return Ok(sessions.packet_leg(opened));
        }
        let stream = self.endpoint.dial(SpeaksFirst::Us).await?;
        Ok(self.endpoint.leg(stream, request.target.as_ref()))
    }

    fn way(&self, _: &Asked<'_>) -> Way {
        Way {
            server: Some(self.endpoint.address.to_string()),
            ..Way::default()
        }
    }
}

/// Connects to targets like [`Direct`], and connects reserved targets to the server's own packet relay.
pub struct DirectWithPackets<I: PacketInbound, O> {
    direct: Direct,
    relay: Arc<Relay<I, O>>,
    /// Whether streams of sealed packets are offered too.
    packets: bool,
    /// How long a stream of datagrams stays without any.
    idle: Duration,
    tasks: Tasks,
}

impl<I: PacketInbound<Batch: From<StreamClient>>, O: PacketOutbound> DirectWithPackets<I, O> {
    /// For the server whose datagrams `relay` serves.
    #[must_use]
    pub fn new(direct: Direct, relay: Arc<Relay<I, O>>, packets: bool, idle: Duration) -> Self {
        Self {
            direct,
            relay,
            packets,
            idle,
            tasks: Tasks::default(),
        }
    }

    /// Serves the stream behind `pipe` as `carried`, for the client of `request`.
    fn serve(&self, pipe: Pipe, carried: Carried, request: &Request) -> bool {
        let (relay, idle) = (Arc::clone(&self.relay), self.idle);
        let (user, peer) = (request.user.clone(), request.peer);
        let started = self.tasks.try_spawn(MAX_UDP_STREAMS, async move {
            match carried {
                Carried::Packets | Carried::QuicDatagrams => {
                    let (server, client) = Socket::pair();
                    let exchanged =
                        async move { exchange(pipe, &client, Framing::Packets, idle).await };
                    let _ = tokio::join!(exchanged, relay.serve(Arc::new(server)));
                }
                Carried::Datagrams(_) | Carried::Multiplexed => {
                    let client = (peer, user);
                    let served = serve_datagrams(relay, pipe, carried, client, idle).await;
                    if let Err(error) = served {
                        let status = error.status();
                        tracing::debug!(%peer, status, %error, "a stream of UDP over TCP is invalid");
                    }
                }
            }
        });
        started.is_some()
    }
}

/// Serves the datagrams of one stream to its end.
async fn serve_datagrams<I: PacketInbound<Batch: From<StreamClient>>, O: PacketOutbound>(
    relay: Arc<Relay<I, O>>,
    pipe: Pipe,
    carried: Carried,
    (client, user): (SocketAddr, Option<Arc<User>>),
    idle: Duration,
) -> Result<(), wire::Error> {
    let frames = match carried {
        Carried::Datagrams(Version::V1) => Frames::Addressed,
        // Dropping the pipe resets the stream.
        _ => match timeout(idle, read_request(&pipe)).await {
            Ok(request) => request?,
            Err(_) => return Err(wire::Error::Truncated),
        },
    };
    let frames = match frames {
        Frames::Addressed if carried == Carried::Multiplexed => Frames::Socks,
        frames => frames,
    };
    let connected = matches!(frames, Frames::Connected(_));
    let batch = StreamClient { user, connected };
    let framing = Framing::Datagrams {
        frames,
        request: false,
    };
    let (server, socket) = Socket::pair();
    // The association is known by the address inside the process.
    let peer = server.peer();
    tracing::debug!(%client, peer = peer.map(tracing::field::display), connected, "a stream of UDP over TCP began");
    let exchanged = async move { exchange(pipe, &socket, framing, idle).await };
    let served = relay.serve_client(Arc::new(server), batch.into());
    match tokio::join!(exchanged, served).0 {
        Closed::Invalid(error) => Err(error),
        Closed::Stream | Closed::Socket | Closed::Idle => Ok(()),
    }
}

impl<I: PacketInbound<Batch: From<StreamClient>>, O: PacketOutbound> Outbound
    for DirectWithPackets<I, O>
{
    fn may_confirm_early(&self, request: &Request) -> bool {
        self.direct.may_confirm_early(request)
    }

    fn offers(&self, reserved: Reserved) -> bool {
        match reserved {
            Reserved::Packets => self.packets,
            // Only streams of datagrams inside a session come here: the inbound takes sessions themselves.
            Reserved::UdpOverTcp(_) | Reserved::Multiplex => true,
            Reserved::Link => false,
        }
    }

    async fn connect(&self, request: &Request) -> Result<Leg, Error> {
        let carried = match request.reserved() {
            Some(Reserved::Packets) => Carried::Packets,
            Some(Reserved::UdpOverTcp(version)) => Carried::Datagrams(version),
            Some(Reserved::Multiplex) => Carried::Multiplexed,
            _ => return self.direct.connect(request).await,
        };
        let (stream, pipe) = pair(UDP_STREAM_WINDOW, UDP_STREAM_BUFFER);
        if self.serve(pipe, carried, request) {
            Ok(Leg::plain(stream))
        } else {
            Err(Error::Overloaded(TOO_MANY))
        }
    }

    fn way(&self, asked: &Asked<'_>) -> Way {
        self.direct.way(asked)
    }
}
