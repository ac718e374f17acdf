//! The way beside QUIC to a server (`fallback`), for networks that block UDP: which of the two a flow takes.
//!
//! Where it is not known whether QUIC works, both are tried, QUIC first: what is ready first carries the flow. What has lost is
//! remembered until the network changes or some time is over; then QUIC is tried in the background.

use std::net::IpAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout};

use crate::net::dial::ATTEMPT_DELAY;
use crate::net::quic::Client;
use crate::net::sync::lock;
use crate::net::tasks::Tasks;
use crate::net::{self, Stream, sampled};
use crate::relay::Error;

/// Attempts of one server at once, those included that are being ended.
const MAX_ATTEMPTS: usize = 4;

/// How long an attempt may take until it is told that QUIC does not connect: a lost packet is no news.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long an attempt is waited for where QUIC was answered by a server that is not the right one: until it ends.
const ANY_TIME: Duration = Duration::from_secs(3600);

/// What is used where QUIC does not work.
pub struct Fallback {
    shared: Arc<Shared>,
    tasks: Tasks,
}

struct Shared {
    /// What the config calls the server.
    server: Box<str>,
    /// The name of the other way: `ws` or `tcp`.
    way: &'static str,
    /// How long QUIC is not tried after it has lost.
    retry: Duration,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Until then QUIC is avoided, as far as is known on this network.
    avoided: Option<Instant>,
    /// Whether flows went by the other way at last.
    is_beside: bool,
    /// QUIC was answered, and not by the right server: the other way is not used for that.
    is_refused: bool,
    attempt: Option<Attempt>,
}

/// An attempt to connect by QUIC.
struct Attempt {
    begun: Instant,
    outcome: Outcome,
    task: AbortHandle,
}

/// How an attempt has ended; `None`: it has not.
type Outcome = watch::Receiver<Option<Result<(), Arc<net::Error>>>>;

/// What a flow does.
enum Choice {
    Quic,
    Beside,
    /// Both; this is the attempt by QUIC.
    Both(Outcome),
}

impl Fallback {
    /// For the server that the config calls `server`. `way` is `ws` or `tcp`; QUIC that has lost is tried again after `retry`.
    #[must_use]
    pub fn new(server: &str, way: &'static str, retry: Duration) -> Self {
        let shared = Shared {
            server: server.into(),
            way,
            retry,
            state: Mutex::default(),
        };
        Self {
            shared: Arc::new(shared),
            tasks: Tasks::default(),
        }
    }

    /// The name of the way that flows take, as far as is known.
    #[must_use]
    pub fn way(&self) -> &'static str {
        match lock(&self.shared.state).is_beside {
            true => self.shared.way,
            false => "quic",
        }
    }

    /// The other way does not work, either: both are tried from now on.
    pub(super) fn forget(&self) {
        lock(&self.shared.state).avoided = None;
    }

    /// What was known is not known of the network as it is now.
    pub(super) fn network_changed(&self) {
        let mut state = lock(&self.shared.state);
        (state.avoided, state.is_refused) = (None, false);
        if let Some(attempt) = state.attempt.take() {
            attempt.task.abort();
        }
    }

    /// Opens a stream by `quic` to the server at `addresses`, or by `beside`.
    pub(super) async fn open(
        &self,
        quic: &Arc<Client>,
        addresses: &[IpAddr],
        port: u16,
        beside: impl Future<Output = Result<Stream, Error>>,
    ) -> Result<Stream, Error> {
        let stream = match self.choose(quic, addresses, port) {
            Choice::Quic => None,
            Choice::Beside => Some(beside.await?),
            Choice::Both(attempt) => self.race(attempt, beside).await?,
        };
        match stream {
            Some(stream) => Ok(stream),
            None => Ok(quic.open(addresses, port).await?),
        }
    }

    /// Whether packets go by `quic` to the server at `addresses`, and not in a stream that is opened by `beside`.
    pub(super) async fn is_by_quic(
        &self,
        quic: &Arc<Client>,
        addresses: &[IpAddr],
        port: u16,
        beside: impl Future<Output = Result<Stream, Error>>,
    ) -> bool {
        match self.choose(quic, addresses, port) {
            Choice::Quic => true,
            Choice::Beside => false,
            // A stream is dropped: it is known now that the next will open.
            Choice::Both(attempt) => !matches!(self.race(attempt, beside).await, Ok(Some(_))),
        }
    }

    /// Waits for an attempt by QUIC, and for a stream by the other way. `None`: QUIC is ready first.
    async fn race(
        &self,
        attempt: Outcome,
        beside: impl Future<Output = Result<Stream, Error>>,
    ) -> Result<Option<Stream>, Error> {
        let (head_start, by_quic) = (self.shared.head_start(), ended(attempt.clone()));
        let beside = pin!(beside);
        let mut beside = pin!(async {
            // Until then QUIC is alone, or until it has failed.
            let _ = timeout(head_start, by_quic).await;
            beside.await
        });
        // What QUIC has failed with; a server that is not the right one is an error on any way.
        let (mut failed, mut beside_failed) = (None, None);
        loop {
            tokio::select! {
                biased;
                ended = ended(attempt.clone()), if failed.is_none() => match ended {
                    Ok(()) => return Ok(None),
                    Err(error) if is_refusal(&error) => return Err(again(&error).into()),
                    Err(error) => failed = Some(error),
                },
                stream = &mut beside, if beside_failed.is_none() => match stream {
                    Ok(stream) => {
                        self.shared.lost(&attempt, failed.as_deref());
                        return Ok(Some(stream));
                    }
                    Err(error) => beside_failed = Some(error),
                },
                else => return Err(beside_failed.unwrap_or(Error::Connect(net::Error::NoAddress))),
            }
        }
    }

    fn choose(&self, quic: &Arc<Client>, addresses: &[IpAddr], port: u16) -> Choice {
        let mut state = lock(&self.shared.state);
        if quic.is_ready() {
            self.shared.works(&mut state);
            return Choice::Quic;
        }
        let is_due = state.avoided.is_none_or(|until| until <= Instant::now());
        if !is_due {
            return Choice::Beside;
        }
        let running = state.attempt.as_ref().filter(|one| one.is_running());
        let outcome = match running {
            Some(attempt) => attempt.outcome.clone(),
            None => match self.attempt(quic, addresses, port) {
                Some(attempt) => state.attempt.insert(attempt).outcome.clone(),
                None => return Choice::Beside,
            },
        };
        match state.avoided {
            // In the background.
            Some(_) => Choice::Beside,
            None => Choice::Both(outcome),
        }
    }

    /// Begins an attempt.
    fn attempt(&self, quic: &Arc<Client>, addresses: &[IpAddr], port: u16) -> Option<Attempt> {
        let (word, outcome) = watch::channel(None);
        let (shared, quic) = (Arc::clone(&self.shared), Arc::clone(quic));
        let addresses = addresses.to_vec();
        let task = self.tasks.try_spawn(MAX_ATTEMPTS, async move {
            let mut ready = pin!(quic.ready(&addresses, port));
            let ended = match timeout(PATIENCE, &mut ready).await {
                Ok(ended) => ended,
                Err(_) => {
                    shared.is_late();
                    ready.await
                }
            };
            shared.ended(&word, ended.map_err(Arc::new));
        });
        let begun = Instant::now();
        task.map(|task| Attempt {
            begun,
            outcome,
            task,
        })
    }
}

