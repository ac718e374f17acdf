//! Packets of UDP associations in the QUIC connection to a server, a datagram each.

use std::sync::Arc;

use super::endpoint::Endpoint;
use crate::net::quic::{Carried, Client};
use crate::net::udp::Switched;
use crate::relay::Error;

/// Carries the packets of an association until it ends, or the connection does. `None`: QUIC does not work on this network, and there
/// is another way.
pub(super) async fn carry(
    endpoint: &Endpoint,
    quic: &Arc<Client>,
    ends: &Switched,
) -> Option<Carried> {
    let server = &endpoint.address;
    let carried = async {
        if !endpoint.sends_datagrams(quic).await? {
            return Ok(None);
        }
        let addresses = endpoint.dialer.addresses(server).await?;
        let carried = quic.carry(ends, &addresses, server.port()).await?;
        Ok::<_, Error>(Some(carried))
    };
    match carried.await {
        Ok(ended) => ended,
        Err(error) => {
            tracing::debug!(%server, %error, "no QUIC connection for UDP packets");
            Some(Carried::Connection)
        }
    }
}
