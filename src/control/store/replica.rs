//! What this process knows of the store: what every process has stated, and what of it the store has not been told.
//!
//! A counter has one writer, the process that moved the bytes; it states the whole sum, never a difference. So nothing counts
//! twice, whether an answer was lost, the store has forgotten, or somebody tells it again.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, Weak};

use zeroize::Zeroizing;

use super::entry::{Counter, Key, Node, Record};
use super::names::Names;
use crate::limits::{MAX_STORE_ENTRIES, MAX_USER_NAME, STORE_BATCH};
use crate::net::sync::lock;
use crate::net::unix_now;
use crate::relay::users::{Table, Totals, User};

/// An entry as text: its name and its value.
pub(crate) type Text = (String, Zeroizing<String>);

/// What this process knows, by the groups of its servers.
#[derive(Default)]
pub struct Replica {
    groups: Mutex<HashMap<Box<str>, Known>>,
}

/// What is known of one group.
pub(super) struct Known {
    /// This process.
    node: Node,
    /// What the store has of this process.
    confirmed: HashMap<Box<str>, Counter>,
    /// Processes that are in the sum.
    ended: HashSet<Node>,
    counters: HashMap<Box<str>, HashMap<Node, Counter>>,
    pub(super) names: Names,
    /// Counters of all users together.
    counted: usize,
    /// What the store has not confirmed.
    unsent: HashSet<Key>,
    /// What `admin.state` does not have.
    unsaved: HashSet<Key>,
    shares: HashMap<Box<str>, Share>,
}

impl Default for Known {
    fn default() -> Self {
        Self {
            node: Node::random(),
            confirmed: HashMap::new(),
            ended: HashSet::new(),
            counters: HashMap::new(),
            names: Names::default(),
            counted: 0,
            unsent: HashSet::new(),
            unsaved: HashSet::new(),
            shares: HashMap::new(),
        }
    }
}

/// What of a user's counters came from others.
struct Share {
    user: Weak<User>,
    born: u64,
    foreign: Totals,
}

/// Why an entry of the store is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotTaken {
    #[error("an entry is not what ssr writes")]
    Broken,
    #[error("there are more than {MAX_STORE_ENTRIES} entries")]
    TooMany,
}

impl Replica {
    /// Notes what the users of `table` are and have used here.
    pub(crate) fn refresh(&self, group: &str, table: &Table) {
        let mut groups = lock(&self.groups);
        let known = groups.entry(group.into()).or_default();
        known.scan(table);
        for user in table.users() {
            known.count(&user);
        }
        known
            .shares
            .retain(|_, share| share.user.strong_count() > 0);
    }

    /// Has the users of `table` be and have used what is known. Returns what was not possible.
    pub(super) fn apply(&self, group: &str, table: &Table) -> Vec<String> {
        let mut groups = lock(&self.groups);
        let known = groups.entry(group.into()).or_default();
        known.scan(table);
        let refused = known.names.apply(table);
        let now = unix_now();
        for user in table.users() {
            known.count(&user);
            known.absorb(&user, now);
        }
        refused
    }

    /// What the store has not confirmed, as much as it takes at once.
    pub(super) fn unsent(&self, group: &str) -> Vec<(Text, Key)> {
        let groups = lock(&self.groups);
        let Some(known) = groups.get(group) else {
            return Vec::new();
        };
        let all = known.unsent.iter();
        all.filter_map(|key| Some((known.text(key)?, key.clone())))
            .take(STORE_BATCH)
            .collect()
    }

    /// The store has `sent`. What was stated anew meanwhile is still to be sent.
    pub(super) fn confirm(&self, group: &str, sent: &[(Text, Key)]) {
        let mut groups = lock(&self.groups);
        let Some(known) = groups.get_mut(group) else {
            return;
        };
        for (text, key) in sent {
            if let Key::Counter(node, name) = key
                && *node == known.node
                && let Some(counter) = Counter::decode(&text.1)
            {
                known.confirmed.insert(name.clone(), counter);
            }
            if known.text(key).as_ref() == Some(text) {
                known.unsent.remove(key);
            }
        }
    }

    /// The store may have lost what this process stated last.
    pub(super) fn doubt(&self) {
        for known in lock(&self.groups).values_mut() {
            let node = known.node;
            let own = |key: &Key| !matches!(key, Key::Counter(of, _) if *of != node);
            let keys: Vec<_> = known.keys().filter(own).collect();
            known.unsent.extend(keys);
        }
    }

    /// The store has lost everything of a group.
    pub(super) fn retell(&self, group: &str) {
        if let Some(known) = lock(&self.groups).get_mut(group) {
            let keys: Vec<_> = known.keys().collect();
            known.unsent.extend(keys);
        }
    }

    /// Takes an entry of the store.
    pub(super) fn take(&self, group: &str, name: &str, value: &str) -> Result<(), NotTaken> {
        let mut groups = lock(&self.groups);
        let known = groups.entry(group.into()).or_default();
        let key = Key::decode(name).ok_or(NotTaken::Broken)?;
        if known.take(&key, value)? {
            known.unsaved.insert(key);
        }
        Ok(())
    }

