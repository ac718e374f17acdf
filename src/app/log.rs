//! Sets up the log: the terminal, files, syslog.

use std::io::{self, IsTerminal};

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, fmt};

use crate::config::{Log, Rotation, Sink, Writer};

/// One writer of the log.
type Output = Box<dyn Layer<Registry> + Send + Sync>;

/// Starts logging to the writers of `config`. To be called once.
///
/// # Errors
/// When a log file cannot be created, syslog is not available, or the log was set up before.
pub fn init(config: &Log) -> io::Result<()> {
    let outputs = config
        .writers
        .iter()
        .map(output)
        .collect::<io::Result<Vec<_>>>()?;
    tracing_subscriber::registry()
        .with(outputs)
        .try_init()
        .map_err(io::Error::other)
}

fn output(writer: &Writer) -> io::Result<Output> {
    let filter = filter(writer.level);
    let layer = fmt::layer()
        .with_target(writer.level > 1)
        .with_ansi(io::stderr().is_terminal());
    Ok(match &writer.sink {
        Sink::Console => timed(layer.with_writer(io::stderr), writer.without_time, filter),
        Sink::File {
            directory,
            rotation,
            prefix,
            suffix,
            max_files,
        } => {
            use tracing_appender::rolling;
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
            timed(
                layer
                    .with_ansi(false)
                    .with_writer(std::sync::Mutex::new(file)),
                writer.without_time,
                filter,
            )
        }
        Sink::Syslog { identity, facility } => {
            let syslog = syslog::Syslog::new(identity.as_deref().unwrap_or("ssr"), *facility)?;
            layer
                .with_ansi(false)
                .without_time()
                .with_level(false)
                .with_writer(syslog)
                .with_filter(filter)
                .boxed()
        }
    })
}

fn timed<W>(
    layer: fmt::Layer<Registry, fmt::format::DefaultFields, fmt::format::Format, W>,
    without_time: bool,
    filter: Targets,
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
    Targets::new().with_target("ssr", ours).with_default(others)
}

/// The system log (RFC 3164) over its local socket.
mod syslog {
    use std::io;
    use std::os::unix::net::UnixDatagram;

    use tracing::{Level, Metadata};
    use tracing_subscriber::fmt::MakeWriter;

    const SOCKET: &str = "/dev/log";

    pub(super) struct Syslog {
        socket: UnixDatagram,
        /// Each line is sent to this path, not to a connection: the daemon may have been restarted.
        path: &'static str,
        identity: String,
        facility: u32,
    }

    impl Syslog {
        pub(super) fn new(identity: &str, facility: u32) -> io::Result<Self> {
            Self::at(SOCKET, identity, facility)
        }

        fn at(path: &'static str, identity: &str, facility: u32) -> io::Result<Self> {
            UnixDatagram::unbound()?
                .connect(path)
                .map_err(|error| io::Error::new(error.kind(), format!("{path}: {error}")))?;
            let socket = UnixDatagram::unbound()?;
            // If the daemon hangs, lines are lost, but no worker blocks.
            socket.set_nonblocking(true)?;
            Ok(Self {
                socket,
                path,
                identity: identity.to_owned(),
                facility,
            })
        }
    }

    impl<'a> MakeWriter<'a> for Syslog {
        type Writer = Line<'a>;

        fn make_writer(&'a self) -> Line<'a> {
            Line {
                syslog: self,
                severity: 6,
            }
        }

        fn make_writer_for(&'a self, meta: &Metadata<'_>) -> Line<'a> {
            let severity = match *meta.level() {
                Level::ERROR => 3,
                Level::WARN => 4,
                Level::INFO => 6,
                Level::DEBUG | Level::TRACE => 7,
            };
            Line {
                syslog: self,
                severity,
            }
        }
    }

    /// One message. The formatter writes it with one call.
    pub(super) struct Line<'a> {
        syslog: &'a Syslog,
        severity: u32,
    }

    impl io::Write for Line<'_> {
        fn write(&mut self, text: &[u8]) -> io::Result<usize> {
            let Syslog {
                identity, facility, ..
            } = self.syslog;
            let mut line = format!(
                "<{}>{identity}[{}]: ",
                facility * 8 + self.severity,
                std::process::id()
            )
            .into_bytes();
            line.extend_from_slice(text.trim_ascii_end());
            self.syslog.socket.send_to(&line, self.syslog.path)?;
            Ok(text.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[cfg(test)]
    mod tests {
        #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

        use std::io::Write as _;

        use super::*;

        #[test]
        fn lines_reach_a_daemon_that_was_restarted() {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("log");
            let known: &'static str = path.to_str().unwrap().to_owned().leak();
            assert!(Syslog::at(known, "ssr", 1).is_err());
            let mut syslog = None;
            for word in ["first", "second"] {
                let daemon = UnixDatagram::bind(&path).unwrap();
                let syslog = syslog.get_or_insert_with(|| Syslog::at(known, "ssr", 1).unwrap());
                syslog
                    .make_writer()
                    .write_all(format!("{word}\n").as_bytes())
                    .unwrap();
                let mut line = [0; 100];
                let len = daemon.recv(&mut line).unwrap();
                let line = String::from_utf8_lossy(&line[..len]).into_owned();
                assert!(
                    line.starts_with("<14>ssr[") && line.ends_with(word),
                    "{line}"
                );
                std::fs::remove_file(&path).unwrap();
            }
        }
    }
}
