//! Decodes frames from bytes that arrive in arbitrary pieces.

use super::frame::{Frame, op, parse};
use super::payload::{HEADER_LEN, MAX_PAYLOAD, id};
use crate::wire::Error;

/// Length of the header of v0's InitialRemoteServer: op and name length.
const NAME_HEADER_LEN: usize = 2 + 4;

/// Finds the frames in a byte stream, however it is cut. It buffers at most one frame that is not Data; the bytes of
/// Data are handed out as they arrive.
#[derive(Debug, Default)]
pub struct Decoder {
    /// The first part of an incomplete frame.
    held: Vec<u8>,
    /// `held` was a complete frame and has been handed out.
    read: bool,
    body: Body,
}

/// What the next bytes of the input are.
#[derive(Clone, Copy, Debug, Default)]
enum Body {
    #[default]
    Frame,
    Data {
        id: u64,
        left: usize,
    },
    Skip {
        left: usize,
    },
}

/// Something decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Item<'a> {
    /// A frame other than [`Frame::Data`].
    Frame(Frame<'a>),
    /// Bytes of a stream: a whole Data frame or a part of one.
    Data {
        /// The stream.
        id: u64,
        /// The bytes.
        bytes: &'a [u8],
    },
}

impl Decoder {
    /// Decodes the next item and returns how many bytes of `input` were used. `None`: more input is needed.
    ///
    /// # Errors
    /// The peer has violated the protocol; the decoder cannot continue.
    pub fn next<'a>(&'a mut self, input: &'a [u8]) -> Result<(usize, Option<Item<'a>>), Error> {
        if self.read {
            self.read = false;
            // Frames are rarely cut, and an idle link should hold no memory.
            self.held = Vec::new();
        }
        let mut used = 0;
        // A loop, not recursion: one input can hold any number of empty and unknown frames.
        loop {
            let rest = input.get(used..).unwrap_or_default();
            match self.body {
                Body::Data { id, left } => {
                    let len = left.min(rest.len());
                    self.body = Body::Data {
                        id,
                        left: left - len,
                    };
                    if left == len {
                        self.body = Body::Frame;
                    }
                    if len == 0 {
                        if left == 0 {
                            continue;
                        }
                        return Ok((used, None));
                    }
                    let bytes = rest.get(..len).unwrap_or_default();
                    return Ok((used + len, Some(Item::Data { id, bytes })));
                }
                Body::Skip { left } => {
                    let len = left.min(rest.len());
                    used += len;
                    if len < left {
                        self.body = Body::Skip { left: left - len };
                        return Ok((used, None));
                    }
                    self.body = Body::Frame;
                }
                Body::Frame => {
                    let (count, found) = self.frame(rest)?;
                    used += count;
                    let frame = match found {
                        Found::Header => continue,
                        Found::Part => return Ok((used, None)),
                        Found::Here => rest.get(..count).unwrap_or_default(),
                        Found::Held => &self.held,
                    };
                    return Ok((used, Some(Item::Frame(whole(frame)?))));
                }
            }
        }
    }

    /// Reads a frame or a header and returns how many bytes of `input` were used.
    fn frame(&mut self, input: &[u8]) -> Result<(usize, Found), Error> {
        if self.held.is_empty() {
            // The usual case: the frame is complete in the input.
            return Ok(match Prefix::read(input)? {
                Prefix::Whole(len) => (len, Found::Here),
                Prefix::Body(len, body) => {
                    self.body = body;
                    (len, Found::Header)
                }
                Prefix::Cut(_) => {
                    self.held.extend_from_slice(input);
                    (input.len(), Found::Part)
                }
            });
        }
        let mut used = 0;
        loop {
            let need = match Prefix::read(&self.held)? {
                Prefix::Whole(_) => {
                    self.read = true;
                    return Ok((used, Found::Held));
                }
                Prefix::Body(_, body) => {
                    self.held = Vec::new();
                    self.body = body;
                    return Ok((used, Found::Header));
                }
                Prefix::Cut(need) => need,
            };
            let missing = need.saturating_sub(self.held.len());
            let rest = input.get(used..).unwrap_or_default();
            let taken = rest.get(..missing.min(rest.len())).unwrap_or_default();
            self.held.extend_from_slice(taken);
            used += taken.len();
            if taken.len() < missing {
                return Ok((used, Found::Part));
            }
        }
    }
}

