//! Counts what is alive, where a table alone does not: what has left it still has its socket until its task has ended.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// At most so many of a kind are alive.
#[derive(Clone, Debug)]
pub struct Limit {
    most: usize,
    alive: Arc<AtomicUsize>,
}

/// What is counted as long as this is kept.
#[derive(Debug)]
pub struct Alive {
    of: Arc<AtomicUsize>,
    count: usize,
}

impl Limit {
    /// At most `most`.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self {
            most,
            alive: Arc::default(),
        }
    }

    /// So many more; `None`: there would be more than there may be.
    #[must_use]
    pub fn take(&self, count: usize) -> Option<Alive> {
        let counted = self.alive.fetch_update(Relaxed, Relaxed, |alive| {
            alive.checked_add(count).filter(|sum| *sum <= self.most)
        });
        counted.ok().map(|_| Alive {
            of: Arc::clone(&self.alive),
            count,
        })
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.alive.load(Relaxed)
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.of.fetch_sub(self.count, Relaxed);
    }
}
