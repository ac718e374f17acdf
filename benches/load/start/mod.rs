//! Starts implementations as their users start them.

mod forward;
mod haproxy;
mod reverse;
mod shadowsocks;

use crate::programs::Programs;
use crate::result::Result;
use crate::running::{Running, Setup};
use crate::scenario::{FORWARD, REVERSE};

/// Starts an implementation and waits until it accepts.
pub(crate) fn start(programs: &Programs, setup: &Setup<'_>) -> Result<Running> {
    match setup.method {
        REVERSE => reverse::start(programs, setup),
        FORWARD => forward::start(programs, setup),
        _ => shadowsocks::start(programs, setup),
    }
}
