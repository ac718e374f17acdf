//! WebSocket as a layer over TCP or TLS (RFC 6455): a stream of bytes in binary frames, bare or inside mux.cool.
//!
//! # Copies
//!
//! Bytes are read into the caller's buffer and unmasked there. A header that comes next is read by the same call into
//! an array of its own; its length is guessed from that of the last one. Bytes are moved only when the guess was wrong,
//! or when a peer sends many small frames. Bytes to be written are masked in place and written with their header in one
//! call.
//!
//! # Ends
//!
//! [`wire::websocket`](crate::wire::websocket) describes how the end of one direction is sent. A peer that does not
//! understand it goes on. When such a peer has been silent for a second after our end, that counts as its own end, as
//! with v2ray-plugin. A server of ours that sends first looks like such a peer until it has received something from its
//! client; it gets the end as soon as it has announced itself. When both directions have ended the stream is dropped,
//! which sends a Close and waits for nothing.
//!
//! # Timers
//!
//! After one or two times `PING_INTERVAL` without a byte from the peer a Ping is sent, so that no proxy between takes the
//! connection for dead. The timer belongs to the stream and runs only while the user of the stream waits for the peer.

pub mod mux;
mod reading;
mod upgrade;

pub use upgrade::{Peer, Streams, UpgradeRequest, begin, connect, handshake, read_request};

use std::future::Future as _;
use std::io::{self, IoSlice, IoSliceMut};
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};

use super::Stream;
use super::pool::{Buffer, Size};
use super::slots::gather;
use super::stream::Layer;
use crate::wire::mux::SingleStream;
use crate::wire::websocket::{Decoder, Encoder, Head, Role, Status, close, xor};

/// A Ping is sent after this much silence, or twice as much at the latest: nginx closes after 60 s, Cloudflare after
/// 100.
const PING_INTERVAL: Duration = Duration::from_secs(25);
/// Silence after our end that counts as the end of a peer that does not understand ours.
const LINGER: Duration = Duration::from_secs(1);
/// The same while it is not known whether the peer understands it: it has a few round trips to say so.
const LINGER_UNKNOWN: Duration = Duration::from_secs(3);

/// Reads before a close that discard unread bytes, and the bytes of each.
const CLOSE_READS: usize = 16;
const CLOSE_READ: usize = 4096;

/// Slices written with one call.
const MAX_PARTS: usize = 64;

/// A WebSocket.
pub struct WebSocket {
    inner: Stream,
    role: Role,
    decoder: Decoder,
    encoder: Encoder,
    /// The stream within mux.cool, where that is spoken inside.
    mux: Option<SingleStream>,
    /// Payload that was read before the caller asked for it.
    pub(super) ahead: Vec<u8>,
    /// Probable length of the next frame's header.
    lead: usize,
    /// The head that is being written, and how many bytes of it are written.
    head: Option<(Head, usize)>,
    /// Bytes of the current frame's payload that are not written yet.
    rest: usize,
    /// Masked payload, when the caller's bytes may not be changed.
    masked: Option<Buffer>,
    /// Whether we have ended our direction.
    ended: bool,
    /// Whether the close will be a reset.
    reset: bool,
    /// Whether our end has not been sent, since the peer seemed not to understand it.
    end_unsent: bool,
    /// Whether the silence after our end has been long enough.
    lingered: bool,
    /// Whether anything was received since the timer was set.
    received: bool,
    timer: Option<Pin<Box<Sleep>>>,
    waker: Option<Waker>,
}

impl WebSocket {
    /// Wraps a stream on which the upgrade is complete.
    pub(super) fn new(inner: Stream, role: Role, mux: Option<SingleStream>) -> Self {
        Self {
            inner,
            role,
            decoder: Decoder::new(role),
            encoder: Encoder::new(role),
            mux,
            ahead: Vec::new(),
            lead: match role {
                Role::Client => 2 + 2,
                Role::Server => 2 + 2 + 4,
            },
            head: None,
            rest: 0,
            masked: None,
            ended: false,
            reset: false,
            end_unsent: false,
            lingered: false,
            received: false,
            timer: None,
            waker: None,
        }
    }

