//! Visitors of reverse tunnels: on the server at a public port, on the client at a stream of the link.

pub mod http;

use std::net::SocketAddr;

use tokio::time::Instant;

use crate::net::Stream;
use crate::relay::Error;
use crate::relay::tcp::{Accepted, Inbound, Leg, Request};
use crate::wire::Address;

/// Whoever comes wants the one thing there is.
pub struct Visitors {
    /// What that is.
    pub target: Address,
}

impl Inbound for Visitors {
    async fn accept(
        &self,
        stream: Stream,
        peer: SocketAddr,
        _: Instant,
    ) -> Result<Accepted<'_>, Error> {
        Ok(Accepted::Request(Request {
            leg: Leg::plain(stream),
            target: self.target.clone(),
            reply: None,
            trusted: true,
            peer,
        }))
    }

    async fn punish(&self, _: Stream) {}
}
