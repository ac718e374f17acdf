//! The two sides of a pipe and what they share.

use std::io::{self, IoSlice, IoSliceMut};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker, ready};

use super::queue::{MIN_FILL, Queue};
use super::room::{Admission, Share};
use crate::net::pool::Buffer;
use crate::net::sync::lock;

/// Credit is reported when the reader has consumed this fraction of the window.
const CREDIT_FRACTION: usize = 4;

/// The other side of an in-memory stream. Dropping it without [`Pipe::finish`] resets the stream.
pub struct Pipe(pub(super) Arc<Mutex<State>>);

/// The side inside a [`Stream`](crate::net::Stream).
pub(in crate::net) struct PipeStream(Arc<Mutex<State>>);

/// The result of [`Pipe::poll_take`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// This many bytes, at least one if `buf` has room.
    Bytes(usize),
    /// The user has shut down or closed the stream, and everything written has been taken.
    End,
    /// The user has closed the stream abruptly, or with unread bytes.
    Reset,
}

/// Why [`Pipe::push`] failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PushError {
    /// The bytes exceed the window: the peer has violated the protocol.
    WindowExceeded,
    /// The user has closed the stream, or the pipe was finished or reset.
    Closed,
}

pub(super) struct State {
    /// Bytes from the pipe to the stream's reader, and from its writer to the pipe.
    pub(super) to_reader: Queue,
    from_writer: Queue,
    window: usize,
    capacity: usize,
    /// What the writer shares with those of other pipes.
    share: Option<Share>,
    /// Whether the writer waits until all it has written is taken.
    waits_for_empty: bool,
    /// Bytes that the reader has consumed since [`Pipe::take_credit`].
    credit: usize,
    /// The user's tasks that wait for bytes and for room.
    reader: Option<Waker>,
    writer: Option<Waker>,
    /// The pipe's task.
    owner: Option<Waker>,
    /// Whether the pipe's task is to be woken by the next read.
    watches_reader: bool,
    /// How each side has ended its direction.
    pipe: Direction,
    user: Direction,
    pipe_dropped: bool,
    user_dropped: bool,
    /// The user has closed the stream before either side had ended its direction.
    left_open: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Active,
    Finished,
    Reset,
}

impl State {
    fn new(window: usize, capacity: usize, share: Option<Share>) -> Self {
        Self {
            to_reader: Queue::default(),
            from_writer: Queue::default(),
            window,
            capacity,
            share,
            waits_for_empty: false,
            credit: 0,
            reader: None,
            writer: None,
            owner: None,
            watches_reader: false,
            pipe: Direction::Active,
            user: Direction::Active,
            pipe_dropped: false,
            user_dropped: false,
            left_open: false,
        }
    }

    /// The least credit that is reported.
    fn credit_threshold(&self) -> usize {
        (self.window / CREDIT_FRACTION).max(1)
    }

    /// The wakers of the user, to be woken without the lock.
    fn user_wakers(&mut self) -> [Option<Waker>; 2] {
        [self.reader.take(), self.writer.take()]
    }

