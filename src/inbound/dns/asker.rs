//! Clients that wait for an answer.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, mpsc};

use crate::limits::{MAX_QUERY, MAX_UDP_ANSWER};
use crate::net::udp::{Batch, Path, Socket};
use crate::wire::dns::{self, Answer, PLAIN_SIZE, Query, Refusal};

/// Bytes of the largest answer in a stream.
const MAX_STREAM_ANSWER: usize = 65_535;

/// How a client is answered.
pub(super) enum Back {
    /// By a datagram.
    Datagram {
        /// The socket that it asked.
        socket: Arc<Socket>,
        /// Its address and ours.
        path: Path,
    },
    /// In its stream.
    Stream {
        /// To the task of its connection.
        answers: mpsc::Sender<Vec<u8>>,
        /// Its place among the queries of the connection.
        room: OwnedSemaphorePermit,
    },
}

/// A client that waits, and what it asked.
pub(super) struct Asker {
    back: Back,
    /// Its query without options.
    query: Vec<u8>,
}

impl Asker {
    pub(super) fn new(back: Back, query: &Query<'_>) -> Self {
        let query = query.bare();
        Self { back, query }
    }

    /// What a query has in common with the same one sent again: the client's address and the id.
    pub(super) fn origin(&self) -> Option<(SocketAddr, u16)> {
        match &self.back {
            Back::Datagram { path, .. } => Some((path.peer, dns::id(&self.query)?)),
            Back::Stream { .. } => None,
        }
    }

    /// Answers that no name server has answered.
    pub(super) fn fail(self) {
        let failure = Query::parse(&self.query)
            .ok()
            .map(|query| Answer::failure(&query));
        if let Some(failure) = failure {
            self.answer(&failure);
        }
    }

    /// Answers. A client that does not take the answer loses it.
    pub(super) fn answer(self, answer: &Answer) {
        let Ok(query) = Query::parse(&self.query) else {
            return;
        };
        let mut out = Vec::new();
        match self.back {
            Back::Datagram { socket, path } => {
                encode(answer, &query, 0, datagram_limit(&query), &mut out);
                send(&socket, path, &out);
            }
            Back::Stream { answers, room } => {
                encode(answer, &query, 0, MAX_STREAM_ANSWER, &mut out);
                // There is room for as many as the connection may ask.
                let _ = answers.try_send(out);
                drop(room);
            }
        }
    }
}

impl Back {
    /// The longest answer to `query`, in bytes.
    pub(super) fn limit(&self, query: &Query<'_>) -> usize {
        match self {
            Self::Datagram { .. } => datagram_limit(query),
            Self::Stream { .. } => MAX_STREAM_ANSWER,
        }
    }
}

/// What the client says that it takes, within bounds: a query with a forged source must not bring much more to somebody
/// else than it cost.
fn datagram_limit(query: &Query<'_>) -> usize {
    let said = query.edns.map_or(PLAIN_SIZE, |edns| edns.size);
    usize::from(said.clamp(PLAIN_SIZE, MAX_UDP_ANSWER))
}

/// Reads a query; `None`: it is refused, and `out` is the answer, or empty.
pub(super) fn parse<'a>(message: &'a [u8], out: &mut Vec<u8>) -> Option<Query<'a>> {
    out.clear();
    let query = match Query::parse(message) {
        Ok(_) if message.len() > MAX_QUERY => Err(Refusal::Malformed),
        parsed => parsed,
    };
    let refused = |refusal: Refusal| out.extend(refusal.encode(message).unwrap_or_default());
    query.map_err(refused).ok()
}

/// Appends `answer` to `out`.
pub(super) fn encode(
    answer: &Answer,
    query: &Query<'_>,
    age: u32,
    limit: usize,
    out: &mut Vec<u8>,
) {
    answer.encode(query, age, limit, MAX_UDP_ANSWER, out);
}

fn send(socket: &Socket, path: Path, message: &[u8]) {
    let mut batch = Batch::spare();
    push(&mut batch, path, message);
    socket.send(&mut batch);
    batch.keep();
}

/// Adds a datagram to a batch.
pub(super) fn push(batch: &mut Batch, path: Path, message: &[u8]) {
    let pushed = batch.push(path, message.len(), |room| {
        room.copy_from_slice(message);
        Ok::<_, std::convert::Infallible>(())
    });
    let Ok(()) = pushed;
}
