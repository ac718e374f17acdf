//! Moves datagrams between an in-memory socket and a stream. [`Framing`] says how they stand there.

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
use crate::wire::udp_over_tcp::{Frames, MAX_REQUEST, Request, write_request};
use crate::wire::{self, AddressRef, multiplex};

/// Batches, or pieces of the stream, that are moved before other tasks get their turn.
const TURN: usize = 4;

/// An in-memory socket does not look where its datagrams go.
const NOWHERE: Path = Path::to(SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0));

/// What ended an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// The stream has ended or broken.
    Stream,
    /// The other end of the socket is gone.
    Socket,
    /// Nothing has moved for the time limit.
    Idle,
    /// The peer has sent something invalid, and the stream was reset.
    Invalid(wire::Error),
}

/// How datagrams stand in a stream.
#[derive(Clone, Debug)]
pub enum Framing {
    /// Sealed packets ([`crate::wire::udp_over_stream`]).
    Packets,
    /// Plain datagrams ([`crate::wire::udp_over_tcp`]).
    Datagrams {
        /// What stands beside the data.
        frames: Frames,
        /// Whether a request has to be sent first, for the target of the first datagram.
        request: bool,
    },
}

impl Framing {
    /// Writes the frame of a datagram, and what has to be sent before it. Returns the length; `None`: it cannot be sent.
    fn write(&self, datagram: &[u8], out: &mut [u8]) -> Option<usize> {
        match self {
            Self::Packets => {
                let frame = out.get_mut(..HEAD + datagram.len())?;
                let (front, body) = frame.split_at_mut_checked(HEAD)?;
                front.copy_from_slice(&head(datagram.len())?);
                body.copy_from_slice(datagram);
                Some(HEAD + datagram.len())
            }
            Self::Datagrams { frames, request } => {
                let start = match (request, frames) {
                    (false, _) => 0,
                    (true, Frames::Socks) => {
                        let (target, _) = AddressRef::parse(datagram).ok()??;
                        let request = multiplex::Carries::Addressed.encode(target);
                        out.get_mut(..request.len())?.copy_from_slice(&request);
                        request.len()
                    }
                    (true, _) => write_request(datagram, out)?,
                };
                let frame = frames.write(datagram, out.get_mut(start..)?)?;
                Some(start + frame)
            }
        }
    }

    /// To be called when a frame is on its way.
    fn written(&mut self) {
        if let Self::Datagrams { request, .. } = self {
            *request = false;
        }
    }

    /// Adds the first datagram of `bytes` to `batch` and returns the length of its frame; `None`: more bytes are needed.
    fn read(&self, bytes: &[u8], batch: &mut Batch) -> Result<Option<usize>, wire::Error> {
        match self {
            Self::Packets => Ok(next(bytes).map(|(packet, used)| {
                let _ = batch.push(NOWHERE, packet.len(), |room| {
                    room.copy_from_slice(packet);
                    Ok::<_, ()>(())
                });
                used
            })),
            Self::Datagrams { frames, .. } => Ok(frames.next(bytes)?.map(|(datagram, used)| {
                // The room is as long as the datagram.
                let _ = batch.push(NOWHERE, datagram.encoded_len(), |room| {
                    datagram.write(room).ok_or(())
                });
                used
            })),
        }
    }
}

/// Reads the request with which a client of UDP over TCP begins, and nothing behind it. Returns how its datagrams stand in
/// the stream.
///
/// # Errors
/// [`wire::Error::Truncated`] when the stream ends before, and those of [`Request::parse`].
pub async fn read_request(pipe: &Pipe) -> Result<Frames, wire::Error> {
    let mut bytes = [0; MAX_REQUEST];
    for end in 1..=MAX_REQUEST {
        let last = bytes.get_mut(end - 1..end).unwrap_or_default();
        let taken = poll_fn(|cx| match pipe.poll_take(cx, last) {
            Poll::Pending if pipe.is_abandoned() => Poll::Ready(Taken::Reset),
            taken => taken,
        });
        if !matches!(taken.await, Taken::Bytes(1)) {
            break;
        }
        if let Some((request, _)) = Request::parse(bytes.get(..end).unwrap_or_default())? {
            return if request.connect {
                Frames::connected(request.target).ok_or(wire::Error::AddressDomain)
            } else {
                Ok(Frames::Addressed)
            };
        }
    }
    Err(wire::Error::Truncated)
}

/// Moves datagrams between `socket` and the stream behind `pipe` until one of them is closed or nothing has moved for
/// `timeout`, or up to a quarter longer.
pub async fn exchange(pipe: Pipe, socket: &Socket, framing: Framing, timeout: Duration) -> Closed {
    let mut exchange = Exchange {
        pipe,
        socket,
        framing,
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
    match closed {
        Closed::Invalid(_) => exchange.pipe.reset(),
        _ => exchange.pipe.finish(),
    }
    closed
}

struct Exchange<'a> {
    pipe: Pipe,
    socket: &'a Socket,
    framing: Framing,
    /// The beginning of a datagram that came out of the stream.
    partial: Option<Buffer>,
    /// The number of datagrams that have moved.
    moved: u64,
}

impl Exchange<'_> {
    /// Moves what there is; is ready when there will be no more.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Closed> {
        // Nobody waits for credit here: datagrams that do not fit are dropped. Taking it makes room.
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
                for (datagram, _) in received.datagrams() {
                    let Some(len) = self.framing.write(datagram, room) else {
                        continue;
                    };
                    match self.pipe.push(room.get(..len).unwrap_or_default()) {
                        Ok(()) => {
                            self.framing.written();
                            self.moved += 1;
                        }
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
            let invalid = loop {
                let bytes = bytes.get(raw.clone()).unwrap_or_default();
                match self.framing.read(bytes, &mut batch) {
                    Ok(Some(used)) => {
                        raw.start += used;
                        self.moved += 1;
                    }
                    Ok(None) => break None,
                    Err(error) => break Some(error),
                }
                // Datagrams may be longer than their frames.
                if batch.is_full() {
                    self.socket.send(&mut batch);
                }
            };
            self.socket.send(&mut batch);
            batch.keep();
            if let Some(error) = invalid {
                return Poll::Ready(Closed::Invalid(error));
            }
            if raw.start < raw.end {
                self.partial = Some(buffer);
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}
