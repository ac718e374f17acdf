//! Resolves a name and connects to one of its addresses.

use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::proxy_chain::{Chain, Hop, Protocol, is_nowhere, relay_at};
use crate::dns::{Addresses, Resolver};
use crate::net::dial::SpeaksFirst;
use crate::net::own::is_own;
use crate::net::shares::Party;
use crate::net::{self, SocketOptions, Stream, dial, udp};
use crate::relay::Error;
use crate::relay::failed::Way;
use crate::relay::udp::Destination;
use crate::wire::socks::Command;
use crate::wire::{Address, AddressRef};

/// An address that a client wants to reach.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    /// The target as the client gave it.
    pub target: AddressRef<'a>,
    /// One of its addresses.
    pub ip: IpAddr,
    /// Whether datagrams are for it, and not a stream.
    pub is_udp: bool,
    /// The name of the client's user, if it has one.
    pub user: Option<&'a str>,
}

/// Decides which addresses may be reached.
pub trait Gate: Send + Sync {
    /// Whether an address may be reached.
    fn admits(&self, candidate: &Candidate<'_>) -> bool;

    /// What the rules decide about it, and where the rule is written.
    fn rule(&self, candidate: &Candidate<'_>) -> String;
}

/// The same, shared.
pub type Filter = Arc<dyn Gate>;

/// For whom a target is looked up and reached. The default is the program itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct Client<'a> {
    /// The name of the user, if there is one.
    pub user: Option<&'a str>,
    /// Its address.
    pub ip: Option<IpAddr>,
}

impl Client<'_> {
    fn party(&self) -> Party {
        Party::of(self.user, self.ip)
    }
}

/// Opens sockets to names and addresses.
#[derive(Clone)]
pub struct Dialer {
    /// Resolves names.
    pub resolver: Arc<Resolver>,
    /// Options of the sockets.
    pub options: SocketOptions,
    /// The time limit of one connection attempt, over all addresses.
    pub connect_timeout: Duration,
    /// Refuses addresses of private networks and of this machine, after resolution.
    pub deny_private: bool,
    /// The proxies on the way; `None`: there are none.
    pub proxies: Option<Arc<Chain>>,
    /// Refuses other addresses, after resolution; `None`: none.
    pub filter: Option<Filter>,
}

/// Where proxies relay datagrams.
pub(super) struct Relays {
    /// The nearest.
    pub(super) first: SocketAddr,
    /// All of them, the nearest first.
    pub(super) places: Vec<Address>,
    /// The streams of the SOCKS5 proxies among them: a relay ends with its stream.
    pub(super) controls: Vec<Stream>,
}

impl Dialer {
    /// Connects to `target`. A `trusted` target may have a private address even with `deny_private`.
    ///
    /// # Errors
    /// [`Error::Resolve`], [`Error::Denied`], [`Error::Connect`], [`Error::Proxy`].
    pub async fn dial(
        &self,
        target: &Address,
        trusted: bool,
        first: SpeaksFirst,
    ) -> Result<Stream, Error> {
        let own = Client::default();
        self.dial_for(own, target, trusted, first).await
    }

    /// As [`Dialer::dial`], for a client.
    ///
    /// # Errors
    /// Those of [`Dialer::dial`], and [`Error::Blocked`].
    pub async fn dial_for(
        &self,
        client: Client<'_>,
        target: &Address,
        trusted: bool,
        first: SpeaksFirst,
    ) -> Result<Stream, Error> {
        if let Some(proxies) = &self.proxies {
            return Box::pin(self.dial_through(proxies, client, target, trusted)).await;
        }
        let addresses = self.addresses_for(client, target).await?;
        let port = target.port();
        if trusted || (!self.deny_private && self.filter.is_none()) {
            return self.connect(&addresses, port, first).await;
        }
        let (allowed, refusal) = self.allowed(&addresses, client.user, target);
        match refusal {
            Some(error) if allowed.is_empty() => Err(error),
            _ => self.connect(&allowed, port, first).await,
        }
    }

    /// Connects to one of `addresses`, which nothing checks any more.
    ///
    /// # Errors
    /// [`Error::Connect`].
    pub async fn connect(
        &self,
        addresses: &[IpAddr],
        port: u16,
        first: SpeaksFirst,
    ) -> Result<Stream, Error> {
        let limit = self.connect_timeout;
        Ok(dial::tcp(addresses, port, &self.options, first, limit).await?)
    }

