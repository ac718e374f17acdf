//! Through a Shadowsocks server.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::direct::Direct;
use super::udp_over_stream::{Carriers, Inside, Route};
use super::warm::{Warm, WarmPolicy};
use crate::net::dial::SpeaksFirst;
use crate::net::{self, Stream, transport, udp};
use crate::relay::Error;
use crate::relay::tcp::{First, Leg, Outbound, Request};
use crate::relay::udp::codec::{Unwrap, Wrap};
use crate::relay::udp::{Located, PacketOutbound, Upstream};
use crate::wire::ss::packet::{ClientPackets, PacketSealer};
use crate::wire::ss::stream::{Opener, Sealer};
use crate::wire::ss::{Credentials, Salt};
use crate::wire::{Address, AddressRef};

/// How long a server that could not be reached is passed over while there are others.
const PENALTY: Duration = Duration::from_secs(10);

/// One server, and what is known of it.
pub struct Server {
    /// Where it is.
    pub address: Address,
    /// What is spoken with it.
    pub credentials: Credentials,
    /// How it is connected to.
    pub direct: Direct,
    /// What stands between TCP and Shadowsocks.
    pub transport: Option<Arc<transport::Client>>,
    /// How much it is wanted for streams, and for datagrams; `None`: it takes none.
    pub weights: Weights,
    /// What it takes to send datagrams inside streams; `None`: they go beside them.
    pub inside: Option<Inside>,
    warm: Warm,
    failed: AtomicBool,
    /// When it failed last, in milliseconds since the balancer began.
    failed_at: AtomicU64,
}

impl Server {
    /// A server of which nothing bad is known.
    #[must_use]
    pub fn new(
        address: Address,
        credentials: Credentials,
        direct: Direct,
        transport: Option<transport::Client>,
        weights: Weights,
        inside: Option<Inside>,
        warm: WarmPolicy,
    ) -> Self {
        Self {
            address,
            credentials,
            direct,
            transport: transport.map(Arc::new),
            weights,
            inside,
            warm: Warm::new(warm),
            failed: AtomicBool::new(false),
            failed_at: AtomicU64::new(0),
        }
    }
}

impl Server {
    /// Opens spare connections, if any are wanted.
    fn refill(&self) {
        self.warm
            .refill(&self.direct, &self.address, self.transport.as_ref());
    }
}

/// A connection to a server, ready for Shadowsocks, on which `first` speaks first. (A transport's client always does.)
///
/// # Errors
/// Those of [`Direct::dial`], and [`Error::Connect`] when the server does not agree to the transport in time.
pub(super) async fn dial(
    direct: &Direct,
    server: &Address,
    transport: Option<&transport::Client>,
    first: SpeaksFirst,
) -> Result<Stream, Error> {
    let Some(transport) = transport else {
        return direct.dial(server, true, first).await;
    };
    let stream = direct.dial(server, true, SpeaksFirst::Us).await?;
    let upgraded = timeout(direct.connect, Box::pin(transport.upgrade(stream))).await;
    let seconds = direct.connect.as_secs();
    Ok(upgraded.unwrap_or(Err(net::Error::ConnectTimeout { seconds }))?)
}

/// A connection to a server as the end of a relay to `target`.
pub(super) fn leg(stream: Stream, credentials: &Credentials, target: AddressRef<'_>) -> Leg {
    let salt = Salt::new(credentials.method(), rand::random());
    Leg {
        stream,
        codec: Some((
            Opener::response(credentials, salt),
            Sealer::request(credentials, salt, target),
        )),
        first: First::Nothing,
    }
}

/// How much a server is wanted, from 0 (only if no other is wanted more) to 1; `None`: it does not offer that at all.
#[derive(Clone, Copy, Debug)]
pub struct Weights {
    /// For streams.
    pub tcp: Option<f64>,
    /// For datagrams.
    pub udp: Option<f64>,
}

/// Servers by weight, and within a weight in the order of the config: the first that can be reached is used.
#[derive(Clone)]
pub struct Servers(Arc<Inner>);

struct Inner {
    servers: Vec<Server>,
    /// Which of them take streams, and which datagrams, the most wanted first.
    tcp: Vec<usize>,
    udp: Vec<usize>,
    carriers: Carriers,
    begun: Instant,
}

impl Servers {
    /// With at least one server; without any, nothing can be reached.
    #[must_use]
    pub fn new(servers: Vec<Server>) -> Self {
        Self(Arc::new(Inner {
            tcp: ranking(servers.iter().map(|server| server.weights.tcp)),
            udp: ranking(servers.iter().map(|server| server.weights.udp)),
            servers,
            carriers: Carriers::default(),
            begun: Instant::now(),
        }))
    }

