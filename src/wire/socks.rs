//! SOCKS5 (RFC 1928) and its password subnegotiation (RFC 1929), both sides: every message can be read and written.
//!
//! ```text
//! client                                                   server
//!   Greeting     05 ‖ n ‖ methods[n]                         ->
//!                                       <-  05 ‖ method      MethodSelection
//!   Credentials  01 ‖ n ‖ user[n] ‖ n ‖ password[n]          ->      only after method 02
//!                                       <-  01 ‖ status      AuthStatus
//!   Request      05 ‖ command ‖ 00 ‖ address                 ->
//!                                       <-  05 ‖ reply ‖ 00 ‖ bound address      Response
//! datagrams, both ways:  00 00 ‖ fragment ‖ address ‖ data
//! ```

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};

use super::{AddressRef, Error};

/// The first byte of every message except those of RFC 1929.
const VERSION: u8 = 0x05;
/// The first byte of the messages of RFC 1929.
const AUTH_VERSION: u8 = 0x01;
const RESERVED: u8 = 0x00;

/// Bytes of the longest request and of the longest response.
pub const MAX_REQUEST_LEN: usize = 3 + super::Address::MAX_LEN;

/// An authentication method (RFC 1928 §3).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum AuthMethod {
    /// 0x00: no authentication.
    None,
    /// 0x02: user name and password (RFC 1929).
    Password,
    /// 0xFF: the server supports none of the methods offered.
    Unacceptable,
    /// Any other code: GSSAPI, private methods.
    Other(u8),
}

impl AuthMethod {
    /// The byte on the wire.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::None => 0x00,
            Self::Password => 0x02,
            Self::Unacceptable => 0xff,
            Self::Other(code) => code,
        }
    }
}

impl From<u8> for AuthMethod {
    fn from(code: u8) -> Self {
        match code {
            0x00 => Self::None,
            0x02 => Self::Password,
            0xff => Self::Unacceptable,
            other => Self::Other(other),
        }
    }
}

/// The client's first message: which authentication methods it offers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Greeting<'a> {
    methods: &'a [u8],
}

impl<'a> Greeting<'a> {
    /// Reads a greeting and returns it with its length; `Ok(None)` if more bytes are needed.
    ///
    /// # Errors
    /// [`Error::SocksVersion`].
    pub fn parse(bytes: &'a [u8]) -> Result<Option<(Self, usize)>, Error> {
        let mut reader = Reader::versioned(bytes, VERSION, Error::SocksVersion)?;
        let Some(methods) = reader.prefixed() else {
            return Ok(None);
        };
        Ok(Some((Self { methods }, reader.used())))
    }

    /// Whether the client offers this method.
    #[must_use]
    pub fn offers(&self, method: AuthMethod) -> bool {
        self.methods.contains(&method.code())
    }

    /// Writes the greeting of a client that offers `methods` and returns its length. `None` if it does not fit.
    #[must_use]
    pub fn encode(methods: &[AuthMethod], out: &mut [u8]) -> Option<usize> {
        let mut writer = Writer::new(out);
        writer.byte(VERSION)?;
        writer.byte(u8::try_from(methods.len()).ok()?)?;
        for method in methods {
            writer.byte(method.code())?;
        }
        Some(writer.written())
    }
}

/// The server's answer to a [`Greeting`]: the method that it has chosen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MethodSelection(pub AuthMethod);

impl MethodSelection {
    /// Reads a selection and returns it with its length; `Ok(None)` if more bytes are needed.
    ///
    /// # Errors
    /// [`Error::SocksVersion`].
    pub fn parse(bytes: &[u8]) -> Result<Option<(Self, usize)>, Error> {
        let mut reader = Reader::versioned(bytes, VERSION, Error::SocksVersion)?;
        let Some(code) = reader.byte() else {
            return Ok(None);
        };
        Ok(Some((Self(code.into()), reader.used())))
    }

    /// The bytes on the wire.
    #[must_use]
    pub const fn encode(self) -> [u8; 2] {
        [VERSION, self.0.code()]
    }
}

/// The client's user name and password (RFC 1929 §2), at most 255 bytes each.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Credentials<'a> {
    /// The user name.
    pub user: &'a [u8],
    /// The password.
    pub password: &'a [u8],
}

impl<'a> Credentials<'a> {
    /// Reads credentials and returns them with their length; `Ok(None)` if more bytes are needed. Empty fields are read,
    /// although the RFC requires at least one byte: clients send them, and the comparison refuses them.
    ///
    /// # Errors
    /// [`Error::SocksAuthVersion`].
    pub fn parse(bytes: &'a [u8]) -> Result<Option<(Self, usize)>, Error> {
        let mut reader = Reader::versioned(bytes, AUTH_VERSION, Error::SocksAuthVersion)?;
        let Some(user) = reader.prefixed() else {
            return Ok(None);
        };
        let Some(password) = reader.prefixed() else {
            return Ok(None);
        };
        Ok(Some((Self { user, password }, reader.used())))
    }

