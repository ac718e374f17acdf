//! Reads from the connection into the caller's buffer.

use std::io::{self, IoSliceMut};

use super::{WebSocket, invalid};
use crate::net::slots::scatter;
use crate::wire::mux::SingleStream;
use crate::wire::websocket::{Status, close};

/// Bytes of payload before the next header from which on a read stops at that header.
const DIRECT: usize = 16 * 1024;
/// Bytes that such a read may take beyond the payload: the next header.
const BEYOND: usize = 24;
/// Bytes of the array into which headers are read.
const MAX_LEAD: usize = 40;
/// For a caller's buffer shorter than this, the bytes are read into an array first.
const LEAST_ROOM: usize = 2 * MAX_LEAD;
/// Reads in a row that may return no payload.
const MAX_READS: usize = 4;

impl WebSocket {
    /// As [`Layer::try_read`](crate::net::stream::Layer::try_read).
    pub(super) fn read(&mut self, slots: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        let room: usize = slots.iter().map(|slot| slot.len()).sum();
        if self.ahead.is_empty() && room > 0 {
            if self.payload_left() >= room && !self.is_ended()? {
                self.received = true;
                return self.read_direct(slots);
            }
            if let Some(slot) = slots.first_mut().filter(|slot| slot.len() >= LEAST_ROOM) {
                return self.read_into(slot);
            }
            let mut buffer = [0; LEAST_ROOM];
            let len = self.read_into(&mut buffer)?;
            self.ahead
                .extend_from_slice(buffer.get(..len).unwrap_or_default());
        }
        let done = scatter(&self.ahead, slots, 0);
        if done == self.ahead.len() {
            self.ahead = Vec::new();
        } else {
            self.ahead.drain(..done);
        }
        Ok(done)
    }

    /// Moves the payload of `bytes` to the front of `bytes` and returns its length.
    pub(super) fn decode(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let len = self.decoder.decode(bytes);
        let payload = bytes.get_mut(..len).unwrap_or_default();
        match &mut self.mux {
            Some(mux) => mux.decode(payload).map_err(invalid),
            None => Ok(len),
        }
    }

    /// Bytes of payload before the next header of any kind.
    fn payload_left(&self) -> usize {
        let left = usize::try_from(self.decoder.payload_left()).unwrap_or(usize::MAX);
        match &self.mux {
            Some(mux) => left.min(mux.data_left()),
            None => left,
        }
    }

    /// Whether the peer's direction has ended. A violation by the peer is an error.
    pub(super) fn is_ended(&self) -> io::Result<bool> {
        match self.decoder.status() {
            Status::Failed(violation) => return Err(invalid(violation)),
            // These are the statuses of a regular close; every other status breaks the stream.
            Status::Closed(close::NORMAL | close::GOING_AWAY | close::NO_STATUS)
            | Status::Ended => {
                return Ok(true);
            }
            Status::Closed(_) => return Err(io::ErrorKind::ConnectionReset.into()),
            Status::Active => {}
        }
        match self.mux.as_ref().and_then(SingleStream::ended) {
            Some(true) => Err(io::ErrorKind::ConnectionReset.into()),
            Some(false) => Ok(true),
            None => Ok(self.lingered),
        }
    }

    /// Handles the end of the connection: it is the end of the stream unless it cuts a frame.
    fn end_of_connection(&self) -> io::Result<usize> {
        let whole = self.mux.as_ref().is_none_or(SingleStream::at_boundary);
        if self.decoder.at_boundary() && whole {
            Ok(0)
        } else {
            Err(io::ErrorKind::UnexpectedEof.into())
        }
    }

    /// Reads payload only into `slots`.
    fn read_direct(&mut self, slots: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        let count = self.inner.try_read(slots)?;
        if count == 0 {
            return self.end_of_connection();
        }
        let mut left = count;
        for slot in slots {
            let len = left.min(slot.len());
            self.decode(slot.get_mut(..len).unwrap_or_default())?;
            left -= len;
        }
        Ok(count)
    }

    /// Reads payload into `room`, which has at least [`LEAST_ROOM`] bytes.
    pub(super) fn read_into(&mut self, room: &mut [u8]) -> io::Result<usize> {
        for _ in 0..MAX_READS {
            if self.is_ended()? {
                return Ok(0);
            }
            let direct = self.payload_left();
            let read = if direct > 0 {
                // The short rest of a frame is read together with what follows it.
                let most = if direct < DIRECT {
                    room.len()
                } else {
                    room.len().min(direct.saturating_add(BEYOND))
                };
                let room = room.get_mut(..most).unwrap_or_default();
                let count = self.inner.try_read(&mut [IoSliceMut::new(room)])?;
                (
                    count,
                    self.decode(room.get_mut(..count).unwrap_or_default())?,
                )
            } else {
                self.read_header(room)?
            };
            self.received = true;
            self.answer();
            match read {
                (0, _) => return self.end_of_connection(),
                (_, 0) => {}
                (_, payload) => return Ok(payload),
            }
        }
        // Only headers and control frames: other tasks get their turn.
        Err(io::ErrorKind::WouldBlock.into())
    }

    /// Reads once where a header comes next; returns the bytes read, and the bytes of payload in `room`.
    fn read_header(&mut self, room: &mut [u8]) -> io::Result<(usize, usize)> {
        let mut lead = [0; MAX_LEAD];
        let lead = lead.get_mut(..self.lead).unwrap_or_default();
        let most = room.len() - lead.len();
        let count = self.inner.try_read(&mut [
            IoSliceMut::new(lead),
            IoSliceMut::new(room.get_mut(..most).unwrap_or_default()),
        ])?;
        let first = count.min(lead.len());
        let after = count - first;
        let lead = lead.get_mut(..first).unwrap_or_default();
        let early = self.decode(lead)?;
        if early > 0 {
            // The header was shorter than guessed: its array holds payload.
            room.copy_within(..after, early);
            if let (Some(to), Some(from)) = (room.get_mut(..early), lead.get(..early)) {
                to.copy_from_slice(from);
            }
        }
        let payload = self.decode(room.get_mut(early..early + after).unwrap_or_default())?;
        let late = after - payload;
        if payload > 0 && late <= MAX_LEAD - self.lead {
            self.lead += late;
        }
        self.lead = self.lead.saturating_sub(early).max(2);
        Ok((count, early + payload))
    }
}
