//! A tun device as a packet socket. What programs send as TCP, and what else is not a datagram, is dealt with here.
//!
//! Datagrams have the form of [`super::transparent`]: in front is where they were sent to, or where they come from.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Instant;

use lru::LruCache;
use quinn_udp::{BATCH_SIZE, RecvMeta};

use super::batch::{Batch, MAX_DATAGRAM};
use super::transparent::{HEAD, may_answer, write_head};
use crate::limits::MAX_TUN_QUERIES;
use crate::net::sampled;
use crate::net::sync::lock;
use crate::net::tun::device::{Frame, MAX_FRAME, MAX_TOGETHER};
use crate::net::tun::{self, Device, Fragments, Verdict, pieces};
use crate::wire::ip::{Checksums, IPV6_HEADER, Packet, tcp, udp};
use crate::wire::{self, AddressRef};

/// Packets that are read before others get a turn.
const MAX_READ: usize = 64;
/// Bytes of data that are written together.
const MAX_JOINED: usize = 65_000;
/// The port of DNS.
const DNS: u16 = 53;

/// A device, and what it is in the middle of.
pub(super) struct Tun {
    device: Device,
    stack: tun::Stack,
    queries: Option<Queries>,
    reading: Mutex<Reading>,
    /// The identification of the last packet that was written: those that are fragmented must differ (RFC 6864).
    id: AtomicU16,
}

/// Where queries go, whatever name server programs ask.
struct Queries {
    server: SocketAddr,
    /// The name server that each client asked; the least recently used makes room.
    asked: Mutex<LruCache<SocketAddr, SocketAddr>>,
}

struct Reading {
    buffer: Box<[u8]>,
    /// Datagrams of the packet in the buffer that found no room.
    rest: Option<Rest>,
    fragments: Fragments,
}

struct Rest {
    source: SocketAddr,
    destination: SocketAddr,
    data: Range<usize>,
    segment: usize,
}

impl Tun {
    pub(super) fn new(tun: tun::Tun) -> io::Result<Self> {
        let (opened, stack, dns) = tun.into_parts();
        let room = NonZeroUsize::new(MAX_TUN_QUERIES).unwrap_or(NonZeroUsize::MIN);
        Ok(Self {
            device: Device::new(opened)?,
            stack,
            queries: dns.map(|server| Queries {
                server,
                asked: Mutex::new(LruCache::sparse(room)),
            }),
            reading: Mutex::new(Reading {
                buffer: vec![0; MAX_FRAME].into(),
                rest: None,
                fragments: Fragments::default(),
            }),
            id: AtomicU16::default(),
        })
    }

