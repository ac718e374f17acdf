//! Constants and checks of AEAD-2022 headers.

use crate::wire::Error;

/// How far a peer's clock may differ, in seconds (SIP022 §3.1.5).
pub const MAX_TIME_SKEW: u64 = 30;
/// The longest padding of a header, in bytes (SIP022 §3.1.3).
pub const MAX_PADDING: usize = 900;

/// Header type of data from a client (SIP022 §3.1.3).
pub(super) const TYPE_CLIENT: u8 = 0;
/// Header type of data from a server (SIP022 §3.1.3).
pub(super) const TYPE_SERVER: u8 = 1;

/// The time by which timestamps are judged.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// The time, in Unix seconds.
    pub unix: u64,
    /// The earliest timestamp that is accepted, in Unix seconds. What was sent before is not remembered.
    pub oldest: u64,
}

impl From<u64> for Now {
    /// Everything that is in time is accepted.
    fn from(unix: u64) -> Self {
        Self { unix, oldest: 0 }
    }
}

/// Refuses a timestamp that differs from the time by more than [`MAX_TIME_SKEW`], or is too old; in Unix seconds.
pub(super) fn check_time(timestamp: u64, time: Now) -> Result<(), Error> {
    let now = time.unix;
    if timestamp.abs_diff(now) <= MAX_TIME_SKEW {
        return match timestamp < time.oldest {
            true => Err(Error::Stale),
            false => Ok(()),
        };
    }
    let ahead = i64::try_from(timestamp.abs_diff(now)).unwrap_or(i64::MAX);
    Err(Error::TimestampSkew {
        seconds: if timestamp > now { ahead } else { -ahead },
    })
}
