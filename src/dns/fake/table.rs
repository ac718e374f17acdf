//! The addresses of one network, and the names that they stand for.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::{Ipv4Net, Ipv6Net};
use lru::LruCache;

use super::saved::Saved;
use crate::limits::MAX_FAKE_NAMES;

/// What an address is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// A real address.
    Real,
    /// A fake address, and the name that it stands for: in lower case, without a final dot.
    Name(Arc<str>),
    /// A fake address that stands for no name, or no longer.
    Unknown,
}

/// Names by address and addresses by name. An address is its place in the network.
pub(super) struct Table {
    network: Network,
    /// The number of addresses.
    hosts: u32,
    /// In seconds.
    lifetime: u64,
    /// The place that is looked at next.
    next: u32,
    names: LruCache<u32, Entry>,
    places: HashMap<Arc<str>, u32>,
    most: usize,
}

/// The first address.
#[derive(Clone, Copy)]
enum Network {
    V4(u32),
    V6(u128),
}

struct Entry {
    name: Arc<str>,
    /// In Unix seconds. Every use moves it to at least one lifetime ahead, but so far that most uses need not be saved.
    expires: u64,
}

impl Table {
    pub(super) fn v4(network: Ipv4Net, lifetime: u64, start: u32) -> Self {
        let first = u32::from(network.network());
        // Those at both ends are no hosts, except in networks without room for them (RFC 3021).
        let (first, hosts) = match network.prefix_len() {
            32 => (first, 1),
            31 => (first, 2),
            len => (first + 1, u32::MAX.checked_shr(len.into()).unwrap_or(0) - 1),
        };
        Self::new(Network::V4(first), hosts, lifetime, start)
    }

    pub(super) fn v6(network: Ipv6Net, lifetime: u64, start: u32) -> Self {
        let first = u128::from(network.network());
        // The first one is that of its routers (RFC 4291 §2.6.1).
        let (first, hosts) = match network.prefix_len() {
            128 => (first, 1),
            len => {
                let all = u128::MAX.checked_shr(len.into()).unwrap_or(0);
                (first + 1, u32::try_from(all).unwrap_or(u32::MAX))
            }
        };
        Self::new(Network::V6(first), hosts, lifetime, start)
    }

    fn new(network: Network, hosts: u32, lifetime: u64, start: u32) -> Self {
        Self {
            network,
            hosts,
            lifetime,
            next: start % hosts,
            names: LruCache::unbounded(),
            places: HashMap::new(),
            most: usize::try_from(hosts).map_or(MAX_FAKE_NAMES, |all| all.min(MAX_FAKE_NAMES)),
        }
    }

    /// The address for `name`, and whether that is worth saving; `None`: all are in use.
    pub(super) fn address(&mut self, name: &str, now: u64) -> Option<(IpAddr, bool)> {
        let known = self.places.get(name).copied();
        if let Some(place) = known
            && let Some(is_news) = self.touch(place, now)
        {
            return Some((self.ip(place), is_news));
        }
        let place = self.free(now)?;
        self.put(place, name.into(), now + 2 * self.lifetime);
        Some((self.ip(place), true))
    }

    /// What `ip` is, and whether that it was asked is worth saving.
    pub(super) fn meaning(&mut self, ip: IpAddr, now: u64) -> (Meaning, bool) {
        let Some(place) = self.place(ip) else {
            return (Meaning::Real, false);
        };
        let Some(is_news) = place.and_then(|place| self.touch(place, now)) else {
            return (Meaning::Unknown, false);
        };
        let entry = place.and_then(|place| self.names.peek(&place));
        let name = entry.map(|entry| Arc::clone(&entry.name));
        (name.map_or(Meaning::Unknown, Meaning::Name), is_news)
    }

    /// Notes a use; `None`: the place stands for no name.
    fn touch(&mut self, place: u32, now: u64) -> Option<bool> {
        let lifetime = self.lifetime;
        let entry = self.names.get_mut(&place)?;
        let is_news = entry.expires < now + lifetime;
        if is_news {
            entry.expires = now + 2 * lifetime;
        }
        Some(is_news)
    }

    /// A place for a new name. If there are more places than names are kept, the least recently used name is forgotten, but
    /// its place is taken again only after all others. Else it is taken at once, if its time has passed.
    fn free(&mut self, now: u64) -> Option<u32> {
        if self.names.len() >= self.most {
            let is_scarce = usize::try_from(self.hosts).is_ok_and(|all| all <= self.most);
            let (_, oldest) = self.names.peek_lru()?;
            // What it was given beyond its lifetime only saves writing.
            if is_scarce && oldest.expires.saturating_sub(self.lifetime) > now {
                return None;
            }
            let (place, oldest) = self.names.pop_lru()?;
            self.places.remove(&oldest.name);
            if is_scarce {
                return Some(place);
            }
        }
        while self.names.contains(&self.next) {
            self.next = (self.next + 1) % self.hosts;
        }
        let place = self.next;
        self.next = (self.next + 1) % self.hosts;
        Some(place)
    }

    fn put(&mut self, place: u32, name: Arc<str>, expires: u64) {
        self.places.insert(Arc::clone(&name), place);
        self.names.put(place, Entry { name, expires });
    }

    fn ip(&self, place: u32) -> IpAddr {
        match self.network {
            Network::V4(first) => Ipv4Addr::from(first.saturating_add(place)).into(),
            Network::V6(first) => Ipv6Addr::from(first.saturating_add(place.into())).into(),
        }
    }

    /// The place of `ip`; `None`: it is not in the network; `Some(None)`: it is at one of its ends.
    fn place(&self, ip: IpAddr) -> Option<Option<u32>> {
        let distance = match (ip, self.network) {
            (IpAddr::V4(ip), Network::V4(first)) => i128::from(u32::from(ip)) - i128::from(first),
            (IpAddr::V6(ip), Network::V6(first)) => {
                u128::from(ip).cast_signed() - first.cast_signed()
            }
            _ => return None,
        };
        let place = u32::try_from(distance).ok();
        let is_end = self.hosts > 2 && (distance == -1 || distance == i128::from(self.hosts));
        match place.filter(|place| *place < self.hosts) {
            None if !is_end => None,
            place => Some(place),
        }
    }

    pub(super) fn save(&self) -> impl Iterator<Item = Saved> {
        // The least recently used first, so that they come back in this order.
        self.names.iter().rev().map(|(place, entry)| Saved {
            address: self.ip(*place),
            name: Arc::clone(&entry.name),
            expires: entry.expires,
        })
    }

    /// Takes a name back; returns whether it did.
    pub(super) fn restore(&mut self, saved: Saved, now: u64) -> bool {
        let place = self.place(saved.address).flatten();
        let Some(place) = place.filter(|place| !self.names.contains(place)) else {
            return false;
        };
        let is_valid = saved.expires > now && saved.expires <= now + 2 * self.lifetime;
        if !is_valid || self.names.len() >= self.most || self.places.contains_key(&saved.name) {
            return false;
        }
        self.put(place, saved.name, saved.expires);
        true
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        assert_eq!(self.names.len(), self.places.len());
        self.names.len()
    }
}
