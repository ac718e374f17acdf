//! Refuses what was seen before: streams and packets with a salt that came or went already, and packets of sessions that
//! have ended.
//!
//! Packets of AEAD-2022 methods carry ids instead of salts. While their session lasts, its window finds replays
//! ([`crate::wire::ss::packet::ServerPackets::open`]).
//!
//! All ages are those of a monotonic clock. Whether a timestamp is in time is judged by the clock of the machine, which may be
//! set; but no timestamp is in time that is older than the process, since nothing is known of what came before.

mod record;
mod shared;

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use tokio::time::Instant;

use crate::crypto::{
    EndedSessions, Family, LANES, Method, ReplayPolicy, SaltPool, SaltRefusal, ended::SessionKey,
};
use crate::limits::{
    CLIENT_SALTS, DATED_SALTS, ENDED_SESSIONS, IN_FLIGHT, PACKET_SALTS, SALT_LIFETIME, STREAM_SALTS,
};
use crate::net::sync::lock;
use crate::net::{sampled, unix_now};
use crate::relay::group::Group;
use crate::wire::ss::stream::SaltMemory;
use crate::wire::ss::{MAX_TIME_SKEW, Now, Salt};
use crate::wire::{self, ss::packet::has_sessions};
use shared::Shared;
pub use shared::{Answerer, IsNew, Question, Salts};

/// The salts that were seen, and what is done about a repeated one.
pub struct ReplayFilter {
    policy: ReplayPolicy,
    /// Sent ones have a pool of their own: much that is sent does not push out what was received.
    received: Mutex<SaltPool>,
    sent: Mutex<SaltPool>,
    clock: Clock,
    /// Whether salts are forgotten by age. Otherwise the clock is not read for each packet.
    by_age: bool,
    /// Whether it was said that too many salts come.
    said: AtomicBool,
    /// Other servers that refuse what this one has served.
    shared: OnceLock<Shared>,
}

impl ReplayFilter {
    /// A filter of a server, for streams. AEAD-2022 methods reject replays whatever the `policy`.
    #[must_use]
    pub fn for_streams(method: Method, policy: ReplayPolicy) -> Self {
        match method.family() {
            Family::Aead2022 => Self::new(ReplayPolicy::Reject, Some(SALT_LIFETIME), DATED_SALTS),
            Family::Aead2017 | Family::Plain => Self::new(policy, None, STREAM_SALTS),
        }
    }

    /// A filter of a server, for packets. It ignores those that have ids.
    #[must_use]
    pub fn for_packets(method: Method, policy: ReplayPolicy) -> Self {
        let policy = if has_sessions(method) {
            ReplayPolicy::Ignore
        } else {
            policy
        };
        Self::new(policy, None, PACKET_SALTS)
    }

    fn for_client(policy: ReplayPolicy) -> Self {
        Self::new(policy, None, CLIENT_SALTS)
    }

    fn new(policy: ReplayPolicy, keep: Option<Duration>, capacity: usize) -> Self {
        let pool = || Mutex::new(SaltPool::new(keep, capacity));
        Self {
            policy,
            received: pool(),
            sent: pool(),
            clock: Clock::default(),
            by_age: keep.is_some(),
            said: AtomicBool::new(false),
            shared: OnceLock::new(),
        }
    }

    /// Refuses from now on what other servers of `group` have served, too.
    pub fn share(&self, salts: Salts, group: Group, method: Method) {
        if self.policy == ReplayPolicy::Reject {
            let _first = self.shared.set(Shared::new(salts, group, method));
        }
    }

    /// Whether a salt that this server has admitted is new to the others; `None`: there are none, or they cannot be asked.
    #[must_use]
    pub fn ask_others(&self, salt: &Salt) -> Option<IsNew> {
        self.shared.get()?.ask(salt)
    }

    /// The time by which timestamps are judged.
    #[must_use]
    pub fn now(&self) -> Now {
        self.clock.now()
    }

    /// Remembers the salt of a stream or packet that was received, with its timestamp if it has one, and refuses it if it was
    /// seen before. Call it only after authentication, so that nobody without the key can use up a salt that they overheard.
    ///
    /// # Errors
    /// [`wire::Error::Replayed`] or [`wire::Error::Stale`].
    pub fn admit(&self, salt: &Salt, timestamp: Option<u64>) -> Result<(), wire::Error> {
        let salt = salt.as_slice();
        if self.policy == ReplayPolicy::Ignore || salt.is_empty() {
            return Ok(());
        }
        let age = self.age();
        let admitted = match lock(&self.sent).contains(salt) {
            true => Err(SaltRefusal::Known),
            false => {
                let mut received = lock(&self.received);
                let admitted = received.admit(salt, timestamp, age);
                if received.forgotten_early() > 0 && !self.said.swap(true, Relaxed) {
                    drop(received);
                    tracing::warn!(
                        most = DATED_SALTS / 2,
                        "more requests came within a minute than are remembered; a replay of the first ones would be served"
                    );
                }
                admitted
            }
        };
        match admitted {
            Ok(()) => Ok(()),
            Err(SaltRefusal::Forgotten) => Err(wire::Error::Stale),
            Err(SaltRefusal::Known) if self.policy == ReplayPolicy::Reject => {
                Err(wire::Error::Replayed)
            }
            Err(SaltRefusal::Known) => {
                sampled::warn!(
                    "a salt was used twice: a replay, a duplicated packet, or a client with bad random numbers"
                );
                Ok(())
            }
        }
    }

