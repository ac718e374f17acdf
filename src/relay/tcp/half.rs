//! One direction of a stream: read, seal or open in place, write.
//!
//! ```text
//!          payload is in the buffer
//!   ┌────────────────────────────────┐
//!   │                                v      no payload was read ahead
//! Read <──────────────────────────── Write   (otherwise it stays in Write)
//!   │        all is written
//!   │ the source has ended
//!   v
//! Shutdown ── the sink has been told ──> Done
//! ```
//!
//! Bulk between two plain sockets stays in `Read`: the kernel moves it from one to the other (`splice.rs`).

mod moved;

use std::io::{self, IoSlice, IoSliceMut};
use std::ops::Range;
use std::task::{Context, Poll, ready};

use super::fairness;
use super::growth::{Awaited, Growth};
use super::splice::{Splice, SpliceError, Step};
use crate::net::Stream;
use crate::net::pool::{Buffer, Size};
use crate::net::slots::scatter;
use crate::relay::error::{Error, Side};
use crate::relay::leg::First;
use crate::relay::sealed::{self, StreamError, seal};
use crate::relay::sizing::Sizing;
use crate::wire;
use crate::wire::ss::stream::{Opener, Sealer};

pub use self::moved::MovedHalf;

/// Payloads that are written with one call; also the most slots that are filled by one read.
const MAX_PARTS: usize = 64;
/// Reads in a row after which another flow of the worker gets its turn.
const MAX_READS: usize = 4;
/// Bytes below which a copy costs less than moving pages.
const SMALL_SPLICE: usize = 4 * 1024;

/// What is done to the bytes on their way.
pub enum Codec {
    /// Nothing.
    Copy,
    /// Plain to encrypted.
    Seal(Sealer),
    /// Encrypted to plain.
    Open(Opener),
}

/// One direction of a stream. It holds a buffer only while bytes are in it.
pub struct Half {
    codec: Codec,
    /// The side that is read from.
    from: Side,
    state: State,
    buffer: Option<Buffer>,
    /// Moves bulk between plain sockets.
    splice: Splice,
    /// The first of the buffer's ready ranges that is not written yet, and how many bytes of it are.
    next: u8,
    written: u32,
    sizing: Sizing,
    growth: Growth,
    /// The head of a request must be sent even if the client has not sent anything yet.
    head_due: bool,
    /// Bytes of the source that were read with its request and come before the rest of it.
    ahead: Box<[u8]>,
    /// A protocol error, which is reported when everything that came before it has been written.
    pending_error: Option<Box<wire::Error>>,
    moved: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Read,
    Write,
    Shutdown,
    Done,
}

/// What a read has led to.
enum Received {
    /// The buffer holds payload that can be written.
    Payload,
    /// Nothing that can be written yet.
    Incomplete,
    /// The source has ended.
    End,
}

impl Half {
    /// The direction that reads from `from`, in buffers of up to `largest`.
    #[must_use]
    pub fn new(codec: Codec, from: Side, largest: Size) -> Self {
        let head_due =
            matches!(&codec, Codec::Seal(sealer) if from == Side::Client && sealer.at_head());
        Self {
            codec,
            from,
            state: State::Read,
            buffer: None,
            splice: Splice::default(),
            next: 0,
            written: 0,
            sizing: Sizing::up_to(largest),
            growth: Growth::new(),
            head_due,
            ahead: Box::default(),
            pending_error: None,
            moved: 0,
        }
    }

    /// Begins with the payload that came with the request. Call it before the first poll.
    pub fn begin(&mut self, first: First) {
        match first {
            First::Nothing => {}
            First::Ahead(bytes) => self.ahead = bytes.into(),
            First::Opened(buffer) => {
                self.moved = ready_bytes(&buffer);
                self.buffer = Some(buffer);
                self.state = State::Write;
            }
        }
    }

    /// Reads in buffers of up to `largest` from now on.
    pub fn limit_buffers(&mut self, largest: Size) {
        self.sizing = Sizing::up_to(largest);
    }

    /// Leaves the receive buffer of `source` to the system.
    pub fn free_source(&mut self, source: &Stream) {
        self.growth.end(source);
    }

    /// Counts payload that went this way before the first poll.
    pub const fn count(&mut self, bytes: u64) {
        self.moved += bytes;
    }

    /// Payload bytes so far.
    #[must_use]
    pub const fn moved(&self) -> u64 {
        self.moved
    }

