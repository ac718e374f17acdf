//! Reverse tunnels: `ssr local` publishes services at ports of `ssr server`.
//!
//! - `grants.rs`: who may publish what.
//! - `registry.rs`: what is published, and by which links.
//! - `sharing.rs`: spreads the visitors of a service over the links that publish it.
//! - `server.rs`: the server and its side of each link.
//! - `client.rs`: the client, its links and its side of each.
//! - `own.rs`: visitors over QUIC with a stream of their own, on the client.
//! - `udp.rs`: visitors of UDP services, on the server; `flows.rs`: on the client.
//!
//! A public port belongs to the link that has registered it and closes with the link. Several links that publish one
//! service have a socket each on the same port; the link with the fewest visitors takes the next. Only HTTP ports are
//! shared by links; they are served by a job of their own.

mod client;
mod flows;
mod grants;
mod own;
mod registry;
mod server;
mod sharing;
mod udp;

pub(super) use client::{ClientSettings, ReverseClient};
pub(super) use grants::Grants;
pub(super) use server::{ReverseServer, ServerSettings};