    /// Writes the credentials and returns their length. `None` if they do not fit or a field is longer than 255 bytes.
    #[must_use]
    pub fn encode(&self, out: &mut [u8]) -> Option<usize> {
        let mut writer = Writer::new(out);
        writer.byte(AUTH_VERSION)?;
        for field in [self.user, self.password] {
            writer.byte(u8::try_from(field.len()).ok()?)?;
            writer.bytes(field)?;
        }
        Some(writer.written())
    }
}

impl fmt::Debug for Credentials<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials(\"{}\", …)", self.user.escape_ascii())
    }
}

/// The server's answer to [`Credentials`] (RFC 1929 §2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AuthStatus {
    /// Status 0x00.
    Success,
    /// Any other status, written as 0x01: the server closes the connection.
    Failure,
}

impl AuthStatus {
    /// Reads a status and returns it with its length; `Ok(None)` if more bytes are needed.
    ///
    /// # Errors
    /// [`Error::SocksAuthVersion`].
    pub fn parse(bytes: &[u8]) -> Result<Option<(Self, usize)>, Error> {
        let mut reader = Reader::versioned(bytes, AUTH_VERSION, Error::SocksAuthVersion)?;
        let Some(status) = reader.byte() else {
            return Ok(None);
        };
        let status = if status == 0 {
            Self::Success
        } else {
            Self::Failure
        };
        Ok(Some((status, reader.used())))
    }

    /// The bytes on the wire.
    #[must_use]
    pub const fn encode(self) -> [u8; 2] {
        match self {
            Self::Success => [AUTH_VERSION, 0x00],
            Self::Failure => [AUTH_VERSION, 0x01],
        }
    }
}

/// A command (RFC 1928 §4).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Command {
    /// 0x01: connect to the address.
    Connect,
    /// 0x02: listen for a connection from the address.
    Bind,
    /// 0x03: relay datagrams; the address is the one that the client will send from, zeros if it does not know.
    UdpAssociate,
    /// Any other code: [`Reply::CommandNotSupported`].
    Other(u8),
}

impl Command {
    /// The byte on the wire.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Connect => 0x01,
            Self::Bind => 0x02,
            Self::UdpAssociate => 0x03,
            Self::Other(code) => code,
        }
    }
}

impl From<u8> for Command {
    fn from(code: u8) -> Self {
        match code {
            0x01 => Self::Connect,
            0x02 => Self::Bind,
            0x03 => Self::UdpAssociate,
            other => Self::Other(other),
        }
    }
}

/// A client's request (RFC 1928 §4).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Request<'a> {
    /// What to do.
    pub command: Command,
    /// The target.
    pub address: AddressRef<'a>,
}

impl<'a> Request<'a> {
    /// Reads a request and returns it with its length; `Ok(None)` if more bytes are needed.
    ///
    /// # Errors
    /// [`Error::SocksVersion`], [`Error::AddressDomain`], [`Error::AddressType`]. [`Reply::of`] is the reply to each.
    pub fn parse(bytes: &'a [u8]) -> Result<Option<(Self, usize)>, Error> {
        let Some((command, address, used)) = parse_addressed(bytes)? else {
            return Ok(None);
        };
        Ok(Some((
            Self {
                command: command.into(),
                address,
            },
            used,
        )))
    }

    /// Writes the request and returns its length, at most [`MAX_REQUEST_LEN`]. `None` if it does not fit.
    #[must_use]
    pub fn encode(&self, out: &mut [u8]) -> Option<usize> {
        encode_addressed(self.command.code(), self.address, out)
    }
}

/// The result of a request (RFC 1928 §6).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Reply {
    /// The connection or association is ready.
    Succeeded = 0x00,
    /// It failed, and no other code fits.
    GeneralFailure = 0x01,
    /// A rule forbids the target.
    NotAllowed = 0x02,
    /// There is no route to the host.
    NetworkUnreachable = 0x03,
    /// The host does not answer, or its name does not resolve.
    HostUnreachable = 0x04,
    /// The host refused the connection.
    ConnectionRefused = 0x05,
    /// Time to live expired; also used for timeouts.
    TtlExpired = 0x06,
    /// The server does not support the command.
    CommandNotSupported = 0x07,
    /// The server does not support the address type.
    AddressTypeNotSupported = 0x08,
}

impl Reply {
    /// The byte on the wire.
    #[must_use]
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// The reply to a request that could not be read.
    #[must_use]
    pub const fn of(error: Error) -> Self {
        match error {
            Error::AddressType(_) => Self::AddressTypeNotSupported,
            _ => Self::GeneralFailure,
        }
    }
}

/// A code that RFC 1928 does not assign becomes [`Reply::GeneralFailure`].
impl From<u8> for Reply {
    fn from(code: u8) -> Self {
        match code {
            0x00 => Self::Succeeded,
            0x02 => Self::NotAllowed,
            0x03 => Self::NetworkUnreachable,
            0x04 => Self::HostUnreachable,
            0x05 => Self::ConnectionRefused,
            0x06 => Self::TtlExpired,
            0x07 => Self::CommandNotSupported,
            0x08 => Self::AddressTypeNotSupported,
            _ => Self::GeneralFailure,
        }
    }
}

