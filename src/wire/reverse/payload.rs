//! The payloads of the frames, and how their fields are read and written.

use crate::wire::{AddressRef, Error};

/// Length of the header of Data and of every v1 frame, in bytes: op, id and payload length.
pub const HEADER_LEN: usize = 2 + 6 + 4;
/// The longest payload, in bytes. A frame with its header fits one chunk of AEAD-2017 (16383 bytes).
pub const MAX_PAYLOAD: usize = 16_371;
/// The largest id; ids have 48 bits.
pub const MAX_ID: u64 = (1 << 48) - 1;
/// The longest message for logs, in bytes; longer messages are cut.
pub const MAX_MESSAGE: usize = 512;
/// Length of the nonce of a dial-back connection, in bytes.
pub const NONCE_LEN: usize = 16;
/// The protocol version of this implementation.
const VERSION: u8 = 1;

/// The capability of both ends to carry visitors in streams of their own, beside the link.
const OWN_STREAMS: u32 = 1;

/// What both ends of a link make the keys of visitors' own streams of.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct LinkSecret(pub [u8; 32]);

impl std::fmt::Debug for LinkSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LinkSecret")
    }
}

/// Whether a side can carry visitors in streams of their own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OwnStreams {
    /// It cannot.
    #[default]
    No,
    /// It can: said by the server.
    Yes,
    /// It can, and their keys are to be made of this: said by the client.
    With(LinkSecret),
}

/// The parameters of one side. More fields may follow; they are skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Whether visitors may have streams of their own.
    pub own_streams: OwnStreams,
    /// Bytes that the peer may send on a new stream before it needs a [`Frame::Window`](super::Frame::Window).
    pub window: u32,
    /// The longest payload that this side accepts, in bytes; never more than [`MAX_PAYLOAD`] is sent.
    pub max_payload: u32,
}

impl Hello {
    pub(super) fn write(self, out: &mut Writer<'_>) -> Option<()> {
        out.put(&[VERSION])?;
        let caps = match self.own_streams {
            OwnStreams::No => 0,
            OwnStreams::Yes | OwnStreams::With(_) => OWN_STREAMS,
        };
        out.put(&caps.to_be_bytes())?;
        out.put(&self.window.to_be_bytes())?;
        out.put(&self.max_payload.to_be_bytes())?;
        match self.own_streams {
            OwnStreams::No | OwnStreams::Yes => Some(()),
            OwnStreams::With(secret) => out.put(&secret.0),
        }
    }

    pub(super) fn read(rest: &mut Reader<'_>) -> Result<Self, Error> {
        let [version] = rest.take()?;
        if version != VERSION {
            return Err(Error::TunnelVersion(version));
        }
        let caps = u32::from_be_bytes(rest.take()?);
        let window = u32::from_be_bytes(rest.take()?);
        let max_payload = u32::from_be_bytes(rest.take()?);
        let own_streams = match caps & OWN_STREAMS {
            0 => OwnStreams::No,
            _ if rest.0.is_empty() => OwnStreams::Yes,
            _ => OwnStreams::With(LinkSecret(rest.take()?)),
        };
        Ok(Self {
            own_streams,
            window,
            max_payload,
        })
    }
}

/// A result: 0 is success, any other number is a reason for refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Code(pub u16);

impl Code {
    /// Success.
    pub const OK: Self = Self(0);
    /// The user is not allowed to publish this.
    pub const DENIED: Self = Self(1);
    /// Another client has published it.
    pub const TAKEN: Self = Self(2);
    /// The operating system refuses the address.
    pub const BIND: Self = Self(3);
    /// The request is invalid, or the service does not exist.
    pub const INVALID: Self = Self(4);
    /// The target cannot be reached.
    pub const UNREACHABLE: Self = Self(5);
    /// A limit is reached.
    pub const FULL: Self = Self(6);
    /// The sender is shutting down.
    pub const STOPPING: Self = Self(7);
    /// The receiver has violated the protocol.
    pub const PROTOCOL: Self = Self(8);
}

/// The protocol of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// Streams.
    Tcp,
    /// Datagrams.
    Udp,
    /// Streams of HTTP/1.1, routed by their Host header.
    Http,
}

impl Protocol {
    /// Its name in a config.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Http => "http",
        }
    }
}

/// A service that the client asks the server to publish.
///
/// ```text
/// protocol u8 ‖ flags u8 ‖ bind address ‖ { length u8 ‖ name } ‖ { length u8 ‖ token } ‖ { length u8 ‖ host }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Register<'a> {
    /// The protocol of the service.
    pub protocol: Protocol,
    /// Other clients may publish the same service and share its visitors.
    pub group: bool,
    /// The server should check whether an older link with this service is still alive.
    pub replace: bool,
    /// The public address on the server; port 0 means any granted port.
    pub bind: AddressRef<'a>,
    /// The service's name, unique among the services of one user.
    pub name: &'a str,
    /// Identifies the link: 15 bytes of the client and 1 byte of the link's number. May be empty.
    pub token: &'a [u8],
    /// For HTTP: the host name that visitors ask for. Otherwise empty.
    pub host: &'a str,
}

const FLAG_GROUP: u8 = 1;
const FLAG_REPLACE: u8 = 2;

