//! The side of the process: a socket on which it answers.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::facts::Facts;
use super::orders::Orders;
use super::{place, status, why};
use crate::limits::{ANSWER_TIMEOUT, MAX_ASKING, MAX_QUESTION};

/// The answer to a line.
fn answer(facts: &Facts, line: &[u8]) -> Value {
    match asked(line).as_deref() {
        Some("process") => json!({"process": facts.process()}),
        Some("status") => status::document(facts),
        Some("why") => {
            let mut answer = why::document(&facts.counters.failed);
            if let Some(answer) = answer.as_object_mut() {
                answer.insert("process".to_owned(), facts.process());
            }
            answer
        }
        _ => json!({"error": "unknown question"}),
    }
}

/// The socket of this process. It is removed when this is dropped.
pub struct Socket {
    listener: UnixListener,
    path: PathBuf,
}

impl Socket {
    /// Listens, inside a runtime. `owner`: the user and group that the process is about to become.
    ///
    /// # Errors
    /// When there is no place for it.
    pub fn listen(owner: Option<(u32, u32)>) -> io::Result<Self> {
        let path = place::own()?;
        let listener = UnixListener::bind(&path)?;
        let socket = Self { listener, path };
        // Until now, nobody was answered.
        std::fs::set_permissions(&socket.path, std::fs::Permissions::from_mode(0o600))?;
        if let Some((user, group)) = owner {
            std::os::unix::fs::chown(&socket.path, Some(user), Some(group))?;
        }
        Ok(socket)
    }

    /// Answers until another process does it: `leave` says when. What is asked by then is answered.
    pub async fn serve(self, facts: Facts, orders: Orders, leave: Arc<Notify>) {
        let known = Arc::new((facts, orders));
        let mut running = JoinSet::new();
        loop {
            tokio::select! {
                Some(_) = running.join_next() => {}
                () = leave.notified() => break,
                // More wait in the kernel.
                accepted = self.listener.accept(), if running.len() < MAX_ASKING => match accepted {
                    Ok((stream, _)) => {
                        let known = Arc::clone(&known);
                        running.spawn(async move {
                            // A command that is gone, or hangs, has no need of an answer.
                            let _ = serve_one(stream, &known).await;
                        });
                    }
                    // Without a file for it, the next may have one.
                    Err(_) => tokio::time::sleep(std::time::Duration::from_secs(1)).await,
                },
            }
        }
        drop(self);
        while running.join_next().await.is_some() {}
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // The directory may belong to root, whom this process was before: then the next start removes it.
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn serve_one(mut stream: UnixStream, (facts, orders): &(Facts, Orders)) -> io::Result<()> {
    let line = timeout(ANSWER_TIMEOUT, question(&mut stream)).await??;
    let answer = match asked(&line).as_deref() {
        Some("upgrade") => match orders.upgrade().await {
            Ok(pid) => json!({"upgrade": {"pid": pid}}),
            Err(reason) => json!({"upgrade": {"refused": reason}}),
        },
        _ => answer(facts, &line),
    };
    let mut answer = answer.to_string();
    answer.push('\n');
    timeout(ANSWER_TIMEOUT, async {
        stream.write_all(answer.as_bytes()).await?;
        stream.shutdown().await
    })
    .await?
}

/// Reads the line of a command.
async fn question(mut stream: &mut UnixStream) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    while !line.contains(&b'\n') {
        let room = MAX_QUESTION.saturating_sub(line.len());
        let mut part = (&mut stream).take(room as u64);
        if part.read_buf(&mut line).await? == 0 {
            break;
        }
    }
    Ok(line)
}

/// What is asked.
fn asked(line: &[u8]) -> Option<String> {
    let question: Value = serde_json::from_slice(line).ok()?;
    question.get("ask")?.as_str().map(str::to_owned)
}
