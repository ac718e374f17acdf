//! Datagrams for one target, from anybody.

use std::net::SocketAddr;

use crate::relay::udp::framing::Encoder;
use crate::relay::udp::{ClientKey, Opened, PacketInbound};
use crate::wire::{self, Address};

/// Sends every datagram to this target.
pub struct ForwardPackets(pub Address);

impl PacketInbound for ForwardPackets {
    type Batch = ();
    type Header = ();
    type Session = ();

    fn identify(
        &self,
        (): &mut (),
        _: &mut [u8],
        peer: SocketAddr,
    ) -> Result<(ClientKey, ()), wire::Error> {
        Ok((ClientKey::Address(peer), ()))
    }

    fn open(
        &self,
        (): &mut (),
        (): &mut (),
        datagram: &mut [u8],
    ) -> Result<Opened<'_>, wire::Error> {
        Ok(Opened::Fixed(&self.0, 0..datagram.len()))
    }

    fn encoder(&self, (): &()) -> Result<Encoder, wire::Error> {
        Ok(Encoder::Bare)
    }
}
