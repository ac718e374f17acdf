//! Holds a user's bytes to a rate, in one direction.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// How much may pass at once, as time at the full rate.
const BURST: Duration = Duration::from_millis(250);
const NANOS: u64 = 1_000_000_000;

/// A token bucket without tokens: it knows when what has passed will have been paid for (the virtual schedule of the
/// generic cell rate algorithm, ITU-T I.371). Flows pay after they have moved bytes, and wait until it is paid and until
/// the others have had as much.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// Bytes a second; 0: no limit.
    rate: AtomicU64,
    /// When everything so far is paid, in nanoseconds of the caller's clock.
    paid: AtomicU64,
}

impl Pace {
    /// Sets the rate. Returns whether it has changed: then nothing is owed any more.
    pub(super) fn set(&self, rate: Option<u64>) -> bool {
        let rate = rate.unwrap_or(0);
        let changed = self.rate.swap(rate, Relaxed) != rate;
        if changed {
            self.paid.store(0, Relaxed);
        }
        changed
    }

    /// Takes note of `bytes` that a flow has moved, beside so many `others` that wait. Returns how long it has to wait
    /// before it moves more.
    pub(super) fn pass(&self, bytes: u64, others: u32) -> Duration {
        // Without a limit, no clock is read.
        match self.rate.load(Relaxed) {
            0 => Duration::ZERO,
            _ => self.pass_at(bytes, others, clock()),
        }
    }

    fn pass_at(&self, bytes: u64, others: u32, now: Duration) -> Duration {
        let rate = self.rate.load(Relaxed);
        if rate == 0 || bytes == 0 {
            return Duration::ZERO;
        }
        let now = nanos(now);
        // u128 holds any product; the price of 2^64 bytes at 1 byte/s does not fit u64 and is cut.
        let price = u128::from(bytes) * u128::from(NANOS) / u128::from(rate);
        let price = u64::try_from(price).unwrap_or(u64::MAX);
        let pay = |paid: u64| Some(paid.max(now).saturating_add(price));
        let before = self
            .paid
            .fetch_update(Relaxed, Relaxed, pay)
            .unwrap_or_default();
        let paid = before.max(now).saturating_add(price);
        let due = Duration::from_nanos(paid.saturating_sub(now)).saturating_sub(BURST);
        if others == 0 {
            return due;
        }
        // A flow of large turns waits for longer than its payment, and leaves the others their share.
        let all = u64::from(others).saturating_add(1);
        due.max(Duration::from_nanos(price.saturating_mul(all)))
    }

    /// Whether something more may pass: for datagrams, which are dropped and not delayed.
    pub(super) fn is_free(&self) -> bool {
        self.rate.load(Relaxed) == 0 || self.is_free_at(clock())
    }

    fn is_free_at(&self, now: Duration) -> bool {
        self.paid.load(Relaxed) <= nanos(now + BURST)
    }
}

/// The time since this process first asked.
fn clock() -> Duration {
    static START: OnceLock<Instant> = OnceLock::new();
    // Never zero: what was paid at the beginning is over.
    START.get_or_init(Instant::now).elapsed() + BURST
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn pace(rate: u64) -> Pace {
        let pace = Pace::default();
        pace.set(Some(rate));
        pace
    }

    #[test]
    fn rate_holds_over_any_time_and_idleness_saves_up_no_more_than_a_burst() {
        let pace = pace(1_000_000);
        // An hour of silence is worth nothing.
        let (start, mut now, mut passed) = (SECOND * 3600, SECOND * 3600, 0);
        while now < start + SECOND * 10 {
            now += pace.pass_at(10_000, 0, now);
            passed += 10_000;
        }
        assert!((10_000_000..=10_270_000).contains(&passed), "{passed}");
    }

    #[test]
    fn flows_of_a_user_get_equal_shares_whatever_they_move_at_once() {
        let pace = pace(1_000_000);
        let turns = [4096, 16_384, 16_384, 65_536, 131_072];
        let (mut due, mut moved) = ([Duration::ZERO; 5], [0; 5]);
        let mut now = Duration::ZERO;
        while now < SECOND * 60 {
            let next = due.iter().copied().enumerate().min_by_key(|(_, due)| *due);
            let flow;
            (flow, now) = next.unwrap_or_default();
            if let (Some(due), Some(moved), Some(turn)) =
                (due.get_mut(flow), moved.get_mut(flow), turns.get(flow))
            {
                *due = now + pace.pass_at(*turn, 4, now);
                *moved += turn;
            }
        }
        let sum: u64 = moved.iter().sum();
        assert!((55_000_000..=60_600_000).contains(&sum), "{moved:?}");
        let (least, most) = (moved.iter().min(), moved.iter().max());
        let are_alike = |(least, most): (&u64, &u64)| *most <= least * 5 / 4;
        assert!(least.zip(most).is_some_and(are_alike), "{moved:?}");
    }

    #[test]
    fn without_a_rate_nothing_waits() {
        let pace = Pace::default();
        assert_eq!(pace.pass_at(u64::MAX, 0, SECOND), Duration::ZERO);
        assert!(pace.is_free_at(SECOND));
    }

    #[test]
    fn datagrams_have_to_wait_for_what_is_not_paid() {
        let pace = pace(1000);
        assert!(pace.is_free_at(SECOND));
        assert!(pace.pass_at(2000, 0, SECOND) > SECOND);
        assert!(!pace.is_free_at(SECOND));
        assert!(pace.is_free_at(SECOND * 3));
        assert!(pace.pass_at(u64::MAX, 0, SECOND) > SECOND, "no overflow");
    }
}
