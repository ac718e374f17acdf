//! How many files the process may have open, and how many connections they are enough for.

use crate::config::Limits;

/// A connection and the one that is opened for it.
const CONNECTION_FILES: u64 = 2;
/// Files of the process itself: listeners, reactors, the log, name servers.
const OWN_FILES: u64 = 32;
/// One file in so many is left to associations and spare connections.
const OTHERS: u64 = 8;

/// How many clients the process has capacity for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Capacity {
    /// Connections.
    pub(super) connections: usize,
    /// Those of them that may be in their handshake: never all, or strangers who say nothing would keep everybody out.
    pub(super) handshakes: usize,
}

impl Capacity {
    /// What `limits` ask for, as far as `files` are enough for it: a connection that is accepted can then be served too.
    /// `None` is as many files as are wanted.
    pub(super) fn of(limits: &Limits, files: Option<u64>) -> Self {
        let enough = files.map_or(usize::MAX, |files| {
            let left = files.saturating_sub(files / OTHERS + OWN_FILES);
            usize::try_from(left / CONNECTION_FILES).unwrap_or(usize::MAX)
        });
        let connections = limits.connections.min(enough).max(1);
        Self {
            connections,
            handshakes: limits.handshakes.min(connections.div_ceil(2)),
        }
    }
}

/// Raises the number of files that may be open to `wanted`, or to all that the system grants. Returns how many may be.
#[cfg(unix)]
pub(super) fn raise(wanted: Option<u64>) -> Option<u64> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let current = wanted.or(limit.maximum);
    let maximum = match (limit.maximum, current) {
        (Some(maximum), Some(current)) => Some(maximum.max(current)),
        _ => limit.maximum,
    };
    // A hard limit may only be raised by root: then what there is will have to do.
    let set = setrlimit(Resource::Nofile, Rlimit { current, maximum }).or_else(|_| {
        setrlimit(
            Resource::Nofile,
            Rlimit {
                current: limit.maximum,
                maximum: limit.maximum,
            },
        )
    });
    if let Err(error) = set {
        tracing::warn!(%error, "cannot raise the number of open files");
    }
    getrlimit(Resource::Nofile).current
}

#[cfg(not(unix))]
pub(super) fn raise(_: Option<u64>) -> Option<u64> {
    None
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn capacity(connections: usize, handshakes: usize, files: Option<u64>) -> (usize, usize) {
        let limits = Limits {
            connections,
            handshakes,
            udp_associations: 1,
            memory_mib: 0,
        };
        let capacity = Capacity::of(&limits, files);
        (capacity.connections, capacity.handshakes)
    }

    #[test]
    fn limits_hold_where_files_are_enough() {
        assert_eq!(capacity(65_536, 4_096, Some(1 << 20)), (65_536, 4_096));
        assert_eq!(capacity(65_536, 4_096, None), (65_536, 4_096));
    }

    #[test]
    fn connections_have_the_files_they_need() {
        for files in [64, 256, 1_024, 4_096, 65_536] {
            let (connections, handshakes) = capacity(65_536, 65_536, Some(files));
            assert!(connections > 0 && 2 * connections < usize::try_from(files).unwrap());
            assert!(handshakes <= connections.div_ceil(2));
        }
        assert_eq!(
            capacity(65_536, 4_096, Some(8)),
            (1, 1),
            "with next to none, one after the other"
        );
    }

    #[test]
    fn strangers_never_have_all_places() {
        assert_eq!(capacity(100, 4_096, None), (100, 50));
        assert_eq!(capacity(1, 4_096, None), (1, 1));
    }
}
