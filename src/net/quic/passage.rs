//! Passes datagrams to an earlier listener of the same port, in this process or another, whose connections are not over.
//!
//! ```text
//! message    flags u8 ‖ ECN u8 ‖ port u16be ‖ scope u32be ‖ peer (16) ‖ own address (16) ‖ stride u32be ‖ datagrams
//! ```
//!
//! A pair of unix sockets that keeps messages apart carries them. The kernel bounds what waits in it; what finds no room is dropped,
//! as on any network.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram as StdSocket;
use std::sync::{Mutex, OnceLock};
use std::task::{Context, Poll, ready};

use quinn::udp::{EcnCodepoint, RecvMeta};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendFlags,
    SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::UnixDatagram;
use tokio::sync::Notify;

use crate::limits::QUIC_PASSED;
use crate::net::sync::lock;

const HEAD_LEN: usize = 44;
/// The peer's address is one of IPv6.
const V6: u8 = 1;
/// There is an own address, ...
const HAS_OWN: u8 = 2;
/// ... and it is one of IPv6.
const OWN_V6: u8 = 4;

/// Where datagrams are passed to an earlier listener.
#[derive(Debug)]
pub(super) struct Way(OwnedFd);

/// Where an earlier listener receives.
#[derive(Debug)]
pub(super) struct Inlet {
    /// Until somebody receives, on its reactor.
    unused: Mutex<Option<OwnedFd>>,
    socket: OnceLock<Option<UnixDatagram>>,
    /// Nobody passes anything more.
    pub(super) ended: Notify,
}

/// Both ends.
pub(super) fn pair() -> io::Result<(Way, Inlet)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (way, inlet) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    SockRef::from(&way).set_send_buffer_size(QUIC_PASSED)?;
    let inlet = Inlet {
        unused: Mutex::new(Some(inlet)),
        socket: OnceLock::new(),
        ended: Notify::new(),
    };
    Ok((Way(way), inlet))
}

impl Way {
    /// Passes datagrams that were received together. `false`: the earlier listener is gone.
    pub(super) fn pass(&self, meta: &RecvMeta, datagrams: &[u8]) -> bool {
        let head = head(meta);
        let parts = [IoSlice::new(&head), IoSlice::new(datagrams)];
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        let sent = sendmsg(&self.0, &parts, &mut SendAncillaryBuffer::default(), flags);
        match sent {
            Err(Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN | Errno::CONNREFUSED) => false,
            // Others mean that there is no room.
            _ => true,
        }
    }

    /// Whether the earlier listener is gone. It sends nothing here.
    pub(super) fn is_over(&self) -> bool {
        let flags = RecvFlags::DONTWAIT | RecvFlags::PEEK;
        let mut room = [0; 1];
        let mut parts = [IoSliceMut::new(&mut room)];
        let received = recvmsg(
            &self.0,
            &mut parts,
            &mut RecvAncillaryBuffer::default(),
            flags,
        );
        !matches!(received, Err(Errno::AGAIN | Errno::INTR))
    }
}

impl From<OwnedFd> for Way {
    fn from(socket: OwnedFd) -> Self {
        Self(socket)
    }
}

impl From<Way> for OwnedFd {
    fn from(way: Way) -> Self {
        way.0
    }
}

