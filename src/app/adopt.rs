//! Goes on with flows that another process has begun.

use std::sync::Arc;

use tokio::sync::{Semaphore, mpsc, watch};

use super::worker::{Hands, Phase, Shared};
use crate::relay::Counters;
use crate::relay::tcp::{moving::Moved, resume};

/// Flows that have come and wait for a worker.
pub(super) const WAITING: usize = 64;

/// Gives such flows to the workers in turn.
pub(super) struct Adopter {
    hands: Hands,
    phase: watch::Receiver<Phase>,
    drained: mpsc::WeakSender<()>,
    counters: Arc<Counters>,
    /// The places of connections of users.
    connections: Arc<Semaphore>,
}

impl Adopter {
    pub(super) const fn new(
        hands: Hands,
        phase: watch::Receiver<Phase>,
        drained: mpsc::WeakSender<()>,
        counters: Arc<Counters>,
        connections: Arc<Semaphore>,
    ) -> Self {
        Self {
            hands,
            phase,
            drained,
            counters,
            connections,
        }
    }

    /// Has a worker go on with a flow. Where the process is ending, the flow ends.
    pub(super) async fn adopt(&mut self, moved: Box<Moved>) {
        let Some(drained) = self.drained.upgrade() else {
            return;
        };
        let shared = Shared::of_flow(self.phase.clone(), drained);
        let counters = Arc::clone(&self.counters);
        // What was open goes on even if there are fewer places now. New connections wait until there are some again.
        let place = Arc::clone(&self.connections).try_acquire_owned().ok();
        let job = Box::new(move |mut shared: Shared| {
            let flow = async move {
                let _place = place;
                tokio::select! {
                    () = shared.reached(Phase::Stop) => {}
                    () = resume(moved, &counters) => {}
                }
            };
            Box::pin(flow) as _
        });
        self.hands.give(job, shared).await;
    }

    /// Goes on with all that come.
    pub(super) async fn adopt_all(mut self, mut flows: mpsc::Receiver<Box<Moved>>) {
        while let Some(moved) = flows.recv().await {
            self.adopt(moved).await;
        }
    }
}