    /// The same for `packet`, an opened one of a method without sessions. Opening leaves the salt in front of it.
    ///
    /// # Errors
    /// [`wire::Error::Replayed`].
    pub fn admit_packet(&self, method: Method, packet: &[u8]) -> Result<(), wire::Error> {
        let salt = Salt::read(method, packet).ok_or(wire::Error::Truncated)?;
        self.admit(&salt, None)
    }

    /// Remembers a salt that is sent: under AEAD-2017 methods, what is sent opens as what is received.
    pub fn note_sent(&self, salt: &Salt) {
        self.note_all_sent(&[*salt]);
        if let Some(shared) = self.shared.get() {
            shared.note(salt);
        }
    }

    fn age(&self) -> Duration {
        match self.by_age {
            true => self.clock.age(),
            false => Duration::ZERO,
        }
    }

    fn note_all_sent(&self, salts: &[Salt]) {
        if self.policy == ReplayPolicy::Ignore {
            return;
        }
        let age = self.age();
        let mut sent = lock(&self.sent);
        for salt in salts {
            // Chance repeats none.
            let _ = sent.insert(salt.as_slice(), age);
        }
    }
}

impl SaltMemory for ReplayFilter {
    fn admit(&self, salt: &Salt) -> Result<(), wire::Error> {
        Self::admit(self, salt, None)
    }
}

/// The random bytes of a packet's salt; `sent` remembers it.
#[must_use]
pub fn salt(method: Method, sent: Option<&Arc<ReplayFilter>>) -> [u8; 32] {
    let random = rand::random();
    if let Some(sent) = sent {
        sent.note_sent(&Salt::new(method, random));
    }
    random
}

/// The same for several packets.
#[must_use]
pub fn salts(method: Method, sent: Option<&Arc<ReplayFilter>>) -> [[u8; 32]; LANES] {
    let random: [[u8; 32]; LANES] = rand::random();
    if let Some(sent) = sent {
        sent.note_all_sent(&random.map(|random| Salt::new(method, random)));
    }
    random
}

/// What `ssr local` has sent to servers and received from them under AEAD-2017 methods, whose answers do not say what they
/// answer. AEAD-2022 methods need none of this.
#[derive(Clone)]
pub struct ClientReplays {
    streams: Arc<ReplayFilter>,
    packets: Arc<ReplayFilter>,
}

impl ClientReplays {
    /// Starts without salts.
    #[must_use]
    pub fn new(policy: ReplayPolicy) -> Self {
        Self {
            streams: Arc::new(ReplayFilter::for_client(policy)),
            packets: Arc::new(ReplayFilter::for_client(policy)),
        }
    }

    /// The filter for streams under `method`, if it needs one.
    #[must_use]
    pub fn streams(&self, method: Method) -> Option<&Arc<ReplayFilter>> {
        (method.family() == Family::Aead2017).then_some(&self.streams)
    }

    /// The filter for packets under `method`, if it needs one.
    #[must_use]
    pub fn packets(&self, method: Method) -> Option<Arc<ReplayFilter>> {
        (method.family() == Family::Aead2017).then(|| Arc::clone(&self.packets))
    }
}

/// The sessions of a server that have ended.
#[derive(Clone)]
pub struct SessionMemory(Arc<Sessions>);

struct Sessions {
    ended: Mutex<EndedSessions>,
    clock: Clock,
    /// Whether it was said that too many sessions end.
    said: AtomicBool,
}

impl Default for SessionMemory {
    fn default() -> Self {
        Self(Arc::new(Sessions {
            ended: Mutex::new(EndedSessions::new(SALT_LIFETIME, ENDED_SESSIONS)),
            clock: Clock::default(),
            said: AtomicBool::new(false),
        }))
    }
}

impl SessionMemory {
    /// Whether a session that begins with a packet of this timestamp may begin, and the greatest packet id that it accepted
    /// before, if it began before.
    ///
    /// # Errors
    /// [`wire::Error::Stale`]: it may be one that was forgotten.
    pub fn begin(&self, session: SessionKey, timestamp: u64) -> Result<Option<u64>, wire::Error> {
        let ended = lock(&self.0.ended);
        match ended.greatest(session) {
            None if ended.may_have_forgotten(timestamp) => Err(wire::Error::Stale),
            greatest => Ok(greatest),
        }
    }

