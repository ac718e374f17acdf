//! What a stream did last, for those who look for the one that was silent for the longest time.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// When the process first asked; ages are counted from here.
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// The bit that says that the client has sent something.
const SPOKEN: u64 = 1 << 63;

/// What a stream did last. It is noted after a turn in which bytes moved, without a lock.
#[derive(Debug)]
pub struct Activity(AtomicU64);

/// Those whose client has sent nothing come first, and the longer silent before others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Last {
    /// The client has sent something.
    pub has_spoken: bool,
    /// When bytes moved last, in either direction; before any did, when the stream began. Since the process started, in whole
    /// seconds.
    pub moved: Duration,
}

impl Activity {
    /// A stream that begins now.
    #[must_use]
    pub fn new() -> Self {
        Self(AtomicU64::new(now()))
    }

    /// Notes that bytes have moved.
    pub(super) fn note(&self, has_spoken: bool) {
        let state = now() | if has_spoken { SPOKEN } else { 0 };
        if self.0.load(Relaxed) != state {
            self.0.store(state, Relaxed);
        }
    }

    /// What it did last.
    #[must_use]
    pub fn last(&self) -> Last {
        let state = self.0.load(Relaxed);
        Last {
            has_spoken: state & SPOKEN != 0,
            moved: Duration::from_secs(state & !SPOKEN),
        }
    }
}

impl Default for Activity {
    fn default() -> Self {
        Self::new()
    }
}

impl Last {
    /// How long nothing has moved.
    #[must_use]
    pub fn silence(&self) -> Duration {
        Duration::from_secs(now()).saturating_sub(self.moved)
    }
}

fn now() -> u64 {
    START.elapsed().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_who_never_spoke_come_first() {
        let last = |has_spoken, seconds| Last {
            has_spoken,
            moved: Duration::from_secs(seconds),
        };
        let mut all = [last(true, 1), last(false, 9), last(true, 0), last(false, 8)];
        all.sort();
        assert_eq!(
            all,
            [last(false, 8), last(false, 9), last(true, 0), last(true, 1)]
        );
    }

    #[test]
    fn what_moved_is_noted() {
        let activity = Activity::new();
        assert!(!activity.last().has_spoken);
        activity.note(true);
        assert!(activity.last().has_spoken);
        assert!(activity.last().silence() < Duration::from_secs(60));
    }
}
