//! Whose the last request from an address was, where requests do not say whose they are.

use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::sync::Mutex;

use lru::LruCache;

use super::sessions::device;
use crate::limits::MAX_SENDERS;
use crate::net::sync::lock;

/// Users by the addresses that they came from last: as many as [`MAX_SENDERS`], and the one that was quiet for the longest time
/// is forgotten. Only what was authenticated is noted.
pub(super) struct Senders(Mutex<LruCache<IpAddr, usize>>);

impl Default for Senders {
    fn default() -> Self {
        let most = NonZeroUsize::new(MAX_SENDERS).unwrap_or(NonZeroUsize::MIN);
        Self(Mutex::new(LruCache::sparse(most)))
    }
}

impl Senders {
    /// The id of the user who came last from an address.
    pub(super) fn last(&self, ip: IpAddr) -> Option<usize> {
        lock(&self.0).get(&device(ip)).copied()
    }

    /// Notes a user at an address.
    pub(super) fn note(&self, ip: IpAddr, user: usize) {
        lock(&self.0).put(device(ip), user);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    #[test]
    fn no_more_addresses_are_kept_than_the_limit() {
        let senders = Senders::default();
        let ip = |number: usize| IpAddr::from(Ipv4Addr::from(u32::try_from(number).unwrap_or(0)));
        for number in 0..2 * MAX_SENDERS {
            senders.note(ip(number), number);
            assert_eq!(senders.last(ip(0)), Some(0), "it is used again and again");
        }
        assert_eq!(lock(&senders.0).len(), MAX_SENDERS);
        assert_eq!(senders.last(ip(1)), None);
        assert_eq!(
            senders.last(ip(2 * MAX_SENDERS - 1)),
            Some(2 * MAX_SENDERS - 1)
        );
    }

    #[test]
    fn the_network_of_a_device_is_one_address() {
        let senders = Senders::default();
        let ip = |last| IpAddr::from(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last));
        senders.note(ip(1), 7);
        assert_eq!(senders.last(ip(2)), Some(7));
        let mapped = Ipv4Addr::LOCALHOST.to_ipv6_mapped();
        senders.note(mapped.into(), 8);
        assert_eq!(senders.last(Ipv4Addr::LOCALHOST.into()), Some(8));
    }
}
