//! `multiplex` of sing-box and mihomo: many streams in one Shadowsocks stream.
//!
//! A client opens an ordinary stream to the reserved target [`HOST`]:[`PORT`]. On it come, from the client:
//!
//! ```text
//! version u8 (0, 1) · protocol u8 · in version 1: padding u8 (0, 1) · with padding: length u16be · as many bytes
//! ```
//!
//! What follows belongs to the multiplexer: [`smux`], yamux or HTTP/2. With padding, its bytes are in the frames of
//! [`padding`], in both directions. Each of its streams begins with a request, and its answers with a response:
//!
//! ```text
//! request     flags u16be (1: datagrams, 2: each with an address) · target as in SOCKS5
//! response    0, or: 1 · length (uvarint) · message
//! datagram    with flag 2: address as in SOCKS5 · length u16be · data
//! ```
//!
//! The response stands before the first data that the server sends.

pub mod padding;
pub mod smux;

use super::{AddressRef, Error};

/// What was read, and its length in bytes; `None` while bytes are missing.
pub type Parsed<T> = Result<Option<(T, usize)>, Error>;

/// The name of the reserved target.
pub const HOST: &str = "sp.mux.sing-box.arpa";
/// The port of the reserved target.
pub const PORT: u16 = 444;
/// The name by which a client of sing-box asks for TCP Brutal, as the target of a stream.
pub const BRUTAL: &str = "_BrutalBwExchange";
/// Bytes of a message in a response; longer messages are cut.
pub const MAX_MESSAGE: usize = 512;

/// A multiplexer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// smux, version 1.
    Smux,
    /// yamux.
    Yamux,
    /// HTTP/2: each stream is a CONNECT request.
    H2,
}

impl Protocol {
    /// Its name in a config.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Smux => "smux",
            Self::Yamux => "yamux",
            Self::H2 => "h2mux",
        }
    }

    /// The protocol of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        [Self::Smux, Self::Yamux, Self::H2]
            .into_iter()
            .find(|protocol| protocol.name() == name)
    }

    const fn number(self) -> u8 {
        match self {
            Self::Smux => 0,
            Self::Yamux => 1,
            Self::H2 => 2,
        }
    }
}

/// How a session begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Its multiplexer.
    pub protocol: Protocol,
    /// Whether its first frames are padded.
    pub padding: bool,
}

impl Head {
    /// Reads the head.
    ///
    /// # Errors
    /// [`Error::Multiplex`].
    pub fn parse(bytes: &[u8]) -> Parsed<Self> {
        let Some((version, rest)) = bytes.split_first() else {
            return Ok(None);
        };
        if *version > 1 {
            return Err(Error::Multiplex("the version is neither 0 nor 1"));
        }
        let Some((number, rest)) = rest.split_first() else {
            return Ok(None);
        };
        let protocol = [Protocol::Smux, Protocol::Yamux, Protocol::H2]
            .into_iter()
            .find(|protocol| protocol.number() == *number)
            .ok_or(Error::Multiplex("the protocol is unknown"))?;
        let plain = Self {
            protocol,
            padding: false,
        };
        if *version == 0 {
            return Ok(Some((plain, 2)));
        }
        match rest.split_first() {
            None => Ok(None),
            Some((0, _)) => Ok(Some((plain, 3))),
            Some((1, rest)) => {
                let Some((len, rest)) = rest.split_first_chunk() else {
                    return Ok(None);
                };
                let len = usize::from(u16::from_be_bytes(*len));
                let head = Self {
                    padding: true,
                    ..plain
                };
                Ok((rest.len() >= len).then_some((head, 5 + len)))
            }
            Some(_) => Err(Error::Multiplex("the padding flag is neither 0 nor 1")),
        }
    }

    /// Writes the head, with `padding` bytes of padding if it has any.
    #[must_use]
    pub fn encode(self, padding: u16) -> Vec<u8> {
        let number = self.protocol.number();
        if !self.padding {
            return vec![0, number];
        }
        let [high, low] = padding.to_be_bytes();
        let mut bytes = vec![1, number, 1, high, low];
        bytes.resize(bytes.len() + usize::from(padding), 0);
        bytes
    }
}

/// What a stream carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carries {
    /// Bytes to the target and back.
    Bytes,
    /// Datagrams to the target and back.
    Datagrams,
    /// Datagrams, each with the address that it goes to or comes from.
    Addressed,
}

