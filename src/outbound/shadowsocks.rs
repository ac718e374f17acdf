//! Goes through one of several Shadowsocks servers.

mod choice;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::{sleep, timeout};

use super::balancer::Balancer;
use super::balancer::health::Health;
use super::balancer::probe::{self, Activity, Ask, Kind, Probe, Probed};
use super::balancer::race::race;
use super::balancer::strategy::{Candidate, HashBy, Key, Strategy, arrange, hash, ranking};
use super::reach::Sharing;
use super::server::{AskPackets, AskStreams, Only, WayIn};
pub use super::server::{Server, ServerState, Weights};
use crate::limits::MAX_TRIED_SERVERS;
use crate::net;
use crate::net::changes::{Changes, Sleep, suspended};
use crate::net::lost::OwnAddresses;
use crate::net::tasks::Tasks;
use crate::relay::Error;
use crate::relay::failed::{Asked, Way};
use crate::relay::tcp::{Failure, Leg, NextLeg, Others, Outbound, Request};
use crate::relay::udp::{Destination, PacketOutbound, ServerCheck, Upstream};
use crate::wire::{Address, AddressRef};

/// The pause between two looks at the changes of the network, which come in groups.
const CHANGES_PAUSE: Duration = Duration::from_millis(200);
/// How long a spare connection of the only server may take to answer, if what was sent on it is acknowledged.
const SPARE_PATIENCE: Duration = Duration::from_secs(10);

fn shared(servers: Vec<Server>) -> Vec<Arc<Server>> {
    servers.into_iter().map(Arc::new).collect()
}

/// The server of an association.
struct PacketServer {
    servers: Servers,
    place: usize,
}

impl ServerCheck for PacketServer {
    fn has_failed(&self) -> bool {
        let inner = &self.servers.0;
        inner.packet_activity.note();
        let avoids = |place: &usize| {
            let server = inner.servers.get(*place);
            server.is_none_or(|server| inner.avoids(server, Kind::Udp))
        };
        avoids(&self.place) && !inner.udp.iter().all(avoids)
    }
}

/// Several servers, in an order that depends on their weights or on `balancer`. The first that works is used.
#[derive(Clone)]
pub struct Servers(Arc<Inner>);

struct Inner {
    servers: Vec<Arc<Server>>,
    /// Indexes of the servers for streams, and of those for datagrams, the heaviest first.
    tcp: Vec<usize>,
    udp: Vec<usize>,
    strategy: Strategy,
    /// Whether probes find out that a server works again, for streams and for datagrams.
    probed: bool,
    packets_probed: bool,
    activity: Arc<Activity>,
    packet_activity: Arc<Activity>,
    /// Requests so far.
    turn: AtomicUsize,
    /// The place of the server that the operator has chosen; none has the highest number.
    chosen: AtomicUsize,
    sleep: Sleep,
    /// They carry packets over streams.
    tasks: Tasks,
    /// They probe, and watch the network, until other servers are used.
    background: Tasks,
}

impl Servers {
    /// Servers by weight, and within a weight in the order of the config. Needs at least one server; without any, every
    /// connection fails.
    #[must_use]
    pub fn new(servers: Vec<Server>) -> Self {
        Self::of(shared(servers), None)
    }

    /// Servers by the strategy of `balancer`. Where it has probes, call it inside a runtime, which then runs them.
    #[must_use]
    pub fn balanced(servers: Vec<Server>, balancer: Balancer) -> Self {
        Self::of(shared(servers), Some(balancer))
    }

    /// The same, of servers that may be in use already: what is known of them is kept.
    #[must_use]
    pub fn of(servers: Vec<Arc<Server>>, balancer: Option<Balancer>) -> Self {
        let (strategy, probe) = match balancer {
            Some(Balancer { strategy, probe }) => (strategy, probe),
            None => (Strategy::Weight, None),
        };
        let servers = Self::build(servers, strategy, probe.as_ref());
        if let Some(probe) = probe {
            servers.probe(&Arc::new(probe));
        }
        servers.watch_network();
        servers
    }

    /// Those at some places of the config, by weight. What is known of a server is shared with this.
    #[must_use]
    pub fn only(&self, meant: impl Fn(usize) -> bool) -> Self {
        let servers = self.0.servers.iter().enumerate();
        let meant = servers.filter(|(place, _)| meant(*place));
        let servers = meant.map(|(_, server)| Arc::clone(server)).collect();
        Self::build(servers, Strategy::Weight, None)
    }

