//! A tun device: the network interface whose packets we are given.
//!
//! - `device`: opens it, reads and writes packets, long ones of offload included.
//! - `stack`: decides about each packet; `nat`: which connection a port stands for.
//! - `ends`: its addresses; `fragments`: puts long datagrams together.
//! - [`handover`]: receives it from another program.
//! - `netlink`: gives it addresses, and finds those that it has; `routes`: what leads into it (`auto_route`).
//!
//! [`super::udp`] serves it as a packet socket: datagrams come out, and everything else is done inside.

pub mod device;
mod ends;
mod fragments;
pub mod handover;
mod nat;
pub mod routes;
mod setup;
mod stack;

pub use ends::Ends;
pub use nat::Flow;
pub use setup::{configure, ends_of};
pub use stack::Connections;

use std::net::SocketAddr;
use std::sync::Arc;

use device::Opened;
use stack::Side;

pub(super) use device::Device;
pub(super) use fragments::Fragments;
pub(super) use stack::{Stack, Verdict, pieces};

/// A device that is ready to be served as a packet socket.
pub struct Tun {
    opened: Opened,
    stack: Stack,
    dns: Option<SocketAddr>,
}

impl Tun {
    /// With the port that our listener has at each of the device's addresses, `None` if TCP is not served. Queries that
    /// programs send to port 53 of any address go to `dns`, if there is one.
    #[must_use]
    pub fn new(
        opened: Opened,
        sides: impl IntoIterator<Item = (Ends, Option<u16>)>,
        connections: Arc<Connections>,
        dns: Option<SocketAddr>,
    ) -> Self {
        let side = |(ends, listener)| Side { ends, listener };
        Self {
            opened,
            stack: Stack {
                sides: sides.into_iter().map(side).collect(),
                connections,
            },
            dns,
        }
    }

    pub(super) fn into_parts(self) -> (Opened, Stack, Option<SocketAddr>) {
        (self.opened, self.stack, self.dns)
    }
}