/// The result of [`Decoder::frame`].
enum Found {
    /// A part of a frame, now buffered in `held`.
    Part,
    /// The header of Data or of an unknown frame; `body` describes what follows.
    Header,
    /// A complete frame in the input.
    Here,
    /// A complete frame in `held`.
    Held,
}

/// What the first bytes of a frame reveal.
enum Prefix {
    /// Incomplete: at least this many bytes are needed.
    Cut(usize),
    /// Complete, with this length.
    Whole(usize),
    /// A header of this length, and what follows it.
    Body(usize, Body),
}

impl Prefix {
    fn read(bytes: &[u8]) -> Result<Self, Error> {
        let Some((op, rest)) = bytes.split_first_chunk::<2>() else {
            return Ok(Self::Cut(2));
        };
        let op = u16::from_be_bytes(*op);
        let len = match op {
            op::HEARTBEAT => 2,
            op::RESET => 2 + 6,
            op::INITIAL_CONNECTION => 2 + 6 + 2,
            op::INITIAL_REMOTE_SERVER => match rest.split_first_chunk::<4>() {
                None => NAME_HEADER_LEN,
                Some((len, _)) => NAME_HEADER_LEN + length(*len)?,
            },
            _ => match rest.split_first_chunk::<10>() {
                None => HEADER_LEN,
                Some(([a, b, c, d, e, f, len @ ..], _)) => {
                    let (id, left) = (id([*a, *b, *c, *d, *e, *f]), length(*len)?);
                    match op {
                        op::DATA => return Ok(Self::Body(HEADER_LEN, Body::Data { id, left })),
                        op if op > op::DIAL_BACK => {
                            return Ok(Self::Body(HEADER_LEN, Body::Skip { left }));
                        }
                        _ => HEADER_LEN + left,
                    }
                }
            },
        };
        // Only frames of fixed length are complete without a length field.
        let known = match op {
            op::INITIAL_REMOTE_SERVER => bytes.len() >= NAME_HEADER_LEN,
            op::HEARTBEAT | op::RESET | op::INITIAL_CONNECTION => true,
            _ => bytes.len() >= HEADER_LEN,
        };
        Ok(if known && bytes.len() >= len {
            Self::Whole(len)
        } else {
            Self::Cut(len)
        })
    }
}

/// Decodes a payload length, which must not exceed [`MAX_PAYLOAD`].
fn length(bytes: [u8; 4]) -> Result<usize, Error> {
    usize::try_from(u32::from_be_bytes(bytes))
        .ok()
        .filter(|len| *len <= MAX_PAYLOAD)
        .ok_or(Error::FrameLength)
}

/// Parses exactly one complete frame.
fn whole(bytes: &[u8]) -> Result<Frame<'_>, Error> {
    let (op, rest) = bytes.split_first_chunk::<2>().ok_or(Error::FrameContent)?;
    let op = u16::from_be_bytes(*op);
    match op {
        op::HEARTBEAT => return Ok(Frame::Heartbeat),
        op::INITIAL_REMOTE_SERVER => {
            let name = rest.get(4..).unwrap_or_default();
            let name = std::str::from_utf8(name).map_err(|_| Error::FrameContent)?;
            return Ok(Frame::InitialRemoteServer { name });
        }
        _ => {}
    }
    let (number, rest) = rest.split_first_chunk::<6>().ok_or(Error::FrameContent)?;
    let id = id(*number);
    match op {
        op::RESET => Ok(Frame::Reset { id }),
        op::INITIAL_CONNECTION => {
            let (port, _) = rest.split_first_chunk().ok_or(Error::FrameContent)?;
            Ok(Frame::InitialConnection {
                id,
                port: u16::from_be_bytes(*port),
            })
        }
        _ => parse(op, id, rest.get(4..).unwrap_or_default()),
    }
}
