//! What the firewall has redirected to this process.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use socket2::SockRef;

/// The address that a client connected to before the firewall changed it (`REDIRECT` and `DNAT` of netfilter).
///
/// # Errors
/// What the system says: `NotFound` if the connection was not changed, or the system does not track connections.
pub(super) fn original_destination(socket: &SockRef<'_>) -> io::Result<SocketAddr> {
    let local = socket.local_addr()?.as_socket();
    let is_v4 = local.is_some_and(|local| local.ip().to_canonical().is_ipv4());
    let found = if is_v4 {
        socket.original_dst_v4()?
    } else {
        socket.original_dst_v6()?
    };
    let found = found.as_socket();
    found.ok_or_else(|| io::Error::other("the original destination is not an IP address"))
}

/// Whether `ip` is an address of this machine. Nothing is sent to find out.
#[must_use]
pub fn is_own(ip: IpAddr) -> bool {
    let ip = ip.to_canonical();
    // What is sent to an address of this machine leaves from that address; there are many of loopback.
    let leaves_from_it = || -> io::Result<bool> {
        let any: IpAddr = match ip {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = UdpSocket::bind((any, 0))?;
        socket.connect((ip, 9))?;
        Ok(socket.local_addr()?.ip() == ip)
    };
    ip.is_loopback() || ip.is_unspecified() || leaves_from_it().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn loopback_is_own_and_other_networks_are_not() {
        for own in [
            "127.0.0.1",
            "127.1.2.3",
            "::1",
            "::ffff:127.0.0.1",
            "0.0.0.0",
        ] {
            assert!(is_own(own.parse().unwrap()), "{own}");
        }
        for other in ["192.0.2.1", "2001:db8::1"] {
            assert!(!is_own(other.parse().unwrap()), "{other}");
        }
    }
}
