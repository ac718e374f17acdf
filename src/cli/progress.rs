//! Shows on a terminal how far something is. Where standard error is no terminal, nothing is shown.

use indicatif::{ProgressBar, ProgressStyle};

/// How far a download is.
pub(crate) struct Progress(ProgressBar);

impl Progress {
    /// Begins to show the download of `what`.
    pub(crate) fn download(what: &str) -> Self {
        let bar = ProgressBar::new_spinner();
        // A pattern that is wrong would be shown as it is.
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}: {bytes}") {
            bar.set_style(style);
        }
        bar.set_message(format!("downloading {what}"));
        bar.enable_steady_tick(std::time::Duration::from_millis(100));
        Self(bar)
    }

    /// Shows that `done` bytes of `all` have come.
    pub(crate) fn set(&self, done: u64, all: Option<u64>) {
        if let Some(all) = all.filter(|_| self.0.length().is_none()) {
            self.0.set_length(all);
            let pattern = "{spinner} {msg}: {bytes} of {total_bytes} [{bar:20}] {eta}";
            if let Ok(style) = ProgressStyle::with_template(pattern) {
                self.0.set_style(style);
            }
        }
        self.0.set_position(done);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
