//! From the connection to the caller's buffer.

use std::io::{self, IoSliceMut};

use super::{WebSocket, invalid};
use crate::net::slots::scatter;
use crate::wire::mux::SingleStream;
use crate::wire::websocket::{Status, close};

/// Payload without a header in it that is worth a read of its own.
const DIRECT: usize = 16 * 1024;
/// Bytes that are read beyond it: the next header.
const BEYOND: usize = 24;
/// The longest place for a header.
const MAX_LEAD: usize = 40;
/// A caller's buffer that is shorter gets its bytes by way of one of ours.
const LEAST_ROOM: usize = 2 * MAX_LEAD;
/// Reads in a row that may bring no payload.
const MAX_READS: usize = 4;
/// The status of a Close that had none (RFC 6455 §7.1.5).
const NO_STATUS: u16 = 1005;

impl WebSocket {
    /// As [`Layer::try_read`](crate::net::stream::Layer::try_read).
    pub(super) fn read(&mut self, slots: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        let room: usize = slots.iter().map(|slot| slot.len()).sum();
        if self.ahead.is_empty() && room > 0 {
            if self.direct() >= room && !self.over()? {
                self.heard = true;
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

    /// Leaves the payload of `bytes` at their front.
    pub(super) fn decode(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let len = self.decoder.decode(bytes);
        let payload = bytes.get_mut(..len).unwrap_or_default();
        match &mut self.mux {
            Some(mux) => mux.decode(payload).map_err(invalid),
            None => Ok(len),
        }
    }

    /// Payload that comes next, without a header of any kind before it.
    fn direct(&self) -> usize {
        let left = usize::try_from(self.decoder.payload_left()).unwrap_or(usize::MAX);
        match &self.mux {
            Some(mux) => left.min(mux.data_left()),
            None => left,
        }
    }

    /// Whether the peer's direction is over; what it did wrong is an error.
    pub(super) fn over(&self) -> io::Result<bool> {
        match self.decoder.status() {
            Status::Failed(violation) => return Err(invalid(violation)),
            // A peer that goes away in good order has said all; any other status breaks the stream.
            Status::Closed(close::NORMAL | close::GOING_AWAY | NO_STATUS) | Status::Ended => {
                return Ok(true);
            }
            Status::Closed(_) => return Err(io::ErrorKind::ConnectionReset.into()),
            Status::Open => {}
        }
        match self.mux.as_ref().and_then(SingleStream::ended) {
            Some(true) => Err(io::ErrorKind::ConnectionReset.into()),
            Some(false) => Ok(true),
            None => Ok(self.lingered),
        }
    }

    /// The end of the connection, which is one of the stream unless it cuts a frame.
    fn end_of_connection(&self) -> io::Result<usize> {
        let whole = self.mux.as_ref().is_none_or(SingleStream::at_boundary);
        if self.decoder.at_boundary() && whole {
            Ok(0)
        } else {
            Err(io::ErrorKind::UnexpectedEof.into())
        }
    }

    /// One read into `slots`, which are nothing but payload.
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

    /// Reads payload into `room`, which is not short.
    pub(super) fn read_into(&mut self, room: &mut [u8]) -> io::Result<usize> {
        for _ in 0..MAX_READS {
            if self.over()? {
                return Ok(0);
            }
            let direct = self.direct();
            let read = if direct > 0 {
                // A short rest of a frame is read together with whatever follows it.
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
            self.heard = true;
            self.answer();
            match read {
                (0, _) => return self.end_of_connection(),
                (_, 0) => {}
                (_, payload) => return Ok(payload),
            }
        }
        // Headers and control frames without end: the others are to have their turn.
        Err(io::ErrorKind::WouldBlock.into())
    }

    /// One read with a header at its beginning: bytes read, and bytes of payload.
    fn read_header(&mut self, room: &mut [u8]) -> io::Result<(usize, usize)> {
        let mut lead = [0; MAX_LEAD];
        let lead = lead.get_mut(..self.lead).unwrap_or_default();
        let most = room.len() - lead.len();
        let count = self.inner.try_read(&mut [
            IoSliceMut::new(lead),
            IoSliceMut::new(room.get_mut(..most).unwrap_or_default()),
        ])?;
        let first = count.min(lead.len());
        let behind = count - first;
        let lead = lead.get_mut(..first).unwrap_or_default();
        let early = self.decode(lead)?;
        if early > 0 {
            // The header was shorter than thought: payload stands in its place.
            room.copy_within(..behind, early);
            if let (Some(to), Some(from)) = (room.get_mut(..early), lead.get(..early)) {
                to.copy_from_slice(from);
            }
        }
        let payload = self.decode(room.get_mut(early..early + behind).unwrap_or_default())?;
        let late = behind - payload;
        if payload > 0 && late <= MAX_LEAD - self.lead {
            self.lead += late;
        }
        self.lead = self.lead.saturating_sub(early).max(2);
        Ok((count, early + payload))
    }
}
