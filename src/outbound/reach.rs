//! Connects to a server, and notes whether that is possible.

use std::time::Duration;

use tokio::time::Instant;

use super::balancer::health::{Fault, Health};
use super::endpoint::Endpoint;
use crate::net::Stream;
use crate::net::dial::SpeaksFirst;
use crate::relay::Error;

/// Opens a connection. Notes in `health` whether that is possible, and returns how long it took.
pub(super) async fn dial(
    endpoint: &Endpoint,
    health: &Health,
) -> Result<(Stream, Duration), Error> {
    let begun = Instant::now();
    // The request header goes out at once, or after the short wait for first bytes.
    match endpoint.dial(SpeaksFirst::Us).await {
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
