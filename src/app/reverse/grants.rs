//! Who may publish what.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use crate::config::Allow;
use crate::wire::AddressRef;
use crate::wire::reverse::{Code, Protocol, Register};

/// Ports that are tried where any will do.
const MAX_TRIES: usize = 100;

/// The grants of a config.
pub(super) struct Grants(pub(super) Vec<Allow>);

/// A refusal, with its reason for people.
pub(super) type RequestError = (Code, String);

impl Grants {
    /// The addresses at which `user` may have what it asks for, in the order in which they are to be tried; never
    /// none.
    pub(super) fn choices(
        &self,
        user: Option<&str>,
        register: &Register<'_>,
    ) -> Result<Vec<SocketAddr>, RequestError> {
        if self.0.is_empty() {
            let reason = "this server publishes nothing: its config has no `reverse.allow`";
            return Err((Code::DENIED, reason.to_owned()));
        }
        let AddressRef::Ip(bind) = register.bind else {
            let reason = "`bind` is not an IP address and a port";
            return Err((Code::INVALID, reason.to_owned()));
        };
        let fitting: Vec<&Allow> = self
            .0
            .iter()
            .filter(|allow| allow.fits(user, register) && covers(allow.ip, bind.ip()))
            .collect();
        if bind.port() == 0 && !fitting.is_empty() {
            return Ok(any(bind.ip(), &fitting));
        }
        if fitting
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
        let reason = format!("`reverse.allow` does not grant {protocol} at {bind}{host}{user}");
        Err((Code::DENIED, reason))
    }
}

impl Allow {
    fn fits(&self, user: Option<&str>, register: &Register<'_>) -> bool {
        let its_user = self.user.is_none() || self.user.as_deref() == user;
        let its_protocol = self.protocol.is_none_or(|only| only == register.protocol);
        let its_host = register.protocol != Protocol::Http
            || self
                .host
                .as_deref()
                .is_some_and(|pattern| matches(pattern, register.host));
        its_user && its_protocol && its_host
    }
}

/// Whether a grant for `granted` is one for `asked`: an unspecified address stands for all.
fn covers(granted: IpAddr, asked: IpAddr) -> bool {
    granted == asked
        || granted == IpAddr::V6(Ipv6Addr::UNSPECIFIED)
        || (granted.is_unspecified() && granted.is_ipv4() && asked.is_ipv4())
}

/// `*` is every host, `*.example.com` every one below it.
fn matches(pattern: &str, host: &str) -> bool {
    match pattern.strip_prefix('*') {
        Some(suffix) => host.len() > suffix.len() && host.ends_with(suffix),
        None => pattern == host,
    }
}

/// Some ports of the granted ranges, none twice, beginning anywhere.
fn any(ip: IpAddr, fitting: &[&Allow]) -> Vec<SocketAddr> {
    let mut found = Vec::new();
    for allow in fitting {
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
    fn only_what_is_granted_may_be_had() {
        let grants = Grants(vec![
            allow(None, "0.0.0.0", (6000, 6010), Some("*.example.com")),
            allow(Some("ann"), "::", (80, 80), Some("*")),
        ]);
        let may = |user, protocol, bind, host| {
            grants
                .choices(user, &register(protocol, bind, host))
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
        let choices = grants
            .choices(None, &register(Protocol::Tcp, "127.0.0.1:0", ""))
            .unwrap();
        let mut ports: Vec<u16> = choices.iter().map(SocketAddr::port).collect();
        ports.sort_unstable();
        assert_eq!(ports, [6000, 6001, 6002]);
    }

    #[test]
    fn without_grants_everything_is_refused_with_a_reason() {
        let refusal = Grants(Vec::new())
            .choices(None, &register(Protocol::Tcp, "0.0.0.0:6000", ""))
            .unwrap_err();
        assert_eq!(refusal.0, Code::DENIED);
        assert!(refusal.1.contains("reverse.allow"));
    }
}