    /// Whether the peer understands the end of one direction.
    pub(super) const fn peer_understands_end(&self) -> bool {
        matches!(self.decoder.understands_end(), Some(true))
    }

    /// Whether the peer still reads our frames.
    const fn peer_listens(&self) -> bool {
        matches!(self.decoder.status(), Status::Active | Status::Ended)
    }

    /// Reads the payload as that of a mux.cool connection with one stream.
    pub(super) fn with_mux(mut self, mut mux: SingleStream) -> io::Result<Self> {
        let len = mux.decode(&mut self.ahead).map_err(invalid)?;
        self.ahead.truncate(len);
        self.mux = Some(mux);
        Ok(self)
    }

    /// Takes `bytes` that were read from the connection during the upgrade.
    pub(super) fn feed(&mut self, bytes: &mut [u8]) -> io::Result<()> {
        let len = self.decode(bytes)?;
        self.ahead
            .extend_from_slice(bytes.get(..len).unwrap_or_default());
        Ok(())
    }

    /// Reads into [`WebSocket::ahead`]; returns whether that was the end.
    pub(super) fn poll_ahead(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        ready!(self.poll_socket(cx))?;
        let mut buffer = Buffer::take(Size::Small);
        let (bytes, ..) = buffer.parts();
        match self.read_into(bytes) {
            Ok(len) => {
                self.ahead
                    .extend_from_slice(bytes.get(..len).unwrap_or_default());
                Poll::Ready(Ok(len == 0))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Err(error) => Poll::Ready(Err(error)),
        }
    }

    /// Sends the answers to the peer's frames, as far as that is possible without waiting.
    fn answer(&mut self) {
        if self.decoder.has_reply()
            && let Some(waker) = self.waker.clone()
        {
            // If the connection is broken, the next read fails.
            let _ = self.poll_flush(&mut Context::from_waker(&waker));
        }
    }

    /// Writes the frames without payload that are waiting: answers to the peer, Pings, and the end, once the peer is
    /// known to understand it. A frame of the caller that has begun goes first.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.rest == 0 {
            if let Some((head, done)) = &mut self.head {
                let bytes = head.bytes().get(*done..).unwrap_or_default();
                *done += ready!(self.inner.poll_write(cx, &[IoSlice::new(bytes)]))?;
                if *done >= head.bytes().len() {
                    self.head = None;
                }
            } else if let Some(pong) = self
                .encoder
                .late_announcement(&self.decoder, rand::random())
            {
                self.head = Some((pong, 0));
            } else if let Some(reply) = self.encoder.reply(&mut self.decoder, rand::random()) {
                self.head = Some((reply, 0));
            } else if self.end_unsent && self.peer_understands_end() && self.peer_listens() {
                self.end_unsent = false;
                self.head = Some((self.encoder.end(rand::random()), 0));
            } else {
                break;
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Waits until a frame may begin. After a Close none may (RFC 6455 §5.5.1).
    fn poll_writable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_flush(cx))?;
        Poll::Ready(if self.peer_listens() && !self.ended {
            Ok(())
        } else {
            Err(io::ErrorKind::BrokenPipe.into())
        })
    }

    /// A server announces that it understands an end only to clients that have done so: to others it looks like any
    /// server.
    const fn announce(&mut self) {
        if matches!(self.role, Role::Server) && !self.peer_understands_end() {
            self.encoder.skip_announcement();
        }
    }

    /// Begins a frame of `extra` and `len` bytes; masks the part of `bytes` that belongs to it.
    fn begin_frame(&mut self, extra: &[u8], len: usize, bytes: &mut [u8]) {
        self.announce();
        let (head, key) = self.encoder.data(extra, len, rand::random());
        if let Some(key) = key {
            let _ = xor(bytes.get_mut(..len).unwrap_or_default(), key);
        }
        (self.head, self.rest) = (Some((head, 0)), len);
    }

