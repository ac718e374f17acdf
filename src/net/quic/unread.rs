//! What the connections of all clients in the process may have received and not yet read: together no more than the budget of buffers.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use quinn::VarInt;

use crate::limits::{QUIC_DOWN_WINDOW, QUIC_UP_WINDOW};
use crate::net::pool;

/// Bytes that connections have as their parts.
static TAKEN: AtomicUsize = AtomicUsize::new(0);

/// The part of one connection, as long as it lasts.
pub(super) struct Unread(u32);

impl Unread {
    /// Half of what others have left.
    pub(super) fn take() -> Self {
        let mut part = 0;
        // It always succeeds.
        let _ = TAKEN.fetch_update(Relaxed, Relaxed, |taken| {
            part = part_of(pool::budget().saturating_sub(taken));
            Some(taken.saturating_add(bytes(part)))
        });
        Self(part)
    }

    pub(super) fn window(&self) -> VarInt {
        VarInt::from_u32(self.0)
    }
}

impl Drop for Unread {
    fn drop(&mut self) {
        TAKEN.fetch_sub(bytes(self.0), Relaxed);
    }
}

/// The window of a connection, where so much is left for it and later ones.
pub(super) fn part_of(left: usize) -> u32 {
    let half = u32::try_from(left / 2).unwrap_or(u32::MAX);
    half.clamp(QUIC_UP_WINDOW, QUIC_DOWN_WINDOW)
}

fn bytes(part: u32) -> usize {
    usize::try_from(part).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_have_a_least_and_a_greatest_size() {
        let parts = [0, 32 << 20, 256 << 20, 4 << 30].map(part_of);
        assert_eq!(parts, [1 << 20, 16 << 20, 128 << 20, 128 << 20]);
    }

    #[test]
    fn later_connections_get_half_of_what_is_left_and_ended_ones_give_theirs_back() {
        // Other tests of this process have connections, too.
        let taken = || TAKEN.load(Relaxed);
        let parts: Vec<Unread> = (0..64).map(|_| Unread::take()).collect();
        let least = parts.iter().filter(|part| part.0 == QUIC_UP_WINDOW).count();
        assert!(least >= 50, "{least}");
        let all: usize = parts.iter().map(|part| bytes(part.0)).sum();
        assert!(all <= pool::budget() + 64 * bytes(QUIC_UP_WINDOW), "{all}");
        let before = taken();
        assert!(before >= all);
        drop(parts);
        assert!(taken() < before);
    }
}
