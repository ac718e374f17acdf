//! Why what users have used cannot be kept.

use std::io;
use std::path::PathBuf;

/// Why what users have used cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The directory cannot be used.
    #[error("admin.state: cannot use the directory {}: {source}", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The file cannot be used.
    #[error("admin.state: cannot use {}: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// There is no thread for it.
    #[error("admin.state: cannot start a thread: {0}")]
    Thread(io::Error),
}
