//! The side of the command: asks a process.

use std::io::{self, Read as _, Write as _};
use std::time::Duration;

use serde_json::{Value, json};

use super::place::{Place, connect};
use crate::limits::{ASK_TIMEOUT, MAX_ANSWER};

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Nobody listens: the process was killed.
    #[error("the process does not run any more")]
    Gone,
    /// It belongs to another user.
    #[error("it belongs to another user: ask as that user, or as root")]
    Forbidden,
    /// It does not answer.
    #[error("it does not answer: {0}")]
    Io(io::Error),
    /// The answer is none.
    #[error("its answer cannot be understood: it runs another version of ssr, restart it")]
    Answer,
}

/// Asks the process at `place`.
///
/// # Errors
/// Why there is no answer.
pub fn ask(place: &Place, question: &str) -> Result<Value, AskError> {
    ask_within(place, question, ASK_TIMEOUT)
}

/// The same, with more patience.
///
/// # Errors
/// As there.
pub fn ask_within(place: &Place, question: &str, time: Duration) -> Result<Value, AskError> {
    let mut socket = connect(&place.path).map_err(|error| match error.kind() {
        io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => AskError::Gone,
        io::ErrorKind::PermissionDenied => AskError::Forbidden,
        _ => AskError::Io(error),
    })?;
    let patience = socket.set_read_timeout(Some(time));
    patience.map_err(AskError::Io)?;
    let line = format!("{}\n", json!({"ask": question}));
    socket.write_all(line.as_bytes()).map_err(AskError::Io)?;
    let mut answer = Vec::new();
    let mut source = socket.take(MAX_ANSWER);
    source.read_to_end(&mut answer).map_err(AskError::Io)?;
    let answer: Value = serde_json::from_slice(&answer).map_err(|_| AskError::Answer)?;
    match answer.get("error") {
        None => Ok(answer),
        Some(_) => Err(AskError::Answer),
    }
}
