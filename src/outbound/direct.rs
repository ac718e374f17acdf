//! Straight to the target: resolve and connect.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use crate::dns::{Addresses, Resolver};
use crate::net::dial::SpeaksFirst;
use crate::net::{SocketOptions, Stream, dial, udp};
use crate::relay::Error;
use crate::relay::tcp::{Leg, Outbound, Request};
use crate::relay::udp::codec::{Unwrap, Wrap};
use crate::relay::udp::{Located, PacketOutbound, Upstream};
use crate::wire::{Address, AddressRef};

/// Connects to targets itself.
#[derive(Clone)]
pub struct Direct {
    /// For names.
    pub resolver: Arc<Resolver>,
    /// For the sockets.
    pub options: SocketOptions,
    /// How long connecting may take.
    pub connect: Duration,
    /// Whether addresses of private networks are refused, after resolution.
    pub deny_private: bool,
}

impl Direct {
    /// Connects to `target`, which may be private only when it is `trusted`.
    ///
    /// # Errors
    /// [`Error::Resolve`], [`Error::Denied`], [`Error::Connect`].
    pub async fn dial(
        &self,
        target: &Address,
        trusted: bool,
        first: SpeaksFirst,
    ) -> Result<Stream, Error> {
        let addresses = self.addresses(target).await?;
        let connect = async |addresses: &[IpAddr]| {
            let limit = self.connect;
            dial::tcp(addresses, target.port(), &self.options, first, limit).await
        };
        if trusted || !self.deny_private {
            return Ok(connect(&addresses).await?);
        }
        let public: Vec<IpAddr> = addresses
            .iter()
            .copied()
            .filter(|ip| !is_private(*ip))
            .collect();
        if let (true, Some(denied)) = (public.is_empty(), addresses.first()) {
            return Err(Error::Denied(*denied));
        }
        Ok(connect(&public).await?)
    }

    async fn addresses(&self, target: &Address) -> Result<Addresses, Error> {
        let name = match target {
            Address::Ip(address) => return Ok(Arc::new([address.ip()])),
            Address::Domain(name, _) => name,
        };
        let answer = match self.resolver.cached(name) {
            Some(answer) => answer,
            None => self.resolver.lookup(name).await,
        };
        answer.map_err(|error| Error::Resolve {
            name: name.to_string(),
            reason: error.to_string(),
        })
    }

    fn choose(&self, addresses: &[IpAddr], port: u16, trusted: bool) -> Option<SocketAddr> {
        let allowed = |ip: &&IpAddr| trusted || !self.deny_private || !is_private(**ip);
        addresses
            .iter()
            .find(allowed)
            .map(|ip| SocketAddr::new(*ip, port))
    }
}

impl Outbound for Direct {
    fn may_confirm_early(&self) -> bool {
        false
    }

    async fn connect(&self, request: &Request) -> Result<Leg, Error> {
        let first = request.speaks_first();
        let stream = self.dial(&request.target, request.trusted, first).await?;
        Ok(Leg::plain(stream))
    }
}

impl PacketOutbound for Direct {
    fn open(&self, sealed: bool) -> io::Result<Upstream> {
        Ok(Upstream {
            socket: udp::Socket::new(self.options.outgoing_udp()?, self.options.udp)?,
            server: None,
            wrap: Wrap::Bare,
            unwrap: if sealed { Unwrap::Sealed } else { Unwrap::Bare },
            carrying: None,
        })
    }

    fn locate(&self, target: AddressRef<'_>, trusted: bool) -> Located {
        let found = match target {
            AddressRef::Ip(address) => self.choose(&[address.ip()], address.port(), trusted),
            AddressRef::Domain(name, port) => match self.resolver.cached(name) {
                Some(Ok(addresses)) => self.choose(&addresses, port, trusted),
                Some(Err(_)) => None,
                None => return Located::Unknown,
            },
        };
        found.map_or(Located::Denied, Located::At)
    }

    async fn resolve(&self, target: &Address, trusted: bool) -> Option<SocketAddr> {
        let addresses = self.addresses(target).await.ok()?;
        self.choose(&addresses, target.port(), trusted)
    }
}

/// Whether an address is none of the public internet: loopback, private, link-local (with the metadata services of
/// clouds), shared, multicast, or none at all.
#[must_use]
pub fn is_private(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            let shared = ip
                .octets()
                .first_chunk::<2>()
                .is_some_and(|[a, b]| *a == 100 && (64..128).contains(b));
            let this_network = ip.octets().first() == Some(&0);
            ip.is_loopback()
                || ip.is_private()
                || ip.is_link_local()
                || ip.is_broadcast()
                || ip.is_multicast()
                || shared
                || this_network
        }
        IpAddr::V6(ip) => {
            ip.is_loopback()
                || ip.is_unspecified()
                || ip.is_multicast()
                || ip.is_unique_local()
                || ip.is_unicast_link_local()
                // 64:ff9b::/96 leads to an IPv4 address (RFC 6052).
                || matches!(ip.segments(), [0x64, 0xff9b, 0, 0, 0, 0, a, b] if {
                    let [[a, b], [c, d]] = [a.to_be_bytes(), b.to_be_bytes()];
                    is_private(IpAddr::V4([a, b, c, d].into()))
                })
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn private_networks_are_known() {
        let private = [
            "127.0.0.1",
            "10.1.2.3",
            "172.31.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "224.0.0.1",
            "::1",
            "::",
            "fe80::1",
            "fd00::1",
            "ff02::1",
            "::ffff:10.0.0.1",
            "64:ff9b::a00:1",
        ];
        for ip in private {
            assert!(is_private(ip.parse().unwrap()), "{ip}");
        }
        for ip in [
            "1.1.1.1",
            "100.128.0.1",
            "172.32.0.1",
            "2606:4700::1111",
            "64:ff9b::808:808",
        ] {
            assert!(!is_private(ip.parse().unwrap()), "{ip}");
        }
    }
}
