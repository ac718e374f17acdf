//! What all workloads share.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::measure::Span;
use crate::programs::Programs;
use crate::proxy::Proxy;

/// What all workloads share.
pub(crate) struct Context<'a> {
    pub(crate) programs: &'a Programs,
    /// Has a subdirectory for each implementation.
    pub(crate) directory: &'a Path,
    pub(crate) quick: bool,
}

impl Context<'_> {
    /// Where an implementation's config and logs are.
    pub(crate) fn directory(&self, proxy: Proxy) -> PathBuf {
        self.directory.join(proxy.name())
    }

    pub(crate) fn either<T>(&self, quick: T, full: T) -> T {
        if self.quick { quick } else { full }
    }

    pub(crate) fn span(&self) -> Span {
        Span {
            warm: Duration::from_millis(self.either(150, 300)),
            time: Duration::from_millis(self.either(450, 2000)),
        }
    }
}
