//! Sets the rate of all users, and wakes streams that wait.

use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::{BURST, Fair, NANOS, Share, nanos};
use crate::net::sync::lock;

/// How often streams are woken, and how often it is looked whether several users are active.
const TICK: Duration = Duration::from_millis(4);
const IDLE_TICK: Duration = Duration::from_millis(40);
/// How long a user counts as active after it has moved something.
const ACTIVE: Duration = Duration::from_secs(10);
/// How often the rate changes.
const PERIOD: Duration = Duration::from_millis(48);
/// How much longer round trips may get, in nanoseconds: this, or an eighth of the shortest one.
const LONGER: u64 = 8_000_000;
/// How long a client is looked at, at most.
const LOOK: u64 = 400_000_000;
/// How late ticks may be on average, and which part of a core the process must use for it to be the cause.
const LATE: Duration = Duration::from_millis(2);
const BUSY: f64 = 0.5;
/// The least and the greatest rate, in bytes a second.
const LEAST: u64 = 64 * 1024;
const MOST: u64 = 1 << 40;
/// The rate at which it begins, which grows by a quarter in each period until something is late.
const START: u64 = 2 << 20;
/// Time over which throughput is averaged, in nanoseconds.
const AVERAGED: u128 = 100_000_000;
/// Bytes that a user may save up for a burst.
const MOST_CREDIT: i64 = 64 << 20;
/// Bytes that a stream is expected to move when it is woken.
const TURN: u64 = 32 * 1024;

impl Fair {
    /// Sets the rate of the users together, and holds them to it while several are active. It does not end.
    pub async fn hold(self: Arc<Self>) {
        loop {
            self.begun.notified().await;
            let mut control = Control::new();
            let mut due = Instant::now();
            loop {
                due += match self.rate.load(Relaxed) {
                    0 => IDLE_TICK,
                    _ => TICK,
                };
                sleep_until(due).await;
                let now = Instant::now();
                let late = now.saturating_duration_since(due);
                // What was missed is not made up for.
                due = now;
                if !control.tick(&self, late) {
                    break;
                }
            }
        }
    }
}

/// What it remembers from tick to tick.
struct Control {
    last: Instant,
    /// Bytes a second of late, and the most that it was.
    throughput: u64,
    peak: u64,
    /// The rate at which something was late; 0: none yet.
    ceiling: u64,
    /// Of this period: when it began, how late ticks were, how many there were, and the CPU time of the process before.
    period: Instant,
    late: Duration,
    ticks: u32,
    cpu: Duration,
    /// Cores that it uses, on average.
    used: f64,
    /// Whether a round trip was too long in this period.
    is_long: bool,
    /// The longest round trip of late, in nanoseconds.
    round_trip: u64,
    /// No further fall before this.
    settled: Instant,
    /// Who is woken first.
    turn: usize,
}

impl Control {
    fn new() -> Self {
        let now = Instant::now();
        Self {
            last: now,
            throughput: 0,
            peak: 0,
            ceiling: 0,
            period: now,
            late: Duration::ZERO,
            ticks: 0,
            cpu: cpu_time(),
            used: 0.0,
            is_long: false,
            round_trip: 0,
            settled: now,
            turn: 0,
        }
    }

    /// Returns whether anybody is active.
    fn tick(&mut self, fair: &Fair, late: Duration) -> bool {
        let time = fair.now();
        let mut active = lock(&fair.active);
        let mut moved = 0;
        active.retain(|share| {
            let bytes = share.recent.swap(0, Relaxed);
            moved += bytes;
            if bytes > 0 || share.has_waiting() {
                share.seen.store(time, Relaxed);
                return true;
            }
            let is_active = time.saturating_sub(share.seen.load(Relaxed)) < nanos(ACTIVE);
            share.is_active.store(is_active, SeqCst);
            is_active
        });
        let shares = active.clone();
        drop(active);
        let elapsed = self.measure(moved);
        if shares.len() < 2 {
            fair.rate.store(0, SeqCst);
            for share in &shares {
                share.wake(u64::MAX);
            }
            return !shares.is_empty();
        }
        let rate = match fair.rate.load(Relaxed) {
            0 => self.begin(),
            rate => rate,
        };
        self.late += late;
        self.ticks += 1;
        for share in &shares {
            self.look(fair, share, late);
        }
        let rate = self.steer(rate);
        fair.rate.store(rate, SeqCst);
        pay_out(&shares, rate, elapsed);
        self.wake(fair, rate, &shares);
        true
    }