    /// Whether `name` is the name of one of them.
    #[must_use]
    pub fn has_name(&self, name: &str) -> bool {
        let mut addresses = self.0.servers.iter().map(|one| &one.endpoint.address);
        addresses.any(
            |address| matches!(address, Address::Domain(own, _) if own.eq_ignore_ascii_case(name)),
        )
    }

    /// Other servers are used from now on: these are not probed any more. What goes through them goes on.
    pub(super) fn retire(&self) {
        self.0.background.abort();
    }

    fn build(servers: Vec<Arc<Server>>, strategy: Strategy, probe: Option<&Probe>) -> Self {
        let tcp = ranking(servers.iter().map(|server| server.weights.tcp));
        let udp = ranking(servers.iter().map(|server| server.weights.udp));
        let probes_packets = probe.is_some_and(|probe| probe.name_server.is_some());
        Self(Arc::new(Inner {
            // With one server there is nothing to choose.
            probed: probe.is_some() && tcp.len() > 1,
            packets_probed: probes_packets && udp.len() > 1,
            tcp,
            udp,
            servers,
            strategy,
            activity: Arc::default(),
            packet_activity: Arc::default(),
            turn: AtomicUsize::new(0),
            chosen: AtomicUsize::new(usize::MAX),
            sleep: Sleep::new(suspended()),
            tasks: Tasks::default(),
            background: Tasks::default(),
        }))
    }

    /// Probes the servers, on the runtime that this is called on.
    fn probe(&self, probe: &Arc<Probe>) {
        let inner = &self.0;
        for (kind, wanted, ranked, activity) in [
            (Kind::Tcp, inner.probed, &inner.tcp, &inner.activity),
            (
                Kind::Udp,
                inner.packets_probed,
                &inner.udp,
                &inner.packet_activity,
            ),
        ] {
            if !wanted {
                continue;
            }
            let probed = ranked.iter().filter_map(|place| {
                let server = inner.servers.get(*place)?;
                let ask: Arc<dyn Ask> = match kind {
                    Kind::Tcp => Arc::new(AskStreams(Arc::clone(server))),
                    Kind::Udp => Arc::new(AskPackets(Arc::clone(server), Tasks::default())),
                };
                Some(Probed {
                    address: server.endpoint.address.clone(),
                    ask,
                    health: Arc::clone(server.health(kind)),
                    weight: server.weight(kind)?,
                })
            });
            let run = probe::run(
                kind,
                Arc::clone(probe),
                probed.collect(),
                Arc::clone(activity),
            );
            inner.background.spawn(run);
        }
    }

    /// Reacts to changes of the network, on the runtime that this is called on.
    fn watch_network(&self) {
        if Handle::try_current().is_err() {
            return;
        }
        let weak = Arc::downgrade(&self.0);
        self.0.background.spawn(async move {
            // Without it, dead connections are noticed when they are used.
            let Ok(mut changes) = Changes::listen() else {
                return;
            };
            let mut addresses = OwnAddresses::default();
            end_lost(&mut addresses).await;
            while changes.next().await.is_ok() {
                let Some(inner) = weak.upgrade() else { return };
                inner.renew();
                drop(inner);
                end_lost(&mut addresses).await;
                // What follows within this time is taken for one change, at the end of it.
                sleep(CHANGES_PAUSE).await;
            }
        });
    }
}

/// Ends the connections from addresses that the machine has lost.
async fn end_lost(addresses: &mut OwnAddresses) {
    match addresses.look().await {
        Ok(0) => {}
        Ok(connections) => {
            tracing::debug!(
                connections,
                "connections from an address that is gone were ended"
            );
        }
        Err(error) => tracing::debug!(%error, "cannot look for connections from lost addresses"),
    }
}

impl Inner {
    /// The network is another one, or the machine has slept: what is connected may be dead, and what failed may work.
    fn renew(&self) {
        for server in &self.servers {
            server.health.forgive();
            server.packet_health.forgive();
            server.warm.renew(&server.endpoint);
            server.endpoint.network_changed();
            if let Some(sessions) = &server.sessions {
                sessions.retire();
            }
        }
        tracing::debug!("the network has changed: spare connections are made anew");
        if self.probed {
            self.activity.probe_now();
        }
        if self.packets_probed {
            self.packet_activity.probe_now();
        }
    }

