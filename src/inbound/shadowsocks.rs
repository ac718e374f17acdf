//! Shadowsocks: clients of `ssr server`, and strangers who pretend to be clients.
//!
//! Strangers see the same behaviour whatever they send and however they cut it: they get no answer, and the connection is
//! closed when the handshake timeout, which began with the connection, is over.

pub mod packets;

use std::io::{ErrorKind, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use crate::crypto::Family;
use crate::limits::MAX_STRANGER_BYTES;
use crate::net::pool::{Buffer, Size};
use crate::net::site::{Guest, Site};
use crate::net::{FAREWELL, Stream, handshake};
use crate::relay::replay::ReplayFilter;
use crate::relay::tcp::{ClientJob, First, Handshake, Inbound, Leg, Request, Reserved};
use crate::relay::users::{Protocol, Session, Table};
use crate::relay::{Error, Side, User};
use crate::wire::peer_protocol::PeerProtocol;
use crate::wire::ss::request::{Progress, RequestOpener};
use crate::wire::ss::stream::{Opener, Sealer};
use crate::wire::ss::{Accounts, Salt};
use crate::wire::{self, Address};

/// The Shadowsocks side of `ssr server`.
pub struct Shadowsocks {
    /// The keys of the server and its users.
    pub users: Arc<Table>,
    /// Refuses streams that were seen before.
    pub replays: Arc<ReplayFilter>,
    /// How long a peer that broke its stream after the handshake is read from before the stream is closed.
    pub drain_timeout: Duration,
    /// Serves the clients that ask something of the server itself.
    pub reserved: ReservedJobs,
    /// What strangers get, where the server is behind TLS and they know that something answers.
    pub site: Option<Arc<Site>>,
}

/// Serves the stream of a reserved target to its end, for the client at an address and its user.
pub type ReservedJobs =
    Box<dyn Fn(Reserved, Leg, SocketAddr, Option<Arc<User>>) -> ClientJob<'static> + Send + Sync>;

impl Inbound for Shadowsocks {
    async fn handshake(
        &self,
        stream: Stream,
        peer: SocketAddr,
        deadline: Instant,
    ) -> Result<Handshake<'_>, Error> {
        let mut reading = Reading {
            opener: RequestOpener::new(self.users.method).likely_of(self.users.likely(peer.ip())),
            peer: peer.ip(),
            buffer: None,
            intact: self.site.is_some().then(Vec::new),
        };
        let read = timeout_at(deadline, reading.run(self, &stream))
            .await
            .unwrap_or(Err(Error::HandshakeTimeout));
        match read {
            Ok((head, first)) => {
                let request = Request {
                    target: head.target,
                    reply: None,
                    // A stream for the next server is passed on sealed, to where the operator said.
                    trusted: head.codec.is_none(),
                    peer,
                    user: Some(head.user),
                    claimed: None,
                    leg: Leg {
                        stream,
                        codec: head.codec,
                        first: First::Opened(first),
                        others: None,
                    },
                };
                Ok(match request.reserved() {
                    // Streams of datagrams are requests like others, which the outbound connects.
                    None | Some(Reserved::Packets | Reserved::UdpOverTcp(_)) => {
                        Handshake::Request(request)
                    }
                    Some(what) => Handshake::Job(self.job(what, request)?),
                })
            }
            Err(Error::Wire { source, .. }) => {
                let error = self.explain(&reading, source);
                if let Some(site) = &self.site {
                    let ahead = reading.intact.take().unwrap_or_default();
                    drop(reading);
                    let visit = visit(Arc::clone(site), stream, ahead, peer, deadline);
                    return Ok(Handshake::Visitor(Box::pin(async move {
                        visit.await;
                        Err(error)
                    })));
                }
                drop(reading);
                drain(&stream, deadline).await;
                Err(error)
            }
            Err(error) => {
                match &self.site {
                    None => close(&stream).await,
                    // As the site closes a connection.
                    Some(_) => handshake::reject(&stream, &[]).await,
                }
                Err(reading.explain(error))
            }
        }
    }

    async fn drain_and_close(&self, stream: Stream) {
        drain(&stream, Instant::now() + self.drain_timeout).await;
    }
}

