//! What is done with each packet of a tun device. No IO: a packet in, and what becomes of it out.
//!
//! TCP is left to the kernel. A program's segment gets the addresses of our listener and goes back into the device; what the
//! listener answers gets those of the program:
//!
//! ```text
//! program ── S → D ──> device ──> other:P → own:L ──> listener of ssr
//!         <─ D → S ───        <── own:L → other:P ──
//! ```
//!
//! `own` is the address of the device, `other` an address of its network that nobody has, L the port of the listener, and
//! P stands for S and D (see [`super::nat`]). Datagrams are handed over as they are. Echo requests are answered here.

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::sync::{Arc, Mutex};

use super::ends::Ends;
use super::nat::{Flow, Nat, Way};
use crate::net::sync::lock;
use crate::wire::Error;
use crate::wire::ip::tcp::{self, Segment};
use crate::wire::ip::udp::Datagram;
use crate::wire::ip::{Checksums, ICMP, ICMP_V6, Packet, TCP, UDP, icmp};

/// The ends of one IP version, and the port of our listener there.
#[derive(Clone, Copy, Debug)]
pub(in crate::net) struct Side {
    pub(super) ends: Ends,
    /// `None`: TCP is not served.
    pub(super) listener: Option<u16>,
}

/// The packets of one device.
pub(in crate::net) struct Stack {
    pub(super) sides: Vec<Side>,
    pub(super) connections: Arc<Connections>,
}

/// The connections that were opened through a device.
pub struct Connections(Mutex<Nat>);

impl Default for Connections {
    fn default() -> Self {
        Self(Mutex::new(Nat::new()))
    }
}

impl Connections {
    /// The connection that the listener of a device has accepted from `peer`.
    #[must_use]
    pub fn accept(&self, peer: SocketAddr) -> Option<Flow> {
        let flow = lock(&self.0).accept(peer.port())?;
        (flow.source.is_ipv4() == peer.ip().to_canonical().is_ipv4()).then_some(flow)
    }
}

/// What becomes of a packet.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::net) enum Verdict {
    /// It goes back into the device, with the changes that were made to it.
    Return,
    /// This packet goes into the device instead: the first bytes of the buffer, with complete checksums.
    Answer(usize),
    /// It is a part of a datagram.
    Fragment(Packet),
    /// It carries data for another address.
    Datagram(Datagram),
    /// Nothing: nobody here has use for it.
    Drop,
}

impl Stack {
    /// Decides about the packet in `bytes`, which may be changed.
    pub(in crate::net) fn handle(
        &self,
        bytes: &mut [u8],
        checksums: Checksums,
        answer: &mut [u8; tcp::MAX_RESET],
    ) -> Result<Verdict, Error> {
        let mut packet = Packet::parse(bytes)?;
        if !is_unicast(packet.source) || !is_unicast(packet.destination) {
            return Ok(Verdict::Drop);
        }
        if packet.fragment.is_some() {
            // Programs send long datagrams only; TCP fits into the MTU.
            return match packet.protocol {
                UDP => Ok(Verdict::Fragment(packet)),
                _ => Err(Error::IpFragment),
            };
        }
        match packet.protocol {
            TCP => self.segment(&mut packet, bytes, checksums, answer),
            UDP => self.datagram(&packet, bytes, checksums),
            ICMP | ICMP_V6 => Ok(match icmp::answer_echo(&mut packet, bytes, checksums)? {
                true => Verdict::Return,
                false => Verdict::Drop,
            }),
            _ => Ok(Verdict::Drop),
        }
    }

    /// Decides about a datagram, whose packet may have been put together from fragments.
    pub(in crate::net) fn datagram(
        &self,
        packet: &Packet,
        bytes: &[u8],
        checksums: Checksums,
    ) -> Result<Verdict, Error> {
        let datagram = Datagram::parse(packet, bytes, checksums)?;
        let is_addressed = datagram.source.port() != 0 && datagram.destination.port() != 0;
        Ok(match is_addressed && !self.is_inside(packet.destination) {
            true => Verdict::Datagram(datagram),
            false => Verdict::Drop,
        })
    }

