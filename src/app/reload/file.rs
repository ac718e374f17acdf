//! Notices that the config file has changed.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::net::file_version::FileVersion;

/// How often the file is looked at. A change counts when the next look finds it unchanged.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// The config file.
pub(super) struct File {
    path: PathBuf,
    /// The version that was read last, ...
    read: Option<FileVersion>,
    /// ... and the one that the last look found.
    found: Option<FileVersion>,
    ticks: Interval,
}

impl File {
    /// The file that was just read. To be called inside a runtime.
    pub(super) fn new(path: &Path) -> Self {
        let version = FileVersion::of(path);
        let mut ticks = interval(CHECK_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            path: path.to_owned(),
            read: version,
            found: version,
            ticks,
        }
    }

    /// It is about to be read.
    pub(super) fn note_read(&mut self) {
        self.read = FileVersion::of(&self.path);
    }

    /// Waits until it has changed since it was read, and rests. Cancel safe.
    pub(super) async fn changed(&mut self) {
        loop {
            self.ticks.tick().await;
            let found = FileVersion::of(&self.path);
            let rests = found == self.found;
            self.found = found;
            if rests && found != self.read {
                return;
            }
        }
    }
}
