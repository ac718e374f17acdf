//! What the parts of a site pass to each other: bodies, and who asks.

use std::net::IpAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Bytes, Frame, SizeHint};

/// Why the body of a message ended too early.
pub(super) type BoxError = Box<dyn std::error::Error + Send + Sync>;
/// The body of a message.
pub(super) type Body = UnsyncBoxBody<Bytes, BoxError>;

/// No body.
pub(super) fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// A body, and what is dropped with it.
pub(super) struct Held<B, T> {
    body: B,
    _held: T,
}

impl<B, T> Held<B, T> {
    /// Drops `held` when the body has ended.
    pub(super) const fn new(body: B, held: T) -> Self {
        Self { body, _held: held }
    }
}

impl<B: hyper::body::Body + Unpin, T: Unpin> hyper::body::Body for Held<B, T> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A visitor.
#[derive(Clone, Copy, Debug)]
pub struct Guest {
    /// The address that connected to us.
    pub ip: IpAddr,
    /// Whether it did so by TLS.
    pub tls: bool,
}
