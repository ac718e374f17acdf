//! Datagrams in batches: many a system call, and long runs to one peer as one (GSO, GRO).

use std::cell::{Cell, RefCell};
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::task::{Context, Poll, ready};

use quinn_udp::{BATCH_SIZE, RecvMeta, Transmit, UdpSockRef, UdpSocketState};
use tokio::io::Interest;

use super::{UdpOptions, linux};

/// The longest datagram, and the most that the kernel merges into one read.
pub const MAX_DATAGRAM: usize = 65_535;
/// Bytes that the system takes as one run to one peer.
const MAX_RUN: usize = 65_000;

/// A UDP socket.
pub struct Socket {
    io: tokio::net::UdpSocket,
    state: UdpSocketState,
    /// Bytes of the longest datagram that may pass.
    longest: usize,
    /// Whether it is a socket of IPv6, for IPv4 too or not.
    v6: bool,
}

/// Where a datagram came from and to which of our addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path {
    /// The peer. An IPv4 peer of a socket for both families is shown as IPv4.
    pub peer: SocketAddr,
    /// Our address that the peer used; replies leave from it.
    pub local: Option<IpAddr>,
}

thread_local! {
    /// A worker receives for one socket at a time, so one set of buffers serves all its sockets.
    static RECEIVE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    /// A worker fills one batch at a time, so the memory of one serves all its sockets.
    static SPARE: Cell<Batch> = Cell::default();
}

impl Socket {
    /// Takes over a bound socket.
    ///
    /// # Errors
    /// What the system says.
    pub fn new(socket: socket2::Socket, options: UdpOptions) -> io::Result<Self> {
        let state = UdpSocketState::new(UdpSockRef::from(&socket))?;
        if options.fragment {
            linux::allow_fragments(&socket)?;
        }
        socket.set_nonblocking(true)?;
        let v6 = socket.local_addr()?.is_ipv6();
        Ok(Self {
            io: tokio::net::UdpSocket::from_std(socket.into())?,
            state,
            longest: options.longest.unwrap_or(MAX_DATAGRAM),
            v6,
        })
    }

    /// Our own address.
    ///
    /// # Errors
    /// What the system says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.io.local_addr()
    }

    /// Receives a batch and gives it to `take`.
    ///
    /// # Errors
    /// What the system says of the socket; an ICMP error of an earlier datagram is not one.
    pub fn poll_receive(
        &self,
        cx: &mut Context<'_>,
        mut take: impl FnMut(Received<'_>),
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(self.io.poll_recv_ready(cx))?;
            let result = RECEIVE.with_borrow_mut(|buffer| {
                buffer.resize(BATCH_SIZE * MAX_DATAGRAM, 0);
                let mut metas = [RecvMeta::default(); BATCH_SIZE];
                let count = {
                    let mut chunks = buffer.chunks_exact_mut(MAX_DATAGRAM);
                    let mut slots: [IoSliceMut<'_>; BATCH_SIZE] =
                        std::array::from_fn(|_| IoSliceMut::new(chunks.next().unwrap_or_default()));
                    self.io.try_io(Interest::READABLE, || {
                        self.state
                            .recv(UdpSockRef::from(&self.io), &mut slots, &mut metas)
                    })?
                };
                take(Received {
                    buffer,
                    metas: metas.get(..count).unwrap_or_default(),
                    longest: self.longest,
                });
                Ok(())
            });
            match result {
                Err(error) if is_passing(&error) => {}
                result => return Poll::Ready(result),
            }
        }
    }

    /// Sends the datagrams of `batch` and empties it. What the socket does not take now is lost, as datagrams may be;
    /// returns how many were.
    pub fn send(&self, batch: &mut Batch) -> usize {
        let mut lost = 0;
        let mut from = 0;
        while let Some((run, next)) = batch.run(from, self.state.max_gso_segments()) {
            if run.segment > self.longest {
                tracing::debug!(peer = %run.path.peer, bytes = run.segment, longest = self.longest, "datagram not sent: longer than `udp_mtu`");
                lost += 1;
                from += 1;
                continue;
            }
            let transmit = Transmit {
                destination: if self.v6 {
                    mapped(run.path.peer)
                } else {
                    run.path.peer
                },
                ecn: None,
                contents: run.bytes,
                segment_size: (next - from > 1).then_some(run.segment),
                src_ip: run.path.local,
            };
            // Not through the reactor: it has not yet heard that a new socket is writable, and nobody waits for it.
            let result = self.state.try_send(UdpSockRef::from(&self.io), &transmit);
            if let Err(error) = result {
                tracing::debug!(peer = %run.path.peer, bytes = run.segment, %error, "datagram not sent");
                lost += next - from;
            }
            from = next;
        }
        batch.clear();
        lost
    }
}

