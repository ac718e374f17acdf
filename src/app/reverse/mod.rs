//! Reverse tunnels: what `server` publishes, and what `local` offers.
//!
//! - `grants.rs`: who may publish what.
//! - `registry.rs`: what is published, and by which links.
//! - `server.rs`: the server's end of a link.
//! - `client.rs`: the client's links and its end of them.
//! - `datagrams.rs`: visitors who send datagrams, at both ends.
//!
//! A public port belongs to the link by which it was asked for, and ends with it. Links of one service have a socket
//! each on the same port, among which the system shares the visitors out. Only ports on which HTTP is spoken are
//! shared by links and belong to a job of their own.

mod client;
mod grants;
mod registry;
mod server;
mod udp;

pub(super) use client::{Client, Offered};
pub(super) use server::{Common, Publisher};
