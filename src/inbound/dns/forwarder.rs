//! Answers queries from the cache, or by one of the name servers.

use std::net::IpAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use tokio::time::Instant;

use super::asker::{Asker, Back, encode, parse};
use super::cache::Cache;
use super::pending::Pending;
use super::upstream::Upstream;
use crate::limits::{MAX_ANSWER_CACHE, MAX_QUERIES};
use crate::net::sync::lock;
use crate::net::tasks::Tasks;
use crate::wire::dns::{Answer, Denial, Query, TYPE_A, TYPE_AAAA};

/// Which name server is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// The one that is asked directly.
    Local,
    /// The one that is asked through the server.
    Remote,
    /// None: the name is refused.
    Blocked,
}

/// Chooses the ways of names.
pub trait Decide: Send + Sync {
    /// The way of a name, which is in lower case and without a final dot; `None`: its addresses decide. `addresses` are
    /// those that the direct name server gives it.
    fn route(&self, name: &str, addresses: Option<&[IpAddr]>) -> Option<Route>;

    /// Changes when the ways of names may have changed: then no earlier answer is used any more.
    fn version(&self) -> u64 {
        0
    }
}

/// What a forwarder needs.
pub struct Settings {
    /// The name server that is asked directly.
    pub local: Option<Upstream>,
    /// The name server that is asked through the server. Without one of the two, the other is asked for all names.
    pub remote: Option<Upstream>,
    /// Chooses between them.
    pub decide: Box<dyn Decide>,
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
    /// The version of the ways that the answers in the cache are of.
    version: AtomicU64,
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
                version: AtomicU64::new(settings.decide.version()),
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
        let Some(query) = parse(message, out) else {
            return !out.is_empty();
        };
        self.shared.forget_if_changed();
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

    /// Forgets all answers if the ways of names have changed.
    fn forget_if_changed(&self) {
        let version = self.settings.decide.version();
        // Nearly always it is the same, and reading costs the other workers nothing.
        if self.version.load(Relaxed) != version {
            lock(&self.cache).clear();
            self.version.store(version, Relaxed);
        }
    }

    /// Asks the name server that the rules choose.
    async fn ask(&self, query: &Query<'_>) -> Answer {
        let name = query.question.text();
        let asks_addresses = matches!(query.question.kind, TYPE_A | TYPE_AAAA);
        let (route, answer) = match self.settings.decide.route(&name, None) {
            Some(route) => (route, self.ask_by(route, query).await),
            None if asks_addresses => self.ask_both(&name, query).await,
            // Other records have no addresses that could decide, and what is not known to go direct does not.
            None => (Route::Remote, self.ask_by(Route::Remote, query).await),
        };
        let (kind, answered) = (query.question.kind, answer.is_some());
        tracing::debug!(name, kind, ?route, answered, "asked for a name");
        answer.unwrap_or_else(|| Answer::failure(query))
    }

    /// Asks one name server; without it, the other one.
    async fn ask_by(&self, route: Route, query: &Query<'_>) -> Option<Answer> {
        let Settings { local, remote, .. } = &self.settings;
        let (first, other) = match route {
            Route::Local => (local, remote),
            Route::Remote => (remote, local),
            Route::Blocked => return Some(Answer::denied(query, Denial::Blocked)),
        };
        first.as_ref().or(other.as_ref())?.ask(query).await
    }

    /// Asks both name servers at once. The addresses from the direct one decide whose answer is taken.
    async fn ask_both(&self, name: &str, query: &Query<'_>) -> (Route, Option<Answer>) {
        let Settings { local, remote, .. } = &self.settings;
        let asked = local.as_ref().zip(remote.as_ref());
        let mut remote = pin!(self.ask_by(Route::Remote, query));
        let mut came = None;
        let answer = match asked {
            None => remote.as_mut().await,
            Some((local, _)) => {
                let mut local = pin!(local.ask(query));
                loop {
                    tokio::select! {
                        answer = &mut local => break answer,
                        answer = &mut remote, if came.is_none() => came = Some(answer),
                    }
                }
            }
        };
        let addresses: Vec<IpAddr> = answer.iter().flat_map(Answer::addresses).collect();
        let route = self.settings.decide.route(name, Some(&addresses));
        let route = route.unwrap_or(Route::Remote);
        let answer = match (route, came) {
            (Route::Blocked, _) => self.ask_by(route, query).await,
            (Route::Remote, Some(came)) => came,
            (Route::Remote, None) if asked.is_some() => remote.await,
            _ => answer,
        };
        (route, answer)
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
        let version = self.shared.settings.decide.version();
        let answer = Arc::new(self.shared.ask(&query).await);
        let is_valid = self.shared.settings.decide.version() == version;
        if !self.is_private && is_valid {
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
