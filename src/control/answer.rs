//! The side of the process: a socket on which it answers.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::facts::Facts;
use super::{place, status, why};
use crate::limits::{ANSWER_TIMEOUT, MAX_ASKING, MAX_QUESTION};

/// The answer to a line.
fn answer(facts: &Facts, line: &[u8]) -> Value {
    let question: Option<Value> = serde_json::from_slice(line).ok();
    let asked = question.as_ref().and_then(|question| question.get("ask"));
    match asked.and_then(Value::as_str) {
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

    /// Answers for as long as it is polled.
    pub async fn serve(self, facts: Facts) {
        let facts = Arc::new(facts);
        let mut running = JoinSet::new();
        loop {
            tokio::select! {
                Some(_) = running.join_next() => {}
                // More wait in the kernel.
                accepted = self.listener.accept(), if running.len() < MAX_ASKING => match accepted {
                    Ok((stream, _)) => {
                        let facts = Arc::clone(&facts);
                        running.spawn(async move {
                            // A command that is gone, or hangs, has no need of an answer.
                            let _ = timeout(ANSWER_TIMEOUT, serve_one(stream, &facts)).await;
                        });
                    }
                    // Without a file for it, the next may have one.
                    Err(_) => tokio::time::sleep(std::time::Duration::from_secs(1)).await,
                },
            }
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // The directory may belong to root, whom this process was before: then the next start removes it.
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn serve_one(mut stream: UnixStream, facts: &Facts) -> io::Result<()> {
    let mut line = Vec::new();
    while !line.contains(&b'\n') {
        let room = MAX_QUESTION.saturating_sub(line.len());
        let mut part = (&mut stream).take(room as u64);
        if part.read_buf(&mut line).await? == 0 {
            break;
        }
    }
    let mut answer = answer(facts, &line).to_string();
    answer.push('\n');
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await
}
