//! The encrypted stream that carries a link: whole frames are written into the chunks of what goes, and found in the
//! chunks of what comes.

use std::io::{self, IoSliceMut};
use std::ops::Range;
use std::task::{Context, Poll, ready};

use crate::net::Stream;
use crate::net::pool::{Buffer, Size};
use crate::net::unix_now;
use crate::relay::sealed::seal;
use crate::wire;
use crate::wire::ss::stream::{Opener, Sealer};

/// A slot in which less than this is left is closed: no bytes are cut into crumbs for its sake.
const WORTH: usize = 2048;

/// What broke.
#[derive(Debug)]
pub(super) enum Fault {
    Io(io::Error),
    Wire(wire::Error),
    /// In the middle of a chunk.
    Cut,
    /// Between two.
    End,
}

/// The direction that comes.
pub(super) struct Incoming {
    opener: Option<Opener>,
    buffer: Option<Buffer>,
    size: Size,
}

impl Incoming {
    /// `first`: what came with the request.
    pub(super) const fn new(opener: Option<Opener>, first: Option<Buffer>) -> Self {
        Self {
            opener,
            buffer: first,
            size: Size::Small,
        }
    }

    /// Hands over what came with the request.
    pub(super) fn begin<E>(&mut self, mut take: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E>
    where
        E: From<Fault>,
    {
        let Some(mut buffer) = self.buffer.take() else {
            return Ok(());
        };
        for range in buffer.ready.drain(..).collect::<Vec<_>>() {
            take(buffer.bytes().get(range).unwrap_or_default())?;
        }
        self.buffer = Some(buffer);
        self.open(take)
    }

    /// Reads once and hands over what was opened.
    pub(super) fn poll<E>(
        &mut self,
        cx: &mut Context<'_>,
        stream: &Stream,
        take: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Poll<Result<(), E>>
    where
        E: From<Fault>,
    {
        ready!(stream.poll_readable(cx)).map_err(Fault::Io)?;
        let read = match self.read(stream) {
            Err(Fault::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                self.shrink();
                ready!(stream.poll_readable(cx)).map_err(Fault::Io)?;
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            read => read,
        };
        read?;
        Poll::Ready(self.open(take))
    }

    fn need(&self) -> usize {
        self.opener.as_ref().map_or(1, Opener::need)
    }

    fn read(&mut self, stream: &Stream) -> Result<(), Fault> {
        let need = self.need();
        let mut buffer = self
            .buffer
            .take()
            .unwrap_or_else(|| Buffer::take(self.size))
            .with_room(self.size, need)
            .ok_or(Fault::Wire(wire::Error::ChunkLength))?;
        let (bytes, _, raw) = buffer.parts();
        let free = bytes.get_mut(raw.end..).unwrap_or_default();
        let room = free.len();
        let read = stream.try_read(&mut [IoSliceMut::new(free)]);
        if let Ok(count) = read {
            raw.end += count;
        }
        let empty = raw.start == raw.end;
        self.buffer = Some(buffer);
        match read.map_err(Fault::Io)? {
            0 if empty && self.opener.as_ref().is_none_or(Opener::at_boundary) => Err(Fault::End),
            0 => Err(Fault::Cut),
            count => {
                self.size = next_size(self.size, count, room);
                Ok(())
            }
        }
    }

    /// Opens the whole chunks of the buffer and hands over what is in them.
    fn open<E>(&mut self, mut take: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E>
    where
        E: From<Fault>,
    {
        let Some(buffer) = &mut self.buffer else {
            return Ok(());
        };
        let (bytes, _, raw) = buffer.parts();
        while raw.start < raw.end {
            let chunk = bytes.get_mut(raw.clone()).unwrap_or_default();
            let (used, payload) = match &mut self.opener {
                None => (chunk.len(), 0..chunk.len()),
                Some(opener) => {
                    let opened = opener.open(chunk, unix_now).map_err(Fault::Wire)?;
                    (opened.used, opened.payload)
                }
            };
            if used == 0 {
                break;
            }
            raw.start += used;
            take(chunk.get(payload).unwrap_or_default())?;
        }
        if raw.start == raw.end {
            self.buffer = None;
        }
        Ok(())
    }

    /// Before a wait: the beginning of a chunk is kept in as little as holds it.
    fn shrink(&mut self) {
        let need = self.need();
        self.buffer = self.buffer.take().and_then(|buffer| buffer.kept(need));
    }
}

/// Larger after a buffer was filled, smaller after it was far from that.
fn next_size(size: Size, count: usize, room: usize) -> Size {
    if count >= room {
        size.up()
    } else if count < room / 8 {
        Size::Small
    } else {
        size
    }
}

/// The direction that goes.
pub(super) struct Outgoing {
    sealer: Option<Sealer>,
    buffer: Option<Buffer>,
    size: Size,
    /// What of the buffer is to be written.
    run: Range<usize>,
}

impl Outgoing {
    pub(super) const fn new(sealer: Option<Sealer>) -> Self {
        Self {
            sealer,
            buffer: None,
            size: Size::Small,
            run: 0..0,
        }
    }

    /// Whether all that was sealed is written.
    pub(super) fn is_empty(&self) -> bool {
        self.run.is_empty()
    }

    /// Fills chunk after chunk with whole frames; `next` writes one frame and says how long it is, or 0.
    pub(super) fn fill(
        &mut self,
        mut next: impl FnMut(&mut [u8]) -> usize,
    ) -> Result<bool, wire::Error> {
        if !self.is_empty() {
            return Ok(true);
        }
        let mut buffer = Buffer::take(self.size);
        let (bytes, _, _) = buffer.parts();
        let room = bytes.len();
        let mut end = 0;
        let mut more = true;
        while more {
            let rest = bytes.get_mut(end..).unwrap_or_default();
            let mut slots = [IoSliceMut::new(&mut [])];
            let filled = match &self.sealer {
                None => fill_slot(rest, &mut next),
                Some(sealer) => {
                    if sealer.slots(rest, &mut slots) == 0 {
                        break;
                    }
                    let [slot] = &mut slots;
                    // The last slot is whatever was left of the buffer.
                    if slot.len() < WORTH && end > 0 {
                        break;
                    }
                    fill_slot(slot, &mut next)
                }
            };
            let (count, went_on) = filled;
            more = went_on;
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
            self.size = Size::Small;
            return Ok(false);
        }
        self.size = next_size(self.size, if more { room } else { end }, room);
        self.run = 0..end;
        self.buffer = Some(buffer);
        Ok(true)
    }

    /// Writes what was sealed.
    pub(super) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        stream: &Stream,
    ) -> Poll<io::Result<()>> {
        while !self.run.is_empty() {
            let Some(buffer) = &mut self.buffer else {
                break;
            };
            let (bytes, _, _) = buffer.parts();
            let rest = bytes.get_mut(self.run.clone()).unwrap_or_default();
            match ready!(stream.poll_write_mut(cx, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.run.start += count,
            }
        }
        self.buffer = None;
        Poll::Ready(Ok(()))
    }
}

/// Puts frames one behind the other. Returns their bytes, and whether there may be more for another slot.
fn fill_slot(slot: &mut [u8], next: &mut impl FnMut(&mut [u8]) -> usize) -> (usize, bool) {
    let mut filled = 0;
    loop {
        let rest = slot.get_mut(filled..).unwrap_or_default();
        if filled > 0 && rest.len() < WORTH {
            return (filled, true);
        }
        match next(rest) {
            0 => return (filled, false),
            count => filled += count,
        }
    }
}
