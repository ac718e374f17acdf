//! Rules at work: what goes where, and who may come.
//!
//! - `router.rs`: the outbound of `ssr local`: direct, through servers, or refused.
//! - `guard.rs`: the rules of `ssr server` about its targets and its clients.
//! - `names.rs`: the names by which rules may mean a server.
//! - `watch.rs`: reads rules again when their files change.

mod guard;
mod names;
mod router;
mod watch;

pub(super) use guard::{Guard, filter};
pub(super) use names::names;
pub(super) use router::{Router, Rules};
pub(super) use watch::Rulebook;
