//! Floor 3: from names to addresses.
//!
//! hickory-resolver speaks DNS on the wire; what a proxy needs beyond that is here: one cache for all workers, one
//! query for all who ask the same name at the same time, and a deadline on every answer.
//!
//! # Layout
//!
//! - [`Resolver`] (`resolver.rs`) is what callers hold: hosts file, cache, tasks, counters.
//! - `cache.rs` decides what is fresh, stale, forgotten or already being asked. No IO, no clock.
//! - `upstream.rs` asks the name servers: A beside AAAA, the search list, the next server when one is silent.
//! - `hosts.rs` and `system.rs` read `/etc/hosts` and `/etc/resolv.conf`.
//! - [`Source`] (`source.rs`) is the `dns` key of the config.

mod cache;
mod hosts;
mod resolver;
mod source;
mod system;
mod upstream;

#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub use self::resolver::Resolver;
pub use self::source::{Server, Source, Transport};

/// The addresses of one name, of both families, the preferred family first; never empty.
pub type Addresses = Arc<[IpAddr]>;

/// What one lookup ends with.
pub type Answer = Result<Addresses, Error>;

/// How names are resolved.
#[derive(Debug, Clone)]
pub struct Config {
    /// Who is asked.
    pub source: Source,
    /// Names remembered; the least recently used are forgotten first. 0 remembers none.
    pub cache_size: usize,
    /// Whether IPv6 addresses come before IPv4 ones in [`Addresses`].
    pub ipv6_first: bool,
    /// The longest that [`Resolver::lookup`] takes, whatever the name servers do.
    pub deadline: Duration,
    /// Answers are kept at least this long.
    pub ttl_floor: Duration,
    /// Answers are kept at most this long.
    pub ttl_ceiling: Duration,
    /// "No such name" and "no address" are kept at most this long.
    pub negative_ceiling: Duration,
    /// For how long after its TTL an answer may still be served while a new one is fetched.
    pub stale_for: Duration,
    /// The hosts file; re-read when it changes.
    pub hosts_path: PathBuf,
    /// The resolver configuration that [`Source::System`] reads; re-read when it changes. Unix only.
    pub resolv_conf_path: PathBuf,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            source: Source::System,
            // About 1 MiB when full.
            cache_size: 4096,
            ipv6_first: false,
            // What a person takes for "the site is down"; the default of resolv.conf(5) would be 5 s a server, twice.
            deadline: Duration::from_secs(5),
            // A page opens dozens of connections to one name within seconds; a TTL of 0 must not make each a query.
            // Long enough for that, too short to be in the way of a failover.
            ttl_floor: Duration::from_secs(5),
            // A wrong record that says "a day" is gone after an hour.
            ttl_ceiling: Duration::from_secs(3600),
            // A name that was created just now is wanted soon; a missing one is asked for in bursts.
            negative_ceiling: Duration::from_secs(60),
            // Names in use are asked for every few minutes. The older an address, the likelier that dialling it costs
            // more than the question would have.
            stale_for: Duration::from_secs(600),
            hosts_path: PathBuf::from("/etc/hosts"),
            resolv_conf_path: PathBuf::from("/etc/resolv.conf"),
        }
    }
}

/// What a [`Resolver`] did since it was made. All but `entries` only grow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Answers given without waiting: literals, the hosts file, the cache (stale ones included).
    pub hits: u64,
    /// Lookups that started to ask the name servers.
    pub misses: u64,
    /// Hits on an answer past its TTL.
    pub stale: u64,
    /// Lookups that waited for what another lookup had started.
    pub joined: u64,
    /// Names that turned out not to exist or to have no address.
    pub negative: u64,
    /// Names that no name server could be made to answer, in time or at all, and lookups refused as [`Error::Busy`].
    pub failures: u64,
    /// Those of `failures` that ran into the deadline.
    pub timeouts: u64,
    /// Questions sent: one for each name, record type and server, retransmissions not counted.
    pub queries: u64,
    /// Names forgotten because the cache was full.
    pub evicted: u64,
    /// Names in the cache now.
    pub entries: u64,
}

/// Why a name has no addresses, or why a [`Resolver`] could not be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The name does not exist (NXDOMAIN).
    #[error("no such name")]
    NoSuchName,
    /// The name exists and has neither an IPv4 nor an IPv6 address (NODATA), or is blocked with `0.0.0.0`.
    #[error("the name has no address")]
    NoAddress,
    /// No host can have this name; nobody was asked.
    #[error("not a valid host name")]
    InvalidName,
    /// No name server answered before the deadline.
    #[error("no name server answered in time")]
    Timeout,
    /// Too many other names are being resolved.
    #[error("too many names are being resolved at once")]
    Busy,
    /// The name servers answered with an error code, such as SERVFAIL or REFUSED.
    #[error("the name server answered: {0}")]
    ServerFailure(&'static str),
    /// The name servers cannot be talked to: network, TLS or protocol trouble.
    #[error("the name servers cannot be reached: {0}")]
    Unreachable(Arc<str>),
    /// The [`Source`] names something that cannot be used.
    #[error("{0}")]
    Source(String),
}

impl Error {
    /// The error as a metric label and log field.
    #[must_use]
    pub fn status(&self) -> &'static str {
        match self {
            Self::NoSuchName => "dns_no_such_name",
            Self::NoAddress => "dns_no_address",
            Self::InvalidName => "dns_invalid_name",
            Self::Timeout => "dns_timeout",
            Self::Busy => "dns_busy",
            Self::ServerFailure(_) => "dns_server_failure",
            Self::Unreachable(_) => "dns_unreachable",
            Self::Source(_) => "dns_source",
        }
    }
}

/// Puts addresses into the order that callers get: no duplicates, the preferred family first, the server's order within
/// a family.
///
/// IPv4-mapped IPv6 addresses become the IPv4 addresses that a connection to them would reach, so that address rules
/// see the truth. `0.0.0.0` and `::` are left out: blocklists use them for "nowhere", but connecting to them reaches
/// this very machine.
fn arrange(addresses: impl IntoIterator<Item = IpAddr>, ipv6_first: bool) -> Vec<IpAddr> {
    let mut arranged: Vec<IpAddr> = Vec::new();
    for address in addresses {
        let address = address.to_canonical();
        if !address.is_unspecified() && !arranged.contains(&address) {
            arranged.push(address);
        }
    }
    arranged.sort_by_key(|address| address.is_ipv6() != ipv6_first);
    arranged
}
