//! Bytes in order, in buffers of the pool.

use std::collections::VecDeque;

use crate::net::pool::{Buffer, Size};

/// A buffer of the user is kept if at least this fraction of it is bytes; otherwise its bytes are copied.
pub(super) const MIN_FILL: usize = 4;
/// Bytes from which on a queue is that of a bulk flow that is worth large buffers.
const MUCH: usize = 256 * 1024;

/// A queue of bytes.
#[derive(Default)]
pub(super) struct Queue {
    pub(super) parts: VecDeque<Buffer>,
    /// The number of bytes.
    pub(super) len: usize,
    /// The bytes of all buffers.
    pub(super) memory: usize,
}

impl Queue {
    /// Appends a copy of `bytes`.
    pub(super) fn push(&mut self, mut bytes: &[u8]) {
        self.len += bytes.len();
        while !bytes.is_empty() {
            let last = self.parts.back_mut();
            let Some(last) = last.filter(|last| last.raw.end < last.bytes().len()) else {
                let size = match self.parts.len() {
                    0 if bytes.len() <= Size::Tiny.bytes() => Size::Tiny,
                    0 if bytes.len() <= Size::Small.bytes() => Size::Small,
                    _ if self.memory < MUCH => Size::Medium,
                    _ => Size::Large,
                };
                let buffer = Buffer::take_any(size);
                self.memory += buffer.bytes().len();
                self.parts.push_back(buffer);
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
            self.memory -= bytes.len();
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
        self.memory += buffer.bytes().len();
        buffer.ready.clear();
        buffer.raw = range;
        self.parts.push_back(buffer);
        Ok(())
    }

    /// Takes the first buffer, with its bytes as its only ready range.
    pub(super) fn take_buffer(&mut self) -> Option<Buffer> {
        let mut buffer = self.parts.pop_front()?;
        self.len -= buffer.raw.len();
        self.memory -= buffer.bytes().len();
        let range = std::mem::replace(&mut buffer.raw, 0..0);
        buffer.ready.push(range);
        Some(buffer)
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}
