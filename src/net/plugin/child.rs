//! One run of a plugin's program, and what it writes.

use std::io;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::limits::MAX_PLUGIN_LINE;
use crate::net::linux;
use crate::net::sync::lock;

/// How long a program may take to end after SIGTERM.
const FAREWELL: Duration = Duration::from_secs(1);
/// How long what a program has written is waited for after its end.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// A running program, in a process group of its own. Dropping it kills the group.
pub(super) struct Running {
    child: Child,
    /// The tasks that pass its output to the log.
    output: JoinSet<()>,
    last_line: Arc<Mutex<String>>,
}

impl Running {
    /// Starts `command`. Its output goes to the log as that of `program`. The system kills it when this thread ends.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn spawn(program: &Arc<str>, command: &mut Command) -> io::Result<Self> {
        // Without the group, Ctrl-C on a terminal would end the plugin before the connections through it.
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        linux::end_with_this_thread(command.as_std_mut());
        let mut child = command.spawn()?;
        let last_line = Arc::default();
        let mut output = JoinSet::new();
        if let Some(pipe) = child.stdout.take() {
            output.spawn(log(Arc::clone(program), pipe, Arc::clone(&last_line)));
        }
        if let Some(pipe) = child.stderr.take() {
            output.spawn(log(Arc::clone(program), pipe, Arc::clone(&last_line)));
        }
        Ok(Self {
            child,
            output,
            last_line,
        })
    }

    /// Waits until the program ends. Cancel safe.
    pub(super) async fn ended(&mut self) -> io::Result<ExitStatus> {
        self.child.wait().await
    }

    /// The last line that the program wrote before it ended; empty: it wrote none.
    pub(super) async fn last_line(&mut self) -> String {
        let rest = async { while self.output.join_next().await.is_some() {} };
        // A descendant of the program may hold its pipes open.
        let _ = timeout(LAST_WORDS, rest).await;
        lock(&self.last_line).clone()
    }

    /// Asks the program to end, and kills it if it does not.
    pub(super) async fn end(mut self) {
        self.signal(Signal::TERM);
        let _ = timeout(FAREWELL, self.child.wait()).await;
    }

    /// Sends a signal to the program and its descendants, unless it has ended.
    fn signal(&self, signal: Signal) {
        let id = self.child.id().and_then(|id| i32::try_from(id).ok());
        if let Some(group) = id.and_then(Pid::from_raw) {
            // An error means that they have ended.
            let _ = kill_process_group(group, signal);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}

/// Logs each line that a program writes. Longer ones are cut into lines of [`MAX_PLUGIN_LINE`] bytes.
async fn log(program: Arc<str>, pipe: impl AsyncRead + Unpin, last_line: Arc<Mutex<String>>) {
    let mut pipe = BufReader::new(pipe);
    let mut line = Vec::new();
    loop {
        line.clear();
        let mut limited = (&mut pipe).take(MAX_PLUGIN_LINE);
        match limited.read_until(b'\n', &mut line).await {
            Ok(1..) => {}
            Ok(0) | Err(_) => return,
        }
        let text = printable(&line);
        if !text.is_empty() {
            tracing::info!(plugin = %program, "{text}");
            *lock(&last_line) = text;
        }
    }
}

/// The text of a line, without what could forge other lines or change a terminal.
fn printable(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    let text = text.trim_end().chars();
    text.map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn run(script: &str) -> Running {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Running::spawn(&Arc::from("sh"), &mut command).unwrap()
    }

    #[tokio::test]
    async fn last_line_is_kept_whatever_the_program_wrote() {
        let mut running =
            run("head -c 1000000 /dev/zero | tr '\\0' x; echo; printf 'a\\033[1mb' >&2; exit 3");
        assert_eq!(running.ended().await.unwrap().code(), Some(3));
        let last = running.last_line().await;
        assert!(last.len() <= usize::try_from(MAX_PLUGIN_LINE).unwrap());
        assert!(last == "a [1mb" || last.starts_with('x'), "{last}");
    }

    #[tokio::test]
    async fn program_that_ignores_sigterm_is_killed_with_its_descendants() {
        let mut running = run("trap '' TERM; sleep 1000 & echo $!; wait; wait; sleep 1000");
        let pid = loop {
            tokio::task::yield_now().await;
            tokio::time::sleep(Duration::from_millis(5)).await;
            if let Ok(pid) = lock(&running.last_line).parse::<i32>() {
                break pid;
            }
        };
        assert!(timeout(Duration::ZERO, running.ended()).await.is_err());
        running.end().await;
        let state = || std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // Whoever is its parent now may take its time to collect it.
        while !(state().is_empty() || state().contains(") Z ")) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}
