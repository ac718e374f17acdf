//! How much a stream may send, and how much it may be sent.

use std::time::Duration;

/// Bytes that may be sent on a new stream.
pub(super) const INITIAL: u32 = 256 * 1024;
/// The largest window of a stream, in bytes.
pub(super) const MAX_STREAM: u64 = 16 << 20;
/// Bytes by which all windows of a link may have grown, and the most that it holds unread.
pub(super) const MAX_LINK: u64 = 64 << 20;
/// A round trip is taken for at least this long: below it, what counts is how seldom a busy process gets its turn.
const MIN_ROUND_TRIP: Duration = Duration::from_millis(5);
/// Round trips of which the shortest is believed: the others have waited behind bytes.
const SAMPLES: usize = 4;

/// The shortest of the last round trips.
#[derive(Debug, Default)]
pub(super) struct RoundTrip {
    samples: [Option<Duration>; SAMPLES],
    next: usize,
    /// When the last was measured.
    pub(super) measured: Option<Duration>,
}

impl RoundTrip {
    pub(super) fn note(&mut self, now: Duration, time: Duration) {
        if let Some(place) = self.samples.get_mut(self.next % SAMPLES) {
            *place = Some(time);
        }
        self.next = (self.next + 1) % SAMPLES;
        self.measured = Some(now);
    }

    /// `None` before the first.
    pub(super) fn shortest(&self) -> Option<Duration> {
        self.samples.iter().flatten().min().copied()
    }
}

/// What the peer may send.
#[derive(Debug)]
pub(super) struct Receiving {
    size: u64,
    /// Bytes that it may send before it is granted more.
    allowed: u64,
    /// Bytes that have come and have not been consumed.
    unread: u64,
    /// Bytes consumed since then, to tell how fast the stream is.
    delivered: u64,
    since: Duration,
}

impl Receiving {
    pub(super) const fn new(now: Duration) -> Self {
        Self {
            size: INITIAL as u64,
            allowed: INITIAL as u64,
            unread: 0,
            delivered: 0,
            since: now,
        }
    }

    /// Takes in bytes that have come; `false` when they are more than was allowed.
    pub(super) const fn take(&mut self, count: u64) -> bool {
        if count > self.allowed {
            return false;
        }
        self.allowed -= count;
        self.unread += count;
        true
    }

    /// Bytes that have come and have not been consumed.
    pub(super) const fn unread(&self) -> u64 {
        self.unread
    }

    /// Bytes by which the window has grown.
    pub(super) const fn grown(&self) -> u64 {
        self.size - INITIAL as u64
    }

    /// `count` bytes have been consumed and may be sent again. Returns by how much the window grows, at most `room`:
    /// to twice what was delivered in a round trip.
    pub(super) fn consume(
        &mut self,
        now: Duration,
        count: u64,
        round_trip: Option<Duration>,
        room: u64,
    ) -> u64 {
        self.unread = self.unread.saturating_sub(count);
        self.delivered += count;
        self.allowed += count;
        let Some(round_trip) = round_trip.map(|time| time.max(MIN_ROUND_TRIP)) else {
            return 0;
        };
        let elapsed = now.saturating_sub(self.since);
        if elapsed < round_trip {
            // As much as the window in less than a round trip: there is no need to wait for its end.
            if self.delivered < self.size {
                return 0;
            }
        }
        let bytes = u128::from(self.delivered) * round_trip.as_nanos();
        let per_round_trip = bytes / elapsed.max(round_trip).as_nanos();
        let wanted = u64::try_from(2 * per_round_trip)
            .unwrap_or(u64::MAX)
            .min(MAX_STREAM);
        (self.delivered, self.since) = (0, now);
        let growth = wanted.saturating_sub(self.size).min(room);
        self.size += growth;
        self.allowed += growth;
        growth
    }
}
