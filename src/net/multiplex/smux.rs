//! smux, version 1.
//!
//! It has no windows, so the streams of a session share one. While it is used up by streams that nobody reads, the session
//! is not read. After a time without progress, the stream with the most unread bytes is reset, and the others go on.
//!
//! The frame End closes a stream in both directions. A server sends it when its user ends the stream. A client keeps it
//! until the server has ended the stream or its user has dropped it, so that the answer is not lost.

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::io::{self, IoSlice, IoSliceMut};
use std::ops::Bound;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::time::{Instant, Sleep, sleep};

use super::session::{Role, Session, invalid};
use crate::limits::{MAX_MULTIPLEX_STREAMS, MULTIPLEX_BUFFER, SMUX_STALL, SMUX_WINDOW};
use crate::net::Stream;
use crate::net::pipe::{self, Pipe, PushError, Taken};
use crate::net::pool::{Buffer, Size};
use crate::net::sampled;
use crate::wire::multiplex::smux::{Decoder, Event, Frame, HEAD, MAX_DATA};

/// Streams at which the session ends. Before that, each stream above our limit is reset.
const MAX_STREAMS: usize = 2 * MAX_MULTIPLEX_STREAMS;
/// Frames without data that wait, above which the session is not read.
const MAX_CONTROL: usize = MAX_STREAMS;
/// Window of a pipe: what is unread, and what is read and not yet credited.
const PIPE_WINDOW: usize = 2 * SMUX_WINDOW;
/// Reads and writes after which other tasks get their turn.
const TURNS: usize = 8;
/// A frame is not begun in less room than this.
const MIN_ROOM: usize = 2048;

pub(super) struct Smux {
    carrier: Stream,
    role: Role,
    decoder: Decoder,
    /// What was read and is not yet distributed, in `raw`.
    incoming: Option<Buffer>,
    streams: BTreeMap<u32, Open>,
    /// The id of the next stream that is opened here.
    next: u32,
    /// The stream that wrote last.
    last: u32,
    control: VecDeque<Frame>,
    /// Frames that are being written, in `raw`.
    out: Option<Buffer>,
    stall: Option<Stall>,
}

struct Open {
    pipe: Pipe,
    /// The peer has ended it: what was received is still to be read.
    has_ended: bool,
}

/// A time without progress, and the unread bytes during it.
struct Stall {
    unread: usize,
    timer: Pin<Box<Sleep>>,
}

impl Smux {
    pub(super) fn new(carrier: Stream, role: Role) -> Self {
        Self {
            carrier,
            role,
            decoder: Decoder::default(),
            incoming: None,
            streams: BTreeMap::new(),
            next: 3,
            last: 0,
            control: VecDeque::new(),
            out: None,
            stall: None,
        }
    }

    fn open(&mut self, id: u32) -> Stream {
        let (stream, pipe) = pipe::pair(PIPE_WINDOW, MULTIPLEX_BUFFER);
        let open = Open {
            pipe,
            has_ended: false,
        };
        self.streams.insert(id, open);
        stream
    }

    fn unread(&self) -> usize {
        self.streams.values().map(|open| open.pipe.unread()).sum()
    }

    /// Whether nothing more may be read now. Resets a stream that has held up the others for too long.
    fn is_full(&mut self, cx: &mut Context<'_>) -> bool {
        if self.control.len() > MAX_CONTROL {
            return true;
        }
        for open in self.streams.values() {
            // Nobody is told of credit: what was read is room again at once.
            let _ = open.pipe.take_credit();
        }
        let unread = self.unread();
        if unread <= SMUX_WINDOW {
            self.stall = None;
            return false;
        }
        for open in self.streams.values() {
            open.pipe.watch_reader(cx);
        }
        let fresh = || Stall {
            unread,
            timer: Box::pin(sleep(SMUX_STALL)),
        };
        let stall = self.stall.get_or_insert_with(fresh);
        if stall.unread != unread {
            stall.unread = unread;
            stall.timer.as_mut().reset(Instant::now() + SMUX_STALL);
        }
        if stall.timer.as_mut().poll(cx).is_pending() {
            return true;
        }
        let longest = self.streams.iter();
        let longest = longest.max_by_key(|(_, open)| open.pipe.unread());
        if let Some(id) = longest.map(|(id, _)| *id) {
            sampled::debug!("a smux stream that is not read is reset", id, unread);
            if let Some(open) = self.streams.remove(&id) {
                open.pipe.reset();
            }
            self.control.push_back(Frame::End(id));
        }
        self.stall = None;
        cx.waker().wake_by_ref();
        true
    }

