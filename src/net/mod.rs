//! Floor 2: sockets. Listeners, dialling, streams and datagram batches; nothing here knows a protocol.
//!
//! - [`options`]: what may be set on a socket.
//! - [`listener`]: one listening socket a worker, bound so that a second process is refused.
//! - [`dial`]: connecting, with the address families raced (RFC 8305).
//! - [`stream`]: a byte stream, read and written in vectors: TCP, a layer over it, or the end of a pipe.
//! - [`pipe`]: a stream in memory, whose other end is a multiplexer's.
//! - [`splice`]: from socket to socket inside the kernel.
//! - [`ws`]: WebSocket over a stream, from the upgrade on, and the streams of mux.cool within it.
//! - [`handshake`]: what is read before a stream can be relayed.
//! - [`pool`]: the buffers that are held only while data moves.
//! - [`slots`]: copies between contiguous bytes and vectors.
//! - [`tls`]: TLS over a stream.
//! - [`transport`]: TLS, WebSocket, or one in the other, as a config asks for them.
//! - [`udp`]: datagrams in batches.
//! - [`tasks`], [`sync`]: background tasks that end with their owner; locks.

mod clock;
pub mod dial;
mod error;
pub mod handshake;
mod linux;
pub mod listener;
pub mod options;
pub mod pipe;
pub mod pool;
pub mod slots;
pub mod splice;
pub mod stream;
pub mod sync;
pub mod tasks;
pub mod tls;
pub mod transport;
pub mod udp;
pub mod ws;

pub use clock::{FAREWELL, unix_now};
pub use error::Error;
pub use options::{SocketOptions, UdpOptions};
pub use stream::{Parked, Stream};
