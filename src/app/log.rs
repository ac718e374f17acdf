//! Sets up the log: the terminal, files, syslog.
//!
//! - `queue.rs`: what waits for a writer, and the thread that writes.
//! - `syslog.rs`: the system log.

mod queue;
mod syslog;

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::{self, IsTerminal, Write as _};
use std::panic::PanicHookInfo;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use tracing_appender::rolling::{self, RollingFileAppender};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, fmt, reload};

use self::queue::{Entrance, Lines, Queue};
use self::syslog::Syslog;
use crate::config::{Log, Rotation, Sink, Writer};
#[cfg(feature = "admin")]
use crate::control::admin::model as admin;
use crate::limits::LOG_FLUSH_TIME;

/// What of the log a writer writes.
type Level = reload::Layer<Targets, Registry>;

/// The levels of all writers, in their order.
static LEVELS: OnceLock<Vec<reload::Handle<Targets, Registry>>> = OnceLock::new();

/// One writer of the log.
type Output = Box<dyn Layer<Registry> + Send + Sync>;

/// Writes what still waits when it is dropped: keep it until the process ends.
#[must_use]
pub struct Running(Vec<Arc<Queue>>);

impl Running {
    /// Waits until every line is written, but no longer than [`LOG_FLUSH_TIME`].
    pub fn flush(&self) {
        let deadline = Instant::now() + LOG_FLUSH_TIME;
        for queue in &self.0 {
            queue.flush(deadline);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.flush();
    }
}

/// Starts logging to the writers of `config`, each with a thread of its own; what panics say goes there too. To be called
/// once, and after the process has gone to the background.
///
/// # Errors
/// When a log file cannot be created, syslog is not available, or the log was set up before.
pub fn init(config: &Log) -> io::Result<Running> {
    let mut queues = Vec::new();
    let (mut outputs, mut levels) = (Vec::new(), Vec::new());
    for writer in &config.writers {
        let queue = queue(&writer.sink)?;
        let (filter, level) = reload::Layer::new(filter(writer.level));
        outputs.push(output(writer, Entrance(Arc::clone(&queue)), filter));
        levels.push(level);
        queues.push(queue);
    }
    tracing_subscriber::registry()
        .with(outputs)
        .try_init()
        .map_err(io::Error::other)?;
    std::panic::set_hook(Box::new(log_panic));
    // The log is set up once.
    let _ = LEVELS.set(levels);
    Ok(Running(queues))
}

/// Sets other levels for the writers of `config`, which are those that the log was set up with.
pub fn set_levels(config: &Log) {
    let levels = LEVELS.get().into_iter().flatten();
    for (level, writer) in levels.zip(&config.writers) {
        // It fails only when the log is gone.
        let _ = level.reload(filter(writer.level));
    }
}

/// Sets one level for all writers. Returns whether that works.
#[cfg(feature = "admin")]
pub(super) fn set_level(level: admin::Level) -> bool {
    use admin::Level;
    let targets = match level {
        Level::Error => Targets::new().with_default(LevelFilter::ERROR),
        Level::Warn => Targets::new().with_default(LevelFilter::WARN),
        Level::Info => filter(0),
        Level::Debug => filter(1),
        Level::Trace => filter(2),
    };
    let mut levels = LEVELS.get().into_iter().flatten();
    LEVELS.get().is_some() && levels.all(|level| level.reload(targets.clone()).is_ok())
}

/// Logs a panic. The usual hook writes to standard error, which may block.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let message = panic.payload_as_str().unwrap_or("without a message");
    let at = panic.location().map(ToString::to_string);
    let trace = Backtrace::capture();
    let trace = (trace.status() == BacktraceStatus::Captured).then_some(trace);
    let trace = trace.as_ref().map(tracing::field::display);
    tracing::error!(at, trace, "internal error, please report it: {message}");
}

/// Starts the thread that writes to a sink.
fn queue(sink: &Sink) -> io::Result<Arc<Queue>> {
    match sink {
        Sink::Console => Queue::start("standard error".to_owned(), Console),
        Sink::File {
            directory,
            rotation,
            prefix,
            suffix,
            max_files,
        } => {
            let mut file = rolling::Builder::new()
                .rotation(match rotation {
                    Rotation::Never => rolling::Rotation::NEVER,
                    Rotation::Hourly => rolling::Rotation::HOURLY,
                    Rotation::Daily => rolling::Rotation::DAILY,
                })
                .filename_prefix(prefix.as_deref().unwrap_or("ssr"))
                .filename_suffix(suffix.as_deref().unwrap_or("log"));
            if let Some(count) = max_files {
                file = file.max_log_files(*count);
            }
            let file = file.build(directory).map_err(io::Error::other)?;
            Queue::start(directory.display().to_string(), Files(file))
        }
        Sink::Syslog { identity, facility } => {
            let syslog = Syslog::new(identity.as_deref().unwrap_or("ssr"), *facility)?;
            Queue::start("syslog".to_owned(), syslog)
        }
    }
}

/// Standard error.
struct Console;

impl queue::Sink for Console {
    fn write(&mut self, lines: &Lines) -> usize {
        lines.lost_by(io::stderr().write_all(lines.text()))
    }
}

/// Files in a directory.
struct Files(RollingFileAppender);

impl queue::Sink for Files {
    fn write(&mut self, lines: &Lines) -> usize {
        lines.lost_by(self.0.write_all(lines.text()))
    }
}

fn output(writer: &Writer, entrance: Entrance, filter: Level) -> Output {
    let layer = fmt::layer()
        .with_target(writer.level > 1)
        .with_writer(entrance);
    match &writer.sink {
        Sink::Console | Sink::File { .. } if writer.json => {
            let layer = layer.with_ansi(false).json().flatten_event(true);
            let layer = layer.with_current_span(false).with_span_list(false);
            match writer.without_time {
                true => layer.without_time().with_filter(filter).boxed(),
                false => layer.with_filter(filter).boxed(),
            }
        }
        Sink::Console => {
            let layer = layer.with_ansi(io::stderr().is_terminal());
            timed(layer, writer.without_time, filter)
        }
        Sink::File { .. } => timed(layer.with_ansi(false), writer.without_time, filter),
        Sink::Syslog { .. } => layer
            .with_ansi(false)
            .without_time()
            .with_level(false)
            .with_filter(filter)
            .boxed(),
    }
}

fn timed<W>(
    layer: fmt::Layer<Registry, fmt::format::DefaultFields, fmt::format::Format, W>,
    without_time: bool,
    filter: Level,
) -> Output
where
    W: for<'a> fmt::MakeWriter<'a> + Send + Sync + 'static,
{
    if without_time {
        layer.without_time().with_filter(filter).boxed()
    } else {
        layer.with_filter(filter).boxed()
    }
}

/// 0: what an operator needs; 1: also a line for each connection; 2: everything of ssr; 3: also of its libraries.
fn filter(level: u8) -> Targets {
    let (ours, others) = match level {
        0 => (LevelFilter::INFO, LevelFilter::WARN),
        1 => (LevelFilter::DEBUG, LevelFilter::WARN),
        2 => (LevelFilter::TRACE, LevelFilter::WARN),
        _ => (LevelFilter::TRACE, LevelFilter::TRACE),
    };
    let targets = Targets::new().with_target("ssr", ours).with_default(others);
    match level {
        // Packets that the system does not send are sent again.
        0..=2 => targets.with_target("quinn_udp", LevelFilter::OFF),
        _ => targets,
    }
}
