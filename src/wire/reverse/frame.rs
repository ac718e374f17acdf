//! The frames, and how each is written and read.

use super::payload::{
    Code, Connect, HEADER_LEN, Hello, MAX_ID, MAX_PAYLOAD, NONCE_LEN, Reader, Register, Writer,
};
use crate::wire::{AddressRef, Error};

/// The numbers of the frames.
pub(super) mod op {
    pub(in crate::wire::reverse) const INITIAL_REMOTE_SERVER: u16 = 0x0000;
    pub(in crate::wire::reverse) const INITIAL_CONNECTION: u16 = 0x0001;
    pub(in crate::wire::reverse) const HEARTBEAT: u16 = 0x0002;
    pub(in crate::wire::reverse) const DATA: u16 = 0x0003;
    pub(in crate::wire::reverse) const RESET: u16 = 0x0004;
    pub(in crate::wire::reverse) const HELLO: u16 = 0x0005;
    pub(in crate::wire::reverse) const REGISTER: u16 = 0x0006;
    pub(in crate::wire::reverse) const REGISTER_RESULT: u16 = 0x0007;
    pub(in crate::wire::reverse) const CONNECT: u16 = 0x0008;
    pub(in crate::wire::reverse) const CONNECT_RESULT: u16 = 0x0009;
    pub(in crate::wire::reverse) const WINDOW: u16 = 0x000A;
    pub(in crate::wire::reverse) const FIN: u16 = 0x000B;
    pub(in crate::wire::reverse) const DATAGRAM: u16 = 0x000C;
    pub(in crate::wire::reverse) const PING: u16 = 0x000D;
    pub(in crate::wire::reverse) const PONG: u16 = 0x000E;
    pub(in crate::wire::reverse) const GO_AWAY: u16 = 0x000F;
    pub(in crate::wire::reverse) const DIAL_BACK: u16 = 0x0010;
}

/// One frame. Text and payload are borrowed, usually from the bytes that the frame was read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// v0: names the client's server that the link is for.
    InitialRemoteServer {
        /// Its name.
        name: &'a str,
    },
    /// v0: a visitor has connected.
    InitialConnection {
        /// The connection.
        id: u64,
        /// The port of the target.
        port: u16,
    },
    /// v0: the sender is alive.
    Heartbeat,
    /// Bytes of a stream.
    Data {
        /// The stream.
        id: u64,
        /// The bytes.
        payload: &'a [u8],
    },
    /// Closes a stream abruptly in both directions, or ends a flow of datagrams.
    Reset {
        /// The stream or flow.
        id: u64,
    },
    /// The first frame of each side.
    Hello(Hello),
    /// The client asks the server to publish a service.
    Register {
        /// The service's id on this link.
        service: u64,
        /// The service.
        register: Register<'a>,
    },
    /// The server's answer to [`Frame::Register`].
    RegisterResult {
        /// The service.
        service: u64,
        /// [`Code::OK`], or the reason of the refusal.
        code: Code,
        /// The public address of the service.
        bound: AddressRef<'a>,
        /// The reason in words, for logs.
        message: &'a str,
    },
    /// A visitor has connected: opens a stream, or a flow of datagrams.
    Connect {
        /// The new stream or flow.
        id: u64,
        /// The service and the visitor's addresses.
        connect: Connect<'a>,
    },
    /// The answer to [`Frame::Connect`]: whether the target could be reached.
    ConnectResult {
        /// The stream or flow.
        id: u64,
        /// [`Code::OK`], or the reason of the failure.
        code: Code,
        /// The reason in words, for logs.
        message: &'a str,
    },
    /// Grants the peer credit: it may send this many more bytes.
    Window {
        /// The stream.
        id: u64,
        /// Additional bytes.
        credit: u32,
    },
    /// The end of the stream in this direction.
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
    /// Asks for a [`Frame::Pong`] with the same number.
    Ping {
        /// Any number.
        opaque: u64,
    },
    /// The answer to [`Frame::Ping`].
    Pong {
        /// The number of the ping.
        opaque: u64,
    },
    /// The sender opens no more streams and will close the link.
    GoAway {
        /// The reason.
        code: Code,
        /// How long the peer should wait before it connects again, in milliseconds.
        retry_ms: u32,
        /// The reason in words, for logs.
        message: &'a str,
    },
    /// Reserved: the first frame of a separate connection that carries one stream.
    DialBack {
        /// The stream.
        id: u64,
        /// Proof that the connection belongs to the stream.
        nonce: [u8; NONCE_LEN],
    },
}

