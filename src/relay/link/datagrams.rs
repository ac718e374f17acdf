//! A bounded queue of datagrams.

use std::collections::VecDeque;

use super::limits::{MAX_DATAGRAM_BYTES, MAX_DATAGRAMS};

/// Datagrams and their flows, oldest first: at most [`MAX_DATAGRAMS`] and [`MAX_DATAGRAM_BYTES`].
#[derive(Default)]
pub(super) struct DatagramQueue {
    queue: VecDeque<(u64, Box<[u8]>)>,
    bytes: usize,
}

impl DatagramQueue {
    /// Adds a datagram and drops the oldest ones beyond the limits.
    pub(super) fn push(&mut self, id: u64, payload: Box<[u8]>) {
        self.bytes += payload.len();
        self.queue.push_back((id, payload));
        while self.queue.len() > MAX_DATAGRAMS || self.bytes > MAX_DATAGRAM_BYTES {
            self.pop();
        }
    }

    /// The oldest datagram.
    pub(super) fn front(&self) -> Option<(u64, &[u8])> {
        let (id, payload) = self.queue.front()?;
        Some((*id, payload))
    }

    /// Takes the oldest datagram.
    pub(super) fn pop(&mut self) -> Option<(u64, Box<[u8]>)> {
        let (id, payload) = self.queue.pop_front()?;
        self.bytes -= payload.len();
        Some((id, payload))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
}
