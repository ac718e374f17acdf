//! Queries that wait for a name server, and who waits for each.

use std::collections::HashSet;
use std::net::SocketAddr;

use lru::LruCache;
use tokio::task::AbortHandle;

use super::asker::Asker;
use crate::limits::{MAX_ASKERS, MAX_QUERIES};

/// The queries under way, by what they ask.
pub(super) struct Pending {
    /// The oldest is the least recently used: nothing here counts as use.
    queries: LruCache<Box<[u8]>, Waiting>,
    /// Who waits for them all.
    askers: usize,
    next: u64,
}

struct Waiting {
    id: u64,
    askers: Vec<Asker>,
    /// The addresses and ids of those who asked by UDP, and may ask again.
    origins: HashSet<(SocketAddr, u16)>,
    task: Option<AbortHandle>,
}

/// What became of a query.
pub(super) struct Joined {
    /// Set if it is to be sent; tells it from later ones that ask the same.
    pub(super) begin: Option<u64>,
    /// Who waited for queries that were dropped to make room.
    pub(super) dropped: Vec<Asker>,
}

impl Pending {
    pub(super) fn new() -> Self {
        Self {
            queries: LruCache::unbounded(),
            askers: 0,
            next: 0,
        }
    }

    /// Lets `asker` wait for the query `key`. Where there is no room, the oldest queries are dropped.
    pub(super) fn join(&mut self, key: &[u8], asker: Asker) -> Joined {
        let mut dropped = Vec::new();
        let origin = asker.origin();
        let known = self.queries.peek(key);
        if known.is_some_and(|query| origin.is_some_and(|from| query.origins.contains(&from))) {
            let begin = None;
            return Joined { begin, dropped };
        }
        while self.askers >= MAX_ASKERS {
            self.drop_oldest(&mut dropped);
        }
        self.askers += 1;
        if let Some(waiting) = self.queries.peek_mut(key) {
            waiting.origins.extend(origin);
            waiting.askers.push(asker);
            let begin = None;
            return Joined { begin, dropped };
        }
        if self.queries.len() >= MAX_QUERIES {
            self.drop_oldest(&mut dropped);
        }
        let id = self.next;
        self.next += 1;
        let waiting = Waiting {
            id,
            askers: vec![asker],
            origins: origin.into_iter().collect(),
            task: None,
        };
        self.queries.put(key.into(), waiting);
        let begin = Some(id);
        Joined { begin, dropped }
    }

    fn drop_oldest(&mut self, dropped: &mut Vec<Asker>) {
        let Some((_, oldest)) = self.queries.pop_lru() else {
            self.askers = 0;
            return;
        };
        if let Some(task) = oldest.task {
            task.abort();
        }
        self.askers = self.askers.saturating_sub(oldest.askers.len());
        dropped.extend(oldest.askers);
    }

    /// Sets the task that ends when query `id` is dropped; if it has been, it ends now.
    pub(super) fn attach(&mut self, key: &[u8], id: u64, task: AbortHandle) {
        match self.queries.peek_mut(key).filter(|query| query.id == id) {
            Some(query) => query.task = Some(task),
            None => task.abort(),
        }
    }

    /// Ends query `id`; returns who waits for it.
    pub(super) fn finish(&mut self, key: &[u8], id: u64) -> Vec<Asker> {
        let is_there = self.queries.peek(key).is_some_and(|query| query.id == id);
        let ended = is_there.then(|| self.queries.pop(key)).flatten();
        let askers = ended.map(|query| query.askers).unwrap_or_default();
        self.askers = self.askers.saturating_sub(askers.len());
        askers
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::sync::Arc;

    use super::super::asker::Back;
    use super::*;
    use crate::net::udp::{Path, Socket};
    use crate::wire::dns::Query;

    fn asker(socket: &Arc<Socket>, port: u16) -> Asker {
        let query = [0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, b'x', 0, 0, 1, 0, 1];
        let path = Path::to(([127, 0, 0, 1], port).into());
        let socket = Arc::clone(socket);
        Asker::new(
            Back::Datagram { socket, path },
            &Query::parse(&query).unwrap(),
        )
    }

    #[tokio::test]
    async fn flood_drops_the_oldest() {
        let socket = Arc::new(Socket::pair().0);
        let mut pending = Pending::new();
        let mut dropped = 0;
        for number in 0..3 * MAX_QUERIES {
            let joined = pending.join(&number.to_be_bytes(), asker(&socket, 1));
            assert_eq!(joined.begin, Some(u64::try_from(number).unwrap()));
            dropped += joined.dropped.len();
            assert!(pending.queries.len() <= MAX_QUERIES);
        }
        assert_eq!(dropped, 2 * MAX_QUERIES);
        assert!(pending.finish(&0_usize.to_be_bytes(), 0).is_empty());
        let last = 3 * MAX_QUERIES - 1;
        assert!(pending.finish(&last.to_be_bytes(), 0).is_empty());
        let id = u64::try_from(last).unwrap();
        assert_eq!(pending.finish(&last.to_be_bytes(), id).len(), 1);
    }

    #[tokio::test]
    async fn flood_of_clients_with_one_question_is_bounded() {
        let socket = Arc::new(Socket::pair().0);
        let mut pending = Pending::new();
        let mut dropped = 0;
        for port in 1..10_000 {
            for repeated in [false, true] {
                let joined = pending.join(b"x", asker(&socket, port));
                assert!(!repeated || joined.dropped.is_empty());
                dropped += joined.dropped.len();
            }
        }
        let most = 9999 / MAX_ASKERS;
        assert_eq!(dropped, most * MAX_ASKERS);
        assert_eq!(pending.askers, 9999 % MAX_ASKERS);
        let last = u64::try_from(most).unwrap();
        assert_eq!(pending.finish(b"x", last).len(), 9999 % MAX_ASKERS);
        assert_eq!(pending.askers, 0);
    }
}
