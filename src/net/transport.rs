//! The transport between TCP and the protocol inside: TLS, WebSocket, or WebSocket inside TLS.

use std::io;
use std::net::IpAddr;

use tokio::time::{Instant, timeout_at};

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
#[derive(Debug, Default)]
pub struct Server {
    /// TLS, if any.
    pub tls: Option<tls::Server>,
    /// The endpoint of the WebSocket, if any.
    pub ws: Option<Endpoint>,
    /// The proxies whose header fields are believed when they name a client's address.
    pub trusted_proxies: Vec<Network>,
}

impl Server {
    /// Runs the handshakes of the transport over the connection of `peer`. Returns the stream, or the streams, inside
    /// and the client's address. Strangers get the answer of a web server. Ends soon after `deadline`.
    ///
    /// # Errors
    /// What the client did wrong, what the system says, or `TimedOut`.
    pub async fn handshake(
        &self,
        mut stream: Stream,
        peer: IpAddr,
        deadline: Instant,
    ) -> io::Result<(Streams, IpAddr)> {
        if let Some(tls) = &self.tls {
            stream = timeout_at(deadline, tls.handshake(stream))
                .await
                .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
        }
        let Some(endpoint) = &self.ws else {
            return Ok((Streams::One(stream), peer));
        };
        let peer = ws::Peer {
            ip: peer,
            is_trusted: &|ip| self.trusted_proxies.iter().any(|known| known.contains(ip)),
        };
        ws::handshake(stream, endpoint, peer, deadline).await
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
