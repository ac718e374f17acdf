//! IP packets of a tun device: their headers are read, changed in place, and made.
//!
//! | file | contents |
//! |---|---|
//! | [`checksum`] | the checksum of the internet protocols, and its change with what it covers (RFC 1624) |
//! | [`tcp`] | segments: other addresses for them, and resets |
//! | [`udp`] | datagrams, and headers for them |
//! | [`icmp`] | answers to echo requests |
//!
//! A device with checksum offload passes packets on whose TCP or UDP checksum is not complete: the field holds the sum of the
//! pseudo header alone. [`Checksums`] says which kind a packet is of.

pub mod checksum;
pub mod icmp;
pub mod tcp;
pub mod udp;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::Error;
use checksum::Sum;

/// Protocol numbers (IANA).
pub const ICMP: u8 = 1;
/// TCP.
pub const TCP: u8 = 6;
/// UDP.
pub const UDP: u8 = 17;
/// ICMPv6.
pub const ICMP_V6: u8 = 58;

/// Bytes of an IPv4 header without options.
pub const IPV4_HEADER: usize = 20;
/// Bytes of an IPv6 header without extensions.
pub const IPV6_HEADER: usize = 40;
/// Extension headers of one packet that are skipped; a packet with more is refused.
const MAX_EXTENSIONS: usize = 4;
/// Hops that a packet of ours may take.
const HOP_LIMIT: u8 = 64;

/// What the checksums of a packet's TCP or UDP cover.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksums {
    /// Everything, as on a network.
    Complete,
    /// The pseudo header; the device or the kernel adds the rest.
    Partial,
}

/// The headers of an IP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Where it comes from.
    pub source: IpAddr,
    /// Where it goes.
    pub destination: IpAddr,
    /// The protocol of its payload.
    pub protocol: u8,
    /// Where its payload begins.
    pub payload: usize,
    /// Where it ends.
    pub end: usize,
    /// Which part of a longer payload its payload is; `None`: it is the whole.
    pub fragment: Option<Fragment>,
}

/// A part of a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// What all parts have in common, together with their addresses and their protocol.
    pub id: u32,
    /// Where the part stands, in units of 8 bytes.
    pub offset: u16,
    /// Whether it is not the last part.
    pub more: bool,
}

impl Fragment {
    /// A fragment may be the whole (RFC 6946).
    const fn is_part(self) -> bool {
        self.more || self.offset != 0
    }
}

impl Packet {
    /// Reads the headers of an IPv4 or IPv6 packet. What follows its end is ignored.
    ///
    /// # Errors
    /// [`Error::Truncated`], or [`Error::IpHeader`] for what no host sends.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        match bytes.first().ok_or(Error::Truncated)? >> 4 {
            4 => Self::parse_v4(bytes),
            6 => Self::parse_v6(bytes),
            _ => Err(Error::IpHeader),
        }
    }

    fn parse_v4(bytes: &[u8]) -> Result<Self, Error> {
        let header: &[u8; IPV4_HEADER] = bytes.first_chunk().ok_or(Error::Truncated)?;
        let [
            first,
            _,
            len_a,
            len_b,
            id_a,
            id_b,
            part_a,
            part_b,
            _,
            protocol,
            _,
            _,
            addresses @ ..,
        ] = header;
        let payload = usize::from(first & 0x0f) * 4;
        let end = usize::from(u16::from_be_bytes([*len_a, *len_b]));
        if payload < IPV4_HEADER || end < payload {
            return Err(Error::IpHeader);
        }
        let covered = bytes.get(..payload).ok_or(Error::Truncated)?;
        if bytes.len() < end {
            return Err(Error::Truncated);
        }
        if Sum::of(covered).folded() != u16::MAX {
            return Err(Error::IpHeader);
        }
        let [a, b, c, d, e, f, g, h] = *addresses;
        let part = u16::from_be_bytes([*part_a, *part_b]);
        let fragment = Fragment {
            id: u16::from_be_bytes([*id_a, *id_b]).into(),
            offset: part & 0x1fff,
            more: part & 0x2000 != 0,
        };
        Ok(Self {
            source: Ipv4Addr::new(a, b, c, d).into(),
            destination: Ipv4Addr::new(e, f, g, h).into(),
            protocol: *protocol,
            payload,
            end,
            fragment: fragment.is_part().then_some(fragment),
        })
    }

    fn parse_v6(bytes: &[u8]) -> Result<Self, Error> {
        let header: &[u8; IPV6_HEADER] = bytes.first_chunk().ok_or(Error::Truncated)?;
        let [_, _, _, _, len_a, len_b, next, _, addresses @ ..] = header;
        let end = IPV6_HEADER + usize::from(u16::from_be_bytes([*len_a, *len_b]));
        if bytes.len() < end {
            return Err(Error::Truncated);
        }
        let (source, destination) = addresses.split_at(16);
        let address = |bytes: &[u8]| -> Result<IpAddr, Error> {
            let octets: [u8; 16] = bytes.try_into().map_err(|_| Error::Truncated)?;
            Ok(Ipv6Addr::from(octets).into())
        };
        let mut packet = Self {
            source: address(source)?,
            destination: address(destination)?,
            protocol: *next,
            payload: IPV6_HEADER,
            end,
            fragment: None,
        };
        packet.skip_extensions(bytes)?;
        Ok(packet)
    }

    /// Skips the extension headers of IPv6 (RFC 8200 §4) that change nothing for the destination.
    fn skip_extensions(&mut self, bytes: &[u8]) -> Result<(), Error> {
        const HOP_BY_HOP: u8 = 0;
        const FRAGMENT: u8 = 44;
        const DESTINATION: u8 = 60;
        for _ in 0..MAX_EXTENSIONS {
            let len = match self.protocol {
                HOP_BY_HOP | DESTINATION => {
                    let len = bytes.get(self.payload + 1).ok_or(Error::Truncated)?;
                    8 + usize::from(*len) * 8
                }
                FRAGMENT => {
                    let header: &[u8; 8] = bytes
                        .get(self.payload..)
                        .and_then(<[u8]>::first_chunk)
                        .ok_or(Error::Truncated)?;
                    let [next, _, part_a, part_b, id @ ..] = header;
                    let part = u16::from_be_bytes([*part_a, *part_b]);
                    let fragment = Fragment {
                        id: u32::from_be_bytes(*id),
                        offset: part >> 3,
                        more: part & 1 != 0,
                    };
                    if fragment.is_part() {
                        // What follows is not a header, or one of the whole.
                        self.fragment = Some(fragment);
                        self.protocol = *next;
                        self.payload += 8;
                        return match self.payload <= self.end {
                            true => Ok(()),
                            false => Err(Error::Truncated),
                        };
                    }
                    8
                }
                _ => return Ok(()),
            };
            self.protocol = *bytes.get(self.payload).ok_or(Error::Truncated)?;
            self.payload += len;
            if self.payload > self.end {
                return Err(Error::Truncated);
            }
        }
        Err(Error::IpHeader)
    }

    /// The payload among the bytes of the packet.
    #[must_use]
    pub fn payload<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        bytes.get(self.payload..self.end).unwrap_or_default()
    }

    /// The same, to be changed.
    pub fn payload_mut<'a>(&self, bytes: &'a mut [u8]) -> &'a mut [u8] {
        bytes.get_mut(self.payload..self.end).unwrap_or_default()
    }

    /// Writes other addresses into the IP header, and into `self`. Those must be of the same version.
    fn set_addresses(
        &mut self,
        bytes: &mut [u8],
        source: IpAddr,
        destination: IpAddr,
    ) -> Result<(), Error> {
        match (source, destination) {
            (IpAddr::V4(from), IpAddr::V4(to)) if self.source.is_ipv4() => {
                let before = Sum::of_address(self.source).plus(Sum::of_address(self.destination));
                let after = Sum::of_address(source).plus(Sum::of_address(destination));
                let header: &mut [u8; IPV4_HEADER] =
                    bytes.first_chunk_mut().ok_or(Error::Truncated)?;
                let [.., sum_a, sum_b, _, _, _, _, _, _, _, _] = header;
                let sum = u16::from_be_bytes([*sum_a, *sum_b]);
                [*sum_a, *sum_b] = checksum::changed(sum, before, after).to_be_bytes();
                let (_, addresses) = header.split_at_mut(12);
                write(addresses, &[&from.octets(), &to.octets()])?;
            }
            (IpAddr::V6(from), IpAddr::V6(to)) if self.source.is_ipv6() => {
                let addresses = bytes.get_mut(8..IPV6_HEADER).ok_or(Error::Truncated)?;
                write(addresses, &[&from.octets(), &to.octets()])?;
            }
            _ => return Err(Error::IpHeader),
        }
        (self.source, self.destination) = (source, destination);
        Ok(())
    }
}

