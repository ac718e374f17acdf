//! From bytes that come in pieces to frames.

use super::payload::id;
use super::{Error, Frame, HEADER_LEN, MAX_PAYLOAD, op, parse};

/// Bytes before the name of v0's first frame.
const NAME_HEADER_LEN: usize = 2 + 4;

/// Finds the frames in what comes, however it is cut. It holds no more than one frame that is not Data, and of Data
/// nothing: its bytes are passed on as they come.
#[derive(Debug, Default)]
pub struct Decoder {
    /// The beginning of a frame that was cut.
    held: Vec<u8>,
    /// `held` was a whole frame and has been read.
    read: bool,
    body: Body,
}

/// What the next bytes are.
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

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Item<'a> {
    /// A frame; never [`Frame::Data`].
    Frame(Frame<'a>),
    /// Bytes of a stream: all of a Data frame's, or some.
    Data {
        /// The stream.
        id: u64,
        /// The bytes.
        bytes: &'a [u8],
    },
}

impl Decoder {
    /// Takes bytes off the front of `input`: the number says how many, and they are done with. `None`: more must come.
    ///
    /// # Errors
    /// What the peer did wrong. There is no way to go on.
    pub fn next<'a>(&'a mut self, input: &'a [u8]) -> Result<(usize, Option<Item<'a>>), Error> {
        if self.read {
            self.read = false;
            // A frame is rarely cut, and a link may be quiet for long.
            self.held = Vec::new();
        }
        let mut used = 0;
        // In a loop: one input can hold any number of frames in which there is nothing for anybody.
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
                        Found::Beginning => return Ok((used, None)),
                        Found::Here => rest.get(..count).unwrap_or_default(),
                        Found::Held => &self.held,
                    };
                    return Ok((used, Some(Item::Frame(whole(frame)?))));
                }
            }
        }
    }

    /// Reads what begins with a header. The number says how many bytes of `input` it took.
    fn frame(&mut self, input: &[u8]) -> Result<(usize, Found), Error> {
        if self.held.is_empty() {
            // The usual case: all of it is here.
            return Ok(match Begun::read(input)? {
                Begun::Whole(len) => (len, Found::Here),
                Begun::Body(len, body) => {
                    self.body = body;
                    (len, Found::Header)
                }
                Begun::Cut(_) => {
                    self.held.extend_from_slice(input);
                    (input.len(), Found::Beginning)
                }
            });
        }
        let mut used = 0;
        loop {
            let need = match Begun::read(&self.held)? {
                Begun::Whole(_) => {
                    self.read = true;
                    return Ok((used, Found::Held));
                }
                Begun::Body(_, body) => {
                    self.held = Vec::new();
                    self.body = body;
                    return Ok((used, Found::Header));
                }
                Begun::Cut(need) => need,
            };
            let missing = need.saturating_sub(self.held.len());
            let rest = input.get(used..).unwrap_or_default();
            let taken = rest.get(..missing.min(rest.len())).unwrap_or_default();
            self.held.extend_from_slice(taken);
            used += taken.len();
            if taken.len() < missing {
                return Ok((used, Found::Beginning));
            }
        }
    }
}

/// What [`Decoder::frame`] has read.
enum Found {
    /// The beginning of a frame; it is held until more comes.
    Beginning,
    /// The header of Data or of something unknown: `body` says what is behind it.
    Header,
    /// A whole frame, in the input.
    Here,
    /// A whole frame that was cut, in `held`.
    Held,
}

/// What the beginning of a frame tells.
enum Begun {
    /// So many bytes are needed to know more, or to have it all.
    Cut(usize),
    /// The frame is all here, and so long.
    Whole(usize),
    /// A header of so many bytes, and what follows it.
    Body(usize, Body),
}

impl Begun {
    fn read(bytes: &[u8]) -> Result<Self, Error> {
        let Some((op, rest)) = bytes.split_first_chunk::<2>() else {
            return Ok(Self::Cut(2));
        };
        let op = u16::from_be_bytes(*op);
        let len = match op {
            op::HEARTBEAT => 2,
            op::RESET => 2 + 6,
            op::CONNECTION => 2 + 6 + 2,
            op::NAME => match rest.split_first_chunk::<4>() {
                None => NAME_HEADER_LEN,
                Some((len, _)) => NAME_HEADER_LEN + length(*len)?,
            },
            _ => match rest.split_first_chunk::<10>() {
                None => HEADER_LEN,
                Some(([a, b, c, d, e, f, len @ ..], _)) => {
                    let (id, left) = (id([*a, *b, *c, *d, *e, *f]), length(*len)?);
                    match op {
                        op::DATA => return Ok(Self::Body(HEADER_LEN, Body::Data { id, left })),
                        op if op > op::ACCEPT => {
                            return Ok(Self::Body(HEADER_LEN, Body::Skip { left }));
                        }
                        _ => HEADER_LEN + left,
                    }
                }
            },
        };
        // Without its length field no frame but those of fixed length is whole.
        let known = match op {
            op::NAME => bytes.len() >= NAME_HEADER_LEN,
            op::HEARTBEAT | op::RESET | op::CONNECTION => true,
            _ => bytes.len() >= HEADER_LEN,
        };
        Ok(if known && bytes.len() >= len {
            Self::Whole(len)
        } else {
            Self::Cut(len)
        })
    }
}

/// A payload's length, if it is one that is allowed.
fn length(bytes: [u8; 4]) -> Result<usize, Error> {
    usize::try_from(u32::from_be_bytes(bytes))
        .ok()
        .filter(|len| *len <= MAX_PAYLOAD)
        .ok_or(Error::FrameLength)
}

/// Reads a frame that is all here and nothing else.
fn whole(bytes: &[u8]) -> Result<Frame<'_>, Error> {
    let (op, rest) = bytes.split_first_chunk::<2>().ok_or(Error::FrameContent)?;
    let op = u16::from_be_bytes(*op);
    match op {
        op::HEARTBEAT => return Ok(Frame::Heartbeat),
        op::NAME => {
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
        op::CONNECTION => {
            let (port, _) = rest.split_first_chunk().ok_or(Error::FrameContent)?;
            Ok(Frame::InitialConnection {
                id,
                port: u16::from_be_bytes(*port),
            })
        }
        _ => parse(op, id, rest.get(4..).unwrap_or_default()),
    }
}
