//! Settings of a resolver.

use std::path::PathBuf;
use std::time::Duration;

use super::source::Source;

/// Settings of a [`Resolver`](super::Resolver).
#[derive(Debug, Clone)]
pub struct Config {
    /// The name servers to query.
    pub source: Source,
    /// The number of names to remember; when full, the least recently used is evicted. 0: no cache.
    pub cache_size: usize,
    /// Puts IPv6 addresses before IPv4 ones in [`Addresses`](super::Addresses).
    pub ipv6_first: bool,
    /// The longest time that [`Resolver::lookup`](super::Resolver::lookup) takes.
    pub deadline: Duration,
    /// The shortest time to keep an answer.
    pub ttl_floor: Duration,
    /// The longest time to keep an answer with addresses.
    pub ttl_ceiling: Duration,
    /// The longest time to keep "no such name" and "no address".
    pub negative_ceiling: Duration,
    /// How long after its TTL an answer may still be served while a new one is fetched.
    pub stale_for: Duration,
    /// `SO_MARK` of the sockets of queries.
    pub mark: Option<u32>,
    /// The hosts file; read again when it changes.
    pub hosts_path: PathBuf,
    /// The file that [`Source::System`] reads; read again when it changes. Used on Linux only.
    pub resolv_conf_path: PathBuf,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            source: Source::System,
            // About 1 MiB when full.
            cache_size: 4096,
            ipv6_first: false,
            // After this time people assume that the site is down. The default of resolv.conf(5) would be 5 s a server,
            // twice.
            deadline: Duration::from_secs(5),
            // A page opens dozens of connections to one name within seconds; with a TTL of 0, each would be a query.
            // This is long enough for that, and too short to delay a failover.
            ttl_floor: Duration::from_secs(5),
            // A wrong record with a TTL of a day is gone after an hour.
            ttl_ceiling: Duration::from_secs(3600),
            // A name that was created just now is needed soon; a missing one is asked for in bursts.
            negative_ceiling: Duration::from_secs(60),
            // Names in use are looked up every few minutes. The older an address, the likelier that a failed dial to it
            // costs more than a query would have.
            stale_for: Duration::from_secs(600),
            mark: None,
            hosts_path: PathBuf::from("/etc/hosts"),
            resolv_conf_path: PathBuf::from("/etc/resolv.conf"),
        }
    }
}