impl Shadowsocks {
    /// What was wrong with a request, with what is known of who sent it. For the operator only.
    fn explain(&self, reading: &Reading, source: wire::Error) -> Error {
        let users = self.users.load();
        let user = users.user(reading.opener.user());
        if let Some(user) = user.and_then(|user| user.name()) {
            let user = user.into();
            return Error::OfUser { user, source };
        }
        let other = PeerProtocol::surely(reading.raw());
        Error::Wire {
            side: Side::Client,
            source: other.map_or(source, wire::Error::OtherProtocol),
        }
    }

    /// What is done for a client of a reserved target, until its user may not go on.
    fn job(&self, what: Reserved, request: Request) -> Result<ClientJob<'static>, Error> {
        let Request {
            target,
            leg,
            peer,
            user,
            ..
        } = request;
        let protocol = match what {
            Reserved::Multiplex => Protocol::Multiplex,
            _ => Protocol::Link,
        };
        let target = target.to_string().into();
        let begin = |user| Session::begin(user, peer, target, protocol);
        let session = user.as_ref().map(begin).transpose()?;
        let job = (self.reserved)(what, leg, peer, user);
        Ok(match session {
            None => job,
            Some(session) => Box::pin(async move { session.hold(job).await? }),
        })
    }

    /// Seals the response to a client's stream.
    fn sealer(&self, accounts: &Accounts, opener: &RequestOpener) -> Result<Sealer, wire::Error> {
        let method = accounts.method();
        let salt = Salt::new(method, rand::random());
        if method.family() == Family::Aead2017 {
            // Under these methods an answer sent back to us would open as a request.
            self.replays.note_sent(&salt);
        }
        let request = opener.salt().unwrap_or(salt);
        let key = accounts.session_key(opener.user())?;
        Ok(Sealer::response(method, key, salt, request))
    }
}

/// The head of a request.
struct Head {
    target: Address,
    user: Arc<User>,
    /// `None`: the stream is for the next server, which is the target.
    codec: Option<(Opener, Sealer)>,
}

/// Reads the head of a request.
struct Reading {
    opener: RequestOpener,
    peer: IpAddr,
    buffer: Option<Buffer>,
    /// What has come, for the site: opening changes it.
    intact: Option<Vec<u8>>,
}

impl Reading {
    async fn run(
        &mut self,
        inbound: &Shadowsocks,
        stream: &Stream,
    ) -> Result<(Head, Buffer), Error> {
        // SIP022 §3.1.4: the salt and fixed header must come with the first read. In front of a site too: it would answer.
        let at_once = inbound.users.method.family() == Family::Aead2022 || inbound.site.is_some();
        loop {
            self.read(&inbound.users, stream).await?;
            let head = self.open(inbound).map_err(|source| Error::Wire {
                side: Side::Client,
                source,
            })?;
            if let Some(head) = head {
                self.ask_others(&inbound.replays).await?;
                return Ok((
                    head,
                    self.buffer
                        .take()
                        .unwrap_or_else(|| Buffer::take(Size::Small)),
                ));
            }
            if at_once && self.opener.salt().is_none() {
                return Err(Error::Wire {
                    side: Side::Client,
                    source: wire::Error::Truncated,
                });
            }
        }
    }

    /// Refuses a request that another server has served.
    async fn ask_others(&self, replays: &ReplayFilter) -> Result<(), Error> {
        let salt = self.opener.salt();
        let is_new = match salt.and_then(|salt| replays.ask_others(&salt)) {
            Some(asked) => asked.await,
            None => true,
        };
        is_new.then_some(()).ok_or(Error::Wire {
            side: Side::Client,
            source: wire::Error::Replayed,
        })
    }

    /// What has come. Opening has changed some of it, but not the front.
    fn raw(&self) -> &[u8] {
        self.buffer.as_ref().map_or(&[], |buffer| {
            buffer.bytes().get(buffer.raw.clone()).unwrap_or_default()
        })
    }

    /// An error of a client that sent nothing is no failure of its request.
    fn explain(&self, error: Error) -> Error {
        match (error, self.raw().len()) {
            (error, 0) => error,
            (Error::HandshakeTimeout | Error::HandshakeEnd, bytes) => Error::Incomplete { bytes },
            (error, _) => error,
        }
    }

