//! Background tasks that end with their owner.

use std::future::{Future, poll_fn};
use std::sync::{Mutex, MutexGuard};
use std::task::{Context, Poll};

use tokio::runtime::Handle;
use tokio::task::{AbortHandle, JoinSet};

use super::sync::lock;

/// A set of background tasks. Dropping it aborts them. A task that has ended keeps its memory until it is removed: that
/// happens when a new one is spawned, in [`Tasks::reap`] and in [`Tasks::poll_ended`], and is never put off because the caller
/// has done much (tokio's budget puts off `JoinSet::join_next`).
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

    /// Whether none is running.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pruned().is_empty()
    }

    /// Removes those that have ended. Ready: none is left; otherwise the next one that ends wakes the caller.
    pub fn poll_ended(&self, cx: &mut Context<'_>) -> Poll<()> {
        match self.pruned().poll_join_next(cx) {
            Poll::Ready(None) => Poll::Ready(()),
            Poll::Ready(Some(_)) => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Poll::Pending => Poll::Pending,
        }
    }

    /// Removes each that ends, for as long as it is polled.
    pub async fn reap(&self) {
        poll_fn(|cx| {
            let _: Poll<()> = self.poll_ended(cx);
            Poll::Pending
        })
        .await
    }

    /// Waits until all have ended.
    pub async fn ended(&self) {
        poll_fn(|cx| self.poll_ended(cx)).await;
    }

    fn pruned(&self) -> MutexGuard<'_, JoinSet<()>> {
        let mut tasks = lock(&self.0);
        while tasks.try_join_next().is_some() {}
        tasks
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use tokio::task::coop::consume_budget;

    use super::*;

    #[tokio::test]
    async fn ended_tasks_are_removed_by_a_caller_that_has_used_up_its_budget() {
        let tasks = Tasks::default();
        for _ in 0..1000 {
            tasks.spawn(async {});
        }
        for _ in 0..100 {
            // Some of them run each time.
            tokio::task::yield_now().await;
        }
        poll_fn(|cx| {
            while pin!(consume_budget()).poll(cx).is_ready() {}
            let _: Poll<()> = tasks.poll_ended(cx);
            assert_eq!(lock(&tasks.0).len(), 0);
            Poll::Ready(())
        })
        .await;
        tasks.spawn(tokio::task::yield_now());
        assert!(!tasks.is_empty());
        tasks.ended().await;
        assert!(tasks.is_empty());
    }
}
