//! Asks one name server.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::line::{Lines, To};
use crate::limits::{MAX_FORGERIES, MAX_UDP_ANSWER, QUERY_TIMEOUT};
use crate::net::SocketOptions;
use crate::net::udp::mapped;
use crate::relay::Counters;
use crate::relay::tcp::{Outbound, Service, Timeouts};
use crate::wire::Address;
use crate::wire::dns::{Answer, Match, Query, answers, is_truncated};

/// How long the first attempt waits before the second begins.
const FIRST_ATTEMPT: Duration = Duration::from_secs(2);
/// Attempts in all: those that end early, because a stream broke, are made again.
const ATTEMPTS: u32 = 4;
/// The pause before each attempt after the second. A server that ends may accept connections a moment longer.
const PAUSE: Duration = Duration::from_millis(100);
/// How long the right answer may come after one whose name has another case.
const GRACE: Duration = Duration::from_millis(200);
/// Bytes that are read of an answer.
const LARGEST: usize = 4096;

/// A name server and the ways to it.
pub struct Upstream {
    name: Address,
    datagrams: Option<Datagrams>,
    lines: Lines,
    failing: AtomicBool,
}

/// The way by UDP.
struct Datagrams {
    server: SocketAddr,
    options: SocketOptions,
}

/// What came of a query by UDP.
enum Reply {
    Answer(Vec<u8>),
    /// It is to be asked by a stream.
    Stream,
    /// Nothing, in time.
    Nothing,
}

impl Upstream {
    /// The name server at `address`, to which `outbound` opens at most `streams` streams.
    #[must_use]
    pub fn new<O: Outbound + Send + 'static>(
        address: Address,
        outbound: O,
        streams: usize,
        timeouts: Timeouts,
        counters: Arc<Counters>,
    ) -> Self {
        let service = Service {
            inbound: To(address.clone()),
            outbound,
            timeouts,
            counters,
        };
        Self {
            name: address,
            datagrams: None,
            lines: Lines::new(service, streams),
            failing: AtomicBool::new(false),
        }
    }

    /// Lets it be asked by UDP first, at `server`.
    #[must_use]
    pub fn with_datagrams(mut self, server: SocketAddr, options: SocketOptions) -> Self {
        self.datagrams = Some(Datagrams { server, options });
        self
    }

    /// Asks `query`; `None`: there is no answer within [`QUERY_TIMEOUT`].
    pub(super) async fn ask(&self, query: &Query<'_>) -> Option<Answer> {
        let answer = timeout(QUERY_TIMEOUT, self.attempts(query)).await;
        let answer = answer.ok().flatten();
        let fails = answer.is_none();
        let before = self.failing.swap(fails, Relaxed);
        let server = &self.name;
        match (before, fails) {
            (false, true) => tracing::warn!(%server, "a name server does not answer"),
            (true, false) => tracing::info!(%server, "the name server answers again"),
            _ => {}
        }
        answer
    }

    async fn attempts(&self, query: &Query<'_>) -> Option<Answer> {
        let edns = Some(MAX_UDP_ANSWER);
        for number in 0..ATTEMPTS {
            let (limit, again) = match number {
                0 => (FIRST_ATTEMPT, false),
                _ => (QUERY_TIMEOUT, true),
            };
            if number > 1 {
                sleep(PAUSE).await;
            }
            let Some(answer) = self.attempt(query, edns, limit, again).await else {
                continue;
            };
            // RFC 6891 §6.2.2: old servers answer so.
            if answer.refuses_edns() && !query.dnssec_ok() {
                return self.attempt(query, None, limit, again).await;
            }
            return Some(answer);
        }
        None
    }

    async fn attempt(
        &self,
        query: &Query<'_>,
        edns: Option<u16>,
        limit: Duration,
        again: bool,
    ) -> Option<Answer> {
        if let Some(datagrams) = &self.datagrams {
            let message = query.encode(rand::random(), rand::random(), edns);
            let reply = datagrams.ask(&message, limit).await;
            match reply.unwrap_or_else(|error| {
                tracing::debug!(server = %self.name, %error, "cannot ask a name server by UDP");
                Reply::Nothing
            }) {
                Reply::Answer(answer) => return Answer::parse(&answer),
                Reply::Stream => {}
                Reply::Nothing => return None,
            }
        }
        let message = query.encode(0, rand::random(), edns);
        let answer = self.lines.ask(message, again, limit).await?;
        Answer::parse(&answer)
    }
}

impl Datagrams {
    /// Asks from a port of its own, which a forger has to guess together with the id and the case of the name (RFC 5452).
    async fn ask(&self, query: &[u8], limit: Duration) -> io::Result<Reply> {
        let mut deadline = Instant::now() + limit;
        let socket = self.options.outgoing_udp()?;
        let is_v6 = socket.local_addr()?.is_ipv6();
        let server = if is_v6 {
            mapped(self.server)
        } else {
            self.server
        };
        socket.connect(&server.into())?;
        let socket = UdpSocket::from_std(socket.into())?;
        socket.send(query).await?;
        let mut buffer = vec![0; LARGEST];
        let mut unheard = Reply::Nothing;
        for _ in 0..MAX_FORGERIES {
            let Ok(received) = timeout_at(deadline, socket.recv(&mut buffer)).await else {
                return Ok(unheard);
            };
            let message = buffer.get(..received?).unwrap_or_default();
            match answers(message, query) {
                Match::Yes if is_truncated(message) => return Ok(Reply::Stream),
                Match::Yes => return Ok(Reply::Answer(message.to_vec())),
                // A forgery, or a server that changes the case: it gets its turn by a stream, which nobody forges from
                // afar.
                Match::Case => {
                    deadline = deadline.min(Instant::now() + GRACE);
                    unheard = Reply::Stream;
                }
                Match::No => {}
            }
        }
        Ok(Reply::Stream)
    }
}
