//! The padding of a session, as a layer of its stream.

use std::io::{self, IoSlice, IoSliceMut};
use std::task::{Context, Poll, ready};

use crate::net::Stream;
use crate::net::pool::{Buffer, Size};
use crate::net::slots::{gather, scatter};
use crate::net::stream::Layer;
use crate::wire::multiplex::padding::{
    FRAMES, HEAD, MAX_DATA, MAX_PADDING, MIN_PADDING, Unpadder, head,
};

/// Pads the first frames of both directions of `inner`.
pub(super) fn padded(inner: Stream) -> Stream {
    Stream::layered(Padded {
        inner,
        unpadder: Unpadder::new(),
        incoming: None,
        ended: false,
        frames: 0,
        outgoing: None,
        taken: 0,
    })
}

struct Padded {
    inner: Stream,
    unpadder: Unpadder,
    /// Data in `ready`, and in `raw` what was not looked at yet.
    incoming: Option<Buffer>,
    ended: bool,
    /// Frames that were padded.
    frames: u8,
    /// A padded frame that is being written, in `raw`, and the bytes of the caller in it.
    outgoing: Option<Buffer>,
    taken: usize,
}

impl Padded {
    /// Finds the next data. Returns whether there is any.
    fn find(&mut self) -> bool {
        let Some(buffer) = &mut self.incoming else {
            return false;
        };
        let (bytes, ready, raw) = buffer.parts();
        while ready.is_empty() && raw.start < raw.end {
            let rest = bytes.get(raw.clone()).unwrap_or_default();
            let (skip, count) = self.unpadder.next(rest);
            let start = raw.start + skip;
            raw.start = start + count;
            if count > 0 {
                ready.push(start..start + count);
            }
        }
        let found = !ready.is_empty();
        if !found {
            self.incoming = None;
        }
        found
    }

    /// Reads once, into a buffer that is empty.
    fn fill(&mut self) -> io::Result<()> {
        let mut buffer = Buffer::take(Size::Medium);
        let (bytes, _, raw) = buffer.parts();
        let count = self.inner.try_read(&mut [IoSliceMut::new(bytes)])?;
        raw.end = count;
        self.ended = count == 0;
        self.incoming = (count > 0).then_some(buffer);
        Ok(())
    }

    fn pad(&mut self, parts: &[IoSlice<'_>]) {
        let padding = rand::random_range(MIN_PADDING..=MAX_PADDING);
        let total: usize = parts.iter().map(|part| part.len()).sum();
        let most = Size::Medium.bytes() - HEAD - usize::from(MAX_PADDING);
        let data = u16::try_from(total.min(MAX_DATA).min(most)).unwrap_or(u16::MAX);
        let end = HEAD + usize::from(data) + usize::from(padding);
        let mut buffer = Buffer::take_exact(Size::holding(end).unwrap_or(Size::Medium));
        let (bytes, _, raw) = buffer.parts();
        let (front, rest) = bytes.split_at_mut(HEAD);
        front.copy_from_slice(&head(data, padding));
        let (room, rest) = rest.split_at_mut(usize::from(data));
        gather(parts, room);
        // The buffer held other bytes before.
        if let Some(room) = rest.get_mut(..usize::from(padding)) {
            room.fill(0);
        }
        *raw = 0..end;
        self.frames += 1;
        self.taken = usize::from(data);
        self.outgoing = Some(buffer);
    }

    fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(buffer) = &mut self.outgoing {
            let rest = buffer.bytes().get(buffer.raw.clone()).unwrap_or_default();
            match ready!(self.inner.poll_write(cx, &[IoSlice::new(rest)]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => buffer.raw.start += count,
            }
            if buffer.raw.is_empty() {
                self.outgoing = None;
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl Layer for Padded {
    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if self.find() || self.ended {
                return Poll::Ready(Ok(()));
            }
            ready!(self.inner.poll_readable(cx))?;
            match self.fill() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                filled => filled?,
            }
        }
    }

    fn try_read(&mut self, slots: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        while !self.find() {
            if self.ended {
                return Ok(0);
            }
            self.fill()?;
        }
        let Some(buffer) = &mut self.incoming else {
            return Ok(0);
        };
        let Some(data) = buffer.ready.first().cloned() else {
            return Ok(0);
        };
        let from = buffer.bytes().get(data.clone()).unwrap_or_default();
        let count = scatter(from, slots, 0);
        if count == data.len() {
            buffer.ready.clear();
        } else if let Some(data) = buffer.ready.first_mut() {
            data.start += count;
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
            if self.frames == FRAMES {
                return self.inner.poll_write(cx, parts);
            }
            self.pad(parts);
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