    /// Begins the next frame of the stream, with at most `len` bytes of payload.
    fn begin_stream_frame(&mut self, len: usize, bytes: &mut [u8]) {
        match &mut self.mux {
            Some(mux) => {
                let (extra, len) = mux.next_head(len);
                self.begin_frame(extra.bytes(), len, bytes);
            }
            None => self.begin_frame(&[], len, bytes),
        }
    }

    /// Continues the frame that has begun. `parts` begin with the rest of its payload.
    fn poll_write_frame(
        &mut self,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        loop {
            let mut slices: [IoSlice<'_>; MAX_PARTS + 1] =
                std::array::from_fn(|_| IoSlice::new(&[]));
            let (first, places) = slices.split_at_mut(1);
            let mut head_len = 0;
            if let (Some((head, done)), Some(first)) = (&self.head, first.first_mut()) {
                let bytes = head.bytes().get(*done..).unwrap_or_default();
                head_len = bytes.len();
                *first = IoSlice::new(bytes);
            }
            let mut left = self.rest;
            let mut used = 0;
            for (place, part) in places.iter_mut().zip(parts) {
                let len = part.len().min(left);
                *place = IoSlice::new(part.get(..len).unwrap_or_default());
                left -= len;
                used += 1;
            }
            let from = usize::from(head_len == 0);
            let slices = slices.get(from..=used).unwrap_or_default();
            let count = ready!(self.inner.poll_write(cx, slices))?;
            if count < head_len {
                if let Some((_, done)) = &mut self.head {
                    *done += count;
                }
                if count == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                continue;
            }
            self.head = None;
            let payload = count - head_len;
            self.rest -= payload;
            if payload > 0 || self.rest == 0 {
                if self.rest == 0 && self.decoder.has_reply() {
                    let _ = self.poll_flush(cx);
                }
                return Poll::Ready(Ok(payload));
            }
        }
    }

    /// As [`Layer::poll_write`]; a new frame begins with `extra`.
    pub(super) fn poll_write_framed(
        &mut self,
        cx: &mut Context<'_>,
        extra: impl FnOnce() -> crate::wire::mux::Head,
        bytes: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        self.store_waker(cx);
        if self.rest == 0 {
            ready!(self.poll_writable(cx))?;
            self.begin_frame(extra().bytes(), bytes.len(), bytes);
        }
        self.poll_write_frame(cx, &[IoSlice::new(bytes)])
    }

    /// Sends a short frame. [`WebSocket::poll_flushed`] must have been ready before: a frame that is still waiting
    /// would be lost, or cut if TLS has already sealed its beginning.
    pub(super) fn send(&mut self, cx: &mut Context<'_>, payload: &[u8]) {
        self.announce();
        let (head, _) = self.encoder.data(payload, 0, rand::random());
        self.head = Some((head, 0));
        // If the connection is broken, the next read fails.
        let _ = self.poll_flushed(cx);
    }

    /// Waits until all frames are sent.
    pub(super) fn poll_flushed(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.store_waker(cx);
        self.poll_flush(cx)
    }

    fn store_waker(&mut self, cx: &Context<'_>) {
        match &mut self.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            None => self.waker = Some(cx.waker().clone()),
        }
    }

    /// Waits for the connection, whatever was read ahead.
    fn poll_socket(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.store_waker(cx);
        // If the connection is broken, the read fails.
        let _ = self.poll_flush(cx);
        if self.is_ended().unwrap_or(true) {
            return Poll::Ready(Ok(()));
        }
        if self.inner.poll_readable(cx)?.is_ready() {
            return Poll::Ready(Ok(()));
        }
        self.poll_timer(cx)
    }

    /// Sends a Ping after a long silence. Ready when a silence counts as the peer's end.
    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let linger = match (self.ended, self.decoder.understands_end()) {
            (true, Some(false)) => Some(LINGER),
            (true, None) => Some(LINGER_UNKNOWN),
            _ => None,
        };
        let period = linger.unwrap_or(PING_INTERVAL);
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(period)));
        if linger.is_some() && timer.deadline() > Instant::now() + period {
            timer.as_mut().reset(Instant::now() + period);
            self.received = false;
        }
        while timer.as_mut().poll(cx).is_ready() {
            if !self.received {
                if linger.is_some() {
                    self.lingered = true;
                    return Poll::Ready(Ok(()));
                }
                if self.rest == 0 && self.head.is_none() {
                    self.head = Some((self.encoder.ping(rand::random()), 0));
                }
            }
            self.received = false;
            timer.as_mut().reset(Instant::now() + period);
        }
        let _ = self.poll_flush(cx);
        Poll::Pending
    }
}

