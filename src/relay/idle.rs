//! A timeout for inactivity that reads no clock when data moves.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use crate::relay::error::Error;

/// Checks within one limit. An idle flow is ended after the limit or up to a quarter of it later.
const TICKS: u32 = 4;

/// Compares a counter of the flow's progress with its value at the previous check, [`TICKS`] times within the limit. The flow
/// only adds to the counter.
pub(super) struct IdleTimer {
    limit: Duration,
    last: u64,
    idle_ticks: u32,
}

impl IdleTimer {
    pub(super) const fn new(limit: Duration) -> Self {
        Self {
            limit,
            last: 0,
            idle_ticks: 0,
        }
    }

    /// The time between two ticks.
    pub(super) fn period(&self) -> Duration {
        self.limit / TICKS
    }

    /// Polls `sleep`, which must be due after one period, with the count of what has moved so far. Ready when nothing has
    /// moved for the limit.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        mut sleep: Pin<&mut Sleep>,
        moved: u64,
    ) -> Poll<Error> {
        while sleep.as_mut().poll(cx).is_ready() {
            if self.tick(moved) {
                return Poll::Ready(Error::Idle {
                    seconds: self.limit.as_secs(),
                });
            }
            sleep.as_mut().reset(Instant::now() + self.period());
        }
        Poll::Pending
    }

    /// Notes what has moved within a period. Returns whether the limit has been reached.
    const fn tick(&mut self, moved: u64) -> bool {
        self.idle_ticks = if moved == self.last {
            self.idle_ticks + 1
        } else {
            0
        };
        self.last = moved;
        self.idle_ticks >= TICKS
    }
}
