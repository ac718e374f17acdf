//! Congestion control by a model of the path: the rate at which it delivers, its round trip and its loss.
//!
//! It has the states of BBR (draft-ietf-ccwg-bbr), and differs from it in two respects. quinn paces by the window, a quarter faster
//! than one window a round trip, so the window is all that is decided here: a little more than the path holds, so that little waits in
//! queues. And loss that stays the same is taken for that of the line: packets that will be lost are sent in addition.

use std::any::Any;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quinn::congestion::{Controller, ControllerFactory};
use quinn_proto::RttEstimator;

/// Packets of the first window.
const FIRST: u64 = 128;
/// Packets of the least window.
const LEAST: u64 = 4;
/// The window in [`State::Startup`] at most, as a multiple of what the path holds.
const STARTUP: f64 = 2.5;
/// By how much the rate must grow in a round, or the path is full.
const GROWTH: f64 = 1.25;
/// Rounds without growth after which the path is full; one is enough if there is a queue or much loss, too.
const FULL_ROUNDS: u8 = 3;
/// Round trips of this many shortest ones show a queue.
const QUEUE: f64 = 1.25;
/// The window of each round trip of [`State::Cycle`] as a multiple of the usual one: more, to find whether the path delivers
/// faster; less, to empty the queue of that; and then the usual one.
const CYCLE: [f64; 8] = [1.25, 0.85, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0];
/// The usual window as a multiple of what the path holds: acknowledgements come in groups and late.
const USUAL: f64 = 1.25;
/// Rounds for which the highest rate counts.
const ROUNDS: u64 = 10;
/// How long the shortest round trip counts before it is measured again with an empty queue, and how long that takes.
const ROUND_TRIP_LIFE: Duration = Duration::from_secs(10);
const ROUND_TRIP_TIME: Duration = Duration::from_millis(200);
/// Loss up to here is made up for.
const LINE_LOSS: f64 = 0.1;
/// The shortest round trip that is calculated with. Where it is shorter, threads that wait for a processor decide, not the path.
const LEAST_ROUND_TRIP: Duration = Duration::from_millis(5);
/// With more loss in a round, the path delivers less than was believed.
const TOO_MUCH_LOSS: f64 = 0.2;
/// Times of sending that are remembered: more than a window has.
const MAX_SENT: usize = 8192;
/// The widest window. quinn does not pace wider ones.
const WIDEST: f64 = 4e9;

/// Makes controllers.
pub(super) struct Factory;

impl ControllerFactory for Factory {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        Box::new(Bbr::new(now, current_mtu))
    }
}

/// What was known when packets were sent (draft-ietf-ccwg-bbr §4.1.2).
#[derive(Clone, Copy, Debug)]
struct Sent {
    at: Instant,
    delivered: u64,
    delivered_at: Instant,
    /// When the packet was sent whose acknowledgement had come last.
    acknowledged_sent: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    /// The window doubles each round, until the path is full.
    Startup,
    /// The queue of the startup is emptied.
    Drain,
    /// The place in [`CYCLE`], and since when.
    Cycle(usize, Instant),
    /// The shortest round trip is measured again, until then.
    RoundTrip(Instant),
}

/// The state of one path.
#[derive(Clone, Debug)]
pub(super) struct Bbr {
    mtu: u64,
    state: State,
    window: u64,
    /// In the order of time, one for each time.
    sent: VecDeque<Sent>,
    delivered: u64,
    delivered_at: Instant,
    acknowledged_sent: Instant,
    /// Bytes of the current acknowledgement, and the newest packets that it covers.
    acknowledged: u64,
    newest: Option<Sent>,
    /// Nothing is on its way.
    is_idle: bool,
    /// The highest rates of the last rounds in bytes a second, each with its round; the highest and oldest first.
    rates: VecDeque<(u64, f64)>,
    round: u64,
    /// Bytes delivered when the round began. It ends when something arrives that was sent after that.
    round_begin: u64,
    round_lost: u64,
    round_shortest: Option<Duration>,
    /// Loss of the line, of 1.
    loss: f64,
    full_rate: f64,
    full_rounds: u8,
    /// The shortest round trip, and when it was measured.
    shortest: Option<(Duration, Instant)>,
}

