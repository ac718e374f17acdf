//! A port with one target: whoever connects is taken there.

pub mod packets;

use std::io;
use std::net::SocketAddr;

use tokio::time::{Instant, timeout_at};

use crate::net::ws::{self, Asked};
use crate::net::{Stream, tls, unix_now};
use crate::relay::tcp::{Handshake, Inbound, Reply, Request};
use crate::relay::{Error, Side};
use crate::wire::{Address, http};

/// Asks for the same target on behalf of every client.
pub struct Forward {
    /// The target.
    pub target: Address,
    /// What clients speak.
    pub entrance: Entrance,
}

/// How clients come in.
pub enum Entrance {
    /// As they are: there is no handshake that they could do wrong.
    Plain,
    /// By WebSocket.
    Ws {
        /// What they have to ask for.
        request: http::Endpoint,
        /// In TLS.
        tls: Option<Box<tls::Server>>,
    },
}

impl Inbound for Forward {
    async fn handshake(
        &self,
        stream: Stream,
        peer: SocketAddr,
        deadline: Instant,
    ) -> Result<Handshake<'_>, Error> {
        let (stream, reply) = match &self.entrance {
            Entrance::Plain => (stream, None),
            Entrance::Ws { request, tls } => {
                let (stream, asked) = enter(stream, request, tls.as_deref(), deadline).await?;
                (stream, Some(Box::new(Agreement(asked)) as Box<dyn Reply>))
            }
        };
        Ok(Handshake::Request(Request {
            reply,
            ..Request::chosen(stream, peer, self.target.clone())
        }))
    }

    async fn drain_and_close(&self, _: Stream) {}
}

/// Waits for the request of a WebSocket; everybody else is answered as by a web server.
async fn enter(
    stream: Stream,
    request: &http::Endpoint,
    tls: Option<&tls::Server>,
    deadline: Instant,
) -> Result<(Stream, Asked), Error> {
    let stream = match tls {
        None => stream,
        Some(tls) => timeout_at(deadline, tls.accept(stream))
            .await
            .map_err(|_| Error::HandshakeTimeout)?
            .map_err(Error::io(Side::Client))?,
    };
    match ws::asked(&stream, request, deadline).await {
        Ok(asked) => Ok((stream, asked)),
        Err(error) if error.kind() == io::ErrorKind::TimedOut => Err(Error::HandshakeTimeout),
        Err(error) => Err(Error::io(Side::Client)(error)),
    }
}

/// Agrees to a WebSocket, when the target has been reached.
struct Agreement(Asked);

impl Reply for Agreement {
    fn success(&self) -> Vec<u8> {
        self.0.response().into_bytes()
    }

    fn failure(&self, _: &Error) -> Vec<u8> {
        http::RequestError::BadGateway.page(unix_now()).into_bytes()
    }

    fn begin(self: Box<Self>, stream: &mut Stream) -> io::Result<()> {
        stream.replace(|stream| self.0.begin(stream))
    }
}
