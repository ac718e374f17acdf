//! Fair shares: what active users move together is held to a rate at which nothing queues up, and each has an equal part of it.
//!
//! While one user alone is active, nothing is held. While several are, the rate falls when the round trips of their clients get longer
//! than they were, which means that a queue grows on the way, or when the process itself comes too late; it rises slowly otherwise.
//! A user who has used less than an equal part goes at once; what it leaves is for the others. So it does not matter how many streams
//! a user has.
//!
//! [`Share`] is a user's part, which streams ask once a turn. `control.rs` sets the rate and wakes who waits.

use std::collections::VecDeque;
use std::sync::atomic::{
    AtomicBool, AtomicI64, AtomicU64,
    Ordering::{Relaxed, SeqCst},
};
use std::sync::{Arc, Mutex};
use std::task::Waker;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::net::Stream;
use crate::net::stream::piped::Probe;
use crate::net::sync::lock;

mod control;

/// What may be moved ahead of the rate, as time.
const AHEAD: Duration = Duration::from_millis(4);
/// The most that can be owed, as time: so long nobody moves anything, at most.
const MOST_OWED: Duration = Duration::from_millis(200);
/// Bytes that a user may move at once after it has moved little.
const BURST: i64 = 256 * 1024;
/// Streams that are gone are removed from a queue that has grown by as many.
const SWEEP: usize = 256;
const NANOS: u128 = 1_000_000_000;

/// What the users of this process share.
#[derive(Debug)]
pub struct Fair {
    started: Instant,
    /// Bytes a second of all users together; 0: nobody is held.
    rate: AtomicU64,
    /// When all that was moved is paid, in nanoseconds since the start.
    paid: AtomicU64,
    /// Those who have moved something of late.
    active: Mutex<Vec<Arc<Share>>>,
    begun: Notify,
}

impl Default for Fair {
    fn default() -> Self {
        Self {
            started: Instant::now(),
            rate: AtomicU64::new(0),
            paid: AtomicU64::new(0),
            active: Mutex::default(),
            begun: Notify::new(),
        }
    }
}

impl Fair {
    fn now(&self) -> u64 {
        nanos(self.started.elapsed())
    }

    fn pay(&self, bytes: u64, rate: u64) {
        let price = u128::from(bytes) * NANOS / u128::from(rate.max(1));
        let price = u64::try_from(price).unwrap_or(u64::MAX);
        let now = self.now();
        let most = now.saturating_add(nanos(MOST_OWED));
        let pay = |paid: u64| Some(paid.max(now).saturating_add(price).min(most));
        let _before = self.paid.fetch_update(Relaxed, Relaxed, pay);
    }

    /// Bytes that may be moved now, at this rate.
    fn room(&self, rate: u64) -> u64 {
        let until = self.now().saturating_add(nanos(AHEAD));
        let time = until.saturating_sub(self.paid.load(Relaxed));
        let time = time.min(nanos(AHEAD));
        u64::try_from(u128::from(time) * u128::from(rate) / NANOS).unwrap_or(u64::MAX)
    }
}

/// A user's part.
#[derive(Debug)]
pub(in crate::relay) struct Share {
    fair: Arc<Fair>,
    /// Bytes that it may move even if there is no room.
    credit: AtomicI64,
    /// Bytes since the last look of the control.
    recent: AtomicU64,
    /// When it was active, in nanoseconds since the start.
    seen: AtomicU64,
    is_active: AtomicBool,
    queue: Mutex<VecDeque<(Place, Waker)>>,
    /// The client that is looked at, for some time.
    look: Mutex<Option<Look>>,
    is_looked_at: AtomicBool,
    /// The shortest round trip of its clients, in nanoseconds.
    shortest: AtomicU64,
}

/// A stream's place in the queue of its user: whether it waits there.
pub(in crate::relay) type Place = Arc<AtomicBool>;

impl Share {
    pub(super) fn new(fair: Arc<Fair>) -> Arc<Self> {
        Arc::new(Self {
            fair,
            credit: AtomicI64::new(BURST),
            recent: AtomicU64::new(0),
            seen: AtomicU64::new(0),
            is_active: AtomicBool::new(false),
            queue: Mutex::default(),
            look: Mutex::default(),
            is_looked_at: AtomicBool::new(false),
            shortest: AtomicU64::new(u64::MAX),
        })
    }

