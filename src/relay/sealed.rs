//! Encrypted streams: chunks are read, opened and sealed where they stand in a buffer.

use std::io::{self, IoSliceMut};
use std::ops::Range;

use super::error::{Error, Side};
use super::sizing::Sizing;
use crate::net::pool::{Buffer, Size};
use crate::net::{Stream, unix_now};
use crate::wire::ss::stream::{Fresh, Opener, Sealer};
use crate::wire::{self, ss};

/// Why nothing more can be read from a stream.
#[derive(Debug)]
pub(super) enum StreamError {
    Io(io::Error),
    Wire(wire::Error),
    /// The stream ended in the middle of a chunk.
    Cut,
    /// The stream ended between two chunks.
    End,
}

impl StreamError {
    /// Blames `side` for it.
    pub(super) fn blame(self, side: Side) -> Error {
        match self {
            Self::Io(source) => Error::Io { side, source },
            Self::Wire(source) => Error::Wire { side, source },
            Self::Cut => Error::Cut(side),
            Self::End => Error::Io {
                side,
                source: io::ErrorKind::UnexpectedEof.into(),
            },
        }
    }
}

/// Reads once, after the beginning of a chunk that `buffer` may hold. A new buffer has `size`, and `sizing` learns how
/// full it became. Without an opener the stream is not encrypted.
pub(super) fn read(
    stream: &Stream,
    buffer: &mut Option<Buffer>,
    opener: Option<&Opener>,
    size: Size,
    sizing: &mut Sizing,
) -> Result<(), StreamError> {
    // A bulk flow nearly always has the beginning of a chunk left over, and its buffer must grow all the same.
    let mut filled = buffer
        .take()
        .unwrap_or_else(|| Buffer::take_any(size))
        .with_room(size, need(opener))
        .ok_or(StreamError::Wire(wire::Error::ChunkLength))?;
    let (bytes, _, raw) = filled.parts();
    let free = bytes.get_mut(raw.end..).unwrap_or_default();
    let room = free.len();
    let read = stream.try_read(&mut [IoSliceMut::new(free)]);
    if let Ok(count) = read {
        raw.end += count;
    }
    let is_empty = raw.start == raw.end;
    *buffer = Some(filled);
    match read.map_err(StreamError::Io)? {
        0 if is_empty && opener.is_none_or(Opener::at_boundary) => Err(StreamError::End),
        0 => Err(StreamError::Cut),
        count => {
            sizing.transferred(count, room);
            Ok(())
        }
    }
}

/// Opens the next chunk of `buffer` and returns where its payload stands; `None` while the chunk is incomplete.
pub(super) fn open(
    buffer: &mut Buffer,
    opener: Option<&mut Opener>,
) -> Result<Option<Range<usize>>, wire::Error> {
    let (bytes, _, raw) = buffer.parts();
    let chunk = bytes.get_mut(raw.clone()).unwrap_or_default();
    let (used, payload) = match opener {
        None => (chunk.len(), 0..chunk.len()),
        Some(opener) => {
            let opened = opener.open(chunk, unix_now)?;
            (opened.used, opened.payload)
        }
    };
    if used == 0 {
        return Ok(None);
    }
    let payload = raw.start + payload.start..raw.start + payload.end;
    raw.start += used;
    Ok(Some(payload))
}

/// Call it before a wait: an empty buffer is given back, the beginning of a chunk is kept in the smallest that holds it.
pub(super) fn shrink(buffer: &mut Option<Buffer>, opener: Option<&Opener>) {
    let need = need(opener);
    *buffer = buffer.take().and_then(|buffer| buffer.kept(need));
}

/// Bytes that the next chunk takes, as far as it is known.
fn need(opener: Option<&Opener>) -> usize {
    opener.map_or(1, Opener::need)
}

/// Seals `count` bytes of payload in their slot. The head of a stream gets the time and, if there is no payload, padding.
pub(super) fn seal(
    sealer: &mut Sealer,
    bytes: &mut [u8],
    count: usize,
) -> Result<usize, wire::Error> {
    if !sealer.at_head() {
        let fresh = Fresh {
            now: 0,
            padding: &[],
        };
        return sealer.seal(bytes, count, fresh);
    }
    let mut padding = [0; ss::MAX_PADDING];
    let mut len = 0;
    if count == 0 {
        len = rand::random_range(1..=padding.len());
        rand::fill(&mut padding[..]);
    }
    let fresh = Fresh {
        now: unix_now(),
        padding: padding.get(..len).unwrap_or_default(),
    };
    sealer.seal(bytes, count, fresh)
}
