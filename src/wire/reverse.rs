//! Reverse tunnels: the frames of many streams inside one.
//!
//! ```text
//! 0000 InitialRemoteServer   op u16be ‖ length u32be ‖ name          \
//! 0001 InitialConnection     op ‖ id u48be ‖ port u16be               | port-proxy's own (v0)
//! 0002 Heartbeat             op                                      /
//! 0003 Data                  op ‖ id ‖ length u32be ‖ bytes          \ both versions
//! 0004 CloseConnection       op ‖ id                                 / here: reset
//! 0005… (v1)                 op ‖ id ‖ length u32be ‖ payload        what is not known can be skipped
//! ```
//!
//! A v1 link begins with [`Frame::Hello`] from both ends. Streams that the server opens have even ids, those of the
//! client odd ones; none is used twice.

mod decoder;
mod payload;

pub use decoder::{Decoder, Item};
pub use payload::{Code, Hello, Open, Protocol, Register};

use super::{AddressRef, Error};
use payload::{Reader, Writer};

/// Bytes before the payload of Data and of every frame of v1.
pub const HEADER_LEN: usize = 2 + 6 + 4;
/// The longest payload, in bytes: with its header a frame fits one chunk of SIP004.
pub const MAX_PAYLOAD: usize = 16_371;
/// The largest id: 48 bits.
pub const MAX_ID: u64 = (1 << 48) - 1;
/// Bytes of the longest message for people; what is longer is cut.
pub const MAX_MESSAGE: usize = 512;
/// Bytes of the nonce that a dialled-back connection shows.
pub const NONCE_LEN: usize = 16;
/// Where the carrying stream says that it wants to go: no resolver of another's server knows the name.
pub const HOST: &str = "tunnel.v1.ssr.invalid";
/// The port that goes with [`HOST`].
pub const PORT: u16 = 9015;

/// The target address of a carrier.
#[must_use]
pub const fn target() -> AddressRef<'static> {
    AddressRef::Domain(HOST, PORT)
}

mod op {
    pub(super) const NAME: u16 = 0x0000;
    pub(super) const CONNECTION: u16 = 0x0001;
    pub(super) const HEARTBEAT: u16 = 0x0002;
    pub(super) const DATA: u16 = 0x0003;
    pub(super) const RESET: u16 = 0x0004;
    pub(super) const HELLO: u16 = 0x0005;
    pub(super) const REGISTER: u16 = 0x0006;
    pub(super) const REGISTER_RESULT: u16 = 0x0007;
    pub(super) const OPEN: u16 = 0x0008;
    pub(super) const OPEN_RESULT: u16 = 0x0009;
    pub(super) const WINDOW: u16 = 0x000A;
    pub(super) const FIN: u16 = 0x000B;
    pub(super) const DATAGRAM: u16 = 0x000C;
    pub(super) const PING: u16 = 0x000D;
    pub(super) const PONG: u16 = 0x000E;
    pub(super) const GO_AWAY: u16 = 0x000F;
    pub(super) const ACCEPT: u16 = 0x0010;
}

