//! Networks: addresses found by a binary search over sorted ranges that do not overlap.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use super::rule::RuleId;

/// Networks as they were added.
#[derive(Default)]
pub struct Collected(Vec<(u128, u128, RuleId)>);

/// The rules of each address.
#[derive(Default)]
pub struct Networks {
    /// First address of each range, ascending; a range ends where the next begins.
    starts: Vec<u128>,
    /// Of each range: its place in `lists`.
    places: Vec<u32>,
    /// Ascending rules; the first list is empty.
    lists: Vec<Box<[RuleId]>>,
}

/// IPv4 is looked up as the IPv6 addresses it is mapped to, so that both spellings of an address are one.
fn bits(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().to_bits(),
        IpAddr::V6(ip) => ip.to_bits(),
    }
}

impl Collected {
    /// Adds a network for `rule`.
    pub fn add(&mut self, network: IpNet, rule: RuleId) {
        let (first, last) = (bits(network.network()), bits(network.broadcast()));
        self.0.push((first, last, rule));
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Sorts what was added into ranges.
    #[must_use]
    pub fn finish(self) -> Networks {
        // At each address where networks begin or end: by how much the count of a rule's networks changes.
        let mut changes: Vec<(u128, RuleId, i32)> = Vec::with_capacity(2 * self.0.len());
        for (first, last, rule) in self.0 {
            changes.push((first, rule, 1));
            if let Some(next) = last.checked_add(1) {
                changes.push((next, rule, -1));
            }
        }
        changes.sort_unstable();
        let mut made = Networks {
            lists: vec![Box::default()],
            ..Networks::default()
        };
        let mut known: BTreeMap<Box<[RuleId]>, u32> = BTreeMap::from([(Box::default(), 0)]);
        let mut active: BTreeMap<RuleId, i32> = BTreeMap::new();
        for group in changes.chunk_by(|a, b| a.0 == b.0) {
            for (_, rule, change) in group {
                let count = active.entry(*rule).or_default();
                *count += change;
                if *count == 0 {
                    active.remove(rule);
                }
            }
            let list: Box<[RuleId]> = active.keys().copied().collect();
            let place = match known.get(&list) {
                Some(place) => *place,
                None => {
                    let place = u32::try_from(made.lists.len()).unwrap_or_default();
                    made.lists.push(list.clone());
                    known.insert(list, place);
                    place
                }
            };
            if made.places.last().copied().unwrap_or_default() != place
                && let Some((start, ..)) = group.first()
            {
                made.starts.push(*start);
                made.places.push(place);
            }
        }
        made.starts.shrink_to_fit();
        made.places.shrink_to_fit();
        made
    }
}

impl Networks {
    /// The ascending rules of the networks that `ip` is in.
    #[must_use]
    pub fn find(&self, ip: IpAddr) -> &[RuleId] {
        let bits = bits(ip);
        let after = self.starts.partition_point(|start| *start <= bits);
        let place = after
            .checked_sub(1)
            .and_then(|range| self.places.get(range));
        place
            .and_then(|place| self.lists.get(*place as usize))
            .map_or(&[], |list| list)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use proptest::prelude::*;

    fn made(networks: &[(&str, u32)]) -> Networks {
        let mut collected = Collected::default();
        for (network, rule) in networks {
            collected.add(network.parse().unwrap(), RuleId(*rule));
        }
        collected.finish()
    }

    fn rules(networks: &Networks, ip: &str) -> Vec<u32> {
        let found = networks.find(ip.parse().unwrap());
        found.iter().map(|rule| rule.0).collect()
    }

    #[test]
    fn nested_and_neighbouring_networks_keep_their_rules() {
        let networks = made(&[
            ("10.0.0.0/8", 0),
            ("10.1.0.0/16", 1),
            ("11.0.0.0/8", 0),
            ("10.1.2.3/32", 0),
            ("2001:db8::/32", 2),
            ("ffff::/16", 3),
        ]);
        for (ip, expected) in [
            ("9.255.255.255", &[][..]),
            ("10.0.0.0", &[0]),
            ("10.1.2.3", &[0, 1]),
            ("::ffff:10.1.255.255", &[0, 1]),
            ("10.2.0.0", &[0]),
            ("11.255.255.255", &[0]),
            ("12.0.0.0", &[]),
            ("2001:db8::1", &[2]),
            ("2001:db9::", &[]),
            ("ffff:ffff::", &[3]),
            ("::", &[]),
        ] {
            assert_eq!(rules(&networks, ip), expected, "{ip}");
        }
    }

    #[test]
    fn everything_is_one_range() {
        let networks = made(&[("::/0", 7), ("0.0.0.0/0", 7)]);
        assert_eq!(networks.starts, [0]);
        assert_eq!(rules(&networks, "203.0.113.7"), [7]);
        assert_eq!(rules(&networks, "::"), [7]);
    }

    proptest! {
        #[test]
        fn finds_what_a_walk_finds(
            added in prop::collection::vec((any::<[u8; 4]>(), 0_u8..=32, 0_u32..4), 0..24),
            asked in prop::collection::vec(any::<[u8; 4]>(), 24),
        ) {
            let networks: Vec<(IpNet, RuleId)> = added
                .iter()
                .map(|(ip, prefix, rule)| (IpNet::new(IpAddr::from(*ip), *prefix).unwrap(), RuleId(*rule)))
                .collect();
            let mut collected = Collected::default();
            networks.iter().for_each(|(network, rule)| collected.add(*network, *rule));
            let ranges = collected.finish();
            for ip in asked.into_iter().chain(added.iter().map(|(ip, ..)| *ip)).map(IpAddr::from) {
                let mut walked: Vec<_> =
                    networks.iter().filter(|(network, _)| network.contains(&ip)).map(|(_, rule)| *rule).collect();
                walked.sort_unstable();
                walked.dedup();
                prop_assert_eq!(ranges.find(ip), walked, "{}", ip);
            }
        }
    }
}
