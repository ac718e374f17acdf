//! Moves packets between an in-memory socket and a stream, as [`crate::wire::udp_over_stream`] has it.

use std::future::poll_fn;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::pin::pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::sleep;

use crate::net::pipe::{Pipe, PushError, Taken};
use crate::net::pool::{Buffer, Size};
use crate::net::udp::{Batch, Path, Socket};
use crate::relay::idle::IdleTimer;
use crate::wire::udp_over_stream::{HEAD, head, next};

/// Batches, or pieces of the stream, that are moved before other tasks get their turn.
const TURN: usize = 4;

/// An in-memory socket does not look where its datagrams go.
const NOWHERE: Path = Path {
    peer: SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0),
    local: None,
};

/// What ended an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// The stream has ended or broken.
    Stream,
    /// The other end of the socket is gone.
    Socket,
    /// Nothing has moved for the time limit.
    Idle,
}

/// Moves packets between `socket` and the stream behind `pipe` until one of them is closed or nothing has moved for
/// `timeout`, or up to a quarter longer.
pub async fn exchange(pipe: Pipe, socket: &Socket, timeout: Duration) -> Closed {
    let mut exchange = Exchange {
        pipe,
        socket,
        partial: None,
        moved: 0,
    };
    let mut idle = IdleTimer::new(timeout);
    let mut tick = pin!(sleep(idle.period()));
    let closed = poll_fn(|cx| match exchange.poll(cx) {
        Poll::Ready(closed) => Poll::Ready(closed),
        Poll::Pending => idle
            .poll(cx, tick.as_mut(), exchange.moved)
            .map(|_| Closed::Idle),
    });
    let closed = closed.await;
    exchange.pipe.finish();
    closed
}

struct Exchange<'a> {
    pipe: Pipe,
    socket: &'a Socket,
    /// The beginning of a packet that came out of the stream.
    partial: Option<Buffer>,
    /// The number of packets that have moved.
    moved: u64,
}

impl Exchange<'_> {
    /// Moves what there is; is ready when there will be no more.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Closed> {
        // Nobody waits for credit here: packets that do not fit are dropped. Taking it makes room.
        let _ = self.pipe.take_credit();
        match self.poll_into_stream(cx) {
            Poll::Pending => self.poll_out_of_stream(cx),
            closed => closed,
        }
    }

    fn poll_into_stream(&mut self, cx: &mut Context<'_>) -> Poll<Closed> {
        for _ in 0..TURN {
            let mut closed = false;
            let received = self.socket.poll_receive(cx, |mut received| {
                let mut buffer = Buffer::take_exact(Size::Medium);
                let (room, ..) = buffer.parts();
                for (packet, _) in received.datagrams() {
                    let frame = room.get_mut(..HEAD + packet.len());
                    let (Some(head), Some(frame)) = (head(packet.len()), frame) else {
                        continue;
                    };
                    let (front, body) = frame.split_at_mut(HEAD);
                    front.copy_from_slice(&head);
                    body.copy_from_slice(packet);
                    match self.pipe.push(frame) {
                        Ok(()) => self.moved += 1,
                        Err(PushError::WindowExceeded) => {}
                        Err(PushError::Closed) => closed = true,
                    }
                }
            });
            if ready!(received).is_err() {
                return Poll::Ready(Closed::Socket);
            }
            if closed {
                return Poll::Ready(Closed::Stream);
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn poll_out_of_stream(&mut self, cx: &mut Context<'_>) -> Poll<Closed> {
        for _ in 0..TURN {
            let mut buffer = self
                .partial
                .take()
                .unwrap_or_else(|| Buffer::take_exact(Size::Medium));
            buffer.compact();
            let (bytes, _, raw) = buffer.parts();
            let room = bytes.get_mut(raw.end..).unwrap_or_default();
            match self.pipe.poll_take(cx, room) {
                Poll::Ready(Taken::Bytes(count)) => raw.end += count,
                Poll::Ready(Taken::End | Taken::Reset) => return Poll::Ready(Closed::Stream),
                Poll::Pending => {
                    if raw.start < raw.end {
                        self.partial = Some(buffer);
                    }
                    return if self.pipe.is_abandoned() {
                        Poll::Ready(Closed::Stream)
                    } else {
                        Poll::Pending
                    };
                }
            }
            let mut batch = Batch::spare();
            while let Some((packet, used)) = next(bytes.get(raw.clone()).unwrap_or_default()) {
                raw.start += used;
                self.moved += 1;
                let _ = batch.push(NOWHERE, packet.len(), |room| {
                    room.copy_from_slice(packet);
                    Ok::<_, ()>(())
                });
            }
            self.socket.send(&mut batch);
            batch.keep();
            if raw.start < raw.end {
                self.partial = Some(buffer);
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}
