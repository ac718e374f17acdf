//! Errors of sockets, and of what is between a socket and the protocol inside.

use std::io;
use std::net::SocketAddr;

/// What went wrong, and with which address or name.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A socket cannot listen on an address of the config.
    #[error("cannot listen on {protocol} {}: {}", canonical(*address), reason(source))]
    Bind {
        /// `tcp` or `udp`.
        protocol: &'static str,
        /// The address of the config.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// No address of a target could be connected to; the error is that of the last one.
    #[error("cannot connect to {}: {source}", canonical(*address))]
    Connect {
        /// The last address that was tried.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// Connecting took too long.
    #[error("no connection within {seconds} s")]
    ConnectTimeout {
        /// The limit, in seconds.
        seconds: u64,
    },
    /// The server can be connected to, and does not go on with TLS or WebSocket.
    #[error(
        "connected, but no answer to TLS or WebSocket within {seconds} s: does the server expect this `transport`?"
    )]
    TransportTimeout {
        /// The limit, in seconds.
        seconds: u64,
    },
    /// The server refused the WebSocket upgrade.
    #[error("the WebSocket upgrade failed: {0}")]
    Upgrade(#[from] crate::wire::http::ResponseError),
    /// The connection broke during the upgrade, or the upgrade took too long.
    #[error("the WebSocket upgrade failed: {0}{hint}", hint = hint(.0))]
    UpgradeIo(#[source] io::Error),
    /// A path, host or header field of the config is not valid in an HTTP request.
    #[error(
        "the path, the host or a header field of the transport contains characters that HTTP forbids; remove them"
    )]
    UpgradeRequest,
    /// The TLS handshake failed, or the server is not the right one.
    #[error("the TLS handshake with {server} failed: {source}{hint}", hint = hint(source))]
    Tls {
        /// The name that the server was asked for.
        server: String,
        /// What went wrong.
        source: io::Error,
    },
    /// Another request has tried to open the session that this one was to use.
    #[error("no session of `multiplex`: {0}")]
    Session(String),
    /// The server did not open a stream in a session.
    #[error("no stream in the session of `multiplex`: {0}")]
    SessionStream(io::Error),
    /// The name of a target has no address that may be used.
    #[error("the name has no usable address")]
    NoAddress,
}

/// What to look at when a server does not go on with a transport.
fn hint(error: &io::Error) -> &'static str {
    use io::ErrorKind::{ConnectionReset, TimedOut, UnexpectedEof};
    match error.kind() {
        ConnectionReset | TimedOut | UnexpectedEof => "; does the server expect this `transport`?",
        _ => "",
    }
}

/// An IPv4-mapped IPv6 address as IPv4.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// What the system said, with what to do about it where that is known.
fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "the address is already in use; stop the other program or choose another port".into()
        }
        // Where it is known what is not permitted, the message says so.
        io::ErrorKind::PermissionDenied if error.raw_os_error().is_none() => error.to_string(),
        io::ErrorKind::PermissionDenied => {
            "permission denied; ports below 1024 need root or CAP_NET_BIND_SERVICE".into()
        }
        io::ErrorKind::AddrNotAvailable => "no interface of this machine has this address; use an address of this machine, or 0.0.0.0 or [::] for all".into(),
        _ => error.to_string(),
    }
}
