//! One session of a user.

use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll};

use super::limits::Refusal;
use super::live::{Live, Protocol};
use super::user::User;
use crate::net::sync::lock;

/// A stream, an association or a link of a user, for as long as it lives.
#[derive(Debug)]
pub(crate) struct Session {
    user: Arc<User>,
    live: Arc<Live>,
    /// Its place among the user's.
    place: usize,
    /// Whether its task will be woken.
    watched: AtomicBool,
}

impl Session {
    /// Begins a session of the client at `peer`.
    ///
    /// # Errors
    /// When a limit of the user is reached.
    pub(crate) fn begin(
        user: &Arc<User>,
        peer: SocketAddr,
        target: Arc<str>,
        protocol: Protocol,
    ) -> Result<Self, Refusal> {
        let (place, live) = user.admit(peer, target, protocol)?;
        Ok(Self {
            user: Arc::clone(user),
            live,
            place,
            watched: AtomicBool::new(false),
        })
    }

    /// Its user.
    pub(crate) const fn user(&self) -> &Arc<User> {
        &self.user
    }

    /// Why it may not go on.
    pub(crate) fn refusal(&self) -> Option<Refusal> {
        self.user.refusal().or_else(|| self.live.ending.get())
    }

    /// The same. If it may go on, the task of `cx` is woken when this changes, or when a limit of the user changes; it must be
    /// the same task each time.
    pub(crate) fn poll(&self, cx: &Context<'_>) -> Option<Refusal> {
        if !self.watched.swap(true, Relaxed) {
            lock(self.user.sessions()).watch(self.place, cx.waker());
        }
        self.refusal()
    }

    /// Runs `job` until it has ended, or the session may not go on.
    pub(crate) async fn hold<T>(self, job: impl Future<Output = T>) -> Result<T, Refusal> {
        let mut job = pin!(job);
        poll_fn(|cx| match self.poll(cx) {
            Some(refusal) => Poll::Ready(Err(refusal)),
            None => job.as_mut().poll(cx).map(Ok),
        })
        .await
    }

    /// Notes all that it has moved so far.
    pub(crate) fn note(&self, up: u64, down: u64) {
        self.live.up.store(up, Relaxed);
        self.live.down.store(down, Relaxed);
    }

    /// Notes what a datagram has moved.
    pub(crate) fn add(&self, up: u64, down: u64) {
        let (counter, bytes) = match up {
            0 => (&self.live.down, down),
            _ => (&self.live.up, up),
        };
        counter.fetch_add(bytes, Relaxed);
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        lock(self.user.sessions()).end(self.place);
    }
}
