//! What is logged, and where, in the config as meant.

use std::path::PathBuf;

/// What is logged, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// 0 is info, 1 debug, 2 trace, 3 trace of the libraries too.
    pub level: u8,
    /// Omit the time.
    pub without_time: bool,
    /// Each line is a JSON object.
    pub json: bool,
    /// The destinations; empty: nothing is logged.
    pub writers: Vec<Writer>,
}

/// One destination of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Writer {
    /// As [`Log::level`].
    pub level: u8,
    /// As [`Log::without_time`].
    pub without_time: bool,
    /// As [`Log::json`].
    pub json: bool,
    /// The destination.
    pub sink: Sink,
}

/// Where a [`Writer`] writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sink {
    /// Standard error.
    Console,
    /// Files in a directory.
    File {
        /// The directory.
        directory: PathBuf,
        /// How often a new file is started.
        rotation: Rotation,
        /// The beginning of the file name; `None`: the program's name.
        prefix: Option<String>,
        /// The end of the file name; `None`: `log`.
        suffix: Option<String>,
        /// The number of files to keep; `None`: all.
        max_files: Option<usize>,
    },
    /// The system log.
    Syslog {
        /// The name in the log; `None`: the program's name.
        identity: Option<String>,
        /// The facility (RFC 5424 §6.2.1); 1 is "user".
        facility: u32,
    },
}

/// How often a new log file is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rotation {
    /// Never.
    Never,
    /// Every hour.
    Hourly,
    /// Every day.
    Daily,
}
