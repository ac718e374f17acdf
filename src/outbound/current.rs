//! Servers that can be replaced by others while they are in use.
//!
//! What goes through a server goes on through it; only new requests see the new servers.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, RwLock};

use super::shadowsocks::Servers;
use crate::net::sync::{read, write};
use crate::relay::Error;
use crate::relay::failed::{Asked, Way};
use crate::relay::tcp::{Leg, Outbound, Request};
use crate::relay::udp::{Destination, PacketOutbound, Upstream};
use crate::wire::{Address, AddressRef};

/// The servers that are used now.
#[derive(Clone)]
pub struct Current(Arc<RwLock<Servers>>);

impl From<Servers> for Current {
    fn from(servers: Servers) -> Self {
        Self(Arc::new(RwLock::new(servers)))
    }
}

impl Current {
    /// The servers that are used now.
    #[must_use]
    pub fn now(&self) -> Servers {
        read(&self.0).clone()
    }

    /// Uses others from now on.
    pub fn replace(&self, servers: Servers) {
        // What the operator has chosen stays chosen, if it is still there.
        if let Some(chosen) = self.now().preferred() {
            let _ = servers.prefer(Some(chosen));
        }
        let before = std::mem::replace(&mut *write(&self.0), servers);
        before.retire();
    }

    /// Opens a stream to `target`.
    ///
    /// # Errors
    /// Those of [`Servers::reach`].
    pub async fn reach(&self, target: AddressRef<'_>) -> Result<Leg, Error> {
        let servers = self.now();
        servers.reach(target).await
    }
}

impl Outbound for Current {
    fn may_confirm_early(&self, request: &Request) -> bool {
        self.now().may_confirm_early(request)
    }

    async fn connect(&self, request: &Request) -> Result<Leg, Error> {
        let servers = self.now();
        servers.connect(request).await
    }

    fn way(&self, asked: &Asked<'_>) -> Way {
        self.now().way(asked)
    }
}

impl PacketOutbound for Current {
    fn associate(&self, client: SocketAddr, fixed_target: bool) -> io::Result<Upstream> {
        self.now().associate(client, fixed_target)
    }

    fn locate(&self, server: AddressRef<'_>, trusted: bool) -> Destination {
        self.now().locate(server, trusted)
    }

    async fn resolve(&self, server: &Address, trusted: bool) -> Option<SocketAddr> {
        let servers = self.now();
        servers.resolve(server, trusted).await
    }

    fn packet_way(&self, target: &Address) -> Way {
        self.now().packet_way(target)
    }
}
