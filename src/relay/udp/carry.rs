//! Carries packets between a socket and a stream, as [`crate::wire::udp_over_stream`] has it.
//!
//! The socket is connected to one of ours on this machine: an association of a client's, or the port that a server
//! takes packets at. So nothing else of the packet relay has to know of streams.

use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::ReadBuf;
use tokio::net::UdpSocket;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};

use crate::net::pipe::{Pipe, PushError, Taken};
use crate::net::pool::{Buffer, Size};
use crate::wire::udp_over_stream::{HEAD, MAX_PACKET, head, next};

/// Bytes of packets on their way into a stream; what comes while it is full is dropped, as datagrams are.
pub const WINDOW: usize = 512 * 1024;
/// Bytes of packets on their way out of it.
pub const CAPACITY: usize = 128 * 1024;
/// Packets moved before others get their turn.
const TURN: usize = 64;

/// A socket for packets to and from the socket at `peer`, which is on this machine.
///
/// # Errors
/// What the system says.
pub fn socket(peer: SocketAddr) -> io::Result<UdpSocket> {
    let (any, peer) = match peer.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => (
            Ipv4Addr::LOCALHOST.into(),
            (Ipv4Addr::LOCALHOST, peer.port()).into(),
        ),
        IpAddr::V6(ip) if ip.is_unspecified() => (
            Ipv6Addr::LOCALHOST.into(),
            (Ipv6Addr::LOCALHOST, peer.port()).into(),
        ),
        ip => (ip, peer),
    };
    let socket = std::net::UdpSocket::bind(SocketAddr::new(any, 0))?;
    socket.connect(peer)?;
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket)
}

/// A task that carries an association's packets, which ends with it: a socket on this machine is not told that the one
/// it is connected to has been closed.
pub struct Carrying(pub AbortHandle);

impl Drop for Carrying {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Why no more packets are carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The stream has ended or broken.
    Stream,
    /// The socket's peer is gone.
    Socket,
    /// Nothing has moved for long.
    Idle,
}

/// Carries packets until the stream ends, the socket's peer is gone or nothing has moved for one to two `idle`. To be
/// dropped only with the socket.
pub async fn carry(pipe: Pipe, socket: &UdpSocket, idle: Duration) -> Ended {
    let mut carrier = Carrier {
        pipe,
        socket,
        partial: None,
        moved: 0,
    };
    let (mut seen, mut end) = (0, Instant::now() + idle);
    let ended = loop {
        tokio::select! {
            ended = poll_fn(|cx| carrier.poll(cx)) => break ended,
            () = sleep_until(end) => {
                if carrier.moved == seen {
                    break Ended::Idle;
                }
                (seen, end) = (carrier.moved, Instant::now() + idle);
            }
        }
    };
    carrier.pipe.finish();
    ended
}

struct Carrier<'a> {
    pipe: Pipe,
    socket: &'a UdpSocket,
    /// The beginning of a packet that came out of the stream.
    partial: Option<Buffer>,
    moved: u64,
}

impl Carrier<'_> {
    /// Moves what there is; is ready when there will be no more.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        // The window is for us alone: who reads makes room, and nobody has to be told.
        let _ = self.pipe.take_credit();
        match self.poll_in(cx) {
            Poll::Pending => self.poll_out(cx),
            ended => ended,
        }
    }

    /// From the socket into the stream.
    fn poll_in(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        let mut buffer: Option<Buffer> = None;
        for _ in 0..TURN {
            if buffer.is_none() && self.socket.poll_recv_ready(cx).is_pending() {
                return Poll::Pending;
            }
            let buffer = buffer.get_or_insert_with(|| Buffer::take_exact(Size::Medium));
            let (bytes, ..) = buffer.parts();
            let Some((front, room)) = bytes.split_first_chunk_mut::<HEAD>() else {
                return Poll::Ready(Ended::Stream);
            };
            let room = room.get_mut(..MAX_PACKET).unwrap_or_default();
            let mut read = ReadBuf::new(room);
            let len = match self.socket.poll_recv(cx, &mut read) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(())) => read.filled().len(),
                Poll::Ready(Err(_)) => return Poll::Ready(Ended::Socket),
            };
            let Some(head) = head(len) else {
                continue;
            };
            *front = head;
            match self.pipe.push(bytes.get(..HEAD + len).unwrap_or_default()) {
                Ok(()) => self.moved += 1,
                Err(PushError::WindowExceeded) => {}
                Err(PushError::Closed) => return Poll::Ready(Ended::Stream),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// From the stream to the socket.
    fn poll_out(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        for _ in 0..TURN {
            // A new socket does not know yet that there is room in it.
            match ready!(self.socket.poll_send_ready(cx)) {
                Ok(()) => {}
                Err(_) => return Poll::Ready(Ended::Socket),
            }
            let mut buffer = self
                .partial
                .take()
                .unwrap_or_else(|| Buffer::take_exact(Size::Medium));
            buffer.compact();
            let (bytes, _, raw) = buffer.parts();
            let taken = self
                .pipe
                .poll_take(cx, bytes.get_mut(raw.end..).unwrap_or_default());
            let Poll::Ready(taken) = taken else {
                if raw.start < raw.end {
                    self.partial = Some(buffer);
                }
                return if self.pipe.is_abandoned() {
                    Poll::Ready(Ended::Stream)
                } else {
                    Poll::Pending
                };
            };
            let Taken::Bytes(count) = taken else {
                return Poll::Ready(Ended::Stream);
            };
            raw.end += count;
            while let Some((packet, used)) = next(bytes.get(raw.clone()).unwrap_or_default()) {
                raw.start += used;
                self.moved += 1;
                // What a full socket does not take is lost, as on any way for datagrams.
                match self.socket.try_send(packet) {
                    Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                        return Poll::Ready(Ended::Socket);
                    }
                    _ => {}
                }
            }
            if raw.start < raw.end {
                self.partial = Some(buffer);
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}
