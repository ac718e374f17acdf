//! `log`.

use std::path::PathBuf;

use super::context::Context;
use super::model::{Log, Rotation, Sink, Writer};
use crate::config::written::file;
use crate::config::written::scalar::Number;

/// The most detailed level.
const MAX_LEVEL: u8 = 3;

/// Translates `log`; without it, level info on standard error.
pub(super) fn log(written: Option<&file::Log>, cx: &mut Context<'_>) -> Log {
    let written = written.cloned().unwrap_or_default();
    let level = level(written.level).unwrap_or(0);
    let without_time = without_time(written.format.as_ref()).unwrap_or(false);
    let json = json(written.format.as_ref()).unwrap_or(false);
    let console = Writer {
        level,
        without_time,
        json,
        sink: Sink::Console,
    };
    let writers = match &written.writers {
        None => vec![console],
        Some(writers) => writers
            .iter()
            .enumerate()
            .filter_map(|(index, writer)| {
                one(writer, &format!("log.writers[{index}]"), &console, cx)
            })
            .collect(),
    };
    Log {
        level,
        without_time,
        json,
        writers,
    }
}

/// Translates an entry of `log.writers`; what it lacks is taken from `default`.
fn one(written: &file::Writer, at: &str, default: &Writer, cx: &mut Context<'_>) -> Option<Writer> {
    let (own_level, format, sink) = match (&written.console, &written.file, &written.syslog) {
        (Some(console), None, None) => (console.level, &console.format, Sink::Console),
        (None, Some(file), None) => (file.level, &file.format, file_sink(file, at, cx)?),
        (None, None, Some(syslog)) => {
            let sink = Sink::Syslog {
                identity: syslog.identity.clone(),
                facility: syslog.facility.map_or(1, |Number(facility)| facility),
            };
            (syslog.level, &syslog.format, sink)
        }
        _ => {
            cx.report.error_hint(
                at,
                "an entry must have exactly one of `console`, `file` and `syslog`",
                "write one entry for each",
            );
            return None;
        }
    };
    Some(Writer {
        level: level(own_level).unwrap_or(default.level),
        without_time: without_time(format.as_ref()).unwrap_or(default.without_time),
        json: json(format.as_ref()).unwrap_or(default.json),
        sink,
    })
}

fn file_sink(file: &file::LogFile, at: &str, cx: &mut Context<'_>) -> Option<Sink> {
    let rotation = match file.rotation.as_deref() {
        None | Some("never") => Rotation::Never,
        Some("hourly") => Rotation::Hourly,
        Some("daily") => Rotation::Daily,
        Some(other) => {
            cx.report.unknown(
                &format!("{at}.file.rotation"),
                "rotation",
                other,
                "use `never`, `hourly` or `daily`",
            );
            Rotation::Never
        }
    };
    let Some(directory) = file.directory.as_deref().filter(|path| !path.is_empty()) else {
        cx.report.error(
            &format!("{at}.file.directory"),
            "missing: the directory for the log files",
        );
        return None;
    };
    Some(Sink::File {
        directory: PathBuf::from(directory),
        rotation,
        prefix: file.prefix.clone(),
        suffix: file.suffix.clone(),
        max_files: file
            .max_files
            .and_then(|Number(count)| usize::try_from(count).ok()),
    })
}

fn level(written: Option<Number<u32>>) -> Option<u8> {
    written.map(|Number(level)| u8::try_from(level).unwrap_or(MAX_LEVEL).min(MAX_LEVEL))
}

fn without_time(format: Option<&file::Format>) -> Option<bool> {
    format.and_then(|format| format.without_time)
}

fn json(format: Option<&file::Format>) -> Option<bool> {
    format.and_then(|format| format.json)
}
