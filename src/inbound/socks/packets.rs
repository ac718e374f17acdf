//! Datagrams of SOCKS5 clients (RFC 1928 §7).

use std::net::SocketAddr;
use std::sync::Arc;

use crate::dns::fake::Fakes;
use crate::inbound::udp_associate::{Admitted, Associations};
use crate::relay::udp::framing::Encoder;
use crate::relay::udp::{ClientKey, Opened, PacketInbound};
use crate::wire::socks::{self, UDP_PREFIX};
use crate::wire::{self, Address, AddressRef};

/// Takes datagrams from clients with an open UDP ASSOCIATE.
pub struct SocksPackets {
    /// The clients that may send; `None`: all.
    pub admitted: Option<Arc<Associations>>,
    /// Names behind fake addresses.
    pub fakes: Fakes,
}

/// What is known of a datagram before it is opened.
pub struct Header {
    /// Where its address begins.
    start: usize,
    user: Admitted,
    /// It is for a fake address, which stands for a name.
    named: Option<Named>,
}

struct Named {
    fake: SocketAddr,
    target: Address,
    /// Where the data begin.
    data: usize,
}

impl SocksPackets {
    /// The name that a datagram is for, whose address begins at `start`.
    fn named(&self, datagram: &[u8], start: usize) -> Result<Option<Named>, wire::Error> {
        if self.fakes.is_empty() {
            return Ok(None);
        }
        let parsed = AddressRef::parse(datagram.get(start..).unwrap_or_default())?;
        let Some((AddressRef::Ip(fake), len)) = parsed else {
            return Ok(None);
        };
        let target = self.fakes.target(fake).map_err(|_| wire::Error::NoName)?;
        let named = matches!(target, Address::Domain(..));
        Ok(named.then_some(Named {
            fake,
            target,
            data: start + len,
        }))
    }
}

impl PacketInbound for SocksPackets {
    type Batch = ();
    type Header = Header;
    type Session = ();

    fn identify(
        &self,
        (): &mut (),
        datagram: &mut [u8],
        peer: SocketAddr,
    ) -> Result<(ClientKey, Self::Header), wire::Error> {
        let user = match &self.admitted {
            Some(open) => open.admit(peer).ok_or(wire::Error::NotAssociated)?,
            None => None,
        };
        let (fragment, start) = socks::parse_udp_prefix(datagram)?;
        if fragment != 0 {
            return Err(wire::Error::Fragmented);
        }
        let named = self.named(datagram, start)?;
        let key = match &named {
            None => ClientKey::Address(peer),
            // Answers come from a real address, which the client does not know: one association for each fake one.
            Some(named) => ClientKey::Fake(peer, named.fake),
        };
        Ok((key, Header { start, user, named }))
    }

    fn open(
        &self,
        (): &mut (),
        header: &mut Header,
        datagram: &mut [u8],
    ) -> Result<Opened<'_>, wire::Error> {
        Ok(match &header.named {
            None => Opened::Addressed(header.start..datagram.len()),
            Some(named) => Opened::Named(named.target.clone(), named.data..datagram.len()),
        })
    }

    fn user(&self, header: &Header) -> Admitted {
        header.user.clone()
    }

    fn encoder(&self, header: &Header) -> Result<Encoder, wire::Error> {
        let Some(named) = &header.named else {
            return Ok(Encoder::Socks);
        };
        let mut room = [0; Address::MAX_LEN];
        let len = AddressRef::Ip(named.fake).encode(&mut room);
        let address = len.and_then(|len| room.get(..len));
        let address = address.ok_or(wire::Error::Truncated)?;
        Ok(Encoder::From([&UDP_PREFIX, address].concat().into()))
    }
}