    /// Whether it opens what it reads.
    #[must_use]
    pub const fn opens(&self) -> bool {
        matches!(self.codec, Codec::Open(_))
    }

    /// Whether the source has ended and the sink has been told.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Moves bytes until the source is empty, the sink is full, the turn is over or the source has ended. `last`: the
    /// other direction is done, and the streams are closed as soon as this one is.
    ///
    /// # Errors
    /// What broke, and on which side.
    pub fn poll(
        &mut self,
        cx: &mut Context<'_>,
        source: &Stream,
        sink: &Stream,
        last: bool,
    ) -> Poll<Result<(), Error>> {
        let from = self.from;
        let to = if from == Side::Client {
            Side::Upstream
        } else {
            Side::Client
        };
        let enough = self.moved + fairness::turn();
        for _ in 0..MAX_READS {
            if self.moved >= enough {
                break;
            }
            if self.may_splice() {
                match ready!(self.splice.poll(cx, source, sink)) {
                    Ok(Step::Moved(count)) => {
                        self.after_splice(count);
                        continue;
                    }
                    Ok(Step::End) => self.state = State::Shutdown,
                    Ok(Step::Unavailable) => {}
                    Err(SpliceError::Source(source)) => {
                        return Poll::Ready(Err(Error::Io { side: from, source }));
                    }
                    Err(SpliceError::Sink(source)) => {
                        return Poll::Ready(Err(Error::Io { side: to, source }));
                    }
                }
            }
            if self.state == State::Read {
                ready!(self.poll_read(cx, source, sink)).map_err(|error| error.blame(from))?;
            }
            if self.state == State::Write {
                let Poll::Ready(written) = self.poll_write(cx, sink) else {
                    self.growth.wait();
                    return Poll::Pending;
                };
                written.map_err(Error::io(to))?;
                self.growth.ended(Awaited::Sink, source, self.moved);
                let before = self.moved;
                self.after_write();
                self.growth.moved(before, self.moved, source);
                if self.state != State::Write
                    && let Some(error) = self.pending_error.take()
                {
                    let source = *error;
                    return Poll::Ready(Err(Error::Wire { side: from, source }));
                }
            }
            if self.state == State::Shutdown {
                // The close that follows ends a socket too, and saves the call.
                if !(last && sink.is_socket()) {
                    // If the peer is gone already, the other direction will notice.
                    let _ = ready!(sink.poll_shutdown(cx));
                }
                self.state = State::Done;
            }
            if self.state == State::Done {
                return Poll::Ready(Ok(()));
            }
        }
        fairness::reschedule(cx.waker());
        Poll::Pending
    }

    /// Whether the next bytes may stay in the kernel: those of a flow that has filled its last buffer.
    fn may_splice(&self) -> bool {
        matches!(self.codec, Codec::Copy)
            && self.state == State::Read
            && self.sizing.size() != Size::Small
            && self.buffer.is_none()
            && self.ahead.is_empty()
    }

    /// Counts what the kernel has moved. A flow that moves little at a time goes back to copying.
    fn after_splice(&mut self, count: usize) {
        self.moved += count as u64;
        self.sizing
            .note(count < SMALL_SPLICE && !self.splice.is_busy());
    }

