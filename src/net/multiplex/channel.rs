//! A stream of yamux or HTTP/2 as a [`Stream`].

use std::io::{self, IoSlice, IoSliceMut};
use std::task::{Context, Poll, ready};

use crate::net::Stream;
use crate::net::pipe::state::PipeStream;
use crate::net::slots::scatter;
use crate::net::stream::Layer;

/// A stream as its multiplexer has it. What holds for [`Stream`] holds for it.
pub(super) trait Channel: Send + 'static {
    /// Data as it arrives.
    type Data: AsRef<[u8]> + Send;

    /// Waits for data; `None` is the end.
    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Self::Data>>>;

    /// The reader has taken this many bytes.
    fn consumed(&mut self, _count: usize) {}

    /// Takes as much of `bytes` as the peer accepts, at least one byte.
    fn poll_send(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>>;

    /// Ends our direction.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Breaks the stream.
    fn reset(&mut self);
}

/// The stream over `channel`.
pub(super) fn stream(channel: impl Channel) -> Stream {
    Stream::layered(Within {
        channel,
        data: None,
        read: 0,
        ended: false,
        below: Stream::piped(PipeStream::broken()),
    })
}

struct Within<C: Channel> {
    channel: C,
    /// Data that has arrived, of which `read` bytes are taken.
    data: Option<C::Data>,
    read: usize,
    ended: bool,
    /// There is no socket for this stream alone.
    below: Stream,
}

impl<C: Channel> Layer for Within<C> {
    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.data.is_none() && !self.ended {
            match ready!(self.channel.poll_receive(cx))? {
                None => self.ended = true,
                Some(data) if data.as_ref().is_empty() => {}
                Some(data) => (self.data, self.read) = (Some(data), 0),
            }
        }
        Poll::Ready(Ok(()))
    }

    fn try_read(&mut self, slots: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        let Some(data) = &self.data else {
            return if self.ended {
                Ok(0)
            } else {
                Err(io::ErrorKind::WouldBlock.into())
            };
        };
        let rest = data.as_ref().get(self.read..).unwrap_or_default();
        let count = scatter(rest, slots, 0);
        self.read += count;
        if count == rest.len() {
            self.data = None;
        }
        self.channel.consumed(count);
        Ok(count)
    }

    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut sent = 0;
        for part in parts.iter().filter(|part| !part.is_empty()) {
            match self.channel.poll_send(cx, part) {
                Poll::Ready(Ok(count)) => {
                    sent += count;
                    if count < part.len() {
                        break;
                    }
                }
                Poll::Pending if sent == 0 => return Poll::Pending,
                Poll::Ready(Err(error)) if sent == 0 => return Poll::Ready(Err(error)),
                // The next call finds it again.
                Poll::Pending | Poll::Ready(Err(_)) => break,
            }
        }
        Poll::Ready(Ok(sent))
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.channel.poll_end(cx)
    }

    fn reset_on_close(&mut self) {
        self.channel.reset();
    }

    fn inner(&mut self) -> &mut Stream {
        &mut self.below
    }
}
