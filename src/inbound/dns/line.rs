//! Streams to a name server, which are kept and carry many queries at once (RFC 7766 §6.2.1).

use std::collections::HashMap;
use std::future::{Future, pending, poll_fn};
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout};

use crate::limits::MAX_PIPELINED;
use crate::limits::{UDP_STREAM_BUFFER, UDP_STREAM_WINDOW};
use crate::net::Stream;
use crate::net::pipe::{Pipe, Taken, pair};
use crate::net::sync::lock;
use crate::net::tasks::Tasks;
use crate::relay::Error;
use crate::relay::tcp::{Handshake, Inbound, Leg, Outbound, Request, Service};
use crate::wire::Address;
use crate::wire::dns::{self, Match};

/// How long a stream is kept without a query.
const IDLE: Duration = Duration::from_secs(30);
/// Queries that wait on a stream before another is opened beside it.
const BUSY: usize = 32;
/// How long a new stream takes queries before its first answer. After that, its first queries may be under way through
/// another server, while others wait.
const UNPROVEN: Duration = Duration::from_millis(500);

/// The work that carries the bytes of a stream.
type Carrying = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The streams to one name server.
pub(super) struct Lines {
    open: Box<dyn Fn() -> (Pipe, Carrying) + Send + Sync>,
    most: usize,
    kept: Mutex<Vec<Arc<Line>>>,
    tasks: Tasks,
}

/// A stream, by the queue to its task.
struct Line {
    queries: mpsc::Sender<Exchange>,
    waiting: AtomicUsize,
    opened: Instant,
    has_answered: AtomicBool,
}

/// A query, and whom to give its answer.
struct Exchange {
    query: Vec<u8>,
    answer: oneshot::Sender<Vec<u8>>,
}

impl Lines {
    /// Streams that `service` carries, at most `most` at once.
    pub(super) fn new<O>(service: Service<To, O>, most: usize) -> Self
    where
        O: Outbound + Send + 'static,
    {
        let service = Arc::new(service);
        let open = move || {
            let (stream, pipe) = pair(UDP_STREAM_WINDOW, UDP_STREAM_BUFFER);
            let service = Arc::clone(&service);
            let nobody = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
            let carrying: Carrying =
                Box::pin(async move { service.serve(stream, nobody, || ()).await });
            (pipe, carrying)
        };
        Self {
            open: Box::new(open),
            most: most.max(1),
            kept: Mutex::default(),
            tasks: Tasks::default(),
        }
    }

    /// Sends `query` and waits for its answer; `None`: none came within `limit`, or the stream broke. The id of the
    /// query is chosen here. With `fresh`, the query does not go by a stream that others have used.
    pub(super) async fn ask(
        &self,
        query: Vec<u8>,
        fresh: bool,
        limit: Duration,
    ) -> Option<Vec<u8>> {
        let line = self.line(fresh);
        let (answer, answered) = oneshot::channel();
        let sent = line.queries.try_send(Exchange { query, answer });
        let waiting = Waiting::new(&line);
        let answer = match sent {
            Ok(()) => timeout(limit, answered).await.ok().and_then(Result::ok),
            Err(_) => None,
        };
        if answer.is_some() {
            line.has_answered.store(true, Relaxed);
        } else {
            // It may be dead. The queries that wait on it keep it until they have ended.
            lock(&self.kept).retain(|kept| !Arc::ptr_eq(kept, &line));
        }
        drop(waiting);
        answer
    }

    /// The stream with the fewest queries, or a new one.
    fn line(&self, fresh: bool) -> Arc<Line> {
        let mut kept = lock(&self.kept);
        kept.retain(|line| !line.queries.is_closed());
        let idlest = kept
            .iter()
            .filter(|line| line.has_answered.load(Relaxed) || line.opened.elapsed() < UNPROVEN)
            .min_by_key(|line| line.waiting.load(Relaxed))
            .cloned();
        let full = kept.len() >= self.most;
        if let Some(line) = idlest {
            let is_free = line.waiting.load(Relaxed) < BUSY;
            if !fresh && (is_free || full) {
                return line;
            }
        }
        if full {
            kept.remove(0);
        }
        let (queries, queue) = mpsc::channel(MAX_PIPELINED);
        let (pipe, carrying) = (self.open)();
        self.tasks.spawn(run(pipe, carrying, queue));
        let line = Arc::new(Line {
            queries,
            waiting: AtomicUsize::new(0),
            opened: Instant::now(),
            has_answered: AtomicBool::new(false),
        });
        kept.push(Arc::clone(&line));
        line
    }
}