/// A batch of datagrams, in the order in which they came.
pub struct Received<'a> {
    buffer: &'a mut [u8],
    metas: &'a [RecvMeta],
    longest: usize,
}

impl Received<'_> {
    /// Each of them, to be changed in place, and where it came from.
    pub fn datagrams(&mut self) -> impl Iterator<Item = (&mut [u8], Path)> {
        let slots = self.buffer.chunks_exact_mut(MAX_DATAGRAM);
        slots.zip(self.metas).flat_map(|(slot, meta)| {
            let path = Path {
                peer: canonical(meta.addr),
                local: meta.dst_ip.map(|ip| ip.to_canonical()),
            };
            let run = slot.get_mut(..meta.len).unwrap_or_default();
            // A datagram may be empty, which no piece of a run is.
            let empty = run.is_empty().then(<&mut [u8]>::default);
            run.chunks_mut(meta.stride.max(1))
                .chain(empty)
                .filter(|datagram| datagram.len() <= self.longest)
                .map(move |datagram| (datagram, path))
        })
    }

    /// What they say, to be looked at before the first is changed.
    pub fn contents(&mut self) -> impl Iterator<Item = &[u8]> {
        self.datagrams().map(|(datagram, _)| &*datagram)
    }
}

/// Errors that say something of one datagram, not of the socket.
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

/// An IPv4 address in IPv6 clothes, undressed.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// What a socket for both families calls an IPv4 address.
#[must_use]
pub fn mapped(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(v4) => (v4.ip().to_ipv6_mapped(), v4.port()).into(),
        SocketAddr::V6(_) => address,
    }
}

/// Datagrams that wait to be sent together, one behind the other in one buffer.
#[derive(Default)]
pub struct Batch {
    bytes: Vec<u8>,
    datagrams: Vec<(usize, Path)>,
}

/// Neighbours of a batch that leave in one system call.
struct Run<'a> {
    bytes: &'a [u8],
    segment: usize,
    path: Path,
}

impl Batch {
    /// An empty batch, with the memory of the last one that this worker was done with.
    #[must_use]
    pub fn spare() -> Self {
        SPARE.take()
    }

    /// Keeps the memory of an empty batch for the worker's next one.
    pub fn keep(self) {
        SPARE.set(self);
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.datagrams.is_empty()
    }

