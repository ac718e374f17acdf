//! Connects straight to the target.

use std::io;
use std::net::SocketAddr;

use super::dialer::Dialer;
use crate::relay::Error;
use crate::relay::tcp::{Leg, Outbound, Request};
use crate::relay::udp::codec::{Unwrap, Wrap};
use crate::relay::udp::{Located, PacketOutbound, Upstream};
use crate::wire::{Address, AddressRef};

/// Resolves and dials each target itself.
#[derive(Clone)]
pub struct Direct(pub Dialer);

impl Outbound for Direct {
    fn may_confirm_early(&self) -> bool {
        false
    }

    async fn connect(&self, request: &Request) -> Result<Leg, Error> {
        let first = request.speaks_first();
        let stream = self.0.dial(&request.target, request.trusted, first).await?;
        Ok(Leg::plain(stream))
    }
}

impl PacketOutbound for Direct {
    fn open(&self, sealed: bool) -> io::Result<Upstream> {
        Ok(Upstream {
            socket: self.0.udp_socket()?,
            server: None,
            wrap: Wrap::Bare,
            unwrap: if sealed { Unwrap::Sealed } else { Unwrap::Bare },
            carrying: None,
        })
    }

    fn locate(&self, target: AddressRef<'_>, trusted: bool) -> Located {
        self.0.locate(target, trusted)
    }

    async fn resolve(&self, target: &Address, trusted: bool) -> Option<SocketAddr> {
        self.0.resolve(target, trusted).await
    }
}
