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

/// Refuses a timestamp that differs from `now` by more than [`MAX_TIME_SKEW`]; both in Unix seconds.
pub(super) fn check_time(timestamp: u64, now: u64) -> Result<(), Error> {
    if timestamp.abs_diff(now) <= MAX_TIME_SKEW {
        return Ok(());
    }
    let ahead = i64::try_from(timestamp.abs_diff(now)).unwrap_or(i64::MAX);
    Err(Error::TimestampSkew {
        seconds: if timestamp > now { ahead } else { -ahead },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_names_the_allowed_skew() {
        let error = Error::TimestampSkew { seconds: 31 };
        let allowed = format!("at most {MAX_TIME_SKEW} s");
        assert!(error.to_string().contains(&allowed), "{error}");
    }
}
