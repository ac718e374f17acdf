//! A Shadowsocks server as a client reaches it.

use std::sync::Arc;

use tokio::time::{Instant, timeout_at};

use super::dialer::Dialer;
use super::request_leg;
use super::ways::Fallback;
use crate::net::dial::SpeaksFirst;
use crate::net::plugin::Entrance;
use crate::net::{self, Stream, quic, transport};
use crate::relay::Error;
use crate::relay::replay::ClientReplays;
use crate::relay::tcp::Leg;
use crate::wire::ss::Credentials;
use crate::wire::{Address, AddressRef};

/// One server: where it is, the keys it expects, and how to connect to it.
pub struct Endpoint {
    /// Its address.
    pub address: Address,
    /// Its method and keys.
    pub credentials: Credentials,
    /// Refuses answers that are none to what was just sent.
    pub replays: ClientReplays,
    /// Connects to it.
    pub dialer: Dialer,
    /// The layers between TCP and Shadowsocks; `None`: bare TCP.
    pub transport: Option<transport::Client>,
    /// QUIC in the place of TCP.
    pub quic: Option<Arc<quic::Client>>,
    /// TCP beside QUIC, where a network blocks UDP.
    pub fallback: Option<Fallback>,
    /// The plugin through which streams go; `None`: they go to the address.
    pub stream_plugin: Option<Arc<Entrance>>,
    /// The plugin through which datagrams go; `None`: they go to the address.
    pub packet_plugin: Option<Arc<Entrance>>,
}

impl Endpoint {
    /// Opens a connection that is ready for Shadowsocks and on which `first` speaks first. With a transport, its client
    /// always does.
    ///
    /// # Errors
    /// Those of [`Dialer::dial`], and [`Error::Connect`] when the server does not agree to the transport in time.
    pub async fn dial(&self, first: SpeaksFirst) -> Result<Stream, Error> {
        self.dial_by(first, self.quic.clone()).await
    }

    /// The same; over QUIC, in a connection that no other flow uses.
    ///
    /// # Errors
    /// As there.
    pub(super) async fn dial_alone(&self, first: SpeaksFirst) -> Result<Stream, Error> {
        let quic = self.quic.as_ref().map(|quic| Arc::new(quic.alone()));
        self.dial_by(first, quic).await
    }

    async fn dial_by(
        &self,
        first: SpeaksFirst,
        quic: Option<Arc<quic::Client>>,
    ) -> Result<Stream, Error> {
        if let Some(plugin) = &self.stream_plugin {
            let entrance = Address::Ip(plugin.address());
            return self.dialer.dial(&entrance, true, first).await;
        }
        let Some(quic) = quic else {
            return self.by_tcp(first).await;
        };
        let (addresses, port) = (
            self.dialer.addresses(&self.address).await?,
            self.address.port(),
        );
        match &self.fallback {
            None => Ok(quic.open(&addresses, port).await?),
            Some(fallback) => {
                // That the socket can be written to must mean that it is connected.
                let beside = self.by_tcp(SpeaksFirst::Unknown);
                let opened = Box::pin(fallback.open(&quic, &addresses, port, beside)).await;
                opened.inspect_err(|_| fallback.forget())
            }
        }
    }

    /// Whether packets go in datagrams of QUIC on the network as it is now, and not in streams.
    pub(super) async fn sends_datagrams(&self, quic: &Arc<quic::Client>) -> Result<bool, Error> {
        let Some(fallback) = &self.fallback else {
            return Ok(true);
        };
        let addresses = self.dialer.addresses(&self.address).await?;
        let beside = self.by_tcp(SpeaksFirst::Unknown);
        let by_quic = fallback.is_by_quic(quic, &addresses, self.address.port(), beside);
        Ok(Box::pin(by_quic).await)
    }

    async fn by_tcp(&self, first: SpeaksFirst) -> Result<Stream, Error> {
        let Some(transport) = &self.transport else {
            return self.dialer.dial(&self.address, true, first).await;
        };
        // One time limit for both.
        let limit = self.dialer.connect_timeout;
        let deadline = Instant::now() + limit;
        let stream = self
            .dialer
            .dial(&self.address, true, SpeaksFirst::Us)
            .await?;
        let upgraded = timeout_at(deadline, Box::pin(transport.upgrade(stream))).await;
        let seconds = limit.as_secs();
        Ok(upgraded.unwrap_or(Err(net::Error::TransportTimeout { seconds }))?)
    }

    /// Has what is connected go on from the network as it is now, where it can.
    pub fn network_changed(&self) {
        if let Some(quic) = &self.quic {
            quic.network_changed();
        }
        if let Some(fallback) = &self.fallback {
            fallback.network_changed();
        }
    }

    /// Where datagrams to the server go.
    #[must_use]
    pub fn packet_address(&self) -> Address {
        let plugin = self.packet_plugin.as_ref();
        plugin.map_or_else(
            || self.address.clone(),
            |plugin| Address::Ip(plugin.address()),
        )
    }

    /// Makes `stream`, a connection to this server, the upstream leg of a relay to `target`.
    #[must_use]
    pub fn leg(&self, stream: Stream, target: AddressRef<'_>) -> Leg {
        request_leg::leg((&self.credentials, &self.replays), stream, target)
    }
}
