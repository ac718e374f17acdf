//! More streams of the connection that a stream is in.

use std::io;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use quinn::{Connection, VarInt};

use super::settings::broken;
use super::stream::QuicStream;
use crate::net::Stream;
use crate::net::alive::Alive;

/// The connection of a stream. Streams that are opened or accepted here are reset if they are dropped before their end was written.
#[derive(Clone)]
pub struct Beside(Connection);

impl Beside {
    /// The connection that `stream` is in; `None`: it is no stream of QUIC.
    #[must_use]
    pub fn of(stream: &Stream) -> Option<Self> {
        stream.quic_connection().map(Self)
    }

    /// Opens a stream, if the peer takes one more at once. `counted` is kept as long as the stream.
    #[must_use]
    pub fn try_open(&self, counted: Alive) -> Option<Stream> {
        let open = pin!(self.0.open_bi());
        // Nobody waits: without a place there is no stream.
        let mut cx = Context::from_waker(Waker::noop());
        let Poll::Ready(Ok(streams)) = open.poll(&mut cx) else {
            return None;
        };
        let stream = QuicStream::new(self.0.clone(), streams);
        Some(Stream::quic(stream.whole_or_reset(Some(counted))))
    }

    /// Waits for a stream that the peer opens. Cancel safe.
    ///
    /// # Errors
    /// When the connection ends.
    pub async fn accept(&self) -> io::Result<Stream> {
        let streams = self.0.accept_bi().await;
        let streams = streams.map_err(|error| broken(&error))?;
        let stream = QuicStream::new(self.0.clone(), streams);
        Ok(Stream::quic(stream.whole_or_reset(None)))
    }

    /// Lets the peer open so many streams at once.
    pub fn allow(&self, streams: u32) {
        let streams = VarInt::from_u32(streams);
        self.0.set_max_concurrent_bi_streams(streams);
    }

    /// Takes so many bytes that nobody has read yet.
    pub fn take_unread(&self, bytes: u32) {
        self.0.set_receive_window(VarInt::from_u32(bytes));
    }
}