    /// A process that has ended long ago and can be added to the sum: nobody was there since `before`.
    pub(super) fn silent(&self, group: &str, before: u64) -> Option<(Node, Vec<Box<str>>)> {
        lock(&self.groups).get(group)?.silent(before)
    }

    /// Takes an entry that an earlier process has kept. The store may not have it.
    pub(crate) fn restore(&self, group: &str, name: &str, value: &str) {
        let mut groups = lock(&self.groups);
        let known = groups.entry(group.into()).or_default();
        if let Some(key) = Key::decode(name)
            && known.take(&key, value) == Ok(true)
        {
            known.unsent.insert(key);
        }
    }

    /// What has come since the last time that it was kept: call [`Replica::unsaved`] again until it is empty.
    pub(crate) fn unsaved(&self) -> Vec<(Box<str>, Text)> {
        let groups = lock(&self.groups);
        let all = groups.iter().flat_map(|(group, known)| {
            let keys = known.unsaved.iter();
            keys.filter_map(move |key| Some((group.clone(), known.text(key)?)))
        });
        all.collect()
    }

    /// `admin.state` has these.
    pub(crate) fn saved(&self, saved: &[(Box<str>, Text)]) {
        let mut groups = lock(&self.groups);
        for (group, text) in saved {
            let known = groups.get_mut(group);
            if let (Some(known), Some(key)) = (known, Key::decode(&text.0))
                && known.text(&key).as_ref() == Some(text)
            {
                known.unsaved.remove(&key);
            }
        }
    }
}