/// One frame. Texts and payloads are borrowed, from the bytes that they were read from as a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// v0: which server of the client's the link is for.
    InitialRemoteServer {
        /// Its name.
        name: &'a str,
    },
    /// v0: a visitor has come.
    InitialConnection {
        /// The connection.
        id: u64,
        /// The port of the target.
        port: u16,
    },
    /// v0: still there.
    Heartbeat,
    /// Bytes of a stream.
    Data {
        /// The stream.
        id: u64,
        /// The bytes.
        payload: &'a [u8],
    },
    /// The stream is over, in both directions and at once; also the end of a flow of datagrams.
    Reset {
        /// The stream or flow.
        id: u64,
    },
    /// The first frame of each end.
    Hello(Hello),
    /// The client offers a service.
    Register {
        /// The service's number on this link.
        service: u64,
        /// What is asked for.
        register: Register<'a>,
    },
    /// The server's answer to [`Frame::Register`].
    RegisterResult {
        /// The service.
        service: u64,
        /// [`Code::OK`], or why not.
        code: Code,
        /// Where it can be reached now.
        bound: AddressRef<'a>,
        /// The same for people.
        message: &'a str,
    },
    /// A visitor has come: a new stream, or a new flow of datagrams.
    Open {
        /// The stream or flow.
        id: u64,
        /// Which service, and between whom.
        open: Open<'a>,
    },
    /// Whether the target could be reached.
    OpenResult {
        /// The stream.
        id: u64,
        /// [`Code::OK`], or why not.
        code: Code,
        /// The same for people.
        message: &'a str,
    },
    /// The other end may send so many bytes more.
    Window {
        /// The stream.
        id: u64,
        /// How many more.
        credit: u32,
    },
    /// Nothing more comes in this direction.
    Fin {
        /// The stream.
        id: u64,
    },
    /// A datagram.
    Datagram {
        /// The flow.
        id: u64,
        /// Its bytes.
        payload: &'a [u8],
    },
    /// To be answered by a [`Frame::Pong`] of the same number.
    Ping {
        /// Any number.
        opaque: u64,
    },
    /// The answer.
    Pong {
        /// The number of the ping.
        opaque: u64,
    },
    /// The sender opens nothing more and will end the link.
    GoAway {
        /// Why.
        code: Code,
        /// When another link is welcome, in milliseconds.
        retry_ms: u32,
        /// The same for people.
        message: &'a str,
    },
    /// A dialled-back connection names the stream that it carries; its bytes follow.
    Accept {
        /// The stream.
        id: u64,
        /// What [`Frame::Open`] said.
        nonce: [u8; NONCE_LEN],
    },
}

/// What comes before the payload of a Data frame.
#[must_use]
pub fn data_header(id: u64, len: usize) -> [u8; HEADER_LEN] {
    header(op::DATA, id, len)
}

fn header(op: u16, id: u64, len: usize) -> [u8; HEADER_LEN] {
    let [a, b] = op.to_be_bytes();
    let [_, _, c, d, e, f, g, h] = id.to_be_bytes();
    // No payload that is written here is longer than MAX_PAYLOAD.
    let [i, j, k, l] = u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes();
    [a, b, c, d, e, f, g, h, i, j, k, l]
}

