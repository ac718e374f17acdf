//! The link of a reverse tunnel: many streams multiplexed over one.
//!
//! ```text
//! visitor ─ serve ─ pipe ┐                                    ┌ pipe ─ serve ─ target
//! visitor ─ serve ─ pipe ┼ link ══ one encrypted stream ══ link ┼ pipe ─ serve ─ target
//! visitor ─ serve ─ pipe ┘                                    └ pipe ─ serve ─ target
//! ```
//!
//! - `settings.rs`: the settings of a link and its two roles.
//! - [`limits`]: every limit of a link, its streams and its visitors.
//! - [`event`]: what a link reports to its [`Host`].
//! - `visitor.rs`: a visitor.
//! - `window.rs`: receive windows and the round-trip time.
//! - `datagrams.rs`: a bounded queue of datagrams.
//! - [`core`]: the protocol: streams, windows, heartbeat. No sockets, no clock.
//! - `carrier.rs`: frames inside the chunks of the encrypted stream.
//! - [`handle`]: how other tasks use a link.
//! - `own.rs`: over QUIC, streams of their own for visitors, beside the link.
//! - `driver.rs`: the task of a link, which joins all of these.
//!
//! A message has one name everywhere: [`Frame::Connect`](crate::wire::reverse::Frame::Connect) on the wire,
//! [`Event::Connect`] to the host, [`Handle::connect`] and `Command::Connect` from other tasks. All other frames that
//! concern the host reach it as [`Event::Frame`].

mod carrier;
pub mod core;
mod datagrams;
mod driver;
pub mod event;
pub mod handle;
pub mod limits;
mod own;
mod settings;
mod visitor;
mod window;

pub use driver::run;
pub use event::{Event, Host};
pub use handle::Handle;
pub use own::Arrivals;
pub use settings::{LinkRole, Settings};
pub use visitor::Visitor;
