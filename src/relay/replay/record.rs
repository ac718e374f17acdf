//! What a process has seen, as bytes for the process that takes its place.
//!
//! ```text
//! salts      { count u32be ‖ latest u64be ‖ forgotten u64be ‖ salt[8]×count } of those received, then of those sent
//! sessions   count u32be ‖ latest u64be ‖ forgotten u64be ‖ { id u64be ‖ user u64be ‖ greatest packet id u64be }×count
//! ```
//!
//! A timestamp of 0 is none; a user of 2^64-1 is the one without an id.

use std::sync::Mutex;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::{Clock, ReplayFilter, SessionMemory};
use crate::crypto::SaltPool;
use crate::crypto::ended::SessionKey;
use crate::crypto::salt_pool::KEPT_LEN;
use crate::net::sync::lock;

/// Bytes of a session.
const SESSION_LEN: usize = 24;
const NO_USER: u64 = u64::MAX;

/// The latest timestamp of what is remembered, and of what was forgotten.
type Times = (Option<u64>, Option<u64>);

impl ReplayFilter {
    /// Appends what it has seen.
    pub fn record(&self, out: &mut Vec<u8>) {
        for pool in [&self.received, &self.sent] {
            let pool = lock(pool);
            let (salts, latest, forgotten) = pool.contents();
            write_all(out, salts, (latest, forgotten), |out, salt| {
                out.extend_from_slice(salt);
            });
        }
    }

    /// Takes over what another has seen. `None`: that is not what the bytes are.
    #[must_use]
    pub fn restore(&self, mut bytes: &[u8]) -> Option<()> {
        let age = self.clock.age();
        for pool in [&self.received, &self.sent] {
            restore_salts(pool, &mut bytes, age)?;
        }
        self.clock.settle();
        bytes.is_empty().then_some(())
    }
}

fn restore_salts(pool: &Mutex<SaltPool>, bytes: &mut &[u8], age: Duration) -> Option<()> {
    let (salts, times) = read_all(bytes, KEPT_LEN)?;
    lock(pool).restore(salts.chunks_exact(KEPT_LEN), times, age);
    Some(())
}

impl SessionMemory {
    /// Appends the sessions that have ended.
    pub fn record(&self, out: &mut Vec<u8>) {
        let ended = lock(&self.0.ended);
        let (sessions, latest, forgotten) = ended.contents();
        write_all(out, sessions, (latest, forgotten), |out, session| {
            let ((id, user), greatest) = session;
            let user = user.and_then(|user| u64::try_from(user).ok());
            for number in [id, user.unwrap_or(NO_USER), greatest] {
                out.extend_from_slice(&number.to_be_bytes());
            }
        });
    }

    /// Takes over the sessions of another. `None`: that is not what the bytes are.
    #[must_use]
    pub fn restore(&self, mut bytes: &[u8]) -> Option<()> {
        let (sessions, times) = read_all(&mut bytes, SESSION_LEN)?;
        let sessions = sessions.chunks_exact(SESSION_LEN).filter_map(session);
        let age = self.0.clock.age();
        lock(&self.0.ended).restore(sessions, times, age);
        bytes.is_empty().then_some(())
    }
}

impl Clock {
    /// What came before this process is known: another has told.
    fn settle(&self) {
        self.settled.store(true, Relaxed);
    }
}

fn session(bytes: &[u8]) -> Option<(SessionKey, u64)> {
    let mut bytes = bytes;
    let (id, user, greatest) = (
        number(&mut bytes)?,
        number(&mut bytes)?,
        number(&mut bytes)?,
    );
    let user = match user {
        NO_USER => None,
        user => Some(usize::try_from(user).ok()?),
    };
    Some(((id, user), greatest))
}

fn write_all<T>(
    out: &mut Vec<u8>,
    entries: impl Iterator<Item = T>,
    (latest, forgotten): Times,
    mut write: impl FnMut(&mut Vec<u8>, T),
) {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    for time in [latest, forgotten] {
        out.extend_from_slice(&time.unwrap_or(0).to_be_bytes());
    }
    let mut count: u32 = 0;
    for entry in entries {
        write(out, entry);
        count = count.saturating_add(1);
    }
    if let Some(place) = out.get_mut(start..start + 4) {
        place.copy_from_slice(&count.to_be_bytes());
    }
}

/// The entries of `len` bytes each, and the timestamps before them.
fn read_all<'a>(bytes: &mut &'a [u8], len: usize) -> Option<(&'a [u8], Times)> {
    let (count, rest) = bytes.split_first_chunk::<4>()?;
    *bytes = rest;
    let mut time = || Some(number(bytes)?).map(|time| Some(time).filter(|time| *time > 0));
    let times = (time()?, time()?);
    let count = usize::try_from(u32::from_be_bytes(*count)).ok()?;
    let (entries, rest) = bytes.split_at_checked(count.checked_mul(len)?)?;
    *bytes = rest;
    Some((entries, times))
}

fn number(bytes: &mut &[u8]) -> Option<u64> {
    let (number, rest) = bytes.split_first_chunk::<8>()?;
    *bytes = rest;
    Some(u64::from_be_bytes(*number))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::crypto::{Method, ReplayPolicy};
    use crate::wire::ss::Salt;

    #[tokio::test]
    async fn what_one_process_has_seen_is_refused_by_the_next() {
        for method in [Method::Aes256Gcm, Method::Blake3Aes128Gcm] {
            let filter = || ReplayFilter::for_streams(method, ReplayPolicy::Reject);
            let (old, new) = (filter(), filter());
            let salts = [1, 2, 3].map(|byte| Salt::new(method, [byte; 32]));
            let time = crate::net::unix_now();
            for salt in &salts[..2] {
                old.admit(salt, Some(time)).unwrap();
            }
            old.note_sent(&salts[2]);
            let mut bytes = Vec::new();
            old.record(&mut bytes);
            new.restore(&bytes).unwrap();
            assert!(
                salts
                    .iter()
                    .all(|salt| new.admit(salt, Some(time)).is_err())
            );
            new.admit(&Salt::new(method, [4; 32]), Some(time)).unwrap();
            for len in 0..bytes.len() {
                assert!(filter().restore(&bytes[..len]).is_none());
            }
        }
    }

    #[tokio::test]
    async fn sessions_that_ended_in_one_process_go_on_in_the_next_after_their_last_packet() {
        let (old, new) = (SessionMemory::default(), SessionMemory::default());
        old.end((7, Some(1)), 40, 1000);
        old.end((8, None), 50, 1000);
        let mut bytes = Vec::new();
        old.record(&mut bytes);
        new.restore(&bytes).unwrap();
        assert_eq!(new.begin((7, Some(1)), 1001).unwrap(), Some(40));
        assert_eq!(new.begin((8, None), 1001).unwrap(), Some(50));
        assert_eq!(new.begin((9, None), 1001).unwrap(), None);
    }
}
