//! The places of connections: those of users, and those of visitors.

use std::sync::{Arc, Mutex};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::handshakes::Permit;
use super::visitors::{Attachment, Port, VisitorPlace};
use crate::net::alive::Alive;
use crate::net::sync::lock;
use crate::relay::tcp::{Activity, Ready};

/// Whose places the connections of a listener take.
#[derive(Clone)]
pub(super) enum Room {
    /// Those of users: `limits.connections`. A new connection waits for one to end.
    Users(Arc<Semaphore>),
    /// Those of visitors: `limits.visitors`. The one that was silent for the longest time makes room.
    Visitors(Port),
}

/// One connection's place, to be dropped at its end.
pub(super) enum Place {
    User {
        /// `None`: the process is ending.
        _permit: Option<OwnedSemaphorePermit>,
    },
    Visitor(Box<VisitorPlace>),
}

impl Room {
    /// Waits for a place. Cancel safe.
    pub(super) async fn enter(&self) -> Place {
        match self {
            Self::Users(connections) => Place::User {
                // A semaphore that is never closed.
                _permit: Arc::clone(connections).acquire_owned().await.ok(),
            },
            Self::Visitors(port) => Place::Visitor(Box::new(port.enter().await)),
        }
    }

    /// Takes a place if there is one.
    pub(super) fn try_enter(&self) -> Option<Place> {
        match self {
            Self::Users(connections) => {
                let permit = Arc::clone(connections).try_acquire_owned().ok()?;
                Some(Place::User {
                    _permit: Some(permit),
                })
            }
            Self::Visitors(port) => port
                .try_enter()
                .map(|place| Place::Visitor(Box::new(place))),
        }
    }
}

impl Place {
    /// What is to be told which task has this place.
    pub(super) fn attachment(&self) -> Option<Attachment> {
        match self {
            Self::User { .. } => None,
            Self::Visitor(place) => Some(place.attachment()),
        }
    }

    /// Keeps what counts its visitor as long as the visitor is there.
    pub(super) fn count(&mut self, counted: Option<Alive>) {
        match self {
            Self::User { .. } => {}
            Self::Visitor(place) => place.count(counted),
        }
    }

    fn activity(&self) -> Option<Arc<Activity>> {
        match self {
            Self::User { .. } => None,
            Self::Visitor(place) => Some(place.activity()),
        }
    }

    /// What is to be done when the handshake of its connection has succeeded.
    pub(super) fn when_ready(&self, permit: Permit) -> impl Ready + use<> {
        Started {
            permit,
            activity: self.activity(),
        }
    }
}

struct Started {
    permit: Permit,
    activity: Option<Arc<Activity>>,
}

impl Ready for Started {
    fn ready(self) -> Option<Arc<Activity>> {
        drop(self.permit);
        self.activity
    }
}

/// What a connection within a transport holds: its place, and a permit as long as it is in its handshake. Visitors of a site have
/// neither.
pub(super) struct Seat(Mutex<(Option<Place>, Option<Permit>)>);

impl Seat {
    pub(super) fn new(place: Place, permit: Permit) -> Arc<Self> {
        Arc::new(Self(Mutex::new((Some(place), Some(permit)))))
    }

    /// Gives up both: others count visitors.
    pub(super) fn leave(&self) {
        *lock(&self.0) = (None, None);
    }

    pub(super) fn end_handshake(&self) {
        lock(&self.0).1 = None;
    }

    /// Whether there is a place: the one that was given up for another if necessary, since a visitor may become a client.
    pub(super) fn is_taken_again(&self, room: &Room) -> bool {
        let place = &mut lock(&self.0).0;
        if place.is_none() {
            *place = room.try_enter();
        }
        place.is_some()
    }
}

/// What is to be done when the handshake within a transport is over.
pub(super) struct SeatReady(pub(super) Arc<Seat>);

impl Ready for SeatReady {
    fn ready(self) -> Option<Arc<Activity>> {
        self.0.end_handshake();
        None
    }

    fn visitor(self) {
        self.0.leave();
    }
}
