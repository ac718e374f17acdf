//! A congestion control by a model of the path: the rate at which it delivers and its round trip, as BBR does (Cardwell et al.,
//! "BBR: Congestion-Based Congestion Control", 2016; draft-ietf-ccwg-bbr), with a window that leaves little in queues.
//!
//! quinn paces by the window: a quarter faster than one window a round trip. So the window alone is what is decided here.

use std::any::Any;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quinn::congestion::{Controller, ControllerFactory};
use quinn_proto::RttEstimator;

/// Packets of the first window.
const FIRST: u64 = 32;
/// Packets of the least window.
const LEAST: u64 = 4;
/// Of what the path holds, the window while its rate is looked for.
const STARTUP_GAIN: f64 = 2.5;
/// Growth of the rate in a round that shows that the path is not full yet, and rounds without it that show that it is.
const GROWTH: f64 = 1.25;
const FULL_ROUNDS: u8 = 3;
/// Of what the path holds, the windows of one cycle: more, to find whether it delivers faster; then less, to empty the queue again.
const CYCLE: [f64; 8] = [1.25, 0.85, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0];
/// Of what the path holds, what is beyond it: acknowledgements come in groups.
const MARGIN: f64 = 1.05;
/// A timer may be this late.
const SLACK: Duration = Duration::from_millis(2);
/// Rounds for which the highest rate counts.
const ROUNDS: u64 = 10;
/// How long the shortest round trip counts before it is measured again, and for how long the queue is emptied for that.
const ROUND_TRIP_LIFE: Duration = Duration::from_secs(10);
const PROBE_TIME: Duration = Duration::from_millis(200);
/// Loss up to here is taken for that of the line, and made up for.
const LINE_LOSS: f64 = 0.1;
/// With more loss than this in a round, too much is sent.
const TOO_MUCH_LOSS: f64 = 0.2;
/// Times of sending that are remembered: more than a window has.
const MAX_SENT: usize = 8192;

/// Makes controllers.
pub(super) struct BbrFactory;

impl ControllerFactory for BbrFactory {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        Box::new(Bbr::new(now, current_mtu))
    }
}

