//! Starts implementations as their users start them.

mod forward;
mod haproxy;
mod reverse;
mod shadowsocks;

use crate::programs::Programs;
use crate::result::Result;
use crate::running::{Running, Setup};
use crate::scenario::Scenario;

/// Starts an implementation and waits until it accepts connections.
pub(crate) fn start(programs: &Programs, setup: &Setup<'_>) -> Result<Running> {
    match setup.scenario {
        Scenario::Shadowsocks(_) | Scenario::WebSocket => shadowsocks::start(programs, setup),
        Scenario::Reverse => reverse::start(programs, setup),
        Scenario::Forward => forward::start(programs, setup),
    }
}
