//! The users that the admin API has changed, on this server or another one.

use std::collections::{HashMap, HashSet};

use super::entry::{Record, Stated};
use crate::limits::MAX_USER_NAME;
use crate::net::unix_now;
use crate::relay::users::{Change, NewUser, Own, OwnUser, Table, TableError};

/// The users of one group.
#[derive(Default)]
pub(super) struct Names {
    pub(super) records: HashMap<Box<str>, Record>,
    /// Those that others have changed since they were applied last.
    pub(super) changed: HashSet<Box<str>>,
    /// Those of the table that its config does not state.
    own: HashSet<Box<str>>,
    /// The version of the table that was scanned.
    version: Option<u64>,
    /// Those of which it was said that they cannot be used here.
    said: HashSet<Box<str>>,
}

impl Names {
    /// When the user of this name was added, if the admin API did so: it is another one than before.
    pub(super) fn born(&self, name: &str) -> u64 {
        let record = self.records.get(name);
        record.map_or(0, |record| match record.now {
            Some(_) => record.born,
            None => 0,
        })
    }

    /// Notes what was changed in the table since the last time. Returns the names.
    pub(super) fn scan(&mut self, table: &Table) -> Vec<Box<str>> {
        let version = table.version();
        if self.version == Some(version) {
            return Vec::new();
        }
        let is_first = self.version.is_none();
        self.version = Some(version);
        let Own { changed, removed } = table.own();
        let mut new = Vec::new();
        let mut own = HashSet::new();
        for OwnUser { base, stated } in changed {
            if stated.name.len() > MAX_USER_NAME {
                continue;
            }
            let name: Box<str> = stated.name.as_str().into();
            if base.is_none() {
                own.insert(name.clone());
            }
            let now = Stated {
                password: stated.password,
                limits: stated.limits,
            };
            self.state(name, base, Some(now), is_first, &mut new);
        }
        for (name, base) in removed {
            if name.len() <= MAX_USER_NAME {
                self.state(name.into(), Some(base), None, is_first, &mut new);
            }
        }
        let gone = std::mem::replace(&mut self.own, own);
        for name in gone {
            if !self.own.contains(&name) && table.find(&name).is_none() {
                self.state(name, None, None, is_first, &mut new);
            }
        }
        // The config may state others now.
        self.changed.extend(self.records.keys().cloned());
        new
    }

    fn state(
        &mut self,
        name: Box<str>,
        base: Option<[u8; 32]>,
        now: Option<Stated>,
        is_first: bool,
        new: &mut Vec<Box<str>>,
    ) {
        let known = self.records.get(&name);
        if known.is_some_and(|known| known.base == base && known.now == now) {
            return;
        }
        let time = unix_now().saturating_mul(1000);
        let next = known.map_or(1, |known| known.number.saturating_add(1));
        // What an earlier process has left is older than anything.
        let number = if is_first { next } else { next.max(time) };
        let born = match known {
            Some(known) if known.now.is_some() => known.born,
            Some(_) => number,
            None if is_first || base.is_some() => 0,
            None => number,
        };
        let record = Record {
            number,
            born,
            base,
            now,
        };
        self.records.insert(name.clone(), record);
        new.push(name);
    }

    /// Changes the table as others have. Returns what is not possible, once for each user.
    pub(super) fn apply(&mut self, table: &Table) -> Vec<String> {
        let mut refused = Vec::new();
        for name in std::mem::take(&mut self.changed) {
            let Some(record) = self.records.get(&name) else {
                continue;
            };
            let base = table.configured(&name);
            if base != record.base {
                continue;
            }
            let done = match &record.now {
                None => table.find(&name).map(|_| table.remove(&name).map(drop)),
                Some(stated) => put(table, &name, stated),
            };
            match done {
                None => {}
                Some(Ok(())) => {
                    match (base, &record.now) {
                        (None, Some(_)) => self.own.insert(name),
                        _ => self.own.remove(&name),
                    };
                }
                Some(Err(error)) if self.said.insert(name.clone()) => {
                    refused.push(format!("{}: {error}", name.escape_debug()));
                }
                Some(Err(_)) => {}
            }
        }
        refused
    }
}

/// Has a user be what is stated; `None`: it is.
fn put(table: &Table, name: &str, stated: &Stated) -> Option<Result<(), TableError>> {
    let (password, limits) = (stated.password.clone(), stated.limits);
    let done = match table.find(name) {
        Some(known) if known.stated.password == password && known.user.limits() == limits => {
            return None;
        }
        Some(_) => {
            let change = Change {
                password: Some(password),
                limits: Some(limits),
            };
            table.change(name, change)
        }
        None => table.add(NewUser {
            name: name.to_owned(),
            password,
            limits,
            next_hop: None,
        }),
    };
    Some(done.map(drop))
}
