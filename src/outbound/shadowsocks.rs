//! Goes through one of several Shadowsocks servers.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::{Instant, sleep};

use super::balancer::Balancer;
use super::balancer::health::{Fault, Health};
use super::balancer::probe::{self, Activity, Probed};
use super::balancer::race::race;
use super::balancer::strategy::{Candidate, HashBy, Key, Strategy, arrange, hash};
use super::endpoint::Endpoint;
use super::proxied_packets;
use super::udp_over_stream::{Carried, UdpOverStream};
use super::warm::{Warm, WarmPolicy};
use crate::limits::MAX_TRIED_SERVERS;
use crate::net::changes::{Changes, suspended};
use crate::net::dial::SpeaksFirst;
use crate::net::tasks::Tasks;
use crate::net::{self, Stream};
use crate::relay::Error;
use crate::relay::failed::Way;
use crate::relay::tcp::{Failure, Leg, NextLeg, Others, Outbound, Request};
use crate::relay::udp::framing::{Decoder, Encoder};
use crate::relay::udp::{Destination, PacketOutbound, Upstream};
use crate::wire::ss::packet::{ClientPackets, PacketSealer};
use crate::wire::{Address, AddressRef};

/// The pause between two looks at the changes of the network, which come in groups.
const CHANGES_PAUSE: Duration = Duration::from_millis(200);
/// A suspension that is longer than this, in milliseconds, counts: what was connected before may be dead.
const SLEPT: u64 = 1000;

/// How much a server is preferred, from 0 (only if no other has more) to 1; `None`: it does not offer this at all.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Weights {
    /// For streams.
    pub tcp: Option<f64>,
    /// For datagrams.
    pub udp: Option<f64>,
}

/// One server, its spare connections, and what is known of it.
pub struct Server {
    endpoint: Arc<Endpoint>,
    weights: Weights,
    /// Set if datagrams go inside streams; `None`: they go as UDP.
    over_stream: Option<UdpOverStream>,
    warm: Warm,
    health: Arc<Health>,
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
            health: Arc::default(),
        }
    }

    /// Takes a spare connection, or opens one. Refills the spares for later requests.
    async fn connection(&self) -> Result<Stream, Error> {
        if let Some(stream) = self.warm.take() {
            self.warm.refill(&self.endpoint);
            return Ok(stream);
        }
        let begun = Instant::now();
        // The request header goes out at once, or after the short wait for first bytes.
        let dialled = self.endpoint.dial(SpeaksFirst::Us).await;
        let server = &self.endpoint.address;
        match &dialled {
            Ok(_) => {
                let time = begun.elapsed();
                if self.health.connect(time) {
                    tracing::info!(%server, "server can be reached again");
                }
                self.warm.note_dial(time);
                self.warm.refill(&self.endpoint);
            }
            Err(error) => self.unreachable(error),
        }
        dialled
    }

    fn unreachable(&self, error: &dyn std::fmt::Display) {
        if self.health.fail(Fault::Unreachable) {
            let server = &self.endpoint.address;
            tracing::warn!(%server, %error, "server cannot be reached");
        }
    }

    /// It could be connected to, and did not answer what another server did.
    fn unanswered(&self, failure: &Failure) {
        if self.health.fail(Fault::Unanswered) {
            let server = &self.endpoint.address;
            tracing::warn!(%server, reason = %failure, "server did not answer what another server answered");
        }
        self.warm.clear();
    }

    fn answered(&self, after: Option<Duration>) {
        if self.health.answer(after) {
            let server = &self.endpoint.address;
            tracing::info!(%server, "server answers again");
        }
    }
}

/// Several servers, in an order that depends on their weights or on `balancer`. The first that works is used.
#[derive(Clone)]
pub struct Servers(Arc<Inner>);

