//! What stands in the frames.

use super::{AddressRef, Error, HEADER_LEN, MAX_ID, MAX_MESSAGE, MAX_PAYLOAD};

/// The version that this is.
const VERSION: u8 = 1;

/// What an end says of itself. Type-length-value fields may follow; none has a meaning yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// What it can do beyond version 1, one bit each; none has a meaning yet.
    pub caps: u32,
    /// Bytes that may be sent on a new stream before it grants more.
    pub window: u32,
    /// The longest payload that it takes, in bytes; at most [`MAX_PAYLOAD`] is sent.
    pub max_payload: u32,
}

impl Hello {
    pub(super) fn write(self, out: &mut Writer<'_>) -> Option<()> {
        out.put(&[VERSION])?;
        out.put(&self.caps.to_be_bytes())?;
        out.put(&self.window.to_be_bytes())?;
        out.put(&self.max_payload.to_be_bytes())
    }

    pub(super) fn read(rest: &mut Reader<'_>) -> Result<Self, Error> {
        let [version] = rest.take()?;
        if version != VERSION {
            return Err(Error::TunnelVersion(version));
        }
        Ok(Self {
            caps: u32::from_be_bytes(rest.take()?),
            window: u32::from_be_bytes(rest.take()?),
            max_payload: u32::from_be_bytes(rest.take()?),
        })
    }
}

/// Success, or a reason. Zero is the only number that is not a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Code(pub u16);

impl Code {
    /// Done.
    pub const OK: Self = Self(0);
    /// The user may not have this.
    pub const DENIED: Self = Self(1);
    /// Another client has it.
    pub const TAKEN: Self = Self(2);
    /// The system refuses the address.
    pub const BIND: Self = Self(3);
    /// What was asked for makes no sense, or is not offered.
    pub const INVALID: Self = Self(4);
    /// The target cannot be reached.
    pub const UNREACHABLE: Self = Self(5);
    /// There is no room for more.
    pub const FULL: Self = Self(6);
    /// The sender is stopping.
    pub const STOPPING: Self = Self(7);
    /// The receiver broke the protocol.
    pub const PROTOCOL: Self = Self(8);
}

/// What a service speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// Streams.
    Tcp,
    /// Datagrams.
    Udp,
    /// Streams of HTTP/1.1, told apart by their Host.
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

/// What a client offers.
///
/// ```text
/// protocol u8 ‖ flags u8 ‖ bind address ‖ { length u8 ‖ name } ‖ { length u8 ‖ token } ‖ { length u8 ‖ host }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Register<'a> {
    /// What it speaks.
    pub protocol: Protocol,
    /// Other clients may share the load.
    pub group: bool,
    /// An older link that does not answer any more is to make room.
    pub replace: bool,
    /// Where visitors come to, on the server; port 0: any port.
    pub bind: AddressRef<'a>,
    /// What it is called; unique among one user's services.
    pub name: &'a str,
    /// The same on all links of one client.
    pub token: &'a [u8],
    /// Of HTTP: which Host is meant.
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
            // A client that speaks no HTTP may leave it out.
            host: if rest.0.is_empty() { "" } else { rest.name()? },
        })
    }
}

/// A visitor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Open<'a> {
    /// Whom it wants.
    pub service: u64,
    /// Where it comes from.
    pub source: AddressRef<'a>,
    /// Where it came to.
    pub destination: AddressRef<'a>,
}

impl<'a> Open<'a> {
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

/// The number that 48 bits are.
pub(super) const fn id([a, b, c, d, e, f]: [u8; 6]) -> u64 {
    u64::from_be_bytes([0, 0, a, b, c, d, e, f])
}

/// Takes values off the front of a payload.
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

    /// A name that can go into a log line as it is.
    fn name(&mut self) -> Result<&'a str, Error> {
        let name = std::str::from_utf8(self.short()?).map_err(|_| Error::FrameContent)?;
        if name.chars().any(char::is_control) {
            return Err(Error::FrameContent);
        }
        Ok(name)
    }

    /// The rest, as a text for people.
    pub(super) fn message(&mut self) -> Result<&'a str, Error> {
        let text = std::str::from_utf8(self.0).map_err(|_| Error::FrameContent)?;
        if text.len() > MAX_MESSAGE || text.chars().any(char::is_control) {
            return Err(Error::FrameContent);
        }
        Ok(text)
    }
}

/// Puts values one after the other.
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

    /// As much of a text as is allowed.
    pub(super) fn message(&mut self, text: &str) -> Option<()> {
        let mut end = text.len().min(MAX_MESSAGE);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        self.put(text.as_bytes().get(..end)?)
    }
}
