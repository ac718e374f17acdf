//! `reverse.links`: how many links a client of reverse tunnels keeps.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, Unexpected, Visitor};

/// The most links that a client may open.
pub(super) const MAX_LINKS: usize = 64;
/// The most of `"auto"`: more cost connections and help nobody.
const MAX_AUTO: usize = 16;

/// The number of links of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Links {
    /// One for each worker.
    Auto,
    /// So many; at least one.
    Count(usize),
}

impl Links {
    /// How many links there are with so many workers.
    #[must_use]
    pub fn count(self, workers: usize) -> usize {
        match self {
            Self::Auto => workers.clamp(1, MAX_AUTO),
            Self::Count(count) => count,
        }
    }

    /// The most that there can be.
    #[must_use]
    pub fn most(self) -> usize {
        self.count(MAX_AUTO)
    }
}

impl fmt::Display for Links {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("one for each worker"),
            Self::Count(count) => count.fmt(f),
        }
    }
}

impl<'de> Deserialize<'de> for Links {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Form;
        impl Visitor<'_> for Form {
            type Value = Links;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"auto\" or a whole number")
            }
            fn visit_u64<E: Error>(self, count: u64) -> Result<Links, E> {
                Ok(Links::Count(count.try_into().unwrap_or(usize::MAX)))
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Links, E> {
                match (text, text.parse()) {
                    ("auto", _) => Ok(Links::Auto),
                    (_, Ok(count)) => self.visit_u64(count),
                    _ => Err(E::invalid_value(Unexpected::Other("text"), &self)),
                }
            }
        }
        deserializer.deserialize_any(Form)
    }
}
