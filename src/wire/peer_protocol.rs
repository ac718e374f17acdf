//! The protocol of a peer, guessed from its first byte.

use std::fmt;

/// The protocol of a peer, guessed from its first byte, for log lines that name the mistake.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum PeerProtocol {
    /// SOCKS5.
    Socks5,
    /// SOCKS4 or SOCKS4a.
    Socks4,
    /// HTTP: the upper-case first letter of a method.
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
            b'A'..=b'Z' => Self::Http,
            0x16 => Self::Tls,
            _ => Self::Unknown,
        }
    }
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
