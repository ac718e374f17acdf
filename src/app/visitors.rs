//! The places of visitors of reverse tunnels and of clients of `forwards`, none of whom is authenticated.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::sleep;

use crate::limits::VISITOR_SILENCE;
use crate::net::alive::Alive;
use crate::net::sampled;
use crate::net::sync::lock;
use crate::relay::tcp::{Activity, Last};

/// How often a visitor that waits for a place looks for one who has become silent.
const RETRY: Duration = Duration::from_secs(1);
/// Visitors that are looked at for one place. Most of them have moved since, and are not looked at again soon.
const MAX_LOOKS: usize = 1024;

/// The visitors of all public ports. At the limit, one of the port with the most visitors makes room: the one that was silent
/// for the longest time, and rather one that has never sent anything.
pub(super) struct Visitors {
    limit: AtomicUsize,
    table: Mutex<Table>,
    /// A visitor has left.
    left: Notify,
}

#[derive(Default)]
struct Table {
    next: u64,
    visitors: HashMap<u64, Visitor>,
    /// The visitors of each port, by what they did last, as far as was looked.
    ports: HashMap<u64, BTreeSet<(Last, u64)>>,
}

struct Visitor {
    port: u64,
    /// Its key in `Table::ports`.
    seen: Last,
    activity: Arc<Activity>,
    task: Option<AbortHandle>,
}

/// One public port.
#[derive(Clone)]
pub(super) struct Port {
    visitors: Arc<Visitors>,
    id: u64,
}

/// One visitor's place.
pub(super) struct VisitorPlace {
    visitors: Arc<Visitors>,
    id: u64,
    activity: Arc<Activity>,
    /// Counts it for whoever serves it.
    counted: Option<Alive>,
}

impl Visitors {
    pub(super) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            limit: AtomicUsize::new(limit.max(1)),
            table: Mutex::default(),
            left: Notify::new(),
        })
    }

    /// Sets another limit. Where more are here, they stay.
    pub(super) fn set_limit(&self, limit: usize) {
        self.limit.store(limit.max(1), Relaxed);
    }

    /// A new port.
    pub(super) fn port(self: &Arc<Self>) -> Port {
        Port {
            visitors: Arc::clone(self),
            id: lock(&self.table).next_id(),
        }
    }
}

impl Port {
    /// Waits until there is a place. Cancel safe.
    pub(super) async fn enter(&self) -> VisitorPlace {
        loop {
            if let Some(place) = self.try_enter() {
                return place;
            }
            tokio::select! {
                () = self.visitors.left.notified() => {}
                () = sleep(RETRY) => {}
            }
        }
    }

    /// Takes a place, at the limit that of another; `None` if nobody is silent.
    pub(super) fn try_enter(&self) -> Option<VisitorPlace> {
        let mut table = lock(&self.visitors.table);
        let limit = self.visitors.limit.load(Relaxed);
        if table.visitors.len() >= limit {
            sampled::warn!(
                "`limits.visitors` is reached: those that are silent for the longest time are disconnected",
                limit
            );
            if !table.make_room() {
                return None;
            }
        }
        let id = table.next_id();
        let activity = Arc::new(Activity::new());
        let seen = activity.last();
        table.ports.entry(self.id).or_default().insert((seen, id));
        let visitor = Visitor {
            port: self.id,
            seen,
            activity: Arc::clone(&activity),
            task: None,
        };
        table.visitors.insert(id, visitor);
        Some(VisitorPlace {
            visitors: Arc::clone(&self.visitors),
            id,
            activity,
            counted: None,
        })
    }
}

