//! Datagrams in batches. A socket is either the kernel's or inside the process. A system call moves many datagrams at
//! once, and long runs to one peer as one (GSO, GRO).

mod batch;
mod connection;
mod memory;
pub mod transparent;
mod tun;

pub use batch::{Batch, MAX_DATAGRAM, Path};
pub use connection::{Connection, Inside};
pub use memory::{SendFn, Sender, Sent};

use std::cell::RefCell;
use std::future::poll_fn;
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, ready};

use quinn_udp::{BATCH_SIZE, RecvMeta, Transmit, UdpSockRef, UdpSocketState};
use tokio::io::Interest;

use super::sync::lock;
use super::{UdpOptions, linux, sampled};
use memory::{Direct, Memory};
use transparent::Transparent;

/// A socket for datagrams.
pub struct Socket {
    kind: Kind,
    /// The length of the longest datagram that may pass, in bytes.
    longest: usize,
}

enum Kind {
    Kernel(Kernel),
    Memory(Memory),
    Transparent(Box<Transparent>),
    Tun(Box<tun::Tun>),
}

/// A UDP socket.
struct Kernel {
    io: tokio::net::UdpSocket,
    state: UdpSocketState,
    /// Whether it is an IPv6 socket, with or without IPv4.
    is_v6: bool,
}

