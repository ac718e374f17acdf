//! The addresses of a device.

use std::net::IpAddr;

use ipnet::IpNet;

/// The addresses of a device in one IP version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// The address of the device.
    pub own: IpAddr,
    /// The length of its network's prefix.
    pub prefix: u8,
    /// An address that nobody has: our listener sees connections come from there.
    pub other: IpAddr,
}

impl Ends {
    /// The ends of a device with this address. The other end is `destination`, or the address after, else before it. `None`:
    /// the network has no other address.
    #[must_use]
    pub fn of(address: IpNet, destination: Option<IpAddr>) -> Option<Self> {
        let own = address.addr();
        let destination =
            destination.filter(|other| *other != own && other.is_ipv4() == own.is_ipv4());
        let other = destination.or_else(|| {
            let candidates = match own {
                IpAddr::V4(v4) => [v4.to_bits().checked_add(1), v4.to_bits().checked_sub(1)]
                    .map(|bits| bits.map(|bits| IpAddr::V4(bits.into()))),
                IpAddr::V6(v6) => [v6.to_bits().checked_add(1), v6.to_bits().checked_sub(1)]
                    .map(|bits| bits.map(|bits| IpAddr::V6(bits.into()))),
            };
            // In a network of two addresses, both are usable (RFC 3021).
            let is_small = address.max_prefix_len() - address.prefix_len() <= 1;
            let is_host = |ip: &IpAddr| {
                is_small
                    || own.is_ipv6()
                    || (*ip != address.network() && *ip != address.broadcast())
            };
            let mut inside = candidates.into_iter().flatten();
            inside.find(|ip| address.contains(ip) && is_host(ip))
        })?;
        Some(Self {
            own,
            prefix: address.prefix_len(),
            other,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn other_end_is_a_neighbour_in_the_network() {
        for (address, other) in [
            ("172.19.0.1/30", Some("172.19.0.2")),
            ("172.19.0.2/30", Some("172.19.0.1")),
            ("10.0.0.254/24", Some("10.0.0.253")),
            ("10.0.0.0/31", Some("10.0.0.1")),
            ("10.0.0.1/31", Some("10.0.0.0")),
            ("10.0.0.1/32", None),
            ("fdfe:dcba:9876::1/126", Some("fdfe:dcba:9876::2")),
            ("fdfe:dcba:9876::1/128", None),
        ] {
            let ends = Ends::of(address.parse().unwrap(), None);
            assert_eq!(
                ends.map(|ends| ends.other.to_string()).as_deref(),
                other,
                "{address}"
            );
        }
        let named = Ends::of(
            "10.0.0.1/32".parse().unwrap(),
            Some("10.9.9.9".parse().unwrap()),
        );
        assert_eq!(named.unwrap().other.to_string(), "10.9.9.9");
        let foreign = Ends::of(
            "10.0.0.1/32".parse().unwrap(),
            Some("fd00::1".parse().unwrap()),
        );
        assert_eq!(foreign, None);
    }
}
