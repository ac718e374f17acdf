//! Which servers of several processes are one to their clients.

use std::fmt;
use std::sync::Arc;

use crate::crypto::{Key, Method};

/// Servers with the same method and the same key: a client of one is a client of all. Its text stands for both and shows
/// neither.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Group(Arc<str>);

impl Group {
    /// The one of a server with this method and key.
    #[must_use]
    pub fn of(method: Method, key: &Key) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("ssr servers with one store 1");
        hasher.update(method.name().as_bytes()).update(&[0]);
        hasher.update(key.as_bytes());
        let hash = hasher.finalize().to_hex();
        Self(hash.get(..16).unwrap_or_default().into())
    }

    /// The same, apart from it: where one process has two such servers, their users are two lists.
    #[must_use]
    pub fn numbered(&self, number: usize) -> Self {
        Self(format!("{}-{number}", self.0).into())
    }

    /// Letters and digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn servers_are_one_by_method_and_key() {
        let key = |byte| Key::from_slice(&[byte; 16]).unwrap();
        let one = Group::of(Method::Aes128Gcm, &key(1));
        assert_eq!(one, Group::of(Method::Aes128Gcm, &key(1)));
        assert_ne!(one, Group::of(Method::Aes128Gcm, &key(2)));
        assert_ne!(one, Group::of(Method::Blake3Aes128Gcm, &key(1)));
        assert_eq!(one.as_str().len(), 16);
        assert_ne!(one, one.numbered(2));
    }
}
