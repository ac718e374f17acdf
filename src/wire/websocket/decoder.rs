//! Decodes frames.

use super::{
    END_UNDERSTOOD, FIN, FrameError, Key, LENGTH, LENGTH_16, LENGTH_64, MASKED, MAX_CONTROL,
    MAX_HEADER, OPCODE, RESERVED, Role, close, opcode, xor,
};

/// The state of the peer's direction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Status {
    /// More may come.
    Active,
    /// The peer has ended its direction and still reads ours.
    Ended,
    /// The peer has closed both directions with this status; [`close::NO_STATUS`] if it sent none (§7.1.5).
    Closed(u16),
    /// The peer violated the protocol.
    Failed(FrameError),
}

/// A control frame.
#[derive(Clone)]
pub(super) struct Control {
    pub(super) opcode: u8,
    len: u8,
    bytes: [u8; MAX_CONTROL],
}

impl Control {
    pub(super) const fn new(opcode: u8) -> Self {
        Self {
            opcode,
            len: 0,
            bytes: [0; MAX_CONTROL],
        }
    }

    pub(super) fn payload(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or_default()
    }

    /// Appends as many bytes as fit and returns them.
    pub(super) fn push(&mut self, more: &[u8]) -> &mut [u8] {
        let at = usize::from(self.len);
        let end = (at + more.len()).min(MAX_CONTROL);
        self.len = u8::try_from(end).unwrap_or(self.len);
        let to = self.bytes.get_mut(at..end).unwrap_or_default();
        to.copy_from_slice(more.get(..to.len()).unwrap_or_default());
        to
    }
}

/// Where the next frame is in its message.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Message {
    /// At the beginning of a message.
    Before,
    /// Behind an empty first fragment.
    BehindEmpty,
    /// Behind any other fragment.
    Within,
}

/// Reads the frames of one direction. It keeps an incomplete header, an incomplete control frame, and, to be answered,
/// the latest Ping and the Close.
pub struct Decoder {
    masked: bool,
    head: [u8; MAX_HEADER],
    have: u8,
    /// Bytes of the current frame's payload that are still to come.
    left: u64,
    /// The frame's key for the next byte.
    key: Key,
    control: Option<Box<Control>>,
    message: Message,
    understands_end: bool,
    seen_payload: bool,
    status: Status,
    pub(super) pong: Option<Box<Control>>,
    pub(super) close: Option<u16>,
}

impl Decoder {
    /// Makes a decoder for what the peer of `role` sends.
    #[must_use]
    pub const fn new(role: Role) -> Self {
        Self {
            masked: matches!(role, Role::Server),
            head: [0; MAX_HEADER],
            have: 0,
            left: 0,
            key: [0; 4],
            control: None,
            message: Message::Before,
            understands_end: false,
            seen_payload: false,
            status: Status::Active,
            pong: None,
            close: None,
        }
    }

    /// The state of the peer's direction.
    #[must_use]
    pub const fn status(&self) -> Status {
        self.status
    }

    /// Whether the peer has announced that it understands the end of one direction; `None` until its first payload or
    /// announcement.
    #[must_use]
    pub const fn understands_end(&self) -> Option<bool> {
        if self.seen_payload {
            Some(self.understands_end)
        } else {
            None
        }
    }

    /// Bytes of payload before the next header.
    #[must_use]
    pub const fn payload_left(&self) -> u64 {
        if self.control.is_some() { 0 } else { self.left }
    }

    /// Whether a connection that ends here was not cut within a frame.
    #[must_use]
    pub const fn at_boundary(&self) -> bool {
        self.left == 0 && self.have == 0
    }

    /// Whether there is something to answer: see [`super::Encoder::reply`].
    #[must_use]
    pub const fn has_reply(&self) -> bool {
        self.pong.is_some() || self.close.is_some()
    }

    /// Decodes `buf`, the next bytes of the connection: moves their payload, unmasked, to the front and returns its
    /// length. The payload of a frame that began before `buf` stays in place; payload behind a header moves up.
    ///
    /// All of `buf` is used up. A violation by the peer shows in [`Decoder::status`], after the payload before it.
    pub fn decode(&mut self, buf: &mut [u8]) -> usize {
        let (mut from, mut to) = (0, 0);
        while from < buf.len() && matches!(self.status, Status::Active | Status::Ended) {
            let rest = buf.get(from..).unwrap_or_default();
            if self.left == 0 {
                match self.read_header(rest) {
                    Ok(used) => from += used,
                    Err(violation) => self.fail(violation),
                }
                continue;
            }
            let len = usize::try_from(self.left).map_or(rest.len(), |left| left.min(rest.len()));
            self.left -= len as u64;
            if let Some(control) = &mut self.control {
                let taken = control.push(rest.get(..len).unwrap_or_default());
                if self.masked {
                    self.key = xor(taken, self.key);
                }
                if self.left == 0 {
                    self.finish_control();
                }
            } else {
                if from != to {
                    buf.copy_within(from..from + len, to);
                }
                if self.masked {
                    self.key = xor(buf.get_mut(to..to + len).unwrap_or_default(), self.key);
                }
                to += len;
            }
            from += len;
        }
        to
    }

    fn fail(&mut self, violation: FrameError) {
        self.status = Status::Failed(violation);
        self.pong = None;
        self.close = Some(violation.close_code());
    }

