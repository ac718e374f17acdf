//! UDP over TCP: plain datagrams inside a stream, as sing-box and mihomo have them (sing-box, "UDP over TCP").
//!
//! A client opens an ordinary stream to a reserved target, whose port does not matter. In version 2, a request comes first:
//!
//! ```text
//! connect u8 ‖ target       target: a SOCKS-style address
//! ```
//!
//! Then both directions carry datagrams until the stream ends. In version 1, and unless the client has asked for `connect`,
//! each has the address that it goes to or comes from:
//!
//! ```text
//! type u8 ‖ address ‖ port ‖ length u16be ‖ data       type: 0 IPv4, 1 IPv6, 2 domain name; the rest as in SOCKS
//! length u16be ‖ data                                  with `connect`: all datagrams are for the target
//! ```
//!
//! Inside this program, a datagram is a SOCKS-style address and the data. The functions here translate.

use super::Error;
use super::address::{Address, AddressRef};

/// Bytes of the longest request.
pub const MAX_REQUEST: usize = 1 + Address::MAX_LEN;
/// Bytes of the longest datagram with what stands before it.
pub const MAX_FRAME: usize = Address::MAX_LEN + LENGTH + 65_535;

/// Bytes of the length before the data.
const LENGTH: usize = 2;
/// The address types of SOCKS, at the places that their numbers have here.
const TYPES: [u8; 3] = [1, 4, 3];
/// Where the length of a domain name stands.
const NAME_TYPE: u8 = 2;

/// The version of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// Datagrams with addresses, and no request.
    V1,
    /// A request, then datagrams with or without addresses.
    V2,
}

impl Version {
    /// The number of the version.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::V1 => 1,
            Self::V2 => 2,
        }
    }

    /// The name of the reserved target.
    #[must_use]
    pub const fn target(self) -> &'static str {
        match self {
            Self::V1 => "sp.udp-over-tcp.arpa",
            Self::V2 => "sp.v2.udp-over-tcp.arpa",
        }
    }

    /// The version that has this reserved target.
    #[must_use]
    pub fn of_target(name: &str) -> Option<Self> {
        let mut versions = [Self::V1, Self::V2].into_iter();
        versions.find(|version| name.eq_ignore_ascii_case(version.target()))
    }
}

/// What a client of version 2 asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request<'a> {
    /// Whether all datagrams are for the target, and have no address of their own.
    pub connect: bool,
    /// The target.
    pub target: AddressRef<'a>,
}

impl<'a> Request<'a> {
    /// Reads the request at the start of `bytes` and returns it with its length; `Ok(None)` if more bytes are needed.
    ///
    /// # Errors
    /// Those of [`AddressRef::parse`].
    pub fn parse(bytes: &'a [u8]) -> Result<Option<(Self, usize)>, Error> {
        let Some((connect, rest)) = bytes.split_first() else {
            return Ok(None);
        };
        let target = AddressRef::parse(rest)?;
        let request = target.map(|(target, len)| (*connect != 0, target, len));
        Ok(request.map(|(connect, target, len)| (Self { connect, target }, 1 + len)))
    }
}

/// Writes the request of a client whose first datagram is `datagram`, for datagrams with addresses. Returns its length;
/// `None` if it does not fit, or the datagram has no address.
#[must_use]
pub fn write_request(datagram: &[u8], out: &mut [u8]) -> Option<usize> {
    let (_, len) = AddressRef::parse(datagram).ok()??;
    let out = out.get_mut(..=len)?;
    let (connect, target) = out.split_first_mut()?;
    *connect = 0;
    target.copy_from_slice(datagram.get(..len)?);
    Some(1 + len)
}

/// The request for `target`.
#[must_use]
pub fn request(connect: bool, target: AddressRef<'_>) -> Vec<u8> {
    let mut room = [0; Address::MAX_LEN];
    let len = target.encode(&mut room).unwrap_or(0);
    let mut bytes = vec![u8::from(connect)];
    bytes.extend_from_slice(room.get(..len).unwrap_or_default());
    bytes
}

/// What stands in the frames of a stream beside the data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frames {
    /// An address in each.
    Addressed,
    /// The same, with the address types of SOCKS: streams in sessions of [`multiplex`](crate::wire::multiplex).
    Socks,
    /// Nothing: all data is for this target, which stands here as in SOCKS.
    Connected(Box<[u8]>),
}

