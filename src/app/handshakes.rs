//! Limits the connections whose request is not complete yet.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use tokio::sync::Semaphore;
use tokio::task::AbortHandle;

use crate::net::sync::lock;

/// The connections in their handshake, of all workers. At the limit, the oldest one is ended to make room: strangers who
/// hold connections open do not keep others out.
pub(super) struct Handshakes {
    limit: AtomicUsize,
    /// As many places again, for streams within connections in their handshake.
    streams: Arc<Semaphore>,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    next: u64,
    running: BTreeMap<u64, Running>,
}

struct Running {
    listener: ListenerId,
    task: Option<AbortHandle>,
}

/// Identifies a listener among those of all workers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct ListenerId(u64);

/// One connection's permit to be in its handshake; drop it when the handshake is over.
pub(super) struct Permit {
    handshakes: Arc<Handshakes>,
    id: u64,
}

impl Handshakes {
    pub(super) fn new(limit: usize) -> Self {
        let limit = limit.clamp(1, Semaphore::MAX_PERMITS);
        Self {
            limit: AtomicUsize::new(limit),
            streams: Arc::new(Semaphore::new(limit)),
            table: Mutex::default(),
        }
    }

    /// Sets another limit. Where more are running, the oldest end when the next one comes. The places of streams stay.
    pub(super) fn set_limit(&self, limit: usize) {
        self.limit.store(limit.max(1), Relaxed);
    }

    /// The places of streams, other than the first, within connections that are in their handshake.
    pub(super) fn streams(&self) -> Arc<Semaphore> {
        Arc::clone(&self.streams)
    }

    fn with<T>(&self, change: impl FnOnce(&mut Table) -> T) -> T {
        change(&mut lock(&self.table))
    }

    /// The id of a new listener.
    pub(super) fn listener(&self) -> ListenerId {
        ListenerId(self.with(Table::next_id))
    }

    /// Admits a connection; at the limit, it ends the oldest one.
    pub(super) fn begin(self: &Arc<Self>, listener: ListenerId) -> Permit {
        let id = self.with(|table| {
            while table.running.len() >= self.limit.load(Relaxed) {
                if let Some((_, oldest)) = table.running.pop_first() {
                    oldest.abort();
                }
            }
            let id = table.next_id();
            let task = None;
            table.running.insert(id, Running { listener, task });
            id
        });
        Permit {
            handshakes: Arc::clone(self),
            id,
        }
    }

    /// Sets the task of the connection with permit `id`. Call it before the task runs: if the permit is gone by then, the
    /// connection was chosen to make room before it could be ended, and is ended now.
    pub(super) fn attach(&self, id: u64, task: AbortHandle) {
        self.with(|table| match table.running.get_mut(&id) {
            Some(running) => running.task = Some(task),
            None => task.abort(),
        });
    }

    /// Ends the connections of one listener.
    pub(super) fn abort_all(&self, listener: ListenerId) {
        self.with(|table| {
            let aborted = table
                .running
                .extract_if(.., |_, running| running.listener == listener);
            aborted.for_each(|(_, running)| running.abort());
        });
    }
}

impl Table {
    fn next_id(&mut self) -> u64 {
        self.next += 1;
        self.next
    }
}

impl Running {
    fn abort(self) {
        if let Some(task) = self.task {
            task.abort();
        }
    }
}

impl Permit {
    pub(super) const fn id(&self) -> u64 {
        self.id
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.handshakes.with(|table| table.running.remove(&self.id));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[tokio::test]
    async fn longest_handshake_makes_room() {
        let handshakes = Arc::new(Handshakes::new(2));
        let listener = handshakes.listener();
        let mut tasks = Vec::new();
        for _ in 0..3 {
            let permit = handshakes.begin(listener);
            let id = permit.id();
            let task = tokio::spawn(async move {
                let _permit = permit;
                std::future::pending::<()>().await;
            });
            handshakes.attach(id, task.abort_handle());
            tasks.push(task);
        }
        assert!(tasks.remove(0).await.unwrap_err().is_cancelled());
        assert!(tasks.iter().all(|task| !task.is_finished()));
    }

    #[tokio::test]
    async fn handshake_that_made_room_before_it_ran_is_ended() {
        let handshakes = Arc::new(Handshakes::new(1));
        let listener = handshakes.listener();
        let early = handshakes.begin(listener);
        let _next = handshakes.begin(listener);
        let task = tokio::spawn(std::future::pending::<()>());
        handshakes.attach(early.id(), task.abort_handle());
        assert!(task.await.unwrap_err().is_cancelled());
    }

    #[tokio::test]
    async fn listener_that_ends_leaves_the_handshakes_of_others() {
        let handshakes = Arc::new(Handshakes::new(2));
        let [one, other] = [(); 2].map(|()| {
            let listener = handshakes.listener();
            let permit = handshakes.begin(listener);
            let task = tokio::spawn(std::future::pending::<()>());
            handshakes.attach(permit.id(), task.abort_handle());
            (listener, permit, task)
        });
        handshakes.abort_all(one.0);
        assert!(one.2.await.unwrap_err().is_cancelled());
        tokio::task::yield_now().await;
        assert!(!other.2.is_finished());
        drop(one.1);
        handshakes.abort_all(other.0);
        assert!(other.2.await.unwrap_err().is_cancelled());
    }

    #[test]
    fn ended_handshake_gives_its_permit_back() {
        let handshakes = Arc::new(Handshakes::new(1));
        let listener = handshakes.listener();
        drop(handshakes.begin(listener));
        assert!(handshakes.with(|table| table.running.is_empty()));
    }
}