    /// Remembers a session that ends, with the greatest packet id and the latest timestamp that it has accepted.
    pub fn end(&self, session: SessionKey, greatest: u64, timestamp: u64) {
        let age = self.0.clock.age();
        let mut ended = lock(&self.0.ended);
        ended.insert(session, greatest, timestamp, age);
        if ended.forgotten_early() > 0 && !self.0.said.swap(true, Relaxed) {
            drop(ended);
            tracing::warn!(
                most = ENDED_SESSIONS / 2,
                "more UDP sessions ended within a minute than are remembered; a replay of the first ones would be served"
            );
        }
    }
}

/// Runs from the start of the process.
struct Clock {
    start: Instant,
    /// Whether everything that is in time by the clock of the machine was sent since the start.
    settled: AtomicBool,
}

impl Default for Clock {
    fn default() -> Self {
        Self {
            start: Instant::now(),
            settled: AtomicBool::new(false),
        }
    }
}

impl Clock {
    fn age(&self) -> Duration {
        self.start.elapsed()
    }

    fn now(&self) -> Now {
        let now = unix_now();
        if self.settled.load(Relaxed) {
            return Now::from(now);
        }
        let known = (self.age() + IN_FLIGHT).as_secs();
        self.settled.store(known > MAX_TIME_SKEW, Relaxed);
        Now {
            unix: now,
            oldest: now.saturating_sub(known),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    const OLD: Method = Method::Aes256Gcm;
    const NEW: Method = Method::Blake3Aes128Gcm;

    fn numbered(method: Method, number: u64) -> Salt {
        let mut random = [0; 32];
        random[8..16].copy_from_slice(&number.to_be_bytes());
        random[24..].copy_from_slice(&number.to_be_bytes());
        Salt::new(method, random)
    }

    /// What was served again before: 11 s later, behind 270,000 others.
    #[tokio::test(start_paused = true)]
    async fn a_request_of_2022_is_remembered_behind_300_000_others() {
        let filter = ReplayFilter::for_streams(NEW, ReplayPolicy::Ignore);
        let recorded = numbered(NEW, 0);
        let now = unix_now();
        filter.admit(&recorded, Some(now)).unwrap();
        for number in 1..=300_000 {
            filter.admit(&numbered(NEW, number), Some(now)).unwrap();
        }
        tokio::time::advance(Duration::from_secs(11)).await;
        let replayed = Err(wire::Error::Replayed);
        assert_eq!(filter.admit(&recorded, Some(now)), replayed);
        tokio::time::advance(Duration::from_secs(49)).await;
        filter.admit(&numbered(NEW, u64::MAX), Some(now)).unwrap();
        assert_eq!(filter.admit(&recorded, Some(now)), replayed);
        assert!(!filter.said.load(Relaxed));
    }

    #[tokio::test(start_paused = true)]
    async fn memory_for_requests_has_a_bound_which_is_said() {
        let filter = ReplayFilter::new(ReplayPolicy::Reject, Some(SALT_LIFETIME), 1000);
        let salts = 1001;
        for number in 0..salts {
            assert!(!filter.said.load(Relaxed), "{number}");
            filter.admit(&numbered(NEW, number), Some(1000)).unwrap();
        }
        assert!(lock(&filter.received).len() <= 1000);
        assert!(filter.said.load(Relaxed));
        assert!(filter.admit(&numbered(NEW, salts - 1), Some(1000)).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_older_than_the_process_is_too_old() {
        let clock = Clock::default();
        let now = clock.now();
        assert_eq!(now.unix - now.oldest, IN_FLIGHT.as_secs());
        tokio::time::advance(Duration::from_secs(20)).await;
        let now = clock.now();
        assert_eq!(now.unix - now.oldest, 20 + IN_FLIGHT.as_secs());
        tokio::time::advance(Duration::from_secs(20)).await;
        clock.now();
        assert_eq!(clock.now().oldest, 0);
    }

    #[test]
    fn what_was_sent_is_refused_when_it_comes_back() {
        let replays = ClientReplays::new(ReplayPolicy::Reject);
        assert!(replays.streams(NEW).is_none() && replays.packets(NEW).is_none());
        let filter = replays.packets(OLD).unwrap();
        for random in salts(OLD, Some(&filter))
            .into_iter()
            .chain([salt(OLD, Some(&filter))])
        {
            let sent = Salt::new(OLD, random);
            assert_eq!(filter.admit(&sent, None), Err(wire::Error::Replayed));
        }
        let answer = numbered(OLD, 1);
        assert_eq!(filter.admit(&answer, None), Ok(()));
        assert_eq!(filter.admit(&answer, None), Err(wire::Error::Replayed));
    }

    #[test]
    fn memory_of_a_client_is_bounded() {
        let replays = ClientReplays::new(ReplayPolicy::Reject);
        let filter = replays.streams(OLD).unwrap();
        for number in 0..3 * CLIENT_SALTS as u64 {
            filter.note_sent(&numbered(OLD, 2 * number));
            filter.admit(&numbered(OLD, 2 * number + 1), None).unwrap();
        }
        assert!(lock(&filter.sent).len() <= CLIENT_SALTS);
        assert!(lock(&filter.received).len() <= CLIENT_SALTS);
        assert!(!filter.said.load(Relaxed), "there are no timestamps");
    }
}
