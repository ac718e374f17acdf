//! The users of one server, which change while it runs.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock};

use arc_swap::{ArcSwap, Guard};
use zeroize::Zeroizing;

use super::fair::Fair;
use super::limits::{Limits, Refusal};
use super::pace::Pace;
use super::senders::Senders;
use super::stated::NewUser;
use super::user::User;
use crate::crypto::{Family, Key, KeyError, Method};
use crate::limits::{MAX_TRIED_BYTES, MAX_USER_NAME, MAX_USERS};
use crate::net::sync::lock;
use crate::wire::Address;
use crate::wire::ss::{Account, Accounts};

/// What is changed of a user; `None` stays as it is.
#[derive(Clone, Default)]
pub struct Change {
    /// Its password. Sessions that began with another one end.
    pub password: Option<Zeroizing<String>>,
    /// All its limits.
    pub limits: Option<Limits>,
}

/// Why the users of a server stay as they are.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    /// The server has one key.
    #[error("the server has one key and no `users`: give it a first user in the config")]
    OneKey,
    /// There is no such user.
    #[error("there is no user of this name")]
    Unknown,
    /// There is one already.
    #[error("there is a user of this name already")]
    NameTaken,
    /// The name cannot be one.
    #[error("a name has 1 to {MAX_USER_NAME} bytes and no control characters")]
    Name,
    /// Another user, or the server, has this password.
    #[error("the password is another user's, or the server's own")]
    PasswordTaken,
    /// The password cannot be one.
    #[error("{0}")]
    Password(KeyError),
    /// There are as many as there may be.
    #[error("the server has {MAX_USERS} users already, which is the most")]
    TooMany,
}

/// A user of a server, with what makes it one.
#[derive(Debug)]
pub struct Member {
    /// Its counters and limits.
    pub user: Arc<User>,
    /// The next server, if it is one behind this.
    pub next_hop: Option<Arc<Address>>,
    /// What the operator has stated last. The limits may have changed: see [`User::limits`].
    pub stated: NewUser,
    /// Whether it, or a change of it, does not come from the config.
    pub is_own: bool,
    account: Arc<Account>,
}

/// The users of a server at one time.
#[derive(Debug)]
pub struct Snapshot {
    /// The keys.
    pub accounts: Accounts,
    members: Members,
    /// The user of a server that has one key.
    nameless: Option<Arc<User>>,
}

impl Snapshot {
    /// The user with an id of [`Snapshot::accounts`].
    #[must_use]
    pub fn user(&self, id: Option<usize>) -> Option<&Arc<User>> {
        match id {
            None => self.nameless.as_ref(),
            Some(id) => self.members.by_id.get(&id).map(|member| &member.user),
        }
    }

    /// The next server of an identity (SIP023).
    #[must_use]
    pub fn next_hop(&self, id: Option<usize>) -> Option<&Arc<Address>> {
        self.members.by_id.get(&id?)?.next_hop.as_ref()
    }
}

/// The users of one server. Who reads them takes no lock; a change holds for whatever begins after it.
pub struct Table {
    /// The name of the server.
    pub server: Arc<str>,
    /// Its method.
    pub method: Method,
    current: ArcSwap<Snapshot>,
    /// Changes with the users.
    version: AtomicU64,
    /// What the config has stated last.
    configured: Mutex<HashMap<String, NewUser>>,
    /// Who came from where, if it takes a trial to know whose a request is.
    senders: Senders,
    /// Grows with each request of a user.
    requests: AtomicU64,
    /// What its users share with those of other servers, if they do.
    fair: OnceLock<Arc<Fair>>,
    /// Holds datagrams for which everybody has to be tried to a rate.
    trials: Pace,
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Table").field(&self.server).finish()
    }
}

#[derive(Clone, Debug, Default)]
struct Members {
    by_id: HashMap<usize, Arc<Member>>,
    by_name: HashMap<Arc<str>, usize>,
}

