//! Encrypted streams: chunks are sealed and opened where they stand in a buffer.

use crate::net::unix_now;
use crate::wire::ss::stream::{Fresh, Sealer};
use crate::wire::{self, ss};

/// Seals; at the head of a stream with the time and, where the request is empty, with padding.
pub(super) fn seal(
    sealer: &mut Sealer,
    bytes: &mut [u8],
    count: usize,
) -> Result<usize, wire::Error> {
    if !sealer.at_head() {
        let fresh = Fresh {
            now: 0,
            padding: &[],
        };
        return sealer.seal(bytes, count, fresh);
    }
    let mut padding = [0; ss::MAX_PADDING];
    let mut len = 0;
    if count == 0 {
        len = rand::random_range(1..=padding.len());
        rand::fill(&mut padding[..]);
    }
    let fresh = Fresh {
        now: unix_now(),
        padding: padding.get(..len).unwrap_or_default(),
    };
    sealer.seal(bytes, count, fresh)
}
