//! Shadowsocks packets inside a stream, for networks that block UDP. This is an extension of `ssr`.
//!
//! A client opens an ordinary stream to the reserved target [`NAME`]:[`PORT`]. A server that does not know the extension
//! only fails to resolve the name, which no zone can contain (RFC 6761 §6.4). Both directions then carry packets until
//! the stream ends:
//!
//! ```text
//! len16 · packet        len16: the length of the packet in bytes, big-endian, 1 to 65535
//! ```
//!
//! The packets are the ones that the client would have sent by UDP, each sealed and with its own address and session. The
//! server handles them as if they had come by UDP. Each association of the client has its own stream.

/// The name of the reserved target.
pub const NAME: &str = "udp.v1.ssr.invalid";
/// The port of the reserved target.
pub const PORT: u16 = 9015;
/// The length of the head before a packet, in bytes.
pub const HEAD: usize = 2;
/// The length of the longest packet, in bytes.
pub const MAX_PACKET: usize = 65_535;

/// The head of a packet of `len` bytes; `None`: a packet cannot have this length.
#[must_use]
pub fn head(len: usize) -> Option<[u8; HEAD]> {
    let len = u16::try_from(len).ok().filter(|len| *len > 0)?;
    Some(len.to_be_bytes())
}

/// The first packet in `bytes` and its length with the head; `None`: more bytes are needed. The caller skips an empty
/// packet.
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
