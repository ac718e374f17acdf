//! How other tasks, of this thread or of another, reach a link.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Wake, Waker};

use super::core::LinkRole;
use super::window;
use crate::net::Stream;
use crate::net::pipe::{self, Pipe};
use crate::net::sync::lock;
use crate::wire::Address;
use crate::wire::reverse::{Code, Protocol};

/// Bytes of a stream's that may wait for their turn on the link.
pub(super) const CAPACITY: usize = 256 * 1024;
/// Datagrams that may wait for the link's task; the oldest makes room.
const MAX_DATAGRAMS: usize = 1024;

/// A link, as others see it.
#[derive(Clone)]
pub struct Handle(pub(super) Arc<Shared>);

/// What a link shares with those who use it.
pub(super) struct Shared(Mutex<State>);

struct State {
    end: LinkRole,
    next_id: u64,
    over: bool,
    stopping: bool,
    evicted: bool,
    commands: VecDeque<Command>,
    datagrams: VecDeque<(u64, Box<[u8]>)>,
    /// Streams of whose pipes something is to be looked at.
    ready: Vec<u64>,
    waker: Option<Waker>,
}

/// A service that a client offers, owning its texts.
#[derive(Clone, Debug)]
pub struct Offer {
    /// Its number on this link.
    pub service: u64,
    /// What it speaks.
    pub protocol: Protocol,
    /// Other clients may share the load.
    pub group: bool,
    /// Where visitors come to.
    pub bind: Address,
    /// What it is called.
    pub name: String,
    /// The same on all links of one client.
    pub token: [u8; 16],
    /// Of HTTP: which Host is meant.
    pub host: String,
}

/// What a link is to do.
pub(super) enum Command {
    Register(Offer),
    Open {
        id: u64,
        service: u64,
        source: Address,
        destination: Address,
        /// `None`: a flow of datagrams.
        pipe: Option<Pipe>,
    },
    Answer(u64, Code, String),
    Reset(u64),
    Probe,
}

/// All that waits for a link's task.
#[derive(Default)]
pub(super) struct Waiting {
    pub(super) commands: VecDeque<Command>,
    pub(super) datagrams: VecDeque<(u64, Box<[u8]>)>,
    pub(super) ready: Vec<u64>,
    pub(super) stopping: bool,
    pub(super) evicted: bool,
}

impl Handle {
    /// The handle of a link that is to be run.
    #[must_use]
    pub fn new(end: LinkRole) -> Self {
        Self(Arc::new(Shared(Mutex::new(State {
            end,
            next_id: end.first_id(),
            over: false,
            stopping: false,
            evicted: false,
            commands: VecDeque::new(),
            datagrams: VecDeque::new(),
            ready: Vec::new(),
            waker: None,
        }))))
    }

    /// Offers a service.
    pub fn register(&self, offer: Offer) {
        self.0.command(|_| Some(Command::Register(offer)));
    }

    /// Opens a stream for a visitor. It can be used at once; if the other end does not reach its target, it is reset.
    /// `None`: the link is over or stopping.
    #[must_use]
    pub fn open(&self, service: u64, source: Address, destination: Address) -> Option<Stream> {
        let (stream, pipe) = pipe::pair(window::INITIAL as usize, CAPACITY);
        self.begin(service, source, destination, Some(pipe))?;
        Some(stream)
    }

    /// Opens a flow of datagrams for a visitor, and returns its id. `None`: the link is over or stopping.
    #[must_use]
    pub fn open_flow(&self, service: u64, source: Address, destination: Address) -> Option<u64> {
        self.begin(service, source, destination, None)
    }

    fn begin(
        &self,
        service: u64,
        source: Address,
        destination: Address,
        pipe: Option<Pipe>,
    ) -> Option<u64> {
        let mut opened = None;
        self.0.command(|state| {
            if state.stopping {
                return None;
            }
            let id = state.next_id;
            state.next_id += 2;
            opened = Some(id);
            Some(Command::Open {
                id,
                service,
                source,
                destination,
                pipe,
            })
        });
        opened
    }

    /// Says whether the target of a stream that the other end has opened could be reached.
    pub fn answer(&self, id: u64, code: Code, message: String) {
        self.0.command(|_| Some(Command::Answer(id, code, message)));
    }

    /// Breaks a stream, or ends a flow.
    pub fn reset(&self, id: u64) {
        self.0.command(|_| Some(Command::Reset(id)));
    }

    /// Sends a datagram; when too many wait, the oldest is lost.
    pub fn datagram(&self, id: u64, bytes: &[u8]) {
        self.0.wake_with(|state| {
            if state.datagrams.len() >= MAX_DATAGRAMS {
                state.datagrams.pop_front();
            }
            state.datagrams.push_back((id, bytes.into()));
        });
    }

    /// Lets the link find out soon whether its other end still lives.
    pub fn probe(&self) {
        self.0.command(|_| Some(Command::Probe));
    }

    /// Lets the link end: it takes no more visitors, and is over when those that it has are gone.
    pub fn stop(&self) {
        self.0.wake_with(|state| state.stopping = true);
    }

    /// Ends the link at once: its client has another one in its place.
    pub fn evict(&self) {
        self.0.wake_with(|state| {
            state.stopping = true;
            state.evicted = true;
        });
    }

    /// Whether the link is over, or takes nobody any more.
    #[must_use]
    pub fn is_over(&self) -> bool {
        let state = self.0.lock();
        state.over || state.stopping
    }

    /// Whether both are the same link's.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.0)
    }

    /// Changes something, unless the link is over, and wakes its task.
    fn wake_with(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.lock();
        if state.over {
            return;
        }
        change(&mut state);
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn command(&self, command: impl FnOnce(&mut State) -> Option<Command>) {
        self.wake_with(|state| {
            if let Some(command) = command(state) {
                state.commands.push_back(command);
            }
        });
    }

    /// Takes all that waits. If there is nothing, `waker` is woken when there is.
    pub(super) fn take(&self, waker: &Waker, into: &mut Waiting) -> bool {
        let mut state = self.lock();
        (into.stopping, into.evicted) = (state.stopping, state.evicted);
        if state.commands.is_empty() && state.datagrams.is_empty() && state.ready.is_empty() {
            match &mut state.waker {
                Some(old) => old.clone_from(waker),
                none => *none = Some(waker.clone()),
            }
            return false;
        }
        std::mem::swap(&mut state.commands, &mut into.commands);
        std::mem::swap(&mut state.datagrams, &mut into.datagrams);
        std::mem::swap(&mut state.ready, &mut into.ready);
        true
    }

    /// Nothing is taken any more; what waits is dropped, and its pipes with it.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.over = true;
        let commands = std::mem::take(&mut state.commands);
        state.datagrams = VecDeque::new();
        state.ready = Vec::new();
        state.waker = None;
        let end = state.end;
        drop(state);
        // Their drop wakes others.
        drop(commands);
        tracing::trace!(?end, "link handle closed");
    }
}

/// Wakes a link for the sake of one stream.
pub(super) struct StreamWaker {
    pub(super) shared: Arc<Shared>,
    pub(super) id: u64,
}

impl Wake for StreamWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.shared.wake_with(|state| state.ready.push(self.id));
    }
}
