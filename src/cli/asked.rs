//! Which of the running processes a command asks.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, ValueHint};
use serde_json::Value;
use ssr::control::ask::{AskError, ask, ask_within};
use ssr::control::place::{self, Place};
use ssr::control::why::heading;

use super::output::{UNAVAILABLE, print_error, usage_error};

#[derive(Args)]
pub(crate) struct Asked {
    /// Ask the process that runs with this config file
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    config: Option<PathBuf>,
    /// Ask the process with this id
    #[arg(long, value_name = "PID", conflicts_with = "config")]
    pid: Option<u32>,
}

impl Asked {
    /// The answer to a question, or the exit code after an error was printed.
    pub(crate) fn ask(&self, question: &str) -> Result<Value, ExitCode> {
        let place = self.find()?;
        ask(&place, question).map_err(|error| no_answer(place.pid, &error))
    }

    /// The same for what takes the process longer.
    pub(crate) fn ask_within(&self, question: &str, time: Duration) -> Result<Value, ExitCode> {
        let place = self.find()?;
        ask_within(&place, question, time).map_err(|error| no_answer(place.pid, &error))
    }

    /// The process that is meant.
    fn find(&self) -> Result<Place, ExitCode> {
        let mut places = place::all();
        if let Some(pid) = self.pid {
            return places
                .into_iter()
                .find(|place| place.pid == pid)
                .ok_or_else(|| {
                    unavailable(&format!(
                        "error: there is no ssr with process id {pid} that can be asked; the same command without --pid says which \
                         can"
                    ))
                });
        }
        let wanted = match &self.config {
            None => None,
            Some(file) => match file.canonicalize() {
                Ok(path) => Some(path.to_string_lossy().into_owned()),
                Err(error) => {
                    return Err(usage_error(&format!("error: {}: {error}", file.display())));
                }
            },
        };
        let mut running = Vec::new();
        let mut foreign = Vec::new();
        for place in places.drain(..) {
            match ask(&place, "process") {
                Ok(answer) => running.push((place, answer)),
                Err(AskError::Gone) => {}
                Err(error) => foreign.push((place.pid, error)),
            }
        }
        if let Some(wanted) = &wanted {
            running.retain(|(_, answer)| config_of(answer) == Some(wanted));
        }
        match (running.len(), foreign.first(), &wanted) {
            (0, Some((pid, error)), _) => Err(no_answer(*pid, error)),
            (0, None, None) => Err(unavailable("error: no ssr of this user is running")),
            (0, None, Some(wanted)) => Err(unavailable(&format!(
                "error: no ssr of this user is running with {wanted}"
            ))),
            (1, ..) => running
                .pop()
                .map(|(place, _)| place)
                .ok_or_else(|| UNAVAILABLE.into()),
            _ => {
                let mut message =
                    "error: several are running; name one with -c FILE or --pid PID:\n".to_owned();
                for (_, answer) in &running {
                    // Writing to a string cannot fail.
                    let _ = write!(message, "  {}", heading(answer));
                }
                Err(usage_error(message.trim_end()))
            }
        }
    }
}

fn config_of(answer: &Value) -> Option<&str> {
    answer.get("process")?.get("config")?.as_str()
}

fn no_answer(pid: u32, error: &AskError) -> ExitCode {
    unavailable(&format!("error: process {pid}: {error}"))
}

fn unavailable(message: &str) -> ExitCode {
    print_error(message);
    UNAVAILABLE.into()
}