    /// Those of the addresses of `target` that a stream may be opened to, and why the first of the others may not.
    fn allowed(
        &self,
        addresses: &[IpAddr],
        user: Option<&str>,
        target: &Address,
    ) -> (Vec<IpAddr>, Option<Error>) {
        let mut refusal = None;
        let mut allowed = Vec::new();
        for ip in addresses.iter().copied() {
            let candidate = Candidate {
                target: target.as_ref(),
                ip,
                is_udp: false,
                user,
            };
            match self.refuses(&candidate) {
                None => allowed.push(ip),
                Some(error) => refusal = refusal.or(Some(error)),
            }
        }
        (allowed, refusal)
    }

    fn refuses(&self, candidate: &Candidate<'_>) -> Option<Error> {
        if self.deny_private && (is_private(candidate.ip) || is_own(embedded(candidate.ip))) {
            return Some(Error::Denied(candidate.ip));
        }
        let filter = self.filter.as_ref()?;
        (!filter.admits(candidate)).then_some(Error::Blocked("target"))
    }

    /// Connects to `target` through proxies. The last of them resolves the name, unless its address must be checked here.
    async fn dial_through(
        &self,
        proxies: &Chain,
        client: Client<'_>,
        target: &Address,
        trusted: bool,
    ) -> Result<Stream, Error> {
        let connect = async {
            let target = match target {
                checked if !trusted && (self.deny_private || self.filter.is_some()) => {
                    Address::Ip(self.allowed_address(client, checked).await?)
                }
                other => other.clone(),
            };
            let (_, stream) = self.dial_proxy(proxies.first()).await?;
            proxies.pass(stream, target.as_ref()).await
        };
        self.in_time(proxies.first(), connect).await
    }

