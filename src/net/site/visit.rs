//! One connection of a visitor.
//!
//! hyper reads every request, also those of our clients: until a request has been read, nobody can tell what would become of it.
//! Whatever ends a visit, the connection is closed in the same way.

use std::convert::Infallible;
use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use http::header::{CONNECTION, UPGRADE};
use http::{HeaderName, HeaderValue, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{HttpService, service_fn};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::copy_bidirectional;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until};

use super::content::{Content, Site};
use super::io::{Io, Moved};
use super::message::{Body, BoxError, Guest, Held, empty};
use crate::limits::{MAX_HEAD, SITE_BUFFER, SITE_KEEP_ALIVE, SITE_STALL};
use crate::net::Stream;
use crate::net::handshake::reject;
use crate::net::shares::Party;
use crate::net::sync::lock;
use crate::wire::http::{self as wire, Endpoint, Upgrade};

/// Header fields of a request. More are refused.
const MAX_FIELDS: usize = 100;

/// How a visit has ended.
pub enum Left {
    /// The visitor is gone.
    Ended,
    /// It is a client of ours: it has requested a WebSocket and heard that it has one.
    Client {
        /// The connection.
        stream: Stream,
        /// What has been read from it after the request.
        rest: Vec<u8>,
        /// The request.
        upgrade: Upgrade,
    },
}

/// What a request was answered with, beside a body.
pub(super) enum Next {
    /// The WebSocket of a client of ours.
    Ours(Upgrade),
    /// A WebSocket of a web server behind the site.
    Passed(Upgraded),
}

/// What the requests of a connection tell the one who waits for its end.
#[derive(Default)]
struct Progress {
    /// When the head of the next request must be complete; `None`: a request is being answered.
    head_until: Mutex<Option<Instant>>,
    /// Whether there was a request for the site.
    visits: AtomicBool,
    next: Mutex<Option<Next>>,
    changed: Notify,
}

impl Progress {
    fn set_head_until(&self, until: Option<Instant>) {
        *lock(&self.head_until) = until;
        self.changed.notify_one();
    }
}

/// How waiting for a connection has ended.
enum Outcome {
    /// It has.
    Ended(hyper::Result<()>),
    /// It was silent for too long.
    Silent,
    /// It is that of a visitor.
    Visits,
}

impl Site {
    /// Serves the connection of `guest`, of which `ahead` has been read, to its end. A request for a WebSocket at `gate` is a
    /// client's. `visits` is called when there is a request of another kind; from then on the connection has a place among the
    /// visitors, and may lose it. The first request must be complete at `head_until`.
    pub async fn visit(
        &self,
        stream: Stream,
        ahead: Vec<u8>,
        guest: Guest,
        gate: Option<&Endpoint>,
        head_until: Instant,
        visits: impl FnOnce() + Send,
    ) -> Left {
        let (stream, moved) = (Arc::new(stream), Arc::new(Moved::default()));
        let progress = Arc::new(Progress::default());
        progress.set_head_until(Some(head_until));
        let io = Io::new(Arc::clone(&stream), ahead, Arc::clone(&moved));
        let service = service_fn(|request| {
            let progress = Arc::clone(&progress);
            // In a box, since hyper wants to move it.
            Box::pin(async move {
                let response = self.answer(request, guest, gate, &progress).await;
                Ok::<_, Infallible>(response)
            })
        });
        let mut http = http1::Builder::new();
        http.half_close(true)
            .title_case_headers(true)
            .max_headers(MAX_FIELDS)
            .max_header_size(MAX_HEAD)
            .max_buf_size(SITE_BUFFER)
            .header_read_timeout(None);
        let mut connection = http.serve_connection(io, service);
        let outcome = wait(&mut connection, &progress, &moved, true).await;
        if !matches!(outcome, Outcome::Visits) {
            return end(connection, &progress, stream, outcome).await;
        }
        visits();
        let party = Party::of(None, Some(guest.ip));
        let served = async {
            let outcome = wait(&mut connection, &progress, &moved, false).await;
            let passed = lock(&progress.next).take_if(|next| matches!(next, Next::Passed(_)));
            let Some(Next::Passed(upstream)) = passed else {
                return end(connection, &progress, stream, outcome).await;
            };
            let parts = connection.into_parts();
            let rest = Vec::from(parts.read_buf);
            let io = Io::new(Arc::clone(&stream), rest, Arc::clone(&moved));
            drop(parts.io);
            self.pass(io, upstream, &moved).await;
            Left::Ended
        };
        let left = self.places.hold(party, Box::pin(served)).await;
        left.unwrap_or(Left::Ended)
    }
}

