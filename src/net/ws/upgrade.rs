//! From a stream to a WebSocket: the client asks, the server agrees or answers like a web server.

use std::future::poll_fn;
use std::io::{self, IoSliceMut};
use std::net::IpAddr;
use std::time::Duration;

use tokio::time::{Instant, timeout, timeout_at};

use super::{WebSocket, mux};
use crate::net::pool::{Buffer, Size};
use crate::net::{Error, FAREWELL, Stream, unix_now};
use crate::wire::http::{self, Endpoint, Refusal};
use crate::wire::mux::{Kind, SingleStream, detect};
use crate::wire::websocket::Role;

/// How long a server may take to agree; v2ray-plugin waits as long.
const AGREE_WITHIN: Duration = Duration::from_secs(8);
/// Bytes that are read from a client whose request was refused: a close with unread bytes would discard the answer.
const MAX_DRAIN: usize = 256 * 1024;

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
        let mut head = Vec::new();
        loop {
            if read_more(&stream, &mut head)
                .await
                .map_err(Error::UpgradeIo)?
                == 0
            {
                return Err(Error::UpgradeIo(io::ErrorKind::UnexpectedEof.into()));
            }
            if let Some(len) = http::parse_response(&head, nonce)? {
                head.drain(..len);
                return Ok(head);
            }
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
    let read = timeout_at(deadline, read_request(stream, endpoint));
    match read
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?
    {
        Ok(asked) => Ok(asked),
        Err(refusal) => {
            let _ = timeout(FAREWELL, refuse(stream, refusal)).await;
            Err(io::Error::new(io::ErrorKind::InvalidData, refusal))
        }
    }
}

/// Reads a request, and what came behind it.
async fn read_request(stream: &Stream, endpoint: &Endpoint) -> io::Result<Result<Asked, Refusal>> {
    let mut head = Vec::new();
    loop {
        let before = head.len();
        if read_more(stream, &mut head).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        // A head that comes byte by byte is looked at when a line has ended, not for each of them.
        let new = head.get(before..).unwrap_or_default();
        if before > 0 && head.len() < http::MAX_HEAD && !new.contains(&b'\n') {
            continue;
        }
        match http::parse_request(&head, endpoint) {
            Ok(None) => {}
            Ok(Some((upgrade, len))) => {
                head.drain(..len);
                return Ok(Ok(Asked {
                    upgrade,
                    behind: head,
                }));
            }
            Err(refusal) => return Ok(Err(refusal)),
        }
    }
}

/// Reads what there is behind `bytes`. While nothing comes no buffer is held.
async fn read_more(stream: &Stream, bytes: &mut Vec<u8>) -> io::Result<usize> {
    loop {
        stream.readable().await?;
        let mut buffer = Buffer::take(Size::Small);
        let (room, ..) = buffer.parts();
        match stream.try_read(&mut [IoSliceMut::new(room)]) {
            Ok(count) => {
                bytes.extend_from_slice(room.get(..count).unwrap_or_default());
                return Ok(count);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

/// Answers what a web server would, and waits until it has been read.
async fn refuse(stream: &Stream, refusal: Refusal) -> io::Result<()> {
    stream
        .write_all(refusal.page(unix_now()).as_bytes())
        .await?;
    stream.shutdown().await?;
    let mut drained = 0;
    while drained < MAX_DRAIN {
        let mut rest = Vec::new();
        match read_more(stream, &mut rest).await? {
            0 => break,
            count => drained += count,
        }
    }
    Ok(())
}
