//! The system log (RFC 3164) over its local socket.

use std::io;
use std::os::unix::net::UnixDatagram;

use tracing::Level;

use super::queue::{Lines, Sink};

const SOCKET: &str = "/dev/log";

pub(super) struct Syslog {
    socket: UnixDatagram,
    /// Each line is sent to this path, not to a connection: the daemon may have been restarted.
    path: &'static str,
    identity: String,
    facility: u32,
}

impl Syslog {
    /// # Errors
    /// When nobody listens there.
    pub(super) fn new(identity: &str, facility: u32) -> io::Result<Self> {
        Self::at(SOCKET, identity, facility)
    }

    fn at(path: &'static str, identity: &str, facility: u32) -> io::Result<Self> {
        UnixDatagram::unbound()?
            .connect(path)
            .map_err(|error| io::Error::new(error.kind(), format!("{path}: {error}")))?;
        Ok(Self {
            socket: UnixDatagram::unbound()?,
            path,
            identity: identity.to_owned(),
            facility,
        })
    }
}

impl Sink for Syslog {
    fn prefix(&self, level: Level) -> String {
        let severity = match level {
            Level::ERROR => 3,
            Level::WARN => 4,
            Level::INFO => 6,
            Level::DEBUG | Level::TRACE => 7,
        };
        let priority = self.facility * 8 + severity;
        format!("<{priority}>{}[{}]: ", self.identity, std::process::id())
    }

    fn write(&mut self, lines: &Lines) -> usize {
        let send = |line: &[u8]| self.socket.send_to(line.trim_ascii_end(), self.path);
        lines.each().filter(|line| send(line).is_err()).count()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

    use std::io::Write as _;
    use std::sync::Arc;

    use tracing_subscriber::fmt::MakeWriter as _;

    use super::super::queue::{Entrance, Queue};
    use super::*;

    #[test]
    fn lines_reach_a_daemon_that_was_restarted() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let known: &'static str = path.to_str().unwrap().to_owned().leak();
        assert!(Syslog::at(known, "ssr", 1).is_err());
        let mut queue = None;
        for word in ["first", "second"] {
            let daemon = UnixDatagram::bind(&path).unwrap();
            let queue = queue.get_or_insert_with(|| {
                let syslog = Syslog::at(known, "ssr", 1).unwrap();
                Queue::start(known.to_owned(), syslog).unwrap()
            });
            Entrance(Arc::clone(queue))
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
