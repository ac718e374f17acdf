//! DNS: programs that ask `ssr local` for names, by UDP and TCP.
//!
//! ```text
//! query ─ wire::dns ─> cache ─ miss ─> pending ─ first to ask ─> upstream ─ UDP, or a kept stream ─> name server
//!                        └─ hit: answered at once                    └─ answer: cache, everybody who waits
//! ```
//!
//! - `forwarder.rs`: the way of a query.
//! - `cache.rs`: answers by what was asked, in bounded memory.
//! - `pending.rs`: the queries under way; equal ones are asked once.
//! - `fake.rs`: answers with fake addresses instead.
//! - `asker.rs`: who waits, and how long an answer may be.
//! - `upstream.rs`: two attempts, with id, port and case of the name chosen at random.
//! - `line.rs`: streams to a name server, through whichever outbound.

mod asker;
mod cache;
mod fake;
mod forwarder;
mod line;
mod pending;
mod upstream;

pub use fake::{Fake, IsOwn};
pub use forwarder::{Decide, Route, Settings};
pub use upstream::Upstream;

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::limits::{MAX_CLIENT_QUERIES, MAX_QUERY};
use crate::net::Stream;
use crate::net::udp::{Batch, Socket};
use crate::relay::tcp::{Handshake, Inbound};
use crate::relay::{Error, Side};
use asker::{Back, push};
use forwarder::{Forwarder, Scratch};
use line::whole;

/// How long a client's connection stays without a query or an answer (RFC 7766 §6.2.3), and how long it may take to
/// accept an answer.
const IDLE: Duration = Duration::from_secs(10);

/// A `dns` local.
#[derive(Clone)]
pub struct Dns(Arc<Answers>);

/// Where the answers come from.
enum Answers {
    Forwarder(Forwarder),
    Fake(Fake),
}

impl Answers {
    /// Answers `message` into `scratch` and returns `true`, or keeps `back` for an answer that comes later, or never.
    fn ask(&self, message: &[u8], back: Back, scratch: &mut Scratch) -> bool {
        match self {
            Self::Forwarder(forwarder) => forwarder.ask(message, back, scratch),
            Self::Fake(fake) => fake.ask(message, &back, &mut scratch.out),
        }
    }
}

impl Dns {
    /// Answers by these settings.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self(Arc::new(Answers::Forwarder(Forwarder::new(settings))))
    }

    /// Answers with fake addresses.
    #[must_use]
    pub fn faking(fake: Fake) -> Self {
        Self(Arc::new(Answers::Fake(fake)))
    }

    /// Answers the queries that come to `socket`.
    ///
    /// # Errors
    /// What the system says of the socket.
    pub async fn serve(self, socket: Socket) -> io::Result<()> {
        let socket = Arc::new(socket);
        let mut scratch = Scratch::default();
        loop {
            let received = poll_fn(|cx| {
                socket.poll_receive(cx, |mut received| {
                    let mut batch = Batch::spare();
                    for (message, path) in received.datagrams() {
                        let back = Back::Datagram {
                            socket: Arc::clone(&socket),
                            path,
                        };
                        if self.0.ask(message, back, &mut scratch) {
                            push(&mut batch, path, &scratch.out);
                        }
                        if batch.is_full() {
                            socket.send(&mut batch);
                        }
                    }
                    socket.send(&mut batch);
                    batch.keep();
                })
            });
            received.await?;
        }
    }

    /// Answers the queries of one connection, in the order in which the answers come (RFC 7766 §6.2.1.1).
    async fn converse(&self, stream: Stream) -> io::Result<()> {
        let (answers, mut answered) = mpsc::channel(MAX_CLIENT_QUERIES);
        let room = Arc::new(Semaphore::new(MAX_CLIENT_QUERIES));
        let mut scratch = Scratch::default();
        let (mut unread, mut frames) = (Vec::new(), Vec::new());
        let mut chunk = vec![0; 2 + MAX_QUERY];
        let mut has_ended = false;
        loop {
            while let Some((message, used)) = whole(&unread)
                && let Ok(room) = Arc::clone(&room).try_acquire_owned()
            {
                let answers = answers.clone();
                if self
                    .0
                    .ask(message, Back::Stream { answers, room }, &mut scratch)
                {
                    frame(&scratch.out, &mut frames);
                }
                unread.drain(..used);
            }
            if !frames.is_empty() {
                timeout(IDLE, stream.write_all(&frames)).await??;
                frames.clear();
            }
            if has_ended && room.available_permits() == MAX_CLIENT_QUERIES && answered.is_empty() {
                return Ok(());
            }
            let is_reading = !has_ended && whole(&unread).is_none();
            tokio::select! {
                answer = answered.recv() => frame(&answer.unwrap_or_default(), &mut frames),
                read = stream.read(&mut chunk), if is_reading => {
                    let count = read?;
                    has_ended = count == 0;
                    unread.extend_from_slice(chunk.get(..count).unwrap_or_default());
                    if announced(&unread) > MAX_QUERY {
                        return Err(io::ErrorKind::InvalidData.into());
                    }
                }
                () = sleep(IDLE) => return Ok(()),
            }
        }
    }
}

impl Inbound for Dns {
    async fn handshake(
        &self,
        stream: Stream,
        _: SocketAddr,
        deadline: Instant,
    ) -> Result<Handshake<'_>, Error> {
        let first = timeout_at(deadline, stream.readable()).await;
        first
            .map_err(|_late| Error::HandshakeTimeout)?
            .map_err(Error::io(Side::Client))?;
        Ok(Handshake::Job(Box::pin(async move {
            self.converse(stream).await.map_err(Error::io(Side::Client))
        })))
    }
}

/// The length of the next message, as its prefix says.
fn announced(unread: &[u8]) -> usize {
    let prefix = unread.first_chunk().copied();
    prefix.map_or(0, |prefix| usize::from(u16::from_be_bytes(prefix)))
}

/// Adds a message with its length in front.
fn frame(message: &[u8], frames: &mut Vec<u8>) {
    if let (Ok(len), false) = (u16::try_from(message.len()), message.is_empty()) {
        frames.extend(len.to_be_bytes());
        frames.extend_from_slice(message);
    }
}
