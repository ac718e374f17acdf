//! Rules at work: what goes where, and who may come.
//!
//! - `router.rs`: the outbound of `ssr local`: direct, through servers, or refused.
//! - `guard.rs`: the rules of `ssr server` about its targets and its clients.
//! - `reload.rs`: reads the rules of the config again.
//! - `watch.rs`: does so when files change, or on SIGHUP.

mod guard;
mod reload;
mod router;
mod watch;

pub(super) use guard::{Guard, filter};
pub(super) use reload::{Reload, names};
pub(super) use router::{Router, Rules};
pub(super) use watch::{Watched, watch};
