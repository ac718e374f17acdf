//! The transport between TCP and the protocol inside: TLS, WebSocket, or WebSocket inside TLS.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::site::{Guest, Left, Site};
use super::ws::{self, Streams};
use super::{Error, Stream, tls};
use crate::wire::http::Endpoint;

/// The client's side.
#[derive(Clone, Debug, Default)]
pub struct Client {
    /// TLS, if any.
    pub tls: Option<tls::Client>,
    /// The endpoint of the WebSocket, if any, and whether mux.cool is spoken inside.
    pub ws: Option<(Endpoint, bool)>,
}

impl Client {
    /// Runs the handshakes of the transport over a connection to a server.
    ///
    /// # Errors
    /// [`Error::Tls`], or those of [`ws::connect`].
    pub async fn upgrade(&self, mut stream: Stream) -> Result<Stream, Error> {
        if let Some(tls) = &self.tls {
            stream = tls.connect(stream).await?;
        }
        if let Some((endpoint, mux)) = &self.ws {
            stream = ws::connect(stream, endpoint, *mux).await?;
        }
        Ok(stream)
    }
}

/// The server's side.
#[derive(Default)]
pub struct Server {
    /// TLS, if any.
    pub tls: Option<tls::Server>,
    /// The endpoint of the WebSocket, if any.
    pub ws: Option<Endpoint>,
    /// The proxies whose header fields are believed when they name a client's address.
    pub trusted_proxies: Vec<Network>,
    /// The site of everybody who requests no WebSocket; without `ws`, of everybody.
    pub site: Option<Arc<Site>>,
}

/// What a connection turned out to be.
pub enum Entered {
    /// What is inside the transport, and the address of the client.
    Client(Streams, IpAddr),
    /// That of a visitor of the site, which has ended.
    Visitor,
}

impl Server {
    /// Runs the handshakes of the transport over the connection of `peer`. Returns the stream, or the streams, inside
    /// and the client's address. Strangers get the site, or the answer of a web server. Each part may take as long as `time`.
    /// `visits` is called when the connection is that of a visitor of the site, which may stay.
    ///
    /// # Errors
    /// What the client did wrong, what the system says, or `TimedOut`.
    pub async fn handshake(
        &self,
        mut stream: Stream,
        peer: IpAddr,
        time: Duration,
        visits: impl FnOnce() + Send,
    ) -> io::Result<Entered> {
        let deadline = Instant::now() + time;
        if let Some(tls) = &self.tls {
            stream = timeout_at(deadline, tls.handshake(stream))
                .await
                .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
        }
        if let Some(site) = &self.site {
            return Box::pin(self.enter_by(site, stream, peer, time, visits)).await;
        }
        let Some(endpoint) = &self.ws else {
            return Ok(Entered::Client(Streams::One(stream), peer));
        };
        let peer = ws::Peer {
            ip: peer,
            is_trusted: &|ip| self.trusts(ip),
        };
        let (streams, client) = ws::handshake(stream, endpoint, peer, deadline).await?;
        Ok(Entered::Client(streams, client))
    }

    /// The same where a site stands in front.
    async fn enter_by(
        &self,
        site: &Site,
        stream: Stream,
        peer: IpAddr,
        time: Duration,
        visits: impl FnOnce() + Send,
    ) -> io::Result<Entered> {
        let mut visited = false;
        let visits = || {
            visited = true;
            visits();
        };
        let guest = Guest {
            ip: peer,
            tls: self.tls.is_some(),
        };
        let until = Instant::now() + time;
        let gate = self.ws.as_ref();
        let visit = site.visit(stream, Vec::new(), guest, gate, until, visits);
        match visit.await {
            Left::Client {
                stream,
                rest,
                upgrade,
            } => {
                let client = upgrade.client(peer, |ip| self.trusts(ip));
                let streams = ws::begin(stream, rest, Instant::now() + time).await?;
                Ok(Entered::Client(streams, client))
            }
            Left::Ended if visited => Ok(Entered::Visitor),
            Left::Ended => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    fn trusts(&self, ip: IpAddr) -> bool {
        self.trusted_proxies.iter().any(|known| known.contains(ip))
    }
}

/// An IP network: the addresses with a common prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    ip: IpAddr,
    prefix: u8,
}

impl std::str::FromStr for Network {
    type Err = ();

    /// Reads an IP address, alone or with the length of a prefix: `10.0.0.0/8`.
    fn from_str(text: &str) -> Result<Self, ()> {
        let (ip, prefix) = match text.trim().split_once('/') {
            Some((ip, prefix)) => (ip, Some(prefix)),
            None => (text.trim(), None),
        };
        let ip = ip.parse::<IpAddr>().map_err(drop)?.to_canonical();
        let most = if ip.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            Some(prefix) => prefix.parse::<u8>().ok().filter(|prefix| *prefix <= most),
            None => Some(most),
        };
        prefix.map(|prefix| Self { ip, prefix }).ok_or(())
    }
}

impl Network {
    /// Whether the network contains `ip`; an IPv4-mapped address counts as IPv4.
    #[must_use]
    pub fn contains(&self, ip: IpAddr) -> bool {
        let (one, other, bits): (u128, u128, u32) = match (self.ip, ip.to_canonical()) {
            (IpAddr::V4(one), IpAddr::V4(other)) => {
                (u32::from(one).into(), u32::from(other).into(), 32)
            }
            (IpAddr::V6(one), IpAddr::V6(other)) => (one.into(), other.into(), 128),
            _ => return false,
        };
        let free = bits - u32::from(self.prefix);
        (one ^ other).checked_shr(free).unwrap_or(0) == 0
    }
}
