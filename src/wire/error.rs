//! What a peer can get wrong on the wire.

use super::socks::Speaks;

/// A message that breaks its protocol. The variant says what is wrong, [`Error::status`] is its short name.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Error {
    /// An address of a type other than IPv4, domain name and IPv6. SOCKS answers it with a reply of its own.
    #[error("address type {0:#04x} is none of IPv4, domain name, IPv6")]
    AddressType(u8),
    /// A domain name that is empty, not UTF-8, or has spaces or control characters in it.
    #[error("the domain name is empty, not UTF-8, or has spaces or control characters")]
    AddressDomain,
    /// A datagram that ends before its header does.
    #[error("the datagram ends within its header")]
    Truncated,
    /// The first byte where SOCKS5 has its version. [`Speaks::of`] tells what the peer speaks instead.
    #[error("not SOCKS5: {speaks} (first byte {0:#04x})", speaks = Speaks::of(*.0))]
    SocksVersion(u8),
    /// The version of a password subnegotiation (RFC 1929) that is not 1.
    #[error("SOCKS5 password negotiation of version {0:#04x} instead of 0x01")]
    SocksAuthVersion(u8),
}

impl Error {
    /// A short name, fit for a metric label and a log field.
    #[must_use]
    pub const fn status(self) -> &'static str {
        match self {
            Self::AddressType(_) => "address_type",
            Self::AddressDomain => "address_domain",
            Self::Truncated => "truncated",
            Self::SocksVersion(_) => "socks_version",
            Self::SocksAuthVersion(_) => "socks_auth_version",
        }
    }
}
