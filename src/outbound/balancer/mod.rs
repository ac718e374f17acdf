//! Which of several servers is used next, and which are avoided.
//!
//! - [`strategy`]: the order in which servers are tried.
//! - [`health`]: what is known of a server: failures, times, connections, results of probes.
//! - [`silence`]: requests in a row that a server has not answered.
//! - [`probe`]: tries the servers by real requests, while the proxy is used; `packet_probe.rs`: for datagrams.
//! - [`race`]: connects to one server after the other without waiting for those that do not answer.

pub mod health;
pub(crate) mod packet_probe;
pub mod probe;
pub mod race;
pub mod silence;
pub mod strategy;

use strategy::Strategy;

/// The settings of `balancer`.
#[derive(Clone, Debug, PartialEq)]
pub struct Balancer {
    /// How a server is chosen.
    pub strategy: Strategy,
    /// The probes; `None`: there are none.
    pub probe: Option<probe::Probe>,
}