    pub(super) fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if lock(&self.reading).rest.is_some() {
            return Poll::Ready(Ok(()));
        }
        self.device.poll_ready(cx)
    }

    /// Reads packets, and receives the datagrams among them.
    pub(super) fn receive(
        &self,
        buffer: &mut [u8],
        metas: &mut [RecvMeta; BATCH_SIZE],
    ) -> io::Result<usize> {
        let mut reading = lock(&self.reading);
        let mut slots = buffer.chunks_exact_mut(MAX_DATAGRAM).zip(metas);
        let mut count = 0;
        for turn in 0..MAX_READ {
            if reading.rest.is_none() {
                match self.read(&mut reading) {
                    Ok(()) => {}
                    // Those that came before are to be used; the next call says it again.
                    Err(error) if turn > 0 => {
                        if error.kind() != io::ErrorKind::WouldBlock {
                            sampled::debug!("a tun device cannot be read", %error);
                        }
                        break;
                    }
                    Err(error) => return Err(error),
                }
            }
            count += reading.hand_over(&mut slots);
            if reading.rest.is_some() {
                break;
            }
        }
        Ok(count)
    }

    /// Reads one packet. Its datagrams are what is left of it.
    fn read(&self, reading: &mut Reading) -> io::Result<()> {
        let frame = self.device.read(&mut reading.buffer)?;
        let mut answer = [0; tcp::MAX_RESET];
        let Reading {
            buffer, fragments, ..
        } = reading;
        let packet = buffer.get_mut(frame.packet.clone()).unwrap_or_default();
        let mut verdict = self.stack.handle(packet, frame.checksums, &mut answer);
        if let Ok(Verdict::Fragment(part)) = verdict {
            verdict = match fragments.add(&part, packet, Instant::now()) {
                Some(whole) => {
                    let room = buffer.get_mut(frame.packet.start..).unwrap_or_default();
                    self.put_together(part, &whole, room)
                }
                None => Ok(Verdict::Drop),
            };
        }
        let written = match verdict {
            Ok(Verdict::Return) => self.device.write_back(&reading.buffer, &frame),
            Ok(Verdict::Answer(len)) => self.device.write(answer.get(..len).unwrap_or_default()),
            Ok(Verdict::Datagram(datagram)) => {
                reading.rest = Some(self.rest(&frame, &datagram));
                Ok(())
            }
            Ok(Verdict::Drop | Verdict::Fragment(_)) => Ok(()),
            Err(error) => {
                sampled::debug!(by error.status(), "packet of a tun device dropped", status = error.status(), %error);
                Ok(())
            }
        };
        if let Err(error) = written {
            sampled::debug!(by &error, "packet not written to a tun device", %error);
        }
        Ok(())
    }

    /// Decides about a datagram whose last fragment has come; it stands in `room` then, behind where its header would.
    fn put_together(
        &self,
        part: Packet,
        whole: &[u8],
        room: &mut [u8],
    ) -> Result<Verdict, wire::Error> {
        let packet = Packet {
            payload: IPV6_HEADER,
            end: IPV6_HEADER + whole.len(),
            fragment: None,
            ..part
        };
        let payload = room.get_mut(packet.payload..packet.end);
        payload
            .ok_or(wire::Error::Truncated)?
            .copy_from_slice(whole);
        self.stack.datagram(&packet, room, Checksums::Complete)
    }

    fn rest(&self, frame: &Frame, datagram: &udp::Datagram) -> Rest {
        let (source, mut destination) = (datagram.source, datagram.destination);
        if let Some(queries) = &self.queries
            && destination.port() == DNS
        {
            lock(&queries.asked).put(source, destination);
            destination = queries.server;
        }
        let start = frame.packet.start;
        Rest {
            source,
            destination,
            data: start + datagram.data.start..start + datagram.data.end,
            segment: frame.segment,
        }
    }

    /// Sends each datagram from the address in front of it. Returns how many were lost.
    pub(super) fn send(&self, batch: &Batch) -> usize {
        let (mut from, mut lost) = (0, 0);
        while let Some((joined, next)) = self.joined(batch, from) {
            if let Err(error) = self.write(&joined) {
                let peer = joined.peer;
                sampled::debug!(by &error, "datagram not sent", %peer, %error);
                lost += next - from;
            }
            from = next;
        }
        lost
    }

    /// The longest run of datagrams that can be written together: of one source, one peer and one length.
    fn joined<'a>(&self, batch: &'a Batch, from: usize) -> Option<(Joined<'a>, usize)> {
        let (first, mut next) = batch.run(from, 1)?;
        let mut joined = Joined::of(first.path.peer, first.bytes);
        let segment = joined.data(0).len();
        let most = match self.device.joins_datagrams && segment > 0 {
            true => MAX_TOGETHER,
            false => 1,
        };
        while joined.count < most
            && joined.last().len() == segment
            && let Some((other, after)) = batch.run(next, 1)
            && other.path.peer == joined.peer
            && let (address, data) = split(other.bytes)
            && address == joined.address
            && (1..=segment).contains(&data.len())
            && joined.bytes + data.len() <= MAX_JOINED
        {
            joined.add(data);
            next = after;
        }
        Some((joined, next))
    }

    fn write(&self, joined: &Joined<'_>) -> io::Result<()> {
        let Ok(Some((AddressRef::Ip(source), _))) = AddressRef::parse(joined.address) else {
            return Err(io::Error::other("it does not come from an IP address"));
        };
        let source = SocketAddr::new(source.ip().to_canonical(), source.port());
        let source = self.asked(source, joined.peer);
        if !may_answer(source) || self.stack.is_inside(source.ip()) {
            return Err(io::Error::other(format!(
                "nobody else can send from {source}"
            )));
        }
        let mut head = [0; udp::MAX_HEAD];
        let addresses = (source, joined.peer);
        let id = self.id.fetch_add(1, Relaxed);
        let len = udp::write_head(
            &mut head,
            addresses,
            (self.device.checksums(), id),
            joined.data(0),
            joined.bytes,
        )
        .map_err(io::Error::other)?;
        let segment = (joined.count > 1).then(|| joined.data(0).len());
        let head = head.get(..len).unwrap_or_default();
        let data = joined.parts.get(..joined.count).unwrap_or_default();
        self.device
            .write_datagrams((head, len - udp::HEADER), data, segment)
    }

    /// The name server that `client` asked, if the answer comes from the one that was asked instead.
    fn asked(&self, source: SocketAddr, client: SocketAddr) -> SocketAddr {
        let Some(queries) = &self.queries else {
            return source;
        };
        if source != queries.server {
            return source;
        }
        lock(&queries.asked).get(&client).copied().unwrap_or(source)
    }
}

