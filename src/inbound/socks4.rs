//! SOCKS4 and SOCKS4a: old programs that use `ssr local`.

use std::net::SocketAddr;

use tokio::time::{Instant, timeout_at};

use crate::net::Stream;
use crate::net::handshake::{HandshakeError, Reader};
use crate::relay::tcp::{Handshake, Leg, Reply, Request};
use crate::relay::{Error, Side};
use crate::wire::socks4::{self, Reply as Code};

/// Reads the request of a client of which `unread` has been read already. Where a login is needed, it is refused: the user
/// id of SOCKS4 proves nothing.
pub(super) async fn handshake<'a>(
    stream: Stream,
    unread: Vec<u8>,
    peer: SocketAddr,
    deadline: Instant,
    needs_login: bool,
) -> Result<Handshake<'a>, Error> {
    let mut reader = Reader::resume(&stream, unread);
    let request = match timeout_at(deadline, reader.next(socks4::Request::parse)).await {
        Ok(Ok(request)) => request,
        Ok(Err(HandshakeError::Io(error))) => return Err(Error::io(Side::Client)(error)),
        Ok(Err(HandshakeError::End)) => return Err(Error::HandshakeEnd),
        Ok(Err(HandshakeError::Invalid(source))) => {
            refuse(&stream).await?;
            return Err(Error::Wire {
                side: Side::Client,
                source,
            });
        }
        Err(_) => return Err(Error::HandshakeTimeout),
    };
    let ahead = reader.into_unread();
    if needs_login {
        refuse(&stream).await?;
        return Err(Error::NotOffered(
            "SOCKS4 has no password, and this port needs a login",
        ));
    }
    if !request.is_connect {
        refuse(&stream).await?;
        return Err(Error::NotOffered("the BIND command is not supported"));
    }
    Ok(Handshake::Request(Request {
        leg: Leg::ahead(stream, ahead),
        target: request.target,
        reply: Some(Box::new(ConnectReply)),
        trusted: false,
        peer,
        user: None,
        claimed: None,
    }))
}

async fn refuse(stream: &Stream) -> Result<(), Error> {
    stream
        .write_all(&Code::Rejected.encode())
        .await
        .map_err(Error::io(Side::Client))
}

/// The answers to CONNECT.
struct ConnectReply;

impl Reply for ConnectReply {
    fn success(&self) -> Vec<u8> {
        Code::Granted.encode().to_vec()
    }

    fn failure(&self, _: &Error) -> Vec<u8> {
        Code::Rejected.encode().to_vec()
    }
}