    /// To be called for each request.
    fn note_request(&self, activity: &Activity) {
        activity.note();
        if self.sleep.has_slept(suspended()) {
            self.renew();
        }
    }

    /// The places of the servers in the order in which they are tried: by the strategy, with those that failed last.
    fn order(&self, kind: Kind, key: Key) -> Vec<usize> {
        let ranking = match kind {
            Kind::Tcp => &self.tcp,
            Kind::Udp => &self.udp,
        };
        let candidate = |place: &usize| {
            let server = self.servers.get(*place)?;
            let candidate = Candidate {
                place: *place,
                weight: server.weight(kind).unwrap_or_default(),
                streams: server.health.streams(),
                score: match self.strategy {
                    Strategy::Latency => server.health(kind).score(),
                    _ => 0.0,
                },
            };
            Some((candidate, self.avoids(server, kind)))
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
        self.prefer_chosen(&mut order);
        order
    }

    /// Whether a server comes after the others. Without probes for datagrams, a server that fails for streams fails for them.
    fn avoids(&self, server: &Server, kind: Kind) -> bool {
        match kind {
            Kind::Udp if self.packets_probed => server.packet_health.is_avoided(true),
            Kind::Udp if server.packet_health.is_avoided(false) => true,
            Kind::Udp if server.weights.tcp.is_none() => false,
            Kind::Tcp | Kind::Udp => server.health.is_avoided(self.probed),
        }
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

    /// Connects to the first server that answers, but for those in `tried`, and returns its place.
    /// Adds those that could not be connected to to `tried`. All takes no longer than one connection may.
    async fn dial(
        &self,
        key: Key,
        tried: &mut Vec<usize>,
        sharing: Sharing,
    ) -> Result<(usize, WayIn), Error> {
        if self.servers.is_empty() {
            return Err(Error::NotOffered(
                "no server is known yet; the log says why `online_config` has brought none",
            ));
        }
        let nowhere = || Error::Connect(net::Error::NoAddress);
        if let ([only], []) = (&self.tcp[..], &tried[..]) {
            let server = self.servers.get(*only).ok_or_else(nowhere)?;
            return Ok((*only, server.way_in(sharing).await?));
        }
        let mut places = self.order(Kind::Tcp, key);
        places.retain(|place| !tried.contains(place));
        let patience = |place: usize| {
            let server = self.servers.get(place);
            server.map_or(Duration::ZERO, |server| server.health.connected_within())
        };
        let dial = |place: usize| async move {
            let server = self.servers.get(place).ok_or_else(nowhere)?;
            server.way_in(sharing).await
        };
        let first = places.first().and_then(|place| self.servers.get(*place));
        let limit = first.ok_or_else(nowhere)?.endpoint.dialer.connect_timeout;
        let seconds = limit.as_secs();
        let won = timeout(limit, race(places, patience, dial)).await;
        let won = won.unwrap_or(Err(Error::Connect(net::Error::ConnectTimeout { seconds })))?;
        for place in &won.unanswered {
            if let Some(server) = self.servers.get(*place) {
                server.unreachable(&"no answer yet, and another server has answered");
            }
        }
        tried.extend(won.unanswered.into_iter().chain(won.failed));
        Ok((won.place, won.stream))
    }
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
        inner.note_request(&inner.activity);
        let key = inner.key(Some(request.peer), Some(target));
        self.choose(key, target, Vec::new()).await
    }

    fn way(&self, _: &Asked<'_>) -> Way {
        self.0.way(&self.0.tcp)
    }
}

impl Servers {
    /// Opens a stream to `target` through the first server that can be reached, on a connection of its own.
    ///
    /// # Errors
    /// The error of the last server that was tried.
    pub async fn reach(&self, target: AddressRef<'_>) -> Result<Leg, Error> {
        let inner = &self.0;
        let key = inner.key(None, Some(target));
        let (place, way) = inner.dial(key, &mut Vec::new(), Sharing::Alone).await?;
        let server = inner.servers.get(place);
        let server = server.ok_or(Error::Connect(net::Error::NoAddress))?;
        Ok(way.leg(server, target))
    }