impl Known {
    fn keys(&self) -> impl Iterator<Item = Key> + '_ {
        let counters = self.counters.iter().flat_map(|(name, nodes)| {
            let nodes = nodes.keys();
            nodes.map(move |node| Key::Counter(*node, name.clone()))
        });
        let users = self.names.records.keys();
        let users = users.map(|name| Key::User(name.clone()));
        let ended = self.ended.iter().map(|node| Key::Ended(*node));
        counters.chain(users).chain(ended)
    }

    fn text(&self, key: &Key) -> Option<Text> {
        let value = match key {
            Key::Counter(node, name) => {
                Zeroizing::new(self.counters.get(name)?.get(node)?.encode())
            }
            Key::User(name) => self.names.records.get(name)?.encode(),
            Key::Ended(node) => {
                self.ended.get(node)?;
                Zeroizing::new("1 ".to_owned())
            }
        };
        Some((key.encode(), value))
    }

    /// Notes that an entry was stated here.
    fn note(&mut self, key: &Key) {
        self.unsent.insert(key.clone());
        self.unsaved.insert(key.clone());
    }

    /// Takes what somebody has stated. Returns whether it is news.
    fn take(&mut self, key: &Key, value: &str) -> Result<bool, NotTaken> {
        let entries = self.counted + self.names.records.len() + self.ended.len();
        let is_full = entries >= MAX_STORE_ENTRIES;
        match key {
            Key::Counter(node, name) => {
                let new = Counter::decode(value).ok_or(NotTaken::Broken)?;
                let known = self.counters.get(name).and_then(|nodes| nodes.get(node));
                if self.ended.contains(node) {
                    return Ok(false);
                }
                match known {
                    Some(known) if known.number >= new.number => return Ok(false),
                    None if is_full => return Err(NotTaken::TooMany),
                    None => self.counted += 1,
                    Some(_) => {}
                }
                let nodes = self.counters.entry(name.clone()).or_default();
                let known = nodes.entry(*node).or_default();
                if *node == self.node {
                    // Nobody else may: what is stated here next holds again.
                    known.number = new.number.saturating_add(1);
                    self.unsent.insert(key.clone());
                } else {
                    *known = new;
                }
            }
            Key::User(name) => {
                let new = Record::decode(value).ok_or(NotTaken::Broken)?;
                match self.names.records.get(name) {
                    Some(known) if known.number >= new.number => return Ok(false),
                    None if is_full => return Err(NotTaken::TooMany),
                    _ => {}
                }
                self.names.records.insert(name.clone(), new);
                self.names.changed.insert(name.clone());
            }
            Key::Ended(_) if is_full => return Err(NotTaken::TooMany),
            Key::Ended(node) => {
                if *node == Node::SUM || !self.ended.insert(*node) {
                    return Ok(false);
                }
                self.forget(*node);
            }
        }
        Ok(true)
    }

    /// Forgets what a process has counted: it is in the sum.
    fn forget(&mut self, node: Node) {
        for nodes in self.counters.values_mut() {
            if nodes.remove(&node).is_some() {
                self.counted = self.counted.saturating_sub(1);
            }
        }
        let is_left = |key: &Key| !matches!(key, Key::Counter(of, _) if *of == node);
        self.unsent.retain(is_left);
        self.unsaved.retain(is_left);
        if node != self.node {
            return;
        }
        // It is this process, which nobody has heard of for a long time. It goes on as another one, with what the store has not.
        self.node = Node::random();
        for (name, counter) in self.confirmed.drain() {
            if let Some(share) = self.shares.get_mut(&name)
                && share.born == counter.born
            {
                share.foreign = plus(&share.foreign, &counter.totals);
            }
        }
    }

    /// A process other than this one whose users were not there since `before`, and their names.
    fn silent(&self, before: u64) -> Option<(Node, Vec<Box<str>>)> {
        let mut nodes: HashMap<Node, (u64, Vec<Box<str>>)> = HashMap::new();
        for (name, counters) in &self.counters {
            for (node, counter) in counters {
                let (seen, names) = nodes.entry(*node).or_default();
                *seen = counter.totals.last_seen.max(*seen);
                names.push(name.clone());
            }
        }
        let is_other = |node: Node| node != self.node && node != Node::SUM;
        let mut others = nodes.into_iter().filter(|(node, _)| is_other(*node));
        let silent = others.find(|(_, (seen, _))| *seen < before);
        silent.map(|(node, (_, names))| (node, names))
    }

    fn scan(&mut self, table: &Table) {
        for name in self.names.scan(table) {
            self.note(&Key::User(name));
        }
    }

    /// What others have counted of a user.
    fn foreign(&self, name: &str, born: u64, now: &Totals) -> Totals {
        let mut sum = Totals {
            period_start: now.period_start,
            period_kind: now.period_kind,
            ..Totals::default()
        };
        let nodes = self.counters.get(name).into_iter().flatten();
        for (node, counter) in nodes {
            if *node == self.node || counter.born != born {
                continue;
            }
            let one = &counter.totals;
            sum.up = sum.up.saturating_add(one.up);
            sum.down = sum.down.saturating_add(one.down);
            sum.failures = sum.failures.saturating_add(one.failures);
            sum.last_seen = sum.last_seen.max(one.last_seen);
            if one.is_shared_period(now) {
                sum.period = sum.period.saturating_add(one.period);
            }
        }
        sum
    }

    /// Notes what a user has used here.
    fn count(&mut self, user: &Arc<User>) {
        let own = self.node;
        let name = user.name().unwrap_or_default();
        if name.len() > MAX_USER_NAME {
            return;
        }
        let born = self.names.born(name);
        let before = self.counters.get(name).and_then(|nodes| nodes.get(&own));
        let before = before.copied();
        let counted = before.filter(|counter| counter.born == born);
        let mut totals = user.totals();
        let is_known = self.shares.get(name).is_some_and(|share| {
            share.born == born && std::ptr::eq(share.user.as_ptr(), Arc::as_ptr(user))
        });
        if !is_known {
            let foreign = self.foreign(name, born, &totals);
            let all = plus(&foreign, &counted.unwrap_or_default().totals);
            user.absorb_shared(&all.since(&totals));
            totals = user.totals();
            let user = Arc::downgrade(user);
            let share = Share {
                user,
                born,
                foreign,
            };
            self.shares.insert(name.into(), share);
        }
        let Some(share) = self.shares.get_mut(name) else {
            return;
        };
        if share.foreign.period_start != totals.period_start {
            share.foreign.period = 0;
        }
        share.foreign.period_start = totals.period_start;
        share.foreign.period_kind = totals.period_kind;
        let mut mine = Totals {
            last_seen: totals.last_seen,
            ..totals.since(&share.foreign)
        };
        if totals.last_seen <= share.foreign.last_seen {
            mine.last_seen = counted.map_or(0, |counter| counter.totals.last_seen);
        }
        let is_nothing = [mine.up, mine.down, mine.failures, mine.period] == [0; 4];
        if counted.is_some_and(|counter| counter.totals == mine) || before.is_none() && is_nothing {
            return;
        }
        if before.is_none() {
            self.counted += 1;
        }
        let counter = Counter {
            number: before.map_or(0, |counter| counter.number).saturating_add(1),
            born,
            totals: mine,
        };
        let nodes = self.counters.entry(name.into()).or_default();
        nodes.insert(own, counter);
        self.note(&Key::Counter(own, name.into()));
    }

    /// Adds what others have counted of a user since the last time.
    fn absorb(&mut self, user: &Arc<User>, now: u64) {
        let name = user.name().unwrap_or_default();
        let born = self.names.born(name);
        let Some(share) = self.shares.get(name) else {
            return;
        };
        let foreign = self.foreign(name, born, &share.foreign);
        let Some(share) = self.shares.get_mut(name) else {
            return;
        };
        let new = foreign.since(&share.foreign);
        let is_new = [new.up, new.down, new.failures, new.period] != [0; 4];
        if !is_new && new.last_seen <= share.foreign.last_seen {
            return;
        }
        user.absorb_shared(&new);
        share.foreign = plus(&share.foreign, &new);
        user.review(now);
    }
}

/// The sum of what two have counted; `one` says of which period.
fn plus(one: &Totals, other: &Totals) -> Totals {
    let period = match one.is_shared_period(other) {
        true => other.period,
        false => 0,
    };
    Totals {
        up: one.up.saturating_add(other.up),
        down: one.down.saturating_add(other.down),
        failures: one.failures.saturating_add(other.failures),
        last_seen: one.last_seen.max(other.last_seen),
        period: one.period.saturating_add(period),
        ..*one
    }
}

#[cfg(test)]
mod tests;
