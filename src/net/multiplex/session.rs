//! What the three multiplexers have in common.

use std::io;
use std::task::{Context, Poll};

use crate::limits::MAX_MULTIPLEX_STREAMS;
use crate::net::Stream;

/// The side of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Opens streams.
    Client,
    /// Accepts them.
    Server,
}

/// A multiplexer over one stream.
pub(super) trait Session: Send {
    /// Moves what there is to move. Ready with a new stream of the peer, or with `None` at the end.
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Stream>>>;

    /// Opens a stream.
    fn poll_open(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Stream>>;

    /// Streams that the peer allows at once.
    fn most_streams(&self) -> usize {
        MAX_MULTIPLEX_STREAMS
    }

    /// Tells the peer that the session ends, and sends what is queued.
    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
}

pub(super) fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
