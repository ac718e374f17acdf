//! Collects diagnostics, and reads the document into typed structs.

use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_path_to_error::Segment;

use super::diagnostic::{Diagnostic, Severity, has_room};
use super::document::Document;
use super::spans::within;
use crate::config::written::file;
use crate::config::written::schema;

/// Everything found so far about one document.
pub(crate) struct Reporter {
    document: Document,
    found: Vec<Diagnostic>,
    /// Paths whose value had the wrong type: an error about what they lack would only repeat that.
    bad: Vec<String>,
}

impl Reporter {
    pub(crate) fn new(mut document: Document, found: Vec<Diagnostic>) -> Self {
        let bad = std::mem::take(&mut document.bad);
        Self {
            document,
            found,
            bad,
        }
    }

    /// Reads the document into structs. Each value of a wrong type is reported and removed until the rest fits, so that
    /// one run finds every such error.
    pub(crate) fn file(&mut self) -> file::Top {
        while has_room(&self.found, Severity::Error) {
            let error = match serde_path_to_error::deserialize(&self.document.value) {
                Ok(top) => return top,
                Err(error) => error,
            };
            let steps: Vec<Segment> = error.path().iter().cloned().collect();
            // A missing value is null already: then the value around it goes.
            let outer = (1..=steps.len()).rev().find_map(|length| {
                let steps = steps.get(..length)?;
                let value = self.document.value.pointer_mut(&pointer(steps))?;
                (!value.is_null()).then(|| (path(steps), value.take()))
            });
            let Some((path, value)) = outer else {
                self.push(
                    Severity::Error,
                    "",
                    "a config must be an object: `{ … }`".to_owned(),
                    None,
                );
                return file::Top::default();
            };
            if !self.bad.iter().any(|bad| within(bad, &path)) {
                let message = type_error(&path, &error.inner().to_string(), &value);
                self.push(Severity::Error, &path, message, None);
            }
            self.bad.push(path);
        }
        file::Top::default()
    }

    /// The line of the value at `path`; 0: it is not from the file.
    pub(crate) fn line(&self, path: &str) -> u32 {
        let line = self.document.line(path).unwrap_or(0);
        u32::try_from(line).unwrap_or(u32::MAX)
    }

    /// An error at `path`.
    pub(crate) fn error(&mut self, path: &str, message: impl Into<String>) {
        self.push(Severity::Error, path, message.into(), None);
    }

    /// An error at `path`, and what to do.
    pub(crate) fn error_hint(
        &mut self,
        path: &str,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) {
        self.push(Severity::Error, path, message.into(), Some(hint.into()));
    }

    /// An error at `path`: `value` is none of the values of this key. `hint` lists them.
    pub(crate) fn unknown(&mut self, path: &str, noun: &str, value: &str, hint: &str) {
        self.error_hint(path, format!("unknown {noun} `{value}`"), hint);
    }

    /// An error at `path` that would be none if the other role read the file.
    pub(crate) fn error_other_role(
        &mut self,
        path: &str,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) {
        let before = self.found.len();
        self.push(Severity::Error, path, message.into(), Some(hint.into()));
        if let Some(finding) = self.found.get_mut(before) {
            finding.other_role = true;
        }
    }

    /// A warning at `path`.
    pub(crate) fn warn(&mut self, path: &str, message: impl Into<String>) {
        self.push(Severity::Warning, path, message.into(), None);
    }

    /// A warning at `path`, and what to do.
    pub(crate) fn warn_hint(
        &mut self,
        path: &str,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) {
        self.push(Severity::Warning, path, message.into(), Some(hint.into()));
    }

    fn push(&mut self, severity: Severity, path: &str, message: String, hint: Option<String>) {
        if !has_room(&self.found, severity) || self.bad.iter().any(|bad| within(path, bad)) {
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
            other_role: false,
        });
    }

    /// All diagnostics in the order of the text, each once.
    pub(crate) fn finish(self) -> Vec<Diagnostic> {
        let mut found = self.found;
        found.sort_by(|a, b| {
            (a.position, &a.path, &a.message).cmp(&(b.position, &b.path, &b.message))
        });
        found.dedup();
        found
    }
}

/// Reads a document that is not a config into a struct, up to the first error.
///
/// # Errors
/// The first value of a wrong type, without a file name.
pub(crate) fn strict<T: DeserializeOwned>(document: &Document) -> Result<T, Vec<Diagnostic>> {
    serde_path_to_error::deserialize(&document.value).map_err(|error| {
        let steps: Vec<Segment> = error.path().iter().cloned().collect();
        let path = path(&steps);
        let value = document
            .value
            .pointer(&pointer(&steps))
            .unwrap_or(&Value::Null);
        let message = type_error(&path, &error.inner().to_string(), value);
        let (shown, position) = document.locate(&path);
        let mut finding = Diagnostic::new(Severity::Error, shown, message);
        finding.position = position;
        vec![finding]
    })
}

/// `servers[0].password`.
fn path(steps: &[Segment]) -> String {
    steps.iter().fold(String::new(), |path, step| match step {
        Segment::Seq { index } => format!("{path}[{index}]"),
        Segment::Map { key } if path.is_empty() => key.clone(),
        Segment::Map { key } => format!("{path}.{key}"),
        _ => path,
    })
}

/// `/servers/0/password` (RFC 6901).
fn pointer(steps: &[Segment]) -> String {
    steps
        .iter()
        .fold(String::new(), |pointer, step| match step {
            Segment::Seq { index } => format!("{pointer}/{index}"),
            Segment::Map { key } => {
                format!("{pointer}/{}", key.replace('~', "~0").replace('/', "~1"))
            }
            _ => pointer,
        })
}

/// Says what was expected and what was found, without quoting text: it may be a password in the wrong place.
fn type_error(path: &str, reason: &str, found: &Value) -> String {
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
        Value::Null => "nothing".to_owned(),
        Value::Bool(_) | Value::Number(_) if schema::is_secret(path) => {
            "a value of another type".to_owned()
        }
        Value::Bool(value) => format!("`{value}`"),
        Value::Number(value) => format!("`{value}`"),
        Value::String(_) => "a string".to_owned(),
        Value::Array(_) => "an array".to_owned(),
        Value::Object(_) => "an object".to_owned(),
    };
    format!("expected {expected}, found {found}")
}
