//! Ports that forward every client to one target. Plain TCP needs no inbound of its own: see [`FixedTarget`].

pub mod packets;
pub mod quic;

use std::io;
use std::net::SocketAddr;

use tokio::time::{Instant, timeout_at};

use crate::net::ws::{self, UpgradeRequest};
use crate::net::{Stream, tls, unix_now};
use crate::relay::tcp::{FixedTarget, Handshake, Inbound, Reply, Request};
use crate::relay::{Error, Side};
use crate::wire::http;

/// Accepts WebSockets for one target.
pub struct WebSocketForward {
    /// The target of every client.
    pub target: FixedTarget,
    /// The request that clients have to make.
    pub request: http::Endpoint,
    /// TLS below the WebSocket.
    pub tls: Option<Box<tls::Server>>,
}

impl Inbound for WebSocketForward {
    async fn handshake(
        &self,
        stream: Stream,
        peer: SocketAddr,
        deadline: Instant,
    ) -> Result<Handshake<'_>, Error> {
        let tls = self.tls.as_deref();
        let (stream, asked) = enter(stream, &self.request, tls, deadline).await?;
        Ok(Handshake::Request(Request {
            reply: Some(Box::new(UpgradeReply(asked))),
            ..Request::chosen(stream, peer, self.target.0.clone())
        }))
    }
}

/// Waits for the request of a WebSocket. Other clients get the answer of a web server.
async fn enter(
    stream: Stream,
    request: &http::Endpoint,
    tls: Option<&tls::Server>,
    deadline: Instant,
) -> Result<(Stream, UpgradeRequest), Error> {
    let stream = match tls {
        None => stream,
        Some(tls) => timeout_at(deadline, tls.handshake(stream))
            .await
            .map_err(|_| Error::HandshakeTimeout)?
            .map_err(Error::io(Side::Client))?,
    };
    match ws::read_request(&stream, request, deadline).await {
        Ok(asked) => Ok((stream, asked)),
        Err(error) if error.kind() == io::ErrorKind::TimedOut => Err(Error::HandshakeTimeout),
        Err(error) => Err(Error::io(Side::Client)(error)),
    }
}

/// Accepts a WebSocket once the target has been reached.
struct UpgradeReply(UpgradeRequest);

impl Reply for UpgradeReply {
    fn success(&self) -> Vec<u8> {
        self.0.response().into_bytes()
    }

    fn failure(&self, _: &Error) -> Vec<u8> {
        http::RequestError::BadGateway.page(unix_now()).into_bytes()
    }

    fn upgrade(self: Box<Self>, stream: &mut Stream) -> io::Result<()> {
        stream.replace(|stream| self.0.begin(stream))
    }
}
