//! What is put around a datagram's address and data on each side.
//!
//! The *body*, address and data, is what all sides share: SOCKS puts three bytes before it, Shadowsocks seals it, and
//! on a bare socket the address is that of the packet itself.

use std::ops::Range;

use crate::crypto::Key;
use crate::net::udp::{Batch, Path};
use crate::net::unix_now;
use crate::wire::ss::packet::{ClientPackets, PacketSealer, Subkeys};
use crate::wire::{self, socks};

/// Bytes of an AEAD tag.
const TAG_LEN: usize = 16;

/// Puts a body into a datagram.
pub enum Wrap {
    /// RSV and FRAG before it (RFC 1928 §7).
    Socks,
    /// Sealed.
    Seal(PacketSealer),
    /// The data alone.
    Bare,
}

impl Wrap {
    /// Adds the datagram for this address and data to `batch`.
    ///
    /// # Errors
    /// When a session has come to its end.
    pub fn push(
        &mut self,
        batch: &mut Batch,
        path: Path,
        address: &[u8],
        data: &[u8],
    ) -> Result<(), wire::Error> {
        match self {
            Self::Bare => batch.push(path, data.len(), |room| write(room, &[data])),
            Self::Socks => {
                let prefix = &socks::UDP_PREFIX;
                let len = prefix.len() + address.len() + data.len();
                batch.push(path, len, |room| write(room, &[prefix, address, data]))
            }
            Self::Seal(sealer) => {
                sealer.prepare(rand::random);
                let start = sealer.headroom();
                let body = start..start + address.len() + data.len();
                let len = if sealer.is_plain() {
                    body.end
                } else {
                    body.end + TAG_LEN
                };
                batch.push(path, len, |room| {
                    write(
                        room.get_mut(body.clone()).unwrap_or_default(),
                        &[address, data],
                    )?;
                    sealer.seal(room, body, unix_now(), rand::random).map(drop)
                })
            }
        }
    }
}

/// Takes the body out of what an upstream sent.
pub enum Unwrap {
    /// Sealed by a server.
    Open(Box<ClientPackets>),
    /// The data alone.
    Bare,
    /// Not ours to open: passed on as it is.
    Sealed,
}

impl Unwrap {
    /// Whether it does not matter where a packet comes from: it proves to be an answer, or anybody may answer.
    #[must_use]
    pub fn proves_its_sender(&self) -> bool {
        match self {
            Self::Open(packets) => packets.authenticates_session(),
            Self::Bare => true,
            Self::Sealed => false,
        }
    }

    /// Derives into `subkeys` what opens `packets`, which have arrived together.
    pub fn expect<'a>(&self, subkeys: &mut Subkeys, packets: impl Iterator<Item = &'a [u8]>) {
        if let Self::Open(opener) = self {
            opener.derive_subkeys(subkeys, packets);
        }
    }

    /// Where the body stands, or on a bare socket the data.
    ///
    /// # Errors
    /// What is wrong with the packet.
    pub fn open(
        &mut self,
        packet: &mut [u8],
        subkey: Option<Key>,
    ) -> Result<Range<usize>, wire::Error> {
        match self {
            Self::Open(packets) => packets.open(packet, subkey, unix_now()),
            Self::Bare | Self::Sealed => Ok(0..packet.len()),
        }
    }
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
