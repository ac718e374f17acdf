//! What the parts of a site pass to each other: bodies, and who asks.

use std::net::IpAddr;

use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Bytes;

/// Why the body of a message ended too early.
pub(super) type BoxError = Box<dyn std::error::Error + Send + Sync>;
/// The body of a message.
pub(super) type Body = UnsyncBoxBody<Bytes, BoxError>;

/// No body.
pub(super) fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// A visitor.
#[derive(Clone, Copy, Debug)]
pub struct Guest {
    /// The address that connected to us.
    pub ip: IpAddr,
    /// Whether it did so by TLS.
    pub tls: bool,
}
