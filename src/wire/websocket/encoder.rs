//! Encodes the heads of frames.

use super::decoder::Control;
use super::{
    Decoder, END_UNDERSTOOD, FIN, Key, LENGTH_16, LENGTH_64, MASKED, MAX_CONTROL, MAX_HEADER, Role,
    opcode, xor,
};

/// Bytes that a caller may add at the beginning of a frame's payload.
pub(super) const MAX_EXTRA: usize = 20;
/// Bytes of the longest head: an empty fragment, a header, and the caller's extra bytes.
const MAX_HEAD: usize = 2 + 4 + MAX_HEADER + MAX_EXTRA;
/// Bytes of the longest control frame.
const MAX_CONTROL_FRAME: usize = 2 + 4 + MAX_CONTROL;
const _: () = assert!(MAX_HEAD <= MAX_CONTROL_FRAME);

/// The bytes before a payload, or a whole frame without payload of the stream.
pub struct Head {
    bytes: [u8; MAX_CONTROL_FRAME],
    len: u8,
}

impl Head {
    const fn new() -> Self {
        Self {
            bytes: [0; MAX_CONTROL_FRAME],
            len: 0,
        }
    }

    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or_default()
    }

    fn push(&mut self, more: &[u8]) -> &mut [u8] {
        let at = usize::from(self.len);
        let Some(to) = self.bytes.get_mut(at..at + more.len()) else {
            return &mut [];
        };
        to.copy_from_slice(more);
        self.len += u8::try_from(more.len()).unwrap_or_default();
        to
    }

    /// Appends a header: the first byte, the length of the payload, and the key, if any.
    fn header(&mut self, first: u8, len: usize, key: Option<Key>) {
        let mask = if key.is_some() { MASKED } else { 0 };
        match (u8::try_from(len), u16::try_from(len)) {
            (Ok(len), _) if len < LENGTH_16 => {
                self.push(&[first, mask | len]);
            }
            (_, Ok(len)) => {
                self.push(&[first, mask | LENGTH_16]);
                self.push(&len.to_be_bytes());
            }
            _ => {
                self.push(&[first, mask | LENGTH_64]);
                self.push(&(len as u64).to_be_bytes());
            }
        }
        if let Some(key) = key {
            self.push(&key);
        }
    }

    /// Appends bytes of a payload, masked, and returns the key for the bytes that follow.
    fn masked(&mut self, bytes: &[u8], key: Option<Key>) -> Option<Key> {
        let added = self.push(bytes);
        key.map(|key| xor(added, key))
    }
}

/// Encodes the heads of one direction. Keys are fresh random bytes from the caller; a server does not use them.
pub struct Encoder {
    role: Role,
    announced: bool,
    /// Whether the announcement was left out and is still to be sent if the peer turns out to understand it.
    skipped: bool,
}

impl Encoder {
    /// Makes an encoder for what `role` sends.
    #[must_use]
    pub const fn new(role: Role) -> Self {
        Self {
            role,
            announced: false,
            skipped: false,
        }
    }

    /// Leaves out the announcement that the end of one direction is understood, for a peer that would not understand
    /// it. [`Encoder::late_announcement`] makes up for it when the peer turns out to understand it.
    pub const fn skip_announcement(&mut self) {
        self.skipped |= !self.announced;
        self.announced = true;
    }

    const fn key(&self, key: Key) -> Option<Key> {
        match self.role {
            Role::Client => Some(key),
            Role::Server => None,
        }
    }

    /// The head of a frame whose payload is `extra`, a few bytes, and then `len` bytes of the caller,
    /// which it masks with the returned key. `None`: they are not masked.
    pub fn data(&mut self, extra: &[u8], len: usize, keys: [Key; 2]) -> (Head, Option<Key>) {
        let [key, first_key] = keys.map(|key| self.key(key));
        let mut head = Head::new();
        let extra = extra.get(..extra.len().min(MAX_EXTRA)).unwrap_or_default();
        let code = if self.announced {
            opcode::BINARY
        } else {
            head.header(opcode::BINARY, 0, first_key);
            opcode::CONTINUATION
        };
        self.announced = true;
        head.header(FIN | code, extra.len() + len, key);
        let key = head.masked(extra, key);
        (head, key)
    }

    /// The end of this direction, for a peer that understands it.
    #[must_use]
    pub fn end(&self, keys: [Key; 2]) -> Head {
        let [first, second] = keys.map(|key| self.key(key));
        let mut head = Head::new();
        head.header(opcode::BINARY, 0, first);
        head.header(FIN | opcode::CONTINUATION, 0, second);
        head
    }

    /// A Ping without payload.
    #[must_use]
    pub fn ping(&self, key: Key) -> Head {
        self.control(&Control::new(opcode::PING), key)
    }

    /// A Close with this status.
    #[must_use]
    pub fn close(&self, code: u16, key: Key) -> Head {
        let mut control = Control::new(opcode::CLOSE);
        control.push(&code.to_be_bytes());
        self.control(&control, key)
    }

    /// The announcement that was left out, as a Pong, once the peer of `decoder` has announced itself.
    #[must_use]
    pub fn late_announcement(&mut self, decoder: &Decoder, key: Key) -> Option<Head> {
        if !self.skipped || decoder.understands_end() != Some(true) {
            return None;
        }
        self.skipped = false;
        let mut pong = Control::new(opcode::PONG);
        pong.push(END_UNDERSTOOD);
        Some(self.control(&pong, key))
    }

    /// The next answer to the peer of `decoder`, if any. A flood of Pings is answered with one Pong, to the latest one
    /// (§5.5.3); the Close comes last.
    #[must_use]
    pub fn reply(&self, decoder: &mut Decoder, key: Key) -> Option<Head> {
        if let Some(pong) = decoder.pong.take() {
            return Some(self.control(&pong, key));
        }
        decoder.close.take().map(|code| self.close(code, key))
    }

    fn control(&self, control: &Control, key: Key) -> Head {
        let key = self.key(key);
        let mut head = Head::new();
        head.header(FIN | control.opcode, control.payload().len(), key);
        let _ = head.masked(control.payload(), key);
        head
    }
}
