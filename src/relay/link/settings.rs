//! The settings of a link, and its two roles.

use std::time::Duration;

/// Settings of a link.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// The role of this side.
    pub role: LinkRole,
    /// The interval between pings. A peer that sends nothing for
    /// [`MISSED_HEARTBEATS`](super::limits::MISSED_HEARTBEATS) intervals is considered dead.
    pub heartbeat: Duration,
}

/// Which side of the link this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkRole {
    /// Accepted the link; visitors connect to this side.
    Server,
    /// Dialled the link; the services are near this side.
    Client,
}

impl LinkRole {
    /// The first stream id of this side; it uses every second id from there.
    #[must_use]
    pub const fn first_id(self) -> u64 {
        match self {
            Self::Server => 2,
            Self::Client => 1,
        }
    }

    /// Whether this side assigns `id`.
    pub(super) const fn owns(self, id: u64) -> bool {
        id != 0 && id % 2 == self.first_id() % 2
    }
}
