//! Shadowsocks packets in datagrams of QUIC (RFC 9221). This is an extension of `ssr`.
//!
//! ```text
//! association · packet        association: a variable-length integer of QUIC (RFC 9000 §16), 0 to 65535
//! ```
//!
//! One DATAGRAM frame carries this, or, where it is too long for the path, one unidirectional stream does, from its beginning
//! to its end. The packet is the one that would have gone by UDP, sealed and with its own address and session. A client
//! chooses a number for each of its associations; answers bear the number of the packet that the server has accepted last. So
//! the associations of a connection are told apart where packets have no sessions (AEAD-2017).

/// The length of the longest packet, in bytes.
pub const MAX_PACKET: usize = 65_535;
/// The length of the longest head, in bytes. A shorter encoding is sent where one is enough.
pub const MAX_HEAD: usize = 8;
/// The length of the longest head that is sent.
pub const MAX_SENT_HEAD: usize = 4;

/// The head of a packet.
#[derive(Clone, Copy, Debug)]
pub struct Head {
    bytes: [u8; MAX_SENT_HEAD],
    len: usize,
}

impl Head {
    /// Of a packet of this association.
    #[must_use]
    pub const fn new(association: u16) -> Self {
        let [high, low] = association.to_be_bytes();
        let (bytes, len) = match association {
            ..0x40 => ([low, 0, 0, 0], 1),
            0x40..0x4000 => ([0x40 | high, low, 0, 0], 2),
            _ => ([0x80, 0, high, low], 4),
        };
        Self { bytes, len }
    }

    /// As it is sent.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

/// The association of what came in a datagram, and where its packet begins; `None`: there is no packet, or no such
/// association.
#[must_use]
pub fn parse(bytes: &[u8]) -> Option<(u16, usize)> {
    let first = bytes.first()?;
    let len = 1 << (first >> 6);
    let (head, packet) = bytes.split_at_checked(len)?;
    let number = head
        .iter()
        .skip(1)
        .fold(u64::from(first & 0x3f), |number, byte| {
            number << 8 | u64::from(*byte)
        });
    let association = u16::try_from(number).ok()?;
    (!packet.is_empty()).then_some((association, len))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    /// The layout that docs/wire.md describes, byte by byte.
    #[test]
    fn layout_is_an_integer_of_quic_and_the_packet() {
        for (association, head) in [
            (0, &[0x00][..]),
            (63, &[0x3f]),
            (64, &[0x40, 0x40]),
            (258, &[0x41, 0x02]),
            (16_383, &[0x7f, 0xff]),
            (16_384, &[0x80, 0x00, 0x40, 0x00]),
            (65_535, &[0x80, 0x00, 0xff, 0xff]),
        ] {
            assert_eq!(Head::new(association).bytes(), head);
            let datagram = [head, b"packet"].concat();
            assert_eq!(parse(&datagram), Some((association, head.len())));
        }
    }

    #[test]
    fn every_length_of_the_integer_is_understood() {
        for head in [
            &[7][..],
            &[0x40, 7],
            &[0x80, 0, 0, 7],
            &[0xc0, 0, 0, 0, 0, 0, 0, 7],
        ] {
            let datagram = [head, b"p"].concat();
            assert_eq!(parse(&datagram), Some((7, head.len())));
            assert_eq!(parse(head), None, "no packet");
        }
    }

    #[test]
    fn what_is_no_packet_of_an_association_is_refused() {
        for bytes in [
            &[][..],
            &[0x40],
            &[0x80, 1, 0, 0, 9],
            &[0xc0, 0, 0, 0, 0, 1, 0, 0, 9],
            &[0xff; 8],
        ] {
            assert_eq!(parse(bytes), None, "{bytes:?}");
        }
    }

    #[test]
    fn every_association_comes_out_as_it_went_in() {
        for association in 0..=u16::MAX {
            let head = Head::new(association);
            let datagram = [head.bytes(), &[1]].concat();
            assert_eq!(parse(&datagram).unwrap(), (association, head.bytes().len()));
        }
    }
}