    /// Reads once, behind what has been read. A silent connection holds no buffer.
    async fn read(&mut self, users: &Table, stream: &Stream) -> Result<(), Error> {
        loop {
            stream.readable().await.map_err(Error::io(Side::Client))?;
            let mut buffer = self
                .buffer
                .take()
                .unwrap_or_else(|| Buffer::take(Size::Small));
            let need = self.opener.need(&users.load().accounts);
            if need > buffer.bytes().len() {
                let size = Size::holding(need).unwrap_or(Size::Large);
                buffer = buffer.resized(size);
            }
            let (bytes, _, raw) = buffer.parts();
            let read = stream.try_read(&mut [IoSliceMut::new(
                bytes.get_mut(raw.end..).unwrap_or_default(),
            )]);
            if let Ok(count) = read {
                if let Some(intact) = &mut self.intact {
                    let new = bytes.get(raw.end..raw.end + count);
                    intact.extend_from_slice(new.unwrap_or_default());
                }
                raw.end += count;
            }
            if !buffer.raw.is_empty() {
                self.buffer = Some(buffer);
            }
            match read {
                Ok(0) => return Err(Error::HandshakeEnd),
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(Error::io(Side::Client)(error)),
            }
        }
    }

    /// Opens what has come so far; `None` while it is not enough. Until the head is complete, `raw` begins at 0.
    fn open(&mut self, inbound: &Shadowsocks) -> Result<Option<Head>, wire::Error> {
        let Some(buffer) = &mut self.buffer else {
            return Ok(None);
        };
        let (bytes, ready, raw) = buffer.parts();
        let users = inbound.users.load();
        let accounts = &users.accounts;
        loop {
            let read = bytes.get_mut(..raw.end).unwrap_or_default();
            let replays = &inbound.replays;
            match self.opener.open(accounts, read, replays.now())? {
                Progress::NeedMore => return Ok(None),
                Progress::Authenticated(salt) => {
                    replays.admit(&salt, self.opener.timestamp())?;
                    inbound.users.note_sender(self.peer, self.opener.user());
                }
                Progress::Relay { user, salt, rest } => {
                    let unknown = wire::Error::UnknownIdentity;
                    let next = users.next_hop(Some(user)).ok_or(unknown)?;
                    let user = users.user(Some(user)).ok_or(unknown)?;
                    ready.extend([salt, rest..raw.end]);
                    *raw = 0..0;
                    return Ok(Some(Head {
                        target: (**next).clone(),
                        user: Arc::clone(user),
                        codec: None,
                    }));
                }
                Progress::Complete(request) => {
                    if !request.payload.is_empty() {
                        ready.push(request.payload);
                    }
                    *raw = if request.rest == raw.end {
                        0..0
                    } else {
                        request.rest..raw.end
                    };
                    // The user may have been removed since its identity was read.
                    let user = users.user(self.opener.user());
                    let user = user.ok_or(wire::Error::UnknownIdentity)?;
                    let codec = (request.opener, inbound.sealer(accounts, &self.opener)?);
                    return Ok(Some(Head {
                        target: request.target,
                        user: Arc::clone(user),
                        codec: Some(codec),
                    }));
                }
            }
        }
    }
}

/// Serves a stranger who came by TLS and has sent `ahead`.
async fn visit(
    site: Arc<Site>,
    stream: Stream,
    ahead: Vec<u8>,
    peer: SocketAddr,
    head_until: Instant,
) {
    let guest = Guest {
        ip: peer.ip(),
        tls: true,
    };
    // It has left its place among the clients.
    let left = site
        .visit(stream, ahead, guest, None, head_until, || ())
        .await;
    drop(left);
}

/// Reads and discards what a stranger sends, up to a number of bytes and until the deadline, then closes the stream.
async fn drain(stream: &Stream, deadline: Instant) {
    let read = async {
        if matches!(
            handshake::drain(stream, MAX_STRANGER_BYTES).await,
            Ok(false)
        ) {
            sleep_until(deadline).await;
        }
    };
    let _ = timeout_at(deadline, read).await;
    close(stream).await;
}

/// Ends a stream in the way that all strangers see. The explicit end is sent through TLS too, and before the reset that a
/// close with unread bytes causes.
async fn close(stream: &Stream) {
    let _ = timeout(FAREWELL, stream.shutdown()).await;
}
