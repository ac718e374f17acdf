//! The addresses of this machine, public ones too.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use nix::ifaddrs::getifaddrs;

/// The addresses are read again when they are older than this.
const FRESH: Duration = Duration::from_secs(5);

/// What a thread has read.
struct Known {
    addresses: BTreeSet<IpAddr>,
    since: Instant,
}

thread_local! {
    static KNOWN: RefCell<Option<Known>> = const { RefCell::new(None) };
}

/// Whether `ip` is an address of one of this machine's interfaces, as of some seconds ago at most.
#[must_use]
pub fn is_own(ip: IpAddr) -> bool {
    KNOWN.with_borrow_mut(|known| {
        let fresh = known
            .take()
            .filter(|known| known.since.elapsed() < FRESH)
            .unwrap_or_else(|| Known {
                addresses: addresses().unwrap_or_default(),
                since: Instant::now(),
            });
        known.insert(fresh).addresses.contains(&ip.to_canonical())
    })
}

/// The addresses of this machine's interfaces.
///
/// # Errors
/// What the system says: there are too few files, for example.
pub fn addresses() -> io::Result<BTreeSet<IpAddr>> {
    let interfaces = getifaddrs()?;
    let found = interfaces.filter_map(|interface| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
    });
    Ok(found.collect())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_ours_and_a_documented_network_is_not() {
        assert!(is_own("127.0.0.1".parse().unwrap()));
        assert!(is_own("::ffff:127.0.0.1".parse().unwrap()));
        assert!(!is_own("192.0.2.1".parse().unwrap()));
    }
}
