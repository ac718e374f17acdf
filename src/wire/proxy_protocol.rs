//! The PROXY protocol: a header before a stream's first byte that tells a target the address of its visitor
//! (haproxy's `doc/proxy-protocol.txt`, versions 1 and 2).

use std::net::SocketAddr;

/// A version of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// Version 1: a line of text (§2.1).
    One,
    /// Version 2: binary (§2.2).
    Two,
}

/// The first bytes of version 2.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Version 2, command PROXY.
const PROXY: u8 = 0x21;
/// TCP over IPv4, and over IPv6.
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;

/// The header for a visitor from `source` who connected to `destination`. If one is IPv4 and the other IPv6, both are
/// written as IPv6.
#[must_use]
pub fn header(version: Version, source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let canonical =
        |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
    let (source, destination) = (canonical(source), canonical(destination));
    if let (SocketAddr::V4(from), SocketAddr::V4(to)) = (source, destination) {
        return match version {
            Version::One => text("TCP4", from.ip(), to.ip(), from.port(), to.port()),
            Version::Two => {
                let addresses = [from.ip().octets(), to.ip().octets()].concat();
                binary(TCP4, &addresses, from.port(), to.port())
            }
        };
    }
    let as_ipv6 = |address: SocketAddr| match address {
        SocketAddr::V4(address) => address.ip().to_ipv6_mapped(),
        SocketAddr::V6(address) => *address.ip(),
    };
    let (from, to) = (as_ipv6(source), as_ipv6(destination));
    match version {
        Version::One => text("TCP6", from, to, source.port(), destination.port()),
        Version::Two => {
            let addresses = [from.octets(), to.octets()].concat();
            binary(TCP6, &addresses, source.port(), destination.port())
        }
    }
}

fn text(
    family: &str,
    from: impl std::fmt::Display,
    to: impl std::fmt::Display,
    from_port: u16,
    to_port: u16,
) -> Vec<u8> {
    format!("PROXY {family} {from} {to} {from_port} {to_port}\r\n").into_bytes()
}

fn binary(family: u8, addresses: &[u8], from_port: u16, to_port: u16) -> Vec<u8> {
    let len = u16::try_from(addresses.len() + 4).unwrap_or(u16::MAX);
    let mut out = SIGNATURE.to_vec();
    out.extend([PROXY, family]);
    out.extend(len.to_be_bytes());
    out.extend(addresses);
    out.extend(from_port.to_be_bytes());
    out.extend(to_port.to_be_bytes());
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn written(version: Version, source: &str, destination: &str) -> Vec<u8> {
        header(
            version,
            source.parse().unwrap(),
            destination.parse().unwrap(),
        )
    }

    #[test]
    fn version_one_is_a_line() {
        let line = written(Version::One, "192.0.2.1:56324", "198.51.100.7:443");
        assert_eq!(line, b"PROXY TCP4 192.0.2.1 198.51.100.7 56324 443\r\n");
        let line = written(Version::One, "[2001:db8::1]:1", "[2001:db8::2]:2");
        assert_eq!(line, b"PROXY TCP6 2001:db8::1 2001:db8::2 1 2\r\n");
        // An IPv4 visitor of a dual-stack socket.
        let line = written(Version::One, "[::ffff:192.0.2.1]:1", "[::ffff:192.0.2.2]:2");
        assert_eq!(line, b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n");
    }

    #[test]
    fn version_two_is_binary() {
        let bytes = written(Version::Two, "192.0.2.1:56324", "198.51.100.7:443");
        assert_eq!(
            hex::encode(bytes),
            "0d0a0d0a000d0a515549540a2111000cc0000201c6336407dc0401bb"
        );
        let bytes = written(Version::Two, "[2001:db8::1]:1", "192.0.2.2:2");
        assert_eq!(
            hex::encode(bytes),
            "0d0a0d0a000d0a515549540a2121002420010db8000000000000000000000001\
             00000000000000000000ffffc000020200010002"
        );
    }
}