    /// Notes what has moved since the last tick. Returns how long that was.
    fn measure(&mut self, moved: u64) -> Duration {
        let now = Instant::now();
        let elapsed = now.saturating_duration_since(self.last);
        self.last = now;
        let time = elapsed.as_nanos().max(1);
        let found = u128::from(moved) * NANOS / time;
        let weight = time.min(AVERAGED);
        let before = u128::from(self.throughput) * (AVERAGED - weight);
        let average = (before + found * weight) / AVERAGED;
        self.throughput = u64::try_from(average).unwrap_or(u64::MAX);
        elapsed
    }

    /// Looks whether a client has acknowledged what it was sent, and how long that took.
    fn look(&mut self, fair: &Fair, share: &Share, late: Duration) {
        let now = fair.now();
        let mut place = lock(&share.look);
        let Some(look) = place.as_mut() else { return };
        let Some(info) = look.probe.tcp_info() else {
            *place = None;
            share.is_looked_at.store(false, SeqCst);
            return;
        };
        let took = now.saturating_sub(look.began);
        match look.first {
            None if info.acknowledged > look.acknowledged => look.first = Some(took),
            None if took < LOOK => {}
            // Nothing, for so long.
            None => look.first = Some(took),
            // The others that were sent with it are acknowledged too, and the average is that of now.
            Some(first) => {
                let average = nanos(info.round_trip);
                let found = match look.was_idle {
                    true => average.min(first.saturating_sub(nanos(late))),
                    false => average,
                };
                let shortest = match nanos(info.shortest_round_trip) {
                    0 => average,
                    shortest => shortest,
                };
                let before = share.shortest.fetch_min(shortest, Relaxed);
                let shortest = shortest.min(before);
                if found > 0 {
                    self.is_long |= found.saturating_sub(shortest) > LONGER.max(shortest / 8);
                    self.round_trip = found;
                }
                *place = None;
                share.is_looked_at.store(false, SeqCst);
            }
        }
    }

    /// The rate from now on.
    fn steer(&mut self, rate: u64) -> u64 {
        let now = Instant::now();
        let elapsed = now.saturating_duration_since(self.period);
        if elapsed < PERIOD {
            return rate;
        }
        let cpu = cpu_time();
        let used = cpu.saturating_sub(self.cpu).as_secs_f64() / elapsed.as_secs_f64();
        // It is counted in hundredths of a second.
        self.used += (used - self.used) / 8.0;
        let is_busy = self.used > BUSY && self.late / self.ticks.max(1) > LATE;
        let is_late = std::mem::take(&mut self.is_long) || is_busy;
        (self.period, self.late, self.ticks, self.cpu) = (now, Duration::ZERO, 0, cpu);
        self.peak = self.throughput.max(self.peak - self.peak / 1024);
        if !is_late {
            return self.raise(rate);
        }
        if now < self.settled {
            return rate;
        }
        // What falls now is felt after a round trip.
        self.settled = now + PERIOD + Duration::from_nanos(self.round_trip);
        let least = LEAST.max(self.peak / 8);
        let found = rate.min(self.throughput).max(least);
        self.ceiling = found;
        (found / 5 * 4).max(least)
    }

    /// The rate at first.
    fn begin(&mut self) -> u64 {
        self.ceiling = 0;
        START.max(self.throughput)
    }

    /// A higher rate: fast at first, slow where something was late before, faster beyond it.
    fn raise(&mut self, rate: u64) -> u64 {
        // What nobody uses says nothing about what there is.
        let most = START.max(self.throughput.saturating_mul(3)).min(MOST);
        if rate > most {
            self.ceiling = 0;
            return most;
        }
        let step = match self.ceiling {
            0 => rate / 4,
            ceiling if rate < ceiling / 8 * 7 => rate / 32,
            ceiling if rate < ceiling / 16 * 17 => rate / 400,
            _ => rate / 64,
        };
        rate.saturating_add(step.max(1024)).min(most)
    }

