//! The protocol of a peer, guessed from its first byte.

use std::fmt;

/// The protocol of a peer, guessed from its first byte, for log lines that name the mistake.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum PeerProtocol {
    /// SOCKS5.
    Socks5,
    /// SOCKS4 or SOCKS4a.
    Socks4,
    /// HTTP: a method, which is a token (RFC 9110 §5.6.2, §9.1).
    Http,
    /// TLS: a handshake record.
    Tls,
    /// Something else.
    Unknown,
}

impl PeerProtocol {
    /// Guesses the protocol from the first byte of a connection.
    #[must_use]
    pub const fn of(first: u8) -> Self {
        match first {
            0x05 => Self::Socks5,
            0x04 => Self::Socks4,
            0x16 => Self::Tls,
            first if is_token(first) => Self::Http,
            _ => Self::Unknown,
        }
    }
}

impl PeerProtocol {
    /// The protocol of a connection that begins with `bytes`, if that is sure: random bytes do not look like it.
    #[must_use]
    pub fn surely(bytes: &[u8]) -> Option<Self> {
        const METHODS: [&[u8]; 6] = [
            b"GET ",
            b"POST ",
            b"HEAD ",
            b"PUT ",
            b"OPTIONS ",
            b"CONNECT ",
        ];
        match bytes {
            // A record with a ClientHello: type, version, length, type of the message.
            [0x16, 0x03, 0..=4, _, _, 1, ..] => Some(Self::Tls),
            _ if METHODS.iter().any(|method| bytes.starts_with(method)) => Some(Self::Http),
            _ => None,
        }
    }
}

/// Whether a token may have this character (RFC 9110 §5.6.2).
pub(super) const fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'!' | b'#'
                | b'$'
                | b'%'
                | b'&'
                | b'\''
                | b'*'
                | b'+'
                | b'-'
                | b'.'
                | b'^'
                | b'_'
                | b'`'
                | b'|'
                | b'~'
        )
}

impl fmt::Display for PeerProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Socks5 => "this is SOCKS5",
            Self::Socks4 => "this is SOCKS4",
            Self::Http => "this is HTTP",
            Self::Tls => "this is TLS",
            Self::Unknown => "an unknown protocol",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_beginning_of_a_protocol_is_sure() {
        let hello = [0x16, 3, 1, 2, 0, 1, 0];
        assert_eq!(PeerProtocol::surely(&hello), Some(PeerProtocol::Tls));
        let get = b"GET / HTTP/1.1\r\n";
        assert_eq!(PeerProtocol::surely(get), Some(PeerProtocol::Http));
        for other in [&hello[..5], &[0x16, 3, 1, 2, 0, 2], b"GETX", b"", b"get /"] {
            assert_eq!(PeerProtocol::surely(other), None, "{other:?}");
        }
    }
}
