//! What users have used, kept in a directory: it survives a restart and a crash.
//!
//! A thread of its own adds what has come since the last time to what is in the file, every few seconds: two processes that
//! take turns at an upgrade may both do so. Flows know nothing of it.

mod error;
mod rows;
mod store;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;

use super::store::{Replica, Text, tables};
use crate::limits::{MAX_KEEPING, SAVE_TIME};
use crate::relay::Counters;
use crate::relay::users::{Keeper, Kept, NotKept, Table, Totals, User};
pub use error::StateError;
use store::{Batch, Row, Store};

/// Keeps what users have used, for as long as the process runs.
pub struct State {
    stop: SyncSender<Option<Kept>>,
    thread: JoinHandle<()>,
}

impl State {
    /// Reads what is known of the users of `counters`, and keeps what comes. Call it before anybody is served.
    ///
    /// # Errors
    /// See [`StateError`].
    pub fn open(
        directory: &Path,
        counters: Arc<Counters>,
        replica: Option<Arc<Replica>>,
    ) -> Result<Self, StateError> {
        let store = Store::open(directory)?;
        let unusable = |error: rusqlite::Error| StateError::File {
            path: directory.to_owned(),
            reason: error.to_string(),
        };
        if let Some(replica) = &replica {
            let known =
                |servers: &str, name: &str, value: &str| replica.restore(servers, name, value);
            store.shared(known).map_err(unusable)?;
        }
        let mut keeping = Keeping {
            path: directory.to_owned(),
            store,
            counters,
            replica,
            known: HashMap::new(),
            versions: HashMap::new(),
            failed: false,
        };
        keeping.save().map_err(unusable)?;
        let (stop, asked) = sync_channel(MAX_KEEPING);
        keeping.counters.users.set_keeper(Keeper(stop.clone()));
        let thread = std::thread::Builder::new().name("state".to_owned());
        let thread = thread.spawn(move || keeping.run(&asked));
        let thread = thread.map_err(StateError::Thread)?;
        Ok(Self { stop, thread })
    }

    /// Keeps what has come until now. Call it when nobody is served any more.
    pub fn finish(self) {
        if self.stop.send(None).is_ok() {
            let _ended = self.thread.join();
        }
    }
}

/// A user by its server and its name, which is empty where it has none.
type Key = (Arc<str>, Arc<str>);

/// What the thread knows.
struct Keeping {
    path: PathBuf,
    store: Store,
    counters: Arc<Counters>,
    /// What is known of the store that servers share, if they do.
    replica: Option<Arc<Replica>>,
    /// What has been kept of each user.
    known: HashMap<Key, Known>,
    /// The version of the table of each server whose users have been kept.
    versions: HashMap<Arc<str>, u64>,
    /// The last time failed, which has been said.
    failed: bool,
}

struct Known {
    user: Weak<User>,
    totals: Totals,
}

/// A user whose totals have changed.
struct Changed {
    key: Key,
    user: Arc<User>,
    totals: Totals,
    /// What has come since the last time, and all that is kept now.
    new: Totals,
    kept: Totals,
}

