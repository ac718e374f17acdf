//! Serves one stream: handshake, dial, both directions until both have ended.
//!
//! ```text
//! accept ─> Inbound::handshake ─> Request ─> Outbound::connect ─> two halves, polled by one task ─> closed
//! ```
//!
//! - [`Service`] (`service.rs`) goes this way, and counts and logs each stream at its end.
//! - `request.rs`: what it needs from the floor above: [`Inbound`], [`Request`], [`Outbound`].
//! - `record.rs`: what is counted, logged and noted of a stream at its end.
//! - `activity.rs`: what a stream did last.
//! - `flow.rs`: two connected legs and their end; `watch.rs`: their timer.
//! - [`half`]: one direction, and in `splice.rs` its short way through the kernel.
//! - [`moving`]: flows that go on in another process; `resumed.rs`: those that have come from one.
//! - `trial.rs`: tries a request on the next server, while the client has noticed nothing.
//! - `growth.rs`: whether the receive buffer of a source may grow.
//! - `fairness.rs`: in what order the flows of a worker take their turns.

mod account;
mod activity;
mod fairness;
mod flow;
mod growth;
pub mod half;
pub mod moving;
mod record;
mod request;
mod resumed;
mod service;
mod splice;
mod traffic;
mod trial;
mod watch;

pub use super::leg::{Failure, First, Leg, NextLeg, Others};
pub use crate::wire::reserved::Reserved;
pub use activity::{Activity, Last};
pub use request::{
    ClientJob, FixedTarget, Handshake, Inbound, Outbound, Ready, Reply, Request, Timeouts,
};
pub use resumed::resume;
pub use service::Service;
