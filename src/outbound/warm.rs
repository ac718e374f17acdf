//! Spare connections to a server, opened in advance: a request that takes one saves the round trip of a dial.
//!
//! No byte has been sent on a spare connection; salt and header are made when a request takes it. Spares are opened only
//! after a request, so an idle user has none, and are closed after a few seconds.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::endpoint::Endpoint;
use crate::limits::MAX_WARM;
use crate::net::dial::SpeaksFirst;
use crate::net::sync::lock;
use crate::net::tasks::Tasks;
use crate::net::{Parked, Stream};

/// How long a spare connection is kept; less than the time that servers, ours and others', wait for a request.
const LIFETIME: Duration = Duration::from_secs(8);
/// Requests are counted over this time to estimate how many spares are needed.
const WINDOW: Duration = Duration::from_secs(2);
/// For how long after a request lost spares are replaced without a request.
const RECENT: Duration = Duration::from_secs(30);
/// Most spares that `auto` keeps.
const MAX_AUTO: usize = 4;
/// Dials and spares of one server at once, those included that were given up when the network changed.
const MAX_TASKS: usize = 4 * MAX_WARM;
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
    /// Grows when all spares are dropped, so that dials begun before do not count any more.
    epoch: u64,
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

    /// Whether there were requests lately.
    fn is_recent(&self) -> bool {
        self.window_start
            .is_some_and(|start| start.elapsed() < RECENT)
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

    /// Drops all spares: they are dead, or would be.
    pub fn clear(&self) {
        let dead = {
            let mut state = lock(&self.state);
            state.epoch += 1;
            state.dialling = 0;
            std::mem::take(&mut state.idle)
        };
        drop(dead);
    }

    /// Drops all spares, and opens new ones if there were requests lately.
    pub fn renew(&self, server: &Arc<Endpoint>) {
        self.clear();
        let recent = lock(&self.state).demand.is_recent();
        if recent {
            self.refill(server);
        }
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
        let epoch = state.epoch;
        drop(state);
        for _ in 0..missing {
            let (shared, server) = (Arc::clone(&self.state), Arc::clone(server));
            let opened = self.tasks.try_spawn(MAX_TASKS, async move {
                let dialled = server.dial(SpeaksFirst::Unknown).await;
                let dialled = dialled.ok().and_then(|stream| stream.park().ok());
                let Some(number) = lock(&shared).keep(epoch, dialled) else {
                    return;
                };
                sleep(LIFETIME).await;
                lock(&shared).idle.retain(|(other, _)| *other != number);
            });
            if opened.is_none() {
                lock(&self.state).keep(epoch, None);
            }
        }
    }
}

impl State {
    /// Ends a dial begun in `epoch`, and keeps its connection if it succeeded.
    fn keep(&mut self, epoch: u64, dialled: Option<Parked>) -> Option<u64> {
        if epoch != self.epoch {
            return None;
        }
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
        lock(&warm.state).keep(0, alive.park().ok());
        lock(&warm.state).keep(0, dead.park().ok());
        assert!(warm.take().is_some());
        assert!(warm.take().is_none());
    }
}
