//! Begins sessions.

use super::session::{Role, Session};
use super::{h2, padding, smux, yamux};
use crate::net::Stream;
use crate::wire::multiplex::{Head, Protocol};

/// The session over `stream`, of which the head has been read or written.
pub(super) fn session(stream: Stream, head: Head, role: Role) -> Box<dyn Session> {
    let stream = if head.padding {
        padding::padded(stream)
    } else {
        stream
    };
    match head.protocol {
        Protocol::Smux => Box::new(smux::Smux::new(stream, role)),
        Protocol::Yamux => Box::new(yamux::Yamux::new(stream, role)),
        Protocol::H2 => match role {
            Role::Client => Box::new(h2::Client::new(stream)),
            Role::Server => Box::new(h2::Server::new(stream)),
        },
    }
}
