//! Spare connections to a server, opened in advance: a request that takes one saves the round trip of a dial.
//!
//! No byte has been sent on a spare connection; salt and header are made when a request takes it. Spares are opened only
//! after a request, so an idle user has none, and are closed after a few seconds.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::endpoint::Endpoint;
use crate::net::dial::SpeaksFirst;
use crate::net::sync::lock;
use crate::net::tasks::Tasks;
use crate::net::{Parked, Stream};

/// How long a spare connection is kept; less than the time that servers, ours and others', wait for a request.
const LIFETIME: Duration = Duration::from_secs(8);
/// Requests are counted over this time to estimate how many spares are needed.
const WINDOW: Duration = Duration::from_secs(2);
/// Most spares that `auto` keeps.
const MAX_AUTO: usize = 4;
/// With dials faster than this, `auto` keeps no spares.
const MIN_DIAL_TIME: Duration = Duration::from_millis(3);

/// How many spare connections to keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WarmPolicy {
    /// As many as there were requests in the last seconds; none where dials are fast.
    Auto,
    /// This many, as long as there are requests.
    Count(usize),
}

/// The spare connections to one server, shared by all workers.
pub struct Warm {
    policy: WarmPolicy,
    state: Arc<Mutex<State>>,
    tasks: Tasks,
}

#[derive(Default)]
struct State {
    next: u64,
    /// Registered with no reactor, so that any worker can take them; the newest last.
    idle: VecDeque<(u64, Parked)>,
    dialling: usize,
    demand: Demand,
    /// How long the last dial took.
    dial_time: Duration,
}

/// The numbers of requests in this window of time and in the previous one.
#[derive(Default)]
struct Demand {
    window_start: Option<Instant>,
    current: usize,
    previous: usize,
}

impl Demand {
    fn note(&mut self, now: Instant) {
        match self
            .window_start
            .map(|start| now.saturating_duration_since(start))
        {
            Some(age) if age < WINDOW => self.current += 1,
            Some(age) => {
                let recent = age < 2 * WINDOW;
                self.previous = if recent { self.current } else { 0 };
                (self.window_start, self.current) = (Some(now), 1);
            }
            None => (self.window_start, self.current) = (Some(now), 1),
        }
    }

    fn level(&self) -> usize {
        self.current.max(self.previous)
    }
}

impl Warm {
    /// Starts without connections.
    #[must_use]
    pub fn new(policy: WarmPolicy) -> Self {
        Self {
            policy,
            state: Arc::default(),
            tasks: Tasks::default(),
        }
    }

    /// Takes a spare connection that is still usable, if there is one. To be called once for each request.
    pub fn take(&self) -> Option<Stream> {
        if self.policy == WarmPolicy::Count(0) {
            return None;
        }
        let mut state = lock(&self.state);
        state.demand.note(Instant::now());
        // The newest first: the oldest are left over and expire.
        while let Some((_, stream)) = state.idle.pop_back() {
            if stream.is_untouched() {
                return stream.resume().ok();
            }
        }
        None
    }

    /// Records how long a dial took.
    pub fn note_dial(&self, time: Duration) {
        lock(&self.state).dial_time = time;
    }

    /// Opens the spares that are missing.
    pub fn refill(&self, server: &Arc<Endpoint>) {
        let mut state = lock(&self.state);
        let wanted = match self.policy {
            WarmPolicy::Count(count) => count,
            WarmPolicy::Auto if state.dial_time < MIN_DIAL_TIME => 0,
            WarmPolicy::Auto => state.demand.level().min(MAX_AUTO),
        };
        let missing = wanted.saturating_sub(state.idle.len() + state.dialling);
        if missing == 0 {
            return;
        }
        state.dialling += missing;
        drop(state);
        for _ in 0..missing {
            let (state, server) = (Arc::clone(&self.state), Arc::clone(server));
            self.tasks.spawn(async move {
                let dialled = server.dial(SpeaksFirst::Unknown).await;
                let Some(number) =
                    lock(&state).keep(dialled.ok().and_then(|stream| stream.park().ok()))
                else {
                    return;
                };
                sleep(LIFETIME).await;
                lock(&state).idle.retain(|(other, _)| *other != number);
            });
        }
    }
}

impl State {
    /// Ends a dial, and keeps its connection if it succeeded.
    fn keep(&mut self, dialled: Option<Parked>) -> Option<u64> {
        self.dialling = self.dialling.saturating_sub(1);
        self.next += 1;
        self.idle.push_back((self.next, dialled?));
        Some(self.next)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn demand_covers_the_last_seconds_only() {
        let mut demand = Demand::default();
        for _ in 0..3 {
            demand.note(Instant::now());
        }
        assert_eq!(demand.level(), 3);
        tokio::time::advance(WINDOW).await;
        demand.note(Instant::now());
        assert_eq!(demand.level(), 3);
        tokio::time::advance(3 * WINDOW).await;
        demand.note(Instant::now());
        assert_eq!(demand.level(), 1);
    }

    #[tokio::test]
    async fn dead_spare_is_not_taken() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let connect = async || {
            let near = tokio::net::TcpStream::connect(listener.local_addr().unwrap());
            let (near, far) = tokio::join!(near, listener.accept());
            (Stream::new(near.unwrap()), far.unwrap().0)
        };
        let warm = Warm::new(WarmPolicy::Auto);
        let (alive, _peer) = connect().await;
        let (dead, peer) = connect().await;
        drop(peer);
        dead.readable().await.unwrap();
        lock(&warm.state).keep(alive.park().ok());
        lock(&warm.state).keep(dead.park().ok());
        assert!(warm.take().is_some());
        assert!(warm.take().is_none());
    }
}