pub(super) fn invalid(error: impl Into<crate::wire::Error>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error.into())
}

impl Layer for WebSocket {
    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.ahead.is_empty() {
            self.poll_socket(cx)
        } else {
            Poll::Ready(Ok(()))
        }
    }

    fn try_read(&mut self, slots: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        self.read(slots)
    }

    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.store_waker(cx);
        let len: usize = parts.iter().take(MAX_PARTS).map(|part| part.len()).sum();
        if len == 0 {
            return Poll::Ready(Ok(0));
        }
        if self.rest == 0 {
            ready!(self.poll_writable(cx))?;
            if self.role == Role::Server {
                self.begin_stream_frame(len, &mut []);
            } else {
                let mut buffer = Buffer::take(Size::Small);
                let (bytes, _, raw) = buffer.parts();
                raw.end = gather(parts, bytes);
                self.begin_stream_frame(raw.end, bytes);
                raw.end = self.rest;
                self.masked = Some(buffer);
            }
        }
        let Some(mut buffer) = self.masked.take() else {
            return self.poll_write_frame(cx, parts);
        };
        let range = buffer.raw.clone();
        let bytes = buffer.bytes().get(range).unwrap_or_default();
        let written = self.poll_write_frame(cx, &[IoSlice::new(bytes)]);
        if let Poll::Ready(Ok(count)) = written {
            buffer.raw.start += count;
        }
        if self.rest > 0 {
            self.masked = Some(buffer);
        }
        written
    }

    fn poll_write_mut(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        self.store_waker(cx);
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        if self.rest == 0 {
            ready!(self.poll_writable(cx))?;
            self.begin_stream_frame(bytes.len(), bytes);
        }
        self.poll_write_frame(cx, &[IoSlice::new(bytes)])
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.store_waker(cx);
        if self.rest > 0 {
            // The caller will not write the rest of its frame.
            self.reset = true;
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if !self.ended {
            ready!(self.poll_flush(cx))?;
            self.ended = true;
            // A peer that would not understand the end does not get one; see `Ends` above.
            if self.decoder.understands_end() == Some(false) {
                self.end_unsent = true;
            } else if self.peer_listens() {
                self.head = Some((self.encoder.end(rand::random()), 0));
            }
        }
        self.poll_flush(cx)
    }

    fn reset_on_close(&mut self) {
        // The peer has closed, or gets a Close for its error; a reset would overtake our Close.
        if !self.peer_listens() {
            return;
        }
        self.reset = true;
        self.inner.reset_on_close();
    }

    fn inner(&mut self) -> &mut Stream {
        &mut self.inner
    }

    fn leave_reactor(&mut self) {
        (self.timer, self.waker) = (None, None);
    }
}

impl Drop for WebSocket {
    /// Sends the waiting frames and a Close, as far as the socket takes them. Unread bytes, such as a Ping after the
    /// peer's end, are read now: otherwise Linux would close by a reset, and the peer could lose our last bytes.
    fn drop(&mut self) {
        if self.reset || self.rest > 0 {
            return;
        }
        let cx = &mut Context::from_waker(Waker::noop());
        if matches!(self.poll_flush(cx), Poll::Ready(Ok(()))) && self.peer_listens() {
            self.head = Some((self.encoder.close(close::NORMAL, rand::random()), 0));
            let _ = self.poll_flush(cx);
        }
        let mut unread = [0; CLOSE_READ];
        for _ in 0..CLOSE_READS {
            match self.inner.try_read(&mut [IoSliceMut::new(&mut unread)]) {
                Ok(1..) => {}
                Ok(0) | Err(_) => break,
            }
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
