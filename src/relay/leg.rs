//! The two ends of a relay.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::time::Duration;

use super::error::Error;
use crate::net::Stream;
use crate::net::pool::Buffer;
use crate::wire::Address;
use crate::wire::ss::stream::{Opener, Sealer};

/// One end of a relay: a stream and its encryption.
pub struct Leg {
    /// The connection.
    pub stream: Stream,
    /// Its encryption; `None`: the stream is plain.
    pub codec: Option<(Opener, Sealer)>,
    /// The payload that came with the request.
    pub first: First,
    /// The other ways to the same target; `None`: there are none. It lives as long as the leg.
    pub others: Option<Box<dyn Others>>,
}

impl Leg {
    /// A plain stream of which nothing has been read.
    #[must_use]
    pub const fn plain(stream: Stream) -> Self {
        Self {
            stream,
            codec: None,
            first: First::Nothing,
            others: None,
        }
    }

    /// A plain stream whose client sent `ahead` after its handshake.
    #[must_use]
    pub fn ahead(stream: Stream, ahead: Vec<u8>) -> Self {
        let first = if ahead.is_empty() {
            First::Nothing
        } else {
            First::Ahead(ahead)
        };
        Self {
            first,
            ..Self::plain(stream)
        }
    }
}

/// Knows which server a leg goes through, and how to go through another one.
pub trait Others: Send + Sync {
    /// How long the server may take to acknowledge what it was sent, before its connection counts as dead.
    fn acknowledged_within(&self) -> Duration;

    /// How long the server may take to answer what it was sent, before another one is tried beside it.
    fn answered_within(&self) -> Duration;

    /// The server has answered, this long after it was sent something that asks for an answer; `None`: nothing did.
    fn answered(&self, after: Option<Duration>);

    /// The server has not answered a request that another one then answered.
    fn failed(&self, failure: &Failure);

    /// A request for `target` has ended without an answer, and no other server has answered it.
    fn unanswered(&self, failure: &Failure, target: &str);

    /// Whether the server has ever answered anything. If not, its key may be another one: then it has done nothing.
    fn has_answered(&self) -> bool;

    /// Whether the server has failed so often that a client should not wait long for it.
    fn is_suspect(&self) -> bool;

    /// Whether there is no other way: the request is not tried again.
    fn is_only(&self) -> bool {
        false
    }

    /// The server, for people.
    fn server(&self) -> Option<String> {
        None
    }

    /// Connects to another server that was not tried yet.
    ///
    /// # Errors
    /// When there is none, or none can be reached.
    fn next<'a>(&'a self, target: &'a Address) -> NextLeg<'a>;
}

/// What [`Others::next`] returns.
pub type NextLeg<'a> = Pin<Box<dyn Future<Output = Result<Leg, Error>> + Send + 'a>>;

impl Failure {
    /// How a server failed whose connection broke.
    pub(super) fn of_io(error: &io::Error) -> Self {
        if error.kind() == io::ErrorKind::ConnectionReset {
            return Self::Reset;
        }
        Self::Broken(error.to_string())
    }
}

/// How a server failed that could be connected to.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The connection ended before anything came back.
    #[error("it closed the connection without an answer")]
    Closed,
    /// The same, by a reset: it may have understood the request.
    #[error("it reset the connection without an answer")]
    Reset,
    /// The connection broke, or what came back was wrong.
    #[error("{0}")]
    Broken(String),
    /// Nothing came back.
    #[error("no answer within {0:?}")]
    Silent(Duration),
    /// What was sent was not acknowledged.
    #[error("nothing was acknowledged within {0:?}")]
    Dead(Duration),
}

/// Payload that came together with a request.
pub enum First {
    /// None.
    Nothing,
    /// Plain bytes that were read after a handshake.
    Ahead(Vec<u8>),
    /// A buffer with opened payload, and perhaps sealed bytes after it.
    Opened(Buffer),
}
