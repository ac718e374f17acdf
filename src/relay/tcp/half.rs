//! One direction of a stream: read, seal or open in place, write.

use std::io::{self, IoSlice, IoSliceMut};
use std::ops::Range;
use std::task::{Context, Poll, ready};

use super::fairness;
use super::splice::{Broken, Splice, Step};
use crate::net::pool::{Buffer, Size};
use crate::net::{Stream, unix_now};
use crate::relay::error::{Error, Side};
use crate::relay::sealed::seal;
use crate::wire;
use crate::wire::ss::stream::{Opener, Sealer};

/// What is done to the bytes on their way.
pub enum Codec {
    /// Nothing.
    Copy,
    /// Plain to encrypted.
    Seal(Sealer),
    /// Encrypted to plain.
    Open(Opener),
}

/// Payloads that are written with one call; also the most slots that are filled by one.
const MAX_PARTS: usize = 64;
/// Reads in a row after which another flow of the worker gets its turn.
const MAX_READS: usize = 4;
/// Reads that leave three quarters of a buffer empty, in a row, after which the flow goes back to a small one.
const SMALL_READS: u8 = 4;
/// Bytes below which copying costs less than moving pages.
const SMALL_SPLICE: usize = 4 * 1024;

/// One direction of a stream. It holds a buffer only while bytes are in it.
pub struct Half {
    codec: Codec,
    from: Side,
    state: State,
    buffer: Option<Buffer>,
    /// The way of bulk between plain sockets.
    splice: Splice,
    /// The first of the buffer's ready ranges that is not written yet, and how much of it is.
    next: usize,
    written: usize,
    size: Size,
    /// The largest buffer that is worth it.
    largest: Size,
    small_reads: u8,
    /// A request's head is to go out even if its client has said nothing yet.
    head_due: bool,
    /// What was read ahead of the stream, to be taken before it.
    ahead: Box<[u8]>,
    /// What the peer did wrong, to be told when all that came before it has been passed on.
    fault: Option<Box<wire::Error>>,
    moved: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Read,
    Write,
    /// The end has come, and is to be passed on.
    End,
    Done,
}

