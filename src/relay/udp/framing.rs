//! What surrounds a datagram's address and data on each side.
//!
//! SOCKS puts three bytes before the SOCKS-style address, Shadowsocks seals address and data, and on a bare socket the
//! address is that of the datagram itself.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::crypto::TAG_LEN;
use crate::net::udp::{Batch, Path, Received};
use crate::net::unix_now;
use crate::relay::replay::{self, ReplayFilter};
use crate::wire::ss::packet::{ClientPackets, PacketSealer, Subkeys};
use crate::wire::{self, Address, AddressRef, socks};

/// Makes datagrams of addresses and data.
pub enum Encoder {
    /// RSV and FRAG, the address, the data (RFC 1928 §7).
    Socks,
    /// Address and data, sealed. The filter remembers the salts.
    Seal(PacketSealer, Option<Arc<ReplayFilter>>),
    /// The data alone.
    Bare,
    /// The address and the data: for a [socket that answers from that address](crate::net::udp::transparent), and in memory.
    Addressed,
    /// The same with these bytes before the data of all, which end with an address: the client knows no other. A datagram from another port of the
    /// target is nothing that it expects.
    From(Box<[u8]>),
}

impl Encoder {
    /// Adds the datagram for this address and data to `batch`.
    ///
    /// # Errors
    /// When a session has no packet ids left.
    pub fn push(
        &mut self,
        batch: &mut Batch,
        path: Path,
        address: &[u8],
        data: &[u8],
    ) -> Result<(), wire::Error> {
        match self {
            Self::Bare => batch.push(path, data.len(), |room| write(room, &[data])),
            Self::Addressed => {
                let len = address.len() + data.len();
                batch.push(path, len, |room| write(room, &[address, data]))
            }
            Self::From(only) => {
                let port = |address: &[u8]| address.last_chunk::<2>().copied();
                if !address.is_empty() && port(address) != port(only) {
                    return Err(wire::Error::SessionMismatch);
                }
                batch.push(path, only.len() + data.len(), |room| {
                    write(room, &[only, data])
                })
            }
            Self::Socks => {
                let prefix = &socks::UDP_PREFIX;
                let len = prefix.len() + address.len() + data.len();
                batch.push(path, len, |room| write(room, &[prefix, address, data]))
            }
            Self::Seal(sealer, sent) => {
                let (method, sent) = (sealer.method(), sent.as_ref());
                sealer.prepare(|| replay::salts(method, sent));
                let start = sealer.headroom();
                let body = start..start + address.len() + data.len();
                let tag = if sealer.is_plain() { 0 } else { TAG_LEN };
                batch.push(path, body.end + tag, |room| {
                    write(
                        room.get_mut(body.clone()).unwrap_or_default(),
                        &[address, data],
                    )?;
                    let salt = || replay::salt(method, sent);
                    sealer.seal(room, body, unix_now(), salt).map(drop)
                })
            }
        }
    }
}

/// Takes addresses and data out of what an upstream sends.
pub enum Decoder {
    /// Opens what a server has sealed. The filter refuses what was seen before.
    Open(Box<ClientPackets>, Option<Arc<ReplayFilter>>),
    /// The datagram is the data, and its sender the address.
    Bare,
    /// Passes the datagram on unopened, without an address.
    PassOn,
    /// The address and the data, from an in-memory socket.
    Addressed,
}

thread_local! {
    /// A worker decodes one batch at a time, so the prepared keys of one serve all associations.
    static SUBKEYS: RefCell<Subkeys> = RefCell::default();
}

impl Decoder {
    /// Decodes a batch and hands the address and data of each datagram to `each`. A datagram that does not prove to
    /// belong to the association must have come from `sent_to`.
    pub fn decode(
        &mut self,
        received: &mut Received<'_>,
        sent_to: Option<SocketAddr>,
        mut each: impl FnMut(Path, Result<(&[u8], &[u8]), wire::Error>),
    ) {
        SUBKEYS.with_borrow_mut(|subkeys| {
            if let Self::Open(packets, _) = self {
                packets.derive_subkeys(subkeys, received.contents());
            }
            let from_anyone = self.proves_its_sender();
            for (packet, from) in received.datagrams() {
                let subkey = subkeys.next_for(packet);
                if !from_anyone && sent_to != Some(from.peer) {
                    each(from, Err(wire::Error::SessionMismatch));
                    continue;
                }
                match self {
                    Self::Bare => {
                        let mut room = [0; Address::MAX_LEN];
                        let len = AddressRef::Ip(from.peer).encode(&mut room);
                        let address = len.and_then(|len| room.get(..len));
                        let address = address.ok_or(wire::Error::Truncated);
                        each(from, address.map(|address| (address, &*packet)));
                    }
                    Self::PassOn => each(from, Ok((&[], packet))),
                    Self::Addressed => {
                        let body = split(packet);
                        each(from, body.map(|(_, address, data)| (address, data)));
                    }
                    Self::Open(packets, seen) => {
                        let body = packets.open(packet, subkey, unix_now());
                        let body = body.and_then(|body| match seen {
                            Some(seen) => {
                                seen.admit_packet(packets.method(), packet).map(|()| body)
                            }
                            None => Ok(body),
                        });
                        let body = body.map(|body| packet.get(body).unwrap_or_default());
                        each(
                            from,
                            body.and_then(split)
                                .map(|(_, address, data)| (address, data)),
                        );
                    }
                }
            }
        });
    }

    /// Whether it does not matter where a datagram comes from: it proves to be a reply, or anybody may reply.
    fn proves_its_sender(&self) -> bool {
        match self {
            Self::Open(packets, _) => packets.authenticates_session(),
            Self::Bare | Self::Addressed => true,
            Self::PassOn => false,
        }
    }
}

/// The target of a body, its address as bytes, and the data.
pub(super) fn split(body: &[u8]) -> Result<(AddressRef<'_>, &[u8], &[u8]), wire::Error> {
    let (target, len) = AddressRef::parse(body)?.ok_or(wire::Error::Truncated)?;
    let (address, data) = body.split_at_checked(len).ok_or(wire::Error::Truncated)?;
    Ok((target, address, data))
}

fn write(mut room: &mut [u8], parts: &[&[u8]]) -> Result<(), wire::Error> {
    for part in parts {
        let (front, rest) = room
            .split_at_mut_checked(part.len())
            .ok_or(wire::Error::Truncated)?;
        front.copy_from_slice(part);
        room = rest;
    }
    Ok(())
}
