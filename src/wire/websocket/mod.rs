//! WebSocket frames (RFC 6455 §5) that carry a stream of bytes: where messages begin and end means nothing.
//!
//! ```text
//! +------+----------+-----------------+------------+
//! | FIN  | MASK 1   | length, 0, 2 or | key,       |  payload
//! | RSV  | length 7 | 8 bytes         | 0 or 4 B   |
//! | op 4 |          |                 |            |
//! +------+----------+-----------------+------------+
//! ```
//!
//! - [`Decoder`]: from frames to bytes, in place and with constant memory.
//! - [`Encoder`]: the head of a frame, and its key.
//! - [`xor`]: masks and unmasks.
//!
//! # The end of one direction
//!
//! WebSocket ends both directions at once. Two ends that know this module can end one of them, in frames that every
//! other peer takes for nothing: an **empty message in two fragments** is the end of its direction. That an end will
//! be understood is told by the first message with payload: it has an **empty first fragment**. Who has said nothing
//! yet answers an end with a **Pong of one zero byte**, which nobody asked for. A server that spoke first, and left out
//! the sign, sends that Pong as soon as it has seen its client's sign. To peers that tell neither the end must be said
//! with a Close, later.

mod decoder;
mod encoder;

pub use decoder::{Decoder, Status};
pub use encoder::{Encoder, Head};

/// Bytes of the longest header: two, a length of eight, a key.
pub const MAX_HEADER: usize = 2 + 8 + 4;
/// Bytes of the longest payload of a control frame (§5.5).
pub const MAX_CONTROL: usize = 125;

/// Bytes of a masking key.
pub const KEY_LEN: usize = 4;
/// A masking key (§5.3).
pub type Key = [u8; KEY_LEN];

/// Which end we are: what a client sends is masked, what a server sends is not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// We sent the upgrade.
    Client,
    /// We answered it.
    Server,
}

/// Status codes of a Close (§7.4.1).
pub mod close {
    /// All has been said.
    pub const NORMAL: u16 = 1000;
    /// The endpoint goes away.
    pub const GOING_AWAY: u16 = 1001;
    /// The peer broke the protocol.
    pub const PROTOCOL: u16 = 1002;
    /// Text that is not UTF-8.
    pub const INVALID_DATA: u16 = 1007;
    /// A frame longer than can be.
    pub const TOO_BIG: u16 = 1009;
}

const FIN: u8 = 0x80;
const RESERVED: u8 = 0x70;
const OPCODE: u8 = 0x0f;
const MASKED: u8 = 0x80;
const LENGTH: u8 = 0x7f;
/// The payload of a Pong that answers the end of a direction.
const END_UNDERSTOOD: &[u8] = &[0];
/// Lengths that say how many bytes of length follow.
const LENGTH_16: u8 = 126;
const LENGTH_64: u8 = 127;

mod opcode {
    pub(super) const CONTINUATION: u8 = 0x0;
    pub(super) const TEXT: u8 = 0x1;
    pub(super) const BINARY: u8 = 0x2;
    pub(super) const CLOSE: u8 = 0x8;
    pub(super) const PING: u8 = 0x9;
    pub(super) const PONG: u8 = 0xa;
}

/// What a peer must not do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FrameError {
    /// A reserved bit is set, and no extension was agreed on.
    #[error("a reserved bit is set")]
    Reserved,
    /// An opcode that nobody has defined.
    #[error("opcode {0:#x} is not defined")]
    Opcode(u8),
    /// A client that does not mask, or a server that does.
    #[error("masked where it must not be, or not masked where it must")]
    Mask,
    /// A control frame in fragments.
    #[error("a control frame in fragments")]
    ControlFragment,
    /// A control frame of more than 125 bytes.
    #[error("a control frame of more than 125 bytes")]
    ControlLength,
    /// A continuation of no message, or a new message within another.
    #[error("a continuation of nothing, or a message within another")]
    Continuation,
    /// A length in more bytes than it needs.
    #[error("a length in more bytes than it needs")]
    Length,
    /// A length of more than 2^63 - 1.
    #[error("a frame longer than can be")]
    TooBig,
    /// A Close with a status that must not be sent.
    #[error("a Close without a proper status")]
    CloseCode,
    /// The reason of a Close is not UTF-8.
    #[error("the reason of a Close is not UTF-8")]
    CloseReason,
    /// Payload behind the end of its direction.
    #[error("payload behind the end")]
    AfterEnd,
}

impl FrameError {
    /// The status of the Close that answers it (§7.4.1).
    #[must_use]
    pub const fn close_code(self) -> u16 {
        match self {
            Self::TooBig => close::TOO_BIG,
            Self::CloseReason => close::INVALID_DATA,
            _ => close::PROTOCOL,
        }
    }
}

/// Masks or unmasks `data` (§5.3) and returns the key as it goes on behind it.
#[must_use]
pub fn xor(data: &mut [u8], key: Key) -> Key {
    // Eight words at a time: the compiler makes vector instructions of it.
    const WORDS: usize = 8;
    let [a, b, c, d] = key;
    let word = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let len = data.len();
    let (blocks, rest) = data.as_chunks_mut::<{ 8 * WORDS }>();
    for block in blocks {
        let (words, _) = block.as_chunks_mut::<8>();
        for bytes in words {
            *bytes = (u64::from_ne_bytes(*bytes) ^ word).to_ne_bytes();
        }
    }
    let (words, rest) = rest.as_chunks_mut::<8>();
    for bytes in words {
        *bytes = (u64::from_ne_bytes(*bytes) ^ word).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(key.into_iter().cycle()) {
        *byte ^= key;
    }
    let mut next = key;
    next.rotate_left(len % KEY_LEN);
    next
}

#[cfg(test)]
mod tests;
