//! Datagrams that the firewall passes to us although they are for other addresses (TPROXY), and answers from there.
//!
//! A datagram has [`HEAD`] bytes in front. The first is where in them the SOCKS-style address begins that the datagram was
//! sent to; the address ends where the data begin. Before what is sent, there is the SOCKS-style address that it is to come
//! from, and nothing else.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::sync::Mutex;
use std::task::{Context, Poll};

use lru::LruCache;
use quinn_udp::{BATCH_SIZE, RecvMeta};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::Interest;

use super::batch::{Batch, MAX_DATAGRAM};
use crate::limits::MAX_REPLY_SOCKETS;
use crate::net::options::TransparentUdp;
use crate::net::sampled;
use crate::net::sync::lock;
use crate::net::{linux, redirect};
use crate::wire::AddressRef;

/// Bytes in front of a received datagram: one, and room for an IPv6 address with its type and port.
pub const HEAD: usize = 1 + 1 + 16 + 2;

/// A listening socket, and the sockets that answer.
pub(super) struct Transparent {
    io: tokio::net::UdpSocket,
    options: TransparentUdp,
    /// By the address that they send from. The least recently used makes room.
    replies: Mutex<LruCache<SocketAddr, Socket>>,
}

impl Transparent {
    pub(super) fn new(socket: Socket, options: TransparentUdp) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let capacity = NonZeroUsize::new(MAX_REPLY_SOCKETS).unwrap_or(NonZeroUsize::MIN);
        Ok(Self {
            io: tokio::net::UdpSocket::from_std(socket.into())?,
            options,
            replies: Mutex::new(LruCache::sparse(capacity)),
        })
    }

    pub(super) fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io.poll_recv_ready(cx)
    }

    /// Receives a batch. What has no usable addresses is empty, not even with a head.
    pub(super) fn receive(
        &self,
        buffer: &mut [u8],
        metas: &mut [RecvMeta; BATCH_SIZE],
    ) -> io::Result<usize> {
        let mut chunks = buffer.chunks_exact_mut(MAX_DATAGRAM);
        let mut slots: [IoSliceMut<'_>; BATCH_SIZE] = std::array::from_fn(|_| {
            let chunk = chunks.next().unwrap_or_default();
            IoSliceMut::new(chunk.get_mut(HEAD..).unwrap_or_default())
        });
        let mut found = [None; BATCH_SIZE];
        let count = self.io.try_io(Interest::READABLE, || {
            linux::receive_with_destinations(&self.io, &mut slots, &mut found)
        })?;
        let chunks = buffer.chunks_exact_mut(MAX_DATAGRAM);
        for ((chunk, meta), found) in chunks.zip(metas).zip(found).take(count) {
            *meta = RecvMeta::default();
            let Some(found) = found else { continue };
            if write_head(chunk, found.destination).is_some() {
                meta.addr = found.peer;
                meta.len = HEAD + found.len;
                meta.stride = meta.len;
            }
        }
        Ok(count)
    }

    /// Sends each datagram from the address in front of it. Returns how many were lost.
    pub(super) fn send(&self, batch: &Batch) -> usize {
        let mut lost = 0;
        let mut from = 0;
        let mut replies = lock(&self.replies);
        while let Some((run, next)) = batch.run(from, 1) {
            let peer = run.path.peer;
            if let Err(error) = self.reply(&mut replies, peer, run.bytes) {
                sampled::debug!(by &error, "datagram not sent", %peer, bytes = run.segment, %error);
                lost += 1;
            }
            from = next;
        }
        lost
    }

    fn reply(
        &self,
        replies: &mut LruCache<SocketAddr, Socket>,
        peer: SocketAddr,
        datagram: &[u8],
    ) -> io::Result<()> {
        let Ok(Some((AddressRef::Ip(source), len))) = AddressRef::parse(datagram) else {
            return Err(io::Error::other("it does not come from an IP address"));
        };
        let source = SocketAddr::new(source.ip().to_canonical(), source.port());
        let data = datagram.get(len..).unwrap_or_default();
        if source.is_ipv4() != peer.is_ipv4() {
            return Err(io::Error::other(
                "its source is not of the client's IP version",
            ));
        }
        let peer = peer.into();
        if let Some(socket) = replies.get(&source) {
            return socket.send_to(data, &peer).map(drop);
        }
        let socket = match self.reply_socket(source) {
            // No files are left: the socket that was silent for the longest time makes room.
            Err(error) if error.raw_os_error() == Some(libc::EMFILE) => {
                replies.pop_lru().ok_or(error)?;
                self.reply_socket(source)?
            }
            made => made?,
        };
        let sent = socket.send_to(data, &peer).map(drop);
        replies.put(source, socket);
        sent
    }

    /// A socket that sends from `source`, but not from an address of this machine: a server that lies must not speak for
    /// its services.
    fn reply_socket(&self, source: SocketAddr) -> io::Result<Socket> {
        if !may_answer(source) || redirect::is_own(source.ip()) {
            return Err(io::Error::other(format!(
                "nobody else can send from {source}"
            )));
        }
        let domain = Domain::for_address(source);
        let socket = linux::nonblocking(domain, Type::DGRAM, Protocol::UDP)?;
        linux::set_transparent(&socket, source.is_ipv6())?;
        // Other workers, and what else is transparent, may have sockets of the same address.
        socket.set_reuse_address(true)?;
        if let Some(mark) = self.options.mark {
            socket.set_mark(mark)?;
        }
        // Nothing is ever read: questions go to the listener.
        socket.set_recv_buffer_size(0)?;
        socket.bind(&source.into())?;
        Ok(socket)
    }
}

