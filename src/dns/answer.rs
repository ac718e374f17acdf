//! The result of a lookup.

use std::net::IpAddr;
use std::sync::Arc;

/// The addresses of one name, of both families, the preferred family first; never empty.
pub type Addresses = Arc<[IpAddr]>;

/// The result of one lookup.
pub type Answer = Result<Addresses, Error>;

/// Why a name has no addresses, or why a [`Resolver`](super::Resolver) could not be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The name does not exist (NXDOMAIN).
    #[error("no such name")]
    NoSuchName,
    /// The name exists but has neither an IPv4 nor an IPv6 address (NODATA), or is blocked with `0.0.0.0`.
    #[error("the name has no address")]
    NoAddress,
    /// No host can have this name; no query was sent.
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
    /// The network, TLS or the protocol failed between us and the name servers.
    #[error("cannot reach the name servers: {0}")]
    Unreachable(Arc<str>),
    /// The [`Source`](super::Source) cannot be used.
    #[error("{0}")]
    Source(String),
}

/// Puts addresses into the order that callers get: no duplicates, the preferred family first, the server's order within
/// a family.
///
/// An IPv4-mapped IPv6 address becomes the IPv4 address that a connection to it would reach, so that address rules match
/// it. `0.0.0.0` and `::` are left out: blocklists use them for "nowhere", but connecting to them reaches this machine.
pub(super) fn arrange(
    addresses: impl IntoIterator<Item = IpAddr>,
    ipv6_first: bool,
) -> Vec<IpAddr> {
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
