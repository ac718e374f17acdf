//! Shadowsocks: clients of `ssr server`, and strangers who pretend to be some.
//!
//! A stranger sees one thing, whatever it sends and however it cuts it: nothing comes back, and the connection is
//! closed when the time for a handshake is over, counted from its beginning.

pub mod packets;
pub mod replay;

use std::future::Future;
use std::io::{ErrorKind, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use crate::crypto::Family;
use crate::net::pool::{Buffer, Size};
use crate::net::{FAREWELL, Stream, handshake, unix_now};
use crate::relay::tcp::{First, Handshake, Inbound, Leg, Request};
use crate::relay::{Error, Side};
use crate::wire::ss::request::{Progress, RequestOpener};
use crate::wire::ss::stream::{Opener, Sealer};
use crate::wire::ss::{Accounts, Salt};
use crate::wire::{self, Address, reverse};
use replay::ReplayFilter;

/// Bytes of a stranger's that are read and dropped; what it sends beyond them stays in the socket.
const MAX_DRAIN: usize = 1 << 20;

/// The Shadowsocks side of `ssr server`.
pub struct Shadowsocks {
    /// Who may use it.
    pub accounts: Arc<Accounts>,
    /// The next server of each relayed identity, by its place among the accounts (SIP023).
    pub next_hops: Vec<Option<Address>>,
    /// Refuses streams that were seen before.
    pub replays: ReplayFilter,
    /// For how long a stranger is listened to that broke a stream after its handshake.
    pub patience: Duration,
    /// What serves the links of reverse tunnels.
    pub links: Links,
}

/// Serves the link that a client at an address has asked for, to its end; the number is the user's place among the
/// accounts.
pub type Links = Box<
    dyn Fn(
            Leg,
            SocketAddr,
            Option<usize>,
        ) -> Pin<Box<dyn Future<Output = Result<(), Error>> + Send>>
        + Send
        + Sync,
>;

impl Request {
    /// Whether it is the link of a reverse tunnel. What is passed on to another server may be one there.
    fn is_link(&self) -> bool {
        !self.trusted && self.target.as_ref() == reverse::target()
    }
}

impl Inbound for Shadowsocks {
    async fn handshake(
        &self,
        stream: Stream,
        peer: SocketAddr,
        deadline: Instant,
    ) -> Result<Handshake<'_>, Error> {
        let mut reading = Reading {
            opener: RequestOpener::new(self.accounts.method()),
            buffer: None,
        };
        let read = timeout_at(deadline, reading.run(self, &stream))
            .await
            .unwrap_or(Err(Error::HandshakeTimeout));
        match read {
            Ok((asked, first)) => {
                let user = reading.opener.user();
                let request = asked.into_request(stream, first, peer);
                Ok(if request.is_link() {
                    Handshake::Job((self.links)(request.leg, peer, user))
                } else {
                    Handshake::Request(request)
                })
            }
            Err(error @ Error::Wire { .. }) => {
                drop(reading);
                drain(&stream, deadline).await;
                Err(error)
            }
            Err(error) => {
                farewell(&stream).await;
                Err(error)
            }
        }
    }

    async fn drain_and_close(&self, stream: Stream) {
        drain(&stream, Instant::now() + self.patience).await;
    }
}

/// What a request asks for: a target by a client of ours, or to be passed on.
enum Asked {
    Target {
        target: Address,
        codec: (Opener, Sealer),
    },
    Next {
        target: Address,
    },
}

impl Asked {
    /// The request on `stream` that came with `first`.
    fn into_request(self, stream: Stream, first: Buffer, peer: SocketAddr) -> Request {
        let (target, codec, trusted) = match self {
            Self::Target { target, codec } => (target, Some(codec), false),
            Self::Next { target } => (target, None, true),
        };
        Request {
            leg: Leg {
                stream,
                codec,
                first: First::Opened(first),
            },
            target,
            reply: None,
            trusted,
            peer,
        }
    }
}

