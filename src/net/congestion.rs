//! Congestion control of TCP: the algorithm that decides how fast a connection sends, and which ones the system has.

use std::fs;
use std::io;

use socket2::{Domain, Protocol, SockRef, Socket, Type};

/// The longest name that the system takes (`TCP_CA_NAME_MAX`, which counts the zero at the end).
pub const LONGEST_NAME: usize = 15;

/// Why the system does not use an algorithm.
#[derive(Debug)]
pub enum Refused {
    /// It has none of this name.
    Missing,
    /// Only programs with CAP_NET_ADMIN may choose it.
    Forbidden,
    /// Another error of the system.
    Other(io::Error),
}

/// Tries the algorithm `name` on a new socket.
///
/// # Errors
/// Why the system refuses it.
pub fn try_out(name: &str) -> Result<(), Refused> {
    let of = |domain| Socket::new(domain, Type::STREAM, Some(Protocol::TCP));
    let socket = of(Domain::IPV4)
        .or_else(|_| of(Domain::IPV6))
        .map_err(Refused::Other)?;
    let set = socket.set_tcp_congestion(name.as_bytes());
    set.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Refused::Missing,
        io::ErrorKind::PermissionDenied => Refused::Forbidden,
        _ => Refused::Other(error),
    })
}

/// The algorithms that every program may choose, separated by spaces; empty: not known.
#[must_use]
pub fn allowed() -> String {
    setting("tcp_allowed_congestion_control")
}

/// The algorithms that are loaded, separated by spaces; empty: not known.
#[must_use]
pub fn available() -> String {
    setting("tcp_available_congestion_control")
}

/// Has a listener that began with another algorithm use that of the system again.
pub(super) fn reset(socket: &SockRef<'_>) -> io::Result<()> {
    match setting("tcp_congestion_control").as_str() {
        "" => Ok(()),
        name => socket.set_tcp_congestion(name.as_bytes()),
    }
}

/// A setting of the kernel for this network namespace.
fn setting(name: &str) -> String {
    let text = fs::read_to_string(format!("/proc/sys/net/ipv4/{name}"));
    text.unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn every_program_may_choose_reno_and_nobody_what_is_not_there() {
        try_out("reno").unwrap();
        assert!(allowed().split(' ').any(|name| name == "reno"));
        assert!(available().split(' ').any(|name| name == "reno"));
        let refused = try_out("no-such-one").unwrap_err();
        assert!(matches!(refused, Refused::Missing), "{refused:?}");
    }
}
