//! The address format of RFC 1928 §5, which SOCKS5 and Shadowsocks share:
//!
//! ```text
//! +------+----------------------------------+------+
//! | ATYP | address                          | port |
//! +------+----------------------------------+------+
//! | 0x01 | IPv4, 4 bytes                    | u16  |
//! | 0x03 | length, 1 byte ‖ name, 1–255     | be   |
//! | 0x04 | IPv6, 16 bytes                   |      |
//! +------+----------------------------------+------+
//! ```
//!
//! Nothing is interpreted here: a domain name that looks like an IP address stays a name, and an IPv4-mapped IPv6 address
//! stays IPv6. The resolver interprets them.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use super::Error;

const IPV4: u8 = 0x01;
const DOMAIN: u8 = 0x03;
const IPV6: u8 = 0x04;

/// Bytes of the longest domain name.
const MAX_DOMAIN_LEN: usize = 255;

/// An address that owns its name.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Address {
    /// An IP address and a port.
    Ip(SocketAddr),
    /// A domain name of 1 to 255 bytes, and a port. See [`Address::domain`].
    Domain(Box<str>, u16),
}

/// An address that borrows its name, usually from the bytes that it was read from.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum AddressRef<'a> {
    /// An IP address and a port.
    Ip(SocketAddr),
    /// A domain name of 1 to 255 bytes, and a port.
    Domain(&'a str, u16),
}

impl<'a> AddressRef<'a> {
    /// Reads the address at the start of `bytes` and returns it with its length; `Ok(None)` if more bytes are needed.
    ///
    /// # Errors
    /// [`Error::AddressType`], [`Error::AddressDomain`].
    pub fn parse(bytes: &'a [u8]) -> Result<Option<(Self, usize)>, Error> {
        let Some((&kind, rest)) = bytes.split_first() else {
            return Ok(None);
        };
        let parsed = match kind {
            IPV4 => rest
                .split_first_chunk()
                .map(|(octets, rest)| (Host::Ip(Ipv4Addr::from_octets(*octets).into()), rest)),
            IPV6 => rest
                .split_first_chunk()
                .map(|(octets, rest)| (Host::Ip(Ipv6Addr::from_octets(*octets).into()), rest)),
            DOMAIN => name(rest)?.map(|(name, rest)| (Host::Name(name), rest)),
            other => return Err(Error::AddressType(other)),
        };
        let Some((host, rest)) = parsed else {
            return Ok(None);
        };
        let Some((port, rest)) = rest.split_first_chunk() else {
            return Ok(None);
        };
        let port = u16::from_be_bytes(*port);
        let address = match host {
            Host::Ip(ip) => Self::Ip(SocketAddr::new(ip, port)),
            Host::Name(name) => Self::Domain(name, port),
        };
        Ok(Some((address, bytes.len() - rest.len())))
    }

    /// Length of the encoded address, at most [`Address::MAX_LEN`].
    #[must_use]
    pub const fn encoded_len(&self) -> usize {
        match self {
            Self::Ip(SocketAddr::V4(_)) => 1 + 4 + 2,
            Self::Ip(SocketAddr::V6(_)) => 1 + 16 + 2,
            Self::Domain(name, _) => 1 + 1 + name.len() + 2,
        }
    }

    /// Writes the address to the start of `out` and returns its length. `None` if it does not fit, or if the name is empty
    /// or longer than 255 bytes.
    #[must_use]
    pub fn encode(&self, out: &mut [u8]) -> Option<usize> {
        let len = self.encoded_len();
        let (kind, rest) = out.get_mut(..len)?.split_first_mut()?;
        let (host, port) = rest.split_last_chunk_mut()?;
        *port = self.port().to_be_bytes();
        match self {
            Self::Ip(SocketAddr::V4(address)) => {
                *kind = IPV4;
                host.copy_from_slice(&address.ip().octets());
            }
            Self::Ip(SocketAddr::V6(address)) => {
                *kind = IPV6;
                host.copy_from_slice(&address.ip().octets());
            }
            Self::Domain(name, _) => {
                *kind = DOMAIN;
                let (len, host) = host.split_first_mut()?;
                *len = u8::try_from(name.len()).ok().filter(|len| *len > 0)?;
                host.copy_from_slice(name.as_bytes());
            }
        }
        Some(len)
    }

    /// The port.
    #[must_use]
    pub const fn port(&self) -> u16 {
        match self {
            Self::Ip(address) => address.port(),
            Self::Domain(_, port) => *port,
        }
    }

    /// The address as a socket address; a domain name becomes the unspecified IPv4 address.
    #[must_use]
    pub const fn socket_addr(&self) -> SocketAddr {
        match self {
            Self::Ip(address) => *address,
            Self::Domain(_, port) => SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), *port),
        }
    }

    /// The same address, owning its name.
    #[must_use]
    pub fn to_owned(&self) -> Address {
        match *self {
            Self::Ip(address) => Address::Ip(address),
            Self::Domain(name, port) => Address::Domain(name.into(), port),
        }
    }
}

