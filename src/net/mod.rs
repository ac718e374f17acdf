//! Floor 2: sockets. Listeners, dialling, streams and datagram batches; nothing here knows a protocol.
//!
//! - [`options`]: what may be set on a socket.
//! - [`listener`]: one listening socket a worker, bound so that a second process is refused.
//! - [`dial`]: connecting, with the address families raced (RFC 8305).
//! - [`stream`]: a byte stream, read and written in vectors: TCP, a layer over it, or the end of a pipe.
//! - [`pipe`]: a stream in memory, whose other end is a multiplexer's.
//! - [`splice`]: from socket to socket inside the kernel.
//! - [`ws`]: WebSocket over a stream, from the upgrade on.
//! - [`mux`]: the streams of mux.cool within a WebSocket.
//! - [`pool`]: the buffers that are held only while data moves.
//! - [`tls`]: TLS over a stream.
//! - [`transport`]: TLS, WebSocket, or one in the other, as a config asks for them.
//! - [`udp`]: datagrams in batches.
//! - [`tasks`], [`sync`]: background tasks that end with their owner; locks.

pub mod dial;
mod linux;
pub mod listener;
pub mod mux;
pub mod options;
pub mod pipe;
pub mod pool;
pub mod splice;
pub mod stream;
pub mod sync;
pub mod tasks;
pub mod tls;
pub mod transport;
pub mod udp;
pub mod ws;

pub use options::{SocketOptions, UdpOptions};
pub use stream::{Parked, Stream};

use std::net::SocketAddr;
use std::time::Duration;

/// How long the last bytes to a peer may take before its connection is closed without them.
pub const FAREWELL: Duration = Duration::from_secs(1);

/// The time in Unix seconds; a clock before 1970 is taken for 1970.
#[must_use]
pub fn unix_now() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |time| time.as_secs())
}

/// What went wrong with a socket, and whose socket it was.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operator's address cannot be listened on.
    #[error("cannot listen on {protocol} {address}: {}", reason(source))]
    Bind {
        /// `tcp` or `udp`.
        protocol: &'static str,
        /// The address of the config.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// None of a target's addresses could be connected to; the error is that of the last.
    #[error("cannot connect to {address}: {source}")]
    Connect {
        /// The address tried last.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// Connecting took too long.
    #[error("connecting took longer than {seconds} s")]
    ConnectTimeout {
        /// The limit, in seconds.
        seconds: u64,
    },
    /// The server did not agree to a WebSocket.
    #[error("no WebSocket with the server: {0}")]
    Upgrade(#[from] crate::wire::http::ResponseError),
    /// The connection broke during the upgrade, or it took too long.
    #[error("no WebSocket with the server: {0}")]
    UpgradeIo(#[source] std::io::Error),
    /// A path, host or header field of the config that cannot stand in a request.
    #[error(
        "a path, host or header field of the transport has characters that HTTP forbids: remove them"
    )]
    UpgradeRequest,
    /// The server is not the right one, or TLS with it broke.
    #[error("the TLS handshake with the server failed: {0}")]
    Tls(std::io::Error),
    /// A name without addresses that may be used.
    #[error("no usable address")]
    NoAddress,
}

/// The system's words, with what to do about them where that is known.
fn reason(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::AddrInUse => {
            "the address is already in use; stop the other program or choose another port".into()
        }
        std::io::ErrorKind::PermissionDenied => {
            "permission denied; ports below 1024 need root or CAP_NET_BIND_SERVICE".into()
        }
        std::io::ErrorKind::AddrNotAvailable => {
            "no interface of this machine has the address".into()
        }
        _ => error.to_string(),
    }
}