impl Keeping {
    fn run(mut self, asked: &Receiver<Option<Kept>>) {
        loop {
            let mut waiting = Vec::new();
            match asked.recv_timeout(SAVE_TIME) {
                Ok(first) => {
                    waiting.push(first);
                    waiting.extend(asked.try_iter());
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            let saved = self.save();
            self.say(saved.as_ref().err());
            let answer = saved.map_err(|error| NotKept::Failed(error.to_string()));
            let stop = waiting.iter().any(Option::is_none);
            for kept in waiting.into_iter().flatten() {
                let _gone = kept.send(answer.clone());
            }
            if stop {
                return;
            }
        }
    }

    /// Says once that it fails, and that it works again.
    fn say(&mut self, error: Option<&rusqlite::Error>) {
        let path = self.path.display();
        match error {
            Some(error) if !self.failed => {
                tracing::warn!(%path, %error, "what users have used cannot be saved; it is counted in memory and tried again");
            }
            None if self.failed => {
                tracing::info!(%path, "what users have used is saved again");
            }
            _ => {}
        }
        self.failed = error.is_some();
    }

    /// The tables, each with a name of its own.
    fn tables(&self) -> Vec<(Arc<str>, Arc<Table>)> {
        let mut seen: HashMap<Arc<str>, usize> = HashMap::new();
        let tables = self.counters.users.tables().into_iter();
        let named = tables.map(|table| {
            let count = seen.entry(Arc::clone(&table.server)).or_default();
            *count += 1;
            let name = match *count {
                1 => Arc::clone(&table.server),
                more => format!("{}#{more}", table.server).into(),
            };
            (name, table)
        });
        named.collect()
    }

    /// Takes over the users of a server that were changed in an earlier process, or before it was away.
    fn restore(&self, server: &str, table: &Table) -> Result<(), rusqlite::Error> {
        let own = self.store.own(server)?;
        let count = own.changed.len() + own.removed.len();
        let left = table.restore(own);
        if count > 0 {
            tracing::info!(%server, changed = count - left.len(), "users are as the admin API left them");
        }
        for (user, error) in left {
            match error {
                Some(error) => {
                    tracing::warn!(%server, %user, %error, "a change of a user by the admin API no longer fits the config");
                }
                None => {
                    tracing::info!(%server, %user, "the config states a user anew, which undoes the change by the admin API");
                }
            }
        }
        Ok(())
    }

    /// Keeps what has changed since the last time: all of it, or nothing.
    fn save(&mut self) -> Result<(), rusqlite::Error> {
        let tables = self.tables();
        let mut changed = Vec::new();
        let mut versions = HashMap::new();
        for (server, table) in &tables {
            if !self.versions.contains_key(server) {
                self.restore(server, table)?;
            }
        }
        let batch = self.store.begin()?;
        for (server, table) in &tables {
            let version = table.version();
            versions.insert(Arc::clone(server), version);
            for user in table.users() {
                let name: Arc<str> = user.name().unwrap_or_default().into();
                let key = (Arc::clone(server), name);
                let Some((totals, new)) = news(self.known.get(&key), &user) else {
                    continue;
                };
                let row = Row {
                    server,
                    name: &key.1,
                };
                let kept = match self.replica {
                    None => batch.add(row, &new)?,
                    Some(_) => {
                        let kept = batch.raise(row, &totals)?;
                        if !self
                            .known
                            .get(&key)
                            .is_some_and(|known| is_same(known, &user))
                        {
                            // Later, others tell by the store.
                            user.absorb(&kept.since(&totals));
                        }
                        kept
                    }
                };
                changed.push(Changed {
                    key,
                    user,
                    totals,
                    new,
                    kept,
                });
            }
            if self.versions.get(server) != Some(&version) {
                batch.set_own(server, &table.own())?;
                let users = table.users();
                let names: Vec<_> = users
                    .iter()
                    .map(|user| user.name().unwrap_or_default())
                    .collect();
                batch.retain(server, &names)?;
            }
        }
        // After what users have used: of that, everything is in here.
        let shared = match &self.replica {
            None => Vec::new(),
            Some(replica) => share(&batch, replica, &self.counters)?,
        };
        batch.commit()?;
        if let Some(replica) = &self.replica {
            replica.saved(&shared);
        }
        self.versions = versions;
        for one in changed {
            self.learn(one);
        }
        self.known.retain(|_, known| known.user.strong_count() > 0);
        Ok(())
    }

    /// Tells a user what others have counted of it.
    fn learn(&mut self, changed: Changed) {
        let Changed {
            key,
            user,
            totals,
            new,
            kept,
        } = changed;
        let before = self.known.get(&key).filter(|known| is_same(known, &user));
        if self.replica.is_some() {
            let totals = if before.is_none() { kept } else { totals };
            let user = Arc::downgrade(&user);
            self.known.insert(key, Known { user, totals });
            return;
        }
        let mut expected = before.map_or_else(Totals::default, |known| known.totals);
        let same = expected.is_same_period(&totals);
        expected = Totals {
            up: expected.up + new.up,
            down: expected.down + new.down,
            failures: expected.failures + new.failures,
            period: if same {
                expected.period + new.period
            } else {
                new.period
            },
            ..totals
        };
        let foreign = kept.since(&expected);
        user.absorb(&foreign);
        let user = Arc::downgrade(&user);
        let known = Known { user, totals: kept };
        self.known.insert(key, known);
    }
}

/// Writes what has come of the store that servers share.
fn share(
    batch: &Batch<'_>,
    replica: &Replica,
    counters: &Counters,
) -> Result<Vec<(Box<str>, Text)>, rusqlite::Error> {
    for (group, table) in tables(counters) {
        replica.refresh(group.as_str(), &table);
    }
    let shared = replica.unsaved();
    for (servers, (name, value)) in &shared {
        batch.share(servers, name, value)?;
    }
    Ok(shared)
}

fn is_same(known: &Known, user: &Arc<User>) -> bool {
    std::ptr::eq(known.user.as_ptr(), Arc::as_ptr(user))
}

/// What has come of a user since the last time, after all of it; `None`: nothing.
fn news(known: Option<&Known>, user: &Arc<User>) -> Option<(Totals, Totals)> {
    let totals = user.totals();
    match known.filter(|known| is_same(known, user)) {
        None => Some((totals, totals)),
        Some(known) if known.totals == totals => None,
        Some(known) => Some((totals, totals.since(&known.totals))),
    }
}

#[cfg(test)]
mod tests;
