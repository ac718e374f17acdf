//! Errors of sockets.

use std::io;
use std::net::SocketAddr;

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
        source: io::Error,
    },
    /// None of a target's addresses could be connected to; the error is that of the last.
    #[error("cannot connect to {address}: {source}")]
    Connect {
        /// The address tried last.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
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
    UpgradeIo(#[source] io::Error),
    /// A path, host or header field of the config that cannot stand in a request.
    #[error(
        "a path, host or header field of the transport has characters that HTTP forbids: remove them"
    )]
    UpgradeRequest,
    /// The server is not the right one, or TLS with it broke.
    #[error("the TLS handshake with the server failed: {0}")]
    Tls(io::Error),
    /// A name without addresses that may be used.
    #[error("no usable address")]
    NoAddress,
}

/// The system's words, with what to do about them where that is known.
fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "the address is already in use; stop the other program or choose another port".into()
        }
        io::ErrorKind::PermissionDenied => {
            "permission denied; ports below 1024 need root or CAP_NET_BIND_SERVICE".into()
        }
        io::ErrorKind::AddrNotAvailable => "no interface of this machine has the address".into(),
        _ => error.to_string(),
    }
}
