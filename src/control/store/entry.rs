//! What is in the store, as text. One entry is one fact, and who states it anew gives it a greater number: the greater number
//! holds, however often and in whatever order both are told.
//!
//! ```text
//! c NODE NAME    NUMBER born up down failures seen period start kind     what a user has used at one process
//! u NAME         NUMBER {"born", "base", "password", …}                  a user that the admin API has changed
//! r NODE         NUMBER                                                  a process that is counted in the sum, NODE 0
//! ```
//!
//! `NODE` is the random id of a process, 16 digits. There are no spaces in the names of entries but those of a user.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::relay::users::{Limits, Period, Totals};

/// Bytes of a node.
const NODE_LEN: usize = 16;
/// The greatest whole number that the store counts with exactly.
const MOST: u64 = (1 << 53) - 1;

/// A process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Node(u64);

impl Node {
    /// A new one.
    pub(super) fn random() -> Self {
        Self(rand::random())
    }

    /// Stands for all processes that have ended and were added to the sum.
    pub(super) const SUM: Self = Self(0);

    /// As it stands in the names of entries.
    pub(super) fn text(self) -> String {
        format!("{:016x}", self.0)
    }
}

/// What an entry is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Key {
    /// What a user has used at one process.
    Counter(Node, Box<str>),
    /// A user.
    User(Box<str>),
    /// A process that is in the sum.
    Ended(Node),
}

impl Key {
    pub(super) fn encode(&self) -> String {
        match self {
            Self::Counter(node, name) => format!("c{}{name}", node.text()),
            Self::Ended(node) => format!("r{}", node.text()),
            Self::User(name) => format!("u{name}"),
        }
    }

    pub(super) fn decode(text: &str) -> Option<Self> {
        match text.split_at_checked(1)? {
            ("c", rest) => {
                let (node, name) = rest.split_at_checked(NODE_LEN)?;
                let node = u64::from_str_radix(node, 16).ok()?;
                Some(Self::Counter(Node(node), name.into()))
            }
            ("u", name) => Some(Self::User(name.into())),
            ("r", node) if node.len() == NODE_LEN => {
                Some(Self::Ended(Node(u64::from_str_radix(node, 16).ok()?)))
            }
            _ => None,
        }
    }
}

/// What a user has used at one process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counter {
    pub(super) number: u64,
    /// Which user of this name: one that is added again begins at zero.
    pub(super) born: u64,
    pub(super) totals: Totals,
}

impl Counter {
    pub(super) fn encode(&self) -> String {
        let Totals {
            up,
            down,
            failures,
            last_seen,
            period,
            period_start,
            period_kind,
        } = self.totals;
        let numbers = [
            self.number,
            self.born,
            up,
            down,
            failures,
            last_seen,
            period,
            period_start,
        ];
        let mut text = String::new();
        for number in numbers {
            text.push_str(&number.min(MOST).to_string());
            text.push(' ');
        }
        text.push_str(&period_kind.to_string());
        text
    }

    pub(super) fn decode(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        let mut number = || {
            let number: u64 = words.next()?.parse().ok()?;
            (number <= MOST).then_some(number)
        };
        let (rev, born) = (number()?, number()?);
        let totals = Totals {
            up: number()?,
            down: number()?,
            failures: number()?,
            last_seen: number()?,
            period: number()?,
            period_start: number()?,
            period_kind: number()?.try_into().ok()?,
        };
        words.next().is_none().then_some(Self {
            number: rev,
            born,
            totals,
        })
    }
}

/// A user that the admin API has changed, added or removed.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Record {
    /// When, in milliseconds since 1970.
    pub(super) number: u64,
    pub(super) born: u64,
    /// What the config states of it: its digest.
    pub(super) base: Option<[u8; 32]>,
    /// What it is; `None`: it was removed.
    pub(super) now: Option<Stated>,
}

/// What a user is.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Stated {
    pub(super) password: Zeroizing<String>,
    pub(super) limits: Limits,
}

/// A record as JSON.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Written {
    born: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    base: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    password: Option<Zeroized>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rate: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    quota: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    period: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    connections: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ips: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires: Option<u64>,
}

#[derive(Serialize, Deserialize)]
#[serde(transparent)]
struct Zeroized(String);

