//! The site in front of a listener: what whoever is no client of ours gets there, as from any web server.
//!
//! - `content.rs`: what a site consists of.
//! - `visit.rs`: one connection of a visitor, its requests and time limits.
//! - `files.rs`: a site of files.
//! - `proxy.rs`: a site that other web servers give out; `upstreams.rs`: which of them, and how they are.
//! - `io.rs`: our streams for hyper, which speaks HTTP/1.1; `message.rs`: what it reads and writes.

mod content;
mod files;
mod io;
mod message;
mod proxy;
mod upstreams;
mod visit;

pub use content::{Site, Source, Trusts};
pub use message::Guest;
pub use proxy::{Dial, ProxySettings};
pub use upstreams::Strategy;
pub use visit::Left;

#[cfg(test)]
mod tests;