impl Members {
    fn find(&self, name: &str) -> Option<&Arc<Member>> {
        self.by_id.get(self.by_name.get(name)?)
    }

    fn insert(&mut self, id: usize, member: Member) {
        self.by_name.insert(member.stated.name.as_str().into(), id);
        self.by_id.insert(id, Arc::new(member));
    }

    fn remove(&mut self, name: &str) -> Option<Arc<Member>> {
        self.by_id.remove(&self.by_name.remove(name)?)
    }
}

impl Table {
    /// The users that the config states. If there is none, the server has one key and one user without a name.
    ///
    /// # Errors
    /// When two of them cannot be together.
    pub fn new(
        server: &str,
        method: Method,
        key: Key,
        users: Vec<NewUser>,
    ) -> Result<Self, TableError> {
        let nameless = users.is_empty().then(|| Arc::new(User::nameless()));
        let table = Self {
            server: server.into(),
            method,
            current: ArcSwap::from_pointee(snapshot(method, key, nameless, Members::default())),
            version: AtomicU64::new(0),
            configured: Mutex::default(),
            senders: Senders::default(),
            requests: AtomicU64::new(0),
            fair: OnceLock::new(),
            trials: Pace::default(),
        };
        table.trials.set(Some(MAX_TRIED_BYTES));
        table.reload(users)?;
        Ok(table)
    }

    /// The users now.
    #[must_use]
    pub fn load(&self) -> Guard<Arc<Snapshot>> {
        self.current.load()
    }

    /// Whose key is to be tried first for a request from this address; `None`: anybody's, or requests say whose they are.
    #[must_use]
    pub fn likely(&self, ip: IpAddr) -> Option<usize> {
        match self.load().accounts.tries_users() {
            true => self.senders.last(ip),
            false => None,
        }
    }

    /// Whether everybody may be tried for a datagram, which costs as much as to open so many `bytes`. Strangers can send any number
    /// of datagrams, and users at addresses that are known need no such trial.
    #[must_use]
    pub fn may_try(&self, bytes: usize) -> bool {
        let is_free = self.trials.is_free();
        if is_free {
            let _wait = self.trials.pass(bytes as u64, 0);
        }
        is_free
    }

    /// Notes that an authenticated request, which is no replay, has come from this address.
    pub fn note_sender(&self, ip: IpAddr, user: Option<usize>) {
        let accounts = &self.load().accounts;
        if let Some(user) = user.filter(|_| accounts.tries_users()) {
            accounts.note_active(user, self.requests.fetch_add(1, Relaxed) + 1);
            self.senders.note(ip, user);
        }
    }

    /// Has its users share fairly, those too that come later.
    pub fn share_fairly(&self, fair: &Arc<Fair>) {
        let fair = self.fair.get_or_init(|| Arc::clone(fair));
        self.users().iter().for_each(|user| user.join(fair));
    }

    /// All of them by name; the only one of a server with one key has none.
    #[must_use]
    pub fn users(&self) -> Vec<Arc<User>> {
        let now = self.load();
        let members = now.members.by_id.values().map(|member| &member.user);
        let mut users: Vec<_> = members.chain(&now.nameless).map(Arc::clone).collect();
        users.sort_unstable_by(|one, other| one.name().cmp(&other.name()));
        users
    }

