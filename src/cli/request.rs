//! What a role runs with.

use std::path::PathBuf;

use ssr::config::Overrides;

/// What a role runs with.
pub(crate) struct Request {
    /// Where the config comes from.
    pub(crate) source: Source,
    /// The flags that override it.
    pub(crate) flags: Overrides,
    /// Whether it runs in the background.
    pub(crate) daemon: Option<Daemon>,
    /// Whether warnings of the config are errors.
    pub(crate) strict: bool,
}

/// Where a config comes from.
pub(crate) enum Source {
    /// This file.
    File(PathBuf),
    /// The flags alone, if they are enough, or else the first file at the usual places.
    Usual,
    /// The flags alone.
    Flags,
    /// The file of shadowsocks-libev.
    Libev,
}

impl Request {
    pub(super) fn new(config: Option<PathBuf>, flags: Overrides) -> Self {
        Self {
            source: config.map_or(Source::Usual, Source::File),
            flags,
            daemon: None,
            strict: false,
        }
    }
}

/// What running in the background asks for.
pub(crate) struct Daemon {
    /// The file that gets the process id.
    pub(crate) pid_file: Option<PathBuf>,
}
