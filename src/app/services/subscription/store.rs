//! The last good list of servers, on disk.

use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::process::geteuid;
use sha2::{Digest as _, Sha256};

use crate::limits::MAX_SUBSCRIPTION;

/// Where the list of one URL is kept. It holds passwords, so only this user may read it.
pub(super) struct Store {
    path: PathBuf,
}

impl Store {
    /// The place of the list of `url`. The URL itself is not in its name: it often is a secret.
    ///
    /// # Errors
    /// When there is no directory for it, in words.
    pub(super) fn new(url: &str) -> Result<Self, String> {
        let directory = directory().ok_or("neither $XDG_STATE_HOME nor $HOME is set")?;
        let mut name = "servers-".to_owned();
        for byte in Sha256::digest(url.as_bytes()).iter().take(8) {
            // Writing to a string cannot fail.
            let _ = write!(name, "{byte:02x}");
        }
        let path = directory.join(name + ".json");
        let made = fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&directory);
        match made {
            Ok(()) => Ok(Self { path }),
            Err(error) => Err(format!("{}: {error}", directory.display())),
        }
    }

    /// The list, if there is one.
    pub(super) fn read(&self) -> Option<Vec<u8>> {
        let file = File::open(&self.path).ok()?;
        let mut document = Vec::new();
        let read = file.take(MAX_SUBSCRIPTION).read_to_end(&mut document);
        read.ok().map(|_| document)
    }

    /// Keeps a list in place of the one before.
    ///
    /// # Errors
    /// What the system says, in words.
    pub(super) fn write(&self, document: &[u8]) -> Result<(), String> {
        if self.read().is_some_and(|kept| kept == document) {
            return Ok(());
        }
        // Another process with the same URL may write at this moment.
        let new = self
            .path
            .with_extension(format!("{}.new", std::process::id()));
        write_whole(&new, document)
            .and_then(|()| fs::rename(&new, &self.path))
            .map_err(|error| format!("{}: {error}", self.path.display()))
    }
}

fn write_whole(path: &Path, document: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let mut file = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(document)?;
    file.sync_all()
}

/// The directory of state: that of systemd (`StateDirectory=`), `ssr` in `$XDG_STATE_HOME`, `/var/lib/ssr` for root, or
/// `~/.local/state/ssr`.
pub(in crate::app) fn directory() -> Option<PathBuf> {
    let variable = |name: &str| {
        let value = std::env::var_os(name)?;
        let first = std::env::split_paths(&value).next()?;
        first.is_absolute().then_some(first)
    };
    if let Some(directory) = variable("STATE_DIRECTORY") {
        return Some(directory);
    }
    if let Some(base) = variable("XDG_STATE_HOME") {
        return Some(base.join("ssr"));
    }
    if geteuid().is_root() {
        return Some(PathBuf::from("/var/lib/ssr"));
    }
    Some(variable("HOME")?.join(".local/state/ssr"))
}
