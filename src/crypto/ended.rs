//! What is remembered of AEAD-2022 packet sessions that have ended: without it, their packets could begin them anew.

use std::time::Duration;

use super::generations::Generations;

/// A client's session: its id, and the index of its user.
pub type SessionKey = (u64, Option<usize>);

/// Sessions that have ended, with the greatest packet id of each.
///
/// They are kept for at least `keep`, as salts are in a [`SaltPool`](super::SaltPool): as long as a packet of them may still
/// be in time. Only if more than `capacity / 2` sessions end within that time, the oldest are forgotten early.
#[derive(Debug)]
pub struct EndedSessions(Generations<SessionKey, u64>);

impl EndedSessions {
    /// Starts empty, for at most `capacity` sessions (at least 2).
    #[must_use]
    pub fn new(keep: Duration, capacity: usize) -> Self {
        Self(Generations::new(Some(keep), capacity / 2))
    }

    /// Remembers a session that ends at the time `now` of a monotonic clock, with the greatest packet id and the latest
    /// timestamp that it has accepted.
    pub fn insert(&mut self, session: SessionKey, greatest: u64, timestamp: u64, now: Duration) {
        self.0.insert(session, greatest, Some(timestamp), now);
    }

    /// The greatest packet id of a session that begins again, if it is remembered.
    #[must_use]
    pub fn greatest(&self, session: SessionKey) -> Option<u64> {
        self.0.get(&session)
    }

    /// Whether a session with a packet of this timestamp may be one that was forgotten.
    #[must_use]
    pub fn may_have_forgotten(&self, timestamp: u64) -> bool {
        Some(timestamp) <= self.0.forgotten()
    }

    /// How often sessions may have been forgotten early.
    #[must_use]
    pub const fn forgotten_early(&self) -> u64 {
        self.0.forgotten_early()
    }

    /// The sessions with the greatest packet id of each, the oldest first; the greatest timestamp among them; and that of those
    /// forgotten.
    pub fn contents(
        &self,
    ) -> (
        impl Iterator<Item = (SessionKey, u64)>,
        Option<u64>,
        Option<u64>,
    ) {
        let sessions = self.0.entries().map(|(key, greatest)| (*key, greatest));
        (sessions, self.0.latest(), self.0.forgotten())
    }

    /// Takes over what another process remembers, at the time `now`.
    pub fn restore(
        &mut self,
        sessions: impl Iterator<Item = (SessionKey, u64)>,
        (latest, forgotten): (Option<u64>, Option<u64>),
        now: Duration,
    ) {
        for (session, greatest) in sessions {
            self.0.insert(session, greatest, latest, now);
        }
        self.0.note_forgotten(forgotten);
    }

    /// Number of sessions remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether no session is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEEP: Duration = Duration::from_secs(60);

    #[test]
    fn a_session_is_remembered_as_long_as_its_packets_are_in_time() {
        let mut ended = EndedSessions::new(KEEP, 100);
        let at = Duration::from_secs;
        ended.insert((1, None), 17, 1000, at(0));
        ended.insert((1, Some(0)), 3, 1000, at(0));
        ended.insert((2, None), 0, 1059, at(59));
        assert_eq!(ended.greatest((1, None)), Some(17));
        assert_eq!(ended.greatest((1, Some(0))), Some(3));
        assert_eq!(ended.greatest((1, Some(1))), None);
        assert!(!ended.may_have_forgotten(1000));
        for minute in [2, 3, 4] {
            ended.insert((3, None), 0, 1000 + 60 * minute, at(60 * minute));
        }
        assert_eq!(ended.greatest((1, None)), None);
        assert!(ended.may_have_forgotten(1059) && !ended.may_have_forgotten(1210));
    }

    #[test]
    fn there_are_no_more_than_stated() {
        let mut ended = EndedSessions::new(KEEP, 100);
        for session in 0..1000 {
            ended.insert((session, None), 0, 1000, Duration::ZERO);
            assert!(ended.len() <= 100);
        }
        assert!(ended.greatest((950, None)).is_some() && ended.forgotten_early() > 0);
    }
}
