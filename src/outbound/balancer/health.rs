//! What is known of a server.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use tokio::time::Instant;

use super::silence::{Silence, Unanswered};
use crate::limits::PROBES_KEPT;
use crate::net::sync::lock;

/// How long a server that failed comes after the others.
const PENALTY: Duration = Duration::from_secs(10);
/// The longest such time: it doubles with each failure of a server that could be connected to and did not answer, since
/// only the next request can show whether it answers again.
const MAX_PENALTY: Duration = Duration::from_secs(300);

/// Bounds of the time after which the next server is dialled beside one that does not answer, and that time where
/// nothing is known yet.
const DIAL_BOUNDS: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(1));
/// The same for the acknowledgement of the first payload.
const ACKNOWLEDGE_BOUNDS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(3));
/// The same for the first answer.
const ANSWER_BOUNDS: (Duration, Duration) =
    (Duration::from_millis(1000), Duration::from_millis(2500));

/// How a server failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It could not be connected to.
    Unreachable,
    /// It could, and then did not answer what another server answered.
    Unanswered,
    /// It failed a probe that another server passed.
    Probe,
}

/// The failures, times, streams and probes of a server, shared by all workers.
#[derive(Debug)]
pub struct Health {
    begun: Instant,
    failed: AtomicBool,
    failures: AtomicU64,
    /// It can be connected to all the same: only an answer shows that it works again.
    unanswered: AtomicBool,
    /// Milliseconds since `begun`.
    failed_at: AtomicU64,
    /// Milliseconds.
    penalty: AtomicU64,
    streams: AtomicUsize,
    /// Smoothed, in microseconds; 0: not known.
    dial_time: AtomicU64,
    answer_time: AtomicU64,
    probes: Mutex<Probes>,
    silence: Silence,
}

/// The results of the last probes: how long each took, or `None` if it failed.
#[derive(Debug)]
struct Probes {
    results: VecDeque<Option<Duration>>,
    score: f64,
    median: Option<Duration>,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            begun: Instant::now(),
            failed: AtomicBool::new(false),
            failures: AtomicU64::new(0),
            unanswered: AtomicBool::new(false),
            failed_at: AtomicU64::new(0),
            penalty: AtomicU64::new(0),
            streams: AtomicUsize::new(0),
            dial_time: AtomicU64::new(0),
            answer_time: AtomicU64::new(0),
            probes: Mutex::new(Probes {
                results: VecDeque::new(),
                score: 1.0,
                median: None,
            }),
            silence: Silence::default(),
        }
    }
}

