//! WebSocket frames (RFC 6455 §5) that carry a stream of bytes. The boundaries of messages have no meaning.
//!
//! ```text
//! +------+----------+-----------------+------------+
//! | FIN  | MASK 1   | length, 0, 2 or | key,       |  payload
//! | RSV  | length 7 | 8 bytes         | 0 or 4 B   |
//! | op 4 |          |                 |            |
//! +------+----------+-----------------+------------+
//! ```
//!
//! - [`Decoder`]: decodes frames in place, with constant memory.
//! - [`Encoder`]: encodes the head of a frame and chooses how its payload is masked.
//! - [`xor`]: masks and unmasks.
//!
//! # The end of one direction
//!
//! A Close ends both directions at once. Two peers that know this module can also end one direction, in frames that
//! other peers ignore:
//! - **An empty message in two fragments** is the end of its direction.
//! - **An empty first fragment** in the first message with payload announces that its sender understands such an end.
//! - **An unsolicited Pong of one zero byte** announces the same. A peer that has not sent any payload answers an end
//!   with it. A server that sent first, without an announcement, sends it as soon as it has seen its client's.
//!
//! To peers that announce neither, the end must be sent as a Close, later.

mod decoder;
mod encoder;

pub use decoder::{Decoder, Status};
pub use encoder::{Encoder, Head};

/// Bytes of the longest header: two, an 8-byte length, a key.
pub const MAX_HEADER: usize = 2 + 8 + 4;
/// Bytes of the longest payload of a control frame (§5.5).
pub const MAX_CONTROL: usize = 125;

/// Bytes of a masking key.
pub const KEY_LEN: usize = 4;
/// A masking key (§5.3).
pub type Key = [u8; KEY_LEN];

/// Which side we are. A client masks what it sends, a server does not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// We requested the upgrade.
    Client,
    /// We answered it.
    Server,
}

/// Status codes of a Close (§7.4.1).
pub mod close {
    /// The connection has served its purpose.
    pub const NORMAL: u16 = 1000;
    /// The endpoint goes away.
    pub const GOING_AWAY: u16 = 1001;
    /// The peer violated the protocol.
    pub const PROTOCOL: u16 = 1002;
    /// Text is not UTF-8.
    pub const INVALID_DATA: u16 = 1007;
    /// A frame is too long.
    pub const TOO_BIG: u16 = 1009;
    /// Stands for a Close without a status; it is never sent.
    pub const NO_STATUS: u16 = 1005;
}

const FIN: u8 = 0x80;
const RESERVED: u8 = 0x70;
const OPCODE: u8 = 0x0f;
const MASKED: u8 = 0x80;
const LENGTH: u8 = 0x7f;
/// The payload of the Pong that announces that its sender understands the end of a direction.
const END_UNDERSTOOD: &[u8] = &[0];
/// Values of the 7-bit length that announce a length of 2 or 8 bytes.
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

/// How a peer violated the protocol.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FrameError {
    /// A reserved bit is set, although no extension was negotiated.
    #[error("a reserved bit is set")]
    Reserved,
    /// An undefined opcode.
    #[error("undefined opcode {0:#x}")]
    Opcode(u8),
    /// A frame of a client without a mask, or of a server with one.
    #[error("a client's frame is not masked, or a server's is")]
    Mask,
    /// A fragmented control frame.
    #[error("a control frame is fragmented")]
    ControlFragment,
    /// A control frame of more than 125 bytes.
    #[error("a control frame has more than 125 bytes")]
    ControlLength,
    /// A continuation outside a message, or a new message inside another.
    #[error("a continuation outside a message, or a message inside another")]
    Continuation,
    /// A length that is not in its shortest form.
    #[error("a length is not in its shortest form")]
    Length,
    /// A length of more than 2^63 - 1.
    #[error("a frame is longer than 2^63 - 1 bytes")]
    TooBig,
    /// A Close with an invalid status.
    #[error("a Close has an invalid status")]
    CloseCode,
    /// The reason of a Close is not UTF-8.
    #[error("the reason of a Close is not UTF-8")]
    CloseReason,
    /// Payload after the end of its direction.
    #[error("payload after the end of the stream")]
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

/// Masks or unmasks `data` (§5.3) and returns the key for the bytes that follow.
#[must_use]
pub fn xor(data: &mut [u8], key: Key) -> Key {
    // Eight words at a time, so that the compiler uses vector instructions.
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