    /// Reads until there is something to write, or the source has ended.
    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        source: &Stream,
        sink: &Stream,
    ) -> Poll<Result<(), StreamError>> {
        for _ in 0..MAX_READS {
            if self.buffer.is_none() && !self.head_due && self.ahead.is_empty() {
                ready!(self.poll_source(cx, source)).map_err(StreamError::Io)?;
            }
            let before = self.moved;
            let read = match self.codec {
                Codec::Open(_) => self.read_sealed(source),
                Codec::Seal(_) => self.read_plain(source, usize::MAX),
                // Bytes for which a link has no room stay in the socket.
                Codec::Copy => {
                    let most = ready!(sink.poll_room(cx));
                    self.read_plain(source, most)
                }
            };
            match read {
                Ok(Received::Payload) => {
                    // Pieces of a sealed chunk are waited for without asking again.
                    self.growth.ended(Awaited::Source, source, before);
                    if self.sizing.size() != Size::Small {
                        self.growth.hold(source, sink);
                    }
                    self.growth.moved(before, self.moved, source);
                    self.state = State::Write;
                    return Poll::Ready(Ok(()));
                }
                Ok(Received::Incomplete) => {}
                Ok(Received::End) => {
                    self.buffer = None;
                    self.state = State::Shutdown;
                    return Poll::Ready(Ok(()));
                }
                Err(StreamError::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.shrink();
                    ready!(self.poll_source(cx, source)).map_err(StreamError::Io)?;
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        // A peer that sends empty or tiny chunks must not keep the others waiting.
        fairness::reschedule(cx.waker());
        Poll::Pending
    }

    /// Waits until the source has bytes.
    fn poll_source(&mut self, cx: &mut Context<'_>, source: &Stream) -> Poll<io::Result<()>> {
        let polled = source.poll_readable(cx);
        match polled {
            Poll::Pending => self.growth.wait(),
            Poll::Ready(_) => self.growth.ended(Awaited::Source, source, self.moved),
        }
        polled
    }

    /// The size of a buffer for the next read.
    fn next_size(&self) -> Size {
        self.sizing.size().min(fairness::largest())
    }

    /// Reads once, with one call, into the payload slots, and seals each where it stands. `most`: bytes that may be read
    /// to be passed on unchanged.
    fn read_plain(&mut self, source: &Stream, most: usize) -> Result<Received, StreamError> {
        if matches!(self.codec, Codec::Copy)
            && self.ahead.is_empty()
            && let Some(buffer) = source.take_buffer()
        {
            self.moved += ready_bytes(&buffer);
            self.buffer = Some(buffer);
            return Ok(Received::Payload);
        }
        let size = self
            .next_size()
            .min(Size::holding(most).unwrap_or(Size::Large));
        let mut buffer = self.buffer.take().unwrap_or_else(|| Buffer::take_any(size));
        let (bytes, ready, _) = buffer.parts();
        let (count, room) = {
            // A small buffer has one slot, which a cheaper call fills.
            let (mut one, mut many);
            let slots: &mut [IoSliceMut<'_>] = if size <= Size::Small {
                one = [IoSliceMut::new(&mut [])];
                &mut one
            } else {
                many = std::array::from_fn::<_, MAX_PARTS, _>(|_| IoSliceMut::new(&mut []));
                &mut many
            };
            let used = match &self.codec {
                Codec::Seal(sealer) => sealer.slots(bytes, slots),
                Codec::Copy | Codec::Open(_) => {
                    let len = bytes.len().min(most);
                    if let Some(slot) = slots.first_mut() {
                        *slot = IoSliceMut::new(bytes.get_mut(..len).unwrap_or_default());
                    }
                    1
                }
            };
            let slots = slots.get_mut(..used).unwrap_or_default();
            let room = slots.iter().map(|slot| slot.len()).sum();
            let count = if self.ahead.is_empty() {
                match source.try_read(slots) {
                    // The head waits no longer for the client's first bytes.
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock && self.head_due => 0,
                    Ok(0) if !self.head_due => return Ok(Received::End),
                    result => result.map_err(StreamError::Io)?,
                }
            } else {
                take_ahead(&mut self.ahead, slots)
            };
            (count, room)
        };
        let len = match &mut self.codec {
            Codec::Seal(sealer) => seal(sealer, bytes, count).map_err(StreamError::Wire)?,
            Codec::Copy | Codec::Open(_) => count,
        };
        self.head_due = false;
        ready.push(0..len);
        self.moved += count as u64;
        self.sizing.transferred(count, room);
        self.buffer = Some(buffer);
        Ok(Received::Payload)
    }

    /// Reads once, and opens every whole chunk where it stands.
    fn read_sealed(&mut self, source: &Stream) -> Result<Received, StreamError> {
        let size = self.next_size();
        let read = sealed::read(
            source,
            &mut self.buffer,
            self.codec.opener(),
            size,
            &mut self.sizing,
        );
        match read {
            Ok(()) => self.open(),
            Err(StreamError::End) => Ok(Received::End),
            Err(error) => Err(error),
        }
    }

    /// Opens the whole chunks of the buffer.
    fn open(&mut self) -> Result<Received, StreamError> {
        let (Codec::Open(opener), Some(buffer)) = (&mut self.codec, &mut self.buffer) else {
            return Ok(Received::Incomplete);
        };
        while buffer.ready.len() < MAX_PARTS {
            match sealed::open(buffer, Some(opener)) {
                Ok(None) => break,
                Ok(Some(payload)) => {
                    if !payload.is_empty() {
                        self.moved += payload.len() as u64;
                        buffer.ready.push(payload);
                    }
                }
                Err(error) if buffer.ready.is_empty() => return Err(StreamError::Wire(error)),
                Err(error) => {
                    self.pending_error = Some(Box::new(error));
                    break;
                }
            }
        }
        if buffer.raw.is_empty() {
            buffer.raw = 0..0;
        }
        Ok(if buffer.ready.is_empty() {
            Received::Incomplete
        } else {
            Received::Payload
        })
    }

    /// Gives up, before a wait, what memory the beginning of a chunk does not need.
    fn shrink(&mut self) {
        match self.codec.opener() {
            None => self.buffer = None,
            opener => sealed::shrink(&mut self.buffer, opener),
        }
    }

    /// Writes the ready ranges of the buffer.
    fn poll_write(&mut self, cx: &mut Context<'_>, sink: &Stream) -> Poll<io::Result<()>> {
        if matches!(self.codec, Codec::Copy) && (self.next, self.written) == (0, 0) {
            ready!(sink.poll_give(cx, &mut self.buffer))?;
        }
        let Some(buffer) = &mut self.buffer else {
            return Poll::Ready(Ok(()));
        };
        loop {
            let (bytes, ready, _) = buffer.parts();
            let ranges = ready.get(usize::from(self.next)..).unwrap_or_default();
            let Some(first) = ranges.first() else {
                return Poll::Ready(Ok(()));
            };
            let mut count = if ready.len() == 1 {
                // One run, as sealed chunks always are: a layer may encode it where it stands.
                let rest = bytes.get_mut(first.start + in_memory(self.written)..first.end);
                ready!(sink.poll_write_mut(cx, rest.unwrap_or_default()))?
            } else {
                ready!(write_parts(
                    cx,
                    sink,
                    bytes,
                    ranges,
                    in_memory(self.written)
                ))?
            };
            if count == 0 && ranges.iter().any(|range| !range.is_empty()) {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            while let Some(range) = ready.get(usize::from(self.next)) {
                let left = range.len() - in_memory(self.written);
                if count < left {
                    // It is less than the length of a buffer.
                    let count = u32::try_from(count).unwrap_or(u32::MAX);
                    self.written = self.written.saturating_add(count);
                    break;
                }
                count -= left;
                self.next += 1;
                self.written = 0;
            }
        }
    }

    /// Everything is written: opens what has been read already, or gives the buffer back.
    fn after_write(&mut self) {
        (self.next, self.written) = (0, 0);
        self.state = State::Read;
        let Some(buffer) = &mut self.buffer else {
            return;
        };
        buffer.ready.clear();
        if buffer.raw.is_empty() || !matches!(self.codec, Codec::Open(_)) {
            self.buffer = None;
            return;
        }
        match self.open() {
            Ok(Received::Payload) => self.state = State::Write,
            Err(StreamError::Wire(error)) => self.pending_error = Some(Box::new(error)),
            _ => {}
        }
    }
}

impl Codec {
    const fn opener(&self) -> Option<&Opener> {
        match self {
            Self::Open(opener) => Some(opener),
            Self::Copy | Self::Seal(_) => None,
        }
    }
}

/// A number of bytes that are in memory.
fn in_memory(count: u32) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}

/// Payload bytes of a buffer that is to be written.
fn ready_bytes(buffer: &Buffer) -> u64 {
    buffer.ready.iter().map(|range| range.len() as u64).sum()
}

/// Moves bytes that were read ahead into the slots.
fn take_ahead(ahead: &mut Box<[u8]>, slots: &mut [IoSliceMut<'_>]) -> usize {
    let taken = scatter(ahead, slots, 0);
    *ahead = ahead.get(taken..).unwrap_or_default().into();
    taken
}

/// Writes `ranges` of `bytes`, without the first `skip` bytes, which have been written.
fn write_parts(
    cx: &mut Context<'_>,
    sink: &Stream,
    bytes: &[u8],
    ranges: &[Range<usize>],
    mut skip: usize,
) -> Poll<io::Result<usize>> {
    let mut parts: [IoSlice<'_>; MAX_PARTS] = std::array::from_fn(|_| IoSlice::new(&[]));
    for (part, range) in parts.iter_mut().zip(ranges) {
        *part = IoSlice::new(bytes.get(range.start + skip..range.end).unwrap_or_default());
        skip = 0;
    }
    let used = ranges.len().min(MAX_PARTS);
    sink.poll_write(cx, parts.get(..used).unwrap_or_default())
}

#[cfg(test)]
mod tests;
