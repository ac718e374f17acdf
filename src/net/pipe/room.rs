//! The memory that the writers of several pipes share.
//!
//! While less than half of it is used, a writer may fill its own pipe. From there on, it may add one piece whenever its pipe
//! is empty, so that the writers take turns. When all is used, writers wait in the order in which they came.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::task::Waker;

use crate::net::pool::{self, Size};
use crate::net::sync::lock;

/// What several pipes may hold together of bytes that their writers have written.
pub struct Room {
    /// The most bytes of buffers that are held.
    most: usize,
    /// The bytes of buffers that may be held even if the budget of all buffers is used up.
    least: usize,
    /// Bytes of a piece.
    piece: usize,
    held: AtomicUsize,
    /// The number of wakers in `queue`.
    waiting: AtomicUsize,
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    next: u64,
    /// Writers that wait, by their tickets.
    wakers: BTreeMap<u64, Waker>,
}

/// How much a writer may write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    /// As much as its pipe takes.
    Free,
    /// So many bytes.
    Piece(usize),
    /// Nothing until its pipe is empty.
    Later,
    /// Nothing until it is woken.
    Queued,
}

impl Room {
    /// Room for `most` bytes of buffers, or for what the budget of all buffers leaves, but always for `least`.
    #[must_use]
    pub fn new(most: usize, least: usize, piece: usize) -> Arc<Self> {
        Arc::new(Self {
            most,
            least,
            piece,
            held: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            queue: Mutex::default(),
        })
    }

    /// Bytes of the buffers that are held.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held.load(SeqCst)
    }

    fn limit(&self, held: usize) -> usize {
        self.most.min(pool::left_for(held).max(self.least))
    }

    /// How many pieces fit.
    fn pieces(&self) -> usize {
        let held = self.held();
        self.limit(held).saturating_sub(held) / Size::Small.bytes()
    }

    /// Admits a writer whose pipe is empty or not. `ticket` is its place in the queue, which it keeps until it is admitted.
    fn admit(&self, is_empty: bool, ticket: &mut Option<u64>, waker: &Waker) -> Admission {
        let held = self.held();
        let limit = self.limit(held);
        // Those who have not been woken are served first.
        let is_next = ticket.is_some() || self.waiting.load(SeqCst) == 0 || held == 0;
        if is_next && held < limit / 2 {
            self.leave(ticket);
            return Admission::Free;
        }
        if !is_empty {
            return Admission::Later;
        }
        if is_next && held < limit {
            self.leave(ticket);
            return Admission::Piece(self.piece);
        }
        let mut queue = lock(&self.queue);
        let number = *ticket.get_or_insert_with(|| {
            queue.next += 1;
            queue.next
        });
        queue.wakers.insert(number, waker.clone());
        self.waiting.store(queue.wakers.len(), SeqCst);
        drop(queue);
        // What was released before the writer could be seen has woken nobody.
        self.wake();
        Admission::Queued
    }

    /// Gives up a place in the queue.
    fn leave(&self, ticket: &mut Option<u64>) {
        if let Some(number) = ticket.take() {
            let mut queue = lock(&self.queue);
            queue.wakers.remove(&number);
            self.waiting.store(queue.wakers.len(), SeqCst);
        }
    }

    /// Wakes the first writers, as many as there is room for.
    fn wake(&self) {
        if self.waiting.load(SeqCst) == 0 {
            return;
        }
        let mut woken = Vec::new();
        let mut queue = lock(&self.queue);
        for _ in 0..self.pieces() {
            let Some((_, waker)) = queue.wakers.pop_first() else {
                break;
            };
            woken.push(waker);
        }
        self.waiting.store(queue.wakers.len(), SeqCst);
        drop(queue);
        woken.into_iter().for_each(Waker::wake);
    }
}

/// The part of one pipe in a [`Room`].
pub(super) struct Share {
    room: Arc<Room>,
    /// The bytes of the buffers in the pipe, as the room counts them.
    held: usize,
    ticket: Option<u64>,
    /// Bytes that the peer still takes, those in the pipe among them.
    pub(super) credit: u64,
    /// Bytes that the writer was told it may write, and has not written.
    admitted: usize,
}

impl Share {
    pub(super) const fn new(room: Arc<Room>, credit: u64) -> Self {
        Self {
            room,
            held: 0,
            ticket: None,
            credit,
            admitted: 0,
        }
    }

    /// Asks for room for a writer whose pipe holds `len` bytes.
    pub(super) fn admit(&mut self, len: usize, waker: &Waker) -> Admission {
        let admission = self.room.admit(len == 0, &mut self.ticket, waker);
        self.admitted = match admission {
            Admission::Free => usize::MAX,
            Admission::Piece(count) => count,
            Admission::Later | Admission::Queued => 0,
        };
        admission
    }

    /// What is left of the last admission.
    pub(super) const fn admitted(&self) -> usize {
        self.admitted
    }

    /// Whether the writer was admitted for a piece only.
    pub(super) const fn is_short(&self) -> bool {
        self.admitted < usize::MAX
    }

    /// Bytes beyond the `len` in the pipe that the peer takes.
    pub(super) fn peer_takes(&self, len: usize) -> usize {
        let len = u64::try_from(len).unwrap_or(u64::MAX);
        usize::try_from(self.credit.saturating_sub(len)).unwrap_or(usize::MAX)
    }

    /// The pipe now holds buffers of `held` bytes.
    pub(super) fn hold(&mut self, held: usize) {
        if held > self.held {
            self.room.held.fetch_add(held - self.held, SeqCst);
        }
        if held < self.held {
            self.room.held.fetch_sub(self.held - held, SeqCst);
            self.room.wake();
        }
        self.held = held;
    }

    /// The writer has used its admission.
    pub(super) const fn written(&mut self) {
        self.admitted = 0;
    }

    /// The writer has gone: what it was woken for, perhaps, is the next one's.
    pub(super) fn abandon(&mut self) {
        self.room.leave(&mut self.ticket);
        self.room.wake();
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.hold(0);
        self.abandon();
    }
}