impl Drop for Zeroized {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.0);
    }
}

/// A day of the month, or one of these.
const ONCE: u8 = 100;
const DAILY: u8 = 101;

impl Record {
    pub(super) fn encode(&self) -> Zeroizing<String> {
        let mut written = Written {
            born: self.born,
            base: self.base.map(|base| STANDARD.encode(base)),
            ..Written::default()
        };
        if let Some(Stated { password, limits }) = &self.now {
            written.password = Some(Zeroized(password.to_string()));
            written.rate = limits.rate;
            written.quota = limits.quota.map(|(bytes, _)| bytes);
            written.period = limits.quota.map(|(_, period)| match period {
                Period::Once => ONCE,
                Period::Daily => DAILY,
                Period::Monthly(day) => day,
            });
            written.connections = limits.max_connections;
            written.ips = limits.max_ips;
            written.expires = limits.expires;
        }
        // Plain numbers and strings can always be written.
        let json = Zeroizing::new(serde_json::to_string(&written).unwrap_or_default());
        Zeroizing::new(format!("{} {}", self.number, *json))
    }

    pub(super) fn decode(text: &str) -> Option<Self> {
        let (number, json) = text.split_once(' ')?;
        let number: u64 = number.parse().ok()?;
        let mut written: Written = serde_json::from_str(json).ok()?;
        let base = match &written.base {
            None => None,
            Some(base) => Some(STANDARD.decode(base).ok()?.try_into().ok()?),
        };
        let period = match written.period {
            None => Period::Monthly(1),
            Some(ONCE) => Period::Once,
            Some(DAILY) => Period::Daily,
            Some(day @ 1..=31) => Period::Monthly(day),
            Some(_) => return None,
        };
        let now = written.password.take().map(|mut password| Stated {
            password: Zeroizing::new(std::mem::take(&mut password.0)),
            limits: Limits {
                rate: written.rate.filter(|rate| *rate > 0),
                quota: written.quota.map(|bytes| (bytes, period)),
                max_connections: written.connections,
                max_ips: written.ips,
                expires: written.expires,
            },
        });
        (number <= MOST).then_some(Self {
            number,
            born: written.born,
            base,
            now,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn entries_are_read_as_they_were_written() {
        let key = Key::Counter(Node(0xab), "a name".into());
        assert_eq!(key.encode(), "c00000000000000aba name");
        assert_eq!(Key::decode(&key.encode()), Some(key));
        let nameless = Key::Counter(Node(u64::MAX), "".into());
        assert_eq!(Key::decode(&nameless.encode()), Some(nameless));
        let ended = Key::Ended(Node(0xab));
        assert_eq!(ended.encode(), "r00000000000000ab");
        assert_eq!(Key::decode(&ended.encode()), Some(ended));
        let user = Key::User("né".into());
        assert_eq!(Key::decode(&user.encode()), Some(user));

        let counter = Counter {
            number: 7,
            born: 8,
            totals: Totals {
                up: 1,
                down: 2,
                failures: 3,
                last_seen: 4,
                period: 5,
                period_start: 6,
                period_kind: 101,
            },
        };
        assert_eq!(counter.encode(), "7 8 1 2 3 4 5 6 101");
        assert_eq!(Counter::decode(&counter.encode()), Some(counter));

        for now in [
            None,
            Some(Stated {
                password: "p".to_owned().into(),
                limits: Limits {
                    rate: Some(1),
                    quota: Some((2, Period::Monthly(31))),
                    max_connections: Some(3),
                    max_ips: None,
                    expires: Some(4),
                },
            }),
        ] {
            let record = Record {
                number: 9,
                born: 1,
                base: Some([3; 32]),
                now,
            };
            assert!(Record::decode(&record.encode()) == Some(record));
        }
    }

    proptest! {
        /// Others may have written anything.
        #[test]
        fn any_text_is_an_entry_or_none(text in "\\PC*", words in "[0-9 ]{0,60}", json in "[0-9]{1,20} [{}a-z0-9:\",]{0,60}") {
            for text in [text, words, json] {
                let _ = (Key::decode(&text), Counter::decode(&text), Record::decode(&text));
            }
        }
    }
}