    /// Asks the proxies to relay datagrams.
    ///
    /// # Errors
    /// [`Error::Proxy`], or [`Error::Connect`] if a proxy relays no datagrams.
    pub(super) async fn associate(&self) -> Result<Relays, Error> {
        let hops = self.proxies.as_ref().and_then(|all| all.packet_relays());
        let hops = hops.unwrap_or_default();
        let associate = async {
            let mut relays = Relays {
                first: SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0),
                places: Vec::new(),
                controls: Vec::new(),
            };
            for (index, hop) in hops.iter().enumerate() {
                let place = match &hop.protocol {
                    Protocol::Socks5 => self.associate_one(index, hop, &mut relays).await?,
                    _ => hop.address.clone(),
                };
                relays.places.push(place);
            }
            let first = relays.places.first();
            let nearest = first.ok_or(Error::Connect(net::Error::NoAddress))?;
            let resolved = self.resolve(nearest, true).await;
            let resolved = resolved.ok_or(Error::Connect(net::Error::NoAddress))?;
            relays.first = resolved;
            Ok(relays)
        };
        self.in_time(hops.first(), associate).await
    }

    /// Asks a SOCKS5 proxy, through those before it, for a relay. Returns where that is.
    async fn associate_one(
        &self,
        index: usize,
        hop: &Hop,
        relays: &mut Relays,
    ) -> Result<Address, Error> {
        let proxies = self.proxies.as_ref();
        let proxies = proxies.ok_or(Error::Connect(net::Error::NoAddress))?;
        let (ip, stream) = self.dial_proxy(proxies.first()).await?;
        let stream = proxies.pass_some(index, stream, hop.address.as_ref());
        let stream = stream.await?;
        let anything = AddressRef::Ip((Ipv4Addr::UNSPECIFIED, 0).into());
        let bound = hop.socks(&stream, Command::UdpAssociate, anything).await;
        let bound = bound.map_err(hop.failed())?;
        relays.controls.push(stream);
        Ok(match (bound, &hop.address) {
            (Address::Ip(bound), _) if index == 0 => Address::Ip(relay_at(bound, ip)),
            (Address::Ip(bound), Address::Ip(proxy)) => Address::Ip(relay_at(bound, proxy.ip())),
            (Address::Ip(bound), Address::Domain(name, _)) if is_nowhere(bound) => {
                Address::Domain(name.clone(), bound.port())
            }
            (bound, _) => bound,
        })
    }

    /// Connects to a proxy. Returns its address too.
    async fn dial_proxy(&self, hop: Option<&Hop>) -> Result<(IpAddr, Stream), Error> {
        let hop = hop.ok_or(Error::Connect(net::Error::NoAddress))?;
        let connect = async {
            let addresses = self.addresses(&hop.address).await?;
            let (port, limit) = (hop.address.port(), self.connect_timeout);
            let stream = dial::tcp(&addresses, port, &self.options, SpeaksFirst::Us, limit).await?;
            Ok::<_, Error>((addresses, stream))
        };
        let (addresses, stream) = connect
            .await
            .map_err(|error| hop.failed()(format!("cannot be reached: {error}")))?;
        let ip = stream.peer_addr().map(|address| address.ip()).ok();
        let ip = ip.or_else(|| addresses.first().copied());
        Ok((ip.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)), stream))
    }

    /// Limits the time that proxies have for a connection.
    async fn in_time<T>(
        &self,
        hop: Option<&Hop>,
        connect: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let seconds = self.connect_timeout.as_secs();
        let timed_out = || match hop {
            Some(hop) => hop.failed()(format!("gave no connection within {seconds} s")),
            None => Error::Connect(net::Error::ConnectTimeout { seconds }),
        };
        timeout(self.connect_timeout, connect)
            .await
            .unwrap_or_else(|_| Err(timed_out()))
    }

    /// The first address of `target` that a stream may be opened to.
    async fn allowed_address(
        &self,
        client: Client<'_>,
        target: &Address,
    ) -> Result<SocketAddr, Error> {
        let addresses = self.addresses_for(client, target).await?;
        let (allowed, refusal) = self.allowed(&addresses, client.user, target);
        match (allowed.first(), refusal) {
            (Some(ip), _) => Ok(SocketAddr::new(*ip, target.port())),
            (None, Some(error)) => Err(error),
            (None, None) => Err(Error::Connect(net::Error::NoAddress)),
        }
    }

    /// An unconnected UDP socket.
    pub(super) fn udp_socket(&self) -> io::Result<udp::Socket> {
        udp::Socket::new(self.options.outgoing_udp()?, self.options.udp)
    }

    /// The address for datagrams to `target`, if it is known without a query.
    pub(super) fn locate(&self, target: AddressRef<'_>, trusted: bool) -> Destination {
        self.locate_for(None, target, trusted)
    }

    /// As [`Dialer::locate`], for a user.
    pub(super) fn locate_for(
        &self,
        user: Option<&str>,
        target: AddressRef<'_>,
        trusted: bool,
    ) -> Destination {
        let found = match target {
            AddressRef::Ip(address) => self.choose(user, &[address.ip()], target, trusted),
            AddressRef::Domain(name, _) => match self.resolver.cached(name) {
                Some(Ok(addresses)) => self.choose(user, &addresses, target, trusted),
                Some(Err(_)) => return Destination::Unresolvable,
                None => return Destination::Unresolved,
            },
        };
        found.map_or(Destination::Denied, Destination::Address)
    }

    /// The address for datagrams to `target`, by a query if need be.
    pub async fn resolve(&self, target: &Address, trusted: bool) -> Option<SocketAddr> {
        let own = Client::default();
        self.resolve_for(own, target, trusted).await
    }

    /// As [`Dialer::resolve`], for a client.
    pub(super) async fn resolve_for(
        &self,
        client: Client<'_>,
        target: &Address,
        trusted: bool,
    ) -> Option<SocketAddr> {
        let addresses = self.addresses_for(client, target).await.ok()?;
        self.choose(client.user, &addresses, target.as_ref(), trusted)
    }

    /// The addresses of `target`, if they are known without a query.
    #[must_use]
    pub fn known(&self, target: AddressRef<'_>) -> Option<Addresses> {
        match target {
            AddressRef::Ip(address) => Some(Arc::new([address.ip()])),
            AddressRef::Domain(name, _) => self.resolver.cached(name)?.ok(),
        }
    }

    /// The way of a request that has failed.
    pub(super) fn way(&self, target: Option<&Address>, user: Option<&str>, is_udp: bool) -> Way {
        let (Some(filter), Some(target)) = (&self.filter, target) else {
            return Way::default();
        };
        let target = target.as_ref();
        let known = self.known(target);
        let rule = |ip: &IpAddr| {
            filter.rule(&Candidate {
                target,
                ip: *ip,
                is_udp,
                user,
            })
        };
        Way {
            rule: known.as_ref().and_then(|ips| ips.first()).map(rule),
            ..Way::default()
        }
    }

    /// The addresses of `target`, by a query if need be.
    ///
    /// # Errors
    /// [`Error::Resolve`].
    pub async fn addresses(&self, target: &Address) -> Result<Addresses, Error> {
        self.addresses_for(Client::default(), target).await
    }

    /// As [`Dialer::addresses`], for a client.
    ///
    /// # Errors
    /// [`Error::Resolve`].
    pub async fn addresses_for(
        &self,
        client: Client<'_>,
        target: &Address,
    ) -> Result<Addresses, Error> {
        let name = match target {
            Address::Ip(address) => return Ok(Arc::new([address.ip()])),
            Address::Domain(name, _) => name,
        };
        let answer = match self.resolver.cached(name) {
            Some(answer) => answer,
            None => self.resolver.lookup_for(name, &client.party()).await,
        };
        answer.map_err(|error| Error::Resolve {
            name: name.to_string(),
            reason: error.to_string(),
        })
    }

    /// The first of the addresses of `target` that datagrams may be sent to.
    fn choose(
        &self,
        user: Option<&str>,
        addresses: &[IpAddr],
        target: AddressRef<'_>,
        trusted: bool,
    ) -> Option<SocketAddr> {
        let candidate = |ip| Candidate {
            target,
            ip,
            is_udp: true,
            user,
        };
        addresses
            .iter()
            .find(|ip| trusted || self.refuses(&candidate(**ip)).is_none())
            .map(|ip| SocketAddr::new(*ip, target.port()))
    }
}

