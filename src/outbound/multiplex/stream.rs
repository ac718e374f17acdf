//! A stream of a session as its user sees it: behind its request, and after the server's response.

use std::io::{self, IoSlice, IoSliceMut};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Sleep, sleep};

use crate::net::Stream;
use crate::net::stream::Layer;
use crate::wire::multiplex::response;

/// Bytes of the first payload that are sent together with the request.
const FIRST: usize = 16 * 1024;

/// Sends `request` on `inner` with the first payload, or without any after `wait`. `keep` lives as long as the stream.
pub(super) fn requested<K: Send + 'static>(
    inner: Stream,
    request: Vec<u8>,
    wait: Duration,
    keep: K,
) -> Stream {
    Stream::layered(Requested {
        inner,
        wait: (!request.is_empty()).then(|| Box::pin(sleep(wait))),
        request,
        out: Vec::new(),
        sent: 0,
        taken: 0,
        response: Some(Vec::new()),
        _keep: keep,
    })
}

struct Requested<K> {
    inner: Stream,
    /// The request, until it is in `out`.
    request: Vec<u8>,
    /// When the request is sent without payload.
    wait: Option<Pin<Box<Sleep>>>,
    /// The request and the first payload; `sent` bytes of it are sent.
    out: Vec<u8>,
    sent: usize,
    /// Bytes of the caller that are in `out`.
    taken: usize,
    /// What has come of the response; `None`: it has been read.
    response: Option<Vec<u8>>,
    _keep: K,
}

impl<K> Requested<K> {
    fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(rest @ [_, ..]) = self.out.get(self.sent..) {
            match ready!(self.inner.poll_write(cx, &[IoSlice::new(rest)]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.sent += count,
            }
        }
        (self.out, self.sent) = (Vec::new(), 0);
        Poll::Ready(Ok(()))
    }

    /// Begins to send the request, with what of `parts` goes with it.
    fn begin(&mut self, parts: &[IoSlice<'_>]) {
        self.wait = None;
        self.out = std::mem::take(&mut self.request);
        let request = self.out.len();
        for part in parts {
            let room = (request + FIRST).saturating_sub(self.out.len());
            let fitting = part.get(..room.min(part.len())).unwrap_or_default();
            self.out.extend_from_slice(fitting);
        }
        self.taken = self.out.len() - request;
    }

    /// Reads the response, and no byte more.
    fn poll_response(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(bytes) = &mut self.response {
            ready!(self.inner.poll_readable(cx))?;
            let mut byte = [0];
            match self.inner.try_read(&mut [IoSliceMut::new(&mut byte)]) {
                // The reader finds the end.
                Ok(0) => self.response = None,
                Ok(_) => {
                    bytes.extend(byte);
                    match response(bytes).map_err(invalid)? {
                        None => {}
                        Some((Ok(()), _)) => self.response = None,
                        Some((Err(why), _)) => {
                            let why = format!("the server refused the stream: {why}");
                            return Poll::Ready(Err(io::Error::other(why)));
                        }
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<K: Send> Layer for Requested<K> {
    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(wait) = &mut self.wait
            && wait.as_mut().poll(cx).is_ready()
        {
            // The target may be the one that speaks first.
            self.begin(&[]);
        }
        if let Poll::Ready(Err(error)) = self.poll_sent(cx) {
            return Poll::Ready(Err(error));
        }
        ready!(self.poll_response(cx))?;
        self.inner.poll_readable(cx)
    }

    fn try_read(&mut self, slots: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        if self.response.is_some() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.inner.try_read(slots)
    }

    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if !self.request.is_empty() {
            self.begin(parts);
        }
        ready!(self.poll_sent(cx))?;
        if self.taken > 0 {
            return Poll::Ready(Ok(std::mem::take(&mut self.taken)));
        }
        self.inner.poll_write(cx, parts)
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.request.is_empty() {
            self.begin(&[]);
        }
        ready!(self.poll_sent(cx))?;
        self.inner.poll_shutdown(cx)
    }

    fn reset_on_close(&mut self) {
        self.inner.reset_on_close();
    }

    fn inner(&mut self) -> &mut Stream {
        &mut self.inner
    }
}

fn invalid(error: crate::wire::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
