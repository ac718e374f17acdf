//! Flow control of a stream: its receive window, which grows with the round-trip time.

use std::time::Duration;

use super::limits::{INITIAL_WINDOW, MAX_STREAM_WINDOW};

/// The least round-trip time that is assumed. Below it, how often a busy process is scheduled matters more.
const MIN_ROUND_TRIP: Duration = Duration::from_millis(5);
/// Round-trip times of which the shortest counts; longer ones were delayed by queued bytes.
const SAMPLES: usize = 4;

/// The most recent round-trip times.
#[derive(Debug, Default)]
pub(super) struct RoundTrip {
    samples: [Option<Duration>; SAMPLES],
    next: usize,
    /// When the latest was measured.
    pub(super) measured: Option<Duration>,
}

impl RoundTrip {
    pub(super) fn record(&mut self, now: Duration, time: Duration) {
        if let Some(slot) = self.samples.get_mut(self.next % SAMPLES) {
            *slot = Some(time);
        }
        self.next = (self.next + 1) % SAMPLES;
        self.measured = Some(now);
    }

    /// The shortest of the recent round-trip times.
    pub(super) fn shortest(&self) -> Option<Duration> {
        self.samples.iter().flatten().min().copied()
    }
}

/// The receive window of a stream.
#[derive(Debug)]
pub(super) struct ReceiveWindow {
    size: u64,
    /// Bytes that the peer may still send.
    credit: u64,
    /// Bytes received and not yet consumed.
    unread: u64,
    /// Bytes consumed since `since`, to measure the stream's rate.
    delivered: u64,
    since: Duration,
}

impl ReceiveWindow {
    pub(super) const fn new(now: Duration) -> Self {
        Self {
            size: INITIAL_WINDOW as u64,
            credit: INITIAL_WINDOW as u64,
            unread: 0,
            delivered: 0,
            since: now,
        }
    }

    /// Counts received bytes; `false` if they exceed the window.
    pub(super) const fn receive(&mut self, count: u64) -> bool {
        if count > self.credit {
            return false;
        }
        self.credit -= count;
        self.unread += count;
        true
    }

    /// Bytes received and not yet consumed.
    pub(super) const fn unread(&self) -> u64 {
        self.unread
    }

    /// Bytes by which the window has grown.
    pub(super) const fn growth(&self) -> u64 {
        self.size - INITIAL_WINDOW as u64
    }

    /// Counts consumed bytes, which the peer may send again. Returns by how much the window grows, at most `room`: it
    /// grows to twice the bytes delivered in a round trip.
    pub(super) fn consume(
        &mut self,
        now: Duration,
        count: u64,
        round_trip: Option<Duration>,
        room: u64,
    ) -> u64 {
        self.unread = self.unread.saturating_sub(count);
        self.delivered += count;
        self.credit += count;
        let Some(round_trip) = round_trip.map(|time| time.max(MIN_ROUND_TRIP)) else {
            return 0;
        };
        let elapsed = now.saturating_sub(self.since);
        // A full window in less than a round trip is enough to decide; otherwise wait for a whole round trip.
        if elapsed < round_trip && self.delivered < self.size {
            return 0;
        }
        let bytes = u128::from(self.delivered) * round_trip.as_nanos();
        let per_round_trip = bytes / elapsed.max(round_trip).as_nanos();
        let wanted = u64::try_from(2 * per_round_trip)
            .unwrap_or(u64::MAX)
            .min(MAX_STREAM_WINDOW);
        (self.delivered, self.since) = (0, now);
        let growth = wanted.saturating_sub(self.size).min(room);
        self.size += growth;
        self.credit += growth;
        growth
    }
}
