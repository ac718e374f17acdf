//! Why a stream could not be served, and which side is to blame.

use std::io;

use super::users::Refusal;
use crate::{net, wire};

/// One of the two sides of a relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The side that connected to us.
    Client,
    /// The side that we connect to: a target or a server.
    Upstream,
}

impl std::fmt::Display for Side {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Client => "client",
            Self::Upstream => "upstream",
        })
    }
}

/// Why a stream was not served to its end, and which side is to blame.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A connection broke.
    #[error("the connection to the {side} broke: {source}")]
    Io {
        /// The side whose connection it was.
        side: Side,
        /// What the system said.
        source: io::Error,
    },
    /// A peer broke its protocol.
    #[error("the {side} sent invalid data: {source}")]
    Wire {
        /// The side that broke it.
        side: Side,
        /// What was wrong.
        source: wire::Error,
    },
    /// A client broke the protocol, and is known by its key all the same.
    #[error("the client sent invalid data: {source}")]
    OfUser {
        /// The name of its user.
        user: Box<str>,
        /// What was wrong.
        source: wire::Error,
    },
    /// The client sent something, and then too little for a request.
    #[error(
        "the client sent {bytes} bytes, which are no whole request: its method may be another one"
    )]
    Incomplete {
        /// How many bytes came.
        bytes: usize,
    },
    /// A stream ended in the middle of a chunk.
    #[error("the {0} ended its stream in the middle of a chunk")]
    Cut(Side),
    /// The client did not complete its handshake in time.
    #[error("the client did not complete its handshake in time")]
    HandshakeTimeout,
    /// The client closed its connection before its request was complete.
    #[error("the client closed its connection before its request was complete")]
    HandshakeEnd,
    /// The client gave an unknown user name or a wrong password.
    #[error("the client gave an unknown user name or a wrong password")]
    Credentials,
    /// The client requested something that is not offered.
    #[error("the client's request was refused: {0}")]
    NotOffered(&'static str),
    /// There is no connection to the target or server.
    #[error(transparent)]
    Connect(#[from] net::Error),
    /// A proxy on the way (`outbound_proxy`) made no connection.
    #[error("the proxy {proxy} {reason}")]
    Proxy {
        /// Its URL without the login.
        proxy: String,
        /// What it did, or what is wrong with it.
        reason: String,
    },
    /// The target's name could not be resolved.
    #[error("cannot resolve {name}: {reason}")]
    Resolve {
        /// The name.
        name: String,
        /// What the resolver said.
        reason: String,
    },
    /// The config forbids the target.
    #[error("{} is private or this machine's own, and `deny_private` is set", .0.to_canonical())]
    Denied(std::net::IpAddr),
    /// A rule of the config refuses the target or the client.
    #[error("a rule of the config refuses the {0}")]
    Blocked(&'static str),
    /// The user may not go on, or not begin.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The target is a fake address that stands for no name.
    #[error(
        "{0} is a `fake-dns` address without a name: its time has passed, or it is of an earlier run; resolve the name again"
    )]
    NoName(std::net::SocketAddr),
    /// The peer of a link does not answer any more.
    #[error("no reply from the {side} within {seconds} s")]
    Silent {
        /// The side where the peer is.
        side: Side,
        /// The limit, in seconds.
        seconds: u64,
    },
    /// Too much waits, or too much is in use.
    #[error("out of resources: {0}")]
    Overloaded(&'static str),
    /// The client of a link has replaced it with another.
    #[error("the client replaced this link with a new one")]
    Replaced,
    /// Data was sent again and again, and its receiver is not there any more.
    #[error(
        "the {side} has acknowledged nothing for {seconds} s, although data was sent to it again and again"
    )]
    Unacknowledged {
        /// The side that it was sent to.
        side: Side,
        /// The limit, in seconds.
        seconds: u64,
    },
    /// Nothing moved for too long.
    #[error("no data in either direction for {seconds} s")]
    Idle {
        /// The limit, in seconds.
        seconds: u64,
    },
}

impl Error {
    /// Blames `side` for a system error.
    pub(crate) const fn io(side: Side) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { side, source }
    }

    /// The name of the user to blame, where only the error knows it.
    #[must_use]
    pub const fn user(&self) -> Option<&str> {
        match self {
            Self::OfUser { user, .. } => Some(user),
            _ => None,
        }
    }

    /// A short name for a metric label or a log field.
    #[must_use]
    pub const fn status(&self) -> &'static str {
        match self {
            Self::Io {
                side: Side::Client, ..
            } => "client_io",
            Self::Io {
                side: Side::Upstream,
                ..
            } => "upstream_io",
            Self::Wire { source, .. } | Self::OfUser { source, .. } => source.status(),
            Self::Incomplete { .. } => "incomplete",
            Self::Cut(_) => "cut",
            Self::HandshakeTimeout => "handshake_timeout",
            Self::HandshakeEnd => "handshake_end",
            Self::Credentials => "credentials",
            Self::NotOffered(_) => "not_offered",
            Self::Connect(_) => "connect",
            Self::Proxy { .. } => "proxy",
            Self::Resolve { .. } => "resolve",
            Self::Denied(_) => "denied",
            Self::Blocked(_) => "blocked",
            Self::Refused(refusal) => refusal.status(),
            Self::NoName(_) => "no_name",
            Self::Silent { .. } => "silent",
            Self::Overloaded(_) => "no_resources",
            Self::Replaced => "replaced",
            Self::Unacknowledged { .. } => "unacknowledged",
            Self::Idle { .. } => "idle",
        }
    }
}