impl Attempt {
    fn is_running(&self) -> bool {
        self.outcome.borrow().is_none() && self.outcome.has_changed().is_ok()
    }
}

impl Shared {
    /// How long QUIC is tried alone.
    fn head_start(&self) -> Duration {
        match lock(&self.state).is_refused {
            true => ANY_TIME,
            false => ATTEMPT_DELAY,
        }
    }

    /// An attempt takes long.
    fn is_late(&self) {
        let mut state = lock(&self.state);
        if state.avoided.is_some() {
            self.tell(&mut state, None);
        }
    }

    /// An attempt has ended.
    fn ended(
        &self,
        word: &watch::Sender<Option<Result<(), Arc<net::Error>>>>,
        ended: Result<(), Arc<net::Error>>,
    ) {
        let mut state = lock(&self.state);
        state.is_refused = ended.as_ref().is_err_and(|error| is_refusal(error));
        match &ended {
            Ok(()) => self.works(&mut state),
            Err(error) if is_refusal(error) => {
                // The next flow is told, too.
                if state.avoided.take().is_some() {
                    let server = &*self.server;
                    sampled::info!(by server, "QUIC is answered, but not by the right server: requests fail, and the fallback is not used", %server, %error);
                }
            }
            Err(error) => {
                if let Some(until) = &mut state.avoided {
                    *until = Instant::now() + self.retry;
                    self.tell(&mut state, Some(error));
                }
            }
        }
        word.send_replace(Some(ended));
    }

    /// QUIC works.
    fn works(&self, state: &mut State) {
        state.avoided = None;
        if std::mem::take(&mut state.is_beside) {
            let server = &*self.server;
            sampled::info!(by server, "QUIC works: new requests to the server go by it again", %server);
        }
    }

    /// The other way was ready first.
    fn lost(&self, attempt: &Outcome, failed: Option<&net::Error>) {
        let mut state = lock(&self.state);
        let last = state.attempt.as_ref();
        // Not if the network has changed, or QUIC is ready meanwhile.
        let Some(last) = last.filter(|last| last.outcome.same_channel(attempt)) else {
            return;
        };
        let (has_failed, is_late) = (failed.is_some(), last.begun.elapsed() >= PATIENCE);
        if matches!(*attempt.borrow(), Some(Ok(()))) {
            return;
        }
        state.avoided = Some(Instant::now() + self.retry);
        if has_failed || is_late {
            self.tell(&mut state, failed);
        }
    }

    /// Says that flows go by the other way, if that is new.
    fn tell(&self, state: &mut State, failed: Option<&net::Error>) {
        if std::mem::replace(&mut state.is_beside, true) {
            return;
        }
        let (server, fallback, retry) = (&*self.server, self.way, self.retry.as_secs());
        let reason = failed.map_or_else(
            || "the server has not answered by UDP".to_owned(),
            ToString::to_string,
        );
        sampled::info!(by server, "QUIC does not connect: requests to the server go by the fallback, and QUIC is tried again later", %server, fallback, reason, after_seconds = retry);
    }
}

/// Waits for the end of an attempt.
async fn ended(mut attempt: Outcome) -> Result<(), Arc<net::Error>> {
    match attempt.wait_for(Option::is_some).await.as_deref() {
        Ok(Some(ended)) => ended.clone(),
        // The network has changed.
        Ok(None) | Err(_) => Err(Arc::new(net::Error::NoAddress)),
    }
}

/// Whether something has answered that is not the server, or that the server refuses to go on with.
const fn is_refusal(error: &net::Error) -> bool {
    matches!(error, net::Error::Tls { .. })
}

/// The same error for another flow.
fn again(error: &net::Error) -> net::Error {
    let copy = |source: &std::io::Error| std::io::Error::new(source.kind(), source.to_string());
    match error {
        net::Error::Tls { server, source } => net::Error::Tls {
            server: server.clone(),
            source: copy(source),
        },
        _ => net::Error::NoAddress,
    }
}
