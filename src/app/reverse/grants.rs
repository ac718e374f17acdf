//! Who may publish what.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use crate::config::Allow;
use crate::wire::AddressRef;
use crate::wire::reverse::{Code, Protocol, Register};

/// Ports that are tried for a service that asks for any port.
const MAX_TRIES: usize = 100;

/// The grants of a config: `reverse.allow`.
pub(in crate::app) struct Grants(pub(in crate::app) Vec<Allow>);

/// A refusal and its reason in words.
pub(super) type Refusal = (Code, String);

impl Grants {
    /// The addresses at which `user` may publish the service, at least one, in the order in which to try them.
    pub(super) fn candidates(
        &self,
        user: Option<&str>,
        register: &Register<'_>,
    ) -> Result<Vec<SocketAddr>, Refusal> {
        if self.0.is_empty() {
            let reason = "the server publishes nothing; add `reverse.allow` to its config";
            return Err((Code::DENIED, reason.to_owned()));
        }
        let AddressRef::Ip(bind) = register.bind else {
            let reason = "`bind` must be an IP address and a port";
            return Err((Code::INVALID, reason.to_owned()));
        };
        let matching: Vec<&Allow> = self
            .0
            .iter()
            .filter(|allow| allow.matches(user, register) && covers(allow.ip, bind.ip()))
            .collect();
        if bind.port() == 0 && !matching.is_empty() {
            return Ok(any_port(bind.ip(), &matching));
        }
        if matching
            .iter()
            .any(|allow| (allow.ports.0..=allow.ports.1).contains(&bind.port()))
        {
            return Ok(vec![bind]);
        }
        let host = match register.protocol {
            Protocol::Http => format!(" for host `{}`", register.host),
            Protocol::Tcp | Protocol::Udp => String::new(),
        };
        let user = user.map_or_else(String::new, |user| format!(" to user `{user}`"));
        let protocol = register.protocol.name();
        let reason =
            format!("the server's `reverse.allow` does not grant {protocol} at {bind}{host}{user}");
        Err((Code::DENIED, reason))
    }
}

impl Allow {
    fn matches(&self, user: Option<&str>, register: &Register<'_>) -> bool {
        let user_matches = self.user.is_none() || self.user.as_deref() == user;
        let protocol_matches = self.protocol.is_none_or(|only| only == register.protocol);
        let host_matches = register.protocol != Protocol::Http
            || self
                .host
                .as_deref()
                .is_some_and(|pattern| host_matches_pattern(pattern, register.host));
        user_matches && protocol_matches && host_matches
    }
}

/// Whether a grant for `granted` covers `requested`: `0.0.0.0` covers all of IPv4, `::` every address.
fn covers(granted: IpAddr, requested: IpAddr) -> bool {
    granted == requested
        || granted == IpAddr::V6(Ipv6Addr::UNSPECIFIED)
        || (granted.is_unspecified() && granted.is_ipv4() && requested.is_ipv4())
}

/// Whether a pattern matches: `*` matches every host, `*.example.com` every subdomain.
fn host_matches_pattern(pattern: &str, host: &str) -> bool {
    match pattern.strip_prefix('*') {
        Some(suffix) => host.len() > suffix.len() && host.ends_with(suffix),
        None => pattern == host,
    }
}

/// At most [`MAX_TRIES`] distinct ports of the granted ranges, from a random start.
fn any_port(ip: IpAddr, matching: &[&Allow]) -> Vec<SocketAddr> {
    let mut found = Vec::new();
    for allow in matching {
        let (first, last) = allow.ports;
        let count = u32::from(last - first) + 1;
        let start = rand::random_range(0..count);
        for step in 0..count {
            let offset = u16::try_from((start + step) % count).unwrap_or(0);
            let address = SocketAddr::new(ip, first + offset);
            if found.len() == MAX_TRIES {
                return found;
            }
            if !found.contains(&address) {
                found.push(address);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn allow(user: Option<&str>, ip: &str, ports: (u16, u16), host: Option<&str>) -> Allow {
        Allow {
            user: user.map(str::to_owned),
            ip: ip.parse().unwrap(),
            ports,
            host: host.map(str::to_owned),
            protocol: None,
        }
    }

    fn register<'a>(protocol: Protocol, bind: &str, host: &'a str) -> Register<'a> {
        Register {
            protocol,
            group: false,
            replace: true,
            bind: bind.parse::<SocketAddr>().unwrap().into(),
            name: "name",
            token: &[],
            host,
        }
    }

    #[test]
    fn only_granted_services_may_be_published() {
        let grants = Grants(vec![
            allow(None, "0.0.0.0", (6000, 6010), Some("*.example.com")),
            allow(Some("ann"), "::", (80, 80), Some("*")),
        ]);
        let may = |user, protocol, bind, host| {
            grants
                .candidates(user, &register(protocol, bind, host))
                .is_ok()
        };
        assert!(may(None, Protocol::Tcp, "0.0.0.0:6000", ""));
        assert!(may(None, Protocol::Udp, "127.0.0.1:6010", ""));
        assert!(!may(None, Protocol::Tcp, "0.0.0.0:6011", ""));
        assert!(!may(None, Protocol::Tcp, "[::]:6000", ""));
        assert!(!may(None, Protocol::Tcp, "0.0.0.0:80", ""));
        assert!(!may(Some("bob"), Protocol::Tcp, "0.0.0.0:80", ""));
        assert!(may(Some("ann"), Protocol::Tcp, "0.0.0.0:80", ""));
        assert!(may(None, Protocol::Http, "0.0.0.0:6000", "www.example.com"));
        assert!(!may(None, Protocol::Http, "0.0.0.0:6000", "example.com"));
        assert!(!may(None, Protocol::Http, "0.0.0.0:6000", "example.org"));
        assert!(may(Some("ann"), Protocol::Http, "[::]:80", "example.org"));
    }

    #[test]
    fn any_port_is_one_of_those_granted() {
        let grants = Grants(vec![allow(None, "0.0.0.0", (6000, 6002), None)]);
        let candidates = grants
            .candidates(None, &register(Protocol::Tcp, "127.0.0.1:0", ""))
            .unwrap();
        let mut ports: Vec<u16> = candidates.iter().map(SocketAddr::port).collect();
        ports.sort_unstable();
        assert_eq!(ports, [6000, 6001, 6002]);
    }

    #[test]
    fn without_grants_everything_is_refused_with_a_reason() {
        let refusal = Grants(Vec::new())
            .candidates(None, &register(Protocol::Tcp, "0.0.0.0:6000", ""))
            .unwrap_err();
        assert_eq!(refusal.0, Code::DENIED);
        assert!(refusal.1.contains("reverse.allow"));
    }
}