const FLAG_UDP: u16 = 1;
const FLAG_ADDRESSED: u16 = 2;

impl Carries {
    /// Reads the request of a stream: what it carries, its target, and their length. `None` while bytes are missing.
    ///
    /// # Errors
    /// When the target is not an address.
    pub fn parse(bytes: &[u8]) -> Result<Option<(Self, AddressRef<'_>, usize)>, Error> {
        let Some((flags, rest)) = bytes.split_first_chunk() else {
            return Ok(None);
        };
        let flags = u16::from_be_bytes(*flags);
        let carries = match (flags & FLAG_UDP, flags & FLAG_ADDRESSED) {
            (0, _) => Self::Bytes,
            (_, 0) => Self::Datagrams,
            _ => Self::Addressed,
        };
        let target = AddressRef::parse(rest)?;
        Ok(target.map(|(target, len)| (carries, target, 2 + len)))
    }

    /// Writes the request of a stream to `target`.
    #[must_use]
    pub fn encode(self, target: AddressRef<'_>) -> Vec<u8> {
        let flags = match self {
            Self::Bytes => 0,
            Self::Datagrams => FLAG_UDP,
            Self::Addressed => FLAG_UDP | FLAG_ADDRESSED,
        };
        let mut bytes = flags.to_be_bytes().to_vec();
        let mut room = [0; super::Address::MAX_LEN];
        let len = target.encode(&mut room).unwrap_or(0);
        bytes.extend_from_slice(room.get(..len).unwrap_or_default());
        bytes
    }
}

/// The response that a stream is open.
pub const OPEN: [u8; 1] = [0];

/// The response that a stream cannot be opened.
#[must_use]
pub fn refusal(message: &str) -> Vec<u8> {
    with_message(&[1], message)
}

/// The response to [`BRUTAL`]: the stream is open, and TCP Brutal is not used.
#[must_use]
pub fn brutal_refusal(message: &str) -> Vec<u8> {
    with_message(&[OPEN[0], 0], message)
}

fn with_message(head: &[u8], message: &str) -> Vec<u8> {
    let end = message.floor_char_boundary(MAX_MESSAGE);
    let message = message.get(..end).unwrap_or_default();
    let mut bytes = head.to_vec();
    let mut len = message.len();
    while len >= 0x80 {
        bytes.push(0x80 | (len & 0x7f).to_le_bytes()[0]);
        len >>= 7;
    }
    bytes.push(len.to_le_bytes()[0]);
    bytes.extend_from_slice(message.as_bytes());
    bytes
}

/// Reads a response: `Ok` if the stream is open, or why not.
///
/// # Errors
/// [`Error::Multiplex`].
pub fn response(bytes: &[u8]) -> Parsed<Result<(), String>> {
    match bytes.split_first() {
        None => Ok(None),
        Some((0, _)) => Ok(Some((Ok(()), 1))),
        Some((1, mut rest)) => {
            let mut len = 0_usize;
            for shift in [0, 7, 14] {
                let Some((byte, after)) = rest.split_first() else {
                    return Ok(None);
                };
                rest = after;
                len |= usize::from(byte & 0x7f) << shift;
                if byte & 0x80 == 0 {
                    let head = bytes.len() - rest.len();
                    let message = rest.get(..len);
                    return Ok(message.map(|message| {
                        let message = String::from_utf8_lossy(message);
                        let message = message.chars().filter(|c| !c.is_control());
                        (Err(message.take(MAX_MESSAGE).collect()), head + len)
                    }));
                }
            }
            Err(Error::Multiplex("the message of a response is too long"))
        }
        Some(_) => Err(Error::Multiplex("the status of a response is unknown")),
    }
}

/// The first datagram in `bytes`: its address and its data.
///
/// # Errors
/// When the address is none.
pub fn datagram(bytes: &[u8], addressed: bool) -> Parsed<(Option<AddressRef<'_>>, &[u8])> {
    let (address, at) = if addressed {
        match AddressRef::parse(bytes)? {
            Some((address, len)) => (Some(address), len),
            None => return Ok(None),
        }
    } else {
        (None, 0)
    };
    let Some((len, rest)) = bytes.get(at..).and_then(<[u8]>::split_first_chunk) else {
        return Ok(None);
    };
    let len = usize::from(u16::from_be_bytes(*len));
    Ok(rest.get(..len).map(|data| ((address, data), at + 2 + len)))
}

#[cfg(test)]
mod tests;