struct Inner {
    servers: Vec<Server>,
    /// Indexes of the servers for streams, and of those for datagrams, the heaviest first.
    tcp: Vec<usize>,
    udp: Vec<usize>,
    strategy: Strategy,
    /// Whether probes find out that a server works again.
    probed: bool,
    activity: Arc<Activity>,
    /// Requests so far.
    turn: AtomicUsize,
    /// How long the machine had slept at the last request, in milliseconds.
    slept: AtomicU64,
    /// They carry packets over streams, probe, and watch the network.
    tasks: Tasks,
}

impl Servers {
    /// Servers by weight, and within a weight in the order of the config. Needs at least one server; without any, every
    /// connection fails.
    #[must_use]
    pub fn new(servers: Vec<Server>) -> Self {
        Self::build(servers, Strategy::Weight, false)
    }

    /// Servers by the strategy of `balancer`. Where it has probes, call it inside a runtime, which then runs them.
    #[must_use]
    pub fn balanced(servers: Vec<Server>, balancer: Balancer) -> Self {
        let Balancer { strategy, probe } = balancer;
        let servers = Self::build(servers, strategy, probe.is_some());
        if let Some(probe) = probe
            && servers.0.probed
        {
            let inner = &servers.0;
            let probed = inner.tcp.iter().filter_map(|place| {
                let server = inner.servers.get(*place)?;
                Some(Probed {
                    endpoint: Arc::clone(&server.endpoint),
                    health: Arc::clone(&server.health),
                    weight: server.weights.tcp?,
                })
            });
            let run = probe::run(probe, probed.collect(), Arc::clone(&inner.activity));
            inner.tasks.spawn(run);
        }
        servers
    }

    fn build(servers: Vec<Server>, strategy: Strategy, probes: bool) -> Self {
        let tcp = ranking(servers.iter().map(|server| server.weights.tcp));
        let inner = Inner {
            // With one server there is nothing to choose.
            probed: probes && tcp.len() > 1,
            tcp,
            udp: ranking(servers.iter().map(|server| server.weights.udp)),
            servers,
            strategy,
            activity: Arc::default(),
            turn: AtomicUsize::new(0),
            slept: AtomicU64::new(millis(suspended())),
            tasks: Tasks::default(),
        };
        let servers = Self(Arc::new(inner));
        servers.watch_network();
        servers
    }

    /// Reacts to changes of the network, on the runtime that this is called on.
    fn watch_network(&self) {
        if Handle::try_current().is_err() {
            return;
        }
        let weak = Arc::downgrade(&self.0);
        self.0.tasks.spawn(async move {
            // Without it, dead connections are noticed when they are used.
            let Ok(mut changes) = Changes::listen() else {
                return;
            };
            while changes.next().await.is_ok() {
                let Some(inner) = weak.upgrade() else { return };
                inner.renew();
                drop(inner);
                sleep(CHANGES_PAUSE).await;
            }
        });
    }
}

impl Inner {
    /// The network is another one, or the machine has slept: what is connected may be dead, and what failed may work.
    fn renew(&self) {
        tracing::debug!("the network has changed: spare connections are made anew");
        for server in &self.servers {
            server.health.forgive();
            server.warm.renew(&server.endpoint);
        }
        if self.probed {
            self.activity.probe_now();
        }
    }

    /// To be called for each request.
    fn note_request(&self) {
        self.activity.note();
        let slept = millis(suspended());
        let before = self.slept.load(Relaxed);
        if slept > before.saturating_add(SLEPT) && self.slept.swap(slept, Relaxed) < slept {
            self.renew();
        }
    }

    /// The places of a ranking in the order in which they are tried: by the strategy, with those that failed last.
    fn order(
        &self,
        ranking: &[usize],
        key: Key,
        weight: impl Fn(&Server) -> Option<f64>,
    ) -> Vec<usize> {
        let candidate = |place: &usize| {
            let server = self.servers.get(*place)?;
            let health = &server.health;
            let candidate = Candidate {
                place: *place,
                weight: weight(server).unwrap_or_default(),
                streams: health.streams(),
                score: match self.strategy {
                    Strategy::Latency => health.score(),
                    _ => 0.0,
                },
            };
            Some((candidate, health.is_avoided(self.probed)))
        };
        let (avoided, working): (Vec<_>, Vec<_>) = ranking
            .iter()
            .filter_map(candidate)
            .partition(|(_, avoided)| *avoided);
        let mut order = Vec::with_capacity(ranking.len());
        for group in [working, avoided] {
            let mut group: Vec<Candidate> = group.into_iter().map(|(one, _)| one).collect();
            arrange(self.strategy, &mut group, key);
            order.extend(group.into_iter().map(|one| one.place));
        }
        order
    }

