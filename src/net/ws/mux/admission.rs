//! How many streams of one WebSocket may begin, before and after its client is authenticated.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use crate::limits::MAX_STRANGER_STREAMS;

/// Admits the streams of one WebSocket.
///
/// Until the client is authenticated, the first stream counts with its WebSocket. Others need a permit that all strangers
/// share, and there are at most [`MAX_STRANGER_STREAMS`].
pub struct Admission {
    is_authenticated: AtomicBool,
    /// Something has changed: a stream that was refused may be admitted now.
    pub(super) changed: Notify,
    /// Streams of this WebSocket.
    own: Arc<Semaphore>,
    /// Streams of all strangers, other than the first of a WebSocket.
    strangers: Arc<Semaphore>,
}

/// The permit of one stream, to be dropped when its handshake is over.
pub struct Admitted {
    is_authenticated: bool,
    _own: Option<OwnedSemaphorePermit>,
    _stranger: Option<OwnedSemaphorePermit>,
}

impl Admission {
    /// For a WebSocket of a client that is not authenticated yet.
    #[must_use]
    pub fn new(strangers: Arc<Semaphore>) -> Self {
        Self {
            is_authenticated: AtomicBool::new(false),
            changed: Notify::new(),
            own: Arc::new(Semaphore::new(MAX_STRANGER_STREAMS)),
            strangers,
        }
    }

    /// Notes that one stream has shown that its client knows the key.
    pub fn authenticate(&self) {
        if !self.is_authenticated.swap(true, Relaxed) {
            self.changed.notify_one();
        }
    }

    pub(super) fn is_authenticated(&self) -> bool {
        self.is_authenticated.load(Relaxed)
    }

    /// Admits a stream that has sent its first bytes; `None`: it has to wait.
    pub(super) fn admit(&self) -> Option<Admitted> {
        if self.is_authenticated() {
            return Some(Admitted {
                is_authenticated: true,
                _own: None,
                _stranger: None,
            });
        }
        let is_first = self.own.available_permits() == MAX_STRANGER_STREAMS;
        let own = Arc::clone(&self.own).try_acquire_owned().ok()?;
        let stranger = match is_first {
            true => None,
            false => Some(Arc::clone(&self.strangers).try_acquire_owned().ok()?),
        };
        Some(Admitted {
            is_authenticated: false,
            _own: Some(own),
            _stranger: stranger,
        })
    }
}

impl Admitted {
    /// Whether its client was authenticated before.
    #[must_use]
    pub const fn is_authenticated(&self) -> bool {
        self.is_authenticated
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_streams_are_admitted_until_one_is_authenticated() {
        let admission = Admission::new(Arc::new(Semaphore::new(100)));
        let mut few: Vec<_> = (0..MAX_STRANGER_STREAMS)
            .filter_map(|_| admission.admit())
            .collect();
        assert_eq!(few.len(), MAX_STRANGER_STREAMS);
        assert!(admission.admit().is_none());
        few.pop();
        assert!(admission.admit().is_some_and(|one| !one.is_authenticated()));
        admission.authenticate();
        assert!(admission.admit().is_some_and(|one| one.is_authenticated()));
    }

    #[test]
    fn first_stream_is_admitted_whatever_other_strangers_have() {
        let all = Arc::new(Semaphore::new(1));
        let [one, other] = [(); 2].map(|()| Admission::new(Arc::clone(&all)));
        let held = (one.admit(), one.admit());
        assert!(held.1.is_some());
        let first = other.admit();
        assert!(first.is_some() && other.admit().is_none());
        drop(held);
        assert!(other.admit().is_some());
    }
}
