//! The config as meant: validated types, and the translation of what was written into them.

mod balancer;
pub(super) mod between;
pub(super) mod context;
mod dns_local;
mod endpoint;
mod endpoint_url;
mod fake_dns;
mod forwards;
mod keys;
mod listen;
mod locals;
mod logging;
pub(super) mod model;
mod options;
mod plugin;
mod program;
mod proxies;
mod reverse;
mod rules;
mod servers;
mod sniff;
mod tls;
pub(super) mod translate;
mod transport;
mod udp_over_tcp;
mod ways_in;
mod websocket;
