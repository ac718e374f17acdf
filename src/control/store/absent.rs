//! A build without Redis: its config refuses a store.

use std::io;
use std::sync::Arc;

use super::replica::Replica;
use crate::relay::Counters;
use crate::relay::replay::Answerer;

/// There is none.
pub struct Store;

impl Store {
    /// Refuses.
    ///
    /// # Errors
    /// Always.
    pub fn start(_: String, _: Arc<Replica>, _: Arc<Counters>, _: Answerer) -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Does nothing.
    pub const fn finish(self) {}
}
