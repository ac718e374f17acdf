//! The padding of a session, as a layer of its stream.

use std::io::{self, IoSlice, IoSliceMut};

use crate::net::Stream;
use crate::net::framed::{Framed, Framing};
use crate::net::pool::{Buffer, Size};
use crate::net::slots::gather;
use crate::wire::multiplex::padding::{
    FRAMES, HEAD, MAX_DATA, MAX_PADDING, MIN_PADDING, Unpadder, head,
};

/// Pads the first frames of both directions of `inner`.
pub(super) fn padded(inner: Stream) -> Stream {
    let padding = Padding {
        unpadder: Unpadder::new(),
        frames: 0,
    };
    Framed::stream(inner, padding, None)
}

struct Padding {
    unpadder: Unpadder,
    /// Frames that were padded.
    frames: u8,
}

impl Framing for Padding {
    fn find(&mut self, incoming: &mut Option<Buffer>) -> io::Result<bool> {
        let Some(buffer) = incoming else {
            return Ok(false);
        };
        let (bytes, ready, raw) = buffer.parts();
        while ready.is_empty() && raw.start < raw.end {
            let rest = bytes.get(raw.clone()).unwrap_or_default();
            let (skip, count) = self.unpadder.next(rest);
            let start = raw.start + skip;
            raw.start = start + count;
            if count > 0 {
                ready.push(start..start + count);
            }
        }
        let found = !ready.is_empty();
        if !found {
            *incoming = None;
        }
        Ok(found)
    }

    fn fill(&mut self, stream: &Stream, incoming: &mut Option<Buffer>) -> io::Result<bool> {
        let mut buffer = Buffer::take(Size::Medium);
        let (bytes, _, raw) = buffer.parts();
        let count = stream.try_read(&mut [IoSliceMut::new(bytes)])?;
        raw.end = count;
        *incoming = (count > 0).then_some(buffer);
        Ok(count > 0)
    }

    fn frame(&mut self, parts: &[IoSlice<'_>]) -> io::Result<Option<(Buffer, usize)>> {
        if self.frames == FRAMES {
            return Ok(None);
        }
        let padding = rand::random_range(MIN_PADDING..=MAX_PADDING);
        let total: usize = parts.iter().map(|part| part.len()).sum();
        let most = Size::Medium.bytes() - HEAD - usize::from(MAX_PADDING);
        let data = u16::try_from(total.min(MAX_DATA).min(most)).unwrap_or(u16::MAX);
        let end = HEAD + usize::from(data) + usize::from(padding);
        let mut buffer = Buffer::take_exact(Size::holding(end).unwrap_or(Size::Medium));
        let (bytes, _, raw) = buffer.parts();
        let (front, rest) = bytes.split_at_mut(HEAD);
        front.copy_from_slice(&head(data, padding));
        let (room, rest) = rest.split_at_mut(usize::from(data));
        gather(parts, room);
        // The buffer held other bytes before.
        if let Some(room) = rest.get_mut(..usize::from(padding)) {
            room.fill(0);
        }
        *raw = 0..end;
        self.frames += 1;
        Ok(Some((buffer, usize::from(data))))
    }
}
