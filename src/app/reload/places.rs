//! Limits that change while they are in use.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use tokio::sync::Semaphore;
use tokio::task::{AbortHandle, JoinSet};

use crate::app::fd_limit::Capacity;
use crate::app::services::Shares;

/// The places of connections of users. Fewer places hold at once for new connections; open ones go on.
pub(super) struct Places {
    connections: Arc<Semaphore>,
    total: Arc<AtomicUsize>,
    /// Takes away places that are in use, as they become free.
    shrinking: JoinSet<()>,
    pending: Option<AbortHandle>,
}

impl Places {
    pub(super) fn new(shares: &Shares, capacity: Capacity) -> Self {
        Self {
            connections: Arc::clone(&shares.connections),
            total: Arc::new(AtomicUsize::new(bounded(capacity.connections))),
            shrinking: JoinSet::new(),
            pending: None,
        }
    }

    /// Gives every kind of connection as many places as `capacity` says.
    pub(super) fn resize(&mut self, shares: &Shares, capacity: Capacity) {
        shares.handshakes.set_limit(capacity.handshakes);
        shares.visitors.set_limit(capacity.visitors);
        shares
            .visitors_handshakes
            .set_limit(capacity.visitors_handshakes);
        // What it has not got yet, it gives back.
        if let Some(pending) = self.pending.take() {
            pending.abort();
        }
        while self.shrinking.try_join_next().is_some() {}
        let (total, wanted) = (self.total.load(Relaxed), bounded(capacity.connections));
        if wanted > total {
            self.connections.add_permits(wanted - total);
            self.total.store(wanted, Relaxed);
        } else if wanted < total {
            let free = self.connections.forget_permits(total - wanted);
            let left = total - free;
            self.total.store(left, Relaxed);
            self.take_away(left - wanted);
        }
    }

    fn take_away(&mut self, places: usize) {
        let Some(count) = u32::try_from(places).ok().filter(|count| *count > 0) else {
            return;
        };
        let (connections, total) = (Arc::clone(&self.connections), Arc::clone(&self.total));
        let task = self.shrinking.spawn(async move {
            if let Ok(places_left) = connections.acquire_many_owned(count).await {
                places_left.forget();
                total.fetch_sub(places, Relaxed);
            }
        });
        self.pending = Some(task);
    }
}

fn bounded(places: usize) -> usize {
    places.min(Semaphore::MAX_PERMITS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(count: usize) -> Places {
        Places {
            connections: Arc::new(Semaphore::new(count)),
            total: Arc::new(AtomicUsize::new(count)),
            shrinking: JoinSet::new(),
            pending: None,
        }
    }

    #[tokio::test]
    async fn places_in_use_are_taken_away_when_they_become_free() {
        let mut places = places(4);
        let held = Arc::clone(&places.connections).acquire_many_owned(3).await;
        let free = places.connections.forget_permits(2);
        places.total.fetch_sub(free, Relaxed);
        places.take_away(2 - free);
        tokio::task::yield_now().await;
        assert_eq!(places.total.load(Relaxed), 3, "one was free");
        drop(held);
        tokio::task::yield_now().await;
        assert_eq!(places.total.load(Relaxed), 2);
        assert_eq!(places.connections.available_permits(), 2);
    }
}
