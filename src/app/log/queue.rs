//! Lines that wait for a writer of the log. A thread writes them, so that no worker waits for a terminal, a pipe, a disk
//! or a system log that takes nothing.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

use crate::limits::MAX_LOG_WAITING;
use crate::net::sync::lock;

/// Where the lines go.
pub(super) trait Sink: Send + 'static {
    /// What stands before a line of this level.
    fn prefix(&self, _: Level) -> String {
        String::new()
    }

    /// Writes lines, and returns how many are lost. May block.
    fn write(&mut self, lines: &Lines) -> usize;
}

/// Whole lines, each with its end.
#[derive(Default)]
pub(super) struct Lines {
    text: Vec<u8>,
    /// Where each ends.
    ends: Vec<usize>,
}

impl Lines {
    /// All of them.
    pub(super) fn text(&self) -> &[u8] {
        &self.text
    }

    /// How many they are.
    pub(super) fn count(&self) -> usize {
        self.ends.len()
    }

    /// How many are lost by a write of all that ended so.
    pub(super) fn lost_by<T>(&self, written: io::Result<T>) -> usize {
        written.map_or_else(|_| self.count(), |_| 0)
    }

    /// One after the other.
    pub(super) fn each(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(&0).chain(&self.ends);
        let bounds = starts.zip(&self.ends);
        bounds.map(|(start, end)| self.text.get(*start..*end).unwrap_or_default())
    }
}

/// The lines that wait for one writer.
pub(super) struct Queue {
    prefixes: [String; 5],
    state: Mutex<State>,
    /// Wakes the thread.
    filled: Condvar,
    /// Wakes who waits for the thread.
    emptied: Condvar,
}

#[derive(Default)]
struct State {
    lines: Lines,
    /// Lines that found no room since the thread took the others.
    dropped: usize,
    /// The thread is at work.
    is_writing: bool,
}

/// The levels in the order of [`Queue::prefixes`].
const LEVELS: [Level; 5] = [
    Level::ERROR,
    Level::WARN,
    Level::INFO,
    Level::DEBUG,
    Level::TRACE,
];

impl Queue {
    /// A queue for `sink`, and the thread that writes to it until the process ends. `to` names the sink.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub(super) fn start(to: String, sink: impl Sink) -> io::Result<Arc<Self>> {
        let queue = Arc::new(Self {
            prefixes: LEVELS.map(|level| sink.prefix(level)),
            state: Mutex::default(),
            filled: Condvar::new(),
            emptied: Condvar::new(),
        });
        let served = Arc::clone(&queue);
        let thread = thread::Builder::new().name("log".to_owned());
        thread.spawn(move || served.serve(&to, sink))?;
        Ok(queue)
    }

    /// Adds a line if there is room for it.
    fn push(&self, prefix: &str, line: &[u8]) {
        let mut state = lock(&self.state);
        let waiting = state.lines.text.len();
        if waiting + prefix.len() + line.len() > MAX_LOG_WAITING {
            state.dropped += 1;
            return;
        }
        state.lines.text.extend_from_slice(prefix.as_bytes());
        state.lines.text.extend_from_slice(line);
        let end = state.lines.text.len();
        state.lines.ends.push(end);
        let is_asleep = !state.is_writing;
        drop(state);
        if is_asleep {
            self.filled.notify_one();
        }
    }

    /// Writes what comes. A writer that fails loses its lines; once it works again, it is told how many.
    fn serve(&self, to: &str, mut sink: impl Sink) {
        let mut lost = 0;
        loop {
            let (lines, dropped) = self.next();
            let failed = sink.write(&lines);
            lost += dropped + failed;
            if lost > 0 && failed < lines.count() {
                tracing::warn!(
                    lines = lost,
                    writer = to,
                    "the log was not written fast enough: lines are missing here"
                );
                lost = 0;
            }
        }
    }

    /// Waits for lines, and takes them.
    fn next(&self) -> (Lines, usize) {
        let mut state = lock(&self.state);
        state.is_writing = false;
        while state.lines.ends.is_empty() {
            self.emptied.notify_all();
            state = wait(&self.filled, state);
        }
        state.is_writing = true;
        let dropped = std::mem::take(&mut state.dropped);
        (std::mem::take(&mut state.lines), dropped)
    }

    /// Waits until everything is written, or until `deadline`.
    pub(super) fn flush(&self, deadline: Instant) {
        let mut state = lock(&self.state);
        while state.is_writing || !state.lines.ends.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let waited = self.emptied.wait_timeout(state, left);
            (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }
}

