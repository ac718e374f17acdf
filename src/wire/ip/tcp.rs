//! Segments of TCP (RFC 9293).

use std::net::{IpAddr, SocketAddr};

use super::checksum::{self, Sum};
use super::{Checksums, IPV6_HEADER, Packet, TCP, pseudo_sum, write, write_header};
use crate::wire::Error;

/// Bytes of a header without options.
const HEADER: usize = 20;
/// Where the checksum stands in the header.
const CHECKSUM: usize = 16;
const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// Bytes of the longest packet that [`Segment::reset`] makes.
pub const MAX_RESET: usize = IPV6_HEADER + HEADER;

/// The header of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Where it comes from.
    pub source: SocketAddr,
    /// Where it goes.
    pub destination: SocketAddr,
    sequence: u32,
    acknowledged: u32,
    flags: u8,
    /// Data, and one each for SYN and FIN.
    len: u32,
}

impl Segment {
    /// Reads the header of the segment in `packet`, which is no fragment.
    ///
    /// # Errors
    /// [`Error::Truncated`].
    pub fn parse(packet: &Packet, bytes: &[u8]) -> Result<Self, Error> {
        let payload = packet.payload(bytes);
        let header: &[u8; HEADER] = payload.first_chunk().ok_or(Error::Truncated)?;
        let [
            from_a,
            from_b,
            to_a,
            to_b, //
            seq_a,
            seq_b,
            seq_c,
            seq_d, //
            ack_a,
            ack_b,
            ack_c,
            ack_d, //
            offset,
            flags,
            ..,
        ] = header;
        let data = payload
            .len()
            .checked_sub(usize::from(offset >> 4) * 4)
            .ok_or(Error::Truncated)?;
        let data = u32::try_from(data).map_err(|_| Error::Truncated)?;
        let counted = u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0);
        let (from, to) = ([*from_a, *from_b], [*to_a, *to_b]);
        Ok(Self {
            source: SocketAddr::new(packet.source, u16::from_be_bytes(from)),
            destination: SocketAddr::new(packet.destination, u16::from_be_bytes(to)),
            sequence: u32::from_be_bytes([*seq_a, *seq_b, *seq_c, *seq_d]),
            acknowledged: u32::from_be_bytes([*ack_a, *ack_b, *ack_c, *ack_d]),
            flags: *flags,
            len: data + counted,
        })
    }

    /// Whether it asks for a new connection.
    #[must_use]
    pub const fn opens(&self) -> bool {
        self.flags & (SYN | ACK | RST) == SYN
    }

    /// Whether it ends one direction of its connection.
    #[must_use]
    pub const fn ends(&self) -> bool {
        self.flags & FIN != 0
    }

    /// Whether it aborts its connection.
    #[must_use]
    pub const fn aborts(&self) -> bool {
        self.flags & RST != 0
    }

    /// Makes the packet that a host sends back if it does not know the connection (RFC 9293 §3.5.2), always with complete
    /// checksums; returns its length. `None`: a reset is not answered.
    #[must_use]
    pub fn reset(&self, out: &mut [u8; MAX_RESET]) -> Option<usize> {
        if self.aborts() {
            return None;
        }
        let (sequence, acknowledged, flags) = match self.flags & ACK {
            0 => (0, self.sequence.wrapping_add(self.len), RST | ACK),
            _ => (self.acknowledged, 0, RST),
        };
        let (from, to) = (self.destination, self.source);
        let start = write_header(out, from.ip(), to.ip(), (TCP, 0), HEADER).ok()?;
        let segment = out.get_mut(start..start + HEADER)?;
        write(
            segment,
            &[
                &from.port().to_be_bytes(),
                &to.port().to_be_bytes(),
                &sequence.to_be_bytes(),
                &acknowledged.to_be_bytes(),
                &[0x50, flags, 0, 0, 0, 0, 0, 0],
            ],
        )
        .ok()?;
        let sum = pseudo_sum(from.ip(), to.ip(), TCP, HEADER).plus(Sum::of(segment));
        write(
            segment.get_mut(CHECKSUM..)?,
            &[&sum.complement().to_be_bytes()],
        )
        .ok()?;
        Some(start + HEADER)
    }
}

/// Writes other addresses and ports into the segment in `packet`, and corrects the checksums.
///
/// # Errors
/// [`Error::Truncated`], or [`Error::IpHeader`] if the addresses are of another version.
pub fn readdress(
    packet: &mut Packet,
    bytes: &mut [u8],
    checksums: Checksums,
    (source, destination): (SocketAddr, SocketAddr),
) -> Result<(), Error> {
    let addresses = |from: IpAddr, to: IpAddr| Sum::of_address(from).plus(Sum::of_address(to));
    let mut before = addresses(packet.source, packet.destination);
    let mut after = addresses(source.ip(), destination.ip());
    packet.set_addresses(bytes, source.ip(), destination.ip())?;
    let header: &mut [u8; HEADER] = packet
        .payload_mut(bytes)
        .first_chunk_mut()
        .ok_or(Error::Truncated)?;
    let ports = [source.port(), destination.port()];
    let [from_a, from_b, to_a, to_b, .., sum_a, sum_b, _, _] = header;
    let sum = u16::from_be_bytes([*sum_a, *sum_b]);
    let corrected = match checksums {
        Checksums::Partial => checksum::changed_sum(sum, before, after),
        Checksums::Complete => {
            before = before.plus(Sum::of(&[*from_a, *from_b, *to_a, *to_b]));
            for port in ports {
                after = after.plus(Sum::of_word(port));
            }
            checksum::changed(sum, before, after)
        }
    };
    [*sum_a, *sum_b] = corrected.to_be_bytes();
    let [from, to] = ports.map(u16::to_be_bytes);
    [*from_a, *from_b] = from;
    [*to_a, *to_b] = to;
    Ok(())
}
