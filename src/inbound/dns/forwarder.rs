//! Answers queries from the cache, or by one of the name servers.

use std::sync::{Arc, Mutex};

use tokio::time::Instant;

use super::asker::{Asker, Back, encode};
use super::cache::Cache;
use super::pending::Pending;
use super::upstream::Upstream;
use crate::limits::{MAX_ANSWER_CACHE, MAX_QUERIES, MAX_QUERY};
use crate::net::sync::lock;
use crate::net::tasks::Tasks;
use crate::wire::dns::{Answer, Query, Refusal};

/// Which name server is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// The one that is asked directly.
    Local,
    /// The one that is asked through the server.
    Remote,
}

/// Chooses the way of a name, which is in lower case and without a final dot.
pub type Decide = Box<dyn Fn(&str) -> Route + Send + Sync>;

/// What a forwarder needs.
pub struct Settings {
    /// The name server that is asked directly.
    pub local: Option<Upstream>,
    /// The name server that is asked through the server. Without one of the two, the other is asked for all names.
    pub remote: Option<Upstream>,
    /// Chooses between them.
    pub decide: Decide,
    /// The most answers in the cache.
    pub cache: usize,
}

/// Answers queries; shared by all sockets of one `dns` local.
pub(super) struct Forwarder {
    shared: Arc<Shared>,
    /// They ask name servers.
    tasks: Tasks,
}

struct Shared {
    settings: Settings,
    cache: Mutex<Cache>,
    pending: Mutex<Pending>,
}

/// Memory that is used again for each query.
#[derive(Default)]
pub(super) struct Scratch {
    key: Vec<u8>,
    /// The answer.
    pub(super) out: Vec<u8>,
}

impl Forwarder {
    pub(super) fn new(settings: Settings) -> Self {
        let cache = Cache::new(settings.cache, MAX_ANSWER_CACHE);
        Self {
            shared: Arc::new(Shared {
                settings,
                cache: Mutex::new(cache),
                pending: Mutex::new(Pending::new()),
            }),
            tasks: Tasks::default(),
        }
    }

    /// Answers `message` into `scratch` and returns `true`, or keeps `back` for an answer that comes later, or never.
    pub(super) fn ask(&self, message: &[u8], back: Back, scratch: &mut Scratch) -> bool {
        let Scratch { key, out } = scratch;
        out.clear();
        let query = match Query::parse(message) {
            Ok(_) if message.len() > MAX_QUERY => Err(Refusal::Malformed),
            parsed => parsed,
        };
        let query = match query {
            Ok(query) => query,
            Err(refusal) => {
                out.extend(refusal.encode(message).unwrap_or_default());
                return !out.is_empty();
            }
        };
        query.key(key);
        let is_private = query.is_private();
        if is_private {
            // Nobody else asks the same, and nothing is kept.
            key.extend(rand::random::<[u8; 16]>());
        } else if self.shared.recall(key, &query, &back, out) {
            return true;
        }
        let joined = {
            let mut pending = lock(&self.shared.pending);
            // It may have been answered meanwhile.
            if !is_private && self.shared.recall(key, &query, &back, out) {
                return true;
            }
            pending.join(key, Asker::new(back, &query))
        };
        joined.dropped.into_iter().for_each(Asker::fail);
        if let Some(id) = joined.begin {
            self.begin(id, key, message, is_private);
        }
        false
    }

    fn begin(&self, id: u64, key: &[u8], message: &[u8], is_private: bool) {
        let asking = Asking {
            shared: Arc::clone(&self.shared),
            key: key.into(),
            id,
            message: message.into(),
            is_private,
        };
        // Tasks that were dropped take a moment to end.
        let task = self.tasks.try_spawn(2 * MAX_QUERIES, asking.run());
        if let Some(task) = task {
            lock(&self.shared.pending).attach(key, id, task);
        }
    }
}

impl Shared {
    /// Answers from the cache.
    fn recall(&self, key: &[u8], query: &Query<'_>, back: &Back, out: &mut Vec<u8>) -> bool {
        let found = lock(&self.cache).get(key, Instant::now());
        let Some((answer, age)) = found else {
            return false;
        };
        encode(&answer, query, age, back.limit(query), out);
        true
    }

    /// Asks the name server that the rules choose.
    async fn ask(&self, query: &Query<'_>) -> Answer {
        let name = query.question.text();
        let Settings { local, remote, .. } = &self.settings;
        let (first, other) = match (self.settings.decide)(&name) {
            Route::Local => (local, remote),
            Route::Remote => (remote, local),
        };
        let answer = match first.as_ref().or(other.as_ref()) {
            Some(upstream) => upstream.ask(query).await,
            None => None,
        };
        let answered = answer.is_some();
        tracing::debug!(
            name,
            kind = query.question.kind,
            answered,
            "asked a name server"
        );
        answer.unwrap_or_else(|| Answer::failure(query))
    }
}

/// A query under way. Dropping it, by abort or panic too, tells those who wait that there is no answer.
struct Asking {
    shared: Arc<Shared>,
    key: Box<[u8]>,
    id: u64,
    message: Box<[u8]>,
    is_private: bool,
}

impl Asking {
    async fn run(self) {
        let Ok(query) = Query::parse(&self.message) else {
            return;
        };
        let answer = Arc::new(self.shared.ask(&query).await);
        if !self.is_private {
            lock(&self.shared.cache).store(&self.key, &answer, Instant::now());
        }
        let askers = lock(&self.shared.pending).finish(&self.key, self.id);
        askers.into_iter().for_each(|asker| asker.answer(&answer));
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        let askers = lock(&self.shared.pending).finish(&self.key, self.id);
        askers.into_iter().for_each(Asker::fail);
    }
}
