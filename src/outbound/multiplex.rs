//! The sessions of sing-box's `multiplex` with one server, and streams in them.
//!
//! A request takes the session with the fewest streams, or opens another one (`Settings::wants_another`). Those that come
//! while a session is being opened wait for it. A session that has ended is forgotten; its streams break.

mod stream;

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

use super::balancer::health::{Fault, Health};
use super::endpoint::Endpoint;
use super::reach;
use crate::limits::{MAX_MULTIPLEX_SESSIONS, MAX_MULTIPLEX_STREAMS};
use crate::net::multiplex::{Client, Token};
use crate::net::sync::lock;
use crate::net::tasks::Tasks;
use crate::net::{self, Stream};
use crate::relay::plain::plain;
use crate::relay::tcp::Leg;
use crate::relay::{Error, Side};
use crate::wire::AddressRef;
use crate::wire::multiplex::{Carries, HOST, Head, PORT};

/// How often a request chooses a session: one may end between the choice and the use.
const ATTEMPTS: usize = 3;
/// Why no stream is opened when all sessions have as many as they may.
const TOO_MANY: &str = "too many multiplexed streams";
/// Random bytes in the head of a padded session, as sing-box has them.
const HEAD_PADDING: std::ops::Range<u16> = 256..768;

/// How requests share sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// Up to so many sessions; another one is opened while each has `min_streams`.
    Connections {
        /// Most sessions.
        max: usize,
        /// Streams that a session gets before another one is opened.
        min_streams: usize,
    },
    /// Another session is opened when each has so many streams.
    Streams(usize),
}

/// How a client multiplexes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The multiplexer, and whether it pads.
    pub head: Head,
    /// When another session is opened.
    pub sharing: Sharing,
    /// How long a client's first payload is waited for, so that it goes with the request of its stream.
    pub first_payload_wait: Duration,
    /// How long a session may be silent before the system probes it.
    pub keep_alive: Option<Duration>,
}

impl Settings {
    /// Whether another session is opened, where there are `sessions` and the best one has `streams`.
    const fn wants_another(&self, sessions: usize, streams: usize) -> bool {
        if streams == 0 || sessions >= MAX_MULTIPLEX_SESSIONS {
            return false;
        }
        match self.sharing {
            Sharing::Connections { max, min_streams } => sessions < max && streams >= min_streams,
            Sharing::Streams(most) => streams >= most,
        }
    }

    /// Whether there may be another session beside `sessions`.
    const fn allows_another(&self, sessions: usize) -> bool {
        let most = match self.sharing {
            Sharing::Connections { max, .. } => max,
            Sharing::Streams(_) => MAX_MULTIPLEX_SESSIONS,
        };
        sessions < most && sessions < MAX_MULTIPLEX_SESSIONS
    }
}

/// What is known of a session.
#[derive(Clone)]
enum State {
    Opening,
    Open(Arc<Client>),
    /// It could not be opened, for this reason.
    Failed(Arc<str>),
}

/// One session.
struct Session {
    state: watch::Receiver<State>,
    /// Streams, and requests that wait for one.
    streams: AtomicUsize,
}

impl Session {
    fn streams(&self) -> usize {
        self.streams.load(Relaxed)
    }

    fn has_ended(&self) -> bool {
        match &*self.state.borrow() {
            // Nobody opens it any more.
            State::Opening => self.state.has_changed().is_err(),
            State::Open(client) => client.is_closed(),
            State::Failed(_) => true,
        }
    }

    fn is_full(&self) -> bool {
        match &*self.state.borrow() {
            State::Open(client) if client.is_full() => true,
            _ => self.streams() >= MAX_MULTIPLEX_STREAMS,
        }
    }
}

/// A place among the streams of a session.
struct Place(Arc<Session>);

impl Place {
    fn new(session: &Arc<Session>) -> Self {
        session.streams.fetch_add(1, Relaxed);
        Self(Arc::clone(session))
    }

    /// Waits until the session is open; `None`: nobody opens it any more.
    async fn client(&self) -> Result<Option<Arc<Client>>, Error> {
        let mut state = self.0.state.clone();
        let settled = state.wait_for(|state| !matches!(state, State::Opening));
        let state = settled.await.map(|state| state.clone());
        match state {
            Ok(State::Open(client)) => Ok(Some(client)),
            Ok(State::Failed(why)) => Err(net::Error::Session(why.as_ref().into()).into()),
            Ok(State::Opening) | Err(_) => Ok(None),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Relaxed);
    }
}

/// A stream of a session, and its place there.
pub struct Opened {
    stream: Stream,
    token: Token,
    place: Place,
}

/// The sessions with one server.
pub struct Sessions {
    settings: Settings,
    endpoint: Arc<Endpoint>,
    health: Arc<Health>,
    sessions: Mutex<Vec<Arc<Session>>>,
    tasks: Tasks,
}

impl Sessions {
    /// Starts without sessions.
    #[must_use]
    pub fn new(settings: Settings, endpoint: Arc<Endpoint>, health: Arc<Health>) -> Self {
        Self {
            settings,
            endpoint,
            health,
            sessions: Mutex::default(),
            tasks: Tasks::default(),
        }
    }

