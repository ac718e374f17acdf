//! Diagnostics: what is wrong with a config, where, and what to do.

use std::fmt;
use std::path::PathBuf;

use zeroize::Zeroizing;

use crate::limits::MAX_FINDINGS;

/// The severity of a [`Diagnostic`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// The config cannot run.
    Error,
    /// The config has a key of another program, which is ignored: a warning.
    Foreign,
    /// The config runs, but perhaps not as its author expects.
    Warning,
}

/// A position in the text; line and column count from 1, columns in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// Line.
    pub line: usize,
    /// Column.
    pub column: usize,
}

/// An error or a warning. Its `Display` is `file:line:column: key.path: message (hint)`, without the parts that are unknown.
///
/// No part of it quotes the value of a secret key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// The severity.
    pub severity: Severity,
    /// The file, if its name is known.
    pub file: Option<PathBuf>,
    /// The position in the file; `None` for a command line flag.
    pub position: Option<Position>,
    /// The key path as the author wrote it (`servers[0].password`), or the flag; empty for the file as a whole.
    pub path: String,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
    /// Whether the value would be right for the other role: a server's wildcard address, a client's chain of keys.
    pub other_role: bool,
}

impl Diagnostic {
    /// A diagnostic at `path`, without position and hint.
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
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A line of the log or of a terminal, whatever the file has in its keys and values.
        f.write_str(&visible(&self.text()).replace('\n', "\\n"))
    }
}

impl Diagnostic {
    fn text(&self) -> String {
        let mut place = match &self.file {
            Some(file) => format!("{}:", file.display()),
            None => String::new(),
        };
        if let Some(at) = self.position {
            place += &format!("{}:{}:", at.line, at.column);
        }
        if !self.path.is_empty() {
            place += &format!(" {}:", self.path);
        }
        let mut text = format!("{place} {}", self.message);
        if let Some(hint) = &self.hint {
            text += &format!(" ({hint})");
        }
        text.trim_start().to_owned()
    }
}

/// The text with characters escaped that control a terminal, or change the order of others: a config may have been written
/// by somebody else. Ends of lines and tabs stay.
pub fn visible(text: &str) -> Zeroizing<String> {
    let mut shown = Zeroizing::new(String::with_capacity(text.len()));
    for letter in text.chars() {
        let reorders = matches!(letter, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        match letter {
            '\n' | '\t' => shown.push(letter),
            _ if letter.is_control() || reorders => shown.extend(letter.escape_default()),
            _ => shown.push(letter),
        }
    }
    shown
}

/// Whether every error in `found` only says that the file is for the other role.
pub fn is_for_other_role(found: &[Diagnostic]) -> bool {
    let mut errors = found
        .iter()
        .filter(|finding| finding.severity == Severity::Error)
        .peekable();
    errors.peek().is_some() && errors.all(|finding| finding.other_role)
}

/// Whether `found` has room for one more of `severity`. Errors and warnings are counted apart.
pub(super) fn has_room(found: &[Diagnostic], severity: Severity) -> bool {
    let same = |finding: &&Diagnostic| finding.severity == severity;
    found.iter().filter(same).count() < MAX_FINDINGS
}
