//! The client's side of visitors with a QUIC stream of their own: each is served as soon as its head has come.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use tokio::time::Instant;

use crate::net::Stream;
use crate::net::sync::lock;
use crate::relay::Error;
use crate::relay::link::Arrivals;
use crate::relay::tcp::{First, Handshake, Inbound, Leg, Request};
use crate::wire::Address;
use crate::wire::ss::stream::{Opener, Sealer};

type Next = Pin<Box<dyn Future<Output = io::Result<Stream>> + Send>>;

/// What the server opens on one link, if it does.
#[derive(Default)]
pub(super) struct Arriving(Option<(Arc<Arrivals>, Next)>);

impl Arriving {
    /// Waits for what comes there.
    pub(super) fn begin(&mut self, arrivals: Arc<Arrivals>) {
        let next = next(&arrivals);
        self.0 = Some((arrivals, next));
    }

    /// The next stream, and what tells whose it is. Pending for ever when none can come.
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<(Arc<Arrivals>, Stream)> {
        let Some((arrivals, waiting)) = &mut self.0 else {
            return Poll::Pending;
        };
        match waiting.as_mut().poll(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(stream)) => {
                *waiting = next(arrivals);
                Poll::Ready((Arc::clone(arrivals), stream))
            }
            Poll::Ready(Err(_)) => {
                // The connection has ended, and so will the link.
                self.0 = None;
                Poll::Pending
            }
        }
    }
}

fn next(arrivals: &Arc<Arrivals>) -> Next {
    let arrivals = Arc::clone(arrivals);
    Box::pin(async move { arrivals.next().await })
}

/// What is known of a visitor's stream beside the stream itself.
type Parts = (Option<(Opener, Sealer)>, First);

/// A visitor whose head was read.
pub(super) struct Begun {
    target: Address,
    parts: Mutex<Option<Parts>>,
}

impl Begun {
    /// A visitor to `target`, and its stream.
    pub(super) fn new(target: Address, leg: Leg) -> (Self, Stream) {
        let Leg {
            stream,
            codec,
            first,
            ..
        } = leg;
        let parts = Mutex::new(Some((codec, first)));
        (Self { target, parts }, stream)
    }
}

impl Inbound for Begun {
    async fn handshake(
        &self,
        stream: Stream,
        peer: SocketAddr,
        _: Instant,
    ) -> Result<Handshake<'_>, Error> {
        let parts = lock(&self.parts).take();
        let (codec, first) = parts.ok_or(Error::HandshakeEnd)?;
        let mut request = Request::chosen(stream, peer, self.target.clone());
        request.leg.codec = codec;
        request.leg.first = first;
        Ok(Handshake::Request(request))
    }
}
