//! One QUIC stream in both directions.

use std::collections::VecDeque;
use std::future::Future;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes};
use quinn::{Connection, ReadError, RecvStream, SendStream, WriteError};

use super::carrier::Flow;
use super::early::Early;
use super::settings::{CANCELLED, broken};
use crate::net::alive::Alive;

/// Pieces of the stream that are taken from the connection at once: one a packet, as a rule.
const PIECES: usize = 32;

/// One stream.
pub(in crate::net) struct QuicStream {
    connection: Connection,
    send: SendStream,
    recv: RecvStream,
    /// What was taken from the connection and not yet read. Empty while the stream is idle.
    taken: VecDeque<Bytes>,
    /// The peer has ended its direction, or it broke.
    end: Option<End>,
    /// What was sent before the server has agreed to it.
    early: Option<Box<Early>>,
    local: Option<SocketAddr>,
    /// Keeps the connection in use.
    _flow: Option<Flow>,
    resets: bool,
    /// Whether it was reset, for who waits until all was delivered.
    was_reset: Option<Arc<AtomicBool>>,
    /// It is reset if it is dropped before its end was written.
    whole: bool,
    finished: bool,
    _counted: Option<Alive>,
}

enum End {
    Ended,
    Broken(io::Error),
}

impl QuicStream {
    /// A stream of a connection that is established.
    pub(super) fn new(connection: Connection, (send, recv): (SendStream, RecvStream)) -> Self {
        Self {
            connection,
            send,
            recv,
            taken: VecDeque::new(),
            end: None,
            early: None,
            local: None,
            _flow: None,
            resets: false,
            was_reset: None,
            whole: false,
            finished: false,
            _counted: None,
        }
    }

