//! Several servers, one truth: users, what they have used, and the salts of requests, in a store that servers share.
//!
//! Every process has a copy of what it knows ([`Replica`]), and goes on with it while the store is away. A thread of its own
//! tells the store what is new here and asks for what is new elsewhere, several times a second. Flows know nothing of it.
//!
//! - `entry.rs`: what is in the store, as text.
//! - `replica.rs`: the copy, and what users have used.
//! - `names.rs`: the users that the admin API has changed.
//! - `redis.rs`: the connection; `exchange.lua`: what the store does in one step.
//! - `service.rs`: the thread; `absent.rs`: a build without Redis.

#![cfg_attr(
    not(feature = "redis"),
    allow(dead_code, reason = "nothing is told to a store")
)]

#[cfg(not(feature = "redis"))]
mod absent;
mod entry;
mod names;
#[cfg(feature = "redis")]
mod redis;
mod replica;
#[cfg(feature = "redis")]
mod service;

use std::collections::HashMap;
use std::sync::Arc;

#[cfg(not(feature = "redis"))]
pub use absent::Store;
pub use replica::Replica;
pub(super) use replica::Text;
#[cfg(feature = "redis")]
pub use service::Store;

use crate::relay::Counters;
use crate::relay::group::Group;
use crate::relay::users::Table;

/// The tables of a process by their groups; the second one of a group has a number.
pub(crate) fn tables(counters: &Counters) -> Vec<(Group, Arc<Table>)> {
    let mut seen: HashMap<Group, usize> = HashMap::new();
    let tables = counters.users.tables().into_iter();
    let named = tables.map(|table| {
        let group = Group::of(table.method, table.load().accounts.key());
        let count = seen.entry(group.clone()).or_default();
        *count += 1;
        match *count {
            1 => (group, table),
            more => (group.numbered(more), table),
        }
    });
    named.collect()
}
