//! The upgrade of a stream to a WebSocket: the client requests it; the server accepts it or answers like a web server.

use std::future::poll_fn;
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use tokio::time::{Instant, timeout, timeout_at};

use super::{WebSocket, mux};
use crate::limits::MAX_HEAD;
use crate::net::handshake::{HandshakeError, Reader, reject};
use crate::net::{Error, Stream, unix_now};
use crate::wire::http::{self, Endpoint};
use crate::wire::mux::{Kind, SingleStream, detect};
use crate::wire::websocket::Role;

/// How long a server may take to answer; v2ray-plugin waits as long.
const UPGRADE_TIMEOUT: Duration = Duration::from_secs(8);

/// Requests a WebSocket on `stream` and waits for the answer. `mux`: the stream is inside mux.cool. Nothing is sent
/// before the answer, since v2ray-plugin's server takes that for an error.
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
    let mut rest = timeout(UPGRADE_TIMEOUT, agreed)
        .await
        .unwrap_or_else(|_| Err(Error::UpgradeIo(io::ErrorKind::TimedOut.into())))?;
    let mut ws = WebSocket::new(stream, Role::Client, mux.then(SingleStream::client));
    ws.feed(&mut rest).map_err(Error::UpgradeIo)?;
    Ok(Stream::layered(ws))
}

/// What is inside a client's WebSocket.
pub enum Streams {
    /// One stream, bare or the only one inside mux.cool.
    One(Stream),
    /// Any number of streams inside mux.cool.
    Many(Box<mux::Server>),
}

/// The client's side of a connection.
pub struct Peer<'a> {
    /// The address that connected to us.
    pub ip: IpAddr,
    /// Whether an address is that of a proxy that is believed when it names the client's address.
    pub is_trusted: &'a (dyn Fn(IpAddr) -> bool + Sync),
}

/// Upgrades `stream` if the client requests a WebSocket at `endpoint`, and detects what is spoken inside. Returns that
/// and the client's address. Every other client gets the page of a web server and is closed. Ends soon after
/// `deadline`.
///
/// # Errors
/// `InvalidData` when the client requested something else, `TimedOut`, `UnexpectedEof`, or what the system says.
pub async fn handshake(
    stream: Stream,
    endpoint: &Endpoint,
    peer: Peer<'_>,
    deadline: Instant,
) -> io::Result<(Streams, IpAddr)> {
    let UpgradeRequest { upgrade, rest } = read_request(&stream, endpoint, deadline).await?;
    let client = upgrade.client(peer.ip, peer.is_trusted);
    let answer = upgrade.response();
    let answered = timeout_at(deadline, stream.write_all(answer.as_bytes())).await;
    answered.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
    Ok((begin(stream, rest, deadline).await?, client))
}

/// Makes a WebSocket of the stream of a client whose request was accepted, and detects what is spoken inside. `rest` has been
/// read from it already. Ends soon after `deadline`.
///
/// # Errors
/// `InvalidData`, `TimedOut`, `UnexpectedEof`, or what the system says.
pub async fn begin(stream: Stream, mut rest: Vec<u8>, deadline: Instant) -> io::Result<Streams> {
    let begin = async {
        let mut ws = WebSocket::new(stream, Role::Server, None);
        ws.feed(&mut rest)?;
        loop {
            match detect(&ws.ahead) {
                Some(Kind::Bare) => {
                    return Ok::<_, io::Error>(Streams::One(Stream::layered(ws)));
                }
                Some(Kind::Mux) if ws.peer_understands_end() => {
                    let ws = ws.with_mux(SingleStream::server())?;
                    return Ok(Streams::One(Stream::layered(ws)));
                }
                Some(Kind::Mux) => return Ok(Streams::Many(Box::new(mux::Server::new(ws)))),
                _ if poll_fn(|cx| ws.poll_ahead(cx)).await? => {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                _ => {}
            }
        }
    };
    timeout_at(deadline, begin)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// A client's valid request, not answered yet.
pub struct UpgradeRequest {
    upgrade: http::Upgrade,
    /// What the client has sent after it.
    rest: Vec<u8>,
}

impl UpgradeRequest {
    /// The answer that accepts the upgrade.
    #[must_use]
    pub fn response(&self) -> String {
        self.upgrade.response()
    }

    /// Makes a WebSocket of the stream on which that answer was sent; the payload is the stream, without mux.cool.
    ///
    /// # Errors
    /// `InvalidData` when the client has already sent something else than frames.
    pub fn begin(mut self, stream: Stream) -> io::Result<Stream> {
        let mut ws = WebSocket::new(stream, Role::Server, None);
        ws.feed(&mut self.rest)?;
        Ok(Stream::layered(ws))
    }
}

/// Reads the request of a WebSocket at `endpoint`. Every other client gets the page of a web server and is closed. Ends
/// soon after `deadline`.
///
/// # Errors
/// `InvalidData` when the client requested something else, `TimedOut`, `UnexpectedEof`, or what the system says.
pub async fn read_request(
    stream: &Stream,
    endpoint: &Endpoint,
    deadline: Instant,
) -> io::Result<UpgradeRequest> {
    let mut reader = Reader::new(stream);
    let mut seen = 0;
    let request = reader.next(|bytes| {
        // A head that comes byte by byte is parsed when a line has ended, not after each byte.
        let new = bytes.get(seen..).unwrap_or_default();
        let is_incomplete = seen > 0 && bytes.len() < MAX_HEAD && !new.contains(&b'\n');
        seen = bytes.len();
        if is_incomplete {
            return Ok(None);
        }
        http::parse_request(bytes, endpoint)
    });
    match timeout_at(deadline, request).await {
        Ok(Ok(upgrade)) => Ok(UpgradeRequest {
            upgrade,
            rest: reader.into_unread(),
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
