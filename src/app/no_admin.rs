//! In place of the admin API, in a build without it. The config refuses its keys, so that there is never one.

use std::io;

use super::error::Error;
use crate::config::Config;
use crate::control::facts::Facts;
use crate::control::orders::Orders;
use crate::dns::Resolver;
use crate::net::passed::Passed;

/// The admin API, which there is not.
pub(super) enum Admin {}

impl Admin {
    /// Never one.
    pub(super) async fn bind(_: &Config, _: &Resolver, _: &Passed) -> Result<Option<Self>, Error> {
        Ok(None)
    }

    /// Never called.
    pub(super) fn start(self, _: &Config, _: Facts, _: Orders) -> io::Result<Serving> {
        match self {}
    }
}

/// The thread of the admin API, which there is not.
pub(super) enum Serving {}

impl Serving {
    /// Never called.
    pub(super) fn end(self) {
        match self {}
    }
}