    fn segment(
        &self,
        packet: &mut Packet,
        bytes: &mut [u8],
        checksums: Checksums,
        answer: &mut [u8; tcp::MAX_RESET],
    ) -> Result<Verdict, Error> {
        let segment = Segment::parse(packet, bytes)?;
        let is_v4 = packet.source.is_ipv4();
        let side = self
            .sides
            .iter()
            .find(|side| side.ends.own.is_ipv4() == is_v4);
        let listener = side.and_then(|side| side.listener.map(|port| (side.ends, port)));
        let readdressed = match listener {
            Some((ends, port)) if segment.source == SocketAddr::new(ends.own, port) => {
                if segment.destination.ip() != ends.other {
                    return Ok(Verdict::Drop);
                }
                self.down(&segment)
            }
            Some((ends, port)) if !self.is_inside(packet.destination) => {
                self.up(&segment).map(|known| {
                    let listener = SocketAddr::new(ends.own, port);
                    (SocketAddr::new(ends.other, known), listener)
                })
            }
            _ => None,
        };
        let Some(addresses) = readdressed else {
            return Ok(segment.reset(answer).map_or(Verdict::Drop, Verdict::Answer));
        };
        tcp::readdress(packet, bytes, checksums, addresses)?;
        Ok(Verdict::Return)
    }

    /// The port that stands for a program's connection; `None`: it has none, and does not begin.
    fn up(&self, segment: &Segment) -> Option<u16> {
        let flow = Flow {
            source: segment.source,
            destination: segment.destination,
        };
        if self.is_inside_other(flow.source.ip()) {
            return None;
        }
        let mut nat = lock(&self.connections.0);
        let port = if segment.opens() {
            nat.begin(flow)
        } else {
            nat.port(&flow)?
        };
        note_end(&mut nat, port, segment, Way::Up);
        Some(port)
    }

    /// The addresses of what the listener sends to a program.
    fn down(&self, segment: &Segment) -> Option<(SocketAddr, SocketAddr)> {
        let port = segment.destination.port();
        let mut nat = lock(&self.connections.0);
        let flow = nat.flow(port)?;
        if flow.source.is_ipv4() != segment.source.is_ipv4() {
            return None;
        }
        note_end(&mut nat, port, segment, Way::Down);
        Some((flow.destination, flow.source))
    }

    /// Whether an address is one of the device: no request leads there.
    pub(in crate::net) fn is_inside(&self, ip: IpAddr) -> bool {
        let mut ends = self.sides.iter().map(|side| side.ends);
        ends.any(|ends| ends.own == ip || ends.other == ip)
    }

    fn is_inside_other(&self, ip: IpAddr) -> bool {
        self.sides.iter().any(|side| side.ends.other == ip)
    }
}

fn note_end(nat: &mut Nat, port: u16, segment: &Segment, way: Way) {
    if segment.ends() || segment.aborts() {
        nat.end(port, way, segment.aborts());
    }
}

/// Whether an address is that of one host.
fn is_unicast(ip: IpAddr) -> bool {
    let is_broadcast = match ip {
        IpAddr::V4(v4) => v4.is_broadcast(),
        IpAddr::V6(_) => false,
    };
    !ip.is_unspecified() && !ip.is_multicast() && !ip.is_loopback() && !is_broadcast
}

/// Where the single datagrams stand in what a sender left to the device to separate: each of `segment` bytes, but the last.
pub(in crate::net) fn pieces(
    data: Range<usize>,
    segment: usize,
) -> impl Iterator<Item = Range<usize>> {
    let step = if segment == 0 {
        data.len().max(1)
    } else {
        segment
    };
    let count = data.len().div_ceil(step).max(1);
    (0..count).map(move |index| {
        let start = data.start + index * step;
        start..data.end.min(start + step)
    })
}

#[cfg(test)]
mod tests;
