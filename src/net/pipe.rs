//! A stream in memory. One end is a [`Stream`], used as any; the other is the handle of a task that carries many such
//! streams over one connection.
//!
//! ```text
//!                 down, at most the window          push, finish, reset
//! Stream  <─────────────────────────────────────────  Pipe
//!         ─────────────────────────────────────────>
//!                 up, at most the capacity          poll_take, take_credit
//! ```
//!
//! What waits in a pipe stands in buffers of the worker's pool; an empty pipe holds none. Either side is woken when
//! there is something to do after there was nothing, and not for every piece.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

use super::Stream;
use super::pool::{Buffer, Size};
use super::sync::lock;

/// A buffer is kept as it is when at least this part of it is bytes; else these are put behind those of another.
const WORTH_KEEPING: usize = 4;
/// Consumed bytes are told to the handle when they are this part of the window.
const CREDIT_PART: usize = 4;

/// A pipe that takes `window` bytes on their way to the stream's reader, and `capacity` bytes of its writer's.
#[must_use]
pub fn pair(window: usize, capacity: usize) -> (Stream, Pipe) {
    let state = Arc::new(Mutex::new(State::new(window, capacity)));
    (Stream::piped(End(Arc::clone(&state))), Pipe(state))
}

/// The handle. Dropping it without [`Pipe::finish`] resets the stream.
pub struct Pipe(Arc<Mutex<State>>);

/// The end inside a [`Stream`].
pub(super) struct End(Arc<Mutex<State>>);

/// What [`Pipe::poll_take`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// So many bytes, at least one where `buf` has room.
    Bytes(usize),
    /// The stream's user has shut it down or closed it, and all that was written has been taken.
    End,
    /// The stream's user has closed it as broken, or with bytes unread.
    Reset,
}

/// Why [`Pipe::push`] took nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// More than the window allows: the peer has broken the protocol.
    Window,
    /// The stream has been closed by its user, or finished or reset by the handle.
    Closed,
}

struct State {
    down: Queue,
    up: Queue,
    window: usize,
    capacity: usize,
    /// Bytes that the reader has taken and the handle has not been told of.
    credit: usize,
    /// The user waiting for bytes, and for room.
    reader: Option<Waker>,
    writer: Option<Waker>,
    /// The handle's task.
    owner: Option<Waker>,
    /// How each end has ended its direction.
    handle: Fate,
    user: Fate,
    /// Whether each end has been dropped.
    handle_gone: bool,
    user_gone: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Open,
    Finished,
    Reset,
}

/// Bytes in order, in buffers of the pool.
#[derive(Default)]
struct Queue {
    parts: VecDeque<Buffer>,
    len: usize,
}

impl Queue {
    fn put(&mut self, mut bytes: &[u8]) {
        self.len += bytes.len();
        while !bytes.is_empty() {
            let last = self.parts.back_mut();
            let Some(last) = last.filter(|last| last.raw.end < last.bytes().len()) else {
                // Whoever leaves bytes standing is a bulk flow.
                let size = match self.parts.len() {
                    0 if bytes.len() <= Size::Small.bytes() => Size::Small,
                    0 => Size::Medium,
                    _ => Size::Large,
                };
                self.parts.push_back(Buffer::take(size));
                continue;
            };
            let (room, _, raw) = last.parts();
            let len = bytes.len().min(room.len() - raw.end);
            let (now, later) = bytes.split_at(len);
            if let Some(room) = room.get_mut(raw.end..raw.end + len) {
                room.copy_from_slice(now);
            }
            raw.end += len;
            bytes = later;
        }
    }

    /// Fills `to` as far as there is something.
    fn take(&mut self, to: &mut [u8]) -> usize {
        let mut done = 0;
        while let Some(first) = self.parts.front_mut() {
            let (bytes, _, raw) = first.parts();
            let len = raw.len().min(to.len() - done);
            let from = bytes.get(raw.start..raw.start + len).unwrap_or_default();
            if let Some(room) = to.get_mut(done..done + len) {
                room.copy_from_slice(from);
            }
            raw.start += len;
            done += len;
            if raw.start < raw.end {
                break;
            }
            self.parts.pop_front();
        }
        self.len -= done;
        done
    }

    /// Takes a whole buffer over, with the bytes of its one ready range; gives it back where it would be mostly empty.
    fn give(&mut self, mut buffer: Buffer) -> Result<(), Buffer> {
        let range = match buffer.ready.as_slice() {
            [range] => range.clone(),
            _ => return Err(buffer),
        };
        if !self.parts.is_empty() && range.len() < buffer.bytes().len() / WORTH_KEEPING {
            return Err(buffer);
        }
        self.len += range.len();
        buffer.ready.clear();
        buffer.raw = range;
        self.parts.push_back(buffer);
        Ok(())
    }