thread_local! {
    /// A worker receives for one socket at a time, so one set of buffers serves all its sockets.
    static RECEIVE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl Socket {
    /// Wraps a bound socket.
    ///
    /// # Errors
    /// What the system says.
    pub fn new(socket: socket2::Socket, options: UdpOptions) -> io::Result<Self> {
        if let Some(transparent) = options.transparent {
            return Ok(Self {
                kind: Kind::Transparent(Box::new(Transparent::new(socket, transparent)?)),
                longest: options.longest.unwrap_or(MAX_DATAGRAM),
            });
        }
        let state = UdpSocketState::new(UdpSockRef::from(&socket))?;
        if options.fragment {
            linux::allow_fragments(&socket)?;
        }
        socket.set_nonblocking(true)?;
        let is_v6 = socket.local_addr()?.is_ipv6();
        let io = tokio::net::UdpSocket::from_std(socket.into())?;
        Ok(Self {
            kind: Kind::Kernel(Kernel { io, state, is_v6 }),
            longest: options.longest.unwrap_or(MAX_DATAGRAM),
        })
    }

    /// The datagrams that programs send through a tun device; on the reactor of this thread.
    ///
    /// # Errors
    /// What the system says.
    pub fn tun(tun: super::tun::Tun) -> io::Result<Self> {
        Ok(Self {
            kind: Kind::Tun(Box::new(tun::Tun::new(tun)?)),
            longest: MAX_DATAGRAM,
        })
    }

    /// Two sockets inside the process: what one sends, the other receives, whatever the address.
    #[must_use]
    pub fn pair() -> (Self, Self) {
        let (a, b) = Memory::pair();
        (Self::in_memory(a), Self::in_memory(b))
    }

    /// A socket inside the process, and the sender of what it receives. It sends by calling `send`, which returns
    /// whether it took the datagram.
    #[must_use]
    pub fn with_sender(send: impl Fn(&[u8]) -> bool + Send + Sync + 'static) -> (Self, Sender) {
        let (memory, sender) = Memory::new(send);
        (Self::in_memory(memory), sender)
    }

    /// A socket inside the process for what comes in `connection`, and the sender of what it receives: what stands in its
    /// datagrams is [numbered](crate::wire::quic_packets). It sends by calling `send`.
    #[must_use]
    pub fn in_connection(connection: Connection, send: Box<SendFn>) -> (Self, Sender) {
        let (memory, sender) = Memory::in_connection(connection, send);
        (Self::in_memory(memory), sender)
    }

    /// As [`Socket::pair`], where the first can be given another way out.
    #[must_use]
    pub fn switched() -> (Self, Switched) {
        let (a, b, sender, direct) = Memory::switched();
        let switched = Switched {
            socket: Self::in_memory(b),
            sender,
            direct,
        };
        (Self::in_memory(a), switched)
    }

    /// The connection that its datagrams come in, if they do.
    #[must_use]
    pub fn connection(&self) -> Option<&Connection> {
        match &self.kind {
            Kind::Memory(memory) => memory.connection.as_deref(),
            Kind::Kernel(_) | Kind::Transparent(_) | Kind::Tun(_) => None,
        }
    }

    /// Whether others should have a turn before more is sent: what takes the datagrams is a task of this process.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        match &self.kind {
            Kind::Memory(memory) => memory.is_busy.load(Relaxed),
            Kind::Kernel(_) | Kind::Transparent(_) | Kind::Tun(_) => false,
        }
    }

    /// The address of the other end, if the socket is inside the process.
    #[must_use]
    pub const fn peer(&self) -> Option<SocketAddr> {
        match &self.kind {
            Kind::Kernel(_) | Kind::Transparent(_) | Kind::Tun(_) => None,
            Kind::Memory(memory) => Some(memory.peer),
        }
    }

    const fn in_memory(memory: Memory) -> Self {
        Self {
            kind: Kind::Memory(memory),
            longest: MAX_DATAGRAM,
        }
    }

    /// Waits until there is something to receive.
    ///
    /// # Errors
    /// Those of [`Socket::poll_receive`].
    pub async fn readable(&self) -> io::Result<()> {
        poll_fn(|cx| self.poll_ready(cx)).await
    }

    fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &self.kind {
            Kind::Kernel(kernel) => kernel.io.poll_recv_ready(cx),
            Kind::Memory(memory) => memory.poll_ready(cx),
            Kind::Transparent(transparent) => transparent.poll_ready(cx),
            Kind::Tun(tun) => tun.poll_ready(cx),
        }
    }

    /// Receives a batch and hands it to `take`.
    ///
    /// # Errors
    /// Errors of the socket, but not the ICMP errors of earlier datagrams. [`io::ErrorKind::BrokenPipe`]: the other end
    /// of a socket inside the process is gone.
    pub fn poll_receive(
        &self,
        cx: &mut Context<'_>,
        mut take: impl FnMut(Received<'_>),
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(self.poll_ready(cx))?;
            let result = RECEIVE.with_borrow_mut(|buffer| {
                buffer.resize(BATCH_SIZE * MAX_DATAGRAM, 0);
                let mut metas = [RecvMeta::default(); BATCH_SIZE];
                let count = match &self.kind {
                    Kind::Kernel(kernel) => kernel.receive(buffer, &mut metas)?,
                    Kind::Memory(memory) => memory.receive(buffer, &mut metas),
                    Kind::Transparent(transparent) => transparent.receive(buffer, &mut metas)?,
                    Kind::Tun(tun) => tun.receive(buffer, &mut metas)?,
                };
                take(Received {
                    buffer,
                    metas: metas.get(..count).unwrap_or_default(),
                    longest: self.longest,
                    in_connection: self.connection().is_some(),
                });
                Ok(())
            });
            match result {
                Err(error) if is_passing(&error) => {}
                result => return Poll::Ready(result),
            }
        }
    }

    /// Sends the datagrams of `batch` and empties it. What the socket does not take at once is lost; returns how many
    /// datagrams were.
    pub fn send(&self, batch: &mut Batch) -> usize {
        let lost = match &self.kind {
            Kind::Kernel(kernel) => kernel.send(batch, self.longest),
            Kind::Memory(memory) => memory.send(batch),
            Kind::Transparent(transparent) => transparent.send(batch),
            Kind::Tun(tun) => tun.send(batch),
        };
        batch.clear();
        lost
    }
}

