//! What is wrong with a config, where, and what to do about it.

use std::fmt;
use std::path::PathBuf;

/// How much a [`Diagnostic`] matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// The config cannot run.
    Error,
    /// A key of another program: a warning at start, an error in `ssr check`.
    Foreign,
    /// The config runs, but perhaps not as its author believes.
    Warning,
}

/// A place in the text, both counted from 1; columns in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// Line.
    pub line: usize,
    /// Column.
    pub column: usize,
}

/// One finding. Its `Display` is `file:line:column: key.path: message (hint)`, without what is unknown.
///
/// No part of it quotes a value that stood under a secret key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// How much it matters.
    pub severity: Severity,
    /// The file, once somebody knows its name.
    pub file: Option<PathBuf>,
    /// Where in the text; `None` for a command line flag.
    pub position: Option<Position>,
    /// Key path as the author wrote it (`servers[0].password`), or the flag; empty for the file as a whole.
    pub path: String,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
    /// The value is right in the file of the other role: a server's wildcard address, a client's chain of keys.
    pub other_role: bool,
}

impl Diagnostic {
    /// A finding at `path`, of which no more is known yet.
    pub fn new(severity: Severity, path: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            severity,
            file: None,
            position: None,
            path: path.into(),
            message: message.into(),
            hint: None,
            other_role: false,
        }
    }

    /// Whether `ssr check` fails for it.
    pub fn fails_check(&self) -> bool {
        self.severity != Severity::Warning
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.file, self.position) {
            (Some(file), Some(at)) => {
                write!(f, "{}:{}:{}: ", file.display(), at.line, at.column)?;
            }
            (None, Some(at)) => write!(f, "{}:{}: ", at.line, at.column)?,
            (Some(file), None) => write!(f, "{}: ", file.display())?,
            (None, None) => {}
        }
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)?;
        match &self.hint {
            Some(hint) => write!(f, " ({hint})"),
            None => Ok(()),
        }
    }
}

/// Whether `found` says no more than that the file is for the other role.
pub fn is_for_other_role(found: &[Diagnostic]) -> bool {
    let mut errors = found
        .iter()
        .filter(|finding| finding.severity == Severity::Error)
        .peekable();
    errors.peek().is_some() && errors.all(|finding| finding.other_role)
}

/// Findings of one severity: a person stops reading long before, and it bounds the work that a hostile text causes.
const MAX_FINDINGS: usize = 100;

/// Whether there is room in `found` for one more of `severity`. Warnings cannot crowd out errors.
pub(super) fn has_room(found: &[Diagnostic], severity: Severity) -> bool {
    let same = |finding: &&Diagnostic| finding.severity == severity;
    found.iter().filter(same).count() < MAX_FINDINGS
}
