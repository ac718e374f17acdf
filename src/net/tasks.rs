//! Background tasks that end with their owner.

use std::future::Future;
use std::sync::{Mutex, MutexGuard};

use tokio::runtime::Handle;
use tokio::task::{AbortHandle, JoinSet};

use super::sync::lock;

/// A set of background tasks. Dropping it aborts them; finished tasks are removed when a new one is spawned.
#[derive(Default)]
pub struct Tasks(Mutex<JoinSet<()>>);

impl Tasks {
    /// Spawns a task on the current runtime.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.pruned().spawn(task);
    }

    /// Spawns a task on the runtime of `handle`.
    pub fn spawn_on(&self, task: impl Future<Output = ()> + Send + 'static, handle: &Handle) {
        self.pruned().spawn_on(task, handle);
    }

    /// Spawns a task and returns what aborts it; `None`: `limit` tasks are running already.
    pub fn try_spawn(
        &self,
        limit: usize,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> Option<AbortHandle> {
        let mut tasks = self.pruned();
        (tasks.len() < limit).then(|| tasks.spawn(task))
    }

    /// Aborts all of them.
    pub fn abort(&self) {
        lock(&self.0).abort_all();
    }

    fn pruned(&self) -> MutexGuard<'_, JoinSet<()>> {
        let mut tasks = lock(&self.0);
        while tasks.try_join_next().is_some() {}
        tasks
    }
}