impl Bbr {
    fn new(now: Instant, mtu: u16) -> Self {
        let mtu = u64::from(mtu);
        Self {
            mtu,
            state: State::Startup,
            window: FIRST * mtu,
            sent: VecDeque::new(),
            delivered: 0,
            delivered_at: now,
            acknowledged_sent: now,
            acknowledged: 0,
            newest: None,
            is_idle: true,
            rates: VecDeque::new(),
            round: 0,
            round_begin: 0,
            round_lost: 0,
            round_shortest: None,
            loss: 0.0,
            full_rate: 0.0,
            full_rounds: 0,
            shortest: None,
        }
    }

    /// Bytes a second.
    fn rate(&self) -> f64 {
        self.rates.front().map_or(0.0, |(_, rate)| *rate)
    }

    /// Bytes that the path holds without a queue.
    fn held(&self) -> f64 {
        let shortest = self.shortest.map_or(Duration::ZERO, |(time, _)| time);
        self.rate() * shortest.max(LEAST_ROUND_TRIP).as_secs_f64()
    }

    fn note_rate(&mut self, rate: f64) {
        // What is lower and older than another can never be the highest again.
        while self.rates.back().is_some_and(|(_, lower)| *lower <= rate) {
            self.rates.pop_back();
        }
        self.rates.push_back((self.round, rate));
        let is_old = |(round, _): &(u64, f64)| round + ROUNDS < self.round;
        while self.rates.front().is_some_and(is_old) {
            self.rates.pop_front();
        }
    }

    fn note_round_trip(&mut self, now: Instant, time: Duration) {
        let of_round = self.round_shortest.map_or(time, |least| least.min(time));
        self.round_shortest = Some(of_round);
        if self.shortest.is_none_or(|(shortest, _)| time <= shortest) {
            self.shortest = Some((time, now));
        }
    }

    /// Takes note of a packet that has arrived.
    fn acknowledge(&mut self, now: Instant, sent: Instant, bytes: u64) {
        self.delivered += bytes;
        self.acknowledged += bytes;
        self.delivered_at = now;
        self.note_round_trip(now, now.saturating_duration_since(sent));
        let place = self.sent.partition_point(|one| one.at <= sent);
        let found = place.checked_sub(1).and_then(|place| self.sent.get(place));
        if let Some(found) = found
            && self.newest.is_none_or(|newest| newest.at <= found.at)
        {
            self.newest = Some(*found);
        }
    }

    /// Takes a sample of the rate. `limited`: the application had nothing to send. Returns whether a round has ended.
    fn sample(&mut self, now: Instant, newest: &Sent, limited: bool) -> bool {
        let arriving = now.saturating_duration_since(newest.delivered_at);
        let sending = newest
            .at
            .saturating_duration_since(newest.acknowledged_sent);
        let time = arriving.max(sending);
        let shortest = self.shortest.map_or(Duration::ZERO, |(time, _)| time);
        if !time.is_zero() && time >= shortest / 2 {
            let rate = float(self.delivered - newest.delivered) / time.as_secs_f64();
            if !limited || rate >= self.rate() {
                self.note_rate(rate);
            }
        }
        self.acknowledged_sent = newest.at;
        newest.delivered >= self.round_begin
    }

    /// Judges a round: its loss, and whether the path is full.
    fn end_round(&mut self, limited: bool) {
        self.round += 1;
        let begin = std::mem::replace(&mut self.round_begin, self.delivered);
        let lost = float(std::mem::take(&mut self.round_lost));
        let loss = lost / (lost + float(self.delivered - begin)).max(1.0);
        self.loss += (loss - self.loss) / 8.0;
        let round_shortest = self.round_shortest.take();
        if self.state != State::Startup {
            if loss > TOO_MUCH_LOSS {
                for (_, rate) in &mut self.rates {
                    *rate *= 0.9;
                }
            }
            return;
        }
        if limited {
            return;
        }
        if self.rate() >= self.full_rate * GROWTH {
            self.full_rate = self.rate();
            self.full_rounds = 0;
            return;
        }
        self.full_rounds += 1;
        let has_queue = match (round_shortest, self.shortest) {
            (Some(now), Some((shortest, _))) => now > shortest.max(LEAST_ROUND_TRIP).mul_f64(QUEUE),
            _ => false,
        };
        if has_queue || loss > LINE_LOSS || self.full_rounds >= FULL_ROUNDS {
            self.state = State::Drain;
        }
    }

