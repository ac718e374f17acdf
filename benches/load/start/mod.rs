//! Starts implementations as their users start them.

mod forward;
mod haproxy;
mod quic;
mod reverse;
mod shadowsocks;
mod sing_box;
mod ways_in;

use crate::programs::Programs;
use crate::result::Result;
use crate::running::{Running, Setup};
use crate::scenario::Scenario;

/// Starts an implementation and waits until it accepts connections.
pub(crate) fn start(programs: &Programs, setup: &Setup<'_>) -> Result<Running> {
    match setup.scenario {
        Scenario::Shadowsocks(_) | Scenario::WebSocket | Scenario::Rules(_) => {
            shadowsocks::start(programs, setup)
        }
        Scenario::Quic => quic::start(programs, setup),
        Scenario::Reverse => reverse::start(programs, setup),
        Scenario::WayIn(way) => ways_in::start(programs, setup, way),
        Scenario::Forward => forward::start(programs, setup),
    }
}
