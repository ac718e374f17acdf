//! Refuses replayed streams and packets: those whose salt has been seen before.
//!
//! Packets of AEAD-2022 methods carry ids instead of salts. Their replays are found by the window of their session
//! ([`crate::wire::ss::packet::ServerPackets::open`]).

use std::sync::Mutex;

use tokio::time::Instant;

use crate::crypto::{Family, Method, ReplayPolicy, SaltPool};
use crate::limits::PACKET_SALTS;
use crate::limits::SALT_LIFETIME;
use crate::limits::STREAM_SALTS;
use crate::net::sampled;
use crate::net::sync::lock;
use crate::wire::ss::Salt;
use crate::wire::{self, ss::packet::has_sessions};

/// The salts that a server has seen, and what it does about a repeated one.
pub struct ReplayFilter {
    policy: ReplayPolicy,
    seen: Mutex<SaltPool>,
    /// The zero of the pool's clock.
    start: Instant,
}

impl ReplayFilter {
    /// A filter for streams. AEAD-2022 methods reject replays whatever the `policy`.
    #[must_use]
    pub fn for_streams(method: Method, policy: ReplayPolicy) -> Self {
        match method.family() {
            Family::Aead2022 => {
                let pool = SaltPool::new(Some(SALT_LIFETIME), STREAM_SALTS);
                Self::new(ReplayPolicy::Reject, pool)
            }
            Family::Aead2017 | Family::Plain => {
                Self::new(policy, SaltPool::new(None, STREAM_SALTS))
            }
        }
    }

    /// A filter for packets. It ignores those that have ids.
    #[must_use]
    pub fn for_packets(method: Method, policy: ReplayPolicy) -> Self {
        let policy = if has_sessions(method) {
            ReplayPolicy::Ignore
        } else {
            policy
        };
        Self::new(policy, SaltPool::new(None, PACKET_SALTS))
    }

    fn new(policy: ReplayPolicy, seen: SaltPool) -> Self {
        Self {
            policy,
            seen: Mutex::new(seen),
            start: Instant::now(),
        }
    }

    /// Remembers the salt of a stream or packet and refuses it if it was seen before. Call it only after
    /// authentication, so that nobody without the key can use up a salt that they overheard.
    ///
    /// # Errors
    /// [`wire::Error::Replayed`].
    pub fn admit(&self, salt: &Salt) -> Result<(), wire::Error> {
        if self.remember(salt) {
            return Ok(());
        }
        if self.policy == ReplayPolicy::Reject {
            return Err(wire::Error::Replayed);
        }
        sampled::warn!(
            "a salt was used twice: a replay, a duplicated packet, or a client with bad random numbers"
        );
        Ok(())
    }

    /// Remembers a salt; returns whether it is new. Methods without encryption have no salts.
    pub fn remember(&self, salt: &Salt) -> bool {
        self.policy == ReplayPolicy::Ignore
            || salt.as_slice().is_empty()
            || lock(&self.seen).insert(salt.as_slice(), self.start.elapsed())
    }
}
