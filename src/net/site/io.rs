//! A stream as hyper reads and writes it.

use std::io::{self, IoSlice, IoSliceMut};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection};

use crate::net::Stream;
use crate::net::pool::{Buffer, Size};

/// Bytes that one connection has moved.
#[derive(Debug, Default)]
pub(super) struct Moved {
    pub(super) read: AtomicU64,
    pub(super) written: AtomicU64,
}

/// A stream, after bytes that have been read from it already.
pub(super) struct Io {
    stream: Arc<Stream>,
    ahead: Vec<u8>,
    /// How many of those bytes were passed on.
    passed: usize,
    moved: Arc<Moved>,
}

impl Io {
    pub(super) fn new(stream: Arc<Stream>, ahead: Vec<u8>, moved: Arc<Moved>) -> Self {
        Self {
            stream,
            ahead,
            passed: 0,
            moved,
        }
    }
}

fn count(counter: &AtomicU64, bytes: usize) {
    counter.fetch_add(u64::try_from(bytes).unwrap_or(0), Ordering::Relaxed);
}

impl Read for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut room: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        if room.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let waiting = self.ahead.get(self.passed..).unwrap_or_default();
        if !waiting.is_empty() {
            let len = waiting.len().min(room.remaining());
            room.put_slice(waiting.get(..len).unwrap_or_default());
            self.passed += len;
            if self.passed == self.ahead.len() {
                (self.ahead, self.passed) = (Vec::new(), 0);
            }
            return Poll::Ready(Ok(()));
        }
        loop {
            ready!(self.stream.poll_readable(cx))?;
            let mut buffer = Buffer::take(Size::Small);
            let (bytes, ..) = buffer.parts();
            let len = bytes.len().min(room.remaining());
            let bytes = bytes.get_mut(..len).unwrap_or_default();
            match self.stream.try_read(&mut [IoSliceMut::new(bytes)]) {
                Ok(read) => {
                    room.put_slice(bytes.get(..read).unwrap_or_default());
                    count(&self.moved.read, read);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl Write for Io {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(self.stream.poll_write(cx, parts))?;
        count(&self.moved.written, written);
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.poll_shutdown(cx)
    }
}

/// As the connection of a client.
impl Connection for Io {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl Moved {
    pub(super) fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    pub(super) fn total(&self) -> u64 {
        self.written()
            .wrapping_add(self.read.load(Ordering::Relaxed))
    }
}
