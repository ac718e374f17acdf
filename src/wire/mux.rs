//! mux.cool: several streams in one, which v2ray-plugin uses unless `mux=0` is set.
//!
//! ```text
//! +---------+------+----------+-------+------------------------------+-----------+--------+
//! | metaLen | id   | status   | opt   | net ‖ port ‖ ATYP ‖ address  | dataLen   | data   |
//! | u16 be  | u16  | 1 byte   | 1 B   | in New only                  | u16, if opt has Data |
//! +---------+------+----------+-------+------------------------------+-----------+--------+
//! ```
//!
//! `metaLen` counts from the id to the address. Peers that carry Shadowsocks ignore the address.

mod single;

pub use single::SingleStream;

/// The largest `metaLen`.
const MAX_META: u16 = 512;
/// Bytes of id, status and option.
const MIN_META: u16 = 4;
/// The most bytes of data in one frame.
pub const MAX_DATA: usize = 0xffff;
/// Bytes of the longest head that is encoded here: a New with data.
pub const MAX_HEAD: usize = 2 + NEW_META as usize + 2;
/// Bytes that tell mux.cool from a Shadowsocks stream.
pub const DETECT_LEN: usize = 14;

/// Meta of a New for an IPv4 address.
const NEW_META: u16 = 12;
const NET_TCP: u8 = 1;
const ATYP_IPV4: u8 = 1;
const ATYP_DOMAIN: u8 = 2;

/// TCP to 127.0.0.1:0.
const LOOPBACK: [u8; 8] = [NET_TCP, 0, 0, ATYP_IPV4, 127, 0, 0, 1];
/// The beginning of TCP to v1.mux.cool:666.
const NAMED: [u8; 8] = [NET_TCP, 0x02, 0x9a, ATYP_DOMAIN, 11, b'v', b'1', b'.'];
/// Positions of the two bytes of the id.
const ID_AT: usize = 2;
const ID_END: usize = 3;

const STATUS_NEW: u8 = 1;
const STATUS_KEEP: u8 = 2;
const STATUS_END: u8 = 3;
const STATUS_KEEP_ALIVE: u8 = 4;

const OPT_DATA: u8 = 1;
const OPT_ERROR: u8 = 2;

/// How a peer violated the protocol.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FrameError {
    /// `metaLen` is below 4 or above 512.
    #[error("invalid length {0} of a frame's head")]
    MetaLength(u16),
    /// An undefined status.
    #[error("undefined status {0:#04x}")]
    Status(u8),
    /// A second stream where only one is allowed.
    #[error("a second stream where only one is allowed")]
    Stream,
}

/// What a stream carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// mux.cool.
    Mux,
    /// Anything else.
    Bare,
}

/// Tells mux.cool from a Shadowsocks stream, which begins with random bytes, by the first bytes; `None` while they are
/// too few. About 95 bits of the first frame, a New, are known: that of v2ray-plugin and mihomo (to 127.0.0.1:0) and
/// that of sing-box (to v1.mux.cool:666).
#[must_use]
pub fn detect(bytes: &[u8]) -> Option<Kind> {
    let begins = |start: [u8; 2], target: [u8; 8]| {
        let known = bytes.iter().enumerate();
        known.take(DETECT_LEN).all(|(at, byte)| match at {
            0 | 1 => start.get(at) == Some(byte),
            ID_AT | ID_END => true,
            4 => *byte == STATUS_NEW,
            5 => *byte <= OPT_DATA,
            _ => target.get(at - 6) == Some(byte),
        })
    };
    if !begins([0, 12], LOOPBACK) && !begins([0, 20], NAMED) {
        Some(Kind::Bare)
    } else if bytes.len() >= DETECT_LEN {
        Some(Kind::Mux)
    } else {
        None
    }
}

/// A frame to be sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Frame {
    /// A new stream, and its first data.
    New {
        /// Its id.
        id: u16,
        /// Bytes of data behind the head.
        data: u16,
    },
    /// Data of a stream.
    Keep {
        /// Its id.
        id: u16,
        /// Bytes of data behind the head.
        data: u16,
    },
    /// The end of a stream, in both directions.
    End {
        /// Its id.
        id: u16,
        /// Whether the stream broke.
        error: bool,
    },
}

/// The head of a frame.
pub struct Head {
    bytes: [u8; MAX_HEAD],
    len: usize,
}

impl Head {
    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

impl Frame {
    /// The bytes before the frame's data. A New names 127.0.0.1:0 as its target, like v2ray-plugin's.
    #[must_use]
    pub fn head(self) -> Head {
        let (meta, id, status, option, data) = match self {
            Self::New { id, data } => (NEW_META, id, STATUS_NEW, u8::from(data > 0), data),
            Self::Keep { id, data } => (MIN_META, id, STATUS_KEEP, u8::from(data > 0), data),
            Self::End { id, error } => (
                MIN_META,
                id,
                STATUS_END,
                if error { OPT_ERROR } else { 0 },
                0,
            ),
        };
        let [m1, m0] = meta.to_be_bytes();
        let [i1, i0] = id.to_be_bytes();
        let [d1, d0] = data.to_be_bytes();
        let [a, b, c, d, e, f, g, h] = LOOPBACK;
        let mut bytes = [
            m1, m0, i1, i0, status, option, a, b, c, d, e, f, g, h, d1, d0,
        ];
        let mut len = 2 + usize::from(meta);
        if data > 0 {
            if let Some(place) = bytes.get_mut(len..len + 2) {
                place.copy_from_slice(&[d1, d0]);
            }
            len += 2;
        }
        Head { bytes, len }
    }
}

/// What some bytes are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// Nothing for the caller.
    Nothing,
    /// A new stream with this id.
    New(u16),
    /// The bytes taken are data of this stream.
    Data(u16),
    /// The stream with this id has ended; whether it broke.
    End(u16, bool),
}

