//! Connects to a server, and notes whether that is possible.

use std::time::Duration;

use tokio::time::Instant;

use super::balancer::health::{Fault, Health};
use super::endpoint::Endpoint;
use crate::net::Stream;
use crate::net::dial::SpeaksFirst;
use crate::relay::Error;

/// What a request shares with others.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Sharing {
    /// A session, where streams share sessions.
    Session,
    /// Nothing but the connection of QUIC.
    Connection,
    /// Nothing.
    Alone,
}

impl Sharing {
    /// That of a request's first attempt, or of a later one.
    pub(super) const fn of(is_first: bool) -> Self {
        match is_first {
            true => Self::Session,
            false => Self::Connection,
        }
    }
}

/// Opens a connection; over QUIC, one that is for this stream `alone` if that is asked for. Notes in `health` whether that is possible, and returns how long it took.
pub(super) async fn dial(
    endpoint: &Endpoint,
    health: &Health,
    alone: bool,
) -> Result<(Stream, Duration), Error> {
    let begun = Instant::now();
    // The request header goes out at once, or after the short wait for first bytes.
    let dialled = match alone {
        true => endpoint.dial_alone(SpeaksFirst::Us).await,
        false => endpoint.dial(SpeaksFirst::Us).await,
    };
    match dialled {
        Ok(stream) => {
            let time = begun.elapsed();
            if health.connect(time) {
                let server = &endpoint.address;
                tracing::info!(%server, "server can be reached again");
            }
            Ok((stream, time))
        }
        Err(error) => {
            unreachable(endpoint, health, &error);
            Err(error)
        }
    }
}

/// Notes that a server cannot be reached.
pub(super) fn unreachable(endpoint: &Endpoint, health: &Health, error: &dyn std::fmt::Display) {
    if health.fail(Fault::Unreachable) {
        let server = &endpoint.address;
        tracing::warn!(%server, %error, "server cannot be reached");
    }
}