    /// Takes the bytes of a header, and begins its frame when it is complete.
    fn read_header(&mut self, bytes: &[u8]) -> Result<usize, FrameError> {
        let mut used = 0;
        loop {
            let have = usize::from(self.have);
            let need = self.header_len()?;
            if have == need {
                self.have = 0;
                self.begin_frame()?;
                return Ok(used);
            }
            let more = bytes.get(used..).unwrap_or_default();
            let len = more.len().min(need - have);
            if len == 0 {
                return Ok(used);
            }
            if let (Some(to), Some(from)) = (self.head.get_mut(have..have + len), more.get(..len)) {
                to.copy_from_slice(from);
            }
            self.have += u8::try_from(len).unwrap_or_default();
            used += len;
        }
    }

    /// The length of the header, as far as it is known. Checks its first two bytes.
    fn header_len(&self) -> Result<usize, FrameError> {
        let [first, second, ..] = self.head;
        if self.have < 2 {
            return Ok(2);
        }
        if first & RESERVED != 0 {
            return Err(FrameError::Reserved);
        }
        if (second & MASKED != 0) != self.masked {
            return Err(FrameError::Mask);
        }
        let code = first & OPCODE;
        match code {
            opcode::CONTINUATION | opcode::TEXT | opcode::BINARY => {
                if (code == opcode::CONTINUATION) == (self.message == Message::Before) {
                    return Err(FrameError::Continuation);
                }
            }
            opcode::CLOSE | opcode::PING | opcode::PONG => {
                if first & FIN == 0 {
                    return Err(FrameError::ControlFragment);
                }
                if second & LENGTH >= LENGTH_16 {
                    return Err(FrameError::ControlLength);
                }
            }
            other => return Err(FrameError::Opcode(other)),
        }
        let length = match second & LENGTH {
            LENGTH_16 => 2,
            LENGTH_64 => 8,
            _ => 0,
        };
        Ok(2 + length + if self.masked { 4 } else { 0 })
    }

    fn begin_frame(&mut self) -> Result<(), FrameError> {
        let [first, second, rest @ ..] = self.head;
        let [a, b, c, d, e, f, g, h, ..] = rest;
        let (len, key_at) = match second & LENGTH {
            LENGTH_16 => (u64::from(u16::from_be_bytes([a, b])), 2),
            LENGTH_64 => (u64::from_be_bytes([a, b, c, d, e, f, g, h]), 8),
            short => (u64::from(short), 0),
        };
        let least = match key_at {
            2 => u64::from(LENGTH_16),
            8 => 1 << 16,
            _ => 0,
        };
        if len < least {
            return Err(FrameError::Length);
        }
        if len >> 63 != 0 {
            return Err(FrameError::TooBig);
        }
        self.left = len;
        if let Some(key) = rest.get(key_at..).and_then(<[u8]>::first_chunk) {
            self.key = *key;
        }
        let code = first & OPCODE;
        if code >= opcode::CLOSE {
            self.control = Some(Box::new(Control::new(code)));
            if len == 0 {
                self.finish_control();
            }
            return Ok(());
        }
        self.begin_data(first & FIN != 0)
    }

    fn begin_data(&mut self, last: bool) -> Result<(), FrameError> {
        let empty = self.left == 0;
        if self.message == Message::BehindEmpty && last {
            if empty {
                self.status = Status::Ended;
                let mut pong = Control::new(opcode::PONG);
                pong.push(END_UNDERSTOOD);
                self.pong = Some(Box::new(pong));
            }
            self.understands_end = true;
        }
        if !empty {
            if self.status == Status::Ended {
                return Err(FrameError::AfterEnd);
            }
            self.seen_payload = true;
        }
        self.message = match (last, self.message) {
            (true, _) => Message::Before,
            (false, Message::Before) if empty => Message::BehindEmpty,
            (false, _) => Message::Within,
        };
        Ok(())
    }

    fn finish_control(&mut self) {
        let Some(mut control) = self.control.take() else {
            return;
        };
        match control.opcode {
            opcode::PING => {
                control.opcode = opcode::PONG;
                self.pong = Some(control);
            }
            opcode::CLOSE => match close_status(control.payload()) {
                Ok(code) => {
                    self.status = Status::Closed(code);
                    self.close = Some(if code == close::NO_STATUS {
                        close::NORMAL
                    } else {
                        code
                    });
                }
                Err(violation) => self.fail(violation),
            },
            // Any other Pong only shows that the peer is alive, as every byte does.
            _ => {
                if control.payload() == END_UNDERSTOOD {
                    (self.understands_end, self.seen_payload) = (true, true);
                }
            }
        }
    }
}

/// Reads the status of a Close (§5.5.1, §7.4).
fn close_status(payload: &[u8]) -> Result<u16, FrameError> {
    let Some((code, reason)) = payload.split_first_chunk() else {
        return if payload.is_empty() {
            Ok(close::NO_STATUS)
        } else {
            Err(FrameError::CloseCode)
        };
    };
    let code = u16::from_be_bytes(*code);
    if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
        return Err(FrameError::CloseCode);
    }
    match std::str::from_utf8(reason) {
        Ok(_) => Ok(code),
        Err(_) => Err(FrameError::CloseReason),
    }
}
