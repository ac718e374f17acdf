//! Visitors that send datagrams. Each has a flow on the link.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use crate::app::worker::Phase;
use crate::inbound::forward::packets::ForwardPackets;
use crate::net::pool::{Buffer, Size};
use crate::net::sampled;
use crate::net::sync::lock;
use crate::net::udp::{self, Sender, mapped};
use crate::outbound::dialer::Dialer;
use crate::relay::Counters;
use crate::relay::link::limits::MAX_FLOWS;
use crate::relay::link::{Handle, Visitor};
use crate::relay::udp::framing::{Decoder, Encoder};
use crate::relay::udp::{Destination, PacketOutbound, Relay, Upstream};
use crate::wire::reverse::{Code, MAX_PAYLOAD};
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

/// The client's side of a flow: moves datagrams between its queue and a socket of its own, until nothing has moved for
/// `idle` or the server has ended the flow.
pub(super) async fn relay_visitor(
    dialer: Dialer,
    target: Address,
    visitor: Visitor,
    link: Handle,
    mut queue: mpsc::Receiver<Box<[u8]>>,
    idle: Duration,
) {
    let id = visitor.id;
    let socket = match connect(&dialer, &target).await {
        Ok(socket) => socket,
        Err(error) => {
            sampled::info!(by &target, "reverse: cannot reach the target of a UDP visitor", %target, %error);
            link.connect_result(id, Code::UNREACHABLE, error.to_string());
            return;
        }
    };
    loop {
        let moved = async {
            tokio::select! {
                _ = socket.readable() => {
                    let mut buffer = Buffer::take(Size::Small);
                    let (bytes, _, _) = buffer.parts();
                    let received = socket.try_recv(bytes);
                    if let Ok(len) = received && let Some(bytes) = bytes.get(..len).filter(|_| len <= MAX_PAYLOAD) {
                        link.datagram(id, bytes);
                    }
                    true
                }
                datagram = queue.recv() => match datagram {
                    Some(bytes) => {
                        // If the target is down, ICMP makes this fail. The target may be up again for the next.
                        let _ = socket.send(&bytes).await;
                        true
                    }
                    None => false,
                }
            }
        };
        match timeout(idle, moved).await {
            Ok(true) => {}
            Ok(false) => return,
            Err(_) => return link.reset(id),
        }
    }
}

async fn connect(dialer: &Dialer, target: &Address) -> io::Result<UdpSocket> {
    let resolved = dialer.resolve(target, true).await;
    let mut address = resolved.ok_or_else(|| io::Error::other("no usable address"))?;
    let socket = UdpSocket::from_std(dialer.options.outgoing_udp()?.into())?;
    if socket.local_addr()?.is_ipv6() {
        address = mapped(address);
    }
    socket.connect(address).await?;
    Ok(socket)
}