    /// All of them but one without a name, by name.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<Member>> {
        let mut members: Vec<_> = self.load().members.by_id.values().cloned().collect();
        members.sort_unstable_by(|one, other| one.stated.name.cmp(&other.stated.name));
        members
    }

    /// The one of this name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<Arc<Member>> {
        self.load().members.find(name).cloned()
    }

    /// The only user of a server that has one key.
    #[must_use]
    pub fn nameless(&self) -> Option<Arc<User>> {
        self.load().nameless.clone()
    }

    /// Adds a user.
    ///
    /// # Errors
    /// See [`TableError`].
    pub fn add(&self, new: NewUser) -> Result<Arc<User>, TableError> {
        self.edit(|members| {
            if members.by_id.len() >= MAX_USERS {
                return Err(TableError::TooMany);
            }
            let user = Arc::new(User::with(&new.name, new.limits));
            self.put(members, new, Arc::clone(&user), true)?;
            Ok(user)
        })
    }

    /// Changes a user. Its counters stay.
    ///
    /// # Errors
    /// See [`TableError`].
    pub fn change(&self, name: &str, change: Change) -> Result<Arc<User>, TableError> {
        let (known, new) = self.edit(|members| {
            let known = members.remove(name).ok_or(TableError::Unknown)?;
            let limits = known.user.limits();
            let new = NewUser {
                password: change
                    .password
                    .unwrap_or_else(|| known.stated.password.clone()),
                limits: change.limits.unwrap_or(limits),
                ..known.stated.clone()
            };
            self.put(members, new.clone(), Arc::clone(&known.user), true)?;
            Ok((known, new))
        })?;
        apply(&known, &new);
        Ok(Arc::clone(&known.user))
    }

    /// Removes a user, and ends its sessions.
    ///
    /// # Errors
    /// [`TableError::Unknown`].
    pub fn remove(&self, name: &str) -> Result<Arc<User>, TableError> {
        let removed = self.edit(|members| members.remove(name).ok_or(TableError::Unknown))?;
        removed.user.remove();
        Ok(Arc::clone(&removed.user))
    }

    /// Takes over the users of a changed config by their names: those that it states otherwise than before are changed, new
    /// ones added, and those that it does not state any more removed. What was added or changed otherwise stays. Returns the
    /// names of those that were added, changed and removed.
    ///
    /// A server with one key goes over to users with the first, and its sessions end. One that has lost all its users in the
    /// config has one key again.
    ///
    /// # Errors
    /// See [`TableError`]; then nothing has changed.
    pub fn reload(&self, users: Vec<NewUser>) -> Result<Reloaded, TableError> {
        let users: HashMap<_, _> = users
            .into_iter()
            .map(|user| (user.name.clone(), user))
            .collect();
        let mut done = Reloaded::default();
        let (mut gone, mut limited) = (Vec::new(), Vec::new());
        let mut configured = lock(&self.configured);
        let mut members = self.load().members.clone();
        for name in configured.keys().filter(|name| !users.contains_key(*name)) {
            if let Some(member) = members.remove(name) {
                gone.push(member);
                done.removed.push(name.clone());
            }
        }
        let is_other = |user: &&NewUser| configured.get(&user.name) != Some(*user);
        let changed: Vec<_> = users.values().filter(is_other).collect();
        // First of all, so that users may exchange their passwords.
        let known: Vec<_> = changed
            .iter()
            .map(|user| members.remove(&user.name))
            .collect();
        for (user, known) in changed.into_iter().zip(known) {
            let counters = match known {
                Some(known) => {
                    done.changed.push(user.name.clone());
                    let counters = Arc::clone(&known.user);
                    limited.push((known, user.clone()));
                    counters
                }
                None => {
                    done.added.push(user.name.clone());
                    Arc::new(User::with(&user.name, user.limits))
                }
            };
            self.put(&mut members, user.clone(), counters, false)?;
        }
        let before = self.load().nameless.clone();
        let has_one_key = users.is_empty() && members.by_id.is_empty();
        let nameless =
            has_one_key.then(|| before.clone().unwrap_or_else(|| Arc::new(User::nameless())));
        self.store(members, nameless);
        *configured = users;
        drop(configured);
        if let Some(nameless) = before.filter(|_| !has_one_key) {
            nameless.remove();
        }
        for member in gone {
            member.user.remove();
        }
        for (known, user) in limited {
            apply(&known, &user);
        }
        Ok(done)
    }

    /// Changes with the users.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version.load(Relaxed)
    }

    /// Changes the members, one change after another.
    fn edit<T>(
        &self,
        change: impl FnOnce(&mut Members) -> Result<T, TableError>,
    ) -> Result<T, TableError> {
        let _one_by_one = lock(&self.configured);
        let now = self.load();
        if now.nameless.is_some() {
            return Err(TableError::OneKey);
        }
        let mut members = now.members.clone();
        let changed = change(&mut members)?;
        self.store(members, None);
        Ok(changed)
    }

    /// Adds a member, if its name and its key are free.
    fn put(
        &self,
        members: &mut Members,
        new: NewUser,
        user: Arc<User>,
        is_own: bool,
    ) -> Result<(), TableError> {
        let is_name = (1..=MAX_USER_NAME).contains(&new.name.len());
        if is_own && (!is_name || new.name.chars().any(char::is_control)) {
            return Err(TableError::Name);
        }
        if members.find(&new.name).is_some() {
            return Err(TableError::NameTaken);
        }
        let key = self.key(&new.password).map_err(TableError::Password)?;
        let id = id(&key);
        let has_own_key = self.method.supports_identity();
        let is_own_key = has_own_key && key == *self.load().accounts.key();
        if members.by_id.contains_key(&id) || is_own_key {
            return Err(TableError::PasswordTaken);
        }
        let relayed = new.next_hop.is_some();
        let member = Member {
            user,
            next_hop: new.next_hop.clone().map(Arc::new),
            stated: new,
            is_own,
            account: Arc::new(Account {
                relayed,
                ..Account::new(key)
            }),
        };
        members.insert(id, member);
        Ok(())
    }

    /// The key of a password.
    ///
    /// # Errors
    /// When it is none of the method.
    pub fn key(&self, password: &str) -> Result<Key, KeyError> {
        match (self.method.family(), password) {
            (Family::Aead2017, "") => Err(KeyError::Empty),
            (Family::Aead2017, _) => Ok(Key::from_password(self.method, password.as_bytes())),
            _ => Key::from_base64(self.method, password),
        }
    }

    fn store(&self, members: Members, nameless: Option<Arc<User>>) {
        if let Some(fair) = self.fair.get() {
            let users = members.by_id.values().map(|member| &member.user);
            users.chain(&nameless).for_each(|user| user.join(fair));
        }
        let key = self.load().accounts.key().clone();
        let next = snapshot(self.method, key, nameless, members);
        self.current.store(Arc::new(next));
        self.version.fetch_add(1, Relaxed);
    }
}

