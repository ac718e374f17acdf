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