    /// Goes on to the next state where it is time.
    fn advance(&mut self, now: Instant, in_flight: u64) {
        let Some((shortest, measured)) = self.shortest else {
            return;
        };
        let is_drained = float(in_flight) <= self.held();
        match self.state {
            State::Drain if is_drained => self.state = State::Cycle(2, now),
            State::Startup | State::Drain => {}
            State::Cycle(place, began) => {
                let is_over = now.saturating_duration_since(began) > shortest;
                // The queue that looking for more has made is emptied before the rest.
                if is_over && (place != 1 || is_drained) {
                    self.state = State::Cycle((place + 1) % CYCLE.len(), now);
                }
                if now.saturating_duration_since(measured) > ROUND_TRIP_LIFE {
                    self.state = State::RoundTrip(now + ROUND_TRIP_TIME.max(shortest * 2));
                    self.round_shortest = None;
                }
            }
            State::RoundTrip(until) if now >= until => {
                let anew = self.round_shortest.unwrap_or(shortest);
                self.shortest = Some((anew, now));
                self.state = State::Cycle(2, now);
            }
            State::RoundTrip(_) => {}
        }
    }

    fn set_window(&mut self, acknowledged: u64) {
        let held = self.held() / (1.0 - self.loss.min(LINE_LOSS));
        let times = match self.state {
            State::Startup => {
                let most = whole(STARTUP * held).max(FIRST * self.mtu);
                self.window = (self.window + acknowledged).min(most.max(self.window));
                return;
            }
            State::Drain => 0.75,
            State::Cycle(place, _) => USUAL * CYCLE.get(place).copied().unwrap_or(1.0),
            State::RoundTrip(_) => 0.5,
        };
        self.window = whole(times * held).max(LEAST * self.mtu);
    }
}

impl Controller for Bbr {
    fn on_sent(&mut self, now: Instant, _: u64, _: u64) {
        if self.is_idle {
            self.is_idle = false;
            self.delivered_at = now;
            self.acknowledged_sent = now;
        }
        if self.sent.back().is_some_and(|last| last.at >= now) {
            return;
        }
        if self.sent.len() >= MAX_SENT {
            self.sent.pop_front();
        }
        self.sent.push_back(Sent {
            at: now,
            delivered: self.delivered,
            delivered_at: self.delivered_at,
            acknowledged_sent: self.acknowledged_sent,
        });
    }

    fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64, _: bool, _: &RttEstimator) {
        self.acknowledge(now, sent, bytes);
    }

    fn on_end_acks(&mut self, now: Instant, in_flight: u64, app_limited: bool, _: Option<u64>) {
        self.is_idle = in_flight == 0;
        let acknowledged = std::mem::take(&mut self.acknowledged);
        let Some(newest) = self.newest.take() else {
            return;
        };
        if self.sample(now, &newest, app_limited) {
            self.end_round(app_limited);
        }
        if self.is_idle {
            self.sent = VecDeque::new();
        } else {
            let older = self.sent.partition_point(|one| one.at < newest.at);
            self.sent.drain(..older);
        }
        self.advance(now, in_flight);
        self.set_window(acknowledged);
    }

    fn on_congestion_event(&mut self, now: Instant, _: Instant, is_persistent: bool, lost: u64) {
        self.round_lost += lost;
        if is_persistent {
            // The path was away, or is another one.
            let mtu = u16::try_from(self.mtu).unwrap_or(u16::MAX);
            *self = Self::new(now, mtu);
        }
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.mtu = u64::from(new_mtu);
        self.window = self.window.max(LEAST * self.mtu);
    }

    fn window(&self) -> u64 {
        self.window
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        FIRST * self.mtu
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

/// A number of bytes, to calculate with.
#[allow(
    clippy::cast_precision_loss,
    reason = "a window has far fewer than 2^53 bytes"
)]
fn float(bytes: u64) -> f64 {
    bytes as f64
}

/// A calculated number of bytes.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the value is clamped before"
)]
fn whole(bytes: f64) -> u64 {
    bytes.clamp(0.0, WIDEST) as u64
}

#[cfg(test)]
#[path = "bbr_tests.rs"]
mod tests;
