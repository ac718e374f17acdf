//! The workloads.

pub(crate) mod allocations;
pub(crate) mod dns;
pub(crate) mod http;
pub(crate) mod link;
pub(crate) mod names;
pub(crate) mod system_calls;
pub(crate) mod tcp;
pub(crate) mod udp;