    fn check_writable(&self) -> io::Result<()> {
        if self.pipe == Direction::Reset {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        if self.pipe_dropped || self.user != Direction::Active {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        Ok(())
    }

    fn reset_by_pipe(&mut self) -> [Option<Waker>; 2] {
        self.pipe = Direction::Reset;
        self.to_reader.clear();
        self.clear_written();
        self.user_wakers()
    }

    /// Drops what was written and not taken; nothing more will be.
    fn clear_written(&mut self) {
        self.from_writer.clear();
        self.share = None;
    }

    /// Waits until the writer may write, and returns how many bytes it should: more wait with it, or exceed the capacity.
    fn poll_room(&mut self, cx: &Context<'_>) -> Poll<usize> {
        let len = self.from_writer.len;
        self.waits_for_empty = false;
        let room = match &mut self.share {
            _ if len >= self.capacity => 0,
            None => usize::MAX,
            Some(share) => match share.peer_takes(len) {
                0 => 0,
                takes => match share.admit(len, cx.waker()) {
                    Admission::Free => takes,
                    Admission::Piece(count) => takes.min(count),
                    Admission::Queued => 0,
                    Admission::Later => {
                        self.waits_for_empty = true;
                        0
                    }
                },
            },
        };
        if room == 0 {
            store_waker(&mut self.writer, cx);
            return Poll::Pending;
        }
        Poll::Ready(room)
    }

    /// As [`State::poll_room`]; a writer that has asked before need not ask again.
    fn poll_admitted(&mut self, cx: &Context<'_>) -> Poll<usize> {
        let len = self.from_writer.len;
        if let Some(share) = &self.share
            && len < self.capacity
        {
            let admitted = share.admitted().min(share.peer_takes(len));
            if admitted > 0 {
                return Poll::Ready(admitted);
            }
        }
        self.poll_room(cx)
    }

    /// The writer has added to what was `before`. Returns the pipe's task, if it is to be woken.
    fn written(&mut self, before: usize) -> Option<Waker> {
        let after = self.from_writer.len;
        if let Some(share) = &mut self.share
            && after > before
        {
            share.hold(self.from_writer.memory);
            share.written();
        }
        self.owner.take_if(|_| before == 0 && after > 0)
    }

    /// The pipe's task has taken `count` bytes. Returns the writer, if it is to be woken.
    fn taken(&mut self, count: usize) -> Option<Waker> {
        let len = self.from_writer.len;
        // A blocked writer waits for half of the capacity, so that it is not woken for every few bytes.
        let mut has_room = if self.waits_for_empty {
            len == 0
        } else {
            len <= self.capacity / 2
        };
        if let Some(share) = &mut self.share {
            let count = u64::try_from(count).unwrap_or(u64::MAX);
            share.credit = share.credit.saturating_sub(count);
            share.hold(self.from_writer.memory);
            has_room &= share.peer_takes(len) > 0;
        }
        self.writer.take_if(|_| has_room)
    }
}

/// Stores the waker of `cx`, without a clone if it is there already.
fn store_waker(slot: &mut Option<Waker>, cx: &Context<'_>) {
    match slot {
        Some(waker) => waker.clone_from(cx.waker()),
        None => *slot = Some(cx.waker().clone()),
    }
}

fn wake(wakers: impl IntoIterator<Item = Option<Waker>>) {
    wakers.into_iter().flatten().for_each(Waker::wake);
}

/// Counts bytes that the reader has consumed, and wakes the pipe's task when its credit reaches the threshold.
fn consumed(mut state: MutexGuard<'_, State>, count: usize) {
    let before = state.credit;
    state.credit += count;
    let threshold = state.credit_threshold();
    let reached = before < threshold && state.credit >= threshold
        || std::mem::take(&mut state.watches_reader);
    let owner = state.owner.take_if(|_| reached);
    drop(state);
    wake([owner]);
}

impl Pipe {
    /// Sends `bytes` to the stream's reader: all of them or none.
    ///
    /// # Errors
    /// [`PushError`].
    pub fn push(&self, bytes: &[u8]) -> Result<(), PushError> {
        let mut state = lock(&self.0);
        if state.user_dropped || state.pipe != Direction::Active {
            return Err(PushError::Closed);
        }
        // Bytes consumed but not yet credited are not the peer's to send again.
        if state.to_reader.len + state.credit + bytes.len() > state.window {
            return Err(PushError::WindowExceeded);
        }
        state.to_reader.push(bytes);
        let reader = state.reader.take_if(|_| !bytes.is_empty());
        drop(state);
        wake([reader]);
        Ok(())
    }

    /// Takes bytes that the stream's user has written, or waits for them.
    ///
    /// The task of `cx` is woken once: when there are bytes after there were none, when the stream ends, when there is
    /// enough credit, or when the user drops the stream. It must call this or [`Pipe::watch`] to be woken again. Bytes
    /// left in the pipe do not wake it.
    pub fn poll_take(&self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<Taken> {
        let mut state = lock(&self.0);
        store_waker(&mut state.owner, cx);
        if state.user == Direction::Reset {
            return Poll::Ready(Taken::Reset);
        }
        if state.from_writer.len == 0 {
            return if state.user == Direction::Finished {
                Poll::Ready(Taken::End)
            } else {
                Poll::Pending
            };
        }
        let count = state.from_writer.take(buf);
        let writer = state.taken(count);
        drop(state);
        wake([writer]);
        Poll::Ready(Taken::Bytes(count))
    }

    /// Registers the task of `cx` as [`Pipe::poll_take`] does, but takes nothing. The caller must check afterwards for
    /// what has happened before.
    pub fn watch(&self, cx: &Context<'_>) {
        store_waker(&mut lock(&self.0).owner, cx);
    }

    /// As [`Pipe::watch`], and the next read of the stream's user wakes the task too.
    pub fn watch_reader(&self, cx: &Context<'_>) {
        let mut state = lock(&self.0);
        store_waker(&mut state.owner, cx);
        state.watches_reader = true;
    }

    /// Bytes to be taken.
    #[must_use]
    pub fn waiting(&self) -> usize {
        lock(&self.0).from_writer.len
    }

    /// Bytes that the reader has consumed and the peer may send again; `None` while they are too few to report.
    #[must_use]
    pub fn take_credit(&self) -> Option<usize> {
        let mut state = lock(&self.0);
        (state.credit >= state.credit_threshold()).then(|| std::mem::take(&mut state.credit))
    }

    /// As [`Pipe::take_credit`], however few they are.
    #[must_use]
    pub fn take_all_credit(&self) -> usize {
        std::mem::take(&mut lock(&self.0).credit)
    }

    /// Bytes pushed and not yet read.
    #[must_use]
    pub fn unread(&self) -> usize {
        lock(&self.0).to_reader.len
    }

    /// Sets how many bytes the peer takes, those that wait among them, if the pipe has a [`Room`](super::Room).
    pub fn set_credit(&self, credit: u64) {
        let mut state = lock(&self.0);
        let len = state.from_writer.len;
        let Some(share) = &mut state.share else {
            return;
        };
        let could_write = share.peer_takes(len) > 0;
        share.credit = credit;
        let can_write = share.peer_takes(len) > 0;
        let writer = state.writer.take_if(|_| can_write && !could_write);
        drop(state);
        wake([writer]);
    }

    /// Enlarges the window; the peer needs as much additional credit.
    pub fn grow_window(&self, by: usize) {
        lock(&self.0).window += by;
    }

    /// Ends the direction to the reader, which finds the end after the bytes that are left.
    pub fn finish(&self) {
        let mut state = lock(&self.0);
        if state.pipe == Direction::Active {
            state.pipe = Direction::Finished;
            let reader = state.reader.take();
            drop(state);
            wake([reader]);
        }
    }

    /// Resets the stream: its user gets an error at once, and the bytes in the pipe are dropped.
    pub fn reset(&self) {
        let wakers = lock(&self.0).reset_by_pipe();
        wake(wakers);
    }

    /// Whether the user has dropped the stream.
    #[must_use]
    pub fn is_abandoned(&self) -> bool {
        lock(&self.0).user_dropped
    }

    /// Whether the user has dropped the stream before either side had ended its direction.
    #[must_use]
    pub fn was_left_open(&self) -> bool {
        lock(&self.0).left_open
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        let mut state = lock(&self.0);
        state.pipe_dropped = true;
        state.owner = None;
        let wakers = if state.pipe == Direction::Finished {
            state.clear_written();
            state.user_wakers()
        } else {
            state.reset_by_pipe()
        };
        drop(state);
        wake(wakers);
    }
}

impl PipeStream {
    /// Creates a pipe.
    pub(super) fn new(window: usize, capacity: usize, share: Option<Share>) -> (Self, Pipe) {
        let state = Arc::new(Mutex::new(State::new(window, capacity, share)));
        (Self(Arc::clone(&state)), Pipe(state))
    }

    /// The stream of a pipe whose other side has been dropped.
    pub(in crate::net) fn broken() -> Self {
        let mut state = State::new(0, 0, None);
        (state.pipe, state.pipe_dropped) = (Direction::Reset, true);
        Self(Arc::new(Mutex::new(state)))
    }

    pub(in crate::net) fn poll_readable(&self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        let mut state = lock(&self.0);
        if state.to_reader.len > 0 || state.pipe != Direction::Active {
            return Poll::Ready(Ok(()));
        }
        store_waker(&mut state.reader, cx);
        Poll::Pending
    }

    /// Ready when the pipe was reset.
    pub(in crate::net) fn poll_reset(&self, cx: &Context<'_>) -> Poll<()> {
        let mut state = lock(&self.0);
        if state.pipe == Direction::Reset {
            return Poll::Ready(());
        }
        store_waker(&mut state.reader, cx);
        Poll::Pending
    }

    pub(in crate::net) fn try_read(&self, slots: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        let mut state = lock(&self.0);
        if state.to_reader.len == 0 {
            return match state.pipe {
                Direction::Active => Err(io::ErrorKind::WouldBlock.into()),
                Direction::Finished => Ok(0),
                Direction::Reset => Err(io::ErrorKind::ConnectionReset.into()),
            };
        }
        let count = slots
            .iter_mut()
            .map(|slot| state.to_reader.take(slot))
            .sum();
        consumed(state, count);
        Ok(count)
    }

    /// As [`PipeStream::try_read`], without a copy: takes a buffer with one ready range, if there is one.
    pub(in crate::net) fn take_buffer(&self) -> Option<Buffer> {
        let mut state = lock(&self.0);
        let buffer = state.to_reader.take_buffer()?;
        let count = buffer.ready.iter().map(ExactSizeIterator::len).sum();
        consumed(state, count);
        Some(buffer)
    }

    /// As [`PipeStream::poll_write`], without a copy: takes the buffer, which has one ready range, out of `buffer`, or
    /// leaves it there to be copied.
    pub(in crate::net) fn poll_give(
        &self,
        cx: &Context<'_>,
        buffer: &mut Option<Buffer>,
    ) -> Poll<io::Result<()>> {
        let mut state = lock(&self.0);
        state.check_writable()?;
        let most = ready!(state.poll_admitted(cx));
        let before = state.from_writer.len;
        let is_short = state.share.as_ref().is_some_and(Share::is_short);
        let is_too_much = |buffer: &mut Buffer| {
            let count: usize = buffer.ready.iter().map(ExactSizeIterator::len).sum();
            // Where room is short, a buffer is not kept for a few bytes.
            count > most || is_short && count < buffer.bytes().len() / MIN_FILL
        };
        if let Some(given) = buffer.take_if(|buffer| !is_too_much(buffer)) {
            *buffer = state.from_writer.push_buffer(given).err();
        }
        let owner = state.written(before);
        drop(state);
        wake([owner]);
        Poll::Ready(Ok(()))
    }

    /// As [`Stream::poll_room`](crate::net::Stream::poll_room).
    pub(in crate::net) fn poll_room(&self, cx: &Context<'_>) -> Poll<usize> {
        let mut state = lock(&self.0);
        if state.check_writable().is_err() {
            // The write will say so.
            return Poll::Ready(usize::MAX);
        }
        state.poll_room(cx)
    }

    pub(in crate::net) fn poll_write(
        &self,
        cx: &Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut state = lock(&self.0);
        state.check_writable()?;
        if parts.iter().all(|part| part.is_empty()) {
            return Poll::Ready(Ok(0));
        }
        let before = state.from_writer.len;
        let mut room = ready!(state.poll_admitted(cx)).min(state.capacity - before);
        for part in parts {
            let len = part.len().min(room);
            room -= len;
            state.from_writer.push(part.get(..len).unwrap_or_default());
        }
        let count = state.from_writer.len - before;
        let owner = state.written(before);
        drop(state);
        wake([owner]);
        Poll::Ready(Ok(count))
    }

    pub(in crate::net) fn shutdown(&self) {
        let mut state = lock(&self.0);
        if state.user == Direction::Active {
            state.user = Direction::Finished;
            let owner = state.owner.take();
            drop(state);
            wake([owner]);
        }
    }

    pub(in crate::net) fn reset_on_close(&self) {
        // The pipe's task learns of it when the stream is dropped.
        lock(&self.0).user = Direction::Reset;
    }
}

impl Drop for PipeStream {
    fn drop(&mut self) {
        let mut state = lock(&self.0);
        state.user_dropped = true;
        state.left_open = state.user == Direction::Active && state.pipe == Direction::Active;
        // As with a socket, unread bytes make the close a reset. Otherwise the peer, whose window they fill, might never
        // get to its own end.
        if state.to_reader.len > 0 {
            state.user = Direction::Reset;
        } else if state.user == Direction::Active {
            state.user = Direction::Finished;
        }
        state.to_reader.clear();
        if state.user == Direction::Reset {
            state.clear_written();
        } else if let Some(share) = &mut state.share {
            share.abandon();
        }
        (state.reader, state.writer) = (None, None);
        let owner = state.owner.take();
        drop(state);
        wake([owner]);
    }
}
