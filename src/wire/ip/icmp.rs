//! Echo requests (RFC 792, RFC 4443 §4).

use super::checksum::{self, Sum};
use super::{Checksums, ICMP, Packet};
use crate::wire::Error;

/// Makes the answer out of an echo request; returns whether the packet, which is no fragment, was one.
///
/// # Errors
/// [`Error::Truncated`].
pub fn answer_echo(
    packet: &mut Packet,
    bytes: &mut [u8],
    checksums: Checksums,
) -> Result<bool, Error> {
    let (request, answer): (u8, u8) = if packet.protocol == ICMP {
        (8, 0)
    } else {
        (128, 129)
    };
    let header: &mut [u8; 8] = packet
        .payload_mut(bytes)
        .first_chunk_mut()
        .ok_or(Error::Truncated)?;
    let [kind, code, sum_a, sum_b, ..] = header;
    if (*kind, *code) != (request, 0) {
        return Ok(false);
    }
    *kind = answer;
    // To exchange the addresses does not change the sum of the pseudo header.
    if checksums == Checksums::Complete {
        let sum = u16::from_be_bytes([*sum_a, *sum_b]);
        let [before, after] = [request, answer].map(|kind| Sum::of(&[kind, 0]));
        [*sum_a, *sum_b] = checksum::changed(sum, before, after).to_be_bytes();
    }
    packet.set_addresses(bytes, packet.destination, packet.source)?;
    Ok(true)
}