impl Reading {
    /// Copies the datagrams of the packet in the buffer into `slots`; returns how many.
    fn hand_over<'a>(
        &mut self,
        slots: &mut impl Iterator<Item = (&'a mut [u8], &'a mut RecvMeta)>,
    ) -> usize {
        let Some(rest) = self.rest.take() else {
            return 0;
        };
        let mut count = 0;
        for piece in pieces(rest.data.clone(), rest.segment) {
            let Some((slot, meta)) = slots.next() else {
                self.rest = Some(Rest {
                    data: piece.start..rest.data.end,
                    ..rest
                });
                break;
            };
            *meta = RecvMeta::default();
            count += 1;
            let data = self.buffer.get(piece).unwrap_or_default();
            let Some(room) = slot.get_mut(HEAD..HEAD + data.len()) else {
                continue;
            };
            room.copy_from_slice(data);
            if write_head(slot, rest.destination).is_some() {
                meta.addr = rest.source;
                meta.len = HEAD + data.len();
                meta.stride = meta.len;
            }
        }
        count
    }
}

/// Datagrams that are written together.
struct Joined<'a> {
    peer: SocketAddr,
    /// Their source, as a SOCKS-style address.
    address: &'a [u8],
    parts: [IoSlice<'a>; MAX_TOGETHER],
    count: usize,
    bytes: usize,
}

impl<'a> Joined<'a> {
    fn of(peer: SocketAddr, datagram: &'a [u8]) -> Self {
        let (address, data) = split(datagram);
        let mut joined = Self {
            peer,
            address,
            parts: [IoSlice::new(&[]); MAX_TOGETHER],
            count: 0,
            bytes: 0,
        };
        joined.add(data);
        joined
    }

    fn add(&mut self, data: &'a [u8]) {
        if let Some(part) = self.parts.get_mut(self.count) {
            *part = IoSlice::new(data);
            self.count += 1;
            self.bytes += data.len();
        }
    }

    fn data(&self, index: usize) -> &[u8] {
        self.parts.get(index).map_or(&[], |part| part)
    }

    fn last(&self) -> &[u8] {
        self.data(self.count.saturating_sub(1))
    }
}

/// The address in front of a datagram, and its data.
fn split(datagram: &[u8]) -> (&[u8], &[u8]) {
    let len = match AddressRef::parse(datagram) {
        Ok(Some((_, len))) => len,
        _ => 0,
    };
    datagram.split_at_checked(len).unwrap_or((&[], datagram))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use super::super::transparent::address_start;
    use super::*;

    /// What a sender left to the device to separate may be more than one batch takes.
    #[test]
    fn datagrams_without_room_wait_for_the_next_batch() {
        let mut reading = Reading {
            buffer: (0..=255).collect(),
            rest: Some(Rest {
                source: ([10, 0, 0, 1], 5).into(),
                destination: ([192, 0, 2, 1], 53).into(),
                data: 10..55,
                segment: 10,
            }),
            fragments: Fragments::default(),
        };
        let mut all = Vec::new();
        for expected in [2, 2, 1, 0] {
            let mut buffer = vec![0; 2 * MAX_DATAGRAM];
            let mut metas = [RecvMeta::default(); 2];
            let mut slots = buffer.chunks_exact_mut(MAX_DATAGRAM).zip(&mut metas);
            assert_eq!(reading.hand_over(&mut slots), expected);
            for (slot, meta) in buffer.chunks(MAX_DATAGRAM).zip(&metas).take(expected) {
                let datagram = &slot[..meta.len];
                let (address, _) = AddressRef::parse(&datagram[address_start(datagram).unwrap()..])
                    .unwrap()
                    .unwrap();
                assert_eq!(address, AddressRef::Ip(([192, 0, 2, 1], 53).into()));
                all.push(datagram[HEAD..].to_vec());
            }
        }
        let expected: Vec<Vec<u8>> = (10..55_u8)
            .collect::<Vec<_>>()
            .chunks(10)
            .map(<[u8]>::to_vec)
            .collect();
        assert_eq!(all, expected);
    }
}
