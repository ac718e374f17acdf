//! smux, version 1: many streams, without windows.
//!
//! ```text
//! version u8 (1) · command u8 · length u16le · stream u32le · data
//! ```
//!
//! | command | meaning |
//! |---|---|
//! | 0 | opens the stream; clients count from 3 in steps of 2 |
//! | 1 | ends the stream, in both directions |
//! | 2 | data |
//! | 3 | nothing |

use crate::wire::Error;

/// Length of the head of a frame, in bytes.
pub const HEAD: usize = 8;
/// Bytes of data in one frame that is sent.
pub const MAX_DATA: usize = 32 * 1024;
const VERSION: u8 = 1;

/// A frame, with the length of its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Opens a stream.
    Open(u32),
    /// Ends a stream.
    End(u32),
    /// Data of a stream.
    Data(u32, u16),
    /// Nothing.
    Nothing,
}

impl Frame {
    /// The head of the frame.
    #[must_use]
    pub fn head(self) -> [u8; HEAD] {
        let (command, stream, len) = match self {
            Self::Open(stream) => (0, stream, 0),
            Self::End(stream) => (1, stream, 0),
            Self::Data(stream, len) => (2, stream, len),
            Self::Nothing => (3, 0, 0),
        };
        let ([a, b], [c, d, e, f]) = (len.to_le_bytes(), stream.to_le_bytes());
        [VERSION, command, a, b, c, d, e, f]
    }

    fn parse(head: [u8; HEAD]) -> Result<Self, Error> {
        let [version, command, a, b, c, d, e, f] = head;
        if version != VERSION {
            return Err(Error::Multiplex("the version of a smux frame is not 1"));
        }
        let (len, stream) = (u16::from_le_bytes([a, b]), u32::from_le_bytes([c, d, e, f]));
        match command {
            2 => Ok(Self::Data(stream, len)),
            _ if len > 0 => Err(Error::Multiplex("a smux frame other than data has data")),
            0 => Ok(Self::Open(stream)),
            1 => Ok(Self::End(stream)),
            3 => Ok(Self::Nothing),
            _ => Err(Error::Multiplex("the command of a smux frame is unknown")),
        }
    }
}

/// What stands next among the received bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The peer opens a stream.
    Open(u32),
    /// The peer ends a stream.
    End(u32),
    /// The bytes that were used are data of this stream.
    Data(u32),
    /// Nothing to do.
    Nothing,
}

/// Splits a direction of a session into frames.
#[derive(Debug, Default)]
pub struct Decoder {
    head: [u8; HEAD],
    head_len: usize,
    /// The stream of the data that follows, and its length.
    data: Option<(u32, usize)>,
}

impl Decoder {
    /// Reads the next piece of `bytes`, which are not empty. Returns how many bytes it used, and what they are.
    ///
    /// # Errors
    /// [`Error::Multiplex`].
    pub fn next(&mut self, bytes: &[u8]) -> Result<(usize, Event), Error> {
        if let Some((stream, left)) = &mut self.data {
            let (stream, count) = (*stream, bytes.len().min(*left));
            *left -= count;
            if *left == 0 {
                self.data = None;
            }
            return Ok((count, Event::Data(stream)));
        }
        let mut used = 0;
        for byte in bytes.iter().take(HEAD - self.head_len) {
            if let Some(place) = self.head.get_mut(self.head_len) {
                *place = *byte;
            }
            self.head_len += 1;
            used += 1;
        }
        if self.head_len < HEAD {
            return Ok((used, Event::Nothing));
        }
        self.head_len = 0;
        let event = match Frame::parse(self.head)? {
            Frame::Open(stream) => Event::Open(stream),
            Frame::End(stream) => Event::End(stream),
            Frame::Data(stream, len) => {
                self.data = (len > 0).then(|| (stream, usize::from(len)));
                Event::Nothing
            }
            Frame::Nothing => Event::Nothing,
        };
        Ok((used, event))
    }

    /// Whether the direction may end here.
    #[must_use]
    pub const fn at_boundary(&self) -> bool {
        self.head_len == 0 && self.data.is_none()
    }
}
