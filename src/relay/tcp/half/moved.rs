//! One direction of a flow that goes on in another process.

use serde::{Deserialize, Serialize};

use super::{Codec, Half, State, in_memory};
use crate::net::pool::{Buffer, Size};
use crate::relay::error::Side;
use crate::wire::ss::stream::{Direction, Opener, Sealer};

/// A direction as another process goes on with it. The bytes that it holds are apart, in this order.
#[derive(Debug, Serialize, Deserialize)]
pub struct MovedHalf {
    codec: MovedCodec,
    state: MovedState,
    /// Payload bytes so far.
    moved: u64,
    /// Bytes that are to be written.
    write: usize,
    /// Bytes that are to be opened.
    raw: usize,
    /// Bytes that come before those of the source.
    ahead: usize,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum MovedCodec {
    Copy,
    Seal(Direction),
    Open(Direction),
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum MovedState {
    /// The source may send more.
    Open,
    /// The source has ended, and the sink has not been told.
    Ending,
    Done,
}

impl MovedHalf {
    /// Payload bytes so far.
    pub(in crate::relay::tcp) const fn moved(&self) -> u64 {
        self.moved
    }
}

impl Half {
    /// Whether [`Half::leave`] finds it between two pieces.
    #[must_use]
    pub fn may_leave(&self) -> bool {
        let is_between = match &self.codec {
            Codec::Copy => true,
            Codec::Seal(sealer) => !sealer.at_head(),
            Codec::Open(opener) => opener.is_between(),
        };
        is_between && !self.head_due && self.pending_error.is_none()
    }

    /// What another process needs to go on. The bytes that it holds are appended to `bytes`. `None`: it cannot move.
    pub fn leave(&mut self, bytes: &mut Vec<u8>) -> Option<MovedHalf> {
        let codec = match &self.codec {
            Codec::Copy => MovedCodec::Copy,
            Codec::Seal(sealer) => MovedCodec::Seal(sealer.direction()?),
            Codec::Open(opener) => MovedCodec::Open(opener.direction()?),
        };
        let start = bytes.len();
        let (mut write, mut raw) = (0, 0);
        if let Some(buffer) = &mut self.buffer {
            let (all, ready, rest) = buffer.parts();
            let mut skip = in_memory(self.written);
            for range in ready.get(usize::from(self.next)..).unwrap_or_default() {
                bytes.extend_from_slice(all.get(range.start + skip..range.end)?);
                skip = 0;
            }
            write = bytes.len() - start;
            bytes.extend_from_slice(all.get(rest.clone())?);
            raw = rest.len();
        }
        // What is in the pipe has been read before anything that comes.
        let piped = self.splice.take_all().ok()?;
        bytes.extend_from_slice(&piped);
        bytes.extend_from_slice(&self.ahead);
        Some(MovedHalf {
            codec,
            state: match self.state {
                State::Read | State::Write => MovedState::Open,
                State::Shutdown => MovedState::Ending,
                State::Done => MovedState::Done,
            },
            moved: self.moved,
            write,
            raw,
            ahead: piped.len() + self.ahead.len(),
        })
    }

    /// Goes on where another process was; takes its bytes off the front of `bytes`. `None`: this is no direction of a flow.
    #[must_use]
    pub fn resume(moved: &MovedHalf, from: Side, bytes: &mut &[u8]) -> Option<Self> {
        let codec = match &moved.codec {
            MovedCodec::Copy => Codec::Copy,
            MovedCodec::Seal(direction) => Codec::Seal(Sealer::resume(direction)?),
            MovedCodec::Open(direction) => Codec::Open(Opener::resume(direction)?),
        };
        let mut half = Self::new(codec, from, Size::Large);
        half.moved = moved.moved;
        let held = moved.write.checked_add(moved.raw)?;
        let (front, rest) = bytes.split_at_checked(held)?;
        let (ahead, rest) = rest.split_at_checked(moved.ahead)?;
        *bytes = rest;
        half.ahead = ahead.into();
        half.state = match moved.state {
            MovedState::Open if moved.write > 0 => State::Write,
            MovedState::Open => State::Read,
            MovedState::Ending => State::Shutdown,
            MovedState::Done => State::Done,
        };
        if held > 0 {
            let mut buffer = Buffer::take_exact(Size::holding(held)?);
            let (room, ready, raw) = buffer.parts();
            room.get_mut(..held)?.copy_from_slice(front);
            if moved.write > 0 {
                ready.push(0..moved.write);
            }
            *raw = moved.write..held;
            half.buffer = Some(buffer);
        }
        Some(half)
    }
}