/// What was known when packets were sent.
#[derive(Clone, Copy, Debug)]
struct Sent {
    at: Instant,
    delivered: u64,
    delivered_at: Instant,
    /// When the packet was sent whose acknowledgement came last.
    acknowledged_sent: Instant,
    limited: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    /// The window doubles each round, until the path is full.
    Startup,
    /// The queue of the startup is emptied.
    Drain,
    /// The phase of the cycle, and when it has begun.
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
    sent: VecDeque<Sent>,
    delivered: u64,
    delivered_at: Instant,
    acknowledged_sent: Instant,
    /// Bytes of the current acknowledgement.
    acknowledged: u64,
    /// The newest of what the current acknowledgement covers.
    newest: Option<Sent>,
    /// Whether nothing is on its way.
    is_idle: bool,
    /// The highest rates of the last rounds, in bytes a second, the highest first.
    rates: VecDeque<(u64, f64)>,
    round: u64,
    /// The round ends when what was sent then is acknowledged.
    round_end: u64,
    round_began: u64,
    lost_in_round: u64,
    /// Loss of the line, of 1.
    loss: f64,
    full_rate: f64,
    full_rounds: u8,
    round_trip: Option<(Duration, Instant)>,
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
            round_end: 0,
            round_began: 0,
            lost_in_round: 0,
            loss: 0.0,
            full_rate: 0.0,
            full_rounds: 0,
            round_trip: None,
        }
    }

    /// Bytes a second.
    fn rate(&self) -> f64 {
        self.rates.front().map_or(0.0, |(_, rate)| *rate)
    }

    /// Bytes that the path holds without a queue.
    fn held(&self) -> f64 {
        let round_trip = self.round_trip.map_or(0.0, |(time, _)| time.as_secs_f64());
        self.rate() * round_trip
    }

    fn note_rate(&mut self, rate: f64) {
        let round = self.round;
        // A maximum over a window: what is lower and older than another can never be the highest again.
        while self.rates.back().is_some_and(|(_, lower)| *lower <= rate) {
            self.rates.pop_back();
        }
        self.rates.push_back((round, rate));
        while self.rates.len() > 1
            && self
                .rates
                .front()
                .is_some_and(|(then, _)| then + ROUNDS < round)
        {
            self.rates.pop_front();
        }
    }

    fn note_round_trip(&mut self, now: Instant, time: Duration) {
        let is_shorter = self
            .round_trip
            .is_none_or(|(shortest, _)| time <= shortest.mul_f64(1.02));
        if is_shorter || matches!(self.state, State::RoundTrip(_)) {
            let shortest = self
                .round_trip
                .map_or(time, |(shortest, _)| shortest.min(time));
            let shortest = match self.state {
                State::RoundTrip(_) if !is_shorter => time,
                _ => shortest,
            };
            self.round_trip = Some((shortest, now));
        }
    }

    /// Takes note of a packet that has arrived.
    fn acknowledge(&mut self, now: Instant, sent: Instant, bytes: u64, app_limited: bool) {
        self.delivered += bytes;
        self.acknowledged += bytes;
        self.delivered_at = now;
        self.note_round_trip(now, now.saturating_duration_since(sent));
        let place = self.sent.partition_point(|one| one.at <= sent);
        let found = place.checked_sub(1).and_then(|place| self.sent.get(place));
        if let Some(found) = found
            && self.newest.is_none_or(|newest| newest.at <= found.at)
        {
            self.newest = Some(Sent {
                limited: app_limited,
                ..*found
            });
        }
    }

    /// Takes a sample of the rate. Returns whether a round has ended.
    fn sample(&mut self, now: Instant, newest: &Sent) -> bool {
        let by_acknowledgements = now.saturating_duration_since(newest.delivered_at);
        let by_sending = newest
            .at
            .saturating_duration_since(newest.acknowledged_sent);
        let time = by_acknowledgements.max(by_sending);
        let shortest = self.round_trip.map_or(Duration::ZERO, |(time, _)| time);
        if !time.is_zero() && time >= shortest / 2 {
            let rate = amount(self.delivered - newest.delivered) / time.as_secs_f64();
            if !newest.limited || rate >= self.rate() {
                self.note_rate(rate);
            }
        }
        self.acknowledged_sent = newest.at;
        if newest.delivered < self.round_end {
            return false;
        }
        self.round += 1;
        self.round_end = self.delivered;
        true
    }

    /// Judges the losses of a round, and whether the path is full.
    fn end_round(&mut self, limited: bool) {
        let (lost, delivered) = (
            amount(self.lost_in_round),
            amount(self.delivered - self.round_began),
        );
        self.lost_in_round = 0;
        self.round_began = self.delivered;
        let loss = lost / (lost + delivered).max(1.0);
        self.loss += (loss - self.loss) / 8.0;
        if loss > TOO_MUCH_LOSS && self.state != State::Startup {
            for (_, rate) in &mut self.rates {
                *rate *= 0.9;
            }
        }
        if self.state != State::Startup || limited {
            return;
        }
        if self.rate() >= self.full_rate * GROWTH {
            self.full_rate = self.rate();
            self.full_rounds = 0;
            return;
        }
        self.full_rounds += 1;
        if self.full_rounds >= FULL_ROUNDS {
            self.state = State::Drain;
        }
    }

    /// Goes on to the next state where it is time.
    fn advance(&mut self, now: Instant, in_flight: u64) {
        let Some((round_trip, measured)) = self.round_trip else {
            return;
        };
        match self.state {
            State::Startup => {}
            State::Drain => {
                if amount(in_flight) <= self.held() {
                    self.state = State::Cycle(2, now);
                }
            }
            State::Cycle(phase, began) => {
                let is_over = now.saturating_duration_since(began) > round_trip;
                // The queue that looking for more has made is to be empty before the rest.
                let is_drained = phase != 1 || amount(in_flight) <= self.held();
                if is_over && is_drained {
                    self.state = State::Cycle((phase + 1) % CYCLE.len(), now);
                }
                if now.saturating_duration_since(measured) > ROUND_TRIP_LIFE {
                    self.state = State::RoundTrip(now + PROBE_TIME.max(round_trip));
                }
            }
            State::RoundTrip(until) => {
                if now >= until {
                    self.round_trip = Some((round_trip, now));
                    self.state = State::Cycle(2, now);
                }
            }
        }
    }

    fn set_window(&mut self, acknowledged: u64) {
        let held = self.held();
        let made_up = 1.0 - self.loss.min(LINE_LOSS);
        let gain = match self.state {
            State::Startup => {
                // Doubles each round, up to a bound that grows with the rate.
                let most = bytes(STARTUP_GAIN * held / made_up).max(FIRST * self.mtu);
                self.window = (self.window + acknowledged).min(most.max(self.window));
                return;
            }
            State::Drain => 0.75,
            State::Cycle(phase, _) => CYCLE.get(phase).copied().unwrap_or(1.0),
            State::RoundTrip(_) => 0.5,
        };
        let slack = self.rate() * SLACK.as_secs_f64() + amount(3 * self.mtu);
        let window = gain * MARGIN * held / made_up + slack;
        self.window = bytes(window).max(LEAST * self.mtu);
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
            limited: false,
        });
    }

    fn on_ack(
        &mut self,
        now: Instant,
        sent: Instant,
        bytes: u64,
        app_limited: bool,
        _: &RttEstimator,
    ) {
        self.acknowledge(now, sent, bytes, app_limited);
    }

    fn on_end_acks(&mut self, now: Instant, in_flight: u64, app_limited: bool, _: Option<u64>) {
        self.is_idle = in_flight == 0;
        let Some(newest) = self.newest.take() else {
            return;
        };
        if self.sample(now, &newest) {
            self.end_round(app_limited);
        }
        let older = self.sent.partition_point(|one| one.at < newest.at);
        self.sent.drain(..older);
        self.advance(now, in_flight);
        let acknowledged = std::mem::take(&mut self.acknowledged);
        self.set_window(acknowledged);
    }

    fn on_congestion_event(&mut self, now: Instant, _: Instant, is_persistent: bool, lost: u64) {
        self.lost_in_round += lost;
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
fn amount(bytes: u64) -> f64 {
    bytes as f64
}

/// A calculated number of bytes.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the value is clamped before"
)]
fn bytes(amount: f64) -> u64 {
    amount.clamp(0.0, MOST) as u64
}

