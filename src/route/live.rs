//! Rules in use, which are read again when their files change.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};

use super::source::{Loaded, Source, SourceError};
use crate::net::file_version::FileVersion;
use crate::net::sync::{lock, read, write};

/// Rules in use.
pub struct Live {
    source: RwLock<Arc<Source>>,
    current: RwLock<Arc<Loaded>>,
    seen: Mutex<Seen>,
    version: AtomicU64,
}

/// Versions of all files.
struct Seen {
    /// Those that were read last, whether or not they could be used.
    read: Vec<Option<FileVersion>>,
    /// Those that the last check has found.
    found: Vec<Option<FileVersion>>,
}

impl std::fmt::Debug for Live {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Live").field(&self.source()).finish()
    }
}

/// Whether they are the same rules, read at the same time.
impl PartialEq for Live {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.source(), &other.source())
    }
}

impl Live {
    /// Reads the rules.
    ///
    /// # Errors
    /// Those of [`Source::load`].
    pub fn new(source: Source) -> Result<Self, SourceError> {
        let versions = versions(&source);
        let loaded = source.load()?;
        Ok(Self {
            source: RwLock::new(Arc::new(source)),
            current: RwLock::new(Arc::new(loaded)),
            seen: Mutex::new(Seen {
                read: versions.clone(),
                found: versions,
            }),
            version: AtomicU64::new(0),
        })
    }

    /// Where the rules come from.
    #[must_use]
    pub fn source(&self) -> Arc<Source> {
        Arc::clone(&read(&self.source))
    }

    /// Takes over the rules of `other`, which has read them.
    pub fn replace(&self, other: &Self) {
        let seen = {
            let seen = lock(&other.seen);
            (seen.read.clone(), seen.found.clone())
        };
        let (source, current) = (other.source(), other.current());
        let mut own = lock(&self.seen);
        (own.read, own.found) = seen;
        *write(&self.source) = source;
        *write(&self.current) = current;
        self.version.fetch_add(1, Ordering::Release);
    }

    /// The rules as they are now.
    #[must_use]
    pub fn current(&self) -> Arc<Loaded> {
        Arc::clone(&read(&self.current))
    }

    /// Changes after each time that they were read again.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Whether a file has changed since it was read, and rests: it is as the last call found it.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        let found = versions(&self.source());
        let mut seen = lock(&self.seen);
        let rests = found == seen.found;
        let changed = found != seen.read;
        seen.found = found;
        rests && changed
    }

    /// Reads the rules again. If they cannot be used, the old ones stay, and the files are read again when they change.
    ///
    /// # Errors
    /// Those of [`Source::load`].
    pub fn reload(&self) -> Result<(), SourceError> {
        let source = self.source();
        lock(&self.seen).read = versions(&source);
        let loaded = source.load()?;
        *write(&self.current) = Arc::new(loaded);
        self.version.fetch_add(1, Ordering::Release);
        Ok(())
    }
}

fn versions(source: &Source) -> Vec<Option<FileVersion>> {
    let files = source.files().into_iter();
    files.map(|file: &Path| FileVersion::of(file)).collect()
}