    /// Reads once, unless something is left, and distributes it up to the first new stream.
    fn poll_in(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Step>>> {
        if self.incoming.is_none() {
            ready!(self.carrier.poll_readable(cx))?;
            let mut buffer = Buffer::take(Size::Medium);
            let (bytes, _, raw) = buffer.parts();
            match self.carrier.try_read(&mut [IoSliceMut::new(bytes)]) {
                Ok(0) if self.decoder.at_boundary() => {
                    return Poll::Ready(Ok(Some(Step::End)));
                }
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
                Ok(count) => raw.end = count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Poll::Ready(Ok(None));
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
            self.incoming = Some(buffer);
        }
        let Some(mut buffer) = self.incoming.take() else {
            return Poll::Ready(Ok(None));
        };
        while !buffer.raw.is_empty() {
            let rest = buffer.bytes().get(buffer.raw.clone()).unwrap_or_default();
            let (used, event) = self.decoder.next(rest).map_err(invalid)?;
            let data = rest.get(..used).unwrap_or_default();
            let opened = self.receive(event, data)?;
            buffer.raw.start += used;
            if let Some(stream) = opened {
                self.incoming = (!buffer.raw.is_empty()).then_some(buffer);
                return Poll::Ready(Ok(Some(Step::Accepted(stream))));
            }
        }
        Poll::Ready(Ok(None))
    }

    fn receive(&mut self, event: Event, data: &[u8]) -> io::Result<Option<Stream>> {
        match event {
            Event::Open(id) if self.role == Role::Server && !self.streams.contains_key(&id) => {
                if self.streams.len() >= MAX_STREAMS {
                    return Err(invalid("the client opened too many streams"));
                }
                return Ok(Some(self.open(id)));
            }
            Event::Data(id) => {
                if let Some(open) = self.streams.get(&id).filter(|open| !open.has_ended) {
                    match open.pipe.push(data) {
                        // Data that nobody will read is dropped; the end of the stream is sent in its turn.
                        Ok(()) | Err(PushError::Closed) => {}
                        Err(PushError::WindowExceeded) => {
                            return Err(io::ErrorKind::OutOfMemory.into());
                        }
                    }
                }
            }
            Event::End(id) => {
                if let Some(open) = self.streams.get_mut(&id) {
                    open.has_ended = true;
                    open.pipe.finish();
                }
            }
            Event::Open(_) | Event::Nothing => {}
        }
        Ok(None)
    }

    /// Writes until the carrier is full or nothing is left. Returns whether there was anything.
    fn poll_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        if self.out.is_none() {
            self.out = self.frames(cx).filter(|buffer| !buffer.raw.is_empty());
        }
        let Some(buffer) = &mut self.out else {
            return Poll::Ready(Ok(false));
        };
        while !buffer.raw.is_empty() {
            let rest = buffer.bytes().get(buffer.raw.clone()).unwrap_or_default();
            match ready!(self.carrier.poll_write(cx, &[IoSlice::new(rest)]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => buffer.raw.start += count,
            }
        }
        self.out = None;
        Poll::Ready(Ok(true))
    }

    /// Fills a buffer with frames: first those without data, then a turn of each stream.
    fn frames(&mut self, cx: &mut Context<'_>) -> Option<Buffer> {
        let after = (Bound::Excluded(self.last), Bound::Unbounded);
        let order = self.streams.range(after).chain(&self.streams);
        let order: Vec<u32> = order.map(|(id, _)| *id).take(self.streams.len()).collect();
        let mut buffer = None;
        while let Some(frame) = self.control.pop_front() {
            if !put(&mut buffer, frame, |_| 0) {
                self.control.push_front(frame);
                return buffer;
            }
        }
        for id in order {
            if !has_room(buffer.as_ref()) {
                break;
            }
            self.poll_stream(cx, id, &mut buffer);
        }
        while let Some(frame) = self.control.pop_front() {
            if !put(&mut buffer, frame, |_| 0) {
                self.control.push_front(frame);
                break;
            }
        }
        buffer
    }

    /// Looks at what the user of a stream has done, and puts its data into the buffer.
    fn poll_stream(&mut self, cx: &mut Context<'_>, id: u32, buffer: &mut Option<Buffer>) {
        let Some(open) = self.streams.get_mut(&id) else {
            return;
        };
        let pipe = &mut open.pipe;
        if open.has_ended {
            // What the user writes goes nowhere, and must not keep it from reading the rest.
            let mut nowhere = [0; 4096];
            while matches!(
                pipe.poll_take(cx, &mut nowhere),
                Poll::Ready(Taken::Bytes(1..))
            ) {}
            pipe.watch_reader(cx);
            if pipe.unread() == 0 || pipe.is_abandoned() {
                self.streams.remove(&id);
            }
            return;
        }
        let waiting = pipe.waiting().min(MAX_DATA);
        let taken = if waiting == 0 {
            pipe.poll_take(cx, &mut [])
        } else {
            let mut taken = Poll::Pending;
            let len = u16::try_from(waiting).unwrap_or(u16::MAX);
            put(buffer, Frame::Data(id, len), |room| {
                taken = pipe.poll_take(cx, room);
                match taken {
                    Poll::Ready(Taken::Bytes(count)) => count,
                    _ => 0,
                }
            });
            self.last = id;
            taken
        };
        match taken {
            Poll::Pending | Poll::Ready(Taken::Bytes(_)) => {}
            // A client's stream that was ended, but not dropped, is still read.
            Poll::Ready(Taken::End) if self.role == Role::Client && !pipe.is_abandoned() => {}
            Poll::Ready(taken) => {
                self.control.push_back(Frame::End(id));
                if taken == Taken::End {
                    pipe.finish();
                }
                self.streams.remove(&id);
            }
        }
    }
}

fn has_room(buffer: Option<&Buffer>) -> bool {
    buffer.is_none_or(|buffer| buffer.bytes().len() - buffer.raw.end >= MIN_ROOM)
}

/// Appends a frame whose data `fill` writes, as many bytes as there is room for or as the frame says. Returns whether it
/// fitted.
fn put(buffer: &mut Option<Buffer>, frame: Frame, fill: impl FnOnce(&mut [u8]) -> usize) -> bool {
    let buffer = buffer.get_or_insert_with(|| Buffer::take(Size::Medium));
    let (bytes, _, raw) = buffer.parts();
    let rest = bytes.get_mut(raw.end..).unwrap_or_default();
    let Some((head, rest)) = rest.split_at_mut_checked(HEAD) else {
        return false;
    };
    let frame = match frame {
        Frame::Data(id, len) => {
            let most = usize::from(len).min(rest.len());
            let count = fill(rest.get_mut(..most).unwrap_or_default());
            if count == 0 {
                return false;
            }
            raw.end += count;
            Frame::Data(id, u16::try_from(count).unwrap_or(u16::MAX))
        }
        frame => frame,
    };
    head.copy_from_slice(&frame.head());
    raw.end += HEAD;
    true
}

/// What a read has led to.
enum Step {
    Accepted(Stream),
    End,
}

impl Session for Smux {
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Stream>>> {
        for _ in 0..TURNS {
            let wrote = matches!(self.poll_out(cx)?, Poll::Ready(true));
            let is_writing = self.out.is_some();
            if is_writing {
                // Even while the carrier is full, what the users do must wake this task.
                self.streams.values().for_each(|open| open.pipe.watch(cx));
            }
            let read = if self.is_full(cx) {
                Poll::Pending
            } else {
                self.poll_in(cx)?
            };
            match read {
                Poll::Ready(Some(Step::End)) => return Poll::Ready(Ok(None)),
                Poll::Ready(Some(Step::Accepted(stream))) => return Poll::Ready(Ok(Some(stream))),
                Poll::Pending if !wrote => return Poll::Pending,
                Poll::Pending | Poll::Ready(None) => {}
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn poll_open(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Stream>> {
        let id = self.next;
        let Some(next) = id.checked_add(2) else {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        };
        self.next = next;
        self.control.push_back(Frame::Open(id));
        cx.waker().wake_by_ref();
        Poll::Ready(Ok(self.open(id)))
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while ready!(self.poll_out(cx))? {}
        self.carrier.poll_shutdown(cx)
    }
}