impl Health {
    /// Whether the last that is known of the server is a failure.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.failed.load(Relaxed)
    }

    /// Whether the server comes after the others: for a time after a failure, or where there are probes, until it passes
    /// one.
    #[must_use]
    pub fn is_avoided(&self, probed: bool) -> bool {
        self.has_failed() && (probed || self.failed_for() < self.penalty.load(Relaxed))
    }

    fn failed_for(&self) -> u64 {
        self.now().saturating_sub(self.failed_at.load(Relaxed))
    }

    fn now(&self) -> u64 {
        millis(self.begun.elapsed())
    }

    /// Notes a failure. Returns whether it is the first one since the server worked.
    pub fn fail(&self, fault: Fault) -> bool {
        self.failures.fetch_add(1, Relaxed);
        let (least, most) = (millis(PENALTY), millis(MAX_PENALTY));
        let penalty = match fault {
            Fault::Unreachable | Fault::Probe => least,
            // Requests that failed at the same time count once.
            Fault::Unanswered if self.has_failed() && self.failed_for() < least => {
                self.penalty.load(Relaxed).max(least)
            }
            Fault::Unanswered => (self.penalty.load(Relaxed) * 2).clamp(least, most),
        };
        self.penalty.store(penalty, Relaxed);
        self.unanswered.store(fault != Fault::Unreachable, Relaxed);
        self.failed_at.store(self.now(), Relaxed);
        !self.failed.swap(true, Relaxed)
    }

    /// How often it has failed.
    #[must_use]
    pub fn failures(&self) -> u64 {
        self.failures.load(Relaxed)
    }

    /// The usual time to connect to it.
    #[must_use]
    pub fn dial_time(&self) -> Option<Duration> {
        let time = self.dial_time.load(Relaxed);
        (time > 0).then(|| Duration::from_micros(time))
    }

    /// Notes that the server works. Returns whether it had failed.
    pub fn work(&self) -> bool {
        self.silence.end();
        self.penalty.store(0, Relaxed);
        self.failed.load(Relaxed) && self.failed.swap(false, Relaxed)
    }

    /// Notes `count` requests for `target` that the server has not answered.
    pub fn unanswered(&self, target: &str, count: u32) -> Unanswered {
        let noted = self.silence.note(target, count);
        if noted.has_failed {
            self.fail(Fault::Unanswered);
        }
        noted
    }

    /// Notes that a datagram has come back. Returns whether the server had failed because none did.
    pub fn packets_answered(&self) -> bool {
        self.silence.end() && self.work()
    }

    /// Whether the server has ever answered.
    #[must_use]
    pub fn has_answered(&self) -> bool {
        self.silence.has_answered()
    }

    /// Whether the server has failed by not answering, and has never answered anything.
    #[must_use]
    pub fn is_suspect(&self) -> bool {
        self.has_failed() && self.unanswered.load(Relaxed) && !self.has_answered()
    }

    /// Notes that the server could be connected to. Returns whether it could not before.
    pub fn connect(&self, time: Duration) -> bool {
        smooth(&self.dial_time, time);
        self.has_failed() && !self.unanswered.load(Relaxed) && self.failed.swap(false, Relaxed)
    }

    /// Notes how long the server took to answer. Returns whether it had failed.
    pub fn answer(&self, time: Option<Duration>) -> bool {
        if let Some(time) = time {
            smooth(&self.answer_time, time);
        }
        self.work()
    }

    /// Forgets failures: they were those of another network.
    pub fn forgive(&self) {
        self.failed.store(false, Relaxed);
        self.penalty.store(0, Relaxed);
        self.silence.forgive();
    }

    /// The time after which the next server is dialled beside this one.
    #[must_use]
    pub fn connected_within(&self) -> Duration {
        patience(&self.dial_time, 2, DIAL_BOUNDS)
    }

    /// The time within which it acknowledges what it is sent.
    #[must_use]
    pub fn acknowledged_within(&self) -> Duration {
        patience(&self.dial_time, 4, ACKNOWLEDGE_BOUNDS)
    }

    /// The time after which another server is asked beside this one.
    #[must_use]
    pub fn answered_within(&self) -> Duration {
        patience(&self.answer_time, 4, ANSWER_BOUNDS)
    }

    /// Notes that a stream begins.
    pub fn begin_stream(&self) {
        self.streams.fetch_add(1, Relaxed);
    }

    /// Notes that a stream has ended.
    pub fn end_stream(&self) {
        self.streams.fetch_sub(1, Relaxed);
    }

    /// Its streams.
    #[must_use]
    pub fn streams(&self) -> usize {
        self.streams.load(Relaxed)
    }

    /// Notes the result of a probe that may take `longest`: how long it took, or `None` if it failed.
    pub fn note_probe(&self, result: Option<Duration>, longest: Duration) {
        let mut probes = lock(&self.probes);
        if probes.results.len() >= PROBES_KEPT {
            probes.results.pop_front();
        }
        probes.results.push_back(result);
        probes.evaluate(longest);
    }

    /// The score by the probes, from 0, the best, to 1; 1 before the first.
    #[must_use]
    pub fn score(&self) -> f64 {
        lock(&self.probes).score
    }

    /// The median of the probes that were passed.
    #[must_use]
    pub fn latency(&self) -> Option<Duration> {
        lock(&self.probes).median
    }

    /// Forgets the probes: they went through another network.
    pub fn forget_probes(&self) {
        let mut probes = lock(&self.probes);
        probes.results.clear();
        (probes.score, probes.median) = (1.0, None);
    }
}

