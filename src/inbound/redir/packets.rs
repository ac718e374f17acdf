//! Datagrams that the firewall redirects.

use std::net::SocketAddr;

use super::Guard;
use crate::dns::fake::Fakes;
use crate::net::sampled;
use crate::net::udp::transparent::{HEAD, address_start};
use crate::relay::udp::framing::Encoder;
use crate::relay::udp::{ClientKey, Opened, PacketInbound};
use crate::wire::{self, Address, AddressRef};

/// Sends each datagram to the destination that its program meant; answers come from there.
pub struct RedirPackets {
    /// What must not be relayed.
    pub guard: Guard,
    /// Names behind fake addresses.
    pub fakes: Fakes,
}

/// Where a datagram is to go.
pub enum Meant {
    /// To the address that begins here in the datagram.
    Address(usize),
    /// To the name that this fake address stands for.
    Name(SocketAddr, Address),
}

impl PacketInbound for RedirPackets {
    type Batch = ();
    type Header = Meant;
    type Session = ();

    fn identify(
        &self,
        (): &mut (),
        datagram: &mut [u8],
        peer: SocketAddr,
    ) -> Result<(ClientKey, Meant), wire::Error> {
        let start = address_start(datagram).ok_or(wire::Error::Truncated)?;
        let destination = AddressRef::parse(datagram.get(start..).unwrap_or_default())?;
        let Some((AddressRef::Ip(destination), _)) = destination else {
            return Err(wire::Error::Truncated);
        };
        if let Some(reason) = self.guard.refusal(peer, destination) {
            sampled::debug!(by destination, "datagram refused", %peer, %destination, reason);
            return Err(wire::Error::Denied);
        }
        if self.fakes.is_empty() {
            return Ok((ClientKey::Address(peer), Meant::Address(start)));
        }
        let target = self.fakes.target(destination).map_err(|error| {
            sampled::debug!(by destination, "datagram refused", %peer, %error);
            wire::Error::NoName
        })?;
        Ok(match target {
            Address::Ip(_) => (ClientKey::Address(peer), Meant::Address(start)),
            // Answers come from a real address, which the program does not know: one association for each fake one.
            Address::Domain(..) => (
                ClientKey::Fake(peer, destination),
                Meant::Name(destination, target),
            ),
        })
    }

    fn open(
        &self,
        (): &mut (),
        meant: &mut Meant,
        datagram: &mut [u8],
    ) -> Result<Opened<'_>, wire::Error> {
        Ok(match meant {
            Meant::Address(start) => Opened::Addressed(*start..datagram.len()),
            Meant::Name(_, target) => Opened::Named(target.clone(), HEAD..datagram.len()),
        })
    }

    fn encoder(&self, meant: &Meant) -> Result<Encoder, wire::Error> {
        Ok(match meant {
            Meant::Address(_) => Encoder::Addressed,
            Meant::Name(fake, _) => {
                let mut room = [0; Address::MAX_LEN];
                let len = AddressRef::Ip(*fake).encode(&mut room);
                let address = len.and_then(|len| room.get(..len));
                Encoder::From(address.ok_or(wire::Error::Truncated)?.into())
            }
        })
    }
}
