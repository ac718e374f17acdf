//! Datagrams of SOCKS5 clients (RFC 1928 §7).

use std::net::SocketAddr;
use std::sync::Arc;

use crate::inbound::udp_associate::Associations;
use crate::relay::udp::framing::Encoder;
use crate::relay::udp::{ClientKey, Opened, PacketInbound};
use crate::wire::{self, socks};

/// Takes datagrams from clients with an open UDP ASSOCIATE; `None`: from everybody.
pub struct SocksPackets(pub Option<Arc<Associations>>);

impl PacketInbound for SocksPackets {
    type Batch = ();
    /// Where the address begins.
    type Header = usize;
    type Session = ();

    fn identify(
        &self,
        (): &mut (),
        datagram: &mut [u8],
        peer: SocketAddr,
    ) -> Result<(ClientKey, usize), wire::Error> {
        if self.0.as_ref().is_some_and(|open| !open.admits(peer)) {
            return Err(wire::Error::NotAssociated);
        }
        let (fragment, start) = socks::parse_udp_prefix(datagram)?;
        if fragment != 0 {
            return Err(wire::Error::Fragmented);
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
        Ok(Encoder::Socks)
    }
}
