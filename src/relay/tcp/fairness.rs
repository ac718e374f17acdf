//! What flows of bulk leave to the others of their worker.
//!
//! A turn with a large buffer costs half a millisecond, and on the way of one small message there and back are four
//! turns of two processes. So while somebody on a worker moves little at a time, its flows of bulk
//!
//! - take medium buffers, with which bulk costs more and a turn a tenth;
//! - go one by one: after each turn the sockets are looked at, whoever has got something to do there does it, and then
//!   comes the next flow's turn. A small message waits for one turn of one flow, however many there are.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future as _;
use std::pin::pin;
use std::task::{Context, Waker};

use crate::net::pool::Size;

/// A turn that moves at most so many bytes is one of a flow that waits for answers.
const LITTLE: u64 = 4 * 1024;
/// A turn that moves at least so many is one of bulk.
const MUCH: u64 = 32 * 1024;
/// Turns of bulk for which a small one is remembered: a few milliseconds.
const TURNS: u8 = 64;
/// Turns of bulk, less smaller ones, from which on a flow is one of bulk: a page is over by then. Smaller ones are
/// forgiven, since bulk in one direction has small turns in the other, such as the window updates of HTTP/2.
const BULK: u8 = 4;
/// Turns that are counted at the most.
const COUNTED: u8 = 2 * BULK;
/// Bytes after which a turn ends, alone and beside flows that wait.
const LONG_TURN: u64 = 128 * 1024;
const SHORT_TURN: u64 = 64 * 1024;

thread_local! {
    /// Turns of bulk for which fairness is still due, on this worker.
    static DUE: Cell<u8> = const { Cell::new(0) };
    static QUEUE: RefCell<Queue> = const { RefCell::new(Queue::new()) };
}

fn is_due() -> bool {
    DUE.get() > 0
}

/// Somebody waits for an answer on this worker.
pub(super) fn note_interactive() {
    DUE.set(TURNS);
}

/// The largest buffer for the next read.
pub(super) fn largest() -> Size {
    if is_due() { Size::Medium } else { Size::Large }
}

/// Bytes after which a turn is over.
pub(super) fn turn() -> u64 {
    if is_due() { SHORT_TURN } else { LONG_TURN }
}

/// Has the task polled again, after the others.
pub(super) fn reschedule(waker: &Waker) {
    if is_due() {
        after_a_look(waker);
    } else {
        waker.wake_by_ref();
    }
}

/// Has the task polled again when the worker has looked at its sockets.
fn after_a_look(waker: &Waker) {
    // What tokio does for a task that yields. This future is not polled again: it is there for its first poll.
    let yielding = pin!(tokio::task::yield_now());
    let _ = yielding.poll(&mut Context::from_waker(waker));
}

/// The flows of bulk of a worker, while fairness is due.
struct Queue {
    /// The number of the flow that has its turn, or has been woken to take it.
    turn: Option<u64>,
    /// Those that are woken after it. One is here once at the most.
    waiting: VecDeque<(u64, Waker)>,
    /// The number that was given last.
    last: u64,
}

impl Queue {
    const fn new() -> Self {
        Self {
            turn: None,
            waiting: VecDeque::new(),
            last: 0,
        }
    }

    /// Gives the turn to the next flow, or to nobody.
    fn pass(&mut self) {
        let next = self.waiting.pop_front();
        self.turn = next.as_ref().map(|(number, _)| *number);
        if let Some((_, waker)) = next {
            after_a_look(&waker);
        }
    }
}

/// A flow's place among those of its worker. It is asked before a turn and told after it.
///
/// Whoever has the turn passes it on: by [`Turn::after`], or when it is dropped.
pub(super) struct Turn {
    number: u64,
    /// Turns of bulk, less smaller ones.
    bulk: u8,
}

impl Turn {
    pub(super) fn new() -> Self {
        let number = QUEUE.with_borrow_mut(|queue| {
            queue.last += 1;
            queue.last
        });
        Self { number, bulk: 0 }
    }

    /// Whether the flow may go on now; if not, its task will be polled when it may.
    pub(super) fn may_go_on(&self, waker: &Waker) -> bool {
        if self.bulk < BULK || !is_due() {
            return true;
        }
        QUEUE.with_borrow_mut(|queue| {
            if queue.turn.is_none_or(|number| number == self.number) {
                queue.turn = Some(self.number);
                return true;
            }
            if !queue
                .waiting
                .iter()
                .any(|(number, _)| *number == self.number)
            {
                queue.waiting.push_back((self.number, waker.clone()));
            }
            false
        })
    }

    /// Takes note of a turn that has moved so many bytes.
    pub(super) fn after(&mut self, waker: &Waker, moved: u64) {
        let much = moved >= MUCH;
        if much {
            self.bulk = COUNTED.min(self.bulk + 1);
            DUE.set(DUE.get().saturating_sub(1));
        } else if moved > 0 {
            if self.bulk == 0 && moved <= LITTLE {
                note_interactive();
            }
            self.bulk = self.bulk.saturating_sub(1);
        }
        QUEUE.with_borrow_mut(|queue| {
            if queue.turn != Some(self.number) {
                return;
            }
            if much && is_due() && queue.waiting.is_empty() {
                // Nobody is to have the next turn before the sockets have been looked at.
                after_a_look(waker);
            } else {
                queue.pass();
            }
        });
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        // A thread that is ending has no queue any more.
        let _ = QUEUE.try_with(|queue| {
            let mut queue = queue.borrow_mut();
            queue.waiting.retain(|(number, _)| *number != self.number);
            if queue.turn == Some(self.number) {
                queue.pass();
            }
        });
    }
}

#[cfg(test)]
mod tests;
