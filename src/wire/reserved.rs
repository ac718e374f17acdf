//! Reserved targets: names by which a client asks the server itself for a service, instead of a connection.
//!
//! None of the names can be resolved, so a server that does not know one refuses the request.

use super::{AddressRef, multiplex, reverse, udp_over_stream, udp_over_tcp};

/// What a reserved target asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reserved {
    /// A link of reverse tunnels.
    Link,
    /// A stream of sealed packets.
    Packets,
    /// UDP over TCP, as sing-box and mihomo speak it.
    UdpOverTcp(udp_over_tcp::Version),
    /// A session of `multiplex`, as sing-box and mihomo speak it.
    Multiplex,
}

impl Reserved {
    /// What `target` asks for; `None`: it is not reserved.
    #[must_use]
    pub fn of(target: AddressRef<'_>) -> Option<Self> {
        let AddressRef::Domain(name, port) = target else {
            return None;
        };
        let is = |reserved: &str| name.eq_ignore_ascii_case(reserved);
        match port {
            reverse::PORT if is(reverse::HOST) => return Some(Self::Link),
            udp_over_stream::PORT if is(udp_over_stream::NAME) => return Some(Self::Packets),
            multiplex::PORT if is(multiplex::HOST) => return Some(Self::Multiplex),
            _ => {}
        }
        // Clients send any port with these names.
        udp_over_tcp::Version::of_target(name).map(Self::UdpOverTcp)
    }

    /// Why a request for it is refused where nobody offers it.
    #[must_use]
    pub const fn refusal(self) -> &'static str {
        match self {
            Self::Link => "the target is reserved for reverse tunnels",
            Self::Packets | Self::UdpOverTcp(_) => "the target is reserved for UDP over streams",
            Self::Multiplex => "the target is reserved for multiplexed sessions",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::udp_over_tcp::Version;

    #[test]
    fn reserved_names_are_found_in_any_case() {
        let cases = [
            ("tunnel.v1.ssr.invalid", 9015, Some(Reserved::Link)),
            ("Tunnel.v1.ssr.Invalid", 9015, Some(Reserved::Link)),
            ("tunnel.v1.ssr.invalid", 9016, None),
            ("udp.v1.ssr.invalid", 9015, Some(Reserved::Packets)),
            ("udp.v1.ssr.invalid", 53, None),
            (
                "sp.udp-over-tcp.arpa",
                0,
                Some(Reserved::UdpOverTcp(Version::V1)),
            ),
            (
                "SP.v2.udp-over-tcp.arpa",
                443,
                Some(Reserved::UdpOverTcp(Version::V2)),
            ),
            ("sp.v3.udp-over-tcp.arpa", 0, None),
            ("sp.mux.sing-box.arpa", 444, Some(Reserved::Multiplex)),
            ("sp.mux.sing-box.arpa", 443, None),
            ("example.com", 9015, None),
        ];
        for (name, port, expected) in cases {
            let target = AddressRef::Domain(name, port);
            assert_eq!(Reserved::of(target), expected, "{target}");
        }
        let ip = AddressRef::Ip(([127, 0, 0, 1], 9015).into());
        assert_eq!(Reserved::of(ip), None);
    }
}
