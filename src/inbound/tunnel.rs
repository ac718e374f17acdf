//! A port with one target: whoever connects is taken there.

use std::net::SocketAddr;

use tokio::time::Instant;

use crate::net::Stream;
use crate::relay::Error;
use crate::relay::tcp::{First, Inbound, Leg, Request};
use crate::wire::Address;

/// Asks for the same target on behalf of every client. There is no handshake, so clients cannot do it wrong.
pub struct Tunnel {
    /// The target.
    pub target: Address,
}

impl Inbound for Tunnel {
    async fn accept(
        &self,
        stream: Stream,
        _: SocketAddr,
        _: Instant,
    ) -> Result<Option<Request>, Error> {
        Ok(Some(Request {
            leg: Leg {
                stream,
                codec: None,
                first: First::Nothing,
            },
            target: self.target.clone(),
            reply: None,
            trusted: true,
        }))
    }

    async fn punish(&self, _: Stream) {}
}