    /// Wakes streams: of each user for its credit, then in turn while there is room.
    fn wake(&mut self, fair: &Fair, rate: u64, shares: &[Arc<Share>]) {
        let mut room = fair.room(rate).div_ceil(TURN);
        for share in shares {
            let credit = u64::try_from(share.credit.load(Relaxed)).unwrap_or(0);
            let woken = share.wake(credit.div_ceil(TURN));
            room = room.saturating_sub(woken);
        }
        self.turn = self.turn.wrapping_add(1);
        let first = self.turn % shares.len().max(1);
        while room > 0 {
            let before = room;
            let (later, sooner) = shares.split_at(first);
            for share in sooner.iter().chain(later) {
                room = room.saturating_sub(share.wake(1.min(room)));
            }
            if room == before {
                break;
            }
        }
    }
}

/// Gives each an equal part of the rate. Who does not use it keeps some for a burst, and nobody owes more than as much.
fn pay_out(shares: &[Arc<Share>], rate: u64, elapsed: Duration) {
    let all = u128::from(rate) * elapsed.as_nanos() / NANOS;
    let part = all / shares.len().max(1) as u128;
    let bytes = i64::try_from(part).unwrap_or(i64::MAX);
    let most = i64::try_from(rate / 4).unwrap_or(i64::MAX);
    let most = most.clamp(BURST, MOST_CREDIT);
    for share in shares {
        let credit = |credit: i64| Some(credit.saturating_add(bytes).clamp(-BURST, most));
        let _before = share.credit.fetch_update(Relaxed, Relaxed, credit);
    }
}

/// The CPU time of the process: of the program, and of the kernel for it (proc_pid_stat(5)).
fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // After the name, which may contain anything: from the third field on.
    let rest = stat.rsplit(')').next().unwrap_or_default();
    let fields = rest.split_whitespace().skip(11).take(2);
    let ticks: u64 = fields.map(|field| field.parse().unwrap_or(0)).sum();
    let a_second = rustix::param::clock_ticks_per_second().max(1);
    Duration::from_millis(ticks.saturating_mul(1000) / a_second)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn control(throughput: u64) -> Control {
        Control {
            throughput,
            ..Control::new()
        }
    }

    /// The rate after so many periods in which nothing was late.
    fn raised(control: &mut Control, mut rate: u64, periods: u32) -> u64 {
        for _ in 0..periods {
            rate = control.raise(rate);
        }
        rate
    }

    #[test]
    fn rate_grows_fast_at_first_and_no_higher_than_three_times_what_moves() {
        let mut control = control(50 << 20);
        let begun = START;
        assert!(raised(&mut control, begun, 20) > 40 << 20);
        assert_eq!(raised(&mut control, begun, 500), 150 << 20);
        control.throughput = 0;
        assert_eq!(control.raise(1 << 30), START);
    }

    #[test]
    fn rate_falls_below_what_was_too_much_and_comes_back_slowly() {
        let mut control = control(10_000_000);
        control.peak = 10_000_000;
        control.period = Instant::now() - PERIOD;
        control.is_long = true;
        let fallen = control.steer(20_000_000);
        assert_eq!((fallen, control.ceiling), (8_000_000, 10_000_000));
        let soon = raised(&mut control, fallen, 20);
        assert!((8_200_000..9_900_000).contains(&soon), "{soon}");
        // What falls again at once is not believed.
        control.period = Instant::now() - PERIOD;
        control.is_long = true;
        assert_eq!(control.steer(soon), soon);
    }

    #[test]
    fn rate_does_not_fall_below_an_eighth_of_what_has_moved() {
        let mut control = control(0);
        control.peak = 8_000_000;
        control.period = Instant::now() - PERIOD;
        control.is_long = true;
        let fallen = control.steer(1_000_000);
        assert!((900_000..=1_000_000).contains(&fallen), "{fallen}");
    }

    #[test]
    fn parts_are_equal_and_what_is_saved_or_owed_is_bounded() {
        let fair = Arc::<Fair>::default();
        let shares = [(); 2].map(|()| Share::new(Arc::clone(&fair)));
        let [one, other] = &shares;
        one.credit.store(-(1 << 40), Relaxed);
        other.credit.store(1 << 40, Relaxed);
        pay_out(&shares, 10_000_000, Duration::from_millis(10));
        assert_eq!(one.credit.load(Relaxed), -BURST);
        assert_eq!(other.credit.load(Relaxed), 2_500_000);
        pay_out(&shares, 10_000_000, Duration::from_millis(10));
        assert_eq!(one.credit.load(Relaxed), 50_000 - BURST);
    }
}
