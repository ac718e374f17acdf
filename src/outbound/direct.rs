//! Connects straight to the target.

use std::io;
use std::net::SocketAddr;

use super::dialer::{Client, Dialer};
use crate::relay::Error;
use crate::relay::failed::{Asked, Way};
use crate::relay::tcp::{Leg, Outbound, Request};
use crate::relay::udp::framing::{Decoder, Encoder};
use crate::relay::udp::{Destination, PacketOutbound, Upstream};
use crate::wire::{Address, AddressRef};

/// Resolves and dials each target itself.
#[derive(Clone)]
pub struct Direct(pub Dialer);

impl Outbound for Direct {
    fn may_confirm_early(&self, _: &Request) -> bool {
        false
    }

    async fn connect(&self, request: &Request) -> Result<Leg, Error> {
        let first = request.speaks_first();
        let client = Client {
            user: request.user.as_ref().and_then(|user| user.name()),
            ip: Some(request.peer.ip()),
        };
        let stream = self
            .0
            .dial_for(client, &request.target, request.trusted, first)
            .await?;
        Ok(Leg::plain(stream))
    }

    fn way(&self, asked: &Asked<'_>) -> Way {
        self.0.way(asked.target, asked.user, false)
    }
}

impl PacketOutbound for Direct {
    fn associate(&self, _: SocketAddr, fixed_target: bool) -> io::Result<Upstream> {
        Ok(Upstream {
            socket: self.0.udp_socket()?,
            server: None,
            encoder: Encoder::Bare,
            decoder: if fixed_target {
                Decoder::PassOn
            } else {
                Decoder::Bare
            },
            check: None,
            answers: None,
        })
    }

    fn locate(&self, target: AddressRef<'_>, trusted: bool) -> Destination {
        self.0.locate(target, trusted)
    }

    async fn resolve(&self, target: &Address, trusted: bool) -> Option<SocketAddr> {
        self.0.resolve(target, trusted).await
    }

    fn packet_way(&self, target: &Address) -> Way {
        self.0.way(Some(target), None, true)
    }

    fn locate_for(&self, user: Option<&str>, target: AddressRef<'_>, trusted: bool) -> Destination {
        self.0.locate_for(user, target, trusted)
    }

    async fn resolve_for(
        &self,
        (user, client): (Option<&str>, SocketAddr),
        target: &Address,
        trusted: bool,
    ) -> Option<SocketAddr> {
        let ip = Some(client.ip());
        self.0
            .resolve_for(Client { user, ip }, target, trusted)
            .await
    }
}
