//! All associations of one listening address.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};

use lru::LruCache;

use super::association::Association;
use super::association::Key;
use super::sides::ClientKey;
use crate::net::sync::lock;

/// Sockets that a table of `capacity` associations may have open. One that is evicted has its socket until its task, perhaps on
/// another worker, has ended; while very many are, new ones wait.
#[must_use]
pub const fn with_ending(capacity: usize) -> usize {
    capacity.saturating_add(capacity / 4).saturating_add(ENDING)
}

/// The largest capacity for which so many sockets are enough.
#[must_use]
pub const fn capacity_for(sockets: usize) -> usize {
    let few = sockets.saturating_sub(ENDING);
    let capacity = few / 5 * 4 + few % 5;
    if with_ending(capacity) > sockets && capacity > 0 {
        return capacity - 1;
    }
    capacity
}

/// See [`with_ending`].
const ENDING: usize = 8;

/// Associations by their clients; all workers share it. It holds at most its capacity.
pub(super) struct AssociationTable<S>(Mutex<LruCache<Key, Arc<Association<S>>>>);

impl<S: Default> AssociationTable<S> {
    pub(super) fn new(capacity: NonZeroUsize) -> Self {
        Self(Mutex::new(LruCache::sparse(capacity)))
    }

    /// The association of a client, which counts as used now.
    pub(super) fn find(&self, key: Key) -> Option<Arc<Association<S>>> {
        lock(&self.0)
            .get(&key)
            .filter(|found| !found.is_closed())
            .cloned()
    }

    /// Adds a new association; returns whether it did, since another worker may have added one for the same client.
    pub(super) fn insert(&self, new: &Arc<Association<S>>) -> bool {
        let mut table = lock(&self.0);
        let found = table.peek(&new.key);
        if found.is_some_and(|found| !found.is_closed()) {
            return false;
        }
        if found.is_none() && table.len() >= table.cap().get() {
            evict_least_recently_used(&mut table);
        }
        if let Some(replaced) = table.put(new.key, Arc::clone(new)) {
            replaced.retire();
        }
        true
    }

    /// Ends the least recently used association of those that began in a connection, to make room for a new one there.
    pub(super) fn evict_of(&self, connection: u64) {
        let mut table = lock(&self.0);
        let mut oldest_first = table.iter().rev();
        let found = oldest_first.find(|(_, one)| one.connection == Some(connection));
        let key = found.map(|(key, _)| *key);
        if let Some(evicted) = key.and_then(|key| table.pop(&key)) {
            evicted.retire();
            evicted.close();
        }
    }

    /// Removes `association`, unless the client has another one by now.
    pub(super) fn remove(&self, association: &Arc<Association<S>>) {
        let mut table = lock(&self.0);
        let found = table.peek(&association.key);
        if found.is_some_and(|found| Arc::ptr_eq(found, association)) {
            table.pop(&association.key);
            association.retire();
        }
    }

    /// Ends the associations of a client with its `upstreams`.
    pub(super) fn close(&self, client: ClientKey, upstreams: u16) {
        let mut table = lock(&self.0);
        for upstream in 0..upstreams {
            if let Some(association) = table.pop(&Key { client, upstream }) {
                association.retire();
                association.close();
            }
        }
    }
}

/// Ends the association whose client has been silent for the longest time, to make room for a new one.
fn evict_least_recently_used<S: Default>(table: &mut LruCache<Key, Arc<Association<S>>>) {
    if let Some((_, evicted)) = table.pop_lru() {
        evicted.retire();
        evicted.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capacity_is_the_largest_for_its_sockets() {
        for sockets in ENDING..2000 {
            let capacity = capacity_for(sockets);
            assert!(with_ending(capacity) <= sockets, "{sockets}");
            assert!(with_ending(capacity + 1) > sockets, "{sockets}");
        }
        assert_eq!((capacity_for(0), capacity_for(ENDING)), (0, 0));
    }
}
