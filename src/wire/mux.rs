//! mux.cool: several streams in one, as v2ray-plugin wraps its streams in unless told `mux=0`.
//!
//! ```text
//! +---------+------+----------+-------+------------------------------+-----------+--------+
//! | metaLen | id   | status   | opt   | net ‖ port ‖ ATYP ‖ address  | dataLen   | data   |
//! | u16 be  | u16  | 1 byte   | 1 B   | in New only                  | u16, if opt has Data |
//! +---------+------+----------+-------+------------------------------+-----------+--------+
//! ```
//!
//! `metaLen` counts from the id to the address. Ends that carry Shadowsocks do not look at the address.

mod single;

pub use single::SingleStream;

/// Bytes that `metaLen` may count.
const MAX_META: u16 = 512;
/// Bytes of id, status and option.
const MIN_META: u16 = 4;
/// Bytes of data in one frame.
pub const MAX_DATA: usize = 0xffff;
/// Bytes of the longest head that is written here: a New with data.
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
/// Where the two bytes of the id stand.
const ID_AT: usize = 2;
const ID_END: usize = 3;

const STATUS_NEW: u8 = 1;
const STATUS_KEEP: u8 = 2;
const STATUS_END: u8 = 3;
const STATUS_KEEP_ALIVE: u8 = 4;

const OPT_DATA: u8 = 1;
const OPT_ERROR: u8 = 2;

/// What a peer must not do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Violation {
    /// `metaLen` is below 4 or above 512.
    #[error("a head of {0} bytes")]
    MetaLength(u16),
    /// A status that nobody has defined.
    #[error("status {0:#04x} is not defined")]
    Status(u8),
    /// A second stream where one was agreed on.
    #[error("a stream that nobody expects")]
    Stream,
}

/// What a stream begins with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// mux.cool.
    Mux,
    /// Anything else.
    Bare,
}

/// Tells mux.cool from a Shadowsocks stream, which begins with random bytes, by the first bytes of it; `None` while
/// they are too few. About 95 bits of a New are known: those of v2ray-plugin and mihomo (to 127.0.0.1:0) and of
/// sing-box (to v1.mux.cool:666).
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

/// A frame to be written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Frame {
    /// A new stream, and its first data.
    New {
        /// Its id.
        id: u16,
        /// Bytes of data behind the head; 0: none.
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
        /// Whether it broke.
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
    /// The bytes before the frame's data. A New goes to 127.0.0.1:0, as v2ray-plugin's do.
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

/// What the next bytes are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// Nothing yet, or nothing of interest.
    Nothing,
    /// A new stream of this id.
    New(u16),
    /// The bytes taken are data of this stream.
    Data(u16),
    /// The stream of this id has ended; whether it broke.
    End(u16, bool),
}

#[derive(Clone, Copy)]
enum State {
    /// In the fixed part of the head: bytes that are there of it.
    Head(u8),
    /// In the address, so many bytes before its end.
    Address(u16),
    /// Before the length of the data, or behind its first byte.
    Length(Option<u8>),
    /// In the data, so many bytes before its end.
    Data(u16),
}

/// Reads frames, in any pieces. It keeps the beginning of a head and nothing else.
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
    /// Before the first frame.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            state: State::Head(0),
            head: [0; 6],
        }
    }

    /// Whether a stream that ends here has not been cut within a frame.
    #[must_use]
    pub const fn at_boundary(&self) -> bool {
        matches!(self.state, State::Head(0))
    }

    /// Data that comes next, without a head before it.
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

    /// Whether the frame's data belongs to a stream; that of End and `KeepAlive` does not.
    const fn is_kept(&self) -> bool {
        matches!(self.status(), STATUS_NEW | STATUS_KEEP)
    }

    /// Takes some of `bytes`, at least one if there is any: how many, and what they are.
    ///
    /// # Errors
    /// [`Violation`]; there is no way on after it.
    pub fn next(&mut self, bytes: &[u8]) -> Result<(usize, Event), Violation> {
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
                    return Err(Violation::MetaLength(meta));
                }
                if !(STATUS_NEW..=STATUS_KEEP_ALIVE).contains(&self.status()) {
                    return Err(Violation::Status(self.status()));
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

    /// Goes on with `left` bytes of the address, or behind them.
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
