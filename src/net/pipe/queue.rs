//! Bytes in order, in buffers of the pool.

use std::collections::VecDeque;

use crate::net::pool::{Buffer, Size};

/// A buffer of the user is kept if at least this fraction of it is bytes; otherwise its bytes are copied.
const MIN_FILL: usize = 4;

/// A queue of bytes.
#[derive(Default)]
pub(super) struct Queue {
    parts: VecDeque<Buffer>,
    len: usize,
}

impl Queue {
    #[cfg(test)]
    pub(super) fn buffers(&self) -> usize {
        self.parts.len()
    }

    /// The number of bytes.
    pub(super) const fn len(&self) -> usize {
        self.len
    }

    /// Appends a copy of `bytes`.
    pub(super) fn push(&mut self, mut bytes: &[u8]) {
        self.len += bytes.len();
        while !bytes.is_empty() {
            let last = self.parts.back_mut();
            let Some(last) = last.filter(|last| last.raw.end < last.bytes().len()) else {
                // A flow that queues this much is a bulk flow.
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

    /// Moves bytes to `to` and returns how many.
    pub(super) fn take(&mut self, to: &mut [u8]) -> usize {
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

    /// Appends a whole buffer with the bytes of its only ready range, or returns it if it would be mostly empty.
    pub(super) fn push_buffer(&mut self, mut buffer: Buffer) -> Result<(), Buffer> {
        let range = match buffer.ready.as_slice() {
            [range] => range.clone(),
            _ => return Err(buffer),
        };
        if !self.parts.is_empty() && range.len() < buffer.bytes().len() / MIN_FILL {
            return Err(buffer);
        }
        self.len += range.len();
        buffer.ready.clear();
        buffer.raw = range;
        self.parts.push_back(buffer);
        Ok(())
    }

    /// Takes the first buffer, with its bytes as its only ready range.
    pub(super) fn take_buffer(&mut self) -> Option<Buffer> {
        let mut buffer = self.parts.pop_front()?;
        self.len -= buffer.raw.len();
        let range = std::mem::replace(&mut buffer.raw, 0..0);
        buffer.ready.push(range);
        Some(buffer)
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}
