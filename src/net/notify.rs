//! Tells the service manager what this process does (sd_notify(3)).

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

/// Sends `state` to the service manager, if there is one that listens.
pub fn notify(state: &str) {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    let address = match path.as_bytes().split_first() {
        Some((b'@', name)) => SocketAddr::from_abstract_name(name),
        _ => SocketAddr::from_pathname(&path),
    };
    let sent = address.and_then(|address| {
        let socket = UnixDatagram::unbound()?;
        socket.send_to_addr(state.as_bytes(), &address)
    });
    if let Err(error) = sent {
        tracing::debug!(%error, state, "the service manager cannot be told");
    }
}

/// Tells it that this process is alive, twice in the time in which it wants to hear that (`WatchdogSec=`).
///
/// `WATCHDOG_PID` does not matter: it is the first process's, and the one that takes over must go on.
pub async fn keep_alive() {
    let Some(time) = watchdog(std::env::var("WATCHDOG_USEC").ok().as_deref()) else {
        return;
    };
    let mut half = interval(time / 2);
    half.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        half.tick().await;
        notify("WATCHDOG=1");
    }
}

/// The time that is given in microseconds; half of it is at least one millisecond.
fn watchdog(micros: Option<&str>) -> Option<Duration> {
    let micros = micros?.parse().ok().filter(|micros| *micros > 0)?;
    Some(Duration::from_micros(micros).max(Duration::from_millis(2)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn watchdog_without_a_time_is_none() {
        assert_eq!(watchdog(Some("1000000")), Some(Duration::from_secs(1)));
        for none in [None, Some("0"), Some("x"), Some("-1")] {
            assert_eq!(watchdog(none), None, "{none:?}");
        }
    }
}
