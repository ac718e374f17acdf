//! Goes through one of several Shadowsocks servers.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::time::Instant;

use super::endpoint::Endpoint;
use super::proxied_packets;
use super::udp_over_stream::UdpOverStream;
use super::warm::{Warm, WarmPolicy};
use crate::net::dial::SpeaksFirst;
use crate::net::tasks::Tasks;
use crate::net::{self, Stream};
use crate::relay::Error;
use crate::relay::tcp::{Leg, Outbound, Request};
use crate::relay::udp::framing::{Decoder, Encoder};
use crate::relay::udp::{Destination, PacketOutbound, Upstream};
use crate::wire::ss::packet::{ClientPackets, PacketSealer};
use crate::wire::{Address, AddressRef};

/// How long a server that could not be reached comes after the others.
const PENALTY: Duration = Duration::from_secs(10);

/// How much a server is preferred, from 0 (only if no other has more) to 1; `None`: it does not offer this at all.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Weights {
    /// For streams.
    pub tcp: Option<f64>,
    /// For datagrams.
    pub udp: Option<f64>,
}

/// One server, its spare connections, and whether the last connection attempt failed.
pub struct Server {
    endpoint: Arc<Endpoint>,
    weights: Weights,
    /// Set if packets go inside streams; `None`: they go as UDP.
    over_stream: Option<UdpOverStream>,
    warm: Warm,
    failed: AtomicBool,
    /// The time of the last failure, in milliseconds since [`Inner::begun`].
    failed_at: AtomicU64,
}

impl Server {
    /// A server that has not failed yet.
    #[must_use]
    pub fn new(
        endpoint: Endpoint,
        weights: Weights,
        over_stream: Option<UdpOverStream>,
        warm: WarmPolicy,
    ) -> Self {
        Self {
            endpoint: Arc::new(endpoint),
            weights,
            over_stream,
            warm: Warm::new(warm),
            failed: AtomicBool::new(false),
            failed_at: AtomicU64::new(0),
        }
    }
}

/// Servers by weight, and within a weight in the order of the config. The first that can be reached is used.
#[derive(Clone)]
pub struct Servers(Arc<Inner>);

struct Inner {
    servers: Vec<Server>,
    /// Indexes of the servers for streams, and of those for datagrams, the most preferred first.
    tcp: Vec<usize>,
    udp: Vec<usize>,
    /// They carry packets over streams.
    tasks: Tasks,
    begun: Instant,
}

impl Servers {
    /// Needs at least one server; without any, every connection fails.
    #[must_use]
    pub fn new(servers: Vec<Server>) -> Self {
        Self(Arc::new(Inner {
            tcp: ranking(servers.iter().map(|server| server.weights.tcp)),
            udp: ranking(servers.iter().map(|server| server.weights.udp)),
            servers,
            tasks: Tasks::default(),
            begun: Instant::now(),
        }))
    }

    fn now(&self) -> u64 {
        u64::try_from(self.0.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// The servers of a ranking, with those that failed within [`PENALTY`] last.
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

    /// Takes a spare connection to `server`, or opens one. Refills the spares for later requests.
    async fn connection(&self, server: &Server) -> Result<Stream, Error> {
        if let Some(stream) = server.warm.take() {
            server.warm.refill(&server.endpoint);
            return Ok(stream);
        }
        let begun = Instant::now();
        // The request header goes out at once, or after the short wait for first bytes.
        let dialled = server.endpoint.dial(SpeaksFirst::Us).await;
        let address = &server.endpoint.address;
        match &dialled {
            Ok(_) => {
                if server.failed.swap(false, Relaxed) {
                    tracing::info!(server = %address, "server can be reached again");
                }
                server.warm.note_dial(begun.elapsed());
                server.warm.refill(&server.endpoint);
            }
            Err(error) => {
                server.failed_at.store(self.now(), Relaxed);
                if !server.failed.swap(true, Relaxed) {
                    tracing::warn!(server = %address, %error, "server cannot be reached");
                }
            }
        }
        dialled
    }
}

/// Indexes of the servers that have a weight, the heaviest first. Servers of weight 0 are left out unless there are no
/// others, even if the others fail: a 0 means this in shadowsocks-rust.
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
    /// As long as the last connection attempt to the preferred server has not failed; also before the first one.
    fn may_confirm_early(&self, _: &Request) -> bool {
        self.order(&self.0.tcp)
            .next()
            .is_some_and(|server| !server.failed.load(Relaxed))
    }

    async fn connect(&self, request: &Request) -> Result<Leg, Error> {
        self.reach(request.target.as_ref()).await
    }
}

impl Servers {
    /// Opens a stream to `target` through the first server that can be reached.
    ///
    /// # Errors
    /// The error of the last server that was tried.
    pub async fn reach(&self, target: AddressRef<'_>) -> Result<Leg, Error> {
        let mut failure = Error::Connect(net::Error::NoAddress);
        for server in self.order(&self.0.tcp) {
            match self.connection(server).await {
                Ok(stream) => return Ok(server.endpoint.leg(stream, target)),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }
}

impl PacketOutbound for Servers {
    fn associate(&self, _: SocketAddr, _: bool) -> io::Result<Upstream> {
        let server = self
            .order(&self.0.udp)
            .next()
            .ok_or(io::ErrorKind::NotConnected)?;
        let endpoint = &server.endpoint;
        let session = rand::random();
        let socket = match &server.over_stream {
            None if endpoint.dialer.proxies.is_some() => {
                proxied_packets::socket(&endpoint.dialer, &endpoint.address, &self.0.tasks)?
            }
            None => endpoint.dialer.udp_socket()?,
            Some(settings) => settings.socket(endpoint, &self.0.tasks)?,
        };
        let peer = socket.peer().map(Address::Ip);
        let credentials = &endpoint.credentials;
        let sealer = PacketSealer::client(credentials, session).map_err(io::Error::other)?;
        Ok(Upstream {
            server: Some(peer.unwrap_or_else(|| endpoint.packet_address())),
            socket,
            encoder: Encoder::Seal(sealer),
            decoder: Decoder::Open(Box::new(ClientPackets::new(credentials, session))),
        })
    }

    fn locate(&self, server: AddressRef<'_>, _: bool) -> Destination {
        let first = self.0.servers.first();
        first.map_or(Destination::Denied, |first| {
            first.endpoint.dialer.locate(server, true)
        })
    }

    async fn resolve(&self, server: &Address, _: bool) -> Option<SocketAddr> {
        let first = self.0.servers.first()?;
        first.endpoint.dialer.resolve(server, true).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_of_weight_zero_replaces_no_other() {
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
