//! TLS over another stream, by rustls; 1.2 and 1.3, ALPN `http/1.1` alone.
//!
//! rustls is used without buffers of its own. Records are read into a buffer of the worker's pool and decrypted there;
//! a write is encrypted into another buffer, which is written as a whole. Buffers are held only while bytes are in
//! them, so an idle connection holds its keys and nothing else.

mod client;
mod error;
mod quic;
mod server;
mod session;
mod verifier;

use std::io::{self, IoSlice, IoSliceMut};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustls::crypto::CryptoProvider;

pub use client::Client;
pub use error::{Error, Problem, problem};
pub(super) use quic::alert;
pub use server::{Pem, Server, Validity, validity};
use session::{Session, Step, Task, Verdict, Work};
pub(super) use verifier::Refusals;
pub use verifier::Trust;

use super::pool::{Buffer, Size};
use super::slots::{gather, scatter};
use super::stream::{Layer, Stream};

/// Plaintext of one record (RFC 8446 §5.1).
const RECORD: usize = 16 * 1024;
/// Bytes that encryption adds to a record at most: header, explicit nonce or content type, tag.
const OVERHEAD: usize = 64;
/// The first bytes of a vectored write, up to this many, go into one record.
const GATHER: usize = 2048;
/// The only protocol that is offered, so that a CDN cannot choose another.
const ALPN: &[u8] = b"http/1.1";

/// Prepares what handshakes need. A program built without `.cargo/config.toml` takes 50 ms for its first random bytes, which the first
/// client would wait for.
pub fn prepare() {
    // If this fails, the handshake says so.
    let _ = aws_lc_rs::rand::fill(&mut [0; 16]);
}

pub(in crate::net) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// TLS over another stream.
struct Tls {
    inner: Stream,
    session: Session,
    /// Records that were received and not yet processed, in `raw`.
    incoming: Option<Buffer>,
    /// Records to be sent, in `raw`.
    outgoing: Option<Buffer>,
    /// Plaintext for which the reader had no room, in `raw`.
    plain: Option<Buffer>,
    /// Bytes of the current write that are encrypted in `outgoing`.
    sealed: usize,
    /// Size of the next buffer for `incoming`.
    size: Size,
    /// Whether anything was received since the session last asked for more.
    fresh: bool,
    /// Whether the inner stream has ended.
    eof: bool,
    /// Whether the peer has ended its direction.
    ended: bool,
    /// Whether we have ended ours.
    closed: bool,
    /// Whether the session failed and must not be used.
    failed: bool,
}

impl Tls {
    fn new(inner: Stream, session: Session) -> Self {
        Self {
            inner,
            session,
            incoming: None,
            outgoing: None,
            plain: None,
            sealed: 0,
            size: Size::Small,
            fresh: true,
            eof: false,
            ended: false,
            closed: false,
            failed: false,
        }
    }

    /// Runs the handshake to its end.
    async fn handshake(mut self) -> io::Result<Stream> {
        let result = std::future::poll_fn(|cx| self.poll_handshake(cx)).await;
        if result.is_err() && self.outgoing.is_some() {
            // Sends the alert, if the socket takes it at once.
            std::future::poll_fn(|cx| {
                let _ = self.poll_flush(cx);
                Poll::Ready(())
            })
            .await;
        }
        result.map(|()| Stream::layered(self))
    }

