//! WebSocket as a layer over TCP or TLS (RFC 6455): a stream of bytes in binary frames, bare or within mux.cool.
//!
//! # Copies
//!
//! What is read lands in the caller's buffer and is unmasked there. Where a header comes next, it is read into a place
//! of its own with the same call; its length is guessed from the last one's. Bytes move only when the guess was wrong,
//! or when a peer sends many small frames. What is written goes out in one call with the frame's header, masked where
//! it stands.
//!
//! # Ends
//!
//! The end of one direction is told as [`wire::websocket`](crate::wire::websocket) describes. A peer that does not
//! understand it goes on, and when it has been silent for a second after our end, that is taken for its own, as
//! v2ray-plugin does. A server of ours that spoke first seems to be such a peer until it has heard its client; it is
//! told the end when it has said what it is. When both directions have ended the stream is dropped, which sends a Close
//! and waits for nothing.
//!
//! # Timers
//!
//! A connection on which nothing came for 25 to 50 s is pinged, so that no proxy takes it for dead. The timer belongs to
//! the stream and stands only while somebody waits for the peer.

pub mod mux;
mod reading;
mod upgrade;

pub use upgrade::{Accepted, Asked, Peer, accept, asked, connect};

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

/// After so much silence, and twice as much at the latest, a Ping is sent: nginx cuts at 60 s, Cloudflare at 100 s.
const PING_AFTER: Duration = Duration::from_secs(25);
/// Silence after our end that is taken for the end of a peer that did not understand it.
const LINGER: Duration = Duration::from_secs(1);
/// The same where it is not known yet whether it did: it has some round trips to say so.
const LINGER_UNKNOWN: Duration = Duration::from_secs(3);

/// Reads before a close that drop what nobody asked for, and bytes of each.
const LAST_READS: usize = 16;
const LAST_READ: usize = 4096;

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
    /// Payload that was read before anybody asked for it.
    ahead: Vec<u8>,
    /// Bytes of header that the next frame will probably have.
    lead: usize,
    /// What of a head has not been written, and how much has.
    head: Option<(Head, usize)>,
    /// Payload of the current frame that has not been written.
    rest: usize,
    /// Masked payload, where the caller's bytes could not be changed.
    masked: Option<Buffer>,
    /// Whether we have ended our direction, or will only reset.
    ended: bool,
    reset: bool,
    /// Whether the peer has not been told of it, as it seemed not to understand.
    untold: bool,
    /// Whether the silence after our end has been long enough.
    lingered: bool,
    /// Whether anything has come since the timer was set.
    heard: bool,
    timer: Option<Pin<Box<Sleep>>>,
    waker: Option<Waker>,
}

