//! Answers with fake addresses, at once and without a name server.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use super::asker::{Back, encode, parse};
use crate::dns::fake::{FakeNames, Family, can_have_address};
use crate::net::unix_now;
use crate::wire::dns::{Answer, CLASS_IN, Denial, Query, TYPE_A, TYPE_AAAA};

/// Whether a name, in lower case and without a final dot, gets no fake address, since this process has to connect to it.
pub type IsOwn = Box<dyn Fn(&str) -> bool + Send + Sync>;

/// What a `fake-dns` local answers.
pub struct Fake {
    names: Arc<FakeNames>,
    is_own: IsOwn,
    is_full: AtomicBool,
}

impl Fake {
    /// Answers with the addresses of `names`, but not for those that `is_own` knows.
    #[must_use]
    pub const fn new(names: Arc<FakeNames>, is_own: IsOwn) -> Self {
        Self {
            names,
            is_own,
            is_full: AtomicBool::new(false),
        }
    }

    /// Answers `message` into `out`; returns whether there is an answer.
    pub(super) fn ask(&self, message: &[u8], back: &Back, out: &mut Vec<u8>) -> bool {
        if let Some(query) = parse(message, out) {
            let answer = self.answer(&query);
            encode(&answer, &query, 0, back.limit(&query), out);
        }
        !out.is_empty()
    }

    /// The answer to `query`. Records without addresses exist for no name.
    fn answer(&self, query: &Query<'_>) -> Answer {
        let name = query.question.text();
        if (self.is_own)(&name) {
            return Answer::denied(query, Denial::Prohibited);
        }
        let family = match (query.question.class, query.question.kind) {
            (CLASS_IN, TYPE_A) => Family::V4,
            (CLASS_IN, TYPE_AAAA) => Family::V6,
            _ => return Answer::address(query, None),
        };
        // `localhost` is this machine (RFC 6761 §6.3), which needs no name server to know it.
        let is_this_machine = name == "localhost" || name.ends_with(".localhost");
        if is_this_machine || !can_have_address(&name) {
            return Answer::denied(query, Denial::NoHost);
        }
        let lifetime = self.names.settings().lifetime.as_secs();
        let ttl = u32::try_from(lifetime).unwrap_or(u32::MAX >> 1);
        let address = self.names.address(&name, family, unix_now());
        if self.is_full.swap(address.is_none(), Relaxed) != address.is_none() && address.is_none() {
            tracing::warn!(name, "all fake addresses are in use; new names are refused");
        }
        match address {
            Some(address) => Answer::address(query, Some((address, ttl))),
            None => Answer::denied(query, Denial::Full),
        }
    }
}
