//! The stream that carries a session, as yamux and h2 read and write it. Small writes are gathered.

use std::io::{self, IoSlice, IoSliceMut};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, ready};

use tokio::io::ReadBuf;

use crate::net::Stream;
use crate::net::pool::{Buffer, Size};

/// A stream as other crates read and write it, and bytes that wait to be written.
pub struct Carrier {
    stream: Stream,
    out: Option<Buffer>,
    ended: Ended,
}

/// Whether a carrier has ended: streams whose end has not come before have broken.
#[derive(Clone, Default)]
pub(super) struct Ended(Arc<AtomicBool>);

impl Ended {
    pub(super) fn get(&self) -> bool {
        self.0.load(Relaxed)
    }

    fn set(&self) {
        self.0.store(true, Relaxed);
    }
}

impl Drop for Carrier {
    fn drop(&mut self) {
        self.ended.set();
    }
}

impl Carrier {
    /// Over a stream.
    #[must_use]
    pub fn new(stream: Stream) -> Self {
        Self {
            stream,
            out: None,
            ended: Ended::default(),
        }
    }

    pub(super) fn ended(&self) -> Ended {
        self.ended.clone()
    }

    fn read(&self, cx: &mut Context<'_>, room: &mut [u8]) -> Poll<io::Result<usize>> {
        loop {
            let read = match ready!(self.stream.poll_readable(cx)) {
                Ok(()) => self.stream.try_read(&mut [IoSliceMut::new(room)]),
                Err(error) => Err(error),
            };
            match read {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => {
                    if !matches!(read, Ok(1..)) {
                        self.ended.set();
                    }
                    return Poll::Ready(read);
                }
            }
        }
    }

    fn write(&mut self, cx: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        let is_full = |buffer: &Buffer| buffer.raw.end == buffer.bytes().len();
        if self.out.as_ref().is_some_and(is_full) {
            ready!(self.flush(cx))?;
        }
        let mut buffer = self
            .out
            .take()
            .unwrap_or_else(|| Buffer::take(Size::Medium));
        let (bytes, _, raw) = buffer.parts();
        let room = bytes.get_mut(raw.end..).unwrap_or_default();
        let count = from.len().min(room.len());
        if let (Some(to), Some(from)) = (room.get_mut(..count), from.get(..count)) {
            to.copy_from_slice(from);
        }
        raw.end += count;
        self.out = Some(buffer);
        Poll::Ready(Ok(count))
    }

    fn flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(buffer) = &mut self.out {
            let rest = buffer.bytes().get(buffer.raw.clone()).unwrap_or_default();
            if !rest.is_empty() {
                match ready!(self.stream.poll_write(cx, &[IoSlice::new(rest)])) {
                    Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    Ok(count) => buffer.raw.start += count,
                    Err(error) => {
                        self.ended.set();
                        return Poll::Ready(Err(error));
                    }
                }
            }
            if buffer.raw.is_empty() {
                self.out = None;
            }
        }
        Poll::Ready(Ok(()))
    }

    fn close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.flush(cx))?;
        self.stream.poll_shutdown(cx)
    }
}

impl tokio::io::AsyncRead for Carrier {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        room: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let count = ready!(self.read(cx, room.initialize_unfilled()))?;
        room.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl tokio::io::AsyncWrite for Carrier {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        from: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.write(cx, from)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.close(cx)
    }
}

impl futures_io::AsyncRead for Carrier {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        room: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        self.read(cx, room)
    }
}

impl futures_io::AsyncWrite for Carrier {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        from: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.write(cx, from)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.close(cx)
    }
}