impl<'a> Register<'a> {
    pub(super) fn write(self, out: &mut Writer<'_>) -> Option<()> {
        let protocol = match self.protocol {
            Protocol::Tcp => 0,
            Protocol::Udp => 1,
            Protocol::Http => 2,
        };
        let group = if self.group { FLAG_GROUP } else { 0 };
        let replace = if self.replace { FLAG_REPLACE } else { 0 };
        out.put(&[protocol, group | replace])?;
        out.address(self.bind)?;
        out.short(self.name.as_bytes())?;
        out.short(self.token)?;
        out.short(self.host.as_bytes())
    }

    pub(super) fn read(rest: &mut Reader<'a>) -> Result<Self, Error> {
        let [protocol, flags] = rest.take()?;
        let protocol = match protocol {
            0 => Protocol::Tcp,
            1 => Protocol::Udp,
            2 => Protocol::Http,
            _ => return Err(Error::FrameContent),
        };
        Ok(Self {
            protocol,
            group: flags & FLAG_GROUP != 0,
            replace: flags & FLAG_REPLACE != 0,
            bind: rest.address()?,
            name: rest.name()?,
            token: rest.short()?,
            // A client may omit the host if the service is not HTTP.
            host: if rest.0.is_empty() { "" } else { rest.name()? },
        })
    }
}

/// A visitor's connection to a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connect<'a> {
    /// The service.
    pub service: u64,
    /// The visitor's address.
    pub source: AddressRef<'a>,
    /// The public address to which the visitor connected.
    pub destination: AddressRef<'a>,
}

impl<'a> Connect<'a> {
    pub(super) fn write(self, out: &mut Writer<'_>) -> Option<()> {
        (self.service <= MAX_ID).then_some(())?;
        let [_, _, id @ ..] = self.service.to_be_bytes();
        out.put(&id)?;
        out.address(self.source)?;
        out.address(self.destination)
    }

    pub(super) fn read(rest: &mut Reader<'a>) -> Result<Self, Error> {
        Ok(Self {
            service: id(rest.take()?),
            source: rest.address()?,
            destination: rest.address()?,
        })
    }
}

/// Decodes an id of 48 bits.
pub(super) const fn id([a, b, c, d, e, f]: [u8; 6]) -> u64 {
    u64::from_be_bytes([0, 0, a, b, c, d, e, f])
}

/// Reads fields from the front of a payload.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn take<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let (value, rest) = self.0.split_first_chunk::<N>().ok_or(Error::FrameContent)?;
        self.0 = rest;
        Ok(*value)
    }

    pub(super) fn address(&mut self) -> Result<AddressRef<'a>, Error> {
        let (address, len) = AddressRef::parse(self.0)?.ok_or(Error::FrameContent)?;
        self.0 = self.0.get(len..).unwrap_or_default();
        Ok(address)
    }

    fn short(&mut self) -> Result<&'a [u8], Error> {
        let [len] = self.take()?;
        let (value, rest) = self
            .0
            .split_at_checked(usize::from(len))
            .ok_or(Error::FrameContent)?;
        self.0 = rest;
        Ok(value)
    }

    /// A name without control characters, so that it can be logged as it is.
    fn name(&mut self) -> Result<&'a str, Error> {
        let name = std::str::from_utf8(self.short()?).map_err(|_| Error::FrameContent)?;
        if name.chars().any(char::is_control) {
            return Err(Error::FrameContent);
        }
        Ok(name)
    }

    /// The rest of the payload as a message for logs.
    pub(super) fn message(&mut self) -> Result<&'a str, Error> {
        let text = std::str::from_utf8(self.0).map_err(|_| Error::FrameContent)?;
        if text.len() > MAX_MESSAGE || text.chars().any(char::is_control) {
            return Err(Error::FrameContent);
        }
        Ok(text)
    }
}

/// Writes fields one after the other.
pub(super) struct Writer<'a> {
    out: &'a mut [u8],
    len: usize,
}

impl<'a> Writer<'a> {
    pub(super) const fn new(out: &'a mut [u8]) -> Self {
        Self { out, len: 0 }
    }

    pub(super) const fn len(&self) -> usize {
        self.len
    }

    pub(super) fn put(&mut self, bytes: &[u8]) -> Option<()> {
        let end = self.len.checked_add(bytes.len())?;
        (end <= MAX_PAYLOAD + HEADER_LEN).then_some(())?;
        self.out.get_mut(self.len..end)?.copy_from_slice(bytes);
        self.len = end;
        Some(())
    }

    pub(super) fn address(&mut self, address: AddressRef<'_>) -> Option<()> {
        self.len += address.encode(self.out.get_mut(self.len..)?)?;
        Some(())
    }

    fn short(&mut self, bytes: &[u8]) -> Option<()> {
        self.put(&[u8::try_from(bytes.len()).ok()?])?;
        self.put(bytes)
    }

    /// Writes a message, cut to [`MAX_MESSAGE`] bytes between two characters.
    pub(super) fn message(&mut self, text: &str) -> Option<()> {
        let mut end = text.len().min(MAX_MESSAGE);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        self.put(text.as_bytes().get(..end)?)
    }
}
