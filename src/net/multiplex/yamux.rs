//! yamux, as the crate of libp2p speaks it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_core::Stream as _;
use futures_io::AsyncWrite as _;
use yamux::{Config, Connection, ConnectionError, Mode, Packet};

use super::carrier::{Carrier, Ended};
use super::channel::{Channel, stream};
use super::session::{Role, Session, invalid};
use crate::limits::{MAX_MULTIPLEX_STREAMS, MULTIPLEX_WINDOW};
use crate::net::Stream;

/// Streams at which the crate ends the session. Before that, each stream above our limit is reset.
const MAX_STREAMS: usize = 2 * MAX_MULTIPLEX_STREAMS;

pub(super) struct Yamux {
    connection: Connection<Carrier>,
    ended: Ended,
}

impl Yamux {
    pub(super) fn new(carrier: Stream, role: Role) -> Self {
        let mut config = Config::default();
        // The windows of streams do not grow: what a session can make us hold is bounded.
        let window = usize::try_from(MULTIPLEX_WINDOW).unwrap_or(usize::MAX);
        config.set_max_num_streams(MAX_STREAMS);
        config.set_max_connection_receive_window(Some(MAX_STREAMS * window));
        let mode = match role {
            Role::Client => Mode::Client,
            Role::Server => Mode::Server,
        };
        let carrier = Carrier::new(carrier);
        Self {
            ended: carrier.ended(),
            connection: Connection::new(carrier, config, mode),
        }
    }

    fn channel(&self, stream: yamux::Stream) -> Within {
        Within {
            stream: Some(stream),
            ended: self.ended.clone(),
            has_ended: false,
        }
    }
}

impl Session for Yamux {
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Stream>>> {
        match ready!(self.connection.poll_next_inbound(cx)) {
            None => Poll::Ready(Ok(None)),
            Some(Err(error)) => Poll::Ready(Err(failure(error))),
            Some(Ok(mut accepted)) => {
                // An empty frame acknowledges the stream: a client of sing-box gives up the session when that does not
                // come within seconds, however long the target takes.
                if let Poll::Ready(Err(error)) = Pin::new(&mut accepted).poll_write(cx, &[]) {
                    return Poll::Ready(Err(error));
                }
                Poll::Ready(Ok(Some(stream(self.channel(accepted)))))
            }
        }
    }

    fn poll_open(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Stream>> {
        let opened = ready!(self.connection.poll_new_outbound(cx)).map_err(failure)?;
        Poll::Ready(Ok(stream(self.channel(opened))))
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.connection.poll_close(cx).map_err(failure)
    }
}

fn failure(error: ConnectionError) -> io::Error {
    match error {
        ConnectionError::Io(error) => error,
        ConnectionError::Closed => io::ErrorKind::ConnectionAborted.into(),
        other => invalid(other.to_string()),
    }
}

struct Within {
    /// `None`: it was reset.
    stream: Option<yamux::Stream>,
    /// Whether the carrier has ended.
    ended: Ended,
    /// Whether our direction has.
    has_ended: bool,
}

impl Channel for Within {
    type Data = Packet;

    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Packet>>> {
        let Some(stream) = &mut self.stream else {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        };
        match ready!(Pin::new(&mut *stream).poll_next(cx)) {
            Some(Ok(packet)) => Poll::Ready(Ok(Some(packet))),
            Some(Err(error)) => Poll::Ready(Err(error)),
            // The crate reports a reset as an end. An end of the peer alone leaves our direction open.
            None if self.ended.get() || (stream.is_closed() && !self.has_ended) => {
                Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()))
            }
            None => Poll::Ready(Ok(None)),
        }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Some(stream) => Pin::new(stream).poll_write(cx, bytes),
            None => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
        }
    }

    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.has_ended {
            return Poll::Ready(Ok(()));
        }
        if let Some(stream) = &mut self.stream {
            ready!(Pin::new(stream).poll_close(cx))?;
        }
        self.has_ended = true;
        Poll::Ready(Ok(()))
    }

    fn reset(&mut self) {
        // The crate resets a stream that is dropped before its end.
        self.stream = None;
    }
}
