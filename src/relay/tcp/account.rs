//! The user of a stream: counts what the stream moves, holds it to the user's rate, and ends it when the user may not go on.

use std::future::Future as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::time::{Sleep, sleep};

use super::traffic::Traffic;
use crate::relay::error::Error;
use crate::relay::users::{Session, User, Watch};

/// A stream's part of its user's account.
pub(super) struct Account {
    user: Arc<User>,
    watch: Watch,
    /// What the user has been told of.
    counted: Traffic,
    /// Until when nothing more may be moved.
    pause: Option<Pin<Box<Sleep>>>,
    _session: Session,
}

impl Account {
    pub(super) fn new(user: Arc<User>, session: Session) -> Self {
        Self {
            user,
            watch: Watch::default(),
            counted: Traffic::default(),
            pause: None,
            _session: session,
        }
    }

    /// Ready when the stream may move bytes.
    ///
    /// # Errors
    /// When the user may not go on.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        if let Some(refusal) = self.watch.poll(&self.user, cx) {
            return Poll::Ready(Err(Error::Refused(refusal)));
        }
        if let Some(pause) = &mut self.pause {
            ready!(pause.as_mut().poll(cx));
            self.pause = None;
            self.user.end_wait();
        }
        Poll::Ready(Ok(()))
    }

    /// Takes note of all that the stream has moved so far.
    pub(super) fn note(&mut self, traffic: Traffic, cx: &mut Context<'_>) {
        let (up, down) = (
            traffic.up - self.counted.up,
            traffic.down - self.counted.down,
        );
        self.counted = traffic;
        let wait = self.user.moved(up, down);
        if !wait.is_zero() {
            let mut pause = Box::pin(sleep(wait));
            // It wakes the task when it is over, and not before.
            if pause.as_mut().poll(cx).is_pending() {
                self.pause = Some(pause);
                self.user.begin_wait();
            }
        }
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.watch.end(&self.user);
        if self.pause.is_some() {
            self.user.end_wait();
        }
    }
}
