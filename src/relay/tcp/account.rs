//! The user of a stream: counts what the stream moves, holds it to the user's rate, and ends it when the user may not go on.

use std::future::Future as _;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, ready};

use tokio::time::{Sleep, sleep};

use super::traffic::Traffic;
use crate::net::Stream;
use crate::relay::error::Error;
use crate::relay::users::{Place, Session, User};

/// Bytes that a client has to be sent at once for a look at how long it takes to acknowledge them.
const LOOKED_AT: u64 = 4 * 1024;

/// A stream's part of its user's account.
pub(super) struct Account {
    session: Session,
    /// What the user has been told of.
    counted: Traffic,
    /// Until when nothing more may be moved.
    pause: Option<Pin<Box<Sleep>>>,
    /// The user's rate for which it waits: see [`User::paced`](crate::relay::users::User::paced).
    paced: u32,
    /// Its place among the user's streams, once it has waited for the user's fair share.
    place: Option<Place>,
}

impl Account {
    pub(super) fn new(session: Session) -> Self {
        Self {
            session,
            counted: Traffic::default(),
            pause: None,
            paced: 0,
            place: None,
        }
    }

    /// Its user.
    pub(super) fn user(&self) -> &Arc<User> {
        self.session.user()
    }

    /// Goes on where another process has counted as much.
    pub(super) const fn after(mut self, counted: Traffic) -> Self {
        self.counted = counted;
        self
    }

    /// Ready when the stream may move bytes.
    ///
    /// # Errors
    /// When the user may not go on.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        if let Some(refusal) = self.session.poll(cx) {
            return Poll::Ready(Err(Error::Refused(refusal)));
        }
        if let Some(pause) = &mut self.pause {
            let user = self.session.user();
            if user.paced() == self.paced {
                ready!(pause.as_mut().poll(cx));
            }
            user.end_wait();
            self.pause = None;
        }
        match self.session.user().share() {
            Some(share) if !share.poll(&mut self.place, cx.waker()) => Poll::Pending,
            _ => Poll::Ready(Ok(())),
        }
    }

    /// Whether what waits in the client's socket is to be short: streams of one user would delay those of others.
    pub(super) fn keeps_short(&self) -> bool {
        self.session.user().share().is_some()
    }

    /// Takes note of all that the stream has moved so far.
    pub(super) fn note(&mut self, traffic: Traffic, client: &Stream, cx: &mut Context<'_>) {
        let (up, down) = (
            traffic.up - self.counted.up,
            traffic.down - self.counted.down,
        );
        if up + down == 0 {
            return;
        }
        self.counted = traffic;
        self.session.note(traffic.up, traffic.down);
        let user = self.session.user();
        if let Some(share) = user.share().filter(|_| down >= LOOKED_AT) {
            share.look_at(client);
        }
        self.paced = user.paced();
        let wait = user.moved(up, down);
        if !wait.is_zero() {
            let mut pause = Box::pin(sleep(wait));
            // It wakes the task when it is over, and not before.
            if pause.as_mut().poll(cx).is_pending() {
                self.pause = Some(pause);
                user.begin_wait();
            }
        }
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        if let Some(place) = &self.place {
            place.store(false, Relaxed);
        }
        if self.pause.is_some() {
            self.session.user().end_wait();
        }
    }
}
