//! Through a Shadowsocks server.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::time::Instant;

use super::endpoint::Endpoint;
use super::udp_over_stream::{Carriers, Inside, Route};
use super::warm::{Warm, WarmPolicy};
use crate::net::dial::SpeaksFirst;
use crate::net::{self, Stream};
use crate::relay::Error;
use crate::relay::tcp::{Leg, Outbound, Request};
use crate::relay::udp::framing::{Decoder, Encoder};
use crate::relay::udp::{Destination, PacketOutbound, Upstream};
use crate::wire::ss::packet::{ClientPackets, PacketSealer};
use crate::wire::{Address, AddressRef};

/// How long a server that could not be reached is passed over while there are others.
const PENALTY: Duration = Duration::from_secs(10);

/// How much a server is preferred, from 0 (only if no other has more) to 1; `None`: it does not offer this at all.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Weights {
    /// For streams.
    pub tcp: Option<f64>,
    /// For datagrams.
    pub udp: Option<f64>,
}

/// One server, its spare connections, and whether it could be reached lately.
pub struct Server {
    endpoint: Arc<Endpoint>,
    weights: Weights,
    /// Set if datagrams go inside streams; `None`: they go as UDP.
    inside: Option<Inside>,
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
        inside: Option<Inside>,
        warm: WarmPolicy,
    ) -> Self {
        Self {
            endpoint: Arc::new(endpoint),
            weights,
            inside,
            warm: Warm::new(warm),
            failed: AtomicBool::new(false),
            failed_at: AtomicU64::new(0),
        }
    }
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
            server.warm.refill(&server.endpoint);
            return Ok(stream);
        }
        let begun = Instant::now();
        // The head goes at once, or after the short wait for first bytes.
        let dialled = server.endpoint.dial(SpeaksFirst::Us).await;
        let address = &server.endpoint.address;
        match &dialled {
            Ok(_) => {
                if server.failed.swap(false, Relaxed) {
                    tracing::info!(server = %address, "server can be reached again");
                }
                server.warm.dialled(begun.elapsed());
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
                Ok(stream) => return Ok(server.endpoint.leg(stream, target)),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }
}

impl PacketOutbound for Servers {
    fn associate(&self, _: bool) -> io::Result<Upstream> {
        let server = self
            .order(&self.0.udp)
            .next()
            .ok_or(io::ErrorKind::NotConnected)?;
        let endpoint = &server.endpoint;
        let session = rand::random();
        let (socket, address, carrying) = match &server.inside {
            None => (
                endpoint.dialer.udp_socket()?,
                endpoint.address.clone(),
                None,
            ),
            Some(inside) => {
                let (socket, carrier, carrying) = self.0.carriers.open(Route {
                    endpoint: Arc::clone(endpoint),
                    inside: inside.clone(),
                })?;
                (socket, Address::Ip(carrier), Some(carrying))
            }
        };
        let credentials = &endpoint.credentials;
        Ok(Upstream {
            socket,
            server: Some(address),
            encoder: Encoder::Seal(
                PacketSealer::client(credentials, session).map_err(io::Error::other)?,
            ),
            decoder: Decoder::Open(Box::new(ClientPackets::new(credentials, session))),
            carrying,
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