/// What [`Table::reload`] has done, by the names of the users.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reloaded {
    /// New ones.
    pub added: Vec<String>,
    /// Those that are stated otherwise.
    pub changed: Vec<String>,
    /// Those that are gone.
    pub removed: Vec<String>,
}

/// Lets a user have what is stated of it now. Call it when new sessions can begin with the new password only.
fn apply(known: &Member, new: &NewUser) {
    if known.stated.password != new.password || known.stated.next_hop != new.next_hop {
        known.user.end_sessions(Refusal::Password);
    }
    if known.user.limits() != new.limits {
        known.user.limit(new.limits);
    }
}

/// The id of a user. It is the same for as long as the key is: what is remembered of UDP sessions holds for a user that is
/// removed and comes back, and in the next process.
fn id(key: &Key) -> usize {
    let hash = key.identity_hash();
    let bytes = std::array::from_fn(|index| hash.get(index).copied().unwrap_or_default());
    usize::from_le_bytes(bytes)
}

fn snapshot(method: Method, key: Key, nameless: Option<Arc<User>>, members: Members) -> Snapshot {
    let accounts = members.by_id.iter();
    let accounts = accounts.map(|(id, member)| (*id, Arc::clone(&member.account)));
    let of_users = nameless.is_none() && method.supports_users();
    Snapshot {
        accounts: Accounts::with_ids(method, key, of_users, accounts),
        members,
        nameless,
    }
}

mod own;
#[cfg(test)]
mod tests;
