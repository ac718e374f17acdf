//! Connects to a target that speaks WebSocket.

use tokio::time::timeout;

use super::dialer::Dialer;
use crate::net::dial::SpeaksFirst;
use crate::net::{self, transport};
use crate::relay::Error;
use crate::relay::tcp::{Leg, Outbound, Request};

/// Connects to a target and upgrades the connection to WebSocket.
pub struct WebSocket {
    /// Connects to the target.
    pub dialer: Dialer,
    /// The layers over TCP.
    pub transport: transport::Client,
}

impl Outbound for WebSocket {
    fn may_confirm_early(&self, _: &Request) -> bool {
        false
    }

    async fn connect(&self, request: &Request) -> Result<Leg, Error> {
        let connect = async {
            let (target, trusted) = (&request.target, request.trusted);
            let stream = self.dialer.dial(target, trusted, SpeaksFirst::Us).await?;
            Ok(self.transport.upgrade(stream).await?)
        };
        // One time limit for connecting and upgrading.
        let limit = self.dialer.connect_timeout;
        let stream = timeout(limit, connect).await.unwrap_or_else(|_| {
            Err(Error::Connect(net::Error::ConnectTimeout {
                seconds: limit.as_secs(),
            }))
        })?;
        Ok(Leg::plain(stream))
    }
}
