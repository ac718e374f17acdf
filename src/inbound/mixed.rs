//! One port for SOCKS5, SOCKS4 and HTTP, told apart by the first byte.

use std::net::SocketAddr;

use tokio::time::{Instant, timeout_at};

use super::http::Http;
use super::socks::Socks;
use super::socks4;
use crate::dns::fake::NoName;
use crate::net::Stream;
use crate::net::handshake::{HandshakeError, Reader};
use crate::relay::tcp::{Handshake, Inbound, Outbound};
use crate::relay::{Error, Side};
use crate::wire;
use crate::wire::peer_protocol::PeerProtocol;

/// The SOCKS and HTTP side of `ssr local`, on one port.
pub struct Mixed<O> {
    /// SOCKS5; where it needs a login, SOCKS4 is refused.
    pub socks: Socks,
    /// HTTP.
    pub http: Http<O>,
}

impl<O: Outbound + Clone + Send + 'static> Inbound for Mixed<O> {
    async fn handshake(
        &self,
        stream: Stream,
        peer: SocketAddr,
        deadline: Instant,
    ) -> Result<Handshake<'_>, Error> {
        let mut reader = Reader::new(&stream);
        let first = reader.next(|bytes| Ok::<_, Error>(bytes.first().map(|first| (*first, 0))));
        let first = match timeout_at(deadline, first).await {
            Ok(Ok(first)) => first,
            Ok(Err(HandshakeError::Io(error))) => return Err(Error::io(Side::Client)(error)),
            Ok(Err(HandshakeError::End)) => return Err(Error::HandshakeEnd),
            Ok(Err(HandshakeError::Invalid(error))) => return Err(error),
            Err(_) => return Err(Error::HandshakeTimeout),
        };
        let unread = reader.into_unread();
        match PeerProtocol::of(first) {
            PeerProtocol::Socks5 => self.socks.go_on(stream, unread, peer, deadline).await,
            PeerProtocol::Socks4 => {
                let needs_login = !self.socks.logins.is_empty();
                let asked = socks4::handshake(stream, unread, peer, deadline, needs_login).await?;
                let Handshake::Request(mut request) = asked else {
                    return Ok(asked);
                };
                match self.socks.fakes.meant(request.target.clone()) {
                    Ok(target) => request.target = target,
                    Err(NoName(address)) => {
                        let error = Error::NoName(address);
                        if let Some(reply) = &request.reply {
                            let refusal = reply.failure(&error);
                            let written = request.leg.stream.write_all(&refusal);
                            written.await.map_err(Error::io(Side::Client))?;
                        }
                        return Err(error);
                    }
                }
                Ok(Handshake::Request(request))
            }
            PeerProtocol::Http => self.http.go_on(stream, unread, peer, deadline).await,
            PeerProtocol::Tls | PeerProtocol::Unknown => Err(Error::Wire {
                side: Side::Client,
                source: wire::Error::SocksVersion(first),
            }),
        }
    }
}
