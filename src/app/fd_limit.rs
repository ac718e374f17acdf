//! The limit of open files, and the number of connections that it allows.

use crate::config::{Config, Limits, Role};
use crate::limits::CONNECTION_FILES;
use crate::limits::OWN_FILES;

/// One in this many files is reserved for spare connections, answers to redirected datagrams and queries for names. UDP
/// associations have a share of their own (`udp_share.rs`).
const RESERVED_SHARE: u64 = 8;

/// The number of clients that the process can serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Capacity {
    /// Connections of users; where there are only visitors, as many as they.
    pub(super) connections: usize,
    /// Connections that may be in their handshake at the same time: at most half of all, or silent strangers would keep
    /// everybody out.
    pub(super) handshakes: usize,
    /// Visitors of reverse tunnels and clients of `forwards`; 0 if the config has neither.
    pub(super) visitors: usize,
    /// Those of them who may be in their handshake. They may be all: the silent ones make room.
    pub(super) visitors_handshakes: usize,
}

/// Whom a process serves.
#[derive(Clone, Copy)]
struct Kinds {
    users: bool,
    visitors: bool,
}

impl Capacity {
    /// What the limits of `config` ask for, reduced to what `files` are enough for, so that every accepted connection can be
    /// served. `None`: files are not limited.
    pub(super) fn of(config: &Config, files: Option<u64>) -> Self {
        let publishes = config.role == Role::Server && !config.reverse.allow.is_empty();
        let kinds = Kinds {
            users: config.role != Role::Forward,
            visitors: publishes || !config.forwards.is_empty() || !config.sites.is_empty(),
        };
        Self::with(&config.limits, kinds, files)
    }

    fn with(limits: &Limits, kinds: Kinds, files: Option<u64>) -> Self {
        let enough = files.map_or(usize::MAX, |files| {
            let left = files.saturating_sub(files / RESERVED_SHARE + OWN_FILES);
            usize::try_from(left / CONNECTION_FILES).unwrap_or(usize::MAX)
        });
        // Where files are few, neither kind has more than half of them that the other asks for.
        let of_users = if kinds.users { limits.connections } else { 0 };
        let of_visitors = if kinds.visitors { limits.visitors } else { 0 };
        let connections = of_users.min(enough - of_visitors.min(enough / 2)).max(1);
        let left = enough.saturating_sub(of_users.min(connections)).max(1);
        let visitors = of_visitors.min(left);
        let connections = if kinds.users {
            connections
        } else {
            visitors.max(1)
        };
        Self {
            connections,
            handshakes: limits.handshakes.min(connections.div_ceil(2)),
            visitors,
            visitors_handshakes: limits.handshakes.min(visitors),
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
            visitors: 65_536,
            udp_associations: 1,
            memory_mib: 0,
        };
        let kinds = Kinds {
            users: true,
            visitors: false,
        };
        let capacity = Capacity::with(&limits, kinds, files);
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
    fn users_and_visitors_share_few_files() {
        let limits = |connections, visitors| Limits {
            connections,
            handshakes: 4_096,
            visitors,
            udp_associations: 1,
            memory_mib: 0,
        };
        let of = |limits, files| {
            let kinds = Kinds {
                users: true,
                visitors: true,
            };
            let capacity = Capacity::with(&limits, kinds, files);
            (capacity.connections, capacity.visitors)
        };
        assert_eq!(of(limits(65_536, 65_536), None), (65_536, 65_536));
        // 1056 files are enough for 446 connections.
        assert_eq!(of(limits(65_536, 65_536), Some(1056)), (223, 223));
        assert_eq!(of(limits(100, 65_536), Some(1056)), (100, 346));
        assert_eq!(of(limits(65_536, 10), Some(1056)), (436, 10));
        assert_eq!(of(limits(65_536, 65_536), Some(8)), (1, 1));
        let forward = Kinds {
            users: false,
            visitors: true,
        };
        let all = Capacity::with(&limits(65_536, 65_536), forward, Some(1056));
        assert_eq!(all.visitors, 446, "`ssr forward` has no users");
    }

    #[test]
    fn strangers_never_have_all_places() {
        assert_eq!(capacity(100, 4_096, None), (100, 50));
        assert_eq!(capacity(1, 4_096, None), (1, 1));
    }
}
