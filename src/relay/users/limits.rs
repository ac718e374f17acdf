//! What a user may use, and why one is refused.

use super::period::Period;

/// What a user may use. The default is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Bytes a second, in each direction.
    pub rate: Option<u64>,
    /// Bytes within a period, in both directions together.
    pub quota: Option<(u64, Period)>,
    /// TCP streams and UDP associations at once.
    pub max_connections: Option<u32>,
    /// Addresses at once: devices, where each has an address of its own. The 64-bit network of IPv6 is one.
    pub max_ips: Option<u32>,
    /// When its time is over, in seconds since 1970.
    pub expires: Option<u64>,
}

/// Why a user may not go on, or may not begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// `quota_bytes` of this period is used up.
    #[error("the user's `quota_bytes` is used up")]
    Quota,
    /// `expires` is over.
    #[error("the user's time (`expires`) is over")]
    Expired,
    /// `max_connections` is reached.
    #[error("the user's `max_connections` is reached")]
    Connections,
    /// `max_ips` is reached.
    #[error("the user's `max_ips` is reached: its other addresses are in use")]
    Addresses,
}

impl Refusal {
    /// A short name for a metric label or a log field.
    #[must_use]
    pub const fn status(self) -> &'static str {
        match self {
            Self::Quota => "quota",
            Self::Expired => "expired",
            Self::Connections => "max_connections",
            Self::Addresses => "max_ips",
        }
    }

    /// Those that end flows that run, by their number in `User::shut`.
    pub(super) const ENDING: [Self; 2] = [Self::Quota, Self::Expired];
}
