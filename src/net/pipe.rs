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
pub(super) mod state;

pub use state::{Pipe, PushError, Taken};

use super::Stream;
use state::PipeStream;

/// Creates a pipe. `window` bounds the bytes on their way to the stream's reader. A writer to the stream waits when
/// `capacity` bytes are on their way to the [`Pipe`]; a buffer that is handed over whole may exceed it, by less than
/// the largest buffer of the pool.
#[must_use]
pub fn pair(window: usize, capacity: usize) -> (Stream, Pipe) {
    let (stream, pipe) = PipeStream::new(window, capacity);
    (Stream::piped(stream), pipe)
}

#[cfg(test)]
mod tests;
