//! Shares users with other servers, where the config says so (`store`).

use std::sync::Arc;

use super::error::Error;
use crate::config::Config;
use crate::control::store::{Replica, Store};
use crate::relay::Counters;
use crate::relay::replay::Answerer;

/// Begins.
pub(super) fn start(
    config: &Config,
    shared: Option<(Arc<Replica>, Answerer)>,
    counters: &Arc<Counters>,
) -> Result<Option<Store>, Error> {
    let (Some(url), Some((replica, salts))) = (&config.store, shared) else {
        return Ok(None);
    };
    let url = url.expose().to_owned();
    let store = Store::start(url, replica, Arc::clone(counters), salts);
    store
        .map(Some)
        .map_err(Error::system("cannot use the store"))
}