    fn now(&self) -> u64 {
        u64::try_from(self.0.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// The servers of a ranking, those that failed a moment ago last.
    fn order<'a>(&'a self, ranking: &'a [usize]) -> impl Iterator<Item = &'a Server> {
        let now = self.now();
        let penalty = u64::try_from(PENALTY.as_millis()).unwrap_or(u64::MAX);
        let avoided = move |server: &Server| {
            server.failed.load(Relaxed)
                && now.saturating_sub(server.failed_at.load(Relaxed)) < penalty
        };
        let ranked = move |last: bool| {
            let servers = ranking
                .iter()
                .filter_map(|place| self.0.servers.get(*place));
            servers.filter(move |server| avoided(server) == last)
        };
        ranked(false).chain(ranked(true))
    }

    /// A connection to `server`: a spare one if there is any, and spares for the requests to come.
    async fn connection(&self, server: &Server) -> Result<Stream, Error> {
        if let Some(stream) = server.warm.take() {
            server.refill();
            return Ok(stream);
        }
        let begun = Instant::now();
        let transport = server.transport.as_deref();
        let dialled = dial(
            &server.direct,
            &server.address,
            transport,
            // The head goes at once, or after the short wait for first bytes.
            SpeaksFirst::Us,
        )
        .await;
        match &dialled {
            Ok(_) => {
                if server.failed.swap(false, Relaxed) {
                    tracing::info!(server = %server.address, "server can be reached again");
                }
                server.warm.dialled(begun.elapsed());
                server.refill();
            }
            Err(error) => {
                server.failed_at.store(self.now(), Relaxed);
                if !server.failed.swap(true, Relaxed) {
                    tracing::warn!(server = %server.address, %error, "server cannot be reached");
                }
            }
        }
        dialled
    }
}

/// Which servers have a weight, the heaviest first. Those of weight 0 are left out, even when the others fail, unless
/// there are no others: that is what shadowsocks-rust takes a 0 for.
fn ranking(weights: impl Iterator<Item = Option<f64>>) -> Vec<usize> {
    let mut ranked: Vec<(usize, f64)> = weights
        .enumerate()
        .filter_map(|(place, weight)| Some((place, weight?)))
        .collect();
    if ranked.iter().any(|(_, weight)| *weight > 0.0) {
        ranked.retain(|(_, weight)| *weight > 0.0);
    }
    ranked.sort_by(|(_, a), (_, b)| b.total_cmp(a));
    ranked.into_iter().map(|(place, _)| place).collect()
}

impl Outbound for Servers {
    /// While the last connection to the server that would be chosen was made.
    fn may_confirm_early(&self) -> bool {
        self.order(&self.0.tcp)
            .next()
            .is_some_and(|server| !server.failed.load(Relaxed))
    }

    async fn connect(&self, request: &Request) -> Result<Leg, Error> {
        self.reach(request.target.as_ref()).await
    }
}

impl Servers {
    /// Begins a stream to `target` through the first server that can be reached.
    ///
    /// # Errors
    /// That of the last server tried.
    pub async fn reach(&self, target: AddressRef<'_>) -> Result<Leg, Error> {
        let mut failure = Error::Connect(net::Error::NoAddress);
        for server in self.order(&self.0.tcp) {
            match self.connection(server).await {
                Ok(stream) => {
                    return Ok(leg(stream, &server.credentials, target));
                }
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }
}

impl PacketOutbound for Servers {
    fn open(&self, _: bool) -> io::Result<Upstream> {
        let server = self
            .order(&self.0.udp)
            .next()
            .ok_or(io::ErrorKind::NotConnected)?;
        let session = rand::random();
        let (socket, address, carrying) = match &server.inside {
            None => {
                let socket = server.direct.options.outgoing_udp()?;
                let socket = udp::Socket::new(socket, server.direct.options.udp)?;
                (socket, server.address.clone(), None)
            }
            Some(inside) => {
                let (socket, carrier, carrying) = self.0.carriers.open(Route {
                    address: server.address.clone(),
                    credentials: server.credentials.clone(),
                    direct: server.direct.clone(),
                    transport: server.transport.clone(),
                    inside: inside.clone(),
                })?;
                (socket, Address::Ip(carrier), Some(carrying))
            }
        };
        Ok(Upstream {
            socket,
            server: Some(address),
            wrap: Wrap::Seal(
                PacketSealer::client(&server.credentials, session).map_err(io::Error::other)?,
            ),
            unwrap: Unwrap::Open(Box::new(ClientPackets::new(&server.credentials, session))),
            carrying,
        })
    }

    fn locate(&self, server: AddressRef<'_>, _: bool) -> Located {
        self.0
            .servers
            .first()
            .map_or(Located::Denied, |first| first.direct.locate(server, true))
    }

    async fn resolve(&self, server: &Address, _: bool) -> Option<SocketAddr> {
        self.0.servers.first()?.direct.resolve(server, true).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_of_no_weight_stands_in_for_no_other() {
        let cases: [(&[Option<f64>], &[usize]); 3] = [
            (
                &[Some(0.0), Some(0.2), None, Some(1.0), Some(0.2)],
                &[3, 1, 4],
            ),
            (&[Some(0.0), None, Some(0.0)], &[0, 2]),
            (&[None], &[]),
        ];
        for (weights, ranked) in cases {
            assert_eq!(ranking(weights.iter().copied()), ranked, "{weights:?}");
        }
    }
}