impl Frame<'_> {
    /// Writes the frame to the start of `out` and returns its length. `None` when it does not fit, or when a part of it
    /// is longer than the protocol allows.
    #[must_use]
    pub fn encode(&self, out: &mut [u8]) -> Option<usize> {
        match *self {
            Self::InitialRemoteServer { name } => {
                let mut writer = Writer::new(out);
                writer.put(&op::NAME.to_be_bytes())?;
                let len = u32::try_from(name.len()).ok()?;
                writer.put(&len.to_be_bytes())?;
                (name.len() <= MAX_PAYLOAD).then_some(())?;
                writer.put(name.as_bytes())?;
                return Some(writer.len());
            }
            Self::InitialConnection { id, port } => {
                let mut writer = Writer::new(out);
                writer.put(header(op::CONNECTION, id, 0).get(..8)?)?;
                writer.put(&port.to_be_bytes())?;
                return Some(writer.len());
            }
            Self::Heartbeat => {
                let mut writer = Writer::new(out);
                writer.put(&op::HEARTBEAT.to_be_bytes())?;
                return Some(writer.len());
            }
            Self::Reset { id } => {
                let mut writer = Writer::new(out);
                writer.put(header(op::RESET, id, 0).get(..8)?)?;
                return Some(writer.len());
            }
            _ => {}
        }
        let (head, body) = out.split_first_chunk_mut::<HEADER_LEN>()?;
        let mut writer = Writer::new(body);
        let (op, id) = self.write_payload(&mut writer)?;
        let len = writer.len();
        (len <= MAX_PAYLOAD && id <= MAX_ID).then_some(())?;
        *head = header(op, id, len);
        Some(HEADER_LEN + len)
    }

    /// Writes what follows the header; returns the op and the id.
    fn write_payload(&self, out: &mut Writer<'_>) -> Option<(u16, u64)> {
        Some(match *self {
            Self::Data { id, payload } => {
                out.put(payload)?;
                (op::DATA, id)
            }
            Self::Hello(hello) => {
                hello.write(out)?;
                (op::HELLO, 0)
            }
            Self::Register { service, register } => {
                register.write(out)?;
                (op::REGISTER, service)
            }
            Self::RegisterResult {
                service,
                code,
                bound,
                message,
            } => {
                out.put(&code.0.to_be_bytes())?;
                out.address(bound)?;
                out.message(message)?;
                (op::REGISTER_RESULT, service)
            }
            Self::Open { id, open } => {
                open.write(out)?;
                (op::OPEN, id)
            }
            Self::OpenResult { id, code, message } => {
                out.put(&code.0.to_be_bytes())?;
                out.message(message)?;
                (op::OPEN_RESULT, id)
            }
            Self::Window { id, credit } => {
                out.put(&credit.to_be_bytes())?;
                (op::WINDOW, id)
            }
            Self::Fin { id } => (op::FIN, id),
            Self::Datagram { id, payload } => {
                out.put(payload)?;
                (op::DATAGRAM, id)
            }
            Self::Ping { opaque } => {
                out.put(&opaque.to_be_bytes())?;
                (op::PING, 0)
            }
            Self::Pong { opaque } => {
                out.put(&opaque.to_be_bytes())?;
                (op::PONG, 0)
            }
            Self::GoAway {
                code,
                retry_ms,
                message,
            } => {
                out.put(&code.0.to_be_bytes())?;
                out.put(&retry_ms.to_be_bytes())?;
                out.message(message)?;
                (op::GO_AWAY, 0)
            }
            Self::Accept { id, nonce } => {
                out.put(&nonce)?;
                (op::ACCEPT, id)
            }
            Self::InitialRemoteServer { .. }
            | Self::InitialConnection { .. }
            | Self::Heartbeat
            | Self::Reset { .. } => return None,
        })
    }
}

/// Reads a frame with the header of v1 whose payload is whole. What a later version adds at the end of a payload is
/// not looked at.
fn parse(op: u16, id: u64, payload: &[u8]) -> Result<Frame<'_>, Error> {
    let mut rest = Reader(payload);
    Ok(match op {
        op::DATA => Frame::Data { id, payload },
        op::HELLO => Frame::Hello(Hello::read(&mut rest)?),
        op::REGISTER => Frame::Register {
            service: id,
            register: Register::read(&mut rest)?,
        },
        op::REGISTER_RESULT => Frame::RegisterResult {
            service: id,
            code: Code(u16::from_be_bytes(rest.take()?)),
            bound: rest.address()?,
            message: rest.message()?,
        },
        op::OPEN => Frame::Open {
            id,
            open: Open::read(&mut rest)?,
        },
        op::OPEN_RESULT => Frame::OpenResult {
            id,
            code: Code(u16::from_be_bytes(rest.take()?)),
            message: rest.message()?,
        },
        op::WINDOW => Frame::Window {
            id,
            credit: u32::from_be_bytes(rest.take()?),
        },
        op::FIN => Frame::Fin { id },
        op::DATAGRAM => Frame::Datagram { id, payload },
        op::PING => Frame::Ping {
            opaque: u64::from_be_bytes(rest.take()?),
        },
        op::PONG => Frame::Pong {
            opaque: u64::from_be_bytes(rest.take()?),
        },
        op::GO_AWAY => Frame::GoAway {
            code: Code(u16::from_be_bytes(rest.take()?)),
            retry_ms: u32::from_be_bytes(rest.take()?),
            message: rest.message()?,
        },
        op::ACCEPT => Frame::Accept {
            id,
            nonce: rest.take()?,
        },
        // What is not known has been skipped.
        _ => return Err(Error::FrameUnexpected),
    })
}

#[cfg(test)]
mod tests;
