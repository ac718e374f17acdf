//! Many streams over one: the link of a reverse tunnel.
//!
//! ```text
//! visitor ─ serve ─ pipe ┐                                    ┌ pipe ─ serve ─ target
//! visitor ─ serve ─ pipe ┼ link ══ one encrypted stream ══ link ┼ pipe ─ serve ─ target
//! visitor ─ serve ─ pipe ┘                                    └ pipe ─ serve ─ target
//! ```
//!
//! - [`core`]: the rules: who may say what when, windows, turns. No socket, no clock.
//! - `window.rs`: how large a window is.
//! - `carrier.rs`: the encrypted stream, its chunks sealed and opened in place.
//! - `driver.rs`: the task that joins them with the pipes.
//! - [`handle`]: how other tasks reach it.
//!
//! What a service is, and who may have one, is the business of the [`Host`], which lives on a floor above.

mod carrier;
pub mod core;
mod driver;
pub mod handle;
mod window;

use std::net::SocketAddr;
use std::task::Context;
use std::time::Duration;

pub use self::core::LinkRole;
pub use driver::run;
pub use handle::Handle;

use crate::net::Stream;
use crate::wire::reverse::{Code, Register};
use crate::wire::{Address, AddressRef};

/// What is set for a link.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Which end this is.
    pub end: LinkRole,
    /// Between two pings; three without a word from the other end, and the link is dead.
    pub heartbeat: Duration,
}

/// The answer to an offer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// [`Code::OK`], or why not.
    pub code: Code,
    /// Where the service can be reached.
    pub bound: SocketAddr,
    /// The same for people.
    pub message: String,
}

/// Who has come.
#[derive(Clone, Debug)]
pub struct Visitor {
    /// The stream or flow.
    pub id: u64,
    /// The service that it wants.
    pub service: u64,
    /// Where it comes from.
    pub source: Address,
    /// Where it came to.
    pub destination: Address,
}

/// What a service takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Streams.
    Streams,
    /// Datagrams.
    Datagrams,
}

/// Who lives above a link. All is called by the link's task, and must not wait.
pub trait Host: Send {
    /// The client offers a service.
    fn register(&mut self, service: u64, register: Register<'_>) -> Answer;

    /// The server has answered to an offer.
    fn registered(&mut self, service: u64, code: Code, bound: AddressRef<'_>, message: &str);

    /// What a service of ours takes; `None`: there is none of this number.
    fn kind(&self, service: u64) -> Option<Kind>;

    /// A visitor has come with a stream.
    fn stream(&mut self, visitor: Visitor, stream: Stream);

    /// A visitor has come with datagrams.
    fn flow(&mut self, visitor: Visitor);

    /// A datagram has come.
    fn datagram(&mut self, id: u64, bytes: &[u8]);

    /// The other end could not reach its target.
    fn refused(&mut self, id: u64, message: &str);

    /// A stream or flow is over.
    fn closed(&mut self, id: u64);

    /// The link takes no more visitors, and ends when those there are have gone.
    fn leaving(&mut self);

    /// The other end is leaving; another link is welcome after the time.
    fn going_away(&mut self, code: Code, retry: Duration, message: &str);

    /// Does what the host has to do by itself, in the link's task.
    fn poll(&mut self, cx: &mut Context<'_>);

    /// Streams that go on after the link has nothing to do with them any more.
    fn is_busy(&self) -> bool;
}
