//! Requests in a row to which a server has not answered.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use tokio::time::Instant;

use crate::net::sync::lock;

/// So many requests in a row without an answer are a failure of the server.
pub(crate) const IN_A_ROW: u32 = 3;
/// How long it is not said again that a server does not answer.
const SAID_FOR: Duration = Duration::from_secs(600);

/// What is known of the answers of a server.
#[derive(Debug, Default)]
pub struct Silence {
    has_answered: AtomicBool,
    /// Requests without an answer since the last one that had one.
    row: AtomicU32,
    /// Because of them, the server counts as failed.
    has_failed: AtomicBool,
    told: Mutex<Told>,
}

#[derive(Debug, Default)]
struct Told {
    /// Hashes of the different targets of the row.
    targets: Vec<u64>,
    said: Option<Instant>,
}

/// What a request without an answer says of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unanswered {
    /// The server counts as failed.
    pub has_failed: bool,
    /// It is to be said that so many requests got no answer.
    pub say: Option<u32>,
}

impl Silence {
    /// Whether the server has ever answered.
    pub fn has_answered(&self) -> bool {
        self.has_answered.load(Relaxed)
    }

    /// Notes an answer. Returns whether the server had failed because there was none.
    pub fn end(&self) -> bool {
        if !self.has_answered() {
            self.has_answered.store(true, Relaxed);
        }
        if self.row.load(Relaxed) != 0 {
            self.row.store(0, Relaxed);
            lock(&self.told).targets.clear();
        }
        self.has_failed.load(Relaxed) && self.has_failed.swap(false, Relaxed)
    }

    /// Notes `count` requests for `target` that got no answer. A server that has answered before counts as failed only when
    /// nothing comes back from several targets: one of them may well be silent.
    pub fn note(&self, target: &str, count: u32) -> Unanswered {
        let row = self.row.load(Relaxed).saturating_add(count);
        self.row.store(row, Relaxed);
        let mut told = lock(&self.told);
        let mut hasher = DefaultHasher::new();
        target.hash(&mut hasher);
        let hash = hasher.finish();
        if told.targets.len() < IN_A_ROW as usize && !told.targets.contains(&hash) {
            told.targets.push(hash);
        }
        let has_failed = if self.has_answered() {
            told.targets.len() >= IN_A_ROW as usize
        } else {
            row >= IN_A_ROW
        };
        if has_failed {
            self.has_failed.store(true, Relaxed);
        }
        let is_due = told.said.is_none_or(|said| said.elapsed() >= SAID_FOR);
        let say = (has_failed && is_due).then_some(row);
        if say.is_some() {
            told.said = Some(Instant::now());
        }
        Unanswered { has_failed, say }
    }

    /// Forgets the row: the network was another one.
    pub fn forgive(&self) {
        self.row.store(0, Relaxed);
        self.has_failed.store(false, Relaxed);
        lock(&self.told).targets.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::advance;

    fn said(silence: &Silence, target: &str) -> Option<u32> {
        silence.note(target, 1).say
    }

    #[tokio::test(start_paused = true)]
    async fn three_in_a_row_are_said_once_and_again_after_a_long_time() {
        let silence = Silence::default();
        let all: Vec<_> = (0..6).map(|_| said(&silence, "a:1")).collect();
        assert_eq!(all, [None, None, Some(3), None, None, None]);
        advance(SAID_FOR).await;
        assert_eq!(said(&silence, "a:1"), Some(7));
        silence.end();
        assert!(silence.has_answered());
    }

    #[tokio::test(start_paused = true)]
    async fn one_silent_target_is_no_fault_of_a_server_that_has_answered() {
        let silence = Silence::default();
        silence.end();
        for _ in 0..100 {
            assert!(!silence.note("a:1", 1).has_failed);
        }
        assert!(!silence.note("b:1", 1).has_failed);
        silence.end();
        for target in ["b:1", "c:1"] {
            assert!(!silence.note(target, 1).has_failed, "the row has ended");
        }
        let third = silence.note("d:1", 1);
        assert_eq!((third.has_failed, third.say), (true, Some(3)));
    }

    #[test]
    fn what_is_kept_of_targets_is_bounded() {
        let silence = Silence::default();
        for number in 0..10_000 {
            silence.note(&number.to_string(), 1);
        }
        assert_eq!(lock(&silence.told).targets.len(), IN_A_ROW as usize);
    }
}
