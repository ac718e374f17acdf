//! Streams on which nothing moves.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use crate::relay::error::Error;

/// Notices that nothing moves, without a look at the clock for each byte that does: a timer fires a few times a limit
/// and compares a count with what it was.
pub(super) struct IdleTimer {
    limit: Duration,
    last: u64,
    ticks: u32,
}

/// Ticks that a limit has: a stream is closed between one limit and one and a quarter after its last byte.
const TICKS: u32 = 4;

impl IdleTimer {
    pub(super) const fn new(limit: Duration) -> Self {
        Self {
            limit,
            last: 0,
            ticks: 0,
        }
    }

    pub(super) fn period(&self) -> Duration {
        self.limit / TICKS
    }

    /// Goes over to a shorter limit, from now on.
    pub(super) fn shorten(&mut self, limit: Duration, tick: Pin<&mut Sleep>) {
        if limit < self.limit {
            (self.limit, self.ticks) = (limit, 0);
            tick.reset(Instant::now() + self.period());
        }
    }

    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        mut tick: Pin<&mut Sleep>,
        moved: u64,
    ) -> Poll<Result<(), Error>> {
        while tick.as_mut().poll(cx).is_ready() {
            self.ticks = if moved == self.last {
                self.ticks + 1
            } else {
                0
            };
            self.last = moved;
            if self.ticks >= TICKS {
                return Poll::Ready(Err(Error::Idle {
                    seconds: self.limit.as_secs(),
                }));
            }
            let next = Instant::now() + self.period();
            tick.as_mut().reset(next);
        }
        Poll::Pending
    }
}
