//! The outbound of `ssr local`: each request goes direct, through servers, or nowhere, as the rules say.
//!
//! Without rules everything goes through the servers. Nothing goes direct unless a rule says so. If a rule compares
//! addresses, a name is resolved once: a direct connection goes only to addresses that the rules were asked about and that
//! go direct by themselves.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::outbound::current::Current;
use crate::outbound::dialer::{Client, Dialer};
use crate::outbound::direct::Direct;
use crate::outbound::shadowsocks::Servers;
use crate::relay::failed::Asked;
use crate::relay::tcp::{Leg, Outbound, Request};
use crate::relay::udp::{Destination, PacketOutbound, Route, Upstream};
use crate::relay::{Error, failed};
use crate::route::{Action, Host, Live, Network, Query, Step};
use crate::wire::{Address, AddressRef};

/// The upstream of datagrams that go through whichever server is chosen.
const PROXY: u16 = 0;
/// The upstream of datagrams that go direct.
const DIRECT: u16 = 1;
/// The upstream of datagrams that go through the first of the named servers.
const FIRST_NAMED: u16 = 2;

/// The outbound of one listener of `ssr local`.
#[derive(Clone)]
pub(in crate::app) struct Router {
    servers: Current,
    rules: Option<Arc<Rules>>,
}

/// What rules choose from.
pub(in crate::app) struct Rules {
    pub(in crate::app) live: Arc<Live>,
    /// The address of the listener, as rules name it.
    pub(in crate::app) local: Box<str>,
    /// Connects to targets without a server.
    pub(in crate::app) direct: Dialer,
    /// The servers that rules name.
    pub(in crate::app) named: Vec<(Arc<str>, Current)>,
}

/// Where a request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Proxy,
    Direct,
    Block,
    /// Through one of [`Rules::named`].
    Named(usize),
}

impl Rules {
    /// Where a request goes; `None`: the addresses of its name decide.
    fn way(&self, query: &Query<'_>, addresses: Option<&[IpAddr]>) -> Option<Way> {
        let current = self.live.current();
        let Step::Decided(decision) = current.decide(query, addresses) else {
            return None;
        };
        Some(match decision.action {
            Action::Proxy => Way::Proxy,
            Action::Direct => Way::Direct,
            Action::Block => Way::Block,
            Action::Server(name) => {
                let mut names = self.named.iter().map(|(name, _)| name);
                // The config has checked the name.
                names
                    .position(|one| one == name)
                    .map_or(Way::Block, Way::Named)
            }
        })
    }

    fn query<'a>(
        &'a self,
        target: AddressRef<'a>,
        network: Network,
        user: Option<&'a str>,
    ) -> Query<'a> {
        Query {
            host: match target {
                AddressRef::Ip(address) => Host::Ip(address.ip()),
                AddressRef::Domain(name, _) => Host::of_name(name),
            },
            port: target.port(),
            network,
            user,
            local: Some(&self.local),
        }
    }

    fn stream_query<'a>(&'a self, request: &'a Request) -> Query<'a> {
        let user = request.user.as_ref().and_then(|user| user.name());
        let query = self.query(request.target.as_ref(), Network::Tcp, user);
        query.claiming(request.claimed.as_deref())
    }

    /// Those of a name's addresses that go direct by themselves.
    fn direct_addresses<'a>(
        &'a self,
        query: &'a Query<'a>,
        addresses: &'a [IpAddr],
    ) -> impl Iterator<Item = IpAddr> + 'a {
        let goes_direct = |ip: &IpAddr| self.way(query, Some(&[*ip])) == Some(Way::Direct);
        addresses.iter().copied().filter(goes_direct)
    }

    /// Where a request goes, and the addresses that were needed to decide.
    async fn decide(
        &self,
        query: &Query<'_>,
        Request { target, peer, .. }: &Request,
    ) -> Result<(Way, Option<Vec<IpAddr>>), Error> {
        if let Some(way) = self.way(query, None) {
            return Ok((way, None));
        }
        let client = Client {
            user: query.user,
            ip: Some(peer.ip()),
        };
        let found = self.direct.addresses_for(client, target).await;
        let addresses = found.as_deref().unwrap_or_default();
        let way = self.way(query, Some(addresses)).unwrap_or(Way::Block);
        match (way, found) {
            // Whether it would go direct is not known without addresses.
            (Way::Direct, Err(error)) => Err(error),
            (Way::Direct, Ok(addresses)) => {
                let direct = self.direct_addresses(query, &addresses).collect();
                Ok((way, Some(direct)))
            }
            _ => Ok((way, None)),
        }
    }
}

