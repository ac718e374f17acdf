//! Connections and datagrams that the firewall redirects to us, with the destinations that their programs meant.

pub mod packets;

use std::net::{IpAddr, SocketAddr};

use tokio::time::Instant;

use crate::dns::fake::Fakes;
use crate::net::Stream;
use crate::net::redirect::is_own;
use crate::relay::tcp::{Handshake, Inbound, Leg, Request};
use crate::relay::{Error, Side};
use crate::wire::Address;

use super::sniff::{self, Sniff};

/// How the firewall passes connections on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// `REDIRECT` or `DNAT`: it changes the destination, and remembers the original one.
    Redirect,
    /// `TPROXY`: the destination stays, and is the local address of our socket.
    Tproxy,
}

/// Accepts redirected connections.
pub struct Redirected {
    /// How they are redirected.
    pub method: Method,
    /// Which of them come from ourselves.
    pub guard: Guard,
    /// Names behind fake addresses.
    pub fakes: Fakes,
    /// How names are looked for in what programs send; `None`: they are not.
    pub sniff: Option<Sniff>,
}

/// The request of a program that wants to reach `destination`. If a name is looked for, a few bytes are read.
pub(super) async fn request(
    (fakes, sniff): (&Fakes, Option<&Sniff>),
    stream: Stream,
    peer: SocketAddr,
    destination: SocketAddr,
) -> Result<Request, Error> {
    let Ok(target) = fakes.target(destination) else {
        stream.reset_on_close();
        return Err(Error::NoName(destination));
    };
    let mut request = Request {
        trusted: false,
        ..Request::chosen(stream, peer, target)
    };
    if let (Some(sniff), Address::Ip(_)) = (sniff, &request.target)
        && (sniff.is_wanted)()
    {
        let found = sniff::name(&request.leg.stream).await;
        let (name, ahead) = found.map_err(Error::io(Side::Client))?;
        request.leg = Leg::ahead(request.leg.stream, ahead);
        match name {
            Some(name) if sniff.overrides => {
                request.target = Address::Domain(name, destination.port());
            }
            name => request.claimed = name,
        }
    }
    Ok(request)
}

impl Inbound for Redirected {
    async fn handshake(
        &self,
        stream: Stream,
        peer: SocketAddr,
        _: Instant,
    ) -> Result<Handshake<'_>, Error> {
        let destination = match self.method {
            Method::Redirect => stream.original_destination().map_err(|error| {
                if error.kind() == std::io::ErrorKind::NotFound {
                    return Error::NotOffered("no firewall redirected this connection");
                }
                Error::io(Side::Client)(error)
            })?,
            Method::Tproxy => stream.local_addr().map_err(Error::io(Side::Client))?,
        };
        let destination = canonical(destination);
        if let Some(reason) = self.guard.refusal(canonical(peer), destination) {
            stream.reset_on_close();
            return Err(Error::NotOffered(reason));
        }
        let names = (&self.fakes, self.sniff.as_ref());
        let request = request(names, stream, peer, destination).await?;
        Ok(Handshake::Request(request))
    }
}

/// Recognizes what would come back to us for ever.
#[derive(Clone)]
pub struct Guard {
    /// The address that we listen on.
    pub listener: SocketAddr,
    /// The addresses of the servers, as far as the config has them.
    pub servers: Vec<SocketAddr>,
}

impl Guard {
    /// Why traffic from `peer` to `destination` must not be relayed; `None`: it may be.
    pub(super) fn refusal(
        &self,
        peer: SocketAddr,
        destination: SocketAddr,
    ) -> Option<&'static str> {
        if destination.port() == self.listener.port() && self.listens_at(destination.ip()) {
            return Some(
                "its destination is this listener itself: only what a firewall redirects may come here",
            );
        }
        if self.servers.contains(&destination) && is_own(peer.ip()) {
            return Some(
                "the firewall redirects a connection of this machine to the server, which may be our own: set `outbound_fwmark`, and use the rules of `ssr redir-rules`",
            );
        }
        None
    }

    fn listens_at(&self, ip: IpAddr) -> bool {
        let listener = self.listener.ip().to_canonical();
        ip == listener || ((listener.is_unspecified() || ip.is_loopback()) && is_own(ip))
    }
}

/// Turns an IPv4-mapped IPv6 address into the IPv4 address.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn refuses(listener: &str, peer: &str, destination: &str) -> bool {
        let guard = Guard {
            listener: listener.parse().unwrap(),
            servers: vec!["192.0.2.9:8388".parse().unwrap()],
        };
        let (peer, destination) = (peer.parse().unwrap(), destination.parse().unwrap());
        guard.refusal(peer, destination).is_some()
    }

    #[test]
    fn what_would_come_back_is_refused() {
        for listener in ["127.0.0.1:1080", "0.0.0.0:1080", "[::]:1080"] {
            assert!(
                refuses(listener, "127.0.0.1:5", "127.0.0.1:1080"),
                "{listener}"
            );
            assert!(
                refuses(listener, "127.0.0.1:5", "192.0.2.9:8388"),
                "{listener}"
            );
            assert!(
                !refuses(listener, "127.0.0.1:5", "192.0.2.9:80"),
                "{listener}"
            );
            assert!(
                !refuses(listener, "192.0.2.7:5", "192.0.2.9:8388"),
                "{listener}"
            );
            assert!(
                !refuses(listener, "127.0.0.1:5", "192.0.2.1:1080"),
                "{listener}"
            );
            assert!(
                !refuses(listener, "127.0.0.1:5", "127.0.0.1:80"),
                "{listener}"
            );
        }
        assert!(refuses("[::1]:1080", "[::1]:5", "[::1]:1080"));
    }
}