/// The sum of the pseudo header of TCP, UDP and ICMPv6 (RFC 9293 §3.1, RFC 8200 §8.1).
fn pseudo_sum(source: IpAddr, destination: IpAddr, protocol: u8, len: usize) -> Sum {
    // No packet is longer than 65,575 bytes, so two words hold the length.
    let len = u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes();
    Sum::of_address(source)
        .plus(Sum::of_address(destination))
        .plus(Sum::of(&[0, protocol]))
        .plus(Sum::of(&len))
}

/// Writes an IP header for `len` bytes of payload into `out`; returns its length. `id` is the identification of an IPv4
/// packet, which may be fragmented on its way.
///
/// # Errors
/// [`Error::IpHeader`] if the addresses are of different versions, or the payload is too long.
pub fn write_header(
    out: &mut [u8],
    source: IpAddr,
    destination: IpAddr,
    (protocol, id): (u8, u16),
    len: usize,
) -> Result<usize, Error> {
    match (source, destination) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let total = u16::try_from(IPV4_HEADER + len).map_err(|_| Error::IpHeader)?;
            let header: &mut [u8; IPV4_HEADER] = out.first_chunk_mut().ok_or(Error::Truncated)?;
            write(
                header,
                &[
                    &[0x45, 0],
                    &total.to_be_bytes(),
                    &id.to_be_bytes(),
                    &[0, 0, HOP_LIMIT, protocol, 0, 0],
                    &from.octets(),
                    &to.octets(),
                ],
            )?;
            let sum = Sum::of(header).complement().to_be_bytes();
            let [_, _, _, _, _, _, _, _, _, _, sum_a, sum_b, ..] = header;
            [*sum_a, *sum_b] = sum;
            Ok(IPV4_HEADER)
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let len = u16::try_from(len).map_err(|_| Error::IpHeader)?;
            let head = [0x60, 0, 0, 0];
            let next = [protocol, HOP_LIMIT];
            write(
                out,
                &[
                    &head,
                    &len.to_be_bytes(),
                    &next,
                    &from.octets(),
                    &to.octets(),
                ],
            )?;
            Ok(IPV6_HEADER)
        }
        _ => Err(Error::IpHeader),
    }
}

/// Writes `parts` one after the other to the beginning of `out`.
fn write(out: &mut [u8], parts: &[&[u8]]) -> Result<(), Error> {
    let mut rest = out;
    for part in parts {
        let (front, back) = rest
            .split_at_mut_checked(part.len())
            .ok_or(Error::Truncated)?;
        front.copy_from_slice(part);
        rest = back;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
