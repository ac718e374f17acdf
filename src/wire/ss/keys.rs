//! The keys and users of clients and servers.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use crate::crypto::{Aead, Block, Family, Key, Method};
use crate::wire::Error;

/// The random bytes at the start of a stream or packet, as many as the method's key has (SIP004, SIP022 §3.1.1).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Salt {
    bytes: [u8; 32],
    len: usize,
}

impl Salt {
    /// A salt for `method` from the first bytes of `random`.
    #[must_use]
    pub fn new(method: Method, random: [u8; 32]) -> Self {
        Self {
            bytes: random,
            len: method.salt_len().min(32),
        }
    }

    /// The salt at the front of `bytes`, or `None` if they are too few.
    #[must_use]
    pub fn read(method: Method, bytes: &[u8]) -> Option<Self> {
        let len = method.salt_len();
        let mut salt = Self {
            bytes: [0; 32],
            len,
        };
        salt.bytes
            .get_mut(..len)?
            .copy_from_slice(bytes.get(..len)?);
        Some(salt)
    }

    /// The bytes of the salt.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or(&self.bytes)
    }
}

/// The client's side: method and keys of one server.
#[derive(Clone, Debug)]
pub struct Credentials {
    method: Method,
    key: Key,
    /// The identity keys (iPSK) from the outermost relay inwards, each with the hash of the key after it.
    identity: Vec<(Key, [u8; 16])>,
}

impl Credentials {
    /// Keys for a server with `method`; `identity` lists the iPSKs in the order in which servers read them (SIP023).
    #[must_use]
    pub fn new(method: Method, identity: Vec<Key>, key: Key) -> Self {
        let next: Vec<_> = identity
            .iter()
            .skip(1)
            .chain([&key])
            .map(Key::identity_hash)
            .collect();
        Self {
            method,
            identity: identity.into_iter().zip(next).collect(),
            key,
        }
    }

    /// The method.
    #[must_use]
    pub const fn method(&self) -> Method {
        self.method
    }

    /// The key that seals the request and opens the response.
    #[must_use]
    pub const fn key(&self) -> &Key {
        &self.key
    }

    /// The number of identity headers that each request carries.
    #[must_use]
    pub const fn identities(&self) -> usize {
        self.identity.len()
    }

    /// The iPSKs, each with the hash that its identity header carries.
    pub(super) fn identity(&self) -> &[(Key, [u8; 16])] {
        &self.identity
    }

    /// The key of a packet's separate header: that of the first server on its way (SIP023 §3).
    pub(super) fn outer_key(&self) -> &Key {
        self.identity.first().map_or(&self.key, |(key, _)| key)
    }
}

/// One user of a server.
#[derive(Debug)]
pub struct Account {
    /// The user's key (uPSK), or the next server's iPSK.
    pub key: Key,
    /// Whether the identity belongs to a next server, to which streams are relayed unopened (SIP023).
    pub relayed: bool,
    /// When it was active, as a number that grows; 0: never. Those that were active last are tried first where requests do not
    /// say whose they are.
    pub active: AtomicU64,
}

impl Account {
    /// The user with this key, which is served here.
    #[must_use]
    pub const fn new(key: Key) -> Self {
        Self {
            key,
            relayed: false,
            active: AtomicU64::new(0),
        }
    }
}

/// The server's side: its method, key and users. It does not change: a server whose users change has one after another.
#[derive(Debug)]
pub struct Accounts {
    method: Method,
    key: Key,
    /// Whether requests are those of users, which identity headers tell, or trial.
    of_users: bool,
    users: HashMap<usize, Arc<Account>>,
    by_hash: HashMap<[u8; 16], usize>,
    /// The key schedule of the separate packet header (SIP022 §3.2.1).
    pub(super) block: Option<Block>,
    /// The AEAD of AEAD-2022 ChaCha packets, keyed by the PSK itself.
    pub(super) chacha: Option<Aead>,
}

impl Accounts {
    /// A server with `key`, or with `users` if there are some and the method supports them.
    #[must_use]
    pub fn new(method: Method, key: Key, users: Vec<Account>) -> Self {
        let of_users = method.supports_users() && !users.is_empty();
        let users = users.into_iter().map(Arc::new).enumerate();
        Self::with_ids(method, key, of_users, users)
    }

    /// A server with `key`, whose users have ids. With `of_users`, all requests are those of users, even if there is none: they
    /// carry identity headers (SIP023), or under AEAD-2017 each is tried with the keys of the users.
    #[must_use]
    pub fn with_ids(
        method: Method,
        key: Key,
        of_users: bool,
        users: impl IntoIterator<Item = (usize, Arc<Account>)>,
    ) -> Self {
        let users: HashMap<_, _> = users.into_iter().collect();
        let hashes = users
            .iter()
            .map(|(id, user)| (user.key.identity_hash(), *id));
        let block = method.supports_identity().then(|| Block::new(&key));
        let chacha = chacha(method, &key);
        Self {
            method,
            key,
            of_users,
            by_hash: hashes.collect(),
            users,
            block,
            chacha,
        }
    }

    /// The method.
    #[must_use]
    pub const fn method(&self) -> Method {
        self.method
    }

    /// The server's own key.
    #[must_use]
    pub const fn key(&self) -> &Key {
        &self.key
    }

    /// Whether requests are those of users.
    #[must_use]
    pub const fn has_users(&self) -> bool {
        self.of_users
    }

    /// Whether it takes a trial to know whose a request is.
    #[must_use]
    pub fn tries_users(&self) -> bool {
        self.of_users && self.method.family() == Family::Aead2017
    }

    /// How many users there are.
    pub(super) fn count(&self) -> usize {
        self.users.len()
    }

    /// The users with their ids, in any order.
    pub(super) fn all(&self) -> impl Iterator<Item = (usize, &Account)> {
        self.users.iter().map(|(id, user)| (*id, &**user))
    }

    /// The id of the user with this identity hash.
    pub(super) fn find(&self, hash: &[u8; 16]) -> Option<usize> {
        self.by_hash.get(hash).copied()
    }

    /// The user with this id.
    #[must_use]
    pub fn user(&self, id: usize) -> Option<&Account> {
        self.users.get(&id).map(|user| &**user)
    }

    /// The key of a session: the user's, or the server's own if there is no user.
    ///
    /// # Errors
    /// [`Error::UnknownIdentity`]: the user is not there any more.
    pub fn session_key(&self, user: Option<usize>) -> Result<&Key, Error> {
        match user {
            None => Ok(&self.key),
            Some(id) => match self.user(id) {
                Some(user) => Ok(&user.key),
                None => Err(Error::UnknownIdentity),
            },
        }
    }
}

/// Whether a method's packets carry session and packet ids.
#[must_use]
pub fn has_sessions(method: Method) -> bool {
    method.family() == Family::Aead2022
}

/// The AEAD of AEAD-2022 ChaCha packets, keyed by the PSK itself; `None` for other methods.
pub(super) fn chacha(method: Method, key: &Key) -> Option<Aead> {
    (has_sessions(method) && !method.supports_identity())
        .then(|| Aead::packet(method, key))
        .flatten()
}
