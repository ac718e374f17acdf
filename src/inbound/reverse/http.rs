//! Visitors who speak HTTP: the Host of the first request selects the service, and each request is given the visitor's
//! address.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::SocketAddr;
use std::task::{Context, Poll, Waker, ready};

use tokio::time::{Instant, timeout_at};

use crate::limits::HTTP_READ;
use crate::net::Stream;
use crate::net::handshake::{HandshakeError, Reader, reject};
use crate::net::slots::scatter;
use crate::net::stream::Layer;
use crate::relay::tcp::{First, Handshake, Inbound, Leg, Reply, Request};
use crate::relay::{Error, Side};
use crate::wire::Address;
use crate::wire::http_rewrite::{self, RequestRewriter};

/// Reads the requests of visitors to a port that several services share.
pub struct HttpVisitors {
    /// The port, which the target addresses of requests get.
    pub port: u16,
    /// Returns whether a service has this Host.
    pub knows: Box<dyn Fn(&str) -> bool + Send + Sync>,
}

impl Inbound for HttpVisitors {
    async fn handshake(
        &self,
        stream: Stream,
        peer: SocketAddr,
        deadline: Instant,
    ) -> Result<Handshake<'_>, Error> {
        let mut requests = RequestRewriter::new(peer.ip().to_canonical());
        let mut out = Vec::new();
        let mut reader = Reader::new(&stream);
        let mut fed = 0;
        let host = reader.next(|bytes| {
            fed += requests.rewrite(bytes.get(fed..).unwrap_or_default(), &mut out)?;
            let host = requests.host().map(|host| (host.to_owned(), fed));
            Ok::<_, http_rewrite::RewriteError>(host)
        });
        let host = match timeout_at(deadline, host).await {
            Ok(Ok(host)) if (self.knows)(&host) => host,
            Ok(Ok(_)) => {
                reject(&stream, &http_rewrite::response(404, "Not Found")).await;
                return Err(Error::NotOffered("no service has the requested Host"));
            }
            Ok(Err(HandshakeError::Invalid(error))) => {
                let (status, reason) = error.status();
                reject(&stream, &http_rewrite::response(status, reason)).await;
                return Err(Error::NotOffered("it is not valid HTTP/1.1"));
            }
            Ok(Err(HandshakeError::End)) => return Err(Error::HandshakeEnd),
            Ok(Err(HandshakeError::Io(error))) => return Err(Error::io(Side::Client)(error)),
            Err(_) => return Err(Error::HandshakeTimeout),
        };
        let raw = reader.into_unread();
        let target = Address::domain(&host, self.port).map_err(|source| Error::Wire {
            side: Side::Client,
            source,
        })?;
        Ok(Handshake::Request(Request {
            leg: Leg {
                stream: Stream::layered(Rewriting {
                    stream,
                    requests,
                    raw,
                    out,
                    ended: false,
                    waiting: None,
                }),
                codec: None,
                first: First::Nothing,
                others: None,
            },
            target,
            reply: Some(Box::new(BadGateway)),
            trusted: true,
            peer,
            user: None,
            claimed: None,
        }))
    }
}

/// The answer to a visitor whose service cannot be reached.
struct BadGateway;

impl Reply for BadGateway {
    fn success(&self) -> Vec<u8> {
        Vec::new()
    }

    fn failure(&self, _: &Error) -> Vec<u8> {
        http_rewrite::response(502, "Bad Gateway")
    }
}

/// A visitor's stream. Its requests are rewritten as they are read.
struct Rewriting {
    stream: Stream,
    requests: RequestRewriter,
    /// Bytes that have been read and must wait for a response before they are rewritten, at most [`HTTP_READ`].
    raw: Vec<u8>,
    /// Bytes that have been rewritten and not been taken yet, at most eight times [`HTTP_READ`].
    out: Vec<u8>,
    ended: bool,
    /// Woken when the response to an upgrade begins.
    waiting: Option<Waker>,
}

impl Rewriting {
    /// Rewrites what has been read, unless it must wait for a response.
    fn rewrite(&mut self) -> Result<(), http_rewrite::RewriteError> {
        let used = self.requests.rewrite(&self.raw, &mut self.out)?;
        self.raw.drain(..used);
        if self.raw.is_empty() {
            self.raw = Vec::new();
        }
        Ok(())
    }

    /// Reads once, unless there are bytes already, and rewrites them.
    fn fill(&mut self) -> io::Result<()> {
        if self.raw.is_empty() {
            let mut bytes = vec![0; HTTP_READ];
            match self.stream.try_read(&mut [IoSliceMut::new(&mut bytes)])? {
                0 => self.ended = true,
                count => {
                    bytes.truncate(count);
                    self.raw = bytes;
                }
            }
        }
        // What came before the error is passed on, and the service answers it; then this direction ends.
        if self.rewrite().is_err() {
            self.ended = true;
        }
        Ok(())
    }
}

impl Layer for Rewriting {
    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if !self.out.is_empty() || self.ended {
                return Poll::Ready(Ok(()));
            }
            if self.requests.awaits_response() {
                self.waiting = Some(cx.waker().clone());
                return Poll::Pending;
            }
            if self.raw.is_empty() {
                ready!(self.stream.poll_readable(cx))?;
            }
            match self.fill() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => result?,
            }
        }
    }

    fn try_read(&mut self, slots: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        if self.out.is_empty() && !self.ended && !self.requests.awaits_response() {
            self.fill()?;
        }
        if self.out.is_empty() && !self.ended {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let taken = scatter(&self.out, slots, 0);
        self.out.drain(..taken);
        if self.out.is_empty() {
            self.out = Vec::new();
        }
        Ok(taken)
    }

    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let count = ready!(self.stream.poll_write(cx, parts))?;
        if self.requests.awaits_response() {
            let mut left = count;
            for part in parts {
                let len = left.min(part.len());
                self.requests
                    .observe_response(part.get(..len).unwrap_or_default());
                left -= len;
            }
            if !self.requests.awaits_response()
                && let Some(waker) = self.waiting.take()
            {
                waker.wake();
            }
        }
        Poll::Ready(Ok(count))
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.poll_shutdown(cx)
    }

    fn inner(&mut self) -> &mut Stream {
        &mut self.stream
    }
}