/// Counts a query while it waits.
struct Waiting<'a>(&'a Line);

impl<'a> Waiting<'a> {
    fn new(line: &'a Line) -> Self {
        line.waiting.fetch_add(1, Relaxed);
        Self(line)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Relaxed);
    }
}

/// Carries a stream and exchanges queries and answers in it until it breaks, nobody is left to ask, or it is idle.
async fn run(pipe: Pipe, carrying: Carrying, queue: mpsc::Receiver<Exchange>) {
    let carried = async {
        carrying.await;
        // The exchange ends by itself, when it has taken what is left in the pipe.
        pending().await
    };
    tokio::select! {
        () = exchange(&pipe, queue) => pipe.finish(),
        () = carried => {}
    }
}

async fn exchange(pipe: &Pipe, mut queue: mpsc::Receiver<Exchange>) {
    let mut waiting: HashMap<u16, Exchange> = HashMap::new();
    let mut unread = Vec::new();
    let mut chunk = vec![0; 4096];
    let mut idle = Instant::now() + IDLE;
    loop {
        tokio::select! {
            exchange = queue.recv() => {
                let Some(exchange) = exchange else { return };
                if !send(pipe, exchange, &mut waiting) {
                    return;
                }
            }
            taken = poll_fn(|cx| pipe.poll_take(cx, &mut chunk)) => {
                let Taken::Bytes(count) = taken else { return };
                unread.extend_from_slice(chunk.get(..count).unwrap_or_default());
                let used = give(&unread, &mut waiting);
                unread.drain(..used);
            }
            () = sleep_until(idle) => return,
        }
        idle = Instant::now() + IDLE;
    }
}

/// Writes a query under an id that no other has; returns whether the stream takes more.
fn send(pipe: &Pipe, mut exchange: Exchange, waiting: &mut HashMap<u16, Exchange>) -> bool {
    if waiting.len() >= MAX_PIPELINED {
        waiting.retain(|_, other| !other.answer.is_closed());
    }
    let Ok(len) = u16::try_from(exchange.query.len()) else {
        return true;
    };
    if waiting.len() >= MAX_PIPELINED {
        return true;
    }
    let mut id: u16 = rand::random();
    while waiting.contains_key(&id) {
        id = id.wrapping_add(1);
    }
    if let Some(place) = exchange.query.first_chunk_mut() {
        *place = id.to_be_bytes();
    }
    let mut frame = len.to_be_bytes().to_vec();
    frame.extend_from_slice(&exchange.query);
    waiting.insert(id, exchange);
    // What the stream has consumed makes room.
    let _ = pipe.take_credit();
    pipe.push(&frame).is_ok()
}

/// Gives the whole answers at the beginning of `unread` to those who wait for them; returns how many bytes they had.
fn give(unread: &[u8], waiting: &mut HashMap<u16, Exchange>) -> usize {
    let mut used = 0;
    while let Some((message, len)) = whole(unread.get(used..).unwrap_or_default()) {
        used += len;
        let Some(id) = dns::id(message) else { continue };
        let asked = waiting
            .get(&id)
            .is_some_and(|exchange| dns::answers(message, &exchange.query) != Match::No);
        if asked && let Some(exchange) = waiting.remove(&id) {
            // Whoever waited may have given up.
            let _ = exchange.answer.send(message.to_vec());
        }
    }
    used
}

/// The message at the beginning of `bytes`, and the length with its prefix; `None` while it is incomplete (RFC 1035
/// §4.2.2).
pub(super) fn whole(bytes: &[u8]) -> Option<(&[u8], usize)> {
    let (len, rest) = bytes.split_first_chunk()?;
    let len = usize::from(u16::from_be_bytes(*len));
    Some((rest.get(..len)?, 2 + len))
}

/// Requests one name server for every stream.
pub(super) struct To(pub(super) Address);

impl Inbound for To {
    fn may_repeat(&self) -> bool {
        true
    }

    async fn handshake(
        &self,
        stream: Stream,
        peer: SocketAddr,
        _: Instant,
    ) -> Result<Handshake<'_>, Error> {
        // It is said here that the name server cannot be reached, and not for each stream.
        Ok(Handshake::Request(Request {
            leg: Leg::plain(stream),
            target: self.0.clone(),
            reply: None,
            trusted: false,
            peer,
            user: None,
            claimed: None,
        }))
    }
}