    /// Whether it is time to send.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.bytes.len() >= 4 * MAX_DATAGRAM
    }

    /// Adds a datagram of `len` bytes that `fill` writes; when `fill` fails, nothing is added.
    ///
    /// # Errors
    /// What `fill` says.
    pub fn push<E>(
        &mut self,
        path: Path,
        len: usize,
        fill: impl FnOnce(&mut [u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let start = self.bytes.len();
        self.bytes.resize(start + len, 0);
        let result = fill(self.bytes.get_mut(start..).unwrap_or_default());
        match result {
            Ok(()) => self.datagrams.push((self.bytes.len(), path)),
            Err(_) => self.bytes.truncate(start),
        }
        result
    }

    /// The longest run that begins with datagram `from`: one peer, one length, of which only the last may be shorter.
    fn run(&self, from: usize, most: usize) -> Option<(Run<'_>, usize)> {
        let start = from
            .checked_sub(1)
            .and_then(|before| self.datagrams.get(before))
            .map_or(0, |before| before.0);
        let &(mut end, path) = self.datagrams.get(from)?;
        let segment = end - start;
        let mut next = from + 1;
        while next - from < most
            && segment > 0
            && end - start == segment * (next - from)
            && let Some(&(candidate, other)) = self.datagrams.get(next)
            && other == path
            && (1..=segment).contains(&(candidate - end))
            && candidate - start <= MAX_RUN
        {
            end = candidate;
            next += 1;
        }
        Some((
            Run {
                bytes: self.bytes.get(start..end)?,
                segment,
                path,
            },
            next,
        ))
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.datagrams.clear();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use super::*;

    fn path(port: u16) -> Path {
        Path {
            peer: ([127, 0, 0, 1], port).into(),
            local: None,
        }
    }

    fn batch(datagrams: &[(u16, usize)]) -> Batch {
        let mut batch = Batch::default();
        for &(port, len) in datagrams {
            batch.push::<()>(path(port), len, |_| Ok(())).unwrap();
        }
        batch
    }

    fn runs(batch: &Batch) -> Vec<(u16, usize, usize)> {
        let (mut from, mut runs) = (0, Vec::new());
        while let Some((run, next)) = batch.run(from, 64) {
            runs.push((run.path.peer.port(), next - from, run.bytes.len()));
            from = next;
        }
        runs
    }

    #[test]
    fn neighbours_of_one_length_and_peer_leave_together() {
        let datagrams = [
            (1, 100),
            (1, 100),
            (1, 60),
            (1, 100),
            (2, 100),
            (2, 101),
            (2, 0),
            (2, 0),
        ];
        assert_eq!(
            runs(&batch(&datagrams)),
            [
                (1, 3, 260),
                (1, 1, 100),
                (2, 1, 100),
                (2, 1, 101),
                (2, 1, 0),
                (2, 1, 0)
            ]
        );
    }

    #[test]
    fn failed_datagram_leaves_no_trace() {
        let mut batch = batch(&[(1, 10)]);
        assert_eq!(batch.push(path(1), 10, |_| Err("no")), Err("no"));
        assert_eq!(runs(&batch), [(1, 1, 10)]);
    }

    #[cfg(target_os = "linux")]
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
                longest: None,
            };
            let socket = Socket::new(bound.into(), options).unwrap();
            assert_eq!(ip_mtu_discover(&socket.io).unwrap(), expected);
        }
    }

    #[tokio::test]
    async fn batch_arrives_as_it_was_pushed() {
        let bound = || socket2::Socket::from(std::net::UdpSocket::bind("127.0.0.1:0").unwrap());
        let (a, b) = (
            Socket::new(bound(), UdpOptions::default()).unwrap(),
            Socket::new(bound(), UdpOptions::default()).unwrap(),
        );
        let to = Path {
            peer: b.local_addr().unwrap(),
            local: None,
        };
        let sent: Vec<Vec<u8>> = [1200, 1200, 1200, 0, 7, 30_000]
            .iter()
            .map(|len| vec![1; *len])
            .collect();
        let mut batch = Batch::default();
        for bytes in &sent {
            batch
                .push::<()>(to, bytes.len(), |room| {
                    room.copy_from_slice(bytes);
                    Ok(())
                })
                .unwrap();
        }
        a.io.writable().await.unwrap();
        assert_eq!(a.send(&mut batch), 0);
        let mut got = Vec::new();
        while got.len() < sent.len() {
            let receive = std::future::poll_fn(|cx| {
                b.poll_receive(cx, |mut received| {
                    for (bytes, path) in received.datagrams() {
                        assert_eq!(path.peer, a.local_addr().unwrap());
                        got.push(bytes.to_vec());
                    }
                })
            });
            tokio::time::timeout(std::time::Duration::from_secs(5), receive)
                .await
                .unwrap()
                .unwrap();
        }
        assert_eq!(got, sent);
    }
}
