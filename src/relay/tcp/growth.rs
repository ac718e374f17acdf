//! Whether the system may let the receive buffer of a source grow.
//!
//! It lets the buffer of a socket grow as fast as it is read, up to tens of MiB. A fast source is read much faster than a slow
//! sink takes its bytes, until all buffers on the way are full; and then a large buffer would stay full for the life of the flow.
//! So the buffer of a bulk flow stays as large as it is, until one of these:
//!
//! - The flow moves so much in a short time that its sink must be fast.
//! - It has waited for its source for longer than for its sink, with little read between two waits: then it is the buffer
//!   that limits the flow, as on a long path.
//!
//! From then on the system decides.

use crate::limits::FIRST_RECEIVE_BUFFER;
use crate::net::{Stream, ticks};

/// Microseconds in a unit of [`Growth::lead`].
const UNIT: u32 = 16;
/// How much longer the flow must have waited for its source than for its sink: 100 ms.
const LEAD: i16 = 6_250;
/// The most that one wait for the source counts, which may only have had nothing to send: 50 ms.
const LONGEST: i16 = 3_125;
/// How far the waits for the sink can be ahead, so that a flow that was slow once can catch up: 200 ms.
const DEEPEST: i16 = -12_500;
/// KiB between two waits for the source where its buffer is what limits it: no more than are held ([`FIRST_RECEIVE_BUFFER`]).
const ONE_BUFFER: u16 = 256;
const _: () = assert!(FIRST_RECEIVE_BUFFER == 256 << 10);

/// Bytes after which the speed of a flow is looked at: more than the buffers on the way to a slow sink hold.
const STRETCH: u64 = 2 << 20;
/// The microseconds within which a fast flow moves them.
const STRETCH_TIME: u32 = 250_000;

/// [`Growth::lead`] of a flow that has moved little: the system has had no reason to let the buffer grow.
const NEW: i16 = i16::MIN;
/// [`Growth::lead`] where the system decides.
const FREE: i16 = i16::MAX;

/// What one direction knows of its waits. Idle flows have it too, so it is small.
pub(super) struct Growth {
    /// When the wait began that has not ended, by [`ticks`]; 0: there is none.
    since: u32,
    /// The waits for the source less those for the sink, or one of the two values above.
    lead: i16,
    /// KiB of payload before the last wait for the source, without their upper bits.
    before: u16,
    /// When the flow had moved a multiple of [`STRETCH`] the last time, by [`ticks`].
    stretch_began: u32,
}

/// What was waited for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Awaited {
    Source,
    Sink,
}

impl Growth {
    pub(super) const fn new() -> Self {
        Self {
            since: 0,
            lead: NEW,
            before: 0,
            stretch_began: 0,
        }
    }

    const fn is_held(&self) -> bool {
        self.lead != NEW && self.lead != FREE
    }

    /// The flow has become bulk: from now on, little of it waits in sockets.
    pub(super) fn hold(&mut self, source: &Stream, sink: &Stream) {
        if self.lead == NEW {
            sink.bound_unsent();
            self.lead = match source.hold_receive_buffer() {
                true => 0,
                false => FREE,
            };
            self.stretch_began = ticks();
        }
    }

    /// The flow has moved bytes: `before` was the sum until then, `now` is the new one.
    pub(super) fn moved(&mut self, before: u64, now: u64, source: &Stream) {
        if self.is_held() && before / STRETCH != now / STRETCH {
            let time = ticks();
            let took = time.wrapping_sub(std::mem::replace(&mut self.stretch_began, time));
            if took < STRETCH_TIME {
                self.end(source);
            }
        }
    }

    /// A wait begins, or goes on.
    pub(super) fn wait(&mut self) {
        if self.is_held() && self.since == 0 {
            self.since = ticks().max(1);
        }
    }

    /// A wait has ended, if there was one. `moved`: payload bytes so far.
    pub(super) fn ended(&mut self, awaited: Awaited, source: &Stream, moved: u64) {
        if self.since == 0 {
            return;
        }
        let time = ticks().wrapping_sub(std::mem::take(&mut self.since)) / UNIT;
        let time = i16::try_from(time).unwrap_or(i16::MAX);
        if self.note(awaited, time, moved) {
            source.release_receive_buffer();
        }
    }

    /// Lets the buffer grow from now on, so that who goes on with the socket finds it as any other.
    pub(super) fn end(&mut self, source: &Stream) {
        if self.is_held() {
            self.lead = FREE;
            source.release_receive_buffer();
        }
    }

    /// Counts a wait; returns whether the buffer may grow now.
    fn note(&mut self, awaited: Awaited, time: i16, moved: u64) -> bool {
        match awaited {
            Awaited::Sink => self.lead = self.lead.saturating_sub(time).max(DEEPEST),
            Awaited::Source => {
                let kib = u16::try_from(moved >> 10 & u64::from(u16::MAX)).unwrap_or_default();
                let at_once = kib.wrapping_sub(std::mem::replace(&mut self.before, kib));
                if at_once <= ONE_BUFFER {
                    self.lead += time.min(LONGEST);
                }
            }
        }
        let is_enough = self.lead >= LEAD;
        if is_enough {
            self.lead = FREE;
        }
        is_enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of such waits it takes until the buffer may grow; `None`: more than a thousand.
    fn rounds(source: i16, sink: i16, bytes: u64) -> Option<u64> {
        let mut growth = Growth {
            lead: 0,
            ..Growth::new()
        };
        (1..=1000).find(|round| {
            growth.note(Awaited::Sink, sink, round * bytes)
                || growth.note(Awaited::Source, source, round * bytes)
        })
    }

    #[test]
    fn buffer_grows_soon_where_the_source_is_waited_for() {
        // A long path, a short one, one within a building.
        assert_eq!(rounds(6_250, 0, 65_536), Some(2));
        assert_eq!(rounds(625, 0, 65_536), Some(10));
        assert_eq!(rounds(20, 2, 65_536), Some(348));
    }

    #[test]
    fn buffer_stays_where_the_sink_is_waited_for_or_more_than_a_buffer_comes_at_once() {
        assert_eq!(rounds(0, 6_250, 65_536), None);
        assert_eq!(rounds(100, 100, 65_536), None);
        assert_eq!(rounds(6_250, 0, 512 << 10), None);
    }

    #[test]
    fn flow_that_was_slow_can_catch_up() {
        let mut growth = Growth {
            lead: 0,
            ..Growth::new()
        };
        for _ in 0..1000 {
            assert!(!growth.note(Awaited::Sink, i16::MAX, 0));
        }
        let grows = (1..=6).map(|_| growth.note(Awaited::Source, i16::MAX, 0));
        assert_eq!(grows.last(), Some(true));
        assert!(!growth.is_held());
    }

    #[test]
    fn idle_flow_pays_twelve_bytes() {
        assert_eq!(size_of::<Growth>(), 12);
    }
}
