//! What may stand between TCP and the protocol inside: TLS, WebSocket, or one in the other.

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
    /// Where WebSocket is read_request for, if at all, and whether mux.cool goes into it.
    pub ws: Option<(Endpoint, bool)>,
}

impl Client {
    /// Makes a connection to a server into one to the protocol inside.
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
    /// Where WebSocket is served, if at all.
    pub ws: Option<Endpoint>,
    /// Who is believed about where a client came from.
    pub trusted_proxies: Vec<Network>,
}

impl Server {
    /// Makes the connection of `peer` into one of the protocol inside, or several; returns with it whose it is. Strangers
    /// get what a web server would give them. Ends soon after `deadline`.
    ///
    /// # Errors
    /// What is wrong with the client, what the system says, or `TimedOut`.
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

/// The addresses that begin alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    ip: IpAddr,
    prefix: u8,
}

impl std::str::FromStr for Network {
    type Err = ();

    /// An IP address, or one with the length of a prefix: `10.0.0.0/8`.
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
    /// Whether `ip` is in it.
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