    /// The key of a request, by what the strategy looks at.
    fn key(&self, source: Option<SocketAddr>, target: Option<AddressRef<'_>>) -> Key {
        let by_target = matches!(self.strategy, Strategy::Hash(HashBy::Target));
        let hashed = match (self.strategy, target, source) {
            (Strategy::Hash(_), Some(AddressRef::Domain(name, _)), _) if by_target => {
                hash(&name.to_ascii_lowercase())
            }
            (Strategy::Hash(_), Some(AddressRef::Ip(address)), _) if by_target => {
                hash(&address.ip().to_canonical())
            }
            (Strategy::Hash(_), _, Some(source)) => hash(&source.ip().to_canonical()),
            _ => 0,
        };
        Key {
            turn: self.turn.fetch_add(1, Relaxed),
            hash: hashed,
        }
    }

    /// The way of a request that has failed: the first of these servers.
    fn way(&self, ranking: &[usize]) -> Way {
        let servers = ranking.iter().filter_map(|place| self.servers.get(*place));
        let names = servers.map(|server| server.endpoint.address.to_string());
        let names: Vec<String> = names.take(MAX_TRIED_SERVERS).collect();
        let others = ranking.len().saturating_sub(names.len());
        let mut server = names.join(", ");
        if others > 0 {
            server.push_str(&format!(" and {others} more"));
        }
        Way {
            server: Some(server),
            ..Way::default()
        }
    }

    /// Connects to the first server that answers, but for those in `tried`. Returns its place too.
    async fn dial(&self, key: Key, tried: &[usize]) -> Result<(usize, Stream), Error> {
        let nowhere = || Error::Connect(net::Error::NoAddress);
        if let ([only], []) = (&self.tcp[..], tried) {
            let server = self.servers.get(*only).ok_or_else(nowhere)?;
            return Ok((*only, server.connection().await?));
        }
        let mut places = self.order(&self.tcp, key, |server| server.weights.tcp);
        places.retain(|place| !tried.contains(place));
        let patience = |place: usize| {
            let server = self.servers.get(place);
            server.map_or(Duration::ZERO, |server| server.health.connected_within())
        };
        let dial = |place: usize| async move {
            let server = self.servers.get(place).ok_or_else(nowhere)?;
            server.connection().await
        };
        let won = race(places, patience, dial).await?;
        for place in won.unanswered {
            if let Some(server) = self.servers.get(place) {
                server.unreachable(&"no answer yet, and another server has answered");
            }
        }
        Ok((won.place, won.stream))
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
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
    /// As long as one of the servers has not failed. Then that one is tried first, or soon.
    fn may_confirm_early(&self, _: &Request) -> bool {
        let mut servers = self
            .0
            .tcp
            .iter()
            .filter_map(|place| self.0.servers.get(*place));
        servers.any(|server| !server.health.has_failed())
    }

    async fn connect(&self, request: &Request) -> Result<Leg, Error> {
        let (inner, target) = (&self.0, request.target.as_ref());
        inner.note_request();
        if inner.tcp.len() == 1 {
            return self.reach(target).await;
        }
        let key = inner.key(Some(request.peer), Some(target));
        self.choose(key, target, Vec::new()).await
    }

    fn way(&self, _: Option<&Address>, _: Option<&str>) -> Way {
        self.0.way(&self.0.tcp)
    }
}

impl Servers {
    /// Opens a stream to `target` through the first server that can be reached.
    ///
    /// # Errors
    /// The error of the last server that was tried.
    pub async fn reach(&self, target: AddressRef<'_>) -> Result<Leg, Error> {
        let inner = &self.0;
        let (place, stream) = inner.dial(inner.key(None, Some(target)), &[]).await?;
        let server = inner.servers.get(place);
        let server = server.ok_or(Error::Connect(net::Error::NoAddress))?;
        Ok(server.endpoint.leg(stream, target))
    }

