//! Why a stream could not be served, and which side is to blame.

use std::io;

use crate::{net, wire};

/// Which of a relay's two neighbours is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Who came to us.
    Client,
    /// Whom we went to.
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

/// Why a stream was not served to its end, and who is to blame.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A connection broke.
    #[error("{side}: {source}")]
    Io {
        /// Whose connection it was.
        side: Side,
        /// What the system said.
        source: io::Error,
    },
    /// A peer broke its protocol.
    #[error("{side}: {source}")]
    Wire {
        /// Who broke it.
        side: Side,
        /// What was wrong.
        source: wire::Error,
    },
    /// A stream that ended in the middle of a chunk.
    #[error("{0}: the stream was cut in the middle of a chunk")]
    Cut(Side),
    /// The client did not finish its handshake in time.
    #[error("client: no complete handshake in time")]
    HandshakeTimeout,
    /// The client went away before it had said what it wants.
    #[error("client: gone before its request was complete")]
    HandshakeEnd,
    /// The client gave a user name or password that is not one of ours.
    #[error("client: wrong user name or password")]
    Credentials,
    /// The client asked for what is not offered.
    #[error("client: {0} is not offered here")]
    NotOffered(&'static str),
    /// The target or server could not be connected to.
    #[error("upstream: {0}")]
    Connect(#[from] net::Error),
    /// The target's name could not be resolved.
    #[error("upstream: cannot resolve {name}: {reason}")]
    Resolve {
        /// The name.
        name: String,
        /// What the resolver said.
        reason: String,
    },
    /// The config forbids the target.
    #[error("upstream: {0} is a private address, and `deny_private` is set")]
    Denied(std::net::IpAddr),
    /// The other end of a link does not answer any more.
    #[error("{side}: not a word for {seconds} s")]
    Silent {
        /// Whose end it was.
        side: Side,
        /// For how long, in seconds.
        seconds: u64,
    },
    /// The client of a link has another one in its place.
    #[error("the client has made a new link in place of this one")]
    Replaced,
    /// Nothing moved for too long.
    #[error("nothing moved for {seconds} s")]
    Idle {
        /// The limit, in seconds.
        seconds: u64,
    },
}

impl Error {
    /// Blames `side` for an error of the system.
    pub(crate) const fn io(side: Side) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { side, source }
    }

    /// A short name, fit for a metric label and a log field.
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
            Self::Wire { source, .. } => source.status(),
            Self::Cut(_) => "cut",
            Self::HandshakeTimeout => "handshake_timeout",
            Self::HandshakeEnd => "handshake_end",
            Self::Credentials => "credentials",
            Self::NotOffered(_) => "not_offered",
            Self::Connect(_) => "connect",
            Self::Resolve { .. } => "resolve",
            Self::Denied(_) => "denied",
            Self::Silent { .. } => "silent",
            Self::Replaced => "replaced",
            Self::Idle { .. } => "idle",
        }
    }
}
