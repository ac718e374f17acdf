//! What is known of the servers, and the one that the operator has chosen.

use std::sync::atomic::Ordering::Relaxed;

use super::{Inner, Key, Kind, Servers};
use crate::outbound::server::ServerState;
use crate::outbound::ways::Fallback;

impl Servers {
    /// What is known of each server, in the order of the config.
    #[must_use]
    pub fn states(&self) -> Vec<ServerState> {
        let inner = &self.0;
        let key = Key {
            turn: inner.turn.load(Relaxed),
            hash: 0,
        };
        let next = inner.order(Kind::Tcp, key).first().copied();
        let chosen = inner.chosen.load(Relaxed);
        let servers = inner.servers.iter().enumerate();
        servers
            .map(|(place, server)| ServerState {
                name: server.name.to_string(),
                address: server.endpoint.address.to_string(),
                way: server.endpoint.fallback.as_ref().map(Fallback::way),
                is_next: next == Some(place),
                is_chosen: chosen == place,
                has_failed: server.health.has_failed(),
                latency: server
                    .health
                    .latency()
                    .or_else(|| server.health.dial_time()),
                streams: (inner.tcp.len() > 1).then(|| server.health.streams()),
                failures: server.health.failures(),
            })
            .collect()
    }

    /// Sends new requests through the server of this name, or by the balancer again. A server that cannot be reached is
    /// still replaced by the next one. Returns whether there is such a server.
    #[must_use]
    pub fn prefer(&self, name: Option<&str>) -> bool {
        let servers = &self.0.servers;
        let place = match name {
            None => usize::MAX,
            Some(name) => match servers.iter().position(|one| *one.name == *name) {
                Some(place) => place,
                None => return false,
            },
        };
        self.0.chosen.store(place, Relaxed);
        true
    }

    /// The name of the server that the operator has chosen.
    pub(in crate::outbound) fn preferred(&self) -> Option<&str> {
        let place = self.0.chosen.load(Relaxed);
        self.0.servers.get(place).map(|server| &*server.name)
    }
}

impl Inner {
    /// Moves the server that the operator has chosen to the front.
    pub(super) fn prefer_chosen(&self, order: &mut [usize]) {
        let chosen = self.chosen.load(Relaxed);
        if let Some(at) = order.iter().position(|place| *place == chosen) {
            let front = order.get_mut(..=at).unwrap_or_default();
            front.rotate_right(1);
        }
    }
}
