//! Spare connections to a server, opened before they are asked for: they save a request the round trip of a dial.
//!
//! Nothing has been said on them; salt and header are made when a request takes one. They are opened only after a
//! request has come, so none is while nobody browses, and closed again after some seconds.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::endpoint::Endpoint;
use crate::net::dial::SpeaksFirst;
use crate::net::sync::lock;
use crate::net::tasks::Tasks;
use crate::net::{Parked, Stream};

/// How long a spare connection is kept. Less than servers wait for a request, ours and others'.
const KEEP: Duration = Duration::from_secs(8);
/// Over how long requests are counted to tell how many spares are wanted.
const WINDOW: Duration = Duration::from_secs(2);
/// The most spares that `auto` keeps.
const MOST: usize = 4;
/// A dial that is quicker than this is not worth a spare connection.
const WORTH: Duration = Duration::from_millis(3);

/// How many spare connections are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WarmPolicy {
    /// As many as requests came lately, and none where a dial is quick.
    Auto,
    /// This many, while requests come.
    Count(usize),
}

/// The spare connections to one server, of all workers.
pub struct Warm {
    policy: WarmPolicy,
    state: Arc<Mutex<State>>,
    tasks: Tasks,
}

#[derive(Default)]
struct State {
    next: u64,
    /// Registered with no reactor, so that any worker may take them; the newest last.
    idle: VecDeque<(u64, Parked)>,
    dialling: usize,
    demand: Demand,
    /// How long the last dial took.
    dial: Duration,
}

/// Requests in this window of time and in the one before.
#[derive(Default)]
struct Demand {
    begun: Option<Instant>,
    now: usize,
    before: usize,
}

impl Demand {
    fn note(&mut self, now: Instant) {
        match self.begun.map(|begun| now.saturating_duration_since(begun)) {
            Some(age) if age < WINDOW => self.now += 1,
            Some(age) => {
                let recent = age < 2 * WINDOW;
                (self.begun, self.before, self.now) =
                    (Some(now), if recent { self.now } else { 0 }, 1);
            }
            None => (self.begun, self.now) = (Some(now), 1),
        }
    }

    fn level(&self) -> usize {
        self.now.max(self.before)
    }
}

impl Warm {
    /// Without connections yet.
    #[must_use]
    pub fn new(policy: WarmPolicy) -> Self {
        Self {
            policy,
            state: Arc::default(),
            tasks: Tasks::default(),
        }
    }

    /// A spare connection that is still good, if there is one. To be called once a request.
    pub fn take(&self) -> Option<Stream> {
        if self.policy == WarmPolicy::Count(0) {
            return None;
        }
        let mut state = lock(&self.state);
        state.demand.note(Instant::now());
        // The newest first: what is left over is then the oldest, and ends by its age.
        while let Some((_, stream)) = state.idle.pop_back() {
            if stream.is_untouched() {
                return stream.resume().ok();
            }
        }
        None
    }

    /// Notes how long a dial took.
    pub fn dialled(&self, time: Duration) {
        lock(&self.state).dial = time;
    }

    /// Opens what is wanted beyond what there is.
    pub fn refill(&self, server: &Arc<Endpoint>) {
        let mut state = lock(&self.state);
        let wanted = match self.policy {
            WarmPolicy::Count(count) => count,
            WarmPolicy::Auto if state.dial < WORTH => 0,
            WarmPolicy::Auto => state.demand.level().min(MOST),
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
                sleep(KEEP).await;
                lock(&state).idle.retain(|(other, _)| *other != number);
            });
        }
    }
}

impl State {
    /// Takes in what a dial has come to.
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
    async fn demand_is_that_of_the_last_seconds() {
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
    async fn dead_spare_is_not_given_out() {
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