impl Probes {
    /// The score of shadowsocks-rust: the median, three times the rate of failures, and the median deviation from the
    /// median, each as a part of its maximum.
    fn evaluate(&mut self, longest: Duration) {
        let passed = || self.results.iter().flatten().copied();
        let count = self.results.len().max(1) as f64;
        let failures = self
            .results
            .iter()
            .filter(|result| result.is_none())
            .count() as f64;
        let median_time = median(passed().collect());
        let deviation = median_time.and_then(|middle| {
            let away = passed().map(|time| time.abs_diff(middle));
            median(away.collect())
        });
        let part = |time: Option<Duration>| {
            let time = time.unwrap_or(longest).min(longest);
            time.as_secs_f64() / longest.as_secs_f64().max(f64::EPSILON)
        };
        self.score = (part(median_time) + 3.0 * failures / count + part(deviation)) / 5.0;
        self.median = median_time;
    }
}

fn median(mut times: Vec<Duration>) -> Option<Duration> {
    times.sort_unstable();
    let upper = *times.get(times.len() / 2)?;
    let lower = *times.get(times.len().saturating_sub(1) / 2)?;
    Some((upper + lower) / 2)
}

/// Moves a smoothed time by an eighth.
fn smooth(to: &AtomicU64, time: Duration) {
    let new = u64::try_from(time.as_micros()).unwrap_or(u64::MAX).max(1);
    let old = to.load(Relaxed);
    let mixed = if old == 0 {
        new
    } else {
        old - old / 8 + new / 8
    };
    to.store(mixed.max(1), Relaxed);
}

/// A multiple of a smoothed time, within bounds; the upper one if nothing is known.
fn patience(time: &AtomicU64, factor: u64, (least, most): (Duration, Duration)) -> Duration {
    match time.load(Relaxed) {
        0 => most,
        known => Duration::from_micros(known.saturating_mul(factor)).clamp(least, most),
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::advance;

    const LONGEST: Duration = Duration::from_secs(5);

    #[tokio::test(start_paused = true)]
    async fn a_failure_is_forgotten_after_its_penalty_and_doubles_while_nothing_is_answered() {
        let health = Health::default();
        assert!(health.fail(Fault::Unreachable));
        assert!(!health.fail(Fault::Unreachable));
        advance(PENALTY).await;
        assert!(!health.is_avoided(false) && health.is_avoided(true));
        assert!(health.connect(LONGEST));
        health.forgive();
        for seconds in [10, 20, 40, 80, 160, 300, 300] {
            health.fail(Fault::Unanswered);
            health.fail(Fault::Unanswered);
            advance(Duration::from_secs(seconds) - Duration::from_millis(1)).await;
            assert!(health.is_avoided(false), "{seconds}");
            advance(Duration::from_millis(1)).await;
            assert!(!health.is_avoided(false), "{seconds}");
        }
        assert!(!health.connect(LONGEST), "a dial is no answer");
        assert!(health.answer(None));
        assert!(!health.is_avoided(true));
    }

    #[test]
    fn a_score_grows_with_time_and_with_failures() {
        let score = |results: &[Option<u64>]| {
            let health = Health::default();
            for result in results {
                health.note_probe(result.map(Duration::from_millis), LONGEST);
            }
            health.score()
        };
        assert!(score(&[Some(50), Some(60)]) < score(&[Some(100), Some(110)]));
        assert!(score(&[Some(2000)]) < score(&[Some(10), None]));
        assert!((score(&[None]) - 1.0).abs() < 1e-9);
        assert!((score(&[Some(500)]) - 0.02).abs() < 1e-9);
    }

    #[test]
    fn the_probes_that_are_kept_are_bounded() {
        let health = Health::default();
        for _ in 0..10_000 {
            health.note_probe(None, LONGEST);
        }
        assert_eq!(lock(&health.probes).results.len(), PROBES_KEPT);
        for _ in 0..PROBES_KEPT {
            health.note_probe(Some(LONGEST / 10), LONGEST);
        }
        assert_eq!(health.latency(), Some(LONGEST / 10));
    }
}