/// The header of a Data frame.
#[must_use]
pub fn data_header(id: u64, len: usize) -> [u8; HEADER_LEN] {
    header(op::DATA, id, len)
}

pub(super) fn header(op: u16, id: u64, len: usize) -> [u8; HEADER_LEN] {
    let [a, b] = op.to_be_bytes();
    let [_, _, c, d, e, f, g, h] = id.to_be_bytes();
    // Payloads written here are at most MAX_PAYLOAD long.
    let [i, j, k, l] = u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes();
    [a, b, c, d, e, f, g, h, i, j, k, l]
}

impl Frame<'_> {
    /// Writes the frame to the start of `out` and returns its length. `None`: it does not fit, or a field is longer than
    /// the protocol allows.
    #[must_use]
    pub fn encode(&self, out: &mut [u8]) -> Option<usize> {
        let mut writer = Writer::new(out);
        match *self {
            Self::InitialRemoteServer { name } if name.len() <= MAX_PAYLOAD => {
                writer.put(&op::INITIAL_REMOTE_SERVER.to_be_bytes())?;
                writer.put(&u32::try_from(name.len()).ok()?.to_be_bytes())?;
                writer.put(name.as_bytes())?;
            }
            Self::InitialConnection { id, port } => {
                writer.put(header(op::INITIAL_CONNECTION, id, 0).get(..8)?)?;
                writer.put(&port.to_be_bytes())?;
            }
            Self::Heartbeat => writer.put(&op::HEARTBEAT.to_be_bytes())?,
            Self::Reset { id } => writer.put(header(op::RESET, id, 0).get(..8)?)?,
            _ => return self.encode_v1(out),
        }
        Some(writer.len())
    }

    fn encode_v1(&self, out: &mut [u8]) -> Option<usize> {
        let (head, body) = out.split_first_chunk_mut::<HEADER_LEN>()?;
        let mut writer = Writer::new(body);
        let (op, id) = self.write_payload(&mut writer)?;
        let len = writer.len();
        (len <= MAX_PAYLOAD && id <= MAX_ID).then_some(())?;
        *head = header(op, id, len);
        Some(HEADER_LEN + len)
    }

    /// Writes the payload and returns the op and the id.
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
            Self::Connect { id, connect } => {
                connect.write(out)?;
                (op::CONNECT, id)
            }
            Self::ConnectResult { id, code, message } => {
                out.put(&code.0.to_be_bytes())?;
                out.message(message)?;
                (op::CONNECT_RESULT, id)
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
            Self::DialBack { id, nonce } => {
                out.put(&nonce)?;
                (op::DIAL_BACK, id)
            }
            Self::InitialRemoteServer { .. }
            | Self::InitialConnection { .. }
            | Self::Heartbeat
            | Self::Reset { .. } => return None,
        })
    }
}

/// Parses a frame with a v1 header and a complete payload. Bytes behind the known fields are ignored, so that a later
/// version can add fields.
pub(super) fn parse(op: u16, id: u64, payload: &[u8]) -> Result<Frame<'_>, Error> {
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
        op::CONNECT => Frame::Connect {
            id,
            connect: Connect::read(&mut rest)?,
        },
        op::CONNECT_RESULT => Frame::ConnectResult {
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
        op::DIAL_BACK => Frame::DialBack {
            id,
            nonce: rest.take()?,
        },
        // The decoder has skipped unknown ops.
        _ => return Err(Error::FrameUnexpected),
    })
}
