//! Connections that have not said yet what they want.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use tokio::task::AbortHandle;

use crate::net::sync::lock;

/// The connections in their handshake, of all workers. When there are too many, the one that has taken the longest
/// makes room: strangers who hold sockets open do not keep anybody out.
pub(super) struct Handshakes {
    limit: usize,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    next: u64,
    running: BTreeMap<u64, Running>,
}

struct Running {
    listener: Listener,
    task: Option<AbortHandle>,
}

/// Tells the connections of one listener from those of others.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Listener(u64);

/// One connection's place; given back when dropped.
pub(super) struct Place {
    handshakes: Arc<Handshakes>,
    number: u64,
}

impl Handshakes {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit: limit.max(1),
            table: Mutex::default(),
        }
    }

    fn with<T>(&self, change: impl FnOnce(&mut Table) -> T) -> T {
        change(&mut lock(&self.table))
    }

    /// For a new listener.
    pub(super) fn listener(&self) -> Listener {
        Listener(self.with(Table::number))
    }

    pub(super) fn begin(self: &Arc<Self>, listener: Listener) -> Place {
        let number = self.with(|table| {
            while table.running.len() >= self.limit {
                if let Some((_, oldest)) = table.running.pop_first() {
                    oldest.end();
                }
            }
            let number = table.number();
            let task = None;
            table.running.insert(number, Running { listener, task });
            number
        });
        Place {
            handshakes: Arc::clone(self),
            number,
        }
    }

    /// Tells what ends the connection that was given place `number`. To be told before the connection runs, so that a
    /// place that is gone has gone to another: then the connection is ended now, since nobody could end it when it had to
    /// make room.
    pub(super) fn attach(&self, number: u64, task: AbortHandle) {
        self.with(|table| match table.running.get_mut(&number) {
            Some(running) => running.task = Some(task),
            None => task.abort(),
        });
    }

    /// Ends those of one listener.
    pub(super) fn end_of(&self, listener: Listener) {
        self.with(|table| {
            let of = table
                .running
                .extract_if(.., |_, running| running.listener == listener);
            of.for_each(|(_, running)| running.end());
        });
    }
}

impl Table {
    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }
}

impl Running {
    fn end(self) {
        if let Some(task) = self.task {
            task.abort();
        }
    }
}

impl Place {
    pub(super) const fn number(&self) -> u64 {
        self.number
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.handshakes
            .with(|table| table.running.remove(&self.number));
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
            let place = handshakes.begin(listener);
            let number = place.number();
            let task = tokio::spawn(async move {
                let _place = place;
                std::future::pending::<()>().await;
            });
            handshakes.attach(number, task.abort_handle());
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
        handshakes.attach(early.number(), task.abort_handle());
        assert!(task.await.unwrap_err().is_cancelled());
    }

    #[tokio::test]
    async fn listener_that_ends_leaves_the_handshakes_of_others() {
        let handshakes = Arc::new(Handshakes::new(2));
        let [one, other] = [(); 2].map(|()| {
            let listener = handshakes.listener();
            let place = handshakes.begin(listener);
            let task = tokio::spawn(std::future::pending::<()>());
            handshakes.attach(place.number(), task.abort_handle());
            (listener, place, task)
        });
        handshakes.end_of(one.0);
        assert!(one.2.await.unwrap_err().is_cancelled());
        tokio::task::yield_now().await;
        assert!(!other.2.is_finished());
        drop(one.1);
        handshakes.end_of(other.0);
        assert!(other.2.await.unwrap_err().is_cancelled());
    }

    #[test]
    fn ended_handshake_gives_its_place_back() {
        let handshakes = Arc::new(Handshakes::new(1));
        let listener = handshakes.listener();
        drop(handshakes.begin(listener));
        assert!(handshakes.with(|table| table.running.is_empty()));
    }
}
