//! Packets within streams ([`crate::wire::udp_over_stream`]): a client's associations that go that way, and where a server
//! takes them in.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Type};
use tokio::time::{sleep, timeout};

use super::direct::Direct;
use super::endpoint::Endpoint;
use crate::net::dial::SpeaksFirst;
use crate::net::pipe::pair;
use crate::net::tasks::Tasks;
use crate::net::{UdpOptions, udp};
use crate::relay::tcp::{FixedTarget, Leg, Outbound, Request, Service, Timeouts};
use crate::relay::udp::carry::{CAPACITY, Carrying, Ended, WINDOW, carry, socket};
use crate::relay::{Counters, Error};
use crate::wire::Address;
use crate::wire::udp_over_stream::{NAME, PORT};

/// Streams for packets at once.
const MAX_CARRIERS: usize = 4096;
/// How long a stream that broke is left alone.
const REST: Duration = Duration::from_secs(1);

/// What the streams of a client's packets need beside the server.
#[derive(Clone)]
pub struct Inside {
    /// How long each part of their lives may take.
    pub timeouts: Timeouts,
    /// How long one stays without a packet.
    pub idle: Duration,
    /// Where they are counted.
    pub counters: Arc<Counters>,
}

/// A server to which packets go inside streams.
pub(super) struct Route {
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) inside: Inside,
}

/// The streams that carry packets, of all workers.
#[derive(Default)]
pub(super) struct Carriers(Tasks);

impl Carriers {
    /// A socket for an association, where on this machine its packets are taken into a stream by `route`, and by what.
    pub(super) fn open(&self, route: Route) -> io::Result<(udp::Socket, SocketAddr, Carrying)> {
        let own = socket2::Socket::new(Domain::IPV4, Type::DGRAM, None)?;
        own.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
        let own_address = own
            .local_addr()?
            .as_socket()
            .ok_or(io::ErrorKind::Unsupported)?;
        let carrier = socket(own_address)?;
        let carrier_address = carrier.local_addr()?;
        let own = udp::Socket::new(own, UdpOptions::default())?;
        let task = self
            .0
            .try_spawn(MAX_CARRIERS, route.run(carrier, own_address));
        let task = task.ok_or_else(|| io::Error::other("too many associations within streams"))?;
        Ok((own, carrier_address, Carrying(task)))
    }
}

impl Route {
    /// Carries an association's packets to its end, in one stream after another if they break.
    async fn run(self, socket: tokio::net::UdpSocket, association: SocketAddr) {
        let (idle, timeouts) = (self.inside.idle, self.inside.timeouts);
        let service = Service {
            inbound: FixedTarget(Address::Domain(NAME.into(), PORT)),
            counters: Arc::clone(&self.inside.counters),
            outbound: self,
            timeouts,
        };
        // The stream is opened for a packet that waits, and not before.
        while matches!(timeout(idle, socket.readable()).await, Ok(Ok(()))) {
            let (stream, pipe) = pair(WINDOW, CAPACITY);
            let served = service.serve(stream, association, || ());
            let (ended, ()) = tokio::join!(carry(pipe, &socket, idle), Box::pin(served));
            if ended != Ended::Stream {
                return;
            }
            sleep(REST).await;
        }
    }
}

impl Outbound for Route {
    fn may_confirm_early(&self) -> bool {
        false
    }

    async fn connect(&self, request: &Request) -> Result<Leg, Error> {
        let stream = self.endpoint.dial(SpeaksFirst::Us).await?;
        Ok(self.endpoint.leg(stream, request.target.as_ref()))
    }
}

/// Targets as [`Direct`] reaches them, and the reserved one.
pub struct WithPackets {
    direct: Direct,
    /// Where the server takes packets, and how long a stream of them stays without any.
    packets: SocketAddr,
    idle: Duration,
    tasks: Tasks,
}

impl WithPackets {
    /// For the server that takes packets at `packets`.
    #[must_use]
    pub fn new(direct: Direct, packets: SocketAddr, idle: Duration) -> Self {
        Self {
            direct,
            packets,
            idle,
            tasks: Tasks::default(),
        }
    }
}

impl Outbound for WithPackets {
    fn may_confirm_early(&self) -> bool {
        self.direct.may_confirm_early()
    }

    async fn connect(&self, request: &Request) -> Result<Leg, Error> {
        let reserved = matches!(
            &request.target,
            Address::Domain(name, PORT) if name.eq_ignore_ascii_case(NAME)
        );
        if !reserved {
            return self.direct.connect(request).await;
        }
        let socket = socket(self.packets).map_err(|source| {
            let address = self.packets;
            crate::net::Error::Connect { address, source }
        })?;
        let (stream, pipe) = pair(WINDOW, CAPACITY);
        let idle = self.idle;
        self.tasks.spawn(async move {
            carry(pipe, &socket, idle).await;
        });
        Ok(Leg::plain(stream))
    }
}
