//! Places that several parties share: the one that has the most gives way, with its oldest.

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Mutex;

use tokio::sync::oneshot;

use super::sync::lock;

/// Who uses a place.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Party {
    /// The program itself.
    Own,
    /// A user.
    User(Box<str>),
    /// Clients without a name: those of one address, or of one /64 network of IPv6.
    Network(IpAddr),
}

impl Party {
    /// The party of a client; without a name and an address, the program itself.
    #[must_use]
    pub fn of(user: Option<&str>, client: Option<IpAddr>) -> Self {
        match (user, client.map(|ip| ip.to_canonical())) {
            (Some(user), _) => Self::User(user.into()),
            (None, Some(IpAddr::V6(ip))) => {
                Self::Network(Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64).into())
            }
            (None, Some(ip)) => Self::Network(ip),
            (None, None) => Self::Own,
        }
    }
}

/// At most `capacity` values, each of a party.
#[derive(Debug)]
pub struct Shares<V> {
    capacity: usize,
    count: usize,
    next: u64,
    parties: HashMap<Party, BTreeMap<u64, V>>,
}

impl<V> Shares<V> {
    /// No values yet.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self {
            capacity,
            count: 0,
            next: 0,
            parties: HashMap::new(),
        }
    }

    /// Adds a value. Returns its number, and the value that gave way to it: the oldest one of the party that now has the
    /// most.
    pub fn add(&mut self, party: Party, value: V) -> (u64, Option<V>) {
        let number = self.next;
        self.next += 1;
        self.parties.entry(party).or_default().insert(number, value);
        self.count += 1;
        let displaced = if self.count > self.capacity {
            self.displace()
        } else {
            None
        };
        (number, displaced)
    }

    fn displace(&mut self) -> Option<V> {
        let oldest = |values: &BTreeMap<u64, V>| values.keys().next().copied();
        let rank = |values: &BTreeMap<u64, V>| (values.len(), std::cmp::Reverse(oldest(values)));
        let largest = self.parties.iter().max_by_key(|(_, values)| rank(values));
        let (party, number) = largest.and_then(|(party, values)| {
            let number = oldest(values)?;
            Some((party.clone(), number))
        })?;
        self.remove(&party, number)
    }

    /// Removes a value, if it has not given way.
    pub fn remove(&mut self, party: &Party, number: u64) -> Option<V> {
        let values = self.parties.get_mut(party)?;
        let removed = values.remove(&number)?;
        if values.is_empty() {
            self.parties.remove(party);
        }
        self.count -= 1;
        Some(removed)
    }
}

/// Places for work that waits.
#[derive(Debug)]
pub struct Places(Mutex<Shares<oneshot::Sender<()>>>);

impl Places {
    /// So many places.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self(Mutex::new(Shares::new(capacity)))
    }

    /// Does `work` in a place. `None`: it gave way, and was dropped.
    pub async fn hold<T>(&self, party: Party, work: impl Future<Output = T>) -> Option<T> {
        let (held, displaced) = oneshot::channel();
        let (number, gives_way) = lock(&self.0).add(party.clone(), held);
        drop(gives_way);
        let _place = Place {
            places: self,
            party,
            number,
        };
        tokio::select! {
            done = work => Some(done),
            _ = displaced => None,
        }
    }
}

/// A place, until it is dropped.
struct Place<'a> {
    places: &'a Places,
    party: Party,
    number: u64,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        lock(&self.places.0).remove(&self.party, self.number);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn the_oldest_of_the_greediest_gives_way() {
        let user = |name: &str| Party::of(Some(name), None);
        let mut shares = Shares::new(4);
        for value in 0..4 {
            assert_eq!(shares.add(user("greedy"), value).1, None);
        }
        assert_eq!(shares.add(user("greedy"), 4).1, Some(0), "of its own");
        let (kept, displaced) = shares.add(user("modest"), 10);
        assert_eq!(displaced, Some(1));
        assert_eq!(shares.add(user("greedy"), 5).1, Some(2), "of its own");
        assert_eq!(shares.add(user("third"), 20).1, Some(3));
        assert_eq!(shares.remove(&user("modest"), kept), Some(10));
        assert_eq!(shares.remove(&user("modest"), kept), None);
        assert_eq!(shares.add(user("modest"), 11).1, None);
    }

    #[test]
    fn where_all_have_as_many_the_oldest_of_all_gives_way() {
        let mut shares = Shares::new(2);
        for (value, displaced) in [(0, None), (1, None), (2, Some(0)), (3, Some(1))] {
            let ip = IpAddr::from([192, 0, 2, value]);
            assert_eq!(shares.add(Party::of(None, Some(ip)), value).1, displaced);
        }
        assert_eq!(shares.parties.len(), 2);
    }

    #[test]
    fn clients_of_one_network_are_one_party() {
        let party = |text: &str| Party::of(None, Some(text.parse().unwrap()));
        assert_eq!(party("2001:db8::1"), party("2001:db8::2:3"));
        assert_ne!(party("2001:db8::1"), party("2001:db8:0:1::1"));
        assert_eq!(party("::ffff:192.0.2.1"), party("192.0.2.1"));
        assert_ne!(party("192.0.2.1"), party("192.0.2.2"));
    }
}
