//! How other tasks, on any thread, use a link.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock};
use std::task::{Wake, Waker};

use super::core::encode;
use super::datagrams::DatagramQueue;
use super::limits::{INITIAL_WINDOW, MAX_COMMANDS, MAX_LINK_SEND, MIN_LINK_SEND, SEND_BUFFER};
use super::own::Openings;
use super::settings::LinkRole;
use super::visitor::Visitor;
use crate::net::Stream;
use crate::net::alive::{Alive, Limit};
use crate::net::pipe::{self, Pipe, Room};
use crate::net::sync::lock;
use crate::relay::leg::Leg;
use crate::wire::Address;
use crate::wire::reverse::{Code, Connect, Frame, MAX_PAYLOAD, Protocol, Register};

/// A handle to a link.
#[derive(Clone)]
pub struct Handle(pub(super) Arc<Shared>);

/// What a link's task shares with its handles.
pub(super) struct Shared {
    state: Mutex<State>,
    /// What the streams' users have written and the link has not sent.
    room: Arc<Room>,
    /// What opens streams of their own for visitors, once the client has said that it takes them.
    pub(super) own: OnceLock<Openings>,
    /// Visitors of its own ports, from when they are accepted.
    expected: Limit,
}

struct State {
    next_id: u64,
    /// The link's task has ended.
    closed: bool,
    /// Streams and flows, when the link's task looked last.
    streams: usize,
    inbox: Inbox,
    waker: Option<Waker>,
}

/// What waits for the link's task.
#[derive(Default)]
pub(super) struct Inbox {
    pub(super) commands: VecDeque<Command>,
    pub(super) datagrams: DatagramQueue,
    /// Streams whose pipes have changed. A pipe wakes the link once, until the link's task looks at it again.
    pub(super) ready: Vec<u64>,
    pub(super) flags: Flags,
}

/// What a link has been told for good.
#[derive(Clone, Copy, Default)]
pub(super) struct Flags {
    pub(super) stopping: bool,
    pub(super) evicted: bool,
    /// More than [`MAX_COMMANDS`] commands were queued.
    pub(super) overloaded: bool,
}

/// A request of another task, named after the frame that it leads to.
pub(super) enum Command {
    Register {
        service: u64,
        protocol: Protocol,
        frame: Box<[u8]>,
    },
    RegisterResult {
        frame: Box<[u8]>,
    },
    Connect {
        visitor: Visitor,
        /// `None`: a flow of datagrams.
        pipe: Option<Pipe>,
    },
    ConnectResult {
        id: u64,
        code: Code,
        message: String,
    },
    Reset {
        id: u64,
    },
    Probe,
}

impl Handle {
    /// The handle of a link that has not started yet.
    #[must_use]
    pub fn new(role: LinkRole) -> Self {
        Self(Arc::new(Shared {
            state: Mutex::new(State {
                next_id: role.first_id(),
                closed: false,
                streams: 0,
                inbox: Inbox::default(),
                waker: None,
            }),
            room: Room::new(MAX_LINK_SEND, MIN_LINK_SEND, MAX_PAYLOAD),
            own: OnceLock::new(),
            expected: Limit::new(usize::MAX),
        }))
    }

    /// Asks the server to publish a service.
    pub fn register(&self, service: u64, register: Register<'_>) {
        self.0.command(Command::Register {
            service,
            protocol: register.protocol,
            frame: encode(Frame::Register { service, register }),
        });
    }

    /// Answers [`Frame::Register`].
    pub fn register_result(&self, service: u64, code: Code, bound: SocketAddr, message: &str) {
        let bound = bound.into();
        self.0.command(Command::RegisterResult {
            frame: encode(Frame::RegisterResult {
                service,
                code,
                bound,
                message,
            }),
        });
    }

    /// Opens a stream for a visitor, which can be used at once; if the peer cannot reach its target, it is reset.
    /// `None`: the link is closed, stopping or overloaded.
    #[must_use]
    pub fn connect(&self, service: u64, source: Address, destination: Address) -> Option<Stream> {
        let (stream, pipe) = self.0.pipe();
        self.0.connect(service, source, destination, Some(pipe))?;
        Some(stream)
    }

    /// Opens a stream for a visitor beside the link, if both ends can. `None`: it has to go through the link.
    #[must_use]
    pub fn connect_beside(&self, connect: Connect<'_>) -> Option<Leg> {
        let own = self.0.own.get()?;
        (!self.is_closed()).then(|| own.open(connect))?
    }

    /// Opens a flow of datagrams for a visitor and returns its id. `None`: the link is closed, stopping or overloaded.
    #[must_use]
    pub fn connect_flow(&self, service: u64, source: Address, destination: Address) -> Option<u64> {
        self.0.connect(service, source, destination, None)
    }