impl Inlet {
    /// Receives what was passed. Pending for ever once nobody passes anything more.
    pub(super) fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> Poll<usize> {
        let socket = self.socket.get_or_init(|| {
            let unused = StdSocket::from(lock(&self.unused).take()?);
            let socket = UnixDatagram::from_std(unused);
            if socket.is_err() {
                self.ended.notify_one();
            }
            socket.ok()
        });
        let Some(socket) = socket else {
            return Poll::Pending;
        };
        loop {
            if ready!(socket.poll_recv_ready(cx)).is_err() {
                return self.end();
            }
            let received =
                socket.try_io(Interest::READABLE, || receive_all(socket, buffers, metas));
            match received {
                Ok(count @ 1..) => return Poll::Ready(count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Ok(0) | Err(_) => return self.end(),
            }
        }
    }

    fn end(&self) -> Poll<usize> {
        self.ended.notify_one();
        Poll::Pending
    }
}

/// Receives as much as there is, and room for. 0: nobody passes anything more.
fn receive_all(
    socket: &UnixDatagram,
    buffers: &mut [IoSliceMut<'_>],
    metas: &mut [RecvMeta],
) -> io::Result<usize> {
    let mut count = 0;
    for (buffer, meta) in buffers.iter_mut().zip(metas) {
        match receive(socket, buffer) {
            Ok(Some(received)) => *meta = received,
            Ok(None) => break,
            Err(_) if count > 0 => break,
            Err(error) => return Err(error),
        }
        count += 1;
    }
    Ok(count)
}

fn receive(socket: &UnixDatagram, buffer: &mut [u8]) -> io::Result<Option<RecvMeta>> {
    let mut head = [0; HEAD_LEN];
    let received = loop {
        let mut parts = [IoSliceMut::new(&mut head), IoSliceMut::new(buffer)];
        let mut nothing = RecvAncillaryBuffer::default();
        match recvmsg(socket, &mut parts, &mut nothing, RecvFlags::DONTWAIT) {
            Err(Errno::INTR) => {}
            other => break other?,
        }
    };
    if received.bytes == 0 {
        return Ok(None);
    }
    // A cut message is none: quinn skips an empty one.
    let is_whole = !received.flags.contains(ReturnFlags::TRUNC);
    let len = received.bytes.saturating_sub(HEAD_LEN);
    Ok(Some(meta(&head, if is_whole { len } else { 0 })))
}

fn head(meta: &RecvMeta) -> [u8; HEAD_LEN] {
    let mut flags = 0;
    let scope = match meta.addr {
        SocketAddr::V4(_) => 0,
        SocketAddr::V6(peer) => {
            flags |= V6;
            peer.scope_id()
        }
    };
    let own = match meta.dst_ip {
        None => Ipv6Addr::UNSPECIFIED,
        Some(own) => {
            flags |= if own.is_ipv6() {
                HAS_OWN | OWN_V6
            } else {
                HAS_OWN
            };
            as_v6(own)
        }
    };
    let stride = u32::try_from(meta.stride).unwrap_or(u32::MAX);
    let ecn = meta.ecn.map_or(0, |ecn| ecn as u8);
    let mut head = [0; HEAD_LEN];
    let parts: [&[u8]; 6] = [
        &[flags, ecn],
        &meta.addr.port().to_be_bytes(),
        &scope.to_be_bytes(),
        &as_v6(meta.addr.ip()).octets(),
        &own.octets(),
        &stride.to_be_bytes(),
    ];
    let mut places = head.iter_mut();
    for (byte, place) in parts.into_iter().flatten().zip(&mut places) {
        *place = *byte;
    }
    head
}

fn meta(head: &[u8; HEAD_LEN], len: usize) -> RecvMeta {
    let mut rest: &[u8] = head;
    let [flags, ecn] = take(&mut rest);
    let port = u16::from_be_bytes(take(&mut rest));
    let scope = u32::from_be_bytes(take(&mut rest));
    let peer = Ipv6Addr::from(take::<16>(&mut rest));
    let own = Ipv6Addr::from(take::<16>(&mut rest));
    let stride = u32::from_be_bytes(take(&mut rest));
    RecvMeta {
        addr: match flags & V6 {
            0 => SocketAddr::new(IpAddr::V6(peer).to_canonical(), port),
            _ => SocketAddrV6::new(peer, port, 0, scope).into(),
        },
        len,
        stride: usize::try_from(stride).unwrap_or(usize::MAX).max(1),
        ecn: EcnCodepoint::from_bits(ecn),
        dst_ip: match (flags & HAS_OWN, flags & OWN_V6) {
            (0, _) => None,
            (_, 0) => Some(IpAddr::V6(own).to_canonical()),
            _ => Some(own.into()),
        },
    }
}

fn take<const LEN: usize>(rest: &mut &[u8]) -> [u8; LEN] {
    let (first, left) = rest.split_first_chunk().unwrap_or((&[0; LEN], &[]));
    *rest = left;
    *first
}

fn as_v6(ip: IpAddr) -> Ipv6Addr {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use std::future::poll_fn;

    use super::*;

    fn received(addr: &str, dst_ip: Option<&str>, ecn: Option<EcnCodepoint>) -> RecvMeta {
        RecvMeta {
            addr: addr.parse().unwrap(),
            len: 3000,
            stride: 1200,
            ecn,
            dst_ip: dst_ip.map(|ip| ip.parse().unwrap()),
        }
    }

    #[tokio::test]
    async fn datagrams_arrive_with_what_is_known_of_them() {
        let (way, inlet) = pair().unwrap();
        let all = [
            received("192.0.2.1:7", Some("192.0.2.9"), Some(EcnCodepoint::Ce)),
            received("[::ffff:192.0.2.1]:7", Some("::ffff:192.0.2.9"), None),
            received("[fe80::1%3]:443", None, Some(EcnCodepoint::Ect0)),
        ];
        for (meta, byte) in all.iter().zip(1..) {
            assert!(way.pass(meta, &vec![byte; 3000]));
        }
        let mut room = [[0; 4000], [0; 4000], [0; 4000], [0; 4000]];
        let mut buffers = room.each_mut().map(|room| IoSliceMut::new(room));
        let mut metas = [RecvMeta::default(); 4];
        let count = poll_fn(|cx| inlet.poll_recv(cx, &mut buffers, &mut metas)).await;
        assert_eq!(count, 3);
        for (at, expected) in all.iter().enumerate() {
            let (got, byte) = (metas[at], u8::try_from(at + 1).unwrap());
            assert_eq!(
                (got.addr, got.dst_ip, got.ecn, got.stride, got.len),
                (expected.addr, expected.dst_ip, expected.ecn, 1200, 3000)
            );
            assert_eq!(room[at][..3000], [byte; 3000]);
        }
    }

    #[tokio::test]
    async fn what_nobody_receives_is_bounded_and_the_end_is_told() {
        let (way, inlet) = pair().unwrap();
        let meta = received("192.0.2.1:7", None, None);
        for _ in 0..100_000 {
            assert!(way.pass(&meta, &[7; 1200]));
        }
        let mut room = [0; 4000];
        let mut buffers = [IoSliceMut::new(&mut room)];
        let mut metas = [RecvMeta::default()];
        let mut bytes = 0;
        drop(way);
        loop {
            let next = poll_fn(|cx| inlet.poll_recv(cx, &mut buffers, &mut metas));
            tokio::select! {
                biased;
                _ = next => bytes += metas[0].len,
                () = inlet.ended.notified() => break,
            }
        }
        assert!(bytes > 10_000 && bytes <= 2 * QUIC_PASSED, "{bytes}");
        let (way, inlet) = pair().unwrap();
        assert!(!way.is_over());
        drop(inlet);
        assert!(way.is_over());
        assert!(!way.pass(&meta, &[7; 1200]));
    }
}