impl Shadowsocks {
    /// The answering direction of a client's stream.
    fn sealer(&self, opener: &RequestOpener) -> Sealer {
        let method = self.accounts.method();
        let salt = Salt::new(method, rand::random());
        if method.family() == Family::Aead2017 {
            // Under these methods an answer sent back to us would open as a request.
            self.replays.remember(&salt);
        }
        let request = opener.salt().unwrap_or(salt);
        Sealer::response(
            method,
            self.accounts.session_key(opener.user()),
            salt,
            request,
        )
    }
}

/// A request's head on its way in.
struct Reading {
    opener: RequestOpener,
    buffer: Option<Buffer>,
}

impl Reading {
    async fn run(
        &mut self,
        inbound: &Shadowsocks,
        stream: &Stream,
    ) -> Result<(Asked, Buffer), Error> {
        let accounts = &inbound.accounts;
        // SIP022 §3.1.4: the salt and fixed header must come with the first read.
        let at_once = accounts.method().family() == Family::Aead2022;
        loop {
            self.read(accounts, stream).await?;
            let asked = self.open(inbound).map_err(|source| Error::Wire {
                side: Side::Client,
                source,
            })?;
            if let Some(asked) = asked {
                return Ok((
                    asked,
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

    /// Reads what there is behind what has been read. A connection that says nothing costs no buffer.
    async fn read(&mut self, accounts: &Accounts, stream: &Stream) -> Result<(), Error> {
        loop {
            stream.readable().await.map_err(Error::io(Side::Client))?;
            let mut buffer = self
                .buffer
                .take()
                .unwrap_or_else(|| Buffer::take(Size::Small));
            if self.opener.need(accounts) > buffer.bytes().len() {
                let size = Size::holding(self.opener.need(accounts)).unwrap_or(Size::Large);
                buffer = buffer.resized(size);
            }
            let (bytes, _, raw) = buffer.parts();
            let read = stream.try_read(&mut [IoSliceMut::new(
                bytes.get_mut(raw.end..).unwrap_or_default(),
            )]);
            if let Ok(count) = read {
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

    /// Opens what has come so far; `None` while it is not enough. `raw` begins at 0 until the request is whole.
    fn open(&mut self, inbound: &Shadowsocks) -> Result<Option<Asked>, wire::Error> {
        let Some(buffer) = &mut self.buffer else {
            return Ok(None);
        };
        let (bytes, ready, raw) = buffer.parts();
        loop {
            let read = bytes.get_mut(..raw.end).unwrap_or_default();
            match self.opener.open(&inbound.accounts, read, unix_now())? {
                Progress::NeedMore => return Ok(None),
                Progress::Authenticated(salt) => inbound.replays.admit(&salt)?,
                Progress::Relay { user, salt, rest } => {
                    let next = inbound.next_hops.get(user).cloned().flatten();
                    ready.extend([salt, rest..raw.end]);
                    *raw = 0..0;
                    return next
                        .map(|target| Some(Asked::Next { target }))
                        .ok_or(wire::Error::UnknownIdentity);
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
                    let codec = (request.opener, inbound.sealer(&self.opener));
                    return Ok(Some(Asked::Target {
                        target: request.target,
                        codec,
                    }));
                }
            }
        }
    }
}

/// Reads and drops what a stranger sends, up to a number of bytes, until it ends or its time is over.
async fn drain(stream: &Stream, deadline: Instant) {
    let read = async {
        if matches!(handshake::drain(stream, MAX_DRAIN).await, Ok(false)) {
            sleep_until(deadline).await;
        }
    };
    let _ = timeout_at(deadline, read).await;
    farewell(stream).await;
}

/// The end that all strangers see: by TLS too, and before the reset that a close is where something is left unread.
async fn farewell(stream: &Stream) {
    let _ = timeout(FAREWELL, stream.shutdown()).await;
}
