//! Connections that programs open through a tun device, with the destinations that they meant.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use tokio::time::Instant;

use super::redir::{Guard, request};
use super::sniff::Sniff;
use crate::dns::fake::Fakes;
use crate::net::Stream;
use crate::net::tun::Connections;
use crate::relay::Error;
use crate::relay::tcp::{Handshake, Inbound};

/// The port of DNS.
const DNS: u16 = 53;

/// Accepts the connections of one device.
pub struct TunStreams {
    /// The connections that were opened.
    pub connections: Arc<Connections>,
    /// The address that they come from.
    pub other: IpAddr,
    /// Where queries go, whatever name server programs ask.
    pub dns: Option<SocketAddr>,
    /// Which of them come from ourselves.
    pub guard: Guard,
    /// Names behind fake addresses.
    pub fakes: Fakes,
    /// How names are looked for in what programs send; `None`: they are not.
    pub sniff: Option<Sniff>,
}

impl Inbound for TunStreams {
    async fn handshake(
        &self,
        stream: Stream,
        peer: SocketAddr,
        _: Instant,
    ) -> Result<Handshake<'_>, Error> {
        let accepted = match peer.ip().to_canonical() == self.other {
            true => self.connections.accept(peer),
            false => None,
        };
        let Some(flow) = accepted else {
            stream.reset_on_close();
            return Err(Error::NotOffered(
                "the connection did not come through the tun device",
            ));
        };
        if self.guard.refusal(flow.source, flow.destination).is_some() {
            stream.reset_on_close();
            return Err(Error::NotOffered(
                "it is a connection of this machine to the server, perhaps our own: use `auto_route`, or a route to the server that does not lead into the tun device",
            ));
        }
        let destination = match self.dns {
            Some(server) if flow.destination.port() == DNS => server,
            _ => flow.destination,
        };
        let names = (&self.fakes, self.sniff.as_ref());
        let request = request(names, stream, flow.source, destination).await?;
        Ok(Handshake::Request(request))
    }
}