fn wait<'a>(condition: &Condvar, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
    condition
        .wait(state)
        .unwrap_or_else(PoisonError::into_inner)
}

/// Makes the writers of the log's lines.
pub(super) struct Entrance(pub(super) Arc<Queue>);

impl<'a> MakeWriter<'a> for Entrance {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        self.line(Level::INFO)
    }

    fn make_writer_for(&'a self, meta: &Metadata<'_>) -> Line<'a> {
        self.line(*meta.level())
    }
}

impl Entrance {
    fn line(&self, level: Level) -> Line<'_> {
        let mut prefixes = LEVELS.iter().zip(&self.0.prefixes);
        let prefix = prefixes.find(|(one, _)| **one == level);
        Line {
            queue: &self.0,
            prefix: prefix.map_or("", |(_, prefix)| prefix),
        }
    }
}

/// One line. The formatter writes it with one call.
pub(super) struct Line<'a> {
    queue: &'a Queue,
    prefix: &'a str,
}

impl io::Write for Line<'_> {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.queue.push(self.prefix, text);
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::io::Write as _;
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    /// A writer that waits for leave before each write.
    struct Held {
        leave: mpsc::Receiver<bool>,
        written: mpsc::Sender<String>,
    }

    impl Sink for Held {
        fn write(&mut self, lines: &Lines) -> usize {
            if !self.leave.recv().unwrap_or(true) {
                return lines.count();
            }
            for line in lines.each() {
                let line = String::from_utf8_lossy(line).into_owned();
                self.written.send(line).unwrap();
            }
            0
        }
    }

    fn held() -> (Arc<Queue>, mpsc::Sender<bool>, mpsc::Receiver<String>) {
        let (allow, leave) = mpsc::channel();
        let (written, lines) = mpsc::channel();
        let queue = Queue::start("test".to_owned(), Held { leave, written }).unwrap();
        (queue, allow, lines)
    }

    fn add(queue: &Arc<Queue>, line: &str) {
        let entrance = Entrance(Arc::clone(queue));
        entrance.make_writer().write_all(line.as_bytes()).unwrap();
    }

    const LONG: Duration = Duration::from_secs(20);

    /// Returns once the thread has taken what waited, which it does at a time of its own.
    fn wait_until_the_writer_holds_all(queue: &Queue) {
        let deadline = Instant::now() + LONG;
        loop {
            let state = lock(&queue.state);
            if state.is_writing && state.lines.count() == 0 {
                return;
            }
            drop(state);
            assert!(Instant::now() < deadline, "the thread does not run");
            thread::yield_now();
        }
    }

    #[test]
    fn what_waits_is_bounded_and_what_is_dropped_is_counted() {
        let (queue, _allow, _lines) = held();
        add(&queue, "held\n");
        wait_until_the_writer_holds_all(&queue);
        let line = "x".repeat(1023) + "\n";
        let fit = MAX_LOG_WAITING / line.len();
        for _ in 0..4 * fit {
            add(&queue, &line);
        }
        let state = lock(&queue.state);
        assert_eq!(state.lines.count(), fit);
        assert_eq!(state.dropped, 3 * fit);
    }

    #[test]
    fn flush_returns_when_all_is_written_or_at_the_deadline() {
        let (queue, allow, lines) = held();
        add(&queue, "one\n");
        add(&queue, "two\n");
        let begun = Instant::now();
        queue.flush(begun + Duration::from_millis(50));
        assert!(begun.elapsed() >= Duration::from_millis(50));
        drop(allow);
        queue.flush(begun + LONG);
        assert!(begun.elapsed() < LONG);
        assert_eq!(lines.try_iter().collect::<Vec<_>>(), ["one\n", "two\n"]);
    }

    #[test]
    fn a_writer_that_failed_gets_later_lines() {
        let (queue, allow, lines) = held();
        allow.send(false).unwrap();
        add(&queue, "lost\n");
        queue.flush(Instant::now() + LONG);
        allow.send(true).unwrap();
        add(&queue, "written\n");
        assert_eq!(lines.recv_timeout(LONG).unwrap(), "written\n");
    }
}