impl Kernel {
    fn receive(&self, buffer: &mut [u8], metas: &mut [RecvMeta; BATCH_SIZE]) -> io::Result<usize> {
        let mut chunks = buffer.chunks_exact_mut(MAX_DATAGRAM);
        let mut slots: [IoSliceMut<'_>; BATCH_SIZE] =
            std::array::from_fn(|_| IoSliceMut::new(chunks.next().unwrap_or_default()));
        self.io.try_io(Interest::READABLE, || {
            self.state
                .recv(UdpSockRef::from(&self.io), &mut slots, metas)
        })
    }

    fn send(&self, batch: &Batch, longest: usize) -> usize {
        let mut lost = 0;
        let mut from = 0;
        while let Some((run, next)) = batch.run(from, self.state.max_gso_segments()) {
            if run.segment > longest {
                sampled::debug!("datagram not sent: longer than `udp_mtu`", peer = %run.path.peer, bytes = run.segment, longest);
                lost += 1;
                from += 1;
                continue;
            }
            let transmit = Transmit {
                destination: if self.is_v6 {
                    mapped(run.path.peer)
                } else {
                    run.path.peer
                },
                ecn: None,
                contents: run.bytes,
                segment_size: (next - from > 1).then_some(run.segment),
                src_ip: run.path.local,
            };
            // Not through the reactor, which does not know yet that a new socket is writable. Nothing waits for it here.
            let result = self.state.try_send(UdpSockRef::from(&self.io), &transmit);
            if let Err(error) = result {
                sampled::debug!(by &error, "datagram not sent", peer = %run.path.peer, bytes = run.segment, %error);
                lost += next - from;
            }
            from = next;
        }
        lost
    }
}

/// The other end of a socket inside the process, which can give it another way out.
pub struct Switched {
    socket: Socket,
    sender: Arc<Sender>,
    direct: Direct,
}

impl Switched {
    /// Receives what the first socket sends while it has no other way, and sends to it.
    #[must_use]
    pub const fn socket(&self) -> &Socket {
        &self.socket
    }

    /// Sends to the first socket, which is closed when this and all copies of the sender are dropped.
    #[must_use]
    pub fn sender(&self) -> Arc<Sender> {
        Arc::clone(&self.sender)
    }

    /// What the first socket sends goes to `send` from now on; `None`: to the second socket again.
    pub fn send_by(&self, send: Option<Box<SendFn>>) {
        *lock(&self.direct) = send;
    }
}

/// A batch of datagrams, in the order in which they came.
pub struct Received<'a> {
    buffer: &'a mut [u8],
    metas: &'a [RecvMeta],
    longest: usize,
    in_connection: bool,
}

impl Received<'_> {
    /// Iterates over the datagrams, which may be changed in place, and where each came from.
    pub fn datagrams(&mut self) -> impl Iterator<Item = (&mut [u8], Path)> {
        let slots = self.buffer.chunks_exact_mut(MAX_DATAGRAM);
        let (in_connection, longest) = (self.in_connection, self.longest);
        slots.zip(self.metas).flat_map(move |(slot, meta)| {
            let path = if in_connection {
                Path {
                    inside: meta.dst_ip.and_then(Inside::of),
                    ..Path::to(canonical(meta.addr))
                }
            } else {
                Path {
                    local: meta.dst_ip.map(|ip| ip.to_canonical()),
                    ..Path::to(canonical(meta.addr))
                }
            };
            let run = slot.get_mut(..meta.len).unwrap_or_default();
            // `chunks_mut` yields nothing for an empty datagram.
            let empty = run.is_empty().then(<&mut [u8]>::default);
            run.chunks_mut(meta.stride.max(1))
                .chain(empty)
                .filter(move |datagram| datagram.len() <= longest)
                .map(move |datagram| (datagram, path))
        })
    }

    /// Iterates over the datagrams before the first is changed.
    pub fn contents(&mut self) -> impl Iterator<Item = &[u8]> {
        self.datagrams().map(|(datagram, _)| &*datagram)
    }
}

/// Whether an error concerns one datagram and not the socket.
fn is_passing(error: &io::Error) -> bool {
    use io::ErrorKind::{
        ConnectionRefused, ConnectionReset, HostUnreachable, Interrupted, NetworkUnreachable,
        WouldBlock,
    };
    matches!(
        error.kind(),
        WouldBlock
            | Interrupted
            | ConnectionRefused
            | ConnectionReset
            | HostUnreachable
            | NetworkUnreachable
    )
}