impl Table {
    fn next_id(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Ends the visitor that was silent for the longest time, if there is one.
    fn make_room(&mut self) -> bool {
        let Some(port) = self.ports.values_mut().max_by_key(|port| port.len()) else {
            return false;
        };
        for _ in 0..MAX_LOOKS {
            let Some((seen, id)) = port.first().copied() else {
                return false;
            };
            let Some(visitor) = self.visitors.get_mut(&id) else {
                port.remove(&(seen, id));
                continue;
            };
            let last = visitor.activity.last();
            if last != seen {
                port.remove(&(seen, id));
                port.insert((last, id));
                visitor.seen = last;
                continue;
            }
            if last.has_spoken && last.silence() < VISITOR_SILENCE {
                return false;
            }
            if let Some(visitor) = self.remove(id) {
                visitor.abort();
            }
            return true;
        }
        false
    }

    fn remove(&mut self, id: u64) -> Option<Visitor> {
        let visitor = self.visitors.remove(&id)?;
        if let Some(port) = self.ports.get_mut(&visitor.port) {
            port.remove(&(visitor.seen, id));
            if port.is_empty() {
                self.ports.remove(&visitor.port);
            }
        }
        Some(visitor)
    }
}

impl Visitor {
    fn abort(self) {
        if let Some(task) = self.task {
            task.abort();
        }
    }
}

impl VisitorPlace {
    /// Keeps `counted` as long as this place.
    pub(super) fn count(&mut self, counted: Option<Alive>) {
        self.counted = counted;
    }

    /// Where the visitor's stream notes what it does.
    pub(super) fn activity(&self) -> Arc<Activity> {
        Arc::clone(&self.activity)
    }

    /// For the task that will hold this place.
    pub(super) fn attachment(&self) -> Attachment {
        Attachment {
            visitors: Arc::clone(&self.visitors),
            id: self.id,
        }
    }
}

/// Tells a place which task has it.
pub(super) struct Attachment {
    visitors: Arc<Visitors>,
    id: u64,
}

impl Attachment {
    /// Sets the task of the visitor. Call it before the task runs: if the visitor was chosen to make room before it could be
    /// ended, it is ended now.
    pub(super) fn attach(self, task: AbortHandle) {
        match lock(&self.visitors.table).visitors.get_mut(&self.id) {
            Some(visitor) => visitor.task = Some(task),
            None => task.abort(),
        }
    }
}

impl Drop for VisitorPlace {
    fn drop(&mut self) {
        let had_place = lock(&self.visitors.table).remove(self.id).is_some();
        if had_place {
            self.visitors.left.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn holds(place: &VisitorPlace) -> bool {
        lock(&place.visitors.table).visitors.contains_key(&place.id)
    }

    #[test]
    fn oldest_silent_visitor_makes_room() {
        let port = Visitors::new(2).port();
        let places: Vec<_> = (0..3).map(|_| port.try_enter().unwrap()).collect();
        let held: Vec<_> = places.iter().map(holds).collect();
        assert_eq!(held, [false, true, true]);
    }

    #[test]
    fn port_with_the_most_visitors_makes_room_for_others() {
        let visitors = Visitors::new(4);
        let (quiet, crowded) = (visitors.port(), visitors.port());
        let first = quiet.try_enter().unwrap();
        let crowd: Vec<_> = (0..9).map(|_| crowded.try_enter().unwrap()).collect();
        assert!(holds(&first));
        assert_eq!(crowd.iter().filter(|place| holds(place)).count(), 3);
    }

    #[test]
    fn places_come_back_and_ports_are_forgotten() {
        let visitors = Visitors::new(2);
        drop(visitors.port().try_enter());
        let table = lock(&visitors.table);
        assert!(table.visitors.is_empty() && table.ports.is_empty());
    }

    #[tokio::test]
    async fn visitor_that_made_room_before_it_ran_is_ended() {
        let port = Visitors::new(1).port();
        let places = [(); 2].map(|()| port.try_enter().unwrap());
        let task = tokio::spawn(std::future::pending::<()>());
        places[0].attachment().attach(task.abort_handle());
        assert!(task.await.unwrap_err().is_cancelled());
    }
}
