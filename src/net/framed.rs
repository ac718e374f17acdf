//! A layer that cuts what a stream carries into data, and makes frames of what is written.

use std::io::{self, ErrorKind, IoSlice, IoSliceMut};
use std::task::{Context, Poll, ready};

use super::pool::Buffer;
use super::slots::scatter;
use super::stream::{Layer, Stream};

/// How data becomes frames and back.
pub trait Framing: Send {
    /// Finds the next data in the buffer, and notes it in `ready`, unless there is some. Returns whether there is any.
    ///
    /// # Errors
    /// `InvalidData` when the peer broke the protocol.
    fn find(&mut self, incoming: &mut Option<Buffer>) -> io::Result<bool>;

    /// Reads once. Returns false at the end of the stream.
    ///
    /// # Errors
    /// `WouldBlock`, or an error of the stream.
    fn fill(&mut self, stream: &Stream, incoming: &mut Option<Buffer>) -> io::Result<bool>;

    /// Makes a frame, in `raw`, of as many bytes of `parts` as fit, and returns how many. `None`: they are written as they are.
    ///
    /// # Errors
    /// When no frame can be made.
    fn frame(&mut self, parts: &[IoSlice<'_>]) -> io::Result<Option<(Buffer, usize)>>;
}

/// A stream of the data in the frames of `inner`.
pub struct Framed<F> {
    inner: Stream,
    framing: F,
    /// Data in `ready`, and in `raw` what was not looked at yet.
    incoming: Option<Buffer>,
    ended: bool,
    /// A frame that is being written, in `raw`.
    outgoing: Option<Buffer>,
    /// The bytes of the caller that `outgoing` is made of.
    taken: usize,
}

impl<F: Framing + 'static> Framed<F> {
    /// `incoming` holds what was read from `inner` before.
    #[must_use]
    pub fn stream(inner: Stream, framing: F, incoming: Option<Buffer>) -> Stream {
        Stream::layered(Self {
            inner,
            framing,
            incoming,
            ended: false,
            outgoing: None,
            taken: 0,
        })
    }

    fn fill(&mut self) -> io::Result<()> {
        self.ended = !self.framing.fill(&self.inner, &mut self.incoming)?;
        Ok(())
    }

    fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(buffer) = &mut self.outgoing {
            let (bytes, _, raw) = buffer.parts();
            let rest = bytes.get_mut(raw.clone()).unwrap_or_default();
            match ready!(self.inner.poll_write_mut(cx, rest))? {
                0 => return Poll::Ready(Err(ErrorKind::WriteZero.into())),
                count => raw.start += count,
            }
            if raw.start >= raw.end {
                self.outgoing = None;
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<F: Framing + 'static> Layer for Framed<F> {
    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if self.ended || self.framing.find(&mut self.incoming)? {
                return Poll::Ready(Ok(()));
            }
            ready!(self.inner.poll_readable(cx))?;
            match self.fill() {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                filled => filled?,
            }
        }
    }

    fn try_read(&mut self, slots: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        while !self.framing.find(&mut self.incoming)? {
            if self.ended {
                return Ok(0);
            }
            self.fill()?;
        }
        let Some(buffer) = &mut self.incoming else {
            return Ok(0);
        };
        let Some(first) = buffer.ready.first().cloned() else {
            return Ok(0);
        };
        let from = buffer.bytes().get(first.clone()).unwrap_or_default();
        let count = scatter(from, slots, 0);
        if count == first.len() {
            buffer.ready.remove(0);
        } else if let Some(first) = buffer.ready.first_mut() {
            first.start += count;
        }
        Ok(count)
    }

    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.taken == 0 {
            ready!(self.poll_sent(cx))?;
            if parts.iter().all(|part| part.is_empty()) {
                return Poll::Ready(Ok(0));
            }
            let Some((buffer, taken)) = self.framing.frame(parts)? else {
                return self.inner.poll_write(cx, parts);
            };
            (self.outgoing, self.taken) = (Some(buffer), taken);
        }
        ready!(self.poll_sent(cx))?;
        Poll::Ready(Ok(std::mem::take(&mut self.taken)))
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_sent(cx))?;
        self.inner.poll_shutdown(cx)
    }

    fn inner(&mut self) -> &mut Stream {
        &mut self.inner
    }
}