impl Router {
    /// Everything goes through `servers`.
    pub(in crate::app) const fn through(servers: Current) -> Self {
        Self {
            servers,
            rules: None,
        }
    }

    /// Requests go where `rules` say; `servers` are those for `proxy`.
    pub(in crate::app) fn by_rules(servers: Current, rules: Rules) -> Self {
        Self {
            servers,
            rules: Some(Arc::new(rules)),
        }
    }

    /// The way of a request that has failed, by what is known of its target now.
    fn failed(&self, target: &Address, asked: &Asked<'_>, network: Network) -> failed::Way {
        let Some(rules) = &self.rules else {
            return match network {
                Network::Tcp => self.servers.way(asked),
                Network::Udp | Network::Name => self.servers.packet_way(target),
            };
        };
        let query = rules.query(target.as_ref(), network, asked.user);
        let query = query.claiming(asked.name);
        let known = rules.direct.known(target.as_ref());
        let seen = known.as_deref().unwrap_or_default();
        let way = rules.way(&query, None).map(|way| (way, None));
        let way = way.or_else(|| Some((rules.way(&query, Some(seen))?, Some(seen))));
        let (way, seen) = way.unwrap_or((Way::Block, None));
        let (servers, decision) = match way {
            Way::Proxy => (Some(self.servers.now()), "proxy"),
            Way::Direct => (None, "direct"),
            Way::Block => (None, "block"),
            Way::Named(place) => match rules.named.get(place) {
                Some((name, servers)) => (Some(servers.now()), &**name),
                None => (None, "block"),
            },
        };
        let server = servers.and_then(|servers| match network {
            Network::Tcp => servers.way(asked).server,
            Network::Udp | Network::Name => servers.packet_way(target).server,
        });
        failed::Way {
            server,
            rule: Some(rules.live.current().reason(&query, seen, decision)),
            is_visitor: false,
        }
    }

    /// The servers of an upstream of datagrams; `None`: it is the direct one.
    fn servers_of(&self, upstream: u16) -> Option<Servers> {
        match upstream {
            PROXY => Some(self.servers.now()),
            DIRECT => None,
            other => {
                let named = usize::from(other.saturating_sub(FIRST_NAMED));
                let named = self.rules.as_ref()?.named.get(named);
                named.map(|(_, servers)| servers.now())
            }
        }
    }
}

impl Outbound for Router {
    /// If it is known already that the request goes through a server.
    fn may_confirm_early(&self, request: &Request) -> bool {
        let Some(rules) = &self.rules else {
            return self.servers.may_confirm_early(request);
        };
        let query = rules.stream_query(request);
        let way = rules.way(&query, None).or_else(|| {
            let known = rules.direct.known(request.target.as_ref())?;
            rules.way(&query, Some(&known))
        });
        match way {
            Some(Way::Proxy) => self.servers.may_confirm_early(request),
            Some(Way::Named(place)) => {
                let named = rules.named.get(place);
                named.is_some_and(|(_, servers)| servers.may_confirm_early(request))
            }
            Some(Way::Direct | Way::Block) | None => false,
        }
    }