/// Whether `ip` is not on the public internet: loopback, private, link-local (which includes the metadata services of
/// clouds), shared, of protocols or benchmarks, multicast or unspecified; or a way to such an address through a translator
/// or tunnel.
#[must_use]
pub fn is_private(ip: IpAddr) -> bool {
    match embedded(ip) {
        IpAddr::V4(ip) => {
            let [first, second, third, _] = ip.octets();
            ip.is_loopback()
                || ip.is_private()
                || ip.is_link_local()
                || ip.is_broadcast()
                || ip.is_multicast()
                // This network, shared addresses (RFC 6598), protocol assignments (RFC 6890), benchmarks (RFC 2544).
                || first == 0
                || (first == 100 && (64..128).contains(&second))
                || (first, second, third) == (192, 0, 0)
                || (first == 198 && (18..20).contains(&second))
        }
        IpAddr::V6(ip) => {
            ip.is_loopback()
                || ip.is_unspecified()
                || ip.is_multicast()
                || ip.is_unique_local()
                || ip.is_unicast_link_local()
                // Translation within a site (RFC 8215), and 6to4, which contains the address of a router (RFC 3056).
                || matches!(ip.segments(), [0x64, 0xff9b, 1, ..] | [0x2002, ..])
        }
    }
}

/// The IPv4 address that an address leads to, or the address itself.
fn embedded(ip: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = ip.to_canonical() else {
        return ip.to_canonical();
    };
    match v6.segments() {
        // 64:ff9b::/96 (RFC 6052 §2.1), and ::/96, which is out of use (RFC 4291 §2.5.5.1).
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0, 0, 0, 0, 0, 0, high @ 1..=u16::MAX, low] => {
            let [a, b] = high.to_be_bytes();
            let [c, d] = low.to_be_bytes();
            IpAddr::V4([a, b, c, d].into())
        }
        _ => IpAddr::V6(v6),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn recognizes_private_addresses() {
        let private = "127.0.0.1 10.1.2.3 172.31.0.1 192.168.1.1 169.254.169.254 100.64.0.1 0.0.0.0 224.0.0.1 ::1 :: \
            fe80::1 fd00::1 ff02::1 ::ffff:10.0.0.1 64:ff9b::a00:1 64:ff9b:1::1 64:ff9b:1:2::808:808 2002:808:808::1 \
            2002:7f00:1::1 198.18.0.1 198.19.255.255 192.0.0.1 192.0.0.171 64:ff9b::c612:1 ::ffff:198.18.0.1 ::10.0.0.1";
        for ip in private.split_whitespace() {
            assert!(is_private(ip.parse().unwrap()), "{ip}");
        }
        let public = "1.1.1.1 100.128.0.1 172.32.0.1 2606:4700::1111 64:ff9b::808:808 198.17.255.255 198.20.0.1 192.0.1.1 \
            64:ff9b:2::1 2003::1 ::8.8.8.8";
        for ip in public.split_whitespace() {
            assert!(!is_private(ip.parse().unwrap()), "{ip}");
        }
    }
}
