//! Says in the log whose handshakes failed, and why: a line for each source and cause, and then how many more there were.
//!
//! The log only: the peer gets no byte of it.

use std::fmt;

use super::failed::Noted;
use crate::net::sampled::{self, Source};

/// Ends that are no failure of a request: nothing, or too little, came of it, or the fault is ours.
const NOT_SAID: [&str; 4] = [
    "handshake_end",
    "handshake_timeout",
    "client_io",
    "no_resources",
];

/// What the lines are counted by.
struct Cause<'a>(Source, &'a Noted<'a>);

impl fmt::Display for Cause<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(source, noted) = self;
        write!(f, "{source} {}", noted.status)?;
        noted.user.map_or(Ok(()), |user| write!(f, " {user}"))
    }
}

/// Says that a client was refused before its request was served.
pub(super) fn say(noted: &Noted<'_>) {
    if NOT_SAID.contains(&noted.status) {
        return;
    }
    let source = Source(noted.peer.ip());
    let (network, user) = (noted.network.name(), noted.user);
    let (status, error) = (noted.status, noted.error);
    sampled::warn!(by Cause(source, noted), "a client was refused", %source, network, user, status, %error);
}