    /// The first buffer, with its bytes as its one ready range.
    fn take_buffer(&mut self) -> Option<Buffer> {
        let mut buffer = self.parts.pop_front()?;
        self.len -= buffer.raw.len();
        let range = std::mem::replace(&mut buffer.raw, 0..0);
        buffer.ready.push(range);
        Some(buffer)
    }

    fn clear(&mut self) {
        *self = Self::default();
    }
}

impl State {
    fn new(window: usize, capacity: usize) -> Self {
        Self {
            down: Queue::default(),
            up: Queue::default(),
            window,
            capacity,
            credit: 0,
            reader: None,
            writer: None,
            owner: None,
            handle: Fate::Open,
            user: Fate::Open,
            handle_gone: false,
            user_gone: false,
        }
    }

    /// Credit that is worth a message.
    fn worth(&self) -> usize {
        (self.window / CREDIT_PART).max(1)
    }

    /// Wakes the user from both its waits.
    fn wake_user(&mut self) -> [Option<Waker>; 2] {
        [self.reader.take(), self.writer.take()]
    }

    fn is_writable(&self) -> io::Result<()> {
        if self.handle == Fate::Reset {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        if self.handle_gone || self.user != Fate::Open {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        Ok(())
    }

    fn reset_by_handle(&mut self) -> [Option<Waker>; 2] {
        self.handle = Fate::Reset;
        self.down.clear();
        self.up.clear();
        self.wake_user()
    }
}

/// Remembers who waits, without a new handle to the task when it is the same one.
fn remember(slot: &mut Option<Waker>, cx: &Context<'_>) {
    match slot {
        Some(waker) => waker.clone_from(cx.waker()),
        None => *slot = Some(cx.waker().clone()),
    }
}

fn wake(wakers: impl IntoIterator<Item = Option<Waker>>) {
    wakers.into_iter().flatten().for_each(Waker::wake);
}

/// Counts what the reader has taken, and wakes the handle when it is worth a message.
fn consumed(mut state: MutexGuard<'_, State>, count: usize) {
    let before = state.credit;
    state.credit += count;
    let worth = state.worth();
    let owner = if before < worth && state.credit >= worth {
        state.owner.take()
    } else {
        None
    };
    drop(state);
    wake([owner]);
}

impl Pipe {
    /// Gives `bytes` to the stream's reader: all of them or none.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn push(&self, bytes: &[u8]) -> Result<(), Refused> {
        let mut state = lock(&self.0);
        if state.user_gone || state.handle != Fate::Open {
            return Err(Refused::Closed);
        }
        // Bytes consumed but not credited are not the peer's to use again.
        if state.down.len + state.credit + bytes.len() > state.window {
            return Err(Refused::Window);
        }
        state.down.put(bytes);
        let reader = state.reader.take_if(|_| !bytes.is_empty());
        drop(state);
        wake([reader]);
        Ok(())
    }

    /// Takes what the stream's user has written, as much as `buf` holds, or waits for it.
    ///
    /// The task of `cx` is woken once, by whichever comes first: bytes where there were none, the end of the stream,
    /// enough credit, the user's leaving. It then has to call this, or [`Pipe::watch`], to be woken again; bytes that
    /// it leaves standing do not wake it.
    pub fn poll_take(&self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<Taken> {
        let mut state = lock(&self.0);
        remember(&mut state.owner, cx);
        if state.user == Fate::Reset {
            return Poll::Ready(Taken::Reset);
        }
        if state.up.len == 0 {
            return if state.user == Fate::Finished {
                Poll::Ready(Taken::End)
            } else {
                Poll::Pending
            };
        }
        let count = state.up.take(buf);
        // A writer that has to wait waits for a good deal of room, not for every crumb.
        let writer = if state.up.len <= state.capacity / 2 {
            state.writer.take()
        } else {
            None
        };
        drop(state);
        wake([writer]);
        Poll::Ready(Taken::Bytes(count))
    }

    /// Wakes the task of `cx` as [`Pipe::poll_take`] does, and takes nothing. What has happened before is for the
    /// caller to look at afterwards.
    pub fn watch(&self, cx: &Context<'_>) {
        remember(&mut lock(&self.0).owner, cx);
    }

    /// Bytes that wait to be taken.
    #[must_use]
    pub fn waiting(&self) -> usize {
        lock(&self.0).up.len
    }

    /// Bytes that the reader has consumed, if they are worth a message: then they are the peer's to send again.
    #[must_use]
    pub fn take_credit(&self) -> Option<usize> {
        let mut state = lock(&self.0);
        (state.credit >= state.worth()).then(|| std::mem::take(&mut state.credit))
    }

    /// Bytes that were pushed and have not been read.
    #[must_use]
    pub fn unread(&self) -> usize {
        lock(&self.0).down.len
    }

    /// The window, in bytes.
    #[must_use]
    pub fn window(&self) -> usize {
        lock(&self.0).window
    }

    /// Makes the window larger; the peer is to be told as of credit.
    pub fn widen(&self, by: usize) {
        lock(&self.0).window += by;
    }

    /// Nothing more will be pushed: the reader finds the end behind what it has.
    pub fn finish(&self) {
        let mut state = lock(&self.0);
        if state.handle == Fate::Open {
            state.handle = Fate::Finished;
            let reader = state.reader.take();
            drop(state);
            wake([reader]);
        }
    }

    /// Breaks the stream: its user gets an error at once, and what waits in the pipe is dropped.
    pub fn reset(&self) {
        let wakers = lock(&self.0).reset_by_handle();
        wake(wakers);
    }

    /// Whether the user has dropped the stream, so that nobody will read what is pushed.
    #[must_use]
    pub fn is_abandoned(&self) -> bool {
        lock(&self.0).user_gone
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        let mut state = lock(&self.0);
        state.handle_gone = true;
        state.owner = None;
        let wakers = if state.handle == Fate::Finished {
            state.up.clear();
            state.wake_user()
        } else {
            state.reset_by_handle()
        };
        drop(state);
        wake(wakers);
    }
}

impl End {
    /// The end of a pipe whose handle is gone.
    pub(super) fn broken() -> Self {
        let mut state = State::new(0, 0);
        (state.handle, state.handle_gone) = (Fate::Reset, true);
        Self(Arc::new(Mutex::new(state)))
    }

    pub(super) fn poll_readable(&self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        let mut state = lock(&self.0);
        if state.down.len > 0 || state.handle != Fate::Open {
            return Poll::Ready(Ok(()));
        }
        remember(&mut state.reader, cx);
        Poll::Pending
    }

    pub(super) fn try_read(&self, slots: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        let mut state = lock(&self.0);
        if state.down.len == 0 {
            return match state.handle {
                Fate::Open => Err(io::ErrorKind::WouldBlock.into()),
                Fate::Finished => Ok(0),
                Fate::Reset => Err(io::ErrorKind::ConnectionReset.into()),
            };
        }
        let count = slots.iter_mut().map(|slot| state.down.take(slot)).sum();
        consumed(state, count);
        Ok(count)
    }

    /// As [`End::try_read`], without a copy: a buffer whose one ready range has come; `None` when there is none.
    pub(super) fn take_buffer(&self) -> Option<Buffer> {
        let mut state = lock(&self.0);
        let buffer = state.down.take_buffer()?;
        let count = buffer.ready.iter().map(ExactSizeIterator::len).sum();
        consumed(state, count);
        Some(buffer)
    }

    /// As [`End::poll_write`], without a copy: takes the buffer, whose one ready range is to go, out of `buffer`, or
    /// leaves it there to be copied.
    pub(super) fn poll_give(
        &self,
        cx: &Context<'_>,
        buffer: &mut Option<Buffer>,
    ) -> Poll<io::Result<()>> {
        let mut state = lock(&self.0);
        state.is_writable()?;
        if state.up.len >= state.capacity {
            remember(&mut state.writer, cx);
            return Poll::Pending;
        }
        let before = state.up.len;
        *buffer = buffer.take().and_then(|buffer| state.up.give(buffer).err());
        let owner = if before == 0 && state.up.len > 0 {
            state.owner.take()
        } else {
            None
        };
        drop(state);
        wake([owner]);
        Poll::Ready(Ok(()))
    }

    pub(super) fn poll_write(
        &self,
        cx: &Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut state = lock(&self.0);
        state.is_writable()?;
        let before = state.up.len;
        for part in parts {
            let room = state.capacity.saturating_sub(state.up.len);
            let len = part.len().min(room);
            state.up.put(part.get(..len).unwrap_or_default());
        }
        let count = state.up.len - before;
        if count == 0 && parts.iter().any(|part| !part.is_empty()) {
            remember(&mut state.writer, cx);
            return Poll::Pending;
        }
        let owner = state.owner.take_if(|_| before == 0 && count > 0);
        drop(state);
        wake([owner]);
        Poll::Ready(Ok(count))
    }

    pub(super) fn shutdown(&self) {
        let mut state = lock(&self.0);
        if state.user == Fate::Open {
            state.user = Fate::Finished;
            let owner = state.owner.take();
            drop(state);
            wake([owner]);
        }
    }

    pub(super) fn reset_on_close(&self) {
        // Nobody is told before the close.
        lock(&self.0).user = Fate::Reset;
    }
}

impl Drop for End {
    fn drop(&mut self) {
        let mut state = lock(&self.0);
        state.user_gone = true;
        // As of a socket: what is left unread makes the close a reset. Else the peer, whose window these bytes hold,
        // might never come to its own end.
        if state.down.len > 0 {
            state.user = Fate::Reset;
        } else if state.user == Fate::Open {
            state.user = Fate::Finished;
        }
        state.down.clear();
        if state.user == Fate::Reset {
            state.up.clear();
        }
        (state.reader, state.writer) = (None, None);
        let owner = state.owner.take();
        drop(state);
        wake([owner]);
    }
}

#[cfg(test)]
mod tests;