/// The widest window: quinn does not pace wider ones.
const MOST: f64 = 4e9;

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::indexing_slicing,
        clippy::cast_precision_loss,
        clippy::print_stdout,
        reason = "tests"
    )]
    use std::collections::BTreeMap;

    use super::*;

    const PACKET: u64 = 1200;

    /// A path in simulated time: a rate, a delay, a queue, and losses at random.
    struct Path {
        rate: f64,
        delay: Duration,
        queue: Duration,
        loss: f64,
    }

    /// What a transfer got.
    #[derive(Debug)]
    struct Got {
        /// Of the rate of the path.
        share: f64,
        /// The median time in the queue.
        queued: Duration,
    }

    /// Sends as much as the controller lets for `time`, as quinn does: paced, with losses found by later acknowledgements. The
    /// figures are those after `settle`.
    fn send(path: &Path, settle: Duration, time: Duration) -> Got {
        let begun = Instant::now();
        let mut now = begun;
        let mut bbr = Bbr::new(begun, 1200);
        let (mut number, mut seed) = (0_u64, 1_u64);
        let (mut free_at, mut tokens) = (begun, 10.0 * PACKET as f64);
        // By number: when it was sent, when its acknowledgement comes.
        let mut flying: BTreeMap<u64, (Instant, Option<Instant>)> = BTreeMap::new();
        let (mut delivered, mut queued) = (0, Vec::new());
        let step = Duration::from_micros(500);
        let mut smoothed = 2 * path.delay;
        while now < begun + time {
            now += step;
            let due: Vec<u64> = flying
                .iter()
                .filter(|(_, (_, back))| back.is_some_and(|at| at <= now))
                .map(|(number, _)| *number)
                .collect();
            for number in &due {
                let (at, _) = flying.remove(number).unwrap();
                smoothed = (smoothed * 7 + (now - at)) / 8;
                bbr.acknowledge(now, at, PACKET, false);
                delivered += u64::from(now > begun + settle) * PACKET;
            }
            if let Some(last) = due.last() {
                bbr.on_end_acks(now, flying.len() as u64 * PACKET, false, None);
                let lost: Vec<u64> = flying
                    .range(..last.saturating_sub(3))
                    .map(|(one, _)| *one)
                    .collect();
                let lost: Vec<u64> = lost
                    .into_iter()
                    .filter(|one| flying[one].1.is_none())
                    .collect();
                for number in &lost {
                    flying.remove(number);
                }
                if !lost.is_empty() {
                    bbr.on_congestion_event(now, now, false, lost.len() as u64 * PACKET);
                }
            }
            let window = bbr.window();
            tokens += 1.25 * window as f64 * step.as_secs_f64() / smoothed.as_secs_f64();
            tokens = tokens.min(64.0 * PACKET as f64);
            while (flying.len() as u64 + 1) * PACKET <= window && tokens >= PACKET as f64 {
                tokens -= PACKET as f64;
                bbr.on_sent(now, PACKET, number);
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let is_lost = ((seed >> 33) as f64 / f64::from(1_u32 << 31)) < path.loss;
                let wait = free_at.saturating_duration_since(now);
                let back = (!is_lost && wait < path.queue).then(|| {
                    free_at = now.max(free_at) + Duration::from_secs_f64(PACKET as f64 / path.rate);
                    if now > begun + settle {
                        queued.push(wait);
                    }
                    free_at + 2 * path.delay
                });
                flying.insert(number, (now, back));
                number += 1;
            }
        }
        queued.sort_unstable();
        let measured = (time - settle).as_secs_f64();
        Got {
            share: delivered as f64 / measured / path.rate,
            queued: queued[queued.len() / 2],
        }
    }

    #[test]
    fn fills_the_path_whatever_the_loss_and_leaves_little_in_the_queue() {
        for (megabits, milliseconds) in [(50.0, 50), (10.0, 20), (2.0, 150)] {
            for loss in [0.0, 0.02, 0.05] {
                let path = Path {
                    rate: megabits * 1e6 / 8.0,
                    delay: Duration::from_millis(milliseconds),
                    queue: Duration::from_millis(2 * milliseconds),
                    loss,
                };
                let got = send(&path, Duration::from_secs(2), Duration::from_secs(5));
                println!("{megabits} Mbit/s, {milliseconds} ms, loss {loss}: {got:?}");
                assert!(got.share > 0.88 * (1.0 - loss), "{got:?}");
                let bound = Duration::from_millis(milliseconds).max(Duration::from_millis(10));
                assert!(got.queued < bound, "{got:?}");
            }
        }
    }

    #[test]
    fn finds_the_rate_within_a_second() {
        let path = Path {
            rate: 12.5e6,
            delay: Duration::from_millis(50),
            queue: Duration::from_millis(100),
            loss: 0.02,
        };
        let got = send(&path, Duration::from_secs(1), Duration::from_secs(2));
        assert!(got.share > 0.85, "{got:?}");
    }
}
