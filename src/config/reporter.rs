//! Collects findings, and types the document on the way.

use serde::Deserialize as _;
use serde_json::Value;
use serde_path_to_error::Segment;

use super::diagnostic::{Diagnostic, Severity};
use super::document::{Document, MAX_FINDINGS};
use super::file;
use super::schema;

/// Everything found so far about one document.
pub(super) struct Reporter {
    document: Document,
    found: Vec<Diagnostic>,
    /// Paths whose value was of the wrong type: complaints about what they lack would only repeat that.
    bad: Vec<String>,
}

impl Reporter {
    pub(super) fn new(document: Document, found: Vec<Diagnostic>) -> Self {
        Self {
            document,
            found,
            bad: Vec::new(),
        }
    }

    /// Types the document. Each value of a wrong type is reported and taken out until the rest fits, so that one
    /// reading finds every such error.
    pub(super) fn file(&mut self) -> file::Top {
        loop {
            let error = match serde_path_to_error::deserialize(&self.document.value) {
                Ok(top) => return top,
                Err(error) => error,
            };
            let steps: Vec<Segment> = error.path().iter().cloned().collect();
            let reason = error.inner().to_string();
            let Some(path) = self.take_out(&steps) else {
                self.push(Severity::Error, "", "a config is an object: `{ … }`".to_owned(), None);
                return file::Top::default();
            };
            let message = self.type_error(&path.0, &reason, &path.1);
            self.push(Severity::Error, &path.0, message, None);
            self.bad.push(path.0);
        }
    }

    /// Nulls the value at `steps`, or the nearest one around it that is not null already. Its path and itself.
    fn take_out(&mut self, steps: &[Segment]) -> Option<(String, Value)> {
        for length in (1..=steps.len()).rev() {
            let mut path = String::new();
            let mut here = Some(&mut self.document.value);
            for step in steps.iter().take(length) {
                here = match step {
                    Segment::Seq { index } => {
                        path.push_str(&format!("[{index}]"));
                        here.and_then(|value| value.get_mut(index))
                    }
                    Segment::Map { key } => {
                        let dot = if path.is_empty() { "" } else { "." };
                        path.push_str(&format!("{dot}{key}"));
                        here.and_then(|value| value.get_mut(key))
                    }
                    _ => None,
                };
            }
            if let Some(value) = here
                && !value.is_null()
            {
                return Some((path, value.take()));
            }
        }
        None
    }

    /// Says what was expected and what stood there, without quoting text: it may be a password in a wrong place.
    fn type_error(&self, path: &str, reason: &str, found: &Value) -> String {
        let Some((_, expected)) = reason.rsplit_once(", expected ") else {
            return reason.to_owned();
        };
        let expected = match expected {
            "a boolean" => "`true` or `false`",
            "a sequence" => "an array: `[ … ]`",
            "a map" => "an object: `{ … }`",
            "f64" => "a number",
            _ if expected.starts_with("struct ") => "an object: `{ … }`",
            other => other,
        };
        let found = match found {
            Value::Null => "null".to_owned(),
            Value::Bool(_) | Value::Number(_) if schema::is_secret(path) => "no string".to_owned(),
            Value::Bool(value) => format!("`{value}`"),
            Value::Number(value) => format!("`{value}`"),
            Value::String(_) => "a string".to_owned(),
            Value::Array(_) => "an array".to_owned(),
            Value::Object(_) => "an object".to_owned(),
        };
        format!("expected {expected}, found {found}")
    }

    /// An error at `path`.
    pub(super) fn error(&mut self, path: &str, message: impl Into<String>) {
        self.push(Severity::Error, path, message.into(), None);
    }

    /// An error at `path`, and what to do.
    pub(super) fn error_hint(&mut self, path: &str, message: impl Into<String>, hint: impl Into<String>) {
        self.push(Severity::Error, path, message.into(), Some(hint.into()));
    }

    /// A warning at `path`.
    pub(super) fn warn(&mut self, path: &str, message: impl Into<String>) {
        self.push(Severity::Warning, path, message.into(), None);
    }

    /// A warning at `path`, and what to do.
    pub(super) fn warn_hint(&mut self, path: &str, message: impl Into<String>, hint: impl Into<String>) {
        self.push(Severity::Warning, path, message.into(), Some(hint.into()));
    }

    fn push(&mut self, severity: Severity, path: &str, message: String, hint: Option<String>) {
        if self.found.len() >= MAX_FINDINGS || self.bad.iter().any(|bad| within(path, bad)) {
            return;
        }
        let (shown, position) = self.document.locate(path);
        self.found.push(Diagnostic {
            severity,
            file: None,
            position,
            path: shown,
            message,
            hint,
        });
    }

    /// All findings in the order of the text, each once.
    pub(super) fn finish(self) -> Vec<Diagnostic> {
        let mut found = self.found;
        found.sort_by_key(|finding| finding.position);
        found.dedup();
        found
    }
}

/// Whether `path` is `outer` or inside it.
fn within(path: &str, outer: &str) -> bool {
    path.strip_prefix(outer)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}