#[derive(Clone, Copy)]
enum State {
    /// In the fixed part of the head: bytes of it that have come.
    Head(u8),
    /// In the address: bytes of it that are still to come.
    Address(u16),
    /// Before the length of the data, or behind its first byte, if any.
    Length(Option<u8>),
    /// In the data: bytes of it that are still to come.
    Data(u16),
}

/// Reads frames, however they are cut. It keeps nothing but an incomplete head.
pub struct Decoder {
    state: State,
    head: [u8; 6],
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Decoder {
    /// Makes a decoder before its first frame.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            state: State::Head(0),
            head: [0; 6],
        }
    }

    /// Whether a connection that ends here was not cut within a frame.
    #[must_use]
    pub const fn at_boundary(&self) -> bool {
        matches!(self.state, State::Head(0))
    }

    /// Bytes of data before the next head.
    #[must_use]
    pub const fn data_left(&self) -> u16 {
        match self.state {
            State::Data(left) if self.is_kept() => left,
            _ => 0,
        }
    }

    const fn id(&self) -> u16 {
        let [_, _, high, low, _, _] = self.head;
        u16::from_be_bytes([high, low])
    }

    const fn status(&self) -> u8 {
        let [_, _, _, _, status, _] = self.head;
        status
    }

    const fn option(&self) -> u8 {
        let [_, _, _, _, _, option] = self.head;
        option
    }

    /// Whether the frame's data belongs to a stream: that of End and `KeepAlive` does not.
    const fn is_kept(&self) -> bool {
        matches!(self.status(), STATUS_NEW | STATUS_KEEP)
    }

    /// Reads some of `bytes`, at least one if there is any; returns how many, and what they are.
    ///
    /// # Errors
    /// [`FrameError`]; nothing can be read after it.
    pub fn next(&mut self, bytes: &[u8]) -> Result<(usize, Event), FrameError> {
        let Some(first) = bytes.first() else {
            return Ok((0, Event::Nothing));
        };
        match self.state {
            State::Head(have) => {
                let have = usize::from(have);
                let place = self.head.get_mut(have..).unwrap_or_default();
                let len = place.len().min(bytes.len());
                if let (Some(to), Some(from)) = (place.get_mut(..len), bytes.get(..len)) {
                    to.copy_from_slice(from);
                }
                let have = have + len;
                if have < self.head.len() {
                    self.state = State::Head(u8::try_from(have).unwrap_or_default());
                    return Ok((len, Event::Nothing));
                }
                let [high, low, ..] = self.head;
                let meta = u16::from_be_bytes([high, low]);
                if !(MIN_META..=MAX_META).contains(&meta) {
                    return Err(FrameError::MetaLength(meta));
                }
                if !(STATUS_NEW..=STATUS_KEEP_ALIVE).contains(&self.status()) {
                    return Err(FrameError::Status(self.status()));
                }
                Ok((len, self.behind_meta(meta - MIN_META)))
            }
            State::Address(left) => {
                let len = left.min(u16::try_from(bytes.len()).unwrap_or(left));
                Ok((usize::from(len), self.behind_meta(left - len)))
            }
            State::Length(None) => {
                self.state = State::Length(Some(*first));
                Ok((1, Event::Nothing))
            }
            State::Length(Some(high)) => {
                self.state = match u16::from_be_bytes([high, *first]) {
                    0 => State::Head(0),
                    len => State::Data(len),
                };
                Ok((1, Event::Nothing))
            }
            State::Data(left) => {
                let len = left.min(u16::try_from(bytes.len()).unwrap_or(left));
                self.state = match left - len {
                    0 => State::Head(0),
                    left => State::Data(left),
                };
                let event = if self.is_kept() {
                    Event::Data(self.id())
                } else {
                    Event::Nothing
                };
                Ok((usize::from(len), event))
            }
        }
    }

    /// Goes on with the remaining `left` bytes of the address, or with what follows it.
    fn behind_meta(&mut self, left: u16) -> Event {
        if left > 0 {
            self.state = State::Address(left);
            return Event::Nothing;
        }
        self.state = if self.option() & OPT_DATA != 0 {
            State::Length(None)
        } else {
            State::Head(0)
        };
        match self.status() {
            STATUS_NEW => Event::New(self.id()),
            STATUS_END => Event::End(self.id(), self.option() & OPT_ERROR != 0),
            _ => Event::Nothing,
        }
    }
}

#[cfg(test)]
mod tests;