/// Whether `source` can be the address of one other machine.
pub(super) fn may_answer(source: SocketAddr) -> bool {
    let is_broadcast = match source.ip() {
        IpAddr::V4(ip) => ip.is_broadcast(),
        IpAddr::V6(_) => false,
    };
    let ip = source.ip();
    source.port() != 0
        && !ip.is_loopback()
        && !ip.is_multicast()
        && !ip.is_unspecified()
        && !is_broadcast
}

/// Writes the head of a datagram for `destination`.
pub(super) fn write_head(chunk: &mut [u8], destination: SocketAddr) -> Option<()> {
    let address = AddressRef::Ip(destination);
    let start = HEAD.checked_sub(address.encoded_len())?;
    *chunk.first_mut()? = u8::try_from(start).ok()?;
    address.encode(chunk.get_mut(start..HEAD)?).map(drop)
}

/// Where the SOCKS-style address of a received datagram begins; `None`: it has no head.
#[must_use]
pub fn address_start(datagram: &[u8]) -> Option<usize> {
    let start = usize::from(*datagram.first()?);
    (datagram.len() >= HEAD && start < HEAD).then_some(start)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use super::*;
    use crate::net::udp::Path;

    #[test]
    fn head_says_where_the_address_begins() {
        for destination in ["192.0.2.1:53", "[2001:db8::1]:443"] {
            let destination: SocketAddr = destination.parse().unwrap();
            let mut chunk = [7; HEAD + 3];
            write_head(&mut chunk, destination).unwrap();
            let start = address_start(&chunk).unwrap();
            let (address, len) = AddressRef::parse(&chunk[start..]).unwrap().unwrap();
            assert_eq!((address, start + len), (AddressRef::Ip(destination), HEAD));
            assert_eq!(chunk[HEAD..], [7; 3]);
        }
        assert_eq!(address_start(&[]), None);
        assert_eq!(address_start(&[1; HEAD - 1]), None);
        assert_eq!(address_start(&[20; HEAD]), None);
    }

    #[test]
    fn nobody_answers_from_addresses_of_no_other_machine() {
        for source in [
            "127.0.0.1:53",
            "0.0.0.0:1",
            "224.0.0.1:1",
            "255.255.255.255:1",
            "192.0.2.1:0",
            "[::1]:1",
            "[ff02::1]:1",
        ] {
            assert!(!may_answer(source.parse().unwrap()), "{source}");
        }
        assert!(may_answer("192.0.2.1:53".parse().unwrap()));
    }

    /// Without CAP_NET_ADMIN nothing can be sent, which does not matter: the bound holds all the same.
    #[tokio::test]
    async fn flood_of_sources_keeps_few_sockets() {
        let bound = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let peer = bound.local_addr().unwrap();
        let transparent = Transparent::new(bound.into(), TransparentUdp::default()).unwrap();
        let mut batch = Batch::default();
        for port in 1..=2 * u16::try_from(MAX_REPLY_SOCKETS).unwrap() {
            let source = AddressRef::Ip(([192, 0, 2, 1], port).into());
            let len = source.encoded_len();
            let path = Path::to(peer);
            let filled = batch.push(path, len, |room| source.encode(room).map(drop).ok_or(()));
            filled.unwrap();
        }
        transparent.send(&batch);
        assert!(lock(&transparent.replies).len() <= MAX_REPLY_SOCKETS);
    }
}
