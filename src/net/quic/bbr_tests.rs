//! Transfers over simulated paths.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    reason = "tests"
)]
use std::collections::BTreeMap;

use super::*;

const PACKET: u64 = 1200;
/// The time of one round of the simulation.
const STEP: Duration = Duration::from_micros(500);

struct Path {
    /// Bytes a second.
    rate: f64,
    round_trip: Duration,
    /// How long a packet may wait; another is dropped.
    queue: Duration,
    loss: f64,
}

impl Path {
    fn new(megabits: f64, milliseconds: u64, queue: u64, loss: f64) -> Self {
        Self {
            rate: megabits * 1e6 / 8.0,
            round_trip: Duration::from_millis(milliseconds),
            queue: Duration::from_millis(queue),
            loss,
        }
    }
}

/// What a transfer got in one stretch of its time.
#[derive(Debug)]
struct Got {
    /// Of the rate of the path.
    share: f64,
    /// Of what was sent.
    lost: f64,
    /// The median time in the queue.
    queued: Duration,
}

/// A sender that always has something to send, as quinn is: paced, with losses found by later acknowledgements.
struct Transfer {
    path: Path,
    bbr: Bbr,
    now: Instant,
    number: u64,
    random: u64,
    /// When the queue is empty.
    free_at: Instant,
    /// Bytes that pacing lets go now.
    tokens: f64,
    smoothed: Duration,
    /// By number: when it was sent, when its acknowledgement comes.
    flying: BTreeMap<u64, (Instant, Option<Instant>)>,
}

impl Transfer {
    fn new(path: Path) -> Self {
        let now = Instant::now();
        Self {
            bbr: Bbr::new(now, 1200),
            now,
            number: 0,
            random: 1,
            free_at: now,
            tokens: 0.0,
            smoothed: path.round_trip,
            path,
            flying: BTreeMap::new(),
        }
    }

    fn run(&mut self, time: Duration) -> Got {
        let until = self.now + time;
        let (mut delivered, mut sent, mut queued) = (0, 0_u64, Vec::new());
        while self.now < until {
            self.now += STEP;
            delivered += self.receive();
            self.pace();
            while self.may_send() {
                sent += 1;
                queued.extend(self.send());
            }
        }
        queued.sort_unstable();
        Got {
            share: delivered as f64 / time.as_secs_f64() / self.path.rate,
            lost: 1.0 - queued.len() as f64 / sent as f64,
            queued: queued[queued.len() / 2],
        }
    }

    /// Takes the acknowledgements that are due. Returns how many bytes they are for.
    fn receive(&mut self) -> u64 {
        let is_due = |(_, back): &(Instant, Option<Instant>)| back.is_some_and(|at| at <= self.now);
        let due = self.flying.extract_if(.., |_, packet| is_due(packet));
        let due: Vec<_> = due.collect();
        for (_, (at, _)) in &due {
            self.smoothed = (self.smoothed * 7 + (self.now - *at)) / 8;
            self.bbr.acknowledge(self.now, *at, PACKET);
        }
        if let Some((last, _)) = due.last() {
            let before = ..last.saturating_sub(3);
            let lost = self
                .flying
                .extract_if(before, |_, (_, back)| back.is_none());
            let lost = lost.count() as u64 * PACKET;
            let in_flight = self.flying.len() as u64 * PACKET;
            self.bbr.on_end_acks(self.now, in_flight, false, None);
            if lost > 0 {
                self.bbr
                    .on_congestion_event(self.now, self.now, false, lost);
            }
        }
        due.len() as u64 * PACKET
    }

    fn pace(&mut self) {
        let windows = STEP.as_secs_f64() / self.smoothed.as_secs_f64();
        self.tokens += 1.25 * self.bbr.window() as f64 * windows;
        self.tokens = self.tokens.min(64.0 * PACKET as f64);
    }

    fn may_send(&self) -> bool {
        let in_flight = (self.flying.len() as u64 + 1) * PACKET;
        in_flight <= self.bbr.window() && self.tokens >= PACKET as f64
    }

