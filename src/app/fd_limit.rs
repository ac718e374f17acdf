//! The limit of open files, and the number of connections that it allows.

use crate::config::Limits;
use crate::limits::CONNECTION_FILES;
use crate::limits::OWN_FILES;

/// One in this many files is reserved for UDP associations and spare connections.
const RESERVED_SHARE: u64 = 8;

/// The number of clients that the process can serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Capacity {
    /// Connections.
    pub(super) connections: usize,
    /// Connections that may be in their handshake at the same time: at most half of all, or silent strangers would keep
    /// everybody out.
    pub(super) handshakes: usize,
}

impl Capacity {
    /// What `limits` ask for, reduced to what `files` are enough for, so that every accepted connection can be served.
    /// `None`: files are not limited.
    pub(super) fn of(limits: &Limits, files: Option<u64>) -> Self {
        let enough = files.map_or(usize::MAX, |files| {
            let left = files.saturating_sub(files / RESERVED_SHARE + OWN_FILES);
            usize::try_from(left / CONNECTION_FILES).unwrap_or(usize::MAX)
        });
        let connections = limits.connections.min(enough).max(1);
        Self {
            connections,
            handshakes: limits.handshakes.min(connections.div_ceil(2)),
        }
    }
}

/// Raises the limit of open files to `wanted`, or to what the system grants. Returns the limit.
pub(super) fn raise(wanted: Option<u64>) -> Option<u64> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let current = wanted.or(limit.maximum);
    let maximum = match (limit.maximum, current) {
        (Some(maximum), Some(current)) => Some(maximum.max(current)),
        _ => limit.maximum,
    };
    // Only root may raise the hard limit; otherwise use all of it.
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
        tracing::warn!(%error, "cannot raise the limit of open files; fewer connections are accepted");
    }
    getrlimit(Resource::Nofile).current
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
            "with hardly any, one connection after the other"
        );
    }

    #[test]
    fn strangers_never_have_all_places() {
        assert_eq!(capacity(100, 4_096, None), (100, 50));
        assert_eq!(capacity(1, 4_096, None), (1, 1));
    }
}