    async fn connect(&self, request: &Request) -> Result<Leg, Error> {
        let Some(rules) = &self.rules else {
            return self.servers.connect(request).await;
        };
        let query = rules.stream_query(request);
        let (way, addresses) = rules.decide(&query, request).await?;
        let name = request.claimed.as_deref();
        tracing::debug!(target = %request.target, name, ?way, "routed");
        match way {
            Way::Proxy => self.servers.connect(request).await,
            Way::Block => Err(Error::Blocked("target")),
            Way::Named(place) => match rules.named.get(place) {
                Some((_, servers)) => servers.connect(request).await,
                None => Err(Error::Blocked("target")),
            },
            Way::Direct => {
                let first = request.speaks_first();
                let (direct, target) = (&rules.direct, &request.target);
                let stream = match addresses {
                    Some(addresses) => direct.connect(&addresses, target.port(), first).await?,
                    None => {
                        let client = Client {
                            user: query.user,
                            ip: Some(request.peer.ip()),
                        };
                        direct.dial_for(client, target, true, first).await?
                    }
                };
                Ok(Leg::plain(stream))
            }
        }
    }

    fn way(&self, asked: &Asked<'_>) -> failed::Way {
        match asked.target {
            Some(target) => self.failed(target, asked, Network::Tcp),
            None => failed::Way::default(),
        }
    }
}

impl PacketOutbound for Router {
    fn associate(&self, client: SocketAddr, fixed_target: bool) -> io::Result<Upstream> {
        self.servers.associate(client, fixed_target)
    }

    fn upstreams(&self) -> u16 {
        let Some(rules) = &self.rules else {
            return 1;
        };
        u16::try_from(rules.named.len()).map_or(u16::MAX, |named| FIRST_NAMED.saturating_add(named))
    }

    fn route(&self, target: AddressRef<'_>, addresses: Option<&[IpAddr]>) -> Route {
        self.route_for(None, target, addresses)
    }

    fn route_for(
        &self,
        user: Option<&str>,
        target: AddressRef<'_>,
        addresses: Option<&[IpAddr]>,
    ) -> Route {
        let Some(rules) = &self.rules else {
            return Route::Upstream(PROXY, None);
        };
        let query = rules.query(target, Network::Udp, user);
        let known;
        let (way, seen) = match rules.way(&query, None) {
            Some(way) => (way, None),
            None => {
                known = rules.direct.known(target);
                let Some(seen) = addresses.or(known.as_deref()) else {
                    return Route::Unresolved;
                };
                let way = rules.way(&query, Some(seen)).unwrap_or(Way::Block);
                (way, Some(seen))
            }
        };
        match (way, seen) {
            (Way::Block, _) => Route::Blocked,
            (Way::Proxy, _) => Route::Upstream(PROXY, None),
            (Way::Named(place), _) => u16::try_from(place).map_or(Route::Blocked, |place| {
                Route::Upstream(FIRST_NAMED.saturating_add(place), None)
            }),
            (Way::Direct, None) => Route::Upstream(DIRECT, None),
            (Way::Direct, Some(seen)) => {
                let first = rules.direct_addresses(&query, seen).next();
                first.map_or(Route::Blocked, |ip| {
                    Route::Upstream(DIRECT, Some(SocketAddr::new(ip, target.port())))
                })
            }
        }
    }

    async fn addresses(&self, client: SocketAddr, target: &Address) -> Arc<[IpAddr]> {
        let Some(rules) = &self.rules else {
            return Arc::default();
        };
        let client = Client {
            user: None,
            ip: Some(client.ip()),
        };
        let found = rules.direct.addresses_for(client, target).await;
        found.unwrap_or_default()
    }

    fn associate_by(
        &self,
        upstream: u16,
        client: SocketAddr,
        fixed_target: bool,
    ) -> io::Result<Upstream> {
        match (self.servers_of(upstream), &self.rules) {
            (Some(servers), _) => servers.associate(client, fixed_target),
            (None, Some(rules)) if upstream == DIRECT => {
                Direct(rules.direct.clone()).associate(client, fixed_target)
            }
            _ => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    fn locate(&self, target: AddressRef<'_>, trusted: bool) -> Destination {
        self.servers.locate(target, trusted)
    }

    async fn resolve(&self, target: &Address, trusted: bool) -> Option<SocketAddr> {
        self.servers.resolve(target, trusted).await
    }

    fn packet_way(&self, target: &Address) -> failed::Way {
        self.failed(target, &Asked::default(), Network::Udp)
    }
}