impl Site {
    /// Answers a request.
    async fn answer(
        &self,
        request: Request<Incoming>,
        guest: Guest,
        gate: Option<&Endpoint>,
        progress: &Arc<Progress>,
    ) -> Response<Tracked> {
        progress.set_head_until(None);
        let tracked = |body| Held::new(body, Answering(Arc::clone(progress)));
        let upgrade = gate.and_then(|gate| wire::upgrade(&request, gate).ok());
        if let Some(upgrade) = upgrade {
            let response = accepted(&upgrade);
            *lock(&progress.next) = Some(Next::Ours(upgrade));
            return response.map(tracked);
        }
        progress.visits.store(true, Ordering::Relaxed);
        progress.changed.notify_one();
        // The connection is given its place before anything is done for it.
        tokio::task::yield_now().await;
        match &self.content {
            Content::Files(files) => files.respond(request).await.map(tracked),
            Content::Proxy(proxy) => {
                let trusted = self.is_trusted(guest.ip);
                let (response, passed) = Box::pin(proxy.respond(request, guest, trusted)).await;
                if let Some(passed) = passed {
                    *lock(&progress.next) = Some(Next::Passed(passed));
                }
                response.map(tracked)
            }
        }
    }

    /// Moves the bytes of a WebSocket between a visitor and a web server.
    async fn pass(&self, visitor: Io, upstream: Upgraded, moved: &Moved) {
        let (mut visitor, mut upstream) = (TokioIo::new(visitor), TokioIo::new(upstream));
        let both = copy_bidirectional(&mut visitor, &mut upstream);
        let silent = async {
            let mut last = moved.total();
            loop {
                sleep(self.idle).await;
                let total = moved.total();
                if total == last {
                    break;
                }
                last = total;
            }
        };
        tokio::select! {
            // Whoever broke it, both ends are closed.
            _ = both => {}
            () = silent => {}
        }
    }
}

/// The answer to a client of ours.
fn accepted(upgrade: &Upgrade) -> Response<Body> {
    let mut response = Response::new(empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    if let Ok(accept) = HeaderValue::from_str(upgrade.accept()) {
        let name = HeaderName::from_static("sec-websocket-accept");
        headers.insert(name, accept);
    }
    response
}

/// Polls `connection` until it has ended, was silent for too long, or, with `until_visit`, is a visitor's.
async fn wait<S>(
    connection: &mut http1::Connection<Io, S>,
    progress: &Progress,
    moved: &Moved,
    until_visit: bool,
) -> Outcome
where
    S: HttpService<Incoming, ResBody = Tracked> + Unpin,
    S::Future: Unpin,
    S::Error: Into<BoxError>,
{
    let mut last = moved.total();
    let mut written = moved.written();
    let mut extended = None;
    loop {
        let head_until = *lock(&progress.head_until);
        let until = match head_until {
            Some(until) => extended.unwrap_or(until),
            None => Instant::now() + SITE_STALL,
        };
        tokio::select! {
            biased;
            ended = poll_fn(|cx| connection.poll_without_shutdown(cx)) => return Outcome::Ended(ended),
            () = progress.changed.notified() => {
                extended = None;
                if until_visit && progress.visits.load(Ordering::Relaxed) {
                    return Outcome::Visits;
                }
            }
            () = sleep_until(until) => {
                // A visitor who reads slowly still gets the end of the answer before.
                let still_writes = moved.written() != written;
                let moves = head_until.is_none() && moved.total() != last;
                if !still_writes && !moves {
                    return Outcome::Silent;
                }
                extended = Some(Instant::now() + SITE_KEEP_ALIVE);
                (last, written) = (moved.total(), moved.written());
            }
        }
    }
}

/// Ends a connection, or leaves it to the client that it turned out to be.
async fn end<S>(
    connection: http1::Connection<Io, S>,
    progress: &Progress,
    stream: Arc<Stream>,
    outcome: Outcome,
) -> Left
where
    S: HttpService<Incoming, ResBody = Tracked>,
    S::Error: Into<BoxError>,
{
    let parts = connection.into_parts();
    let rest = Vec::from(parts.read_buf);
    drop(parts.io);
    let next = lock(&progress.next).take();
    if let (Outcome::Ended(Ok(())), Some(Next::Ours(upgrade))) = (outcome, next) {
        return match Arc::try_unwrap(stream) {
            Ok(stream) => Left::Client {
                stream,
                rest,
                upgrade,
            },
            // Nobody else has it.
            Err(_) => Left::Ended,
        };
    }
    // What still comes is read for a moment, so that the answer is not lost by a reset.
    reject(&stream, &[]).await;
    Left::Ended
}

/// The body of an answer.
type Tracked = Held<Body, Answering>;

/// When it is dropped, an answer has been written, and the next request may begin.
struct Answering(Arc<Progress>);

impl Drop for Answering {
    fn drop(&mut self) {
        self.0
            .set_head_until(Some(Instant::now() + SITE_KEEP_ALIVE));
    }
}