/// An address without its port.
enum Host<'a> {
    Ip(IpAddr),
    Name(&'a str),
}

/// Reads a length and a name of that length; returns the name and what follows it.
fn name(bytes: &[u8]) -> Result<Option<(&str, &[u8])>, Error> {
    let Some((&len, rest)) = bytes.split_first() else {
        return Ok(None);
    };
    if len == 0 {
        return Err(Error::AddressDomain);
    }
    let Some((name, rest)) = rest.split_at_checked(usize::from(len)) else {
        return Ok(None);
    };
    match std::str::from_utf8(name) {
        Ok(name) if is_clean(name) => Ok(Some((name, rest))),
        _ => Err(Error::AddressDomain),
    }
}

/// Whether a name can be passed to a resolver and to a log line as it is.
fn is_clean(name: &str) -> bool {
    !name.chars().any(|c| c.is_control() || c.is_whitespace())
}

impl Address {
    /// Bytes of the longest address on the wire: a name of 255 bytes.
    pub const MAX_LEN: usize = 1 + 1 + MAX_DOMAIN_LEN + 2;

    /// A domain name and a port.
    ///
    /// # Errors
    /// [`Error::AddressDomain`] if the name is empty, longer than 255 bytes, or contains spaces or control characters.
    pub fn domain(name: &str, port: u16) -> Result<Self, Error> {
        if name.is_empty() || name.len() > MAX_DOMAIN_LEN || !is_clean(name) {
            return Err(Error::AddressDomain);
        }
        Ok(Self::Domain(name.into(), port))
    }

    /// The same address, borrowed.
    #[must_use]
    pub const fn as_ref(&self) -> AddressRef<'_> {
        match self {
            Self::Ip(address) => AddressRef::Ip(*address),
            Self::Domain(name, port) => AddressRef::Domain(name, *port),
        }
    }

    /// The port.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.as_ref().port()
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self::Ip(address)
    }
}

impl From<SocketAddr> for AddressRef<'_> {
    fn from(address: SocketAddr) -> Self {
        Self::Ip(address)
    }
}

impl<'a> From<&'a Address> for AddressRef<'a> {
    fn from(address: &'a Address) -> Self {
        address.as_ref()
    }
}

impl From<AddressRef<'_>> for Address {
    fn from(address: AddressRef<'_>) -> Self {
        AddressRef::to_owned(&address)
    }
}

/// `192.0.2.1:80`, `[2001:db8::1]:80`, `example.com:80`.
impl fmt::Display for AddressRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            // An IPv6 address received as a name is printed like one received as an address.
            Self::Domain(name, port) if name.contains(':') => write!(f, "[{name}]:{port}"),
            Self::Domain(name, port) => write!(f, "{name}:{port}"),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_ref().fmt(f)
    }
}

/// Why a text is not an address. The texts are for the person who wrote it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AddressTextError {
    /// There is no `:port` at the end.
    #[error("the port is missing: write host:port")]
    NoPort,
    /// What follows the last colon is not a number from 0 to 65535.
    #[error("the port is not a number from 0 to 65535")]
    Port,
    /// The text is a URL.
    #[error("write host:port, without a scheme or path")]
    Url,
    /// An IPv6 address without brackets, or brackets around something else.
    #[error("write an IPv6 address in brackets: [2001:db8::1]:80")]
    Brackets,
    /// The host is empty, longer than 255 bytes, or contains spaces or control characters.
    #[error("the host is empty, longer than 255 bytes, or contains spaces or control characters")]
    Host,
}

impl FromStr for Address {
    type Err = AddressTextError;

    /// Reads `host:port`, where the host is an IPv4 address, an IPv6 address in brackets, or else a domain name.
    ///
    /// # Errors
    /// [`AddressTextError`] says which part is wrong.
    fn from_str(text: &str) -> Result<Self, AddressTextError> {
        let (host, port) = text.rsplit_once(':').ok_or(AddressTextError::NoPort)?;
        if port.ends_with(']') {
            return Err(AddressTextError::NoPort);
        }
        if text.contains('/') {
            return Err(AddressTextError::Url);
        }
        let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
        let port = if digits { port.parse().ok() } else { None }.ok_or(AddressTextError::Port)?;
        if host.contains([':', '[', ']']) {
            return text
                .parse()
                .map(Self::Ip)
                .map_err(|_| AddressTextError::Brackets);
        }
        match host.parse::<Ipv4Addr>() {
            Ok(ip) => Ok(Self::Ip((ip, port).into())),
            Err(_) => Self::domain(host, port).map_err(|_| AddressTextError::Host),
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
