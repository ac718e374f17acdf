//! The encrypted stream that carries a link. Outgoing chunks are filled with whole frames; the payload of incoming chunks
//! is handed to the decoder.

use std::io::{self, IoSliceMut};
use std::ops::Range;
use std::task::{Context, Poll, ready};

use crate::net::Stream;
use crate::net::pool::{Buffer, Size};
use crate::relay::sealed::{self, StreamError, seal};
use crate::relay::sizing::Sizing;
use crate::wire;
use crate::wire::ss::stream::{Opener, Sealer};

/// Bytes of a slot below which no other frame is begun in it: frames would be cut into tiny ones.
const MIN_SLOT: usize = 2048;

/// The direction that is read.
pub(super) struct Incoming {
    opener: Option<Opener>,
    buffer: Option<Buffer>,
    sizing: Sizing,
}

impl Incoming {
    /// `first`: the payload that came with the request.
    pub(super) const fn new(opener: Option<Opener>, first: Option<Buffer>) -> Self {
        Self {
            opener,
            buffer: first,
            sizing: Sizing::up_to(Size::Large),
        }
    }

    /// Hands the payload that came with the request to `take`.
    pub(super) fn begin<E: From<StreamError>>(
        &mut self,
        mut take: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let Some(mut buffer) = self.buffer.take() else {
            return Ok(());
        };
        for range in buffer.ready.drain(..).collect::<Vec<_>>() {
            take(buffer.bytes().get(range).unwrap_or_default())?;
        }
        self.buffer = Some(buffer);
        self.open(take)
    }

    /// Reads once and hands the payload of each whole chunk to `take`.
    pub(super) fn poll<E: From<StreamError>>(
        &mut self,
        cx: &mut Context<'_>,
        stream: &Stream,
        take: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Poll<Result<(), E>> {
        ready!(stream.poll_readable(cx)).map_err(StreamError::Io)?;
        let (opener, size) = (self.opener.as_ref(), self.sizing.size());
        match sealed::read(stream, &mut self.buffer, opener, size, &mut self.sizing) {
            Err(StreamError::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                sealed::shrink(&mut self.buffer, opener);
                ready!(stream.poll_readable(cx)).map_err(StreamError::Io)?;
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Err(error) => Poll::Ready(Err(error.into())),
            Ok(()) => Poll::Ready(self.open(take)),
        }
    }

    /// Opens the whole chunks of the buffer and hands their payload to `take`.
    fn open<E: From<StreamError>>(
        &mut self,
        mut take: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let Some(buffer) = &mut self.buffer else {
            return Ok(());
        };
        while !buffer.raw.is_empty() {
            let opened = sealed::open(buffer, self.opener.as_mut()).map_err(StreamError::Wire)?;
            let Some(payload) = opened else {
                return Ok(());
            };
            take(buffer.bytes().get(payload).unwrap_or_default())?;
        }
        self.buffer = None;
        Ok(())
    }
}

/// The direction that is written.
pub(super) struct Outgoing {
    sealer: Option<Sealer>,
    buffer: Option<Buffer>,
    sizing: Sizing,
    /// The sealed bytes of the buffer that are not written yet.
    unwritten: Range<usize>,
}

impl Outgoing {
    pub(super) const fn new(sealer: Option<Sealer>) -> Self {
        Self {
            sealer,
            buffer: None,
            sizing: Sizing::up_to(Size::Large),
            unwritten: 0..0,
        }
    }

    /// Whether everything that was sealed has been written.
    pub(super) fn is_empty(&self) -> bool {
        self.unwritten.is_empty()
    }

    /// Fills chunk after chunk with whole frames: `next` writes one frame and returns its length, or 0 if there is none.
    /// Returns whether there is anything to write.
    pub(super) fn fill(
        &mut self,
        mut next: impl FnMut(&mut [u8]) -> usize,
    ) -> Result<bool, wire::Error> {
        if !self.is_empty() {
            return Ok(true);
        }
        let mut buffer = Buffer::take(self.sizing.size());
        let (bytes, _, _) = buffer.parts();
        let room = bytes.len();
        let mut end = 0;
        let mut more = true;
        while more {
            let rest = bytes.get_mut(end..).unwrap_or_default();
            let mut slots = [IoSliceMut::new(&mut [])];
            let (count, has_more) = match &self.sealer {
                None => fill_slot(rest, &mut next),
                Some(sealer) => {
                    if sealer.slots(rest, &mut slots) == 0 {
                        break;
                    }
                    let [slot] = &mut slots;
                    // The last slot is what is left of the buffer.
                    if slot.len() < MIN_SLOT && end > 0 {
                        break;
                    }
                    fill_slot(slot, &mut next)
                }
            };
            more = has_more;
            if count == 0 {
                break;
            }
            let rest = bytes.get_mut(end..).unwrap_or_default();
            end += match &mut self.sealer {
                None => count,
                Some(sealer) => seal(sealer, rest, count)?,
            };
        }
        if end == 0 {
            return Ok(false);
        }
        self.sizing.transferred(if more { room } else { end }, room);
        self.unwritten = 0..end;
        self.buffer = Some(buffer);
        Ok(true)
    }

    /// Writes what `fill` has sealed.
    pub(super) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        stream: &Stream,
    ) -> Poll<io::Result<()>> {
        while !self.unwritten.is_empty() {
            let Some(buffer) = &mut self.buffer else {
                break;
            };
            let (bytes, _, _) = buffer.parts();
            let rest = bytes.get_mut(self.unwritten.clone()).unwrap_or_default();
            match ready!(stream.poll_write_mut(cx, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.unwritten.start += count,
            }
        }
        self.buffer = None;
        Poll::Ready(Ok(()))
    }
}

/// Fills one slot with frames. Returns the bytes used, and whether there may be frames for another slot.
fn fill_slot(slot: &mut [u8], next: &mut impl FnMut(&mut [u8]) -> usize) -> (usize, bool) {
    let mut filled = 0;
    loop {
        let rest = slot.get_mut(filled..).unwrap_or_default();
        if filled > 0 && rest.len() < MIN_SLOT {
            return (filled, true);
        }
        match next(rest) {
            0 => return (filled, false),
            count => filled += count,
        }
    }
}
