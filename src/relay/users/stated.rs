//! Users as the operator states them.

use std::fmt;

use zeroize::Zeroizing;

use super::limits::Limits;
use super::period::Period;
use crate::wire::Address;

/// A user as the operator states it.
#[derive(Clone, PartialEq, Eq)]
pub struct NewUser {
    /// Its name.
    pub name: String,
    /// Its password: the key in base64 under AEAD-2022 methods, any text under AEAD-2017 ones.
    pub password: Zeroizing<String>,
    /// What it may use.
    pub limits: Limits,
    /// The server that this identity's traffic is forwarded to, instead of being served here (SIP023).
    pub next_hop: Option<Address>,
}

impl NewUser {
    /// Stands for all that is stated of it.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        let Limits {
            rate,
            quota,
            max_connections,
            max_ips,
            expires,
        } = self.limits;
        let mut hasher = blake3::Hasher::new();
        let number = |hasher: &mut blake3::Hasher, number: Option<u64>| {
            hasher.update(&[u8::from(number.is_some())]);
            hasher.update(&number.unwrap_or(0).to_le_bytes());
        };
        let hop = self.next_hop.as_ref().map(ToString::to_string);
        for text in [&self.name, &*self.password, &hop.unwrap_or_default()] {
            number(&mut hasher, Some(text.len() as u64));
            hasher.update(text.as_bytes());
        }
        let (day, bytes) = match quota {
            None => (0, None),
            Some((bytes, Period::Once)) => (100, Some(bytes)),
            Some((bytes, Period::Daily)) => (101, Some(bytes)),
            Some((bytes, Period::Monthly(day))) => (day, Some(bytes)),
        };
        hasher.update(&[day]);
        let counts = [max_connections, max_ips].map(|count| count.map(u64::from));
        for each in [rate, bytes, counts[0], counts[1], expires] {
            number(&mut hasher, each);
        }
        hasher.finalize().into()
    }
}

impl fmt::Debug for NewUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewUser")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// A user that is otherwise than the config states it, or that the config does not state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnUser {
    /// What the config states: its [`NewUser::digest`]; `None`: nothing.
    pub base: Option<[u8; 32]>,
    /// What it is.
    pub stated: NewUser,
}

/// What the users of a table are otherwise than the config states them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Own {
    /// Those that were added or changed.
    pub changed: Vec<OwnUser>,
    /// The names of those that were removed, and what the config states.
    pub removed: Vec<(String, [u8; 32])>,
}
