//! Puts datagrams together that came in fragments. etherparse sorts the parts; how many datagrams wait is bounded here.

use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use etherparse::defrag::IpDefragBuf;
use etherparse::{IpFragOffset, IpNumber};
use lru::LruCache;

use crate::limits::MAX_TUN_FRAGMENTED;
use crate::wire::ip::Packet;

/// How long the parts of a datagram may take (RFC 1122 §3.3.2, RFC 8200 §4.5).
const PATIENCE: Duration = Duration::from_secs(60);

/// Datagrams of which parts are missing. The oldest makes room.
pub(in crate::net) struct Fragments(LruCache<Key, Parts>);

/// What all parts of a datagram have in common.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    source: IpAddr,
    destination: IpAddr,
    id: u32,
}

struct Parts {
    parts: IpDefragBuf,
    began: Instant,
}

impl Default for Fragments {
    fn default() -> Self {
        let room = NonZeroUsize::new(MAX_TUN_FRAGMENTED).unwrap_or(NonZeroUsize::MIN);
        Self(LruCache::sparse(room))
    }
}

impl Fragments {
    /// Adds the fragment `packet` of a UDP datagram. Returns the datagram, with its header, if nothing of it is missing.
    pub(in crate::net) fn add(
        &mut self,
        packet: &Packet,
        bytes: &[u8],
        now: Instant,
    ) -> Option<Vec<u8>> {
        let fragment = packet.fragment?;
        let key = Key {
            source: packet.source,
            destination: packet.destination,
            id: fragment.id,
        };
        let offset = IpFragOffset::try_new(fragment.offset).ok()?;
        let is_young = |parts: &Parts| now.saturating_duration_since(parts.began) < PATIENCE;
        if !self.0.peek(&key).is_some_and(is_young) {
            let parts = Parts {
                parts: IpDefragBuf::new(IpNumber(packet.protocol), Vec::new(), Vec::new()),
                began: now,
            };
            self.0.put(key, parts);
        }
        let Parts { parts, .. } = self.0.peek_mut(&key)?;
        let added = parts.add(offset, fragment.more, packet.payload(bytes));
        if added.is_err() {
            // Parts that contradict each other are of no use.
            self.0.pop(&key);
            return None;
        }
        if !parts.is_complete() {
            return None;
        }
        self.0.pop(&key).map(|done| done.parts.take_bufs().0)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::wire::ip::{Fragment, UDP};

    fn part(id: u32, offset: u16, more: bool, bytes: &[u8]) -> Packet {
        Packet {
            source: [10, 0, 0, 1].into(),
            destination: [192, 0, 2, 1].into(),
            protocol: UDP,
            payload: 0,
            end: bytes.len(),
            fragment: Some(Fragment { id, offset, more }),
        }
    }

    #[test]
    fn parts_make_a_datagram_in_any_order() {
        let now = Instant::now();
        let (a, b, c) = ([1; 16], [2; 8], [3; 5]);
        let mut fragments = Fragments::default();
        assert_eq!(fragments.add(&part(7, 3, false, &c), &c, now), None);
        assert_eq!(fragments.add(&part(7, 0, true, &a), &a, now), None);
        assert_eq!(fragments.add(&part(8, 2, true, &a), &a, now), None);
        let whole = fragments.add(&part(7, 2, true, &b), &b, now).unwrap();
        assert_eq!(whole, [&a[..], &b, &c].concat());
        assert_eq!(fragments.0.len(), 1);
    }

    #[test]
    fn parts_of_different_times_do_not_meet() {
        let now = Instant::now();
        let later = now + PATIENCE;
        let mut fragments = Fragments::default();
        let mut add = |offset, more, byte, now| {
            let bytes = [byte; 8];
            fragments.add(&part(7, offset, more, &bytes), &bytes, now)
        };
        assert_eq!(add(0, true, 1, now), None);
        assert_eq!(add(1, false, 2, later), None);
        let whole = add(0, true, 3, later).unwrap();
        assert_eq!(whole, [[3; 8], [2; 8]].concat());
    }

    #[test]
    fn flood_of_parts_is_bounded() {
        let now = Instant::now();
        let mut fragments = Fragments::default();
        for id in 0..10_000 {
            let added = fragments.add(&part(id, 8000, true, &[0; 8]), &[0; 8], now);
            assert_eq!(added, None);
        }
        assert_eq!(fragments.0.len(), MAX_TUN_FRAGMENTED);
    }
}
