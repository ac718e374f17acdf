//! Tells two versions of a file apart, to notice that it has changed.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::SystemTime;

/// What differs between two versions of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileVersion {
    modified: Option<SystemTime>,
    len: u64,
    inode: u64,
}

impl FileVersion {
    /// The version that is there now; `None`: there is no such file.
    #[must_use]
    pub fn of(file: &Path) -> Option<Self> {
        let data = std::fs::metadata(file).ok()?;
        Some(Self {
            modified: data.modified().ok(),
            len: data.len(),
            inode: data.ino(),
        })
    }
}
