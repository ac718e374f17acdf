//! Connections for plain requests: each is a pipe into a relay of its own.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::pages::Page;
use crate::dns::fake::Fakes;
use crate::limits::HTTP_WINDOW;
use crate::net::Stream;
use crate::net::pipe::{self, Pipe};
use crate::net::sync::lock;
use crate::relay::failed::{Asked, Way};
use crate::relay::tcp::{
    First, Handshake, Inbound, Leg, Outbound, Reply, Request, Service, Timeouts,
};
use crate::relay::{Counters, Error, User};
use crate::wire::Address;

/// Opens connections for plain requests.
pub struct Upstreams<O> {
    /// Connects to the targets.
    pub outbound: O,
    /// Names behind fake addresses.
    pub fakes: Fakes,
    /// How long each part of a connection's life may take.
    pub timeouts: Timeouts,
    /// Counts what happens.
    pub counters: Arc<Counters>,
}

/// A connection to the target of plain requests. Its relay ends with it.
pub(super) struct Upstream {
    pub(super) pipe: Pipe,
    /// Bytes that the relay still takes.
    pub(super) room: usize,
    target: Address,
    user: Option<Arc<User>>,
    verdict: oneshot::Receiver<Result<(), Page>>,
    _relay: JoinSet<()>,
}

impl<O: Outbound + Clone + Send + 'static> Upstreams<O> {
    /// Begins a connection to `target`, to which `first` is sent.
    pub(super) fn open(
        &self,
        target: Address,
        user: Option<Arc<User>>,
        peer: SocketAddr,
        first: Vec<u8>,
    ) -> Upstream {
        let (stream, pipe) = pipe::pair(HTTP_WINDOW, HTTP_WINDOW);
        let (tell, verdict) = oneshot::channel();
        let service = Service {
            inbound: Opening(
                Mutex::new(Some((first, Verdict::new(tell)))),
                target.clone(),
                user.clone(),
            ),
            outbound: Patient(self.outbound.clone()),
            timeouts: self.timeouts,
            counters: Arc::clone(&self.counters),
        };
        let mut relay = JoinSet::new();
        relay.spawn(async move { service.serve(stream, peer, || ()).await });
        Upstream {
            pipe,
            room: HTTP_WINDOW,
            target,
            user,
            verdict,
            _relay: relay,
        }
    }
}

impl Upstream {
    /// Whether a request to `target` may be made on it now: nothing has come that nobody asked for, neither bytes nor the
    /// end.
    pub(super) fn serves(&self, target: &Address, user: Option<&Arc<User>>) -> bool {
        let same = match (&self.user, user) {
            (Some(own), Some(other)) => Arc::ptr_eq(own, other),
            (None, None) => true,
            _ => false,
        };
        let mut cx = Context::from_waker(Waker::noop());
        same && self.target == *target && self.pipe.poll_take(&mut cx, &mut []).is_pending()
    }

    /// Waits until something comes that nobody asked for.
    pub(super) async fn disturbed(&self) {
        poll_fn(|cx| self.pipe.poll_take(cx, &mut []).map(drop)).await;
    }

    /// Waits until the target has been reached, or says why not.
    pub(super) async fn reached(&mut self) -> Result<(), Page> {
        let verdict = (&mut self.verdict).await;
        verdict.unwrap_or_else(|_| Err(self.ended()))
    }

    /// Why a connection ended before anything came.
    pub(super) fn failure(&mut self) -> Page {
        match self.verdict.try_recv() {
            Ok(Err(page)) => page,
            _ => self.ended(),
        }
    }

    fn ended(&self) -> Page {
        let target = &self.target;
        Page::new(
            502,
            format!(
                "The connection to {target} ended before an answer came: the server could not reach it, or it hung up."
            ),
        )
    }
}

/// Bytes on their way to a relay.
pub(super) struct Sink<'a> {
    pub(super) pipe: &'a Pipe,
    pub(super) room: &'a mut usize,
}

/// The relay has ended.
pub(super) struct Closed;

impl Sink<'_> {
    /// Sends a part of `bytes` and returns how many bytes it has.
    pub(super) async fn push(&mut self, bytes: &[u8]) -> Result<usize, Closed> {
        poll_fn(|cx| {
            self.pipe.watch(cx);
            *self.room += self.pipe.take_credit().unwrap_or_default();
            if *self.room > 0 || self.pipe.is_abandoned() {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
        let now = bytes.get(..bytes.len().min(*self.room)).unwrap_or_default();
        self.pipe.push(now).map_err(|_| Closed)?;
        *self.room -= now.len();
        Ok(now.len())
    }
}

/// The one client of a relay: the first bytes and the verdict for its request, the target and the user.
struct Opening(
    Mutex<Option<(Vec<u8>, Verdict)>>,
    Address,
    Option<Arc<User>>,
);

impl Inbound for Opening {
    async fn handshake(
        &self,
        stream: Stream,
        peer: SocketAddr,
        _: Instant,
    ) -> Result<Handshake<'_>, Error> {
        let (first, verdict) = lock(&self.0).take().ok_or(Error::HandshakeEnd)?;
        Ok(Handshake::Request(Request {
            leg: Leg {
                stream,
                codec: None,
                first: if first.is_empty() {
                    First::Nothing
                } else {
                    First::Ahead(first)
                },
                others: None,
            },
            target: self.1.clone(),
            reply: Some(Box::new(verdict)),
            trusted: false,
            peer,
            user: self.2.clone(),
            claimed: None,
        }))
    }
}

/// Tells the session whether the target has been reached.
struct Verdict(Mutex<Option<oneshot::Sender<Result<(), Page>>>>);

impl Verdict {
    const fn new(tell: oneshot::Sender<Result<(), Page>>) -> Self {
        Self(Mutex::new(Some(tell)))
    }

    fn tell(&self, verdict: Result<(), Page>) -> Vec<u8> {
        if let Some(tell) = lock(&self.0).take() {
            // A session that has ended does not need it.
            let _ = tell.send(verdict);
        }
        Vec::new()
    }
}

impl Reply for Verdict {
    fn success(&self) -> Vec<u8> {
        self.tell(Ok(()))
    }

    fn failure(&self, error: &Error) -> Vec<u8> {
        self.tell(Err(Page::of_failure(error)))
    }
}

/// Confirms nothing early: the session wants to know why a target cannot be reached, and does not wait for success.
struct Patient<O>(O);

impl<O: Outbound> Outbound for Patient<O> {
    fn may_confirm_early(&self, _: &Request) -> bool {
        false
    }

    async fn connect(&self, request: &Request) -> Result<Leg, Error> {
        self.0.connect(request).await
    }

    fn way(&self, asked: &Asked<'_>) -> Way {
        self.0.way(asked)
    }
}
