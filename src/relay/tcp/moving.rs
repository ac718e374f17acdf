//! Flows that go on in another process.
//!
//! ```text
//! flow                         whoever moves them ([`Moving`])
//!  │ takes a place in the list
//!  │ <──────────── allows some to leave, and wakes as many
//!  │ ends its task, between two pieces
//!  │ what it was ─────────────> │ sends it to the other process,
//!                               │ or has it go on in this one: `resume`
//! ```
//!
//! Only flows between two TCP connections without layers move.

use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Mutex, PoisonError};
use std::task::Waker;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::half::MovedHalf;
use super::traffic::Traffic;

/// The version of [`Moved`]: flows move only between processes that have the same.
pub const VERSION: u16 = 1;

/// How many more flows may leave.
static ALLOWED: AtomicUsize = AtomicUsize::new(0);

/// The flows of this process that can move, and where they go.
static FLOWS: Mutex<Flows> = Mutex::new(Flows {
    wakers: Vec::new(),
    free: Vec::new(),
    next: 0,
    out: None,
});

struct Flows {
    wakers: Vec<Option<Waker>>,
    free: Vec<usize>,
    /// Where the next look begins.
    next: usize,
    out: Option<Sender<Box<Moved>>>,
}

fn flows<T>(look: impl FnOnce(&mut Flows) -> T) -> T {
    look(&mut FLOWS.lock().unwrap_or_else(PoisonError::into_inner))
}

/// A flow's place among those that can move, given up when this is dropped.
pub(super) struct Place(usize);

impl Place {
    /// A place for the task of `waker`.
    pub(super) fn take(waker: &Waker) -> Self {
        let waker = Some(waker.clone());
        Self(flows(|flows| match flows.free.pop() {
            Some(place) => {
                if let Some(free) = flows.wakers.get_mut(place) {
                    *free = waker;
                }
                place
            }
            None => {
                flows.wakers.push(waker);
                flows.wakers.len() - 1
            }
        }))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // The last trace of a task may be in it, which must not be dropped under the lock.
        let _waker = flows(|flows| {
            flows.free.push(self.0);
            flows.wakers.get_mut(self.0).and_then(Option::take)
        });
    }
}

/// Whether some flows may leave: a look that costs nothing.
pub(super) fn is_allowed() -> bool {
    ALLOWED.load(Relaxed) > 0
}

/// Takes one of the permissions to leave; `false`: others were faster.
pub(super) fn take_permission() -> bool {
    let taken = ALLOWED.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1));
    taken.is_ok()
}

/// Passes a flow on. Returns it if nobody moves flows any more.
pub(super) fn pass_on(moved: Box<Moved>) -> Result<(), Box<Moved>> {
    let out = flows(|flows| flows.out.clone());
    match out {
        Some(out) => out.send(moved).map_err(|error| error.0),
        None => Err(moved),
    }
}

/// Moves the flows of this process, as long as it exists. There should be one at a time.
#[derive(Debug)]
pub struct Moving(Receiver<Box<Moved>>);

impl Moving {
    /// Begins. No flow leaves before it is allowed.
    #[must_use]
    pub fn begin() -> Self {
        let (out, leaving) = mpsc::channel();
        flows(|flows| flows.out = Some(out));
        Self(leaving)
    }

    /// How many flows can move, now or later.
    #[must_use]
    pub fn left(&self) -> usize {
        flows(|flows| flows.wakers.len() - flows.free.len())
    }

    /// Has so many flows leave: of those that are awake, and of as many that are woken.
    pub fn allow(&self, count: usize) {
        ALLOWED.store(count, Relaxed);
        let woken: Vec<Waker> = flows(|flows| {
            let all = flows.wakers.len();
            let places = (0..all).map(|step| (flows.next + step) % all);
            let found = places.filter_map(|place| Some((place, flows.wakers.get(place)?.clone()?)));
            let found: Vec<_> = found.take(count).collect();
            if let Some((last, _)) = found.last() {
                flows.next = last + 1;
            }
            found.into_iter().map(|(_, waker)| waker).collect()
        });
        woken.into_iter().for_each(Waker::wake);
    }

    /// The next flow that has left; `None`: none has within `time`.
    #[must_use]
    pub fn next(&self, time: Duration) -> Option<Box<Moved>> {
        self.0.recv_timeout(time).ok()
    }

    /// Ends: no more flows leave. Returns those that have left.
    #[must_use]
    pub fn end(self) -> Vec<Moved> {
        ALLOWED.store(0, Relaxed);
        flows(|flows| flows.out = None);
        self.0.try_iter().map(|moved| *moved).collect()
    }
}

/// Owner flow it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Owner {
    /// Nobody's who is known.
    Nobody,
    /// It is counted for everybody of this process.
    Everybody,
    /// That of a user.
    User {
        /// The name of the server.
        server: String,
        /// The name of the user; `None`: the only one of a server with one key.
        name: Option<String>,
    },
}

/// What is known of a flow beside its bytes.
#[derive(Debug, Serialize, Deserialize)]
pub struct About {
    pub(super) peer: SocketAddr,
    pub(super) target: Option<String>,
    pub(super) owner: Owner,
    /// How long it has lasted, in milliseconds: the handshake, the dial, and all.
    pub(super) times_ms: [u32; 3],
}

/// A flow as another process goes on with it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Moved {
    pub(super) about: About,
    /// Its limits in milliseconds: without a byte, the same with one direction ended, and before probes.
    pub(super) idle_ms: u64,
    pub(super) half_close_ms: u64,
    pub(super) keep_alive_ms: Option<u64>,
    pub(super) up: MovedHalf,
    pub(super) down: MovedHalf,
    /// Whether the upstream has ended first, if one side has.
    pub(super) upstream_ended_first: Option<bool>,
    /// The bytes that both directions hold. They and the sockets travel beside the rest.
    #[serde(skip)]
    pub bytes: Zeroizing<Vec<u8>>,
    /// The sockets of the client and of the upstream.
    #[serde(skip)]
    pub sockets: Option<[TcpStream; 2]>,
}

impl Moved {
    /// What it has moved.
    pub(super) const fn traffic(&self) -> Traffic {
        Traffic {
            up: self.up.moved(),
            down: self.down.moved(),
        }
    }
}
