//! Floor 3: resolves names to addresses.
//!
//! hickory-resolver speaks DNS on the wire. This module adds what a proxy needs beyond that: one cache for all workers, one
//! query for all lookups of the same name at the same time, and a deadline for every answer.
//!
//! - [`Resolver`] (`resolver.rs`) is what callers hold: hosts file, cache, tasks, counters.
//! - `cache.rs` stores answers: it clamps TTLs, evicts names, and joins lookups of the same name. No IO, no clock.
//! - `upstream.rs` queries the name servers: A and AAAA together, the search list, the next server when one is silent.
//! - `sockets.rs` makes the sockets of queries.
//! - `hosts.rs` and `system.rs` read `/etc/hosts` and `/etc/resolv.conf`.
//! - [`Source`] (`source.rs`) is the `dns` key of the config; [`Config`] (`config.rs`) holds the other settings.
//! - [`fake`]: fake addresses and the names that they stand for.
//! - [`Answer`] and [`Error`] (`answer.rs`) are what a lookup returns.

mod answer;
mod cache;
mod config;
pub mod fake;
mod hosts;
mod resolver;
mod sockets;
mod source;
mod system;
mod upstream;

#[cfg(test)]
mod tests;

pub use self::answer::{Addresses, Answer, Error};
pub use self::config::Config;
pub use self::resolver::{Counters, Resolver};
pub use self::source::{Server, Source, Transport};
