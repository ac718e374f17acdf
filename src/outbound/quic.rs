//! Connects to a target that speaks QUIC: a stream for each request, in one connection.

use super::dialer::Dialer;
use crate::net::quic;
use crate::relay::tcp::{Leg, Outbound, Request};
use crate::relay::{Error, Side};
use crate::wire::quic_forward;

/// Opens streams to a target.
pub struct QuicTarget {
    /// Finds its addresses.
    pub dialer: Dialer,
    /// The connection to it.
    pub client: quic::Client,
}

impl Outbound for QuicTarget {
    fn may_confirm_early(&self, _: &Request) -> bool {
        false
    }

    async fn connect(&self, request: &Request) -> Result<Leg, Error> {
        let target = &request.target;
        let addresses = self.dialer.addresses(target).await?;
        let stream = self.client.open(&addresses, target.port()).await?;
        let begun = stream.write_all(&[quic_forward::BEGIN]).await;
        begun.map_err(Error::io(Side::Upstream))?;
        Ok(Leg::plain(stream))
    }
}