    /// The same, through a server that is not in `tried`; the leg knows the others.
    async fn choose(
        &self,
        key: Key,
        target: AddressRef<'_>,
        mut tried: Vec<usize>,
    ) -> Result<Leg, Error> {
        // A second attempt has a connection of its own: it does not depend on a session that others use.
        let sharing = Sharing::of(tried.is_empty());
        let (place, way) = self.0.dial(key, &mut tried, sharing).await?;
        let (is_only, is_spare) = (self.0.tcp.len() == 1, way.is_spare());
        let server = self.0.servers.get(place);
        let server = server.ok_or(Error::Connect(net::Error::NoAddress))?;
        let mut leg = way.leg(server, target);
        if is_only && !is_spare {
            leg.others = Some(Box::new(Only(Arc::clone(server))));
            return Ok(leg);
        }
        Ok(self.chosen(leg, (place, is_only && is_spare), key, tried))
    }

    /// Makes a leg know the other servers; or, if it is the spare of the only one, that a fresh connection may work.
    fn chosen(
        &self,
        mut leg: Leg,
        (place, is_only_spare): (usize, bool),
        key: Key,
        tried: Vec<usize>,
    ) -> Leg {
        if let Some(server) = self.0.servers.get(place) {
            server.health.begin_stream();
        }
        leg.others = Some(Box::new(Chosen {
            servers: self.clone(),
            place,
            is_only_spare,
            key,
            tried,
        }));
        leg
    }
}

/// The server of a leg, for as long as the leg is used.
struct Chosen {
    servers: Servers,
    place: usize,
    /// There is no other server, and the connection was a spare, which may have died without a trace.
    is_only_spare: bool,
    key: Key,
    /// The places of those that were tried before, and of those that could not be connected to then.
    tried: Vec<usize>,
}

impl Chosen {
    fn server(&self) -> Option<&Server> {
        self.servers.0.servers.get(self.place).map(Arc::as_ref)
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
        if self.is_only_spare {
            // The server is asked again, which helps only if the connection is dead.
            return SPARE_PATIENCE;
        }
        self.time(Health::answered_within)
    }

    fn answered(&self, after: Option<Duration>) {
        if let Some(server) = self.server() {
            server.answered(after);
        }
    }

    fn failed(&self, failure: &Failure) {
        match self.server() {
            Some(server) if self.is_only_spare => server.warm.clear(),
            Some(server) => server.unanswered(failure),
            None => {}
        }
    }

    fn unanswered(&self, failure: &Failure, target: &str) {
        if let Some(server) = self.server() {
            server.silent(failure, target);
        }
    }

    fn has_answered(&self) -> bool {
        // Nothing is won by sending a request twice to the only server.
        self.is_only_spare
            || self
                .server()
                .is_none_or(|server| server.health.has_answered())
    }

    fn is_suspect(&self) -> bool {
        self.server()
            .is_some_and(|server| server.health.is_suspect())
    }

    fn server(&self) -> Option<String> {
        Some(Self::server(self)?.endpoint.address.to_string())
    }

    fn next<'a>(&'a self, target: &'a Address) -> NextLeg<'a> {
        let mut tried = self.tried.clone();
        tried.push(self.place);
        Box::pin(async move {
            let nowhere = || Error::Connect(net::Error::NoAddress);
            if self.is_only_spare {
                let server = self.server().ok_or_else(nowhere)?;
                let leg = server.endpoint.leg(server.open().await?, target.as_ref());
                return Ok(self
                    .servers
                    .chosen(leg, (self.place, false), self.key, tried));
            }
            if tried.len() >= MAX_TRIED_SERVERS {
                return Err(nowhere());
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
        inner.note_request(&inner.packet_activity);
        let key = inner.key(Some(source), None);
        let order = inner.order(Kind::Udp, key);
        let server = order
            .first()
            .and_then(|place| inner.servers.get(*place))
            .ok_or(io::ErrorKind::NotConnected)?;
        let mut upstream = server.packets(&inner.tasks)?;
        if let (Some(place), 2..) = (order.first().copied(), inner.udp.len()) {
            let servers = self.clone();
            upstream.check = Some(Arc::new(PacketServer { servers, place }));
        }
        Ok(upstream)
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
