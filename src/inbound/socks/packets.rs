//! Datagrams of SOCKS5 clients (RFC 1928 §7).

use std::net::SocketAddr;
use std::sync::Arc;

use crate::inbound::udp_associate::{Admitted, Associations};
use crate::relay::udp::framing::Encoder;
use crate::relay::udp::{ClientKey, Opened, PacketInbound};
use crate::wire::{self, socks};

/// Takes datagrams from clients with an open UDP ASSOCIATE; `None`: from everybody.
pub struct SocksPackets(pub Option<Arc<Associations>>);

impl PacketInbound for SocksPackets {
    type Batch = ();
    /// Where the address begins, and the user.
    type Header = (usize, Admitted);
    type Session = ();

    fn identify(
        &self,
        (): &mut (),
        datagram: &mut [u8],
        peer: SocketAddr,
    ) -> Result<(ClientKey, Self::Header), wire::Error> {
        let user = match &self.0 {
            Some(open) => open.admit(peer).ok_or(wire::Error::NotAssociated)?,
            None => None,
        };
        let (fragment, start) = socks::parse_udp_prefix(datagram)?;
        if fragment != 0 {
            return Err(wire::Error::Fragmented);
        }
        Ok((ClientKey::Address(peer), (start, user)))
    }

    fn open(
        &self,
        (): &mut (),
        (start, _): &mut Self::Header,
        datagram: &mut [u8],
    ) -> Result<Opened<'_>, wire::Error> {
        Ok(Opened::Addressed(*start..datagram.len()))
    }

    fn user(&self, (_, user): &Self::Header) -> Admitted {
        user.clone()
    }

    fn encoder(&self, _: &Self::Header) -> Result<Encoder, wire::Error> {
        Ok(Encoder::Socks)
    }
}