/// The server's answer to a [`Request`] (RFC 1928 §6).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Response<'a> {
    /// The result.
    pub reply: Reply,
    /// The local address of the server's connection; for [`Command::UdpAssociate`], where to send datagrams.
    pub bound: AddressRef<'a>,
}

impl<'a> Response<'a> {
    /// A failure, with the address `0.0.0.0:0`.
    #[must_use]
    pub const fn failure(reply: Reply) -> Self {
        Self {
            reply,
            bound: AddressRef::Ip(SocketAddr::new(
                std::net::IpAddr::V4(Ipv4Addr::UNSPECIFIED),
                0,
            )),
        }
    }

    /// Reads a response and returns it with its length; `Ok(None)` if more bytes are needed.
    ///
    /// # Errors
    /// [`Error::SocksVersion`], [`Error::AddressType`], [`Error::AddressDomain`].
    pub fn parse(bytes: &'a [u8]) -> Result<Option<(Self, usize)>, Error> {
        let Some((reply, bound, used)) = parse_addressed(bytes)? else {
            return Ok(None);
        };
        Ok(Some((
            Self {
                reply: reply.into(),
                bound,
            },
            used,
        )))
    }

    /// Writes the response and returns its length, at most [`MAX_REQUEST_LEN`]. `None` if it does not fit.
    #[must_use]
    pub fn encode(&self, out: &mut [u8]) -> Option<usize> {
        encode_addressed(self.reply.code(), self.bound, out)
    }
}

/// The bytes before the address of a datagram that is not a fragment (RFC 1928 §7).
pub const UDP_PREFIX: [u8; 3] = [0; 3];

/// Reads the bytes before the address of a datagram (RFC 1928 §7): returns the fragment number, 0 if the datagram is whole,
/// and where the address starts. The reserved bytes are ignored.
///
/// # Errors
/// [`Error::Truncated`] if the datagram is shorter than that.
pub fn parse_udp_prefix(datagram: &[u8]) -> Result<(u8, usize), Error> {
    match datagram.first_chunk() {
        Some([_, _, fragment]) => Ok((*fragment, UDP_PREFIX.len())),
        None => Err(Error::Truncated),
    }
}

/// Reads version ‖ code ‖ reserved ‖ address, the format of requests and responses.
fn parse_addressed(bytes: &[u8]) -> Result<Option<(u8, AddressRef<'_>, usize)>, Error> {
    let mut reader = Reader::versioned(bytes, VERSION, Error::SocksVersion)?;
    let (Some(code), Some(_reserved)) = (reader.byte(), reader.byte()) else {
        return Ok(None);
    };
    let Some((address, len)) = AddressRef::parse(reader.rest)? else {
        return Ok(None);
    };
    Ok(Some((code, address, reader.used() + len)))
}

/// Writes what [`parse_addressed`] reads.
fn encode_addressed(code: u8, address: AddressRef<'_>, out: &mut [u8]) -> Option<usize> {
    let (head, rest) = out.split_first_chunk_mut()?;
    *head = [VERSION, code, RESERVED];
    Some(head.len() + address.encode(rest)?)
}

/// Reads the fields of a message in order; `None` if it ends too early.
struct Reader<'a> {
    rest: &'a [u8],
    total: usize,
}

impl<'a> Reader<'a> {
    /// A reader positioned after the version byte, which must be `version` once it has arrived.
    fn versioned(bytes: &'a [u8], version: u8, error: fn(u8) -> Error) -> Result<Self, Error> {
        let rest = match bytes.split_first() {
            Some((first, _)) if *first != version => return Err(error(*first)),
            Some((_, rest)) => rest,
            None => bytes,
        };
        Ok(Self {
            rest,
            total: bytes.len(),
        })
    }

    fn byte(&mut self) -> Option<u8> {
        let (byte, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*byte)
    }

    /// A field preceded by its length in one byte.
    fn prefixed(&mut self) -> Option<&'a [u8]> {
        let len = usize::from(self.byte()?);
        let (field, rest) = self.rest.split_at_checked(len)?;
        self.rest = rest;
        Some(field)
    }

    const fn used(&self) -> usize {
        self.total - self.rest.len()
    }
}

/// Writes fields to a buffer in order; `None` if there is no room.
struct Writer<'a> {
    rest: &'a mut [u8],
    total: usize,
}

impl<'a> Writer<'a> {
    const fn new(out: &'a mut [u8]) -> Self {
        let total = out.len();
        Self { rest: out, total }
    }

    fn byte(&mut self, byte: u8) -> Option<()> {
        self.bytes(&[byte])
    }

    fn bytes(&mut self, bytes: &[u8]) -> Option<()> {
        let (field, rest) = std::mem::take(&mut self.rest).split_at_mut_checked(bytes.len())?;
        field.copy_from_slice(bytes);
        self.rest = rest;
        Some(())
    }

    const fn written(&self) -> usize {
        self.total - self.rest.len()
    }
}

#[cfg(test)]
mod tests;
