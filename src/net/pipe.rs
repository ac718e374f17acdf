//! An in-memory stream. One side is a [`Stream`], used as any other; the other side is a [`Pipe`], held by a task that
//! carries many streams over one connection.
//!
//! ```text
//!              at most `window`                     push, finish, reset
//! Stream  <─────────────────────────────────────────  Pipe
//!         ─────────────────────────────────────────>
//!              less than `capacity` + one buffer    poll_take, take_credit
//! ```
//!
//! The bytes in a pipe are in buffers of the worker's pool; an empty pipe holds none. Each side is woken when there is
//! something to do after there was nothing, not for every piece.

mod queue;
mod room;
pub(super) mod state;

pub use room::Room;
pub use state::{Pipe, PushError, Taken};

use std::sync::Arc;

use super::Stream;
use room::Share;
use state::PipeStream;

/// Creates a pipe. `window` bounds the bytes on their way to the stream's reader. A writer to the stream waits when
/// `capacity` bytes are on their way to the [`Pipe`]; a buffer that is handed over whole may exceed it, by less than
/// the largest buffer of the pool.
#[must_use]
pub fn pair(window: usize, capacity: usize) -> (Stream, Pipe) {
    let (stream, pipe) = PipeStream::new(window, capacity, None);
    (Stream::piped(stream), pipe)
}

/// As [`pair`], of a pipe whose writer shares `room` with those of other pipes. At most `credit` bytes are on their way to the
/// [`Pipe`], which [`Pipe::set_credit`] changes: they are those that can be sent on, so that they do not keep the room from
/// the others. [`Stream::poll_room`] says how many bytes to write.
#[must_use]
pub fn pair_within(
    room: &Arc<Room>,
    window: usize,
    capacity: usize,
    credit: u64,
) -> (Stream, Pipe) {
    let share = Share::new(Arc::clone(room), credit);
    let (stream, pipe) = PipeStream::new(window, capacity, Some(share));
    (Stream::piped(stream), pipe)
}

#[cfg(test)]
mod tests;
