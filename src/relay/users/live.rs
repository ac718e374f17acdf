//! What is known of a session while it lasts.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use super::limits::{Ending, Refusal};

/// What a session is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// A TCP stream.
    Tcp,
    /// A UDP association.
    Udp,
    /// The link of a reverse tunnel. Its streams are not those of the user.
    Link,
    /// A connection with streams in it, which are sessions of their own.
    Multiplex,
}

impl Protocol {
    /// A short name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Link => "link",
            Self::Multiplex => "multiplex",
        }
    }

    /// Whether it counts as one of a user's connections.
    pub(super) const fn counts(self) -> bool {
        matches!(self, Self::Tcp | Self::Udp)
    }
}

/// A session that runs. Its flow alone writes the bytes.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) id: u64,
    pub(super) peer: SocketAddr,
    /// The address that it is counted under.
    pub(super) device: IpAddr,
    pub(super) target: Arc<str>,
    pub(super) protocol: Protocol,
    began: Instant,
    pub(super) up: AtomicU64,
    pub(super) down: AtomicU64,
    pub(super) ending: Ending,
}

impl Live {
    pub(super) fn new(
        peer: SocketAddr,
        device: IpAddr,
        target: Arc<str>,
        protocol: Protocol,
    ) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self {
            id: NEXT.fetch_add(1, Relaxed),
            peer,
            device,
            target,
            protocol,
            began: Instant::now(),
            up: AtomicU64::new(0),
            down: AtomicU64::new(0),
            ending: Ending::default(),
        }
    }

    pub(super) fn end(&self, why: Refusal) {
        if self.ending.get().is_none() {
            self.ending.set(Some(why));
        }
    }

    pub(super) fn describe(&self) -> LiveSession {
        LiveSession {
            id: self.id,
            user: None,
            server: Arc::default(),
            peer: self.peer,
            target: Arc::clone(&self.target),
            protocol: self.protocol,
            up: self.up.load(Relaxed),
            down: self.down.load(Relaxed),
            age: self.began.elapsed(),
        }
    }
}

/// A session that runs, as an operator sees it.
#[derive(Clone, Debug)]
pub struct LiveSession {
    /// Its number in this process.
    pub id: u64,
    /// The name of its user; `None`: the server has one key and no users.
    pub user: Option<Box<str>>,
    /// The name of its server.
    pub server: Arc<str>,
    /// The client's address when it began.
    pub peer: SocketAddr,
    /// The target; of an association, the first one.
    pub target: Arc<str>,
    /// What it is.
    pub protocol: Protocol,
    /// Payload bytes from the client.
    pub up: u64,
    /// Payload bytes to the client.
    pub down: u64,
    /// How long it has lasted.
    pub age: Duration,
}