impl WebSocket {
    /// Over a stream on which the upgrade has been made.
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
            untold: false,
            lingered: false,
            heard: false,
            timer: None,
            waker: None,
        }
    }

    /// Payload that was read before anybody asked for it.
    pub(super) fn ahead(&self) -> &[u8] {
        &self.ahead
    }

    /// Takes it.
    pub(super) fn take_ahead(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.ahead)
    }

    /// Whether the peer understands the end of one direction.
    pub(super) const fn peer_knows_end(&self) -> bool {
        matches!(self.decoder.knows_end(), Some(true))
    }

    /// Whether the peer still reads what we say.
    const fn peer_listens(&self) -> bool {
        matches!(self.decoder.status(), Status::Open | Status::Ended)
    }

    /// Takes the bytes inside for the single stream of mux.cool.
    pub(super) fn with_mux(mut self, mut mux: SingleStream) -> io::Result<Self> {
        let len = mux.decode(&mut self.ahead).map_err(invalid)?;
        self.ahead.truncate(len);
        self.mux = Some(mux);
        Ok(self)
    }

    /// Takes in `bytes` of the connection that were read by somebody else.
    pub(super) fn feed(&mut self, bytes: &mut [u8]) -> io::Result<()> {
        let len = self.decode(bytes)?;
        self.ahead
            .extend_from_slice(bytes.get(..len).unwrap_or_default());
        Ok(())
    }

    /// Reads what there is into [`WebSocket::ahead`]; whether that is the end.
    pub(super) fn poll_ahead(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        ready!(self.poll_more(cx))?;
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

    /// Sends what is owed now, if that can be done without waiting.
    fn answer(&mut self) {
        if self.decoder.owes_reply()
            && let Some(waker) = self.waker.clone()
        {
            // If the connection is broken, the next read will tell.
            let _ = self.poll_flush(&mut Context::from_waker(&waker));
        }
    }

    /// Writes whole frames that wait: answers to the peer, what has been put in their place, and an end that the peer
    /// turns out to understand. A frame of the caller's that has begun goes first.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.rest == 0 {
            if let Some((head, done)) = &mut self.head {
                let bytes = head.bytes().get(*done..).unwrap_or_default();
                *done += ready!(self.inner.poll_write(cx, &[IoSlice::new(bytes)]))?;
                if *done >= head.bytes().len() {
                    self.head = None;
                }
            } else if let Some(pong) = self.encoder.late_greeting(&self.decoder, rand::random()) {
                self.head = Some((pong, 0));
            } else if let Some(reply) = self.encoder.reply(&mut self.decoder, rand::random()) {
                self.head = Some((reply, 0));
            } else if self.untold && self.peer_knows_end() && self.peer_listens() {
                self.untold = false;
                self.head = Some((self.encoder.end(rand::random()), 0));
            } else {
                break;
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Waits until a frame may begin; after a Close none may (RFC 6455 §5.5.1).
    fn poll_open(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_flush(cx))?;
        Poll::Ready(if self.peer_listens() && !self.ended {
            Ok(())
        } else {
            Err(io::ErrorKind::BrokenPipe.into())
        })
    }

    /// A server has heard what its client understands, and shows a stranger nothing that tells it from others.
    const fn greet(&mut self) {
        if matches!(self.role, Role::Server) && !self.peer_knows_end() {
            self.encoder.skip_greeting();
        }
    }

    /// Begins a frame of `len` bytes at most, behind `extra`; masks those of `bytes` that will go with it.
    fn begin(&mut self, extra: &[u8], len: usize, bytes: &mut [u8]) {
        self.greet();
        let (head, key) = self.encoder.data(extra, len, rand::random());
        if let Some(key) = key {
            let _ = xor(bytes.get_mut(..len).unwrap_or_default(), key);
        }
        (self.head, self.rest) = (Some((head, 0)), len);
    }

    /// Begins the next frame of the stream, of at most `len` bytes.
    fn begin_next(&mut self, len: usize, bytes: &mut [u8]) {
        match &mut self.mux {
            Some(mux) => {
                let (extra, len) = mux.next_head(len);
                self.begin(extra.bytes(), len, bytes);
            }
            None => self.begin(&[], len, bytes),
        }
    }

    /// Writes of the frame that has begun; `parts` are its rest, and perhaps more.
    fn poll_push(
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
                if self.rest == 0 && self.decoder.owes_reply() {
                    let _ = self.poll_flush(cx);
                }
                return Poll::Ready(Ok(payload));
            }
        }
    }

    /// As [`Layer::poll_write`], in a frame with `extra` before the payload where a new one begins.
    pub(super) fn poll_write_framed(
        &mut self,
        cx: &mut Context<'_>,
        extra: impl FnOnce() -> crate::wire::mux::Head,
        bytes: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        self.remember(cx);
        if self.rest == 0 {
            ready!(self.poll_open(cx))?;
            self.begin(extra().bytes(), bytes.len(), bytes);
        }
        self.poll_push(cx, &[IoSlice::new(bytes)])
    }

    /// Begins a frame of `payload`, a few bytes. Only where none is under way and none waits, which
    /// [`WebSocket::poll_flushed`] has to have said: it would be lost, or cut if TLS has sealed it already.
    pub(super) fn send(&mut self, cx: &mut Context<'_>, payload: &[u8]) {
        self.greet();
        let (head, _) = self.encoder.data(payload, 0, rand::random());
        self.head = Some((head, 0));
        // If the connection is broken, the next read will tell.
        let _ = self.poll_flushed(cx);
    }

    /// Waits until all that was to be sent has been.
    pub(super) fn poll_flushed(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.remember(cx);
        self.poll_flush(cx)
    }

    /// Gives back what was taken with [`WebSocket::take_ahead`], or read, and not used.
    pub(super) fn put_ahead(&mut self, bytes: Vec<u8>) {
        self.ahead = bytes;
    }

    fn remember(&mut self, cx: &Context<'_>) {
        match &mut self.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            None => self.waker = Some(cx.waker().clone()),
        }
    }

    /// Waits for the connection, whatever has been read ahead.
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.remember(cx);
        // If the connection is broken, the read will tell.
        let _ = self.poll_flush(cx);
        if self.over().unwrap_or(true) {
            return Poll::Ready(Ok(()));
        }
        if self.inner.poll_readable(cx)?.is_ready() {
            return Poll::Ready(Ok(()));
        }
        self.poll_timer(cx)
    }

    /// Pings after a long silence; is ready when a silence is to be taken for the end.
    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let linger = match (self.ended, self.decoder.knows_end()) {
            (true, Some(false)) => Some(LINGER),
            (true, None) => Some(LINGER_UNKNOWN),
            _ => None,
        };
        let period = linger.unwrap_or(PING_AFTER);
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(period)));
        if linger.is_some() && timer.deadline() > Instant::now() + period {
            timer.as_mut().reset(Instant::now() + period);
            self.heard = false;
        }
        while timer.as_mut().poll(cx).is_ready() {
            if !self.heard {
                if linger.is_some() {
                    self.lingered = true;
                    return Poll::Ready(Ok(()));
                }
                if self.rest == 0 && self.head.is_none() {
                    self.head = Some((self.encoder.ping(rand::random()), 0));
                }
            }
            self.heard = false;
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
            self.poll_more(cx)
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
        self.remember(cx);
        let len: usize = parts.iter().take(MAX_PARTS).map(|part| part.len()).sum();
        if len == 0 {
            return Poll::Ready(Ok(0));
        }
        if self.rest == 0 {
            ready!(self.poll_open(cx))?;
            if self.role == Role::Server {
                self.begin_next(len, &mut []);
            } else {
                let mut buffer = Buffer::take(Size::Small);
                let (bytes, _, raw) = buffer.parts();
                raw.end = gather(parts, bytes);
                self.begin_next(raw.end, bytes);
                raw.end = self.rest;
                self.masked = Some(buffer);
            }
        }
        let Some(mut buffer) = self.masked.take() else {
            return self.poll_push(cx, parts);
        };
        let range = buffer.raw.clone();
        let bytes = buffer.bytes().get(range).unwrap_or_default();
        let written = self.poll_push(cx, &[IoSlice::new(bytes)]);
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
        self.remember(cx);
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        if self.rest == 0 {
            ready!(self.poll_open(cx))?;
            self.begin_next(bytes.len(), bytes);
        }
        self.poll_push(cx, &[IoSlice::new(bytes)])
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.remember(cx);
        if self.rest > 0 {
            // The rest of a frame will not come any more.
            self.reset = true;
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if !self.ended {
            ready!(self.poll_flush(cx))?;
            self.ended = true;
            // A peer that will not understand it is not told; see `Ends` above.
            if self.decoder.knows_end() == Some(false) {
                self.untold = true;
            } else if self.peer_listens() {
                self.head = Some((self.encoder.end(rand::random()), 0));
            }
        }
        self.poll_flush(cx)
    }

    fn reset_on_close(&mut self) {
        // The Close that answers an error of the peer, or its own, says all; a reset would overtake it.
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
    /// Says what is owed and a Close, as far as the socket takes it. What came and nobody read, as a Ping behind the
    /// peer's end, is read now: Linux would answer it with a reset, which takes what is on its way from the peer.
    fn drop(&mut self) {
        if self.reset || self.rest > 0 {
            return;
        }
        let cx = &mut Context::from_waker(Waker::noop());
        if matches!(self.poll_flush(cx), Poll::Ready(Ok(()))) && self.peer_listens() {
            self.head = Some((self.encoder.close(close::NORMAL, rand::random()), 0));
            let _ = self.poll_flush(cx);
        }
        let mut unread = [0; LAST_READ];
        for _ in 0..LAST_READS {
            match self.inner.try_read(&mut [IoSliceMut::new(&mut unread)]) {
                Ok(1..) => {}
                Ok(0) | Err(_) => break,
            }
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