    /// Answers [`Event::Connect`](super::Event::Connect): tells the peer whether the target was reached.
    pub fn connect_result(&self, id: u64, code: Code, message: String) {
        self.0.command(Command::ConnectResult { id, code, message });
    }

    /// Closes a stream abruptly, or ends a flow.
    pub fn reset(&self, id: u64) {
        self.0.command(Command::Reset { id });
    }

    /// Sends a datagram; if the queue is full, the oldest is dropped.
    pub fn datagram(&self, id: u64, bytes: &[u8]) {
        self.0
            .update(|state| state.inbox.datagrams.push(id, bytes.into()));
    }

    /// Checks whether the peer is alive; if not, the link closes soon.
    pub fn probe(&self) {
        self.0.command(Command::Probe);
    }

    /// Stops the link: it takes no more visitors and closes when the current ones have left.
    pub fn stop(&self) {
        self.0.update(|state| state.inbox.flags.stopping = true);
    }

    /// Closes the link at once, because its client has replaced it by another.
    pub fn evict(&self) {
        self.0.update(|state| {
            state.inbox.flags.stopping = true;
            state.inbox.flags.evicted = true;
        });
    }

    /// Whether the link is closed or takes no more visitors.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        let state = lock(&self.0.state);
        state.closed || state.inbox.flags.stopping
    }

    /// Counts a visitor that will come through this link, as long as the result is kept.
    #[must_use]
    pub fn expect(&self) -> Option<Alive> {
        self.0.expected.take(1)
    }

    /// How many visitors the link has, about: for a choice between links.
    #[must_use]
    pub fn load(&self) -> usize {
        let state = lock(&self.0.state);
        let own = self.0.own.get().map_or(0, Openings::count);
        let streams = own + state.streams + state.inbox.commands.len();
        streams.max(self.0.expected.count())
    }

    /// Whether both are handles to the same link.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Inbox {
    /// Queues a command. One that does not fit cannot be dropped, since a stream would hang: the link closes instead.
    fn push(&mut self, command: Command) {
        if self.commands.len() < MAX_COMMANDS {
            self.commands.push_back(command);
        } else {
            self.flags.overloaded = true;
        }
    }
}

impl Shared {
    /// The two sides of a stream. Until the peer's Hello arrives, its window is assumed to be as large as ours.
    pub(super) fn pipe(&self) -> (Stream, Pipe) {
        let window = INITIAL_WINDOW;
        pipe::pair_within(&self.room, window as usize, SEND_BUFFER, window.into())
    }

    /// Changes the state and wakes the link's task, unless the link is closed.
    fn update(&self, change: impl FnOnce(&mut State)) {
        let mut state = lock(&self.state);
        if state.closed {
            return;
        }
        change(&mut state);
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn command(&self, command: Command) {
        self.update(|state| state.inbox.push(command));
    }

    /// Assigns an id and queues the command, if there is room.
    fn connect(
        &self,
        service: u64,
        source: Address,
        destination: Address,
        pipe: Option<Pipe>,
    ) -> Option<u64> {
        let mut assigned = None;
        self.update(|state| {
            let inbox = &state.inbox;
            if inbox.flags.stopping || inbox.commands.len() >= MAX_COMMANDS / 2 {
                return;
            }
            let id = state.next_id;
            state.next_id += 2;
            assigned = Some(id);
            let visitor = Visitor {
                id,
                service,
                source,
                destination,
            };
            state.inbox.push(Command::Connect { visitor, pipe });
        });
        assigned
    }

    /// Swaps what waits with `inbox`, which must be empty. If nothing waits, registers `waker`. There are so many `streams`.
    pub(super) fn take(&self, waker: &Waker, inbox: &mut Inbox, streams: usize) -> bool {
        let mut state = lock(&self.state);
        state.streams = streams;
        inbox.flags = state.inbox.flags;
        let waiting = &state.inbox;
        if waiting.commands.is_empty() && waiting.datagrams.is_empty() && waiting.ready.is_empty() {
            match &mut state.waker {
                Some(old) => old.clone_from(waker),
                none => *none = Some(waker.clone()),
            }
            return false;
        }
        std::mem::swap(&mut state.inbox, inbox);
        true
    }

    /// Marks the link as closed and drops what waits.
    pub(super) fn close(&self) {
        let mut state = lock(&self.state);
        state.closed = true;
        state.waker = None;
        let inbox = std::mem::take(&mut state.inbox);
        drop(state);
        // Dropping the pipes wakes other tasks, so it happens without the lock.
        drop(inbox);
    }
}

/// Wakes the link's task on behalf of one stream.
pub(super) struct StreamWaker {
    pub(super) shared: Arc<Shared>,
    pub(super) id: u64,
}

impl Wake for StreamWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.shared.update(|state| state.inbox.ready.push(self.id));
    }
}
