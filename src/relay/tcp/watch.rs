//! The timer of a flow: when it was idle for too long, and whether its peers acknowledge what they are sent.
//!
//! It reads no clock and asks the system nothing when data moves. While data is on its way, or was when last looked, it looks
//! every [`LOOK`]; otherwise four times within the idle limit.
//!
//! `TCP_USER_TIMEOUT` of tcp(7) is not used: since Linux 5.11, it also ends a connection whose peer is there but has no room,
//! such as a download that its user has paused.

use std::pin::Pin;
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use crate::limits::UNACKNOWLEDGED;
use crate::net::TcpInfo;
use crate::relay::error::Error;

/// Ticks within the idle limit, at least.
const TICKS: u32 = 4;
/// The longest time between two ticks while data is on its way.
const LOOK: Duration = Duration::from_secs(10);

/// Compares a counter of the flow's progress with its value at the previous tick. The flow only adds to the counter. Times are
/// in milliseconds, so that it is small.
pub(super) struct Watch {
    limit: u32,
    /// How long nothing has moved, at the last tick.
    quiet: u32,
    /// From the last tick to the next.
    step: u32,
    last: u64,
}

impl Watch {
    /// The first tick comes after `first`, or before.
    pub(super) fn new(limit: Duration, first: Duration) -> Self {
        let mut watch = Self {
            limit: millis(limit),
            quiet: 0,
            step: 0,
            last: 0,
        };
        watch.step = watch.period().min(millis(LOOK)).min(millis(first));
        watch
    }

    /// The time from the last tick to the next.
    pub(super) const fn step(&self) -> Duration {
        Duration::from_millis(self.step as u64)
    }

    fn period(&self) -> u32 {
        (self.limit / TICKS).max(1)
    }

    /// Notes what has moved in all. After a quiet time, the next tick comes soon.
    pub(super) fn note(&mut self, moved: u64, sleep: Pin<&mut Sleep>) {
        if self.step > millis(LOOK) && moved != self.last {
            (self.last, self.quiet) = (moved, 0);
            self.restart(sleep);
        }
    }

    /// Notes what has moved in all when the timer is due, and whether data is on its way. The next tick is due after
    /// [`Self::step`].
    ///
    /// # Errors
    /// When nothing has moved for the limit, or up to a quarter of it longer.
    pub(super) fn tick(&mut self, moved: u64, is_waiting: bool) -> Result<(), Error> {
        self.quiet = match moved == self.last {
            true => self.quiet.saturating_add(self.step),
            false => 0,
        };
        self.last = moved;
        let left = self.limit.saturating_sub(self.quiet);
        if left == 0 {
            return Err(Error::Idle {
                seconds: u64::from(self.limit / 1000),
            });
        }
        let longest = if is_waiting { millis(LOOK) } else { u32::MAX };
        self.step = self.period().min(longest).min(left);
        Ok(())
    }

    /// Changes to a longer limit, which begins now.
    pub(super) fn lengthen(&mut self, limit: Duration, sleep: Pin<&mut Sleep>) {
        if millis(limit) > self.limit {
            (self.limit, self.quiet) = (millis(limit), 0);
            self.restart(sleep);
        }
    }

    /// Changes to a shorter limit, which begins now.
    pub(super) fn shorten(&mut self, limit: Duration, sleep: Pin<&mut Sleep>) {
        if millis(limit) < self.limit {
            (self.limit, self.quiet) = (millis(limit), 0);
            self.restart(sleep);
        }
    }

    fn restart(&mut self, sleep: Pin<&mut Sleep>) {
        self.step = self.period().min(millis(LOOK));
        sleep.reset(Instant::now() + self.step());
    }
}

/// Whether one peer acknowledges what it is sent.
///
/// A peer without room acknowledges, and nothing is sent to it again. One of whom only packets to it are lost is heard all the
/// same: it may probe, or send again what it takes for lost. Both do not count, for it does not say that data arrived.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Acknowledging {
    /// 0, or one more than the seconds from the first look that found data sent again to the last, when all looks between did
    /// too and nothing was heard.
    seconds: u8,
    /// [`TcpInfo::heard`] at the last look.
    heard: u32,
}

impl Acknowledging {
    /// Notes a look, `step` after the last one. Returns whether the peer is gone. How long it was silent is not enough: data
    /// may have been sent, and sent again, a moment ago.
    pub(super) fn has_ceased(&mut self, info: &TcpInfo, step: Duration) -> bool {
        // Probes change the number only, and what is sent again the time only.
        let is_heard = info.heard != self.heard && info.silence <= step;
        self.seconds = match (info.is_waiting && info.resent > 0, self.seconds) {
            (false, _) => 0,
            (true, before) if before == 0 || is_heard => 1,
            (true, before) => {
                before.saturating_add(u8::try_from(step.as_secs()).unwrap_or(u8::MAX))
            }
        };
        self.heard = info.heard;
        u64::from(self.seconds) > UNACKNOWLEDGED.as_secs()
    }
}

/// Whole milliseconds, as far as the type goes: 49 days.
fn millis(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a look finds after data was sent again.
    fn resent(silence: u64, heard: u32) -> TcpInfo {
        TcpInfo {
            is_waiting: true,
            resent: 1,
            silence: Duration::from_secs(silence),
            heard,
            ..TcpInfo::default()
        }
    }

    /// The number of the look, at every [`LOOK`], that finds the peer gone.
    fn found(looks: impl Iterator<Item = TcpInfo>) -> Option<usize> {
        let mut acknowledging = Acknowledging::default();
        looks
            .take(100)
            .position(|info| acknowledging.has_ceased(&info, LOOK))
    }

    #[test]
    fn data_that_was_resent_for_the_limit_finds_the_peer_gone() {
        assert_eq!(found((1..).map(|look| resent(look * 10, 5))), Some(6));
    }

    #[test]
    fn a_silence_before_the_data_was_sent_does_not_count() {
        let looks = (0..).map(|look| resent(1000 + look * 10, 5));
        assert_eq!(found(looks), Some(6));
    }

    #[test]
    fn a_peer_that_only_probes_or_sends_again_is_gone() {
        let probes = (1..).map(|look: u32| resent(u64::from(look) * 10, look));
        assert_eq!(found(probes), Some(6));
        assert_eq!(found((1..).map(|_| resent(1, 5))), Some(6));
    }

    #[test]
    fn a_peer_that_acknowledges_or_has_no_room_is_there() {
        assert_eq!(found((1..).map(|look| resent(1, look))), None);
        let full = (1..).map(|look| TcpInfo {
            resent: 0,
            ..resent(look * 10, 5)
        });
        assert_eq!(found(full), None);
        let at_times = (1..).map(|look| TcpInfo {
            resent: u8::from(look % 6 > 0),
            ..resent(look * 10, 5)
        });
        assert_eq!(found(at_times), None);
    }

    #[test]
    fn an_idle_flow_ends_after_its_limit_and_is_seldom_looked_at() {
        let mut watch = Watch::new(Duration::from_secs(7200), LOOK);
        assert_eq!(watch.step(), LOOK);
        let mut time = Duration::ZERO;
        for looks in 1.. {
            time += watch.step();
            let moves = if looks == 1 { 9 } else { 10 };
            if watch.tick(moves, looks < 3).is_err() {
                assert_eq!((looks, time.as_secs()), (7, 7220));
                return;
            }
        }
    }
}