/// Turns an IPv4-mapped IPv6 address into the IPv4 address.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Turns an IPv4 address into the IPv4-mapped address that an IPv6 socket needs.
#[must_use]
pub fn mapped(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(v4) => (v4.ip().to_ipv6_mapped(), v4.port()).into(),
        SocketAddr::V6(_) => address,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use super::*;

    #[tokio::test]
    async fn fragments_are_allowed_where_wanted_alone() {
        use rustix::net::sockopt::{Ipv4PathMtuDiscovery, ip_mtu_discover};
        for (fragment, expected) in [
            (true, Ipv4PathMtuDiscovery::WANT),
            (false, Ipv4PathMtuDiscovery::PROBE),
        ] {
            let bound = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
            let options = UdpOptions {
                fragment,
                ..UdpOptions::default()
            };
            let socket = Socket::new(bound.into(), options).unwrap();
            assert_eq!(ip_mtu_discover(io(&socket)).unwrap(), expected);
        }
    }

    fn io(socket: &Socket) -> &tokio::net::UdpSocket {
        match &socket.kind {
            Kind::Kernel(kernel) => &kernel.io,
            Kind::Memory(_) | Kind::Transparent(_) | Kind::Tun(_) => unreachable!(),
        }
    }

    fn to(peer: SocketAddr) -> Path {
        Path::to(peer)
    }

    fn batch(datagrams: &[Vec<u8>], path: Path) -> Batch {
        let mut batch = Batch::default();
        for bytes in datagrams {
            batch
                .push::<()>(path, bytes.len(), |room| {
                    room.copy_from_slice(bytes);
                    Ok(())
                })
                .unwrap();
        }
        batch
    }

    async fn received(socket: &Socket, count: usize) -> Vec<(Vec<u8>, SocketAddr)> {
        let mut got = Vec::new();
        while got.len() < count {
            let receive = poll_fn(|cx| {
                socket.poll_receive(cx, |mut received| {
                    for (bytes, path) in received.datagrams() {
                        got.push((bytes.to_vec(), path.peer));
                    }
                })
            });
            tokio::time::timeout(std::time::Duration::from_secs(5), receive)
                .await
                .unwrap()
                .unwrap();
        }
        got
    }

    #[tokio::test]
    async fn batch_arrives_as_it_was_pushed() {
        let bound = || socket2::Socket::from(std::net::UdpSocket::bind("127.0.0.1:0").unwrap());
        let (a, b) = (
            Socket::new(bound(), UdpOptions::default()).unwrap(),
            Socket::new(bound(), UdpOptions::default()).unwrap(),
        );
        let sent = [1200, 1200, 1200, 0, 7, 30_000].map(|len| vec![1; len]);
        io(&a).writable().await.unwrap();
        let to_b = to(io(&b).local_addr().unwrap());
        assert_eq!(a.send(&mut batch(&sent, to_b)), 0);
        let from_a = io(&a).local_addr().unwrap();
        assert_eq!(
            received(&b, sent.len()).await,
            sent.map(|bytes| (bytes, from_a))
        );
    }

    #[tokio::test]
    async fn pair_carries_datagrams_both_ways_until_an_end_is_dropped() {
        let nowhere = to(([0, 0, 0, 0], 0).into());
        let (a, b) = Socket::pair();
        let sent: Vec<_> = (0..100).map(|len| vec![1; len]).collect();
        assert_eq!(a.send(&mut batch(&sent, nowhere)), 0);
        assert_eq!(b.send(&mut batch(&sent, nowhere)), 0);
        drop(a);
        let got = received(&b, sent.len()).await;
        assert!(got.iter().map(|(bytes, _)| bytes).eq(&sent));
        let closed = b.readable().await.unwrap_err();
        assert_eq!(closed.kind(), io::ErrorKind::BrokenPipe);
    }

    #[tokio::test]
    async fn full_queue_drops_datagrams() {
        let nowhere = to(([0, 0, 0, 0], 0).into());
        let (a, b) = Socket::pair();
        assert_eq!(a.send(&mut batch(&vec![vec![]; 1025], nowhere)), 1);
        assert_eq!(received(&b, 1024).await.len(), 1024);
        let (a, b) = Socket::pair();
        assert_eq!(a.send(&mut batch(&vec![vec![0; 65_535]; 5], nowhere)), 1);
        assert_eq!(received(&b, 4).await.len(), 4);
        assert_eq!(a.send(&mut batch(&[vec![7]], nowhere)), 0);
    }
}
