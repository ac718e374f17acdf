//! From a stream to a WebSocket: the client asks, the server agrees or answers like a web server.

use std::future::poll_fn;
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use tokio::time::{Instant, timeout, timeout_at};

use super::{WebSocket, mux};
use crate::net::handshake::{HandshakeError, Reader, reject};
use crate::net::{Error, Stream, unix_now};
use crate::wire::http::{self, Endpoint};
use crate::wire::mux::{Kind, SingleStream, detect};
use crate::wire::websocket::Role;

/// How long a server may take to agree; v2ray-plugin waits as long.
const AGREE_WITHIN: Duration = Duration::from_secs(8);

/// Asks for a WebSocket on `stream` and waits for the server to agree; `mux`: with the stream inside mux.cool. Nothing
/// is sent before the server has agreed, since v2ray-plugin's takes that for an error.
///
/// # Errors
/// [`Error::Upgrade`], [`Error::UpgradeIo`], [`Error::UpgradeRequest`].
pub async fn connect(stream: Stream, endpoint: &Endpoint, mux: bool) -> Result<Stream, Error> {
    let nonce = rand::random();
    let request = http::request(endpoint, nonce).ok_or(Error::UpgradeRequest)?;
    let agreed = async {
        stream
            .write_all(request.as_bytes())
            .await
            .map_err(Error::UpgradeIo)?;
        let mut reader = Reader::new(&stream);
        let parse = |bytes: &[u8]| Ok(http::parse_response(bytes, nonce)?.map(|len| ((), len)));
        match reader.next(parse).await {
            Ok(()) => Ok(reader.into_unread()),
            Err(HandshakeError::Invalid(error)) => Err(Error::Upgrade(error)),
            Err(HandshakeError::Io(error)) => Err(Error::UpgradeIo(error)),
            Err(HandshakeError::End) => Err(Error::UpgradeIo(io::ErrorKind::UnexpectedEof.into())),
        }
    };
    let mut behind = timeout(AGREE_WITHIN, agreed)
        .await
        .unwrap_or_else(|_| Err(Error::UpgradeIo(io::ErrorKind::TimedOut.into())))?;
    let mut ws = WebSocket::new(stream, Role::Client, mux.then(SingleStream::client));
    ws.feed(&mut behind).map_err(Error::UpgradeIo)?;
    Ok(Stream::layered(ws))
}

/// What a client that was agreed with speaks.
pub enum Accepted {
    /// One stream, bare or the only one within mux.cool.
    Bare(Stream),
    /// Any number within mux.cool.
    Mux(Box<mux::Server>),
}

/// Who came.
pub struct Peer<'a> {
    /// Who connected to us.
    pub ip: IpAddr,
    /// Whether what it says of who came to it is believed.
    pub is_trusted: &'a (dyn Fn(IpAddr) -> bool + Sync),
}

/// Agrees to a WebSocket on `stream` if it is asked for at `endpoint`, and finds out what is spoken in it. Returns that
/// and the client's own address. Everybody else gets the page of a web server, and is closed; that, like whatever goes
/// wrong, is an error. Ends soon after `deadline`.
///
/// # Errors
/// `InvalidData` when something else was asked for, `TimedOut`, `UnexpectedEof`, or what the system says.
pub async fn accept(
    stream: Stream,
    endpoint: &Endpoint,
    peer: Peer<'_>,
    deadline: Instant,
) -> io::Result<(Accepted, IpAddr)> {
    let Asked {
        upgrade,
        mut behind,
    } = asked(&stream, endpoint, deadline).await?;
    let client = upgrade.client(peer.ip, peer.is_trusted);
    let begin = async {
        stream.write_all(upgrade.response().as_bytes()).await?;
        let mut ws = WebSocket::new(stream, Role::Server, None);
        ws.feed(&mut behind)?;
        loop {
            match detect(ws.ahead()) {
                Some(Kind::Bare) => {
                    return Ok::<_, io::Error>(Accepted::Bare(Stream::layered(ws)));
                }
                Some(Kind::Mux) if ws.peer_knows_end() => {
                    let ws = ws.with_mux(SingleStream::server())?;
                    return Ok(Accepted::Bare(Stream::layered(ws)));
                }
                Some(Kind::Mux) => return Ok(Accepted::Mux(Box::new(mux::Server::new(ws)))),
                _ if poll_fn(|cx| ws.poll_ahead(cx)).await? => {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                _ => {}
            }
        }
    };
    let accepted = timeout_at(deadline, begin)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
    Ok((accepted, client))
}

/// A client's request that fits and has not been answered yet.
pub struct Asked {
    upgrade: http::Upgrade,
    behind: Vec<u8>,
}

impl Asked {
    /// The answer that agrees.
    #[must_use]
    pub fn response(&self) -> String {
        self.upgrade.response()
    }

    /// Makes a WebSocket of the stream on which that has been answered, with nothing but the stream itself inside.
    ///
    /// # Errors
    /// `InvalidData` when the client has sent already what is none.
    pub fn begin(mut self, stream: Stream) -> io::Result<Stream> {
        let mut ws = WebSocket::new(stream, Role::Server, None);
        ws.feed(&mut self.behind)?;
        Ok(Stream::layered(ws))
    }
}

/// Waits on `stream` for the request of a WebSocket at `endpoint`. Everybody else gets the page of a web server, and is
/// closed; that, like whatever goes wrong, is an error. Ends soon after `deadline`.
///
/// # Errors
/// `InvalidData` when something else was asked for, `TimedOut`, `UnexpectedEof`, or what the system says.
pub async fn asked(stream: &Stream, endpoint: &Endpoint, deadline: Instant) -> io::Result<Asked> {
    let mut reader = Reader::new(stream);
    let mut seen = 0;
    let request = reader.next(|bytes| {
        // A head that comes byte by byte is parsed when a line has ended, not after each byte.
        let new = bytes.get(seen..).unwrap_or_default();
        let is_incomplete = seen > 0 && bytes.len() < http::MAX_HEAD && !new.contains(&b'\n');
        seen = bytes.len();
        if is_incomplete {
            return Ok(None);
        }
        http::parse_request(bytes, endpoint)
    });
    match timeout_at(deadline, request).await {
        Ok(Ok(upgrade)) => Ok(Asked {
            upgrade,
            behind: reader.into_unread(),
        }),
        Ok(Err(HandshakeError::Invalid(refusal))) => {
            reject(stream, refusal.page(unix_now()).as_bytes()).await;
            Err(io::Error::new(io::ErrorKind::InvalidData, refusal))
        }
        Ok(Err(HandshakeError::End)) => Err(io::ErrorKind::UnexpectedEof.into()),
        Ok(Err(HandshakeError::Io(error))) => Err(error),
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}