    /// The sessions may be dead: later requests open new ones. Streams stay where they are.
    pub(super) fn retire(&self) {
        let sessions = std::mem::take(&mut *lock(&self.sessions));
        for session in sessions {
            if let State::Open(client) = &*session.state.borrow() {
                client.retire();
            }
        }
    }

    /// Opens a stream.
    ///
    /// # Errors
    /// When no session can be opened, or the server opens no stream in it.
    pub(super) async fn open(&self) -> Result<Opened, Error> {
        let limit = self.endpoint.dialer.connect_timeout;
        let mut failure = Error::Overloaded(TOO_MANY);
        for _ in 0..ATTEMPTS {
            let (place, to_open) = self.choose().ok_or(Error::Overloaded(TOO_MANY))?;
            let client = match to_open {
                Some(state) => self.dial(&state).await?,
                None => match place.client().await? {
                    Some(client) => client,
                    None => continue,
                },
            };
            let opened = timeout(limit, client.open()).await;
            let error = match opened {
                Ok(Ok((stream, token))) => {
                    return Ok(Opened {
                        stream,
                        token,
                        place,
                    });
                }
                Ok(Err(error)) => error,
                Err(_) => io::ErrorKind::TimedOut.into(),
            };
            client.retire();
            failure = net::Error::SessionStream(error).into();
        }
        Err(failure)
    }

    /// A leg to `target` in `opened`.
    pub(super) fn leg(&self, opened: Opened, target: AddressRef<'_>) -> Leg {
        let request = Carries::Bytes.encode(target);
        self.requested(opened, request)
    }

    /// A leg for datagrams, which writes its request itself.
    pub(super) fn packet_leg(&self, opened: Opened) -> Leg {
        self.requested(opened, Vec::new())
    }

    fn requested(&self, opened: Opened, request: Vec<u8>) -> Leg {
        let wait = self.settings.first_payload_wait;
        let keep = (opened.token, opened.place);
        Leg::plain(stream::requested(opened.stream, request, wait, keep))
    }

    /// The session for a request; with a sender if the request is to open it. `None`: there is no room in any.
    fn choose(&self) -> Option<(Place, Option<watch::Sender<State>>)> {
        let mut sessions = lock(&self.sessions);
        sessions.retain(|session| !session.has_ended());
        let open = sessions.iter().filter(|session| !session.is_full());
        let best = open.min_by_key(|session| session.streams());
        match best {
            Some(best) if !self.settings.wants_another(sessions.len(), best.streams()) => {
                return Some((Place::new(best), None));
            }
            None if !self.settings.allows_another(sessions.len()) => return None,
            _ => {}
        }
        let (sender, state) = watch::channel(State::Opening);
        let session = Arc::new(Session {
            state,
            streams: AtomicUsize::new(0),
        });
        sessions.push(Arc::clone(&session));
        Some((Place::new(&session), Some(sender)))
    }

    /// Opens a session.
    async fn dial(&self, state: &watch::Sender<State>) -> Result<Arc<Client>, Error> {
        match self.connect().await {
            Ok(client) => {
                state.send_replace(State::Open(Arc::clone(&client)));
                Ok(client)
            }
            Err(error) => {
                state.send_replace(State::Failed(error.to_string().into()));
                Err(error)
            }
        }
    }

    async fn connect(&self) -> Result<Arc<Client>, Error> {
        let (stream, _) = reach::dial(&self.endpoint, &self.health, false).await?;
        if let Some(time) = self.settings.keep_alive {
            // Without it, a dead session is noticed when it is used.
            let _ = stream.keep_alive(time);
        }
        let target = AddressRef::Domain(HOST, PORT);
        let stream = plain(self.endpoint.leg(stream, target));
        let head = self.settings.head;
        let head_bytes = head.encode(rand::random_range(HEAD_PADDING));
        let sent = timeout(
            self.endpoint.dialer.connect_timeout,
            stream.write_all(&head_bytes),
        );
        let sent = sent
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        sent.map_err(Error::io(Side::Upstream))?;
        let (client, run) = Client::start(stream, head);
        let client = Arc::new(client);
        let (address, health) = (self.endpoint.address.clone(), Arc::clone(&self.health));
        let watched = Arc::downgrade(&client);
        let run = Box::pin(run);
        let started = self.tasks.try_spawn(2 * MAX_MULTIPLEX_SESSIONS, async move {
            let Err(error) = run.await else { return };
            let streams = watched.upgrade().map_or(0, |client| client.streams());
            if streams > 0 && health.fail(Fault::Unreachable) {
                tracing::warn!(server = %address, streams, %error, "a session of `multiplex` with the server broke");
            } else {
                tracing::debug!(server = %address, streams, %error, "a session of `multiplex` with the server ended");
            }
        });
        let protocol = head.protocol.name();
        tracing::debug!(server = %self.endpoint.address, protocol, padding = head.padding, "a session of `multiplex` is open");
        started.map(|_| client).ok_or(Error::Overloaded(TOO_MANY))
    }
}