    /// The same, through a server that is not in `tried`; the leg knows the others.
    async fn choose(
        &self,
        key: Key,
        target: AddressRef<'_>,
        tried: Vec<usize>,
    ) -> Result<Leg, Error> {
        let (place, stream) = self.0.dial(key, &tried).await?;
        let server = self.0.servers.get(place);
        let server = server.ok_or(Error::Connect(net::Error::NoAddress))?;
        let mut leg = server.endpoint.leg(stream, target);
        server.health.begin_stream();
        leg.others = Some(Box::new(Chosen {
            servers: self.clone(),
            place,
            key,
            tried,
        }));
        Ok(leg)
    }
}

/// The server of a leg, for as long as the leg is used.
struct Chosen {
    servers: Servers,
    place: usize,
    key: Key,
    /// The places of those that were tried before.
    tried: Vec<usize>,
}

impl Chosen {
    fn server(&self) -> Option<&Server> {
        self.servers.0.servers.get(self.place)
    }

    fn time(&self, of: impl Fn(&Health) -> Duration) -> Duration {
        self.server()
            .map_or(Duration::ZERO, |server| of(&server.health))
    }
}

impl Others for Chosen {
    fn acknowledged_within(&self) -> Duration {
        self.time(Health::acknowledged_within)
    }

    fn answered_within(&self) -> Duration {
        self.time(Health::answered_within)
    }

    fn answered(&self, after: Option<Duration>) {
        if let Some(server) = self.server() {
            server.answered(after);
        }
    }

    fn failed(&self, failure: &Failure) {
        if let Some(server) = self.server() {
            server.unanswered(failure);
        }
    }

    fn server(&self) -> Option<String> {
        Some(Self::server(self)?.endpoint.address.to_string())
    }

    fn next<'a>(&'a self, target: &'a Address) -> NextLeg<'a> {
        let mut tried = self.tried.clone();
        tried.push(self.place);
        Box::pin(async move {
            if tried.len() >= MAX_TRIED_SERVERS {
                return Err(Error::Connect(net::Error::NoAddress));
            }
            self.servers.choose(self.key, target.as_ref(), tried).await
        })
    }
}

impl Drop for Chosen {
    fn drop(&mut self) {
        if let Some(server) = self.server() {
            server.health.end_stream();
        }
    }
}

impl PacketOutbound for Servers {
    fn associate(&self, source: SocketAddr, _: bool) -> io::Result<Upstream> {
        let inner = &self.0;
        inner.note_request();
        let key = inner.key(Some(source), None);
        let order = inner.order(&inner.udp, key, |server| server.weights.udp);
        let server = order
            .first()
            .and_then(|place| inner.servers.get(*place))
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
        let carried = server.over_stream.as_ref().map(|settings| settings.carried);
        let (encoder, decoder) = match carried {
            // The stream is sealed, and what is in it is not.
            Some(Carried::Datagrams(_)) => (Encoder::Addressed, Decoder::Addressed),
            Some(Carried::Packets) | None => {
                let sealer =
                    PacketSealer::client(credentials, session).map_err(io::Error::other)?;
                let opener = ClientPackets::new(credentials, session);
                (Encoder::Seal(sealer), Decoder::Open(Box::new(opener)))
            }
        };
        Ok(Upstream {
            server: Some(peer.unwrap_or_else(|| endpoint.packet_address())),
            socket,
            encoder,
            decoder,
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

    fn packet_way(&self, _: &Address) -> Way {
        self.0.way(&self.0.udp)
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
