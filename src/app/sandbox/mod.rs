//! What the process cannot do from its start on, so that a defect cannot be used for more: Landlock limits the files, and
//! seccomp the system calls.
//!
//! - `places.rs`: the directories that a config needs.
//! - `files.rs`: Landlock.
//! - `calls.rs`: seccomp.

mod calls;
mod files;
mod places;

use std::fmt;
use std::path::Path;
use std::sync::OnceLock;

use self::places::Places;
use crate::config::Config;

/// The directories that this process can use: a fact of the process, which nothing takes back.
static PLACES: OnceLock<Places> = OnceLock::new();

/// What limits this process.
#[derive(Debug)]
pub struct Sandbox(Kind);

#[derive(Debug)]
enum Kind {
    /// The config does not want one.
    Off,
    /// Plugins are programs, which need more than this process.
    Plugins,
    /// What holds: files and system calls.
    On(files::Limited, Result<(), String>),
}

/// The sandbox that `config` requires cannot be had.
#[derive(Debug, thiserror::Error)]
#[error(
    "sandbox: {0}; without `sandbox` in the config, the process runs with what the system can do"
)]
pub struct SandboxError(String);

/// Limits this process, for good. `pid_file` is written later on. Call it before there is another thread: those that
/// exist are not limited.
///
/// # Errors
/// The config requires it, and the system cannot do it.
pub fn enter(config: &Config, pid_file: Option<&Path>) -> Result<Sandbox, SandboxError> {
    if config.sandbox == Some(false) {
        return Ok(Sandbox(Kind::Off));
    }
    if config.has_plugins() {
        return match config.sandbox {
            Some(true) => Err(SandboxError("plugins are programs of their own".to_owned())),
            _ => Ok(Sandbox(Kind::Plugins)),
        };
    }
    let places = Places::of(config, pid_file);
    let files = files::limit(&places);
    let calls = calls::limit();
    if config.sandbox == Some(true) {
        let missing = match (&files, &calls) {
            (files::Limited::No(reason), _) | (_, Err(reason)) => Some(reason.clone()),
            _ => None,
        };
        if let Some(reason) = missing {
            return Err(SandboxError(reason));
        }
    }
    if !matches!(files, files::Limited::No(_)) {
        // Nobody has set it: this is called once a process.
        let _ = PLACES.set(places);
    }
    Ok(Sandbox(Kind::On(files, calls)))
}

/// What of `config` the sandbox of this process does not allow, which began with another one.
pub(super) fn refused(config: &Config) -> Option<String> {
    let places = PLACES.get()?;
    let what = match config.has_plugins() {
        true => "plugins: programs".to_owned(),
        false => places.missing(&config.files())?.display().to_string(),
    };
    Some(format!(
        "{what}: not allowed by the sandbox of this process, which began with another config: restart"
    ))
}

/// What may be behind `errors` of a config that was read again.
pub(super) fn hint(errors: &[String]) -> Option<String> {
    PLACES.get()?;
    let is_denied = |error: &String| error.contains("ermission denied");
    let hint = "the sandbox of this process allows the files of the config that it began with: restart, if that is why";
    errors.iter().any(is_denied).then(|| hint.to_owned())
}

/// As a line of the log.
impl fmt::Display for Sandbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (files, calls) = match &self.0 {
            Kind::Off => return f.write_str("sandbox: off, as the config says"),
            Kind::Plugins => {
                return f.write_str("sandbox: off, since plugins are programs of their own");
            }
            Kind::On(files, calls) => (files, calls),
        };
        match files {
            files::Limited::Yes => f.write_str("sandbox: files limited")?,
            files::Limited::Inherited => {
                f.write_str("sandbox: files limited by the processes before this one")?;
            }
            files::Limited::No(reason) => write!(f, "sandbox: files not limited ({reason})")?,
        }
        match calls {
            Ok(()) => f.write_str(", system calls limited"),
            Err(reason) => write!(f, ", system calls not limited ({reason})"),
        }
    }
}
