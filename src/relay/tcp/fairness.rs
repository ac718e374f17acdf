//! Keeps bulk flows from delaying interactive flows of the same worker.
//!
//! A turn with a large buffer takes half a millisecond, and a small message and its answer wait for four turns of two
//! processes. So while there are interactive flows on a worker, its bulk flows
//!
//! - use medium buffers: bulk then costs more, but a turn takes a tenth of the time;
//! - take turns one by one: after each turn the worker polls its sockets and serves the flows that have become ready, and
//!   only then the next bulk flow. A small message waits for one turn of one flow, however many bulk flows there are.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future as _;
use std::pin::pin;
use std::task::{Context, Waker};

use crate::net::pool::Size;

/// A turn that moves at most this many bytes counts as interactive.
const INTERACTIVE: u64 = 4 * 1024;
/// A turn that moves at least this many bytes counts as bulk.
const BULK: u64 = 32 * 1024;
/// Bulk turns for which an interactive one is remembered: a few milliseconds.
const REMEMBERED_TURNS: u8 = 64;
/// Bulk turns, less smaller ones, that make a flow a bulk flow: a web page is loaded by then. Smaller ones are subtracted
/// and do not reset the count, since bulk in one direction causes small turns in the other, such as HTTP/2's window
/// updates.
const BULK_TURNS: u8 = 4;
/// Bulk turns that are counted at most. With few, a flow counts as interactive soon after a bulk transfer.
const MAX_BULK_TURNS: u8 = 2 * BULK_TURNS;
/// Bytes after which a turn ends: without interactive flows, and with them.
const LONG_TURN: u64 = 128 * 1024;
const SHORT_TURN: u64 = 64 * 1024;

thread_local! {
    /// Bulk turns for which this worker still has to be fair.
    static DUE: Cell<u8> = const { Cell::new(0) };
    static QUEUE: RefCell<Queue> = const { RefCell::new(Queue::new()) };
}

fn is_due() -> bool {
    DUE.get() > 0
}

/// Call it when a flow of this worker waits for an answer.
pub(super) fn note_interactive() {
    DUE.set(REMEMBERED_TURNS);
}

/// The largest buffer for the next read of any flow.
pub(super) fn largest() -> Size {
    if is_due() { Size::Medium } else { Size::Large }
}

/// Bytes after which a turn ends.
pub(super) fn turn() -> u64 {
    if is_due() { SHORT_TURN } else { LONG_TURN }
}

/// Has the task polled again after the others.
pub(super) fn reschedule(waker: &Waker) {
    if is_due() {
        wake_after_poll(waker);
    } else {
        waker.wake_by_ref();
    }
}

/// Has the task polled again after the worker has polled its sockets.
fn wake_after_poll(waker: &Waker) {
    // Tokio defers the waker of a task that yields. One poll does that; the future is then dropped.
    let yielding = pin!(tokio::task::yield_now());
    let _ = yielding.poll(&mut Context::from_waker(waker));
}

/// The bulk flows of a worker, while it has to be fair.
struct Queue {
    /// The flow that has its turn, or has been woken to take it.
    turn: Option<u64>,
    /// The flows to be woken after it, each at most once.
    waiting: VecDeque<(u64, Waker)>,
    /// The number of the newest flow.
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

    /// Gives the turn to the next flow, if there is one.
    fn pass(&mut self) {
        let next = self.waiting.pop_front();
        self.turn = next.as_ref().map(|(number, _)| *number);
        if let Some((_, waker)) = next {
            wake_after_poll(&waker);
        }
    }
}

/// A flow's place in the order of its worker: call [`Turn::may_go_on`] before each turn and [`Turn::after`] after it.
///
/// A flow that has the turn passes it on by [`Turn::after`], or when it is dropped.
pub(super) struct Turn {
    number: u64,
    /// Bulk turns, less smaller ones.
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

    /// Whether the flow may take its turn now. If not, its task is polled again when it may.
    pub(super) fn may_go_on(&self, waker: &Waker) -> bool {
        if self.bulk < BULK_TURNS || !is_due() {
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

    /// Passes the turn on, if the flow has it: it has to wait for something else.
    pub(super) fn give_up(&self) {
        QUEUE.with_borrow_mut(|queue| {
            if queue.turn == Some(self.number) {
                queue.pass();
            }
        });
    }

    /// Notes that a turn has moved `moved` bytes, and passes the turn on.
    pub(super) fn after(&mut self, waker: &Waker, moved: u64) {
        let is_bulk = moved >= BULK;
        if is_bulk {
            self.bulk = MAX_BULK_TURNS.min(self.bulk + 1);
            DUE.set(DUE.get().saturating_sub(1));
        } else if moved > 0 {
            if self.bulk == 0 && moved <= INTERACTIVE {
                note_interactive();
            }
            self.bulk = self.bulk.saturating_sub(1);
        }
        QUEUE.with_borrow_mut(|queue| {
            if queue.turn != Some(self.number) {
                return;
            }
            if is_bulk && is_due() && queue.waiting.is_empty() {
                // The sockets are polled before any flow gets the next turn.
                wake_after_poll(waker);
            } else {
                queue.pass();
            }
        });
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        // While its thread ends, there is no queue any more.
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
