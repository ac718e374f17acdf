//! What stands between `ssr` and the network, in the config as meant: plugins that are programs, and proxies.

use std::time::Duration;

use crate::config::secret::Secret;
use crate::crypto::{Key, Method};
use crate::net::tls::Trust;
use crate::outbound::multiplex::Sharing;
use crate::wire::address::Address;
use crate::wire::multiplex::Head;

/// A plugin that is a program (SIP003). At least one of `tcp` and `udp` is set.
#[derive(Clone, Debug, PartialEq)]
pub struct Plugin {
    /// Its name on `PATH`, or its path.
    pub program: String,
    /// `plugin_opts`, as they are passed to it.
    pub options: Option<Secret>,
    /// Its arguments.
    pub arguments: Vec<Secret>,
    /// Whether streams go through it.
    pub tcp: bool,
    /// Whether datagrams go through it.
    pub udp: bool,
}

/// How streams are multiplexed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Multiplex {
    /// The multiplexer, and whether it pads.
    pub head: Head,
    /// When another session is opened.
    pub sharing: Sharing,
}

/// The keys of one server. On the server itself, `identity` is empty.
#[derive(Clone, Debug, PartialEq)]
pub struct Keys {
    /// Identity keys (iPSKs) for the servers on the way, outermost first (SIP023).
    pub identity: Vec<Key>,
    /// The key that the traffic is encrypted with.
    pub key: Key,
}

/// A proxy on the way (`outbound_proxy`).
#[derive(Clone, Debug)]
pub struct ProxyHop {
    /// The path of its URL in the config, for errors.
    pub at: String,
    /// Its protocol.
    pub scheme: ProxyScheme,
    /// Its address.
    pub address: Address,
    /// The user name and the password that it requires.
    pub login: Option<(String, Secret)>,
    /// The name expected in its certificate; `None`: its host.
    pub server_name: Option<String>,
    /// Which certificates are accepted, if the scheme is `https`.
    pub trust: Trust,
    /// The method and the keys, if the scheme is `ss`.
    pub shadowsocks: Option<(Method, Keys)>,
}

/// Whether they mean the same, wherever they stand in the config.
impl PartialEq for ProxyHop {
    fn eq(&self, other: &Self) -> bool {
        let ends = |one: &Self| (one.scheme, one.address.clone(), one.server_name.clone());
        ends(self) == ends(other)
            && self.login == other.login
            && self.trust == other.trust
            && self.shadowsocks == other.shadowsocks
    }
}

/// The protocol of a [`ProxyHop`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyScheme {
    /// SOCKS5 (RFC 1928).
    Socks5,
    /// HTTP CONNECT (RFC 9110 §9.3.6).
    Http,
    /// HTTP CONNECT over TLS.
    Https,
    /// Shadowsocks.
    Shadowsocks,
}

impl ProxyScheme {
    /// Its name in a URL.
    pub fn name(self) -> &'static str {
        match self {
            Self::Socks5 => "socks5",
            Self::Http => "http",
            Self::Https => "https",
            Self::Shadowsocks => "ss",
        }
    }
}

impl ProxyHop {
    /// The name expected in its certificate.
    pub fn server_name(&self) -> String {
        self.server_name
            .clone()
            .unwrap_or_else(|| match &self.address {
                Address::Ip(address) => address.ip().to_string(),
                Address::Domain(name, _) => name.to_string(),
            })
    }
}

/// Leaves the login out.
impl std::fmt::Display for ProxyHop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}://{}", self.scheme.name(), self.address)
    }
}

/// `online_config`: a list of servers on the web (SIP008).
#[derive(Clone, Debug, PartialEq)]
pub struct OnlineConfig {
    /// Its URL, which often is a secret.
    pub url: Secret,
    /// The time between two downloads.
    pub interval: Duration,
    /// The plugins that its servers may have.
    pub allowed_plugins: Vec<String>,
    /// `outbound_proxy` of the top level, which holds for its servers too.
    pub outbound_proxy: Vec<Secret>,
}
