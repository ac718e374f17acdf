//! Shadowsocks packets within a stream, for networks that let no UDP pass: an extension of ours.
//!
//! A client opens an ordinary stream to the target `TARGET`; a server that does not know it only fails to resolve
//! the name, which no zone can have (RFC 6761 §6.4). What follows in both directions, to the end of the stream:
//!
//! ```text
//! len16 · packet        len: bytes of the packet, big-endian, 1 to 65535
//! ```
//!
//! The packets are those that would have gone beside the stream by UDP, sealed and with address (SOCKS-style) and
//! session inside; the server treats them as if they had come so. One association of the client has one stream.

/// The name of the reserved target.
pub const NAME: &str = "udp.v1.ssr.invalid";
/// The port of the reserved target.
pub const PORT: u16 = 9015;
/// Bytes before a packet.
pub const HEAD: usize = 2;
/// The longest packet.
pub const MAX_PACKET: usize = 65_535;

/// What stands before a packet of `len` bytes; `None` where there can be no such packet.
#[must_use]
pub fn head(len: usize) -> Option<[u8; HEAD]> {
    let len = u16::try_from(len).ok().filter(|len| *len > 0)?;
    Some(len.to_be_bytes())
}

/// The first packet of `bytes`, and what it takes with its head; `None`: more are needed. An empty packet is none, and
/// is passed over by the caller.
#[must_use]
pub fn next(bytes: &[u8]) -> Option<(&[u8], usize)> {
    let (head, rest) = bytes.split_first_chunk::<HEAD>()?;
    let len = usize::from(u16::from_be_bytes(*head));
    rest.get(..len).map(|packet| (packet, HEAD + len))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn packets_come_out_as_they_went_in() {
        let mut bytes = Vec::new();
        for len in [1, 300, MAX_PACKET] {
            bytes.extend(head(len).unwrap());
            bytes.extend(vec![7; len]);
        }
        let mut rest = bytes.as_slice();
        for len in [1, 300, MAX_PACKET] {
            assert!(next(rest.get(..len + 1).unwrap()).is_none());
            let (packet, used) = next(rest).unwrap();
            assert_eq!((packet.len(), used), (len, len + HEAD));
            rest = rest.get(used..).unwrap();
        }
        assert!(rest.is_empty() && next(rest).is_none());
    }

    #[test]
    fn packets_of_no_length_cannot_be_sent() {
        assert_eq!(head(0), None);
        assert_eq!(head(MAX_PACKET + 1), None);
        assert_eq!(next(&[0, 0, 9]), Some((&[][..], HEAD)));
    }
}
