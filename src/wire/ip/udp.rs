//! Datagrams of UDP (RFC 768).

use std::net::SocketAddr;
use std::ops::Range;

use super::checksum::Sum;
use super::{Checksums, IPV6_HEADER, Packet, UDP, pseudo_sum, write, write_header};
use crate::wire::Error;

/// Bytes of a header.
pub const HEADER: usize = 8;
/// Where the checksum stands in the header.
pub const CHECKSUM: usize = 6;
/// Bytes of the longest head that [`write_head`] makes.
pub const MAX_HEAD: usize = IPV6_HEADER + HEADER;

/// A datagram, or several of one length that the sender left to the device to separate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// Where it comes from.
    pub source: SocketAddr,
    /// Where it goes.
    pub destination: SocketAddr,
    /// Where its data stand in the packet.
    pub data: Range<usize>,
}

impl Datagram {
    /// Reads the datagram in `packet`, which is no fragment. Complete checksums are compared.
    ///
    /// # Errors
    /// [`Error::Truncated`], or [`Error::IpHeader`] if the checksum is wrong.
    pub fn parse(packet: &Packet, bytes: &[u8], checksums: Checksums) -> Result<Self, Error> {
        let payload = packet.payload(bytes);
        let header: &[u8; HEADER] = payload.first_chunk().ok_or(Error::Truncated)?;
        let [from_a, from_b, to_a, to_b, len_a, len_b, sum_a, sum_b] = *header;
        let len = usize::from(u16::from_be_bytes([len_a, len_b]));
        if len < HEADER || len > payload.len() {
            return Err(Error::Truncated);
        }
        if checksums == Checksums::Complete {
            let covered = payload.get(..len).ok_or(Error::Truncated)?;
            // Without a checksum, which IPv6 does not allow (RFC 8200 §8.1), there is nothing to compare.
            let is_absent = [sum_a, sum_b] == [0, 0];
            let sum =
                pseudo_sum(packet.source, packet.destination, UDP, len).plus(Sum::of(covered));
            if is_absent && packet.source.is_ipv6() || !is_absent && sum.folded() != u16::MAX {
                return Err(Error::IpHeader);
            }
        }
        Ok(Self {
            source: SocketAddr::new(packet.source, u16::from_be_bytes([from_a, from_b])),
            destination: SocketAddr::new(packet.destination, u16::from_be_bytes([to_a, to_b])),
            data: packet.payload + HEADER..packet.payload + len,
        })
    }
}

/// Writes the IP and UDP headers of a datagram with `len` bytes of data; returns their length. `id` is the identification of
/// an IPv4 packet. With partial checksums, `data` need not be all: the device may separate them into several datagrams.
///
/// # Errors
/// [`Error::IpHeader`] if the addresses are of different versions, or the data are too long.
pub fn write_head(
    out: &mut [u8; MAX_HEAD],
    (source, destination): (SocketAddr, SocketAddr),
    (checksums, id): (Checksums, u16),
    data: &[u8],
    len: usize,
) -> Result<usize, Error> {
    let len = HEADER + len;
    let written = u16::try_from(len).map_err(|_| Error::IpHeader)?;
    let start = write_header(out, source.ip(), destination.ip(), (UDP, id), len)?;
    let header = out.get_mut(start..start + HEADER).ok_or(Error::Truncated)?;
    write(
        header,
        &[
            &source.port().to_be_bytes(),
            &destination.port().to_be_bytes(),
            &written.to_be_bytes(),
            &[0, 0],
        ],
    )?;
    let pseudo = pseudo_sum(source.ip(), destination.ip(), UDP, len);
    let sum = match checksums {
        Checksums::Partial => pseudo.folded(),
        Checksums::Complete => {
            let sum = pseudo.plus(Sum::of(header)).plus(Sum::of(data));
            // Zero means that there is none; its other representation is the same number.
            match sum.complement() {
                0 => u16::MAX,
                sum => sum,
            }
        }
    };
    let field = header.get_mut(CHECKSUM..).ok_or(Error::Truncated)?;
    write(field, &[&sum.to_be_bytes()])?;
    Ok(start + HEADER)
}
