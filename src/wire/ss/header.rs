//! What the headers of AEAD-2022 streams and packets share.

use crate::wire::Error;

/// How far a peer's clock may be off, in seconds (SIP022 §3.1.5).
pub const MAX_TIME_SKEW: u64 = 30;
/// The longest padding of a header, in bytes (SIP022 §3.1.3).
pub const MAX_PADDING: usize = 900;

/// Header type of what a client sends (SIP022 §3.1.3).
pub(super) const TYPE_CLIENT: u8 = 0;
/// Header type of what a server sends (SIP022 §3.1.3).
pub(super) const TYPE_SERVER: u8 = 1;

/// Refuses a timestamp further than [`MAX_TIME_SKEW`] from `now`; both in Unix seconds.
pub(super) fn check_time(timestamp: u64, now: u64) -> Result<(), Error> {
    if timestamp.abs_diff(now) <= MAX_TIME_SKEW {
        return Ok(());
    }
    let ahead = i64::try_from(timestamp.abs_diff(now)).unwrap_or(i64::MAX);
    Err(Error::TimestampSkew {
        seconds: if timestamp > now { ahead } else { -ahead },
    })
}