impl Half {
    /// The direction that reads from `from`.
    #[must_use]
    pub fn new(codec: Codec, from: Side) -> Self {
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
            size: Size::Small,
            largest: Size::Large,
            small_reads: 0,
            head_due,
            ahead: Box::default(),
            fault: None,
            moved: 0,
        }
    }

    /// The same with buffers of up to `largest`.
    #[must_use]
    pub const fn up_to(mut self, largest: Size) -> Self {
        self.largest = largest;
        self
    }

    /// Bytes of the client's that were read together with its request go first.
    pub fn begin_with(&mut self, ahead: Vec<u8>) {
        self.ahead = ahead.into();
    }

    /// A buffer with opened payload and perhaps more goes first.
    pub fn begin_in(&mut self, buffer: Buffer) {
        self.moved = buffer.ready.iter().map(|range| range.len() as u64).sum();
        self.buffer = Some(buffer);
        self.state = State::Write;
    }

    /// Payload bytes so far.
    #[must_use]
    pub const fn moved(&self) -> u64 {
        self.moved
    }

    /// Whether the end has come and been passed on.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Moves bytes until the source is empty, the sink is full, the turn is over or the end has come. `last`: the
    /// other direction has ended, and after the end of this one the streams are closed.
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
            if self.splices() {
                match ready!(self.splice.poll(cx, source, sink)) {
                    Ok(Step::Moved(count)) => {
                        self.spliced(count);
                        continue;
                    }
                    Ok(Step::End) => self.state = State::End,
                    Ok(Step::Unavailable) => {}
                    Err(Broken::Source(source)) => {
                        return Poll::Ready(Err(Error::Io { side: from, source }));
                    }
                    Err(Broken::Sink(source)) => {
                        return Poll::Ready(Err(Error::Io { side: to, source }));
                    }
                }
            }
            if self.state == State::Read {
                ready!(self.poll_read(cx, source)).map_err(|fault| match fault {
                    Fault::Io(source) => Error::Io { side: from, source },
                    Fault::Wire(source) => Error::Wire { side: from, source },
                    Fault::Cut => Error::Cut(from),
                })?;
            }
            if self.state == State::Write {
                ready!(self.poll_write(cx, sink)).map_err(Error::io(to))?;
                self.after_write();
                if self.state != State::Write
                    && let Some(fault) = self.fault.take()
                {
                    let source = *fault;
                    return Poll::Ready(Err(Error::Wire { side: from, source }));
                }
            }
            if self.state == State::End {
                // A socket that has nothing more to give is ended by its close.
                if !(last && sink.is_socket()) {
                    // A peer that is gone already will be noticed by the other direction.
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

    /// Whether the next bytes are better left in the kernel: those of a flow that has filled its last buffer.
    fn splices(&self) -> bool {
        matches!(self.codec, Codec::Copy)
            && self.state == State::Read
            && self.size != Size::Small
            && self.buffer.is_none()
            && self.ahead.is_empty()
    }

    /// Counts what has gone through a pipe; a flow whose portions stay small goes back to copying.
    fn spliced(&mut self, count: usize) {
        self.moved += count as u64;
        self.small_reads = if count < SMALL_SPLICE && !self.splice.is_busy() {
            self.small_reads + 1
        } else {
            0
        };
        if self.small_reads == SMALL_READS {
            (self.size, self.small_reads) = (Size::Small, 0);
        }
    }

    /// Ends with something to write, with the end of the stream, or waiting.
    fn poll_read(&mut self, cx: &mut Context<'_>, source: &Stream) -> Poll<Result<(), Fault>> {
        for _ in 0..MAX_READS {
            if self.buffer.is_none() && !self.head_due && self.ahead.is_empty() {
                ready!(source.poll_readable(cx)).map_err(Fault::Io)?;
            }
            let read = match self.codec {
                Codec::Open(_) => self.read_sealed(source),
                Codec::Seal(_) | Codec::Copy => self.read_plain(source),
            };
            match read {
                Ok(Read::Something) => {
                    self.state = State::Write;
                    return Poll::Ready(Ok(()));
                }
                Ok(Read::NotYet) => {}
                Ok(Read::End) => {
                    self.buffer = None;
                    self.state = State::End;
                    return Poll::Ready(Ok(()));
                }
                Err(Fault::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.shrink();
                    ready!(source.poll_readable(cx)).map_err(Fault::Io)?;
                }
                Err(fault) => return Poll::Ready(Err(fault)),
            }
        }
        // Chunks that are empty, or come in crumbs: the others are to have their turn all the same.
        fairness::reschedule(cx.waker());
        Poll::Pending
    }

    /// The size of a buffer for the next read.
    fn portion(&self) -> Size {
        self.size.min(fairness::largest())
    }

    /// One vectored read into the payload slots, then sealed where it stands.
    fn read_plain(&mut self, source: &Stream) -> Result<Read, Fault> {
        if matches!(self.codec, Codec::Copy)
            && self.ahead.is_empty()
            && let Some(buffer) = source.take_buffer()
        {
            self.moved += buffer
                .ready
                .iter()
                .map(|range| range.len() as u64)
                .sum::<u64>();
            self.buffer = Some(buffer);
            return Ok(Read::Something);
        }
        let portion = self.portion();
        let mut buffer = self.buffer.take().unwrap_or_else(|| Buffer::take(portion));
        let (bytes, ready, _) = buffer.parts();
        let (count, room) = {
            // A flow that moves little needs one, which a cheaper call fills.
            let (mut one, mut many);
            let slots: &mut [IoSliceMut<'_>] = if portion == Size::Small {
                one = [IoSliceMut::new(&mut [])];
                &mut one
            } else {
                many = std::array::from_fn::<_, MAX_PARTS, _>(|_| IoSliceMut::new(&mut []));
                &mut many
            };
            let used = match &self.codec {
                Codec::Seal(sealer) => sealer.slots(bytes, slots),
                Codec::Copy | Codec::Open(_) => {
                    if let Some(slot) = slots.first_mut() {
                        *slot = IoSliceMut::new(bytes);
                    }
                    1
                }
            };
            let slots = slots.get_mut(..used).unwrap_or_default();
            let room = slots.iter().map(|slot| slot.len()).sum();
            let count = if self.ahead.is_empty() {
                match source.try_read(slots) {
                    // A request does not wait for its first bytes any longer.
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock && self.head_due => 0,
                    Ok(0) if !self.head_due => return Ok(Read::End),
                    result => result.map_err(Fault::Io)?,
                }
            } else {
                take_ahead(&mut self.ahead, slots)
            };
            (count, room)
        };
        let len = match &mut self.codec {
            Codec::Seal(sealer) => seal(sealer, bytes, count).map_err(Fault::Wire)?,
            Codec::Copy | Codec::Open(_) => count,
        };
        self.head_due = false;
        ready.push(0..len);
        self.moved += count as u64;
        self.resize(count, room);
        self.buffer = Some(buffer);
        Ok(Read::Something)
    }

    /// One read, then every whole chunk opened where it stands.
    fn read_sealed(&mut self, source: &Stream) -> Result<Read, Fault> {
        let Codec::Open(opener) = &self.codec else {
            return Ok(Read::End);
        };
        let need = opener.need();
        let size = self.portion();
        // A bulk flow nearly always has the beginning of a chunk left over, and is to grow all the same.
        let mut buffer = self
            .buffer
            .take()
            .unwrap_or_else(|| Buffer::take(size))
            .with_room(size, need)
            .ok_or(Fault::Wire(wire::Error::ChunkLength))?;
        let (bytes, _, raw) = buffer.parts();
        let free = bytes.get_mut(raw.end..).unwrap_or_default();
        let room = free.len();
        let read = source.try_read(&mut [IoSliceMut::new(free)]);
        if let Ok(count) = read {
            raw.end += count;
        }
        let whole = raw.start == raw.end;
        self.buffer = Some(buffer);
        match read.map_err(Fault::Io)? {
            0 if whole && opener.at_boundary() => Ok(Read::End),
            0 => Err(Fault::Cut),
            count => {
                self.resize(count, room);
                self.open()
            }
        }
    }

    /// Opens the whole chunks of the buffer.
    fn open(&mut self) -> Result<Read, Fault> {
        let (Codec::Open(opener), Some(buffer)) = (&mut self.codec, &mut self.buffer) else {
            return Ok(Read::NotYet);
        };
        let (bytes, ready, raw) = buffer.parts();
        while ready.len() < MAX_PARTS {
            let opened = match opener.open(bytes.get_mut(raw.clone()).unwrap_or_default(), unix_now)
            {
                Ok(opened) => opened,
                Err(fault) if ready.is_empty() => return Err(Fault::Wire(fault)),
                Err(fault) => {
                    self.fault = Some(Box::new(fault));
                    break;
                }
            };
            if opened.used == 0 {
                break;
            }
            if !opened.payload.is_empty() {
                self.moved += opened.payload.len() as u64;
                ready.push(raw.start + opened.payload.start..raw.start + opened.payload.end);
            }
            raw.start += opened.used;
        }
        if raw.start == raw.end {
            *raw = 0..0;
        }
        Ok(if ready.is_empty() {
            Read::NotYet
        } else {
            Read::Something
        })
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, sink: &Stream) -> Poll<io::Result<()>> {
        if matches!(self.codec, Codec::Copy) && (self.next, self.written) == (0, 0) {
            ready!(sink.poll_give(cx, &mut self.buffer))?;
        }
        let Some(buffer) = &mut self.buffer else {
            return Poll::Ready(Ok(()));
        };
        loop {
            let (bytes, ready, _) = buffer.parts();
            let ranges = ready.get(self.next..).unwrap_or_default();
            let Some(first) = ranges.first() else {
                return Poll::Ready(Ok(()));
            };
            let mut count = if ready.len() == 1 {
                // One run, as all that is sealed: it may be coded further where it stands.
                let rest = bytes.get_mut(first.start + self.written..first.end);
                ready!(sink.poll_write_mut(cx, rest.unwrap_or_default()))?
            } else {
                ready!(write_parts(cx, sink, bytes, ranges, self.written))?
            };
            if count == 0 && ranges.iter().any(|range| !range.is_empty()) {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            while let Some(range) = ready.get(self.next) {
                let left = range.len() - self.written;
                if count < left {
                    self.written += count;
                    break;
                }
                count -= left;
                self.next += 1;
                self.written = 0;
            }
        }
    }

    /// All is written: goes on with what has been read already, or gives the buffer back.
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
            Ok(Read::Something) => self.state = State::Write,
            Ok(_) => {}
            Err(Fault::Wire(fault)) => self.fault = Some(Box::new(fault)),
            Err(_) => {}
        }
    }

    /// Before a wait: an empty buffer goes back, the beginning of a chunk is kept in as little as holds it.
    fn shrink(&mut self) {
        let Some(buffer) = self.buffer.take() else {
            return;
        };
        let Codec::Open(opener) = &self.codec else {
            return;
        };
        self.buffer = buffer.kept(opener.need());
    }

    /// Chooses the size of the next buffer: larger after a read that filled this one, small again when reads stay small.
    fn resize(&mut self, count: usize, room: usize) {
        if count == room {
            self.size = self.size.up().min(self.largest);
            self.small_reads = 0;
        } else if self.size != Size::Small && count < room / 4 {
            self.small_reads += 1;
            if self.small_reads == SMALL_READS {
                (self.size, self.small_reads) = (Size::Small, 0);
            }
        } else {
            self.small_reads = 0;
        }
    }
}

enum Read {
    Something,
    NotYet,
    End,
}

enum Fault {
    Io(io::Error),
    Wire(wire::Error),
    Cut,
}

/// Writes ranges of `bytes`; of the first, `skip` bytes have been written.
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

/// Moves what was read ahead into the slots.
fn take_ahead(ahead: &mut Box<[u8]>, slots: &mut [IoSliceMut<'_>]) -> usize {
    let mut taken = 0;
    for slot in slots {
        let rest = ahead.get(taken..).unwrap_or_default();
        let len = rest.len().min(slot.len());
        if let (Some(to), Some(from)) = (slot.get_mut(..len), rest.get(..len)) {
            to.copy_from_slice(from);
        }
        taken += len;
    }
    *ahead = ahead.get(taken..).unwrap_or_default().into();
    taken
}

#[cfg(test)]
mod tests;
