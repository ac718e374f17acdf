//! HTTP: programs that use `ssr local` as their HTTP proxy (RFC 9110 §7.6, §9.3.6).
//!
//! ```text
//! CONNECT host:port   a stream to relay, as from SOCKS
//! GET http://…        a session: request after request on the client's connection, each to its host by a pipe into a
//!                     relay of its own, which stays for the next request to the same host
//! ```
//!
//! - [`upstream`]: the pipes.
//! - `requests.rs`: reads requests and asks for credentials.
//! - `session.rs`: one request after the other; `exchange.rs`: one request and its response.
//! - `pages.rs`: what the client is told when something fails.

mod exchange;
mod pages;
mod requests;
mod session;
pub mod upstream;

use std::net::SocketAddr;

use tokio::time::{Instant, timeout_at};

use super::login::Login;
use crate::net::Stream;
use crate::net::handshake::Reader;
use crate::relay::Error;
use crate::relay::tcp::{Handshake, Inbound, Leg, Outbound, Reply, Request};
use crate::wire::http_proxy::{CONNECTED, Kind};
use pages::Page;
use session::Session;
use upstream::Upstreams;

/// The HTTP side of `ssr local`.
pub struct Http<O> {
    /// The users that may use it; empty: everybody.
    pub logins: Vec<Login>,
    /// Where requests go that are not CONNECT.
    pub upstreams: Upstreams<O>,
}

impl<O: Outbound + Clone + Send + 'static> Inbound for Http<O> {
    async fn handshake(
        &self,
        stream: Stream,
        peer: SocketAddr,
        deadline: Instant,
    ) -> Result<Handshake<'_>, Error> {
        self.go_on(stream, Vec::new(), peer, deadline).await
    }
}

impl<O: Outbound + Clone + Send + 'static> Http<O> {
    /// Reads the first request of a client of which `unread` has been read already.
    pub(super) async fn go_on(
        &self,
        stream: Stream,
        unread: Vec<u8>,
        peer: SocketAddr,
        deadline: Instant,
    ) -> Result<Handshake<'_>, Error> {
        let mut reader = Reader::resume(&stream, unread);
        let asked = requests::next(&stream, &mut reader, &self.logins, &self.upstreams.fakes);
        let asked = timeout_at(deadline, asked).await;
        let asked = asked.unwrap_or(Err(Error::HandshakeTimeout))?;
        let ahead = reader.into_unread();
        if asked.kind != Kind::Connect {
            let session = Session::new(stream, peer, ahead, &self.logins, &self.upstreams);
            return Ok(Handshake::Job(Box::pin(session.run(asked))));
        }
        Ok(Handshake::Request(Request {
            leg: Leg::ahead(stream, ahead),
            target: asked.target,
            reply: Some(Box::new(ConnectReply)),
            trusted: false,
            peer,
            user: asked.user,
            claimed: None,
        }))
    }
}

/// The answers to CONNECT.
struct ConnectReply;

impl Reply for ConnectReply {
    fn success(&self) -> Vec<u8> {
        CONNECTED.to_vec()
    }

    fn failure(&self, error: &Error) -> Vec<u8> {
        Page::of_failure(error).response(false, true)
    }
}
