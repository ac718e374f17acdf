//! A rule: its conditions, its action, and where it was written.

use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Arc;

/// A rule's place in the order of rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleId(pub u32);

/// What happens to a request.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// It goes to its target without a server.
    Direct,
    /// It is refused.
    Block,
    /// It goes through whichever server the balancer chooses.
    Proxy,
    /// It goes through the server with this name (`remarks`).
    Server(Arc<str>),
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Direct => "direct",
            Self::Block => "block",
            Self::Proxy => "proxy",
            Self::Server(name) => name,
        })
    }
}

/// What a request travels as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// A stream.
    Tcp,
    /// Datagrams.
    Udp,
    /// Nothing yet: somebody asks for a name. Rules for one of the above do not hold.
    Name,
}

/// Where a rule was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The config or ACL file.
    pub file: Arc<Path>,
    /// Its line, from 1; 0: the rule stands for the file as a whole.
    pub line: u32,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
        }
        Ok(())
    }
}

/// A rule without its destinations, which the [`Builder`](super::Builder) takes one by one. Every condition that is
/// given must hold; of several values of one condition, one.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Ports of the target; empty: any.
    pub ports: Vec<RangeInclusive<u16>>,
    /// TCP or UDP; `None`: both.
    pub network: Option<Network>,
    /// Users of the server; empty: any.
    pub users: Vec<Box<str>>,
    /// Listening addresses or names of the local side; empty: any.
    pub locals: Vec<Box<str>>,
    /// Whether the rule's networks are compared with the addresses of a name, too, not only with literal addresses.
    pub resolves: bool,
    /// What happens when it matches.
    pub to: Action,
    /// Where it was written.
    pub origin: Origin,
}

impl Rule {
    /// A rule without conditions.
    #[must_use]
    pub const fn new(to: Action, origin: Origin) -> Self {
        Self {
            ports: Vec::new(),
            network: None,
            users: Vec::new(),
            locals: Vec::new(),
            resolves: true,
            to,
            origin,
        }
    }

    /// Whether all conditions but the destination hold.
    pub(super) fn admits(&self, query: &Query<'_>) -> bool {
        let is_named = |names: &[Box<str>], name: Option<&str>| {
            names.is_empty() || name.is_some_and(|name| names.iter().any(|one| **one == *name))
        };
        (self.ports.is_empty() || self.ports.iter().any(|range| range.contains(&query.port)))
            && self.network.is_none_or(|network| network == query.network)
            && is_named(&self.users, query.user)
            && is_named(&self.locals, query.local)
    }
}

/// A target's host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Host<'a> {
    /// A name.
    Domain(&'a str),
    /// An address.
    Ip(IpAddr),
    /// An address, and the name that the client's first bytes give for it. Rules may match either; nothing is resolved.
    Claimed(&'a str, IpAddr),
}

impl<'a> Host<'a> {
    /// The host that a client gave as a name, which some also do with addresses.
    #[must_use]
    pub fn of_name(name: &'a str) -> Self {
        name.parse().map_or(Self::Domain(name), Self::Ip)
    }
}

/// A request, as rules see it.
#[derive(Clone, Copy, Debug)]
pub struct Query<'a> {
    /// The target's host.
    pub host: Host<'a>,
    /// The target's port.
    pub port: u16,
    /// How it travels.
    pub network: Network,
    /// Whose request it is, on a server with users.
    pub user: Option<&'a str>,
    /// Which listener it came to.
    pub local: Option<&'a str>,
}

impl<'a> Query<'a> {
    /// The same with a name that is claimed for the host, if that is an address.
    #[must_use]
    pub const fn claiming(self, name: Option<&'a str>) -> Self {
        match (self.host, name) {
            (Host::Ip(ip), Some(name)) => Self {
                host: Host::Claimed(name, ip),
                ..self
            },
            _ => self,
        }
    }
}
