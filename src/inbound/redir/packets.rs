//! Datagrams that the firewall redirects.

use std::net::SocketAddr;

use super::Guard;
use crate::net::udp::transparent::address_start;
use crate::relay::udp::framing::Encoder;
use crate::relay::udp::{ClientKey, Opened, PacketInbound};
use crate::wire::{self, AddressRef};

/// Sends each datagram to the destination that its program meant; answers come from there.
pub struct RedirPackets(pub Guard);

impl PacketInbound for RedirPackets {
    type Batch = ();
    /// Where the address of the destination begins.
    type Header = usize;
    type Session = ();

    fn identify(
        &self,
        (): &mut (),
        datagram: &mut [u8],
        peer: SocketAddr,
    ) -> Result<(ClientKey, usize), wire::Error> {
        let start = address_start(datagram).ok_or(wire::Error::Truncated)?;
        let destination = AddressRef::parse(datagram.get(start..).unwrap_or_default())?;
        let Some((AddressRef::Ip(destination), _)) = destination else {
            return Err(wire::Error::Truncated);
        };
        if let Some(reason) = self.0.refusal(peer, destination) {
            tracing::debug!(%peer, %destination, reason, "datagram refused");
            return Err(wire::Error::Denied);
        }
        Ok((ClientKey::Address(peer), start))
    }

    fn open(
        &self,
        (): &mut (),
        start: &mut usize,
        datagram: &mut [u8],
    ) -> Result<Opened<'_>, wire::Error> {
        Ok(Opened::Addressed(*start..datagram.len()))
    }

    fn encoder(&self, _: &usize) -> Result<Encoder, wire::Error> {
        Ok(Encoder::Addressed)
    }
}
