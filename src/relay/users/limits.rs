//! What a user may use, and why one is refused.

use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

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
    /// The user is not there any more.
    #[error("the user was removed")]
    Removed,
    /// The user has another password now.
    #[error("the user's password was changed")]
    Password,
    /// The operator has ended this session.
    #[error("the operator closed the session")]
    Closed,
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
            Self::Removed => "removed",
            Self::Password => "password_changed",
            Self::Closed => "closed",
        }
    }

    /// All of them, by their number in an [`Ending`].
    const ALL: [Self; 7] = [
        Self::Quota,
        Self::Expired,
        Self::Connections,
        Self::Addresses,
        Self::Removed,
        Self::Password,
        Self::Closed,
    ];
}

/// Why something ends, if it does. It is read without a lock.
#[derive(Debug, Default)]
pub(super) struct Ending(AtomicU8);

impl Ending {
    /// Sets the reason, and returns whether it has changed.
    pub(super) fn set(&self, refusal: Option<Refusal>) -> bool {
        let place = |refusal| Refusal::ALL.iter().position(|other| *other == refusal);
        let number = refusal.and_then(place).map_or(0, |place| place + 1);
        let number = u8::try_from(number).unwrap_or(u8::MAX);
        self.0.swap(number, Relaxed) != number
    }

    pub(super) fn get(&self) -> Option<Refusal> {
        let number = usize::from(self.0.load(Relaxed));
        Refusal::ALL.get(number.checked_sub(1)?).copied()
    }
}
