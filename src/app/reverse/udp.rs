//! The server's side of visitors that send datagrams. Each has a flow on the link.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;

use crate::app::worker::Phase;
use crate::inbound::forward::packets::ForwardPackets;
use crate::net::sync::lock;
use crate::net::udp::{self, Sender};
use crate::relay::Counters;
use crate::relay::link::Handle;
use crate::relay::link::limits::MAX_FLOWS;
use crate::relay::udp::framing::{Decoder, Encoder};
use crate::relay::udp::{Destination, PacketOutbound, Relay, Upstream};
use crate::wire::reverse::MAX_PAYLOAD;
use crate::wire::{Address, AddressRef};

/// The senders to the visitors of a link's flows, by the flows' ids.
#[derive(Default)]
pub(super) struct Flows(Mutex<HashMap<u64, Sender>>);

impl Flows {
    /// Sends a reply to the visitor of flow `id`. A full queue drops it.
    pub(super) fn answer(&self, id: u64, bytes: &[u8]) {
        if let Some(visitor) = lock(&self.0).get(&id) {
            visitor.send(bytes);
        }
    }

    /// Forgets a flow, and with it ends its visitor's association.
    pub(super) fn remove(&self, id: u64) {
        lock(&self.0).remove(&id);
    }
}

/// The public port of a service that takes datagrams.
pub(super) struct Public {
    pub(super) bound: SocketAddr,
    pub(super) link: Handle,
    pub(super) service: u64,
    pub(super) flows: Arc<Flows>,
}

impl Public {
    /// Serves `socket` until the link drains or the socket fails.
    pub(super) async fn serve(
        self,
        socket: udp::Socket,
        idle: Duration,
        counters: Arc<Counters>,
        mut phase: watch::Receiver<Phase>,
    ) {
        let capacity = NonZeroUsize::new(MAX_FLOWS).unwrap_or(NonZeroUsize::MIN);
        let inbound = ForwardPackets(self.bound.into());
        let relay = Arc::new(Relay::new(inbound, self, capacity, idle, counters));
        tokio::select! {
            _ = phase.wait_for(|phase| *phase >= Phase::Drain) => {}
            result = relay.serve(Arc::new(socket)) => if let Err(error) = result {
                tracing::warn!(%error, "reverse: a public UDP port failed");
            }
        }
    }
}

impl PacketOutbound for Public {
    fn associate(&self, visitor: SocketAddr, _: bool) -> io::Result<Upstream> {
        let opened = self
            .link
            .connect_flow(self.service, visitor.into(), self.bound.into());
        let flow = Flow {
            id: opened.ok_or(io::ErrorKind::NotConnected)?,
            link: self.link.clone(),
            flows: Arc::clone(&self.flows),
        };
        let id = flow.id;
        let (socket, sender) = udp::Socket::with_sender(move |datagram| flow.send(datagram));
        lock(&self.flows.0).insert(id, sender);
        Ok(Upstream {
            server: socket.peer().map(Address::Ip),
            socket,
            encoder: Encoder::Bare,
            decoder: Decoder::PassOn,
            check: None,
            answers: None,
        })
    }

    fn locate(&self, link: AddressRef<'_>, _: bool) -> Destination {
        Destination::Address(link.socket_addr())
    }

    async fn resolve(&self, _: &Address, _: bool) -> Option<SocketAddr> {
        None
    }
}

/// The flow of one visitor, which ends when this is dropped.
struct Flow {
    id: u64,
    link: Handle,
    flows: Arc<Flows>,
}

impl Flow {
    /// Sends a datagram. One that a frame cannot hold is lost, as on a path that is too narrow.
    fn send(&self, datagram: &[u8]) -> bool {
        let fits = datagram.len() <= MAX_PAYLOAD;
        if fits {
            self.link.datagram(self.id, datagram);
        }
        fits
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        self.flows.remove(self.id);
        self.link.reset(self.id);
    }
}