impl Frames {
    /// Frames without addresses, for `target`.
    #[must_use]
    pub fn connected(target: AddressRef<'_>) -> Option<Self> {
        let mut room = [0; Address::MAX_LEN];
        let len = target.encode(&mut room)?;
        Some(Self::Connected(room.get(..len)?.into()))
    }

    /// Writes the frame of a datagram and returns its length; `None` if it does not fit or cannot be sent. A datagram has an
    /// address before its data if the frames do.
    #[must_use]
    pub fn write(&self, datagram: &[u8], out: &mut [u8]) -> Option<usize> {
        let (address, data) = match self {
            Self::Connected(_) => (&[][..], datagram),
            Self::Addressed | Self::Socks => {
                let (_, len) = AddressRef::parse(datagram).ok()??;
                datagram.split_at_checked(len)?
            }
        };
        let length = u16::try_from(data.len()).ok()?.to_be_bytes();
        let out = out.get_mut(..address.len() + LENGTH + data.len())?;
        let (front, rest) = out.split_at_mut_checked(address.len())?;
        front.copy_from_slice(address);
        if let (Self::Addressed, Some(kind)) = (self, front.first_mut()) {
            let ours = TYPES.iter().position(|socks| socks == kind)?;
            *kind = u8::try_from(ours).ok()?;
        }
        let (head, body) = rest.split_at_mut_checked(LENGTH)?;
        head.copy_from_slice(&length);
        body.copy_from_slice(data);
        Some(out.len())
    }

    /// The first datagram in `bytes` and the length of its frame; `Ok(None)` if more bytes are needed.
    ///
    /// # Errors
    /// [`Error::AddressType`]. Where the next frame begins is not known then. The address is not looked at further.
    pub fn next<'a>(&'a self, bytes: &'a [u8]) -> Result<Option<(Datagram<'a>, usize)>, Error> {
        let Some((kind, address)) = self.address(bytes)? else {
            return Ok(None);
        };
        let skipped = match self {
            Self::Addressed | Self::Socks => kind.len() + address.len(),
            Self::Connected(_) => 0,
        };
        let rest = bytes.get(skipped..).unwrap_or_default();
        let Some((length, rest)) = rest.split_first_chunk::<LENGTH>() else {
            return Ok(None);
        };
        let length = usize::from(u16::from_be_bytes(*length));
        let datagram = rest.get(..length).map(|data| Datagram {
            parts: [kind, address, data],
        });
        Ok(datagram.map(|datagram| (datagram, skipped + LENGTH + length)))
    }

    /// The address of the frame at the start of `bytes`, as in SOCKS: its type, and the rest.
    fn address<'a>(&'a self, bytes: &'a [u8]) -> Result<Option<AddressParts<'a>>, Error> {
        if let Self::Connected(target) = self {
            return Ok(target.split_at_checked(1));
        }
        if *self == Self::Socks {
            let address = AddressRef::parse(bytes)?.and_then(|(_, len)| bytes.get(..len));
            return Ok(address.and_then(|address| address.split_at_checked(1)));
        }
        let Some((&kind, rest)) = bytes.split_first() else {
            return Ok(None);
        };
        let place = usize::from(kind);
        let socks = TYPES.get(place..=place).ok_or(Error::AddressType(kind))?;
        let len = match (kind, rest.first()) {
            (0, _) => 4 + 2,
            (NAME_TYPE, None) => return Ok(None),
            (NAME_TYPE, Some(len)) => 1 + usize::from(*len) + 2,
            _ => 16 + 2,
        };
        Ok(rest.get(..len).map(|address| (socks, address)))
    }
}

/// The type of an address, and the rest.
type AddressParts<'a> = (&'a [u8], &'a [u8]);

/// A datagram in a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagram<'a> {
    /// The type of the SOCKS-style address, the rest of the address, and the data.
    parts: [&'a [u8]; 3],
}

impl Datagram<'_> {
    /// Bytes of the address and the data.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        self.parts.iter().map(|part| part.len()).sum()
    }

    /// Writes the SOCKS-style address and the data; `None` if they do not fit.
    #[must_use]
    pub fn write(&self, mut out: &mut [u8]) -> Option<()> {
        for part in self.parts {
            let (front, rest) = out.split_at_mut_checked(part.len())?;
            front.copy_from_slice(part);
            out = rest;
        }
        Some(())
    }
}

#[cfg(test)]
mod tests;
