//! The client's side of a session: opens streams at the request of other tasks.

use std::future::{Future as _, poll_fn};
use std::io;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, Sleep, sleep, timeout};

use super::session::{Role, Session};
use super::start::session;
use crate::limits::{MAX_MULTIPLEX_OPENING, MAX_MULTIPLEX_STREAMS, MULTIPLEX_IDLE};
use crate::net::sync::lock;
use crate::net::{FAREWELL, Stream};
use crate::wire::multiplex::Head;

/// A session to a server.
pub struct Client {
    requests: mpsc::Sender<oneshot::Sender<io::Result<Stream>>>,
    shared: Arc<Shared>,
}

struct Shared {
    streams: AtomicUsize,
    most: AtomicUsize,
    closed: AtomicBool,
    /// Since when there are no streams; `None`: there are.
    idle_since: Mutex<Option<Instant>>,
}

/// Counts as one stream of its session for as long as it lives.
pub struct Token(Arc<Shared>);

impl Token {
    fn new(shared: &Arc<Shared>) -> Self {
        let mut idle = lock(&shared.idle_since);
        shared.streams.fetch_add(1, Relaxed);
        *idle = None;
        Self(Arc::clone(shared))
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        let mut idle = lock(&self.0.idle_since);
        if self.0.streams.fetch_sub(1, Relaxed) == 1 {
            *idle = Some(Instant::now());
        }
    }
}

impl Client {
    /// Begins a session on `stream`, on which `head` has been sent. The future runs it to its end, and
    /// fails if it breaks.
    pub fn start(
        stream: Stream,
        head: Head,
    ) -> (Self, impl Future<Output = io::Result<()>> + Send) {
        let (requests, queue) = mpsc::channel(MAX_MULTIPLEX_OPENING);
        let shared = Arc::new(Shared {
            streams: AtomicUsize::new(0),
            most: AtomicUsize::new(MAX_MULTIPLEX_STREAMS),
            closed: AtomicBool::new(false),
            idle_since: Mutex::new(Some(Instant::now())),
        });
        let driver = Driver {
            session: session(stream, head, Role::Client),
            queue,
            opening: None,
            shared: Arc::clone(&shared),
        };
        (Self { requests, shared }, driver.run())
    }

    /// Opens a stream. The token is to be kept as long as the stream.
    ///
    /// # Errors
    /// When the session has ended.
    pub async fn open(&self) -> io::Result<(Stream, Token)> {
        let token = Token::new(&self.shared);
        let ended = |_| io::Error::from(io::ErrorKind::ConnectionAborted);
        let (reply, opened) = oneshot::channel();
        self.requests
            .send(reply)
            .await
            .map_err(|_| io::ErrorKind::ConnectionAborted)?;
        let stream = opened.await.map_err(ended)??;
        Ok((stream, token))
    }

    /// Streams that are open.
    #[must_use]
    pub fn streams(&self) -> usize {
        self.shared.streams.load(Relaxed)
    }

    /// Whether the server allows no more streams.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.streams() >= self.shared.most.load(Relaxed)
    }

    /// Whether the session has ended, or is about to.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.shared.closed.load(Relaxed)
    }

    /// Takes no more streams: the connection may be dead. Without streams the session ends.
    pub fn retire(&self) {
        self.shared.closed.store(true, Relaxed);
    }
}

/// Runs a session.
struct Driver {
    session: Box<dyn Session>,
    queue: mpsc::Receiver<oneshot::Sender<io::Result<Stream>>>,
    opening: Option<oneshot::Sender<io::Result<Stream>>>,
    shared: Arc<Shared>,
}

impl Driver {
    async fn run(mut self) -> io::Result<()> {
        let mut timer = pin!(sleep(MULTIPLEX_IDLE));
        let ended = poll_fn(|cx| {
            let moved = self.poll(cx);
            if moved.is_pending() && self.is_idle(cx, timer.as_mut()) {
                return Poll::Ready(Ok(()));
            }
            moved
        });
        let ended = ended.await;
        self.shared.closed.store(true, Relaxed);
        if ended.is_ok() {
            // A server that does not take the end is gone anyway.
            let closed = poll_fn(|cx| self.session.poll_close(cx));
            let _ = timeout(FAREWELL, closed).await;
        }
        ended
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            match self.session.poll_accept(cx) {
                // Servers open no streams.
                Poll::Ready(Ok(Some(stream))) => {
                    drop(stream);
                    continue;
                }
                Poll::Ready(Ok(None)) => {
                    return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {}
            }
            let most = self.session.most_streams();
            self.shared.most.store(most, Relaxed);
            if self.opening.is_none() {
                match self.queue.poll_recv(cx) {
                    Poll::Ready(Some(reply)) => self.opening = Some(reply),
                    // Nobody can ask any more.
                    Poll::Ready(None) if self.shared.streams.load(Relaxed) == 0 => {
                        return Poll::Ready(Ok(()));
                    }
                    Poll::Ready(None) | Poll::Pending => return Poll::Pending,
                }
            }
            match self.session.poll_open(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(opened) => {
                    if let Some(reply) = self.opening.take() {
                        // If nobody waits any more, the stream is reset by being dropped.
                        let _ = reply.send(opened);
                    }
                }
            }
        }
    }

    /// Whether there have been no streams for a while, or never will be. Sets the timer otherwise.
    fn is_idle(&self, cx: &mut Context<'_>, mut timer: std::pin::Pin<&mut Sleep>) -> bool {
        loop {
            if timer.as_mut().poll(cx).is_pending() {
                return false;
            }
            // With the lock, nobody can begin a stream between the look and the end.
            let idle = lock(&self.shared.idle_since);
            let now = Instant::now();
            let until = match *idle {
                Some(since) => since + MULTIPLEX_IDLE,
                None => now + MULTIPLEX_IDLE,
            };
            if until <= now {
                self.shared.closed.store(true, Relaxed);
                return true;
            }
            timer.as_mut().reset(until);
        }
    }
}