    /// Sends one packet. Returns how long it waits in the queue, unless it gets lost.
    fn send(&mut self) -> Option<Duration> {
        self.tokens -= PACKET as f64;
        self.bbr.on_sent(self.now, PACKET, self.number);
        self.random = self
            .random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        let is_lost = ((self.random >> 33) as f64 / f64::from(1_u32 << 31)) < self.path.loss;
        let wait = self.free_at.saturating_duration_since(self.now);
        let arrives = !is_lost && wait < self.path.queue;
        if arrives {
            let takes = Duration::from_secs_f64(PACKET as f64 / self.path.rate);
            self.free_at = self.free_at.max(self.now) + takes;
        }
        let back = arrives.then(|| self.free_at + self.path.round_trip);
        self.flying.insert(self.number, (self.now, back));
        self.number += 1;
        arrives.then_some(wait)
    }
}

#[test]
fn fills_the_path_whatever_the_loss_and_leaves_little_in_the_queue() {
    for (megabits, milliseconds) in [(100.0, 100), (50.0, 50), (10.0, 20), (2.0, 150)] {
        for loss in [0.0, 0.02, 0.05] {
            let path = Path::new(megabits, milliseconds, milliseconds, loss);
            let bound = path.round_trip.mul_f64(0.4) + 3 * STEP;
            let mut transfer = Transfer::new(path);
            transfer.run(Duration::from_secs(3));
            let got = transfer.run(Duration::from_secs(5));
            assert!(got.share > 0.97, "{got:?}");
            assert!(got.queued < bound, "{got:?}");
        }
    }
}

#[test]
fn finds_the_rate_within_a_second() {
    let path = Path::new(100.0, 100, 100, 0.02);
    let mut transfer = Transfer::new(path);
    transfer.run(Duration::from_secs(1));
    let got = transfer.run(Duration::from_secs(1));
    assert!(got.share > 0.85, "{got:?}");
}

#[test]
fn loses_little_where_the_queue_is_short() {
    for queue in [10, 20, 40] {
        let path = Path::new(50.0, 100, queue, 0.0);
        let mut transfer = Transfer::new(path);
        let first = transfer.run(Duration::from_secs(2));
        assert!(first.lost < 0.3, "{first:?}");
        let got = transfer.run(Duration::from_secs(8));
        assert!(got.share > 0.97 && got.lost < 0.03, "{got:?}");
    }
}

#[test]
fn follows_a_path_that_becomes_slower_and_faster() {
    let mut transfer = Transfer::new(Path::new(50.0, 50, 100, 0.0));
    for megabits in [50.0, 10.0, 80.0] {
        transfer.path.rate = megabits * 1e6 / 8.0;
        transfer.run(Duration::from_secs(3));
        let got = transfer.run(Duration::from_secs(2));
        assert!(got.share > 0.97, "{got:?}");
    }
}

#[test]
fn begins_anew_where_the_path_was_away() {
    let mut transfer = Transfer::new(Path::new(50.0, 50, 100, 0.0));
    transfer.run(Duration::from_secs(1));
    let now = transfer.now;
    assert!(transfer.bbr.window() > transfer.bbr.initial_window());
    transfer.bbr.on_congestion_event(now, now, true, PACKET);
    assert_eq!(transfer.bbr.window(), transfer.bbr.initial_window());
    assert_eq!(transfer.bbr.state, State::Startup);
}

#[test]
fn path_within_a_machine_is_not_held_for_a_full_one() {
    // Round trips of 50 us, if a processor is free: the queue of the simulation is what waits for one.
    let mut path = Path::new(1000.0, 0, 20, 0.0);
    path.round_trip = Duration::from_micros(50);
    let mut transfer = Transfer::new(path);
    transfer.run(Duration::from_millis(500));
    let got = transfer.run(Duration::from_secs(1));
    assert!(got.share > 0.9, "{got:?}");
}
