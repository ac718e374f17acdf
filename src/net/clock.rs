//! The clock, and the time limit of a farewell.

use std::sync::LazyLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How long the last bytes to a peer may take before its connection is closed without them.
pub const FAREWELL: Duration = Duration::from_secs(1);

/// The time in Unix seconds; a clock before 1970 is taken for 1970.
#[must_use]
pub fn unix_now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |time| time.as_secs())
}

/// Microseconds of a clock that never goes back, and begins again at 0 every 71 minutes.
#[must_use]
pub fn ticks() -> u32 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    let passed = START.elapsed().as_micros() & u128::from(u32::MAX);
    u32::try_from(passed).unwrap_or_default()
}