    /// With what waits, once the stream is over, until the peer has all that was sent, or does not want it.
    pub(super) fn with_delivery(mut self) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let was_reset = Arc::new(AtomicBool::new(false));
        self.was_reset = Some(Arc::clone(&was_reset));
        let stopped = self.send.stopped();
        let delivery = async move {
            if !was_reset.load(Relaxed) {
                // An error means that the connection has ended.
                let _ = stopped.await;
            }
        };
        (self, delivery)
    }

    /// With the address of the socket, and what counts the flow.
    pub(super) fn of_flow(mut self, local: Option<SocketAddr>, flow: Flow) -> Self {
        self.local = local;
        self._flow = Some(flow);
        self
    }

    /// A stream that is whole or reset.
    pub(super) fn whole_or_reset(mut self, counted: Option<Alive>) -> Self {
        self.whole = true;
        self._counted = counted;
        self
    }

    /// The connection, for more streams.
    pub(in crate::net) fn connection(&self) -> Connection {
        self.connection.clone()
    }

    /// A stream of a connection whose server has not yet agreed to what is sent.
    pub(super) fn with_early(mut self, early: Early) -> Self {
        self.early = Some(Box::new(early));
        self
    }

    pub(in crate::net) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.local.ok_or_else(|| io::ErrorKind::Unsupported.into())
    }

    pub(in crate::net) fn peer_addr(&self) -> SocketAddr {
        let address = self.connection.remote_address();
        SocketAddr::new(address.ip().to_canonical(), address.port())
    }

    pub(in crate::net) const fn reset_on_close(&mut self) {
        self.resets = true;
    }

    /// Goes on once the server has agreed to early data, or with a new stream where it has refused.
    fn poll_early(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(early) = &mut self.early else {
            return Poll::Ready(Ok(()));
        };
        let again = ready!(early.poll(cx))?;
        self.early = None;
        if let Some((send, recv)) = again {
            self.send = send;
            self.recv = recv;
            self.taken.clear();
            self.end = None;
        }
        Poll::Ready(Ok(()))
    }

    /// Takes what the connection has for this stream.
    fn poll_take(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut pieces: [Bytes; PIECES] = [const { Bytes::new() }; PIECES];
        let read = pin!(self.recv.read_chunks(&mut pieces)).poll(cx);
        match ready!(read) {
            Ok(Some(count)) => self.taken.extend(pieces.into_iter().take(count)),
            Ok(None) => self.end = Some(End::Ended),
            Err(ReadError::ZeroRttRejected) if self.early.is_some() => return Poll::Pending,
            Err(error) => self.end = Some(End::Broken(of_read(&error))),
        }
        Poll::Ready(())
    }

    pub(in crate::net) fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Poll::Ready(done) = self.poll_early(cx) {
            done?;
        }
        if !self.taken.is_empty() || self.end.is_some() {
            return Poll::Ready(Ok(()));
        }
        self.poll_take(cx).map(Ok)
    }

    pub(in crate::net) fn try_read(&mut self, slots: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        let mut count = 0;
        // Nobody waits here: who gets `WouldBlock` waits by `poll_readable`.
        let mut cx = Context::from_waker(Waker::noop());
        for slot in slots {
            let mut rest: &mut [u8] = slot;
            while !rest.is_empty() {
                let Some(piece) = self.taken.front_mut() else {
                    if self.end.is_none() && self.poll_take(&mut cx).is_ready() {
                        continue;
                    }
                    return self.so_far(count);
                };
                let len = piece.len().min(rest.len());
                let (now, later) = rest.split_at_mut(len);
                piece.copy_to_slice(now);
                rest = later;
                count += len;
                if piece.is_empty() {
                    self.taken.pop_front();
                }
            }
        }
        Ok(count)
    }

    /// The result of a read that has found nothing more.
    fn so_far(&mut self, count: usize) -> io::Result<usize> {
        self.taken = VecDeque::new();
        match &self.end {
            _ if count > 0 => Ok(count),
            None => Err(io::ErrorKind::WouldBlock.into()),
            Some(End::Ended) => Ok(0),
            Some(End::Broken(error)) => Err(io::Error::new(error.kind(), error.to_string())),
        }
    }

    pub(in crate::net) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let Poll::Ready(done) = self.poll_early(cx) {
            done?;
        }
        let mut count = 0;
        for part in parts {
            let mut rest: &[u8] = part;
            while !rest.is_empty() {
                match self.poll_write_one(cx, rest) {
                    Poll::Ready(Ok(written)) => {
                        count += written;
                        rest = rest.get(written..).unwrap_or_default();
                    }
                    _ if count > 0 => return Poll::Ready(Ok(count)),
                    other => return other,
                }
            }
        }
        Poll::Ready(Ok(count))
    }

    fn poll_write_one(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let Some(early) = &mut self.early else {
            let written = ready!(Pin::new(&mut self.send).poll_write(cx, bytes));
            return Poll::Ready(written.map_err(|error| of_write(&error)));
        };
        let Some(bytes) = early.room(bytes) else {
            // What waits for the server's word is enough; that word wakes this task.
            return Poll::Pending;
        };
        match ready!(Pin::new(&mut self.send).poll_write(cx, bytes)) {
            Ok(written) => {
                early.keep(bytes.get(..written).unwrap_or_default());
                Poll::Ready(Ok(written))
            }
            Err(WriteError::ZeroRttRejected) => Poll::Pending,
            Err(error) => Poll::Ready(Err(of_write(&error))),
        }
    }

    pub(in crate::net) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The end of a stream that may have to be sent again waits for the server's word, too.
        ready!(self.poll_early(cx))?;
        // An error means that it has ended before.
        let _ = self.send.finish();
        self.finished = true;
        Poll::Ready(Ok(()))
    }
}

impl Drop for QuicStream {
    fn drop(&mut self) {
        if self.resets || (self.whole && !self.finished) {
            if let Some(was_reset) = &self.was_reset {
                was_reset.store(true, Relaxed);
            }
            // Errors mean that it has ended before.
            let _ = self.send.reset(CANCELLED);
        }
        let _ = self.recv.stop(CANCELLED);
    }
}

fn of_read(error: &ReadError) -> io::Error {
    match error {
        ReadError::Reset(_) => io::Error::new(
            io::ErrorKind::ConnectionReset,
            "the peer broke off the QUIC stream",
        ),
        ReadError::ConnectionLost(error) => broken(error),
        other => io::Error::new(io::ErrorKind::NotConnected, other.to_string()),
    }
}

fn of_write(error: &WriteError) -> io::Error {
    match error {
        WriteError::Stopped(_) => io::Error::new(
            io::ErrorKind::BrokenPipe,
            "the peer no longer reads from the QUIC stream",
        ),
        WriteError::ConnectionLost(error) => broken(error),
        other => io::Error::new(io::ErrorKind::NotConnected, other.to_string()),
    }
}
