//! Salts that several servers refuse together.
//!
//! Whoever has an authenticated request asks [`Salts`] whether another server has served it. Questions wait in a queue with a
//! limit, for a limited time; if nobody answers, the server decides by what it knows itself, and asks nobody until
//! answers come again.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::crypto::{Family, Method};
use crate::limits::{MAX_SHARED_SALTS, SALT_LIFETIME, SHARED_SALT_LIFETIME, SHARED_SALT_TIME};
use crate::relay::group::Group;
use crate::wire::ss::Salt;

/// A question: is this salt new to all servers? It is noted as used by asking.
#[derive(Debug)]
pub struct Question {
    /// The servers that are one.
    pub group: Group,
    /// The salt.
    pub salt: Box<[u8]>,
    /// How long it is to be remembered.
    pub keep: Duration,
    /// Takes whether it is new; `None`: nobody waits.
    pub answer: Option<oneshot::Sender<bool>>,
}

/// Whom to ask.
#[derive(Clone, Debug)]
pub struct Salts {
    questions: mpsc::Sender<Question>,
    answers: Arc<AtomicBool>,
}

/// Who answers.
#[derive(Debug)]
pub struct Answerer {
    /// Questions that wait.
    pub questions: mpsc::Receiver<Question>,
    /// Whether answers come: while they do not, nobody asks.
    pub answers: Arc<AtomicBool>,
}

/// Whether a salt is new to all servers, as far as is known in time.
pub type IsNew = Pin<Box<dyn Future<Output = bool> + Send>>;

impl Salts {
    /// Who asks, and who answers.
    #[must_use]
    pub fn channel() -> (Self, Answerer) {
        let (send, questions) = mpsc::channel(MAX_SHARED_SALTS);
        let answers = Arc::new(AtomicBool::new(false));
        let salts = Self {
            questions: send,
            answers: Arc::clone(&answers),
        };
        (salts, Answerer { questions, answers })
    }
}

/// Asks for one server.
#[derive(Debug)]
pub(super) struct Shared {
    salts: Salts,
    group: Group,
    keep: Duration,
}

impl Shared {
    pub(super) fn new(salts: Salts, group: Group, method: Method) -> Self {
        let keep = match method.family() {
            Family::Aead2022 => SALT_LIFETIME,
            Family::Aead2017 | Family::Plain => SHARED_SALT_LIFETIME,
        };
        Self { salts, group, keep }
    }

    /// Asks for a salt; `None`: nobody answers, or too many wait.
    pub(super) fn ask(&self, salt: &Salt) -> Option<IsNew> {
        let (answer, answered) = oneshot::channel();
        self.send(salt, Some(answer))?;
        let answers = Arc::clone(&self.salts.answers);
        Some(Box::pin(async move {
            match timeout(SHARED_SALT_TIME, answered).await {
                Ok(answer) => answer.unwrap_or(true),
                Err(_) => {
                    answers.store(false, Relaxed);
                    true
                }
            }
        }))
    }

    /// Has a salt noted that was sent.
    pub(super) fn note(&self, salt: &Salt) {
        let _ = self.send(salt, None);
    }

    fn send(&self, salt: &Salt, answer: Option<oneshot::Sender<bool>>) -> Option<()> {
        if !self.salts.answers.load(Relaxed) || salt.as_slice().is_empty() {
            return None;
        }
        let question = Question {
            group: self.group.clone(),
            salt: salt.as_slice().into(),
            keep: self.keep,
            answer,
        };
        self.salts.questions.try_send(question).ok()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::crypto::Key;

    const METHOD: Method = Method::Blake3Aes128Gcm;

    fn shared() -> (Shared, Answerer) {
        let (salts, answerer) = Salts::channel();
        let group = Group::of(METHOD, &Key::from_slice(&[1; 16]).unwrap());
        (Shared::new(salts, group, METHOD), answerer)
    }

    fn salt() -> Salt {
        Salt::new(METHOD, rand::random())
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_store_costs_the_first_requests_a_moment_and_the_others_nothing() {
        let (shared, answerer) = shared();
        assert!(shared.ask(&salt()).is_none(), "nobody answers yet");
        answerer.answers.store(true, Relaxed);
        let began = tokio::time::Instant::now();
        assert!(shared.ask(&salt()).unwrap().await);
        assert_eq!(began.elapsed(), SHARED_SALT_TIME);
        assert!(shared.ask(&salt()).is_none());
    }

    #[tokio::test]
    async fn questions_that_wait_are_bounded() {
        let (shared, mut answerer) = shared();
        answerer.answers.store(true, Relaxed);
        let waiting: Vec<_> = (0..3 * MAX_SHARED_SALTS)
            .filter_map(|_| shared.ask(&salt()))
            .collect();
        assert_eq!(waiting.len(), MAX_SHARED_SALTS);
        let question = answerer.questions.recv().await.unwrap();
        question.answer.unwrap().send(false).unwrap();
        assert!(!waiting.into_iter().next().unwrap().await);
    }
}