    fn poll_handshake(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let step = self.advance()?;
            ready!(self.poll_flush(cx))?;
            if !self.session.is_handshaking() {
                return Poll::Ready(Ok(()));
            }
            if step == Step::End || self.eof {
                return Poll::Ready(Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "the peer closed the connection during the TLS handshake",
                )));
            }
            ready!(self.inner.poll_readable(cx))?;
            match self.fill() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => result?,
            }
        }
    }

    /// Processes what was received, up to the next plaintext.
    fn advance(&mut self) -> io::Result<Step> {
        if self.ended {
            return Ok(Step::End);
        }
        if !self.fresh {
            return Ok(Step::More);
        }
        let (step, _) = self.run(Task::Advance)?;
        Ok(step)
    }

    /// Reads records, or notes the end of the inner stream.
    fn fill(&mut self) -> io::Result<()> {
        let mut buffer = match self.incoming.take() {
            Some(mut buffer) => {
                buffer.compact();
                if buffer.raw.end == buffer.bytes().len() {
                    if matches!(self.session, Session::Server(_)) {
                        // No client has to send that much before the server answers.
                        return Err(too_long());
                    }
                    // A message of the handshake with long certificates.
                    let larger = buffer.size().up();
                    buffer = buffer.resized(larger);
                } else if self.size > buffer.size() && Buffer::affords(self.size) {
                    buffer = buffer.resized(self.size);
                }
                buffer
            }
            None => Buffer::take(self.size),
        };
        let (bytes, _, raw) = buffer.parts();
        let room = bytes.get_mut(raw.end..).unwrap_or_default();
        let len = room.len();
        let read = if len == 0 {
            Err(too_long())
        } else {
            self.inner.try_read(&mut [IoSliceMut::new(room)])
        };
        if let Ok(count) = read {
            raw.end += count;
            self.fresh |= count > 0;
            self.eof |= count == 0;
            if count == len {
                self.size = self.size.up();
            } else if count < len / 4 {
                self.size = Size::Small;
            }
        }
        if raw.start < raw.end {
            self.incoming = Some(buffer);
        }
        read.map(drop)
    }

    /// Does `task`, after what the session must do first. Returns the next step and the number of bytes moved.
    fn run(&mut self, task: Task<'_, '_>) -> io::Result<(Step, usize)> {
        if self.failed {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let Self {
            session,
            incoming,
            outgoing,
            plain,
            ..
        } = self;
        let mut work = Work {
            outgoing,
            plain,
            task,
            moved: 0,
        };
        let mut ended = false;
        let result = loop {
            match work.step(session, incoming) {
                Ok(None) => {}
                Ok(Some(Verdict::Ended)) => ended = true,
                Ok(Some(Verdict::Step(step))) => break Ok(step),
                Err(error) => break Err(error),
            }
        };
        let moved = work.moved;
        self.ended |= ended;
        self.fresh &= !matches!(result, Ok(Step::More));
        if self
            .incoming
            .as_ref()
            .is_some_and(|buffer| buffer.raw.start >= buffer.raw.end)
        {
            self.incoming = None;
        }
        match result {
            Ok(_) if self.ended => Ok((Step::End, moved)),
            Ok(step) => Ok((step, moved)),
            Err(error) => {
                self.failed = true;
                self.queue_alert();
                Err(error)
            }
        }
    }

    /// Appends the alert for the peer to the records to be sent.
    fn queue_alert(&mut self) {
        let mut work = Work {
            outgoing: &mut self.outgoing,
            plain: &mut self.plain,
            task: Task::Advance,
            moved: 0,
        };
        // Only once: the alert comes first, and a failed session must not be used any more.
        let _ = work.step(&mut self.session, &mut self.incoming);
    }

    /// Writes the records to be sent.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(buffer) = &mut self.outgoing {
            let rest = buffer.bytes().get(buffer.raw.clone()).unwrap_or_default();
            let count = ready!(self.inner.poll_write(cx, &[IoSlice::new(rest)]))?;
            if count == 0 && !rest.is_empty() {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            buffer.raw.start += count;
            if buffer.raw.start >= buffer.raw.end {
                self.outgoing = None;
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Encrypts as many bytes of `parts` as one buffer holds.
    fn seal(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        let total: usize = parts.iter().map(|part| part.len()).sum();
        let records = total.div_ceil(RECORD) + parts.len();
        let size = Size::holding(total + records * OVERHEAD).unwrap_or(Size::Large);
        self.outgoing = Some(Buffer::take(size));
        // The head of a frame and a short payload are one record.
        let mut gathered = [0; GATHER];
        let mut done = 0;
        let mut skip = 0;
        if parts.len() > 1 {
            let len = gather(parts, &mut gathered);
            done += self.seal_run(gathered.get(..len).unwrap_or_default())?;
            skip = done;
        }
        for part in parts {
            let rest = part.get(skip.min(part.len())..).unwrap_or_default();
            skip = skip.saturating_sub(part.len());
            let sealed = self.seal_run(rest)?;
            done += sealed;
            if sealed < rest.len() {
                break;
            }
        }
        Ok(done)
    }

    /// Encrypts as many of `bytes` as fit.
    fn seal_run(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut done = 0;
        for piece in bytes.chunks(RECORD) {
            let room = self
                .outgoing
                .as_ref()
                .map_or(0, |buffer| buffer.bytes().len() - buffer.raw.end);
            let piece = piece
                .get(..piece.len().min(room.saturating_sub(OVERHEAD)))
                .unwrap_or_default();
            if piece.is_empty() {
                break;
            }
            let (_, sealed) = self.run(Task::Seal(piece))?;
            done += sealed;
            if sealed == 0 {
                break;
            }
        }
        Ok(done)
    }

    /// Takes plaintext that was already received.
    fn take_plain(&mut self, slots: &mut [IoSliceMut<'_>]) -> io::Result<(Step, usize)> {
        if let Some(buffer) = &mut self.plain {
            let (bytes, _, raw) = buffer.parts();
            let from = bytes.get(raw.clone()).unwrap_or_default();
            let count = scatter(from, slots, 0);
            raw.start += count;
            if raw.start >= raw.end {
                self.plain = None;
            }
            return Ok((Step::Plain, count));
        }
        match self.advance()? {
            Step::Plain => self.run(Task::Take(slots)),
            step => Ok((step, 0)),
        }
    }
}

fn too_long() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        "the peer sent a TLS message that is too long",
    )
}

impl Layer for Tls {
    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if self.plain.is_some() || self.advance()? != Step::More {
                return Poll::Ready(Ok(()));
            }
            if self.sealed == 0 {
                // Sends the session's own messages; the reader waits for the peer all the same.
                let _: Poll<()> = self.poll_flush(cx)?;
            }
            if self.eof {
                return Poll::Ready(Ok(()));
            }
            ready!(self.inner.poll_readable(cx))?;
            match self.fill() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => result?,
            }
        }
    }

    fn try_read(&mut self, slots: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        loop {
            match self.take_plain(slots)? {
                (_, count) if count > 0 => return Ok(count),
                (Step::End, _) => return Ok(0),
                (Step::Plain, _) if slots.iter().all(|slot| slot.is_empty()) => return Ok(0),
                _ if self.eof => {
                    return Err(io::Error::new(
                        io::ErrorKind::UnexpectedEof,
                        "the peer closed the connection without ending TLS",
                    ));
                }
                (Step::Plain, _) => {}
                (Step::More, _) => self.fill()?,
            }
        }
    }

    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_flush(cx))?;
        if self.sealed == 0 {
            self.sealed = self.seal(parts)?;
            if self.sealed == 0 && parts.iter().any(|part| !part.is_empty()) {
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            }
            ready!(self.poll_flush(cx))?;
        }
        Poll::Ready(Ok(std::mem::take(&mut self.sealed)))
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.closed {
            ready!(self.poll_flush(cx))?;
            self.run(Task::Close)?;
            self.closed = true;
        }
        ready!(self.poll_flush(cx))?;
        self.inner.poll_shutdown(cx)
    }

    fn inner(&mut self) -> &mut Stream {
        &mut self.inner
    }
}

#[cfg(test)]
mod tests;