    /// Takes note of bytes that the user has moved.
    pub(super) fn moved(self: &Arc<Self>, bytes: u64) {
        self.recent.fetch_add(bytes, Relaxed);
        if !self.is_active.swap(true, SeqCst) {
            lock(&self.fair.active).push(Arc::clone(self));
            self.fair.begun.notify_one();
        }
        let rate = self.fair.rate.load(Relaxed);
        if rate > 0 {
            self.credit
                .fetch_sub(i64::try_from(bytes).unwrap_or(i64::MAX), Relaxed);
            self.fair.pay(bytes, rate);
        }
    }

    /// Whether the user may move something now.
    pub(super) fn may_move(&self) -> bool {
        let rate = self.fair.rate.load(SeqCst);
        rate == 0 || self.credit.load(Relaxed) > 0 || self.fair.room(rate) > 0
    }

    /// The same for a stream, whose task is woken otherwise when it may. `place` is its own.
    pub(in crate::relay) fn poll(&self, place: &mut Option<Place>, waker: &Waker) -> bool {
        if place.as_ref().is_some_and(|place| place.load(SeqCst)) {
            // It waits already. If there is room meanwhile, those before it get it.
            return false;
        }
        if self.may_move() {
            return true;
        }
        let place = place.get_or_insert_default();
        place.store(true, SeqCst);
        let mut queue = lock(&self.queue);
        if queue.len() % SWEEP == SWEEP - 1 {
            queue.retain(|(place, _)| place.load(SeqCst));
        }
        queue.push_back((Arc::clone(place), waker.clone()));
        false
    }

    /// Lets so many streams go on. Returns how many there were.
    fn wake(&self, most: u64) -> u64 {
        let mut woken = 0;
        let mut queue = lock(&self.queue);
        while woken < most
            && let Some((place, waker)) = queue.pop_front()
        {
            // One that is gone does not count.
            if place.swap(false, SeqCst) {
                waker.wake();
                woken += 1;
            }
        }
        woken
    }

    fn has_waiting(&self) -> bool {
        !lock(&self.queue).is_empty()
    }

    /// Has the round trip of a stream's client looked at, which has just been sent something.
    pub(in crate::relay) fn look_at(&self, client: &Stream) {
        if self.fair.rate.load(Relaxed) == 0 || self.is_looked_at.swap(true, SeqCst) {
            return;
        }
        let look = client.probe().and_then(|probe| {
            let info = probe.tcp_info()?;
            Some(Look {
                probe,
                acknowledged: info.acknowledged,
                was_idle: info.silence > info.round_trip,
                began: self.fair.now(),
                first: None,
            })
        });
        match look {
            Some(look) => *lock(&self.look) = Some(look),
            None => self.is_looked_at.store(false, SeqCst),
        }
    }
}

/// A look at what a client acknowledges.
#[derive(Debug)]
struct Look {
    probe: Probe,
    /// Bytes that it had acknowledged when it was sent something.
    acknowledged: u64,
    /// Whether it had acknowledged nothing for a while: then the average round trip is an old one.
    was_idle: bool,
    began: u64,
    /// How long it took until it acknowledged more.
    first: Option<u64>,
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Relaxed);
        }
    }

    #[test]
    fn streams_wait_once_each_and_are_woken_in_order() {
        let fair = Arc::<Fair>::default();
        let share = Share::new(Arc::clone(&fair));
        let (woken, mut places) = (Arc::<Woken>::default(), [None, None, None]);
        let waker = Waker::from(Arc::clone(&woken));
        // Nobody is held.
        assert!(places.iter_mut().all(|place| share.poll(place, &waker)));
        fair.rate.store(1000, Relaxed);
        share.moved(1_000_000);
        for place in &mut places {
            assert!(!share.poll(place, &waker) && !share.poll(place, &waker));
        }
        assert_eq!(lock(&share.queue).len(), 3);
        let [first, second, third] = &mut places;
        // It is gone.
        first.as_ref().unwrap().store(false, Relaxed);
        assert_eq!((share.wake(1), woken.0.load(Relaxed)), (1, 1));
        share.credit.store(1, Relaxed);
        assert!(share.poll(second, &waker), "it was woken");
        assert!(!share.poll(third, &waker), "it waits still");
        assert_eq!(share.wake(9), 1);
        assert!(share.poll(third, &waker) && !share.has_waiting());
    }

    #[test]
    fn streams_that_are_gone_do_not_fill_the_queue() {
        let fair = Arc::<Fair>::default();
        let share = Share::new(Arc::clone(&fair));
        fair.rate.store(1000, Relaxed);
        share.moved(1_000_000);
        for _ in 0..100 * SWEEP {
            let mut place = None;
            assert!(!share.poll(&mut place, Waker::noop()));
            place.unwrap().store(false, Relaxed);
        }
        assert!(lock(&share.queue).len() <= SWEEP);
    }
}
