//! Parses text into JSON values, and remembers their positions.
//!
//! One walk over the syntax tree drops comments, replaces aliases, reports keys that are duplicate, unknown or not yet
//! supported, and records the position of everything else by its canonical path (`servers[0].password`).

use std::cell::Cell;
use std::collections::{HashMap, HashSet};

use jsonc_parser::ast;
use jsonc_parser::common::Ranged;
use jsonc_parser::{CollectOptions, ParseOptions, parse_to_ast};
use serde_json::{Map, Number, Value, json};

use super::diagnostic::{Diagnostic, Position, Severity, has_room};
use super::spans::{Path, Spot, position, within};
use crate::config::role::Role;
use crate::config::written::schema::{self, Fate, Kind};

/// JSON with comments, trailing commas and the other additions of JSON5 that are useful in a config.
const DIALECT: ParseOptions = ParseOptions {
    allow_comments: true,
    allow_loose_object_property_names: true,
    allow_trailing_commas: true,
    allow_missing_commas: false,
    allow_single_quoted_strings: true,
    allow_hexadecimal_numbers: true,
    allow_unary_plus_numbers: true,
    allow_bare_decimal_point_numbers: true,
    allow_non_finite_numbers: false,
    allow_extended_string_escapes: true,
};

/// A parsed text.
pub(crate) struct Document {
    /// The value, with canonical keys only.
    pub(crate) value: Value,
    /// Paths of values that were reported and removed.
    pub(crate) bad: Vec<String>,
    text: String,
    spots: HashMap<String, Spot>,
    flags: HashMap<String, &'static str>,
    /// An offset in the text and its line: the next one that is asked for is mostly behind it.
    last_line: Cell<(usize, usize)>,
}

impl Document {
    /// Parses a config as `role` reads it. Diagnostics go to `found`.
    ///
    /// # Errors
    /// The first error in the syntax: what follows it cannot be trusted.
    pub(crate) fn parse(
        text: &str,
        role: Role,
        found: &mut Vec<Diagnostic>,
    ) -> Result<Self, Vec<Diagnostic>> {
        Self::walk(text, Kind::Top, role, found)
    }

    /// Parses a text that is not a config: its keys are not checked, but none may be there twice.
    ///
    /// # Errors
    /// The first error in the syntax, or every duplicate key.
    pub(crate) fn plain(text: &str) -> Result<Self, Vec<Diagnostic>> {
        let mut found = Vec::new();
        let document = Self::walk(text, Kind::Free, Role::Local, &mut found)?;
        if found.is_empty() {
            Ok(document)
        } else {
            Err(found)
        }
    }

    fn walk(
        text: &str,
        kind: Kind,
        role: Role,
        found: &mut Vec<Diagnostic>,
    ) -> Result<Self, Vec<Diagnostic>> {
        // Some editors begin a file with a byte order mark.
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let tree = parse_to_ast(text, &CollectOptions::default(), &DIALECT).map_err(|error| {
            let mut finding = Diagnostic::new(
                Severity::Error,
                "",
                format!("not valid JSON: {}", error.kind()),
            );
            finding.position = Some(position(text, error.range().start));
            vec![finding]
        })?;
        let Some(root) = tree.value else {
            return Err(vec![Diagnostic::new(
                Severity::Error,
                "",
                "the config is empty",
            )]);
        };
        if kind == Kind::Top && root.as_object().is_none() {
            let mut finding =
                Diagnostic::new(Severity::Error, "", "a config must be an object: `{ … }`");
            finding.position = Some(position(text, root.range().start));
            return Err(vec![finding]);
        }
        let mut walk = Walk {
            text,
            role,
            spots: HashMap::new(),
            bad: Vec::new(),
            found,
        };
        let root_path = Path::default();
        let value = walk.value(&root, kind, &root_path, false);
        Ok(Self {
            value,
            bad: walk.bad,
            spots: walk.spots,
            text: text.to_owned(),
            flags: HashMap::new(),
            last_line: Cell::new((0, 1)),
        })
    }

    /// Sets the value at `path` (keys joined by dots) from a command line flag, in place of the file's.
    pub(crate) fn set(&mut self, path: &str, value: Value, flag: &'static str) {
        self.flags.insert(path.to_owned(), flag);
        self.spots.retain(|known, _| !within(known, path));
        let mut here = &mut self.value;
        for key in path.split('.') {
            if !here.is_object() {
                *here = Value::Object(Map::new());
            }
            let Some(map) = here.as_object_mut() else {
                return;
            };
            here = map.entry(key).or_insert(Value::Null);
        }
        *here = value;
    }

    /// Names the command line argument that the value at `path` came from.
    pub(crate) fn name(&mut self, path: String, flag: &'static str) {
        self.flags.insert(path, flag);
    }

    /// Removes `key` from every entry of the array at `list`.
    pub(crate) fn forget(&mut self, list: &str, key: &str) {
        let entries = self.value.get_mut(list).and_then(Value::as_array_mut);
        for entry in entries.into_iter().flatten() {
            if let Some(map) = entry.as_object_mut() {
                map.remove(key);
            }
        }
    }

    /// The line of the value at `path`, if it came from the file. Fast for values in the order of the text.
    pub(crate) fn line(&self, path: &str) -> Option<usize> {
        let offset = self.spots.get(path)?.offset;
        let (from, line) = match self.last_line.get() {
            (last, line) if last <= offset => (last, line),
            _ => (0, 1),
        };
        let line = line + self.text.get(from..offset)?.matches('\n').count();
        self.last_line.set((offset, line));
        Some(line)
    }

    /// The path as the author wrote it, and the position if it came from the file. A missing key has the position of the
    /// object that lacks it.
    pub(crate) fn locate(&self, path: &str) -> (String, Option<Position>) {
        let mut known = path;
        loop {
            if let Some(flag) = self.flags.get(known) {
                return ((*flag).to_owned(), None);
            }
            if let Some(spot) = self.spots.get(known) {
                let rest = path.get(known.len()..).unwrap_or_default();
                let rest = if spot.shown.is_empty() {
                    rest.trim_start_matches('.')
                } else {
                    rest
                };
                return (
                    format!("{}{rest}", spot.shown),
                    Some(position(&self.text, spot.offset)),
                );
            }
            if known.is_empty() {
                return (path.to_owned(), None);
            }
            known = known
                .rfind(['.', '['])
                .and_then(|end| known.get(..end))
                .unwrap_or_default();
        }
    }
}

struct Walk<'a> {
    text: &'a str,
    role: Role,
    spots: HashMap<String, Spot>,
    bad: Vec<String>,
    found: &'a mut Vec<Diagnostic>,
}

impl Walk<'_> {
    fn value(&mut self, node: &ast::Value<'_>, kind: Kind, path: &Path, ignored: bool) -> Value {
        let spot = Spot {
            shown: path.shown.clone(),
            offset: node.range().start,
        };
        self.spots.insert(path.canonical.clone(), spot);
        match node {
            ast::Value::StringLit(text) => Value::String(text.value.clone().into_owned()),
            ast::Value::NumberLit(digits) => number(digits.value).unwrap_or_else(|| {
                self.report(
                    Severity::Error,
                    digits.range.start,
                    path,
                    "not a valid number".to_owned(),
                    None,
                );
                self.bad.push(path.canonical.clone());
                Value::Null
            }),
            ast::Value::BooleanLit(boolean) => Value::Bool(boolean.value),
            ast::Value::NullKeyword(_) => Value::Null,
            // Serde would read an array as the fields of the struct, in order.
            ast::Value::Array(array) if kind.is_object() => {
                if let Some((key, kind)) = schema::shorthand(kind) {
                    // Errors in it are still shown at the place where the author wrote it.
                    let at = path.inside(key);
                    return json!({ key: self.value(node, kind, &at, ignored) });
                }
                self.report(
                    Severity::Error,
                    array.range.start,
                    path,
                    "expected an object: `{ … }`, found an array".to_owned(),
                    None,
                );
                self.bad.push(path.canonical.clone());
                Value::Null
            }
            ast::Value::Array(array) => array
                .elements
                .iter()
                .enumerate()
                .map(|(index, element)| {
                    self.value(element, kind.element(), &path.index(index), ignored)
                })
                .collect(),
            ast::Value::Object(object) => Value::Object(self.object(object, kind, path, ignored)),
        }
    }

    /// In an ignored object, one that is disabled or for the other role, unsupported keys are not reported.
    fn object(
        &mut self,
        object: &ast::Object<'_>,
        kind: Kind,
        path: &Path,
        ignored: bool,
    ) -> Map<String, Value> {
        let ignored = ignored
            || is_disabled(object, kind)
            || matches!(
                (self.role, kind),
                (Role::Server, Kind::Local)
                    | (Role::Local, Kind::User)
                    | (Role::Forward, Kind::Server | Kind::User | Kind::Local)
            );
        let mut map = Map::new();
        let mut seen = HashSet::new();
        for property in &object.properties {
            let key = property.name.as_str();
            if kind != Kind::Free && (key.starts_with('_') || key.starts_with("//")) {
                continue;
            }
            let fate = schema::fate(kind, key);
            let canonical = match fate {
                Fate::Alias(canonical) => canonical,
                _ => key,
            };
            let at = path.key(canonical, key);
            let offset = property.name.range().start;
            if !seen.insert(canonical) {
                let message = match canonical == key {
                    true => "the key is given twice: remove one".to_owned(),
                    false => {
                        format!("the key is given twice: it is another name for `{canonical}`")
                    }
                };
                self.report(Severity::Error, offset, &at, message, None);
                continue;
            }
            match fate {
                Fate::Known | Fate::Alias(_) => {
                    let value = self.value(
                        &property.value,
                        schema::child(kind, canonical),
                        &at,
                        ignored,
                    );
                    map.insert(canonical.to_owned(), value);
                }
                Fate::Unknown => self.unknown(kind, key, offset, &at),
                _ if ignored => {}
                _ => {
                    let value = self.value(&property.value, Kind::Free, &at, true);
                    if !schema::is_blank(&value) {
                        self.unsupported(fate, offset, &at);
                    }
                }
            }
        }
        map
    }

    fn unknown(&mut self, kind: Kind, key: &str, offset: usize, at: &Path) {
        if let Some(similar) = schema::similar(kind, key) {
            let hint = format!("did you mean `{similar}`?");
            self.report(
                Severity::Error,
                offset,
                at,
                "unknown key".to_owned(),
                Some(hint),
            );
            return;
        }
        let hint = match schema::elsewhere(kind, key) {
            Some(place) => format!("this key belongs {place}"),
            None => "to keep it as a comment, begin the key with `_`".to_owned(),
        };
        self.report(
            Severity::Foreign,
            offset,
            at,
            "unknown key, ignored".to_owned(),
            Some(hint),
        );
    }

    fn unsupported(&mut self, fate: Fate, offset: usize, at: &Path) {
        let (severity, message) = match fate {
            Fate::Withdrawn(why) => (Severity::Error, why.to_owned()),
            Fate::NoEffect(why) => (Severity::Warning, format!("no effect: {why}")),
            _ => return,
        };
        self.report(severity, offset, at, message, None);
    }

    fn report(
        &mut self,
        severity: Severity,
        offset: usize,
        at: &Path,
        message: String,
        hint: Option<String>,
    ) {
        if has_room(self.found, severity) {
            self.found.push(Diagnostic {
                severity,
                file: None,
                position: Some(position(self.text, offset)),
                path: at.shown.clone(),
                message,
                hint,
                other_role: false,
            });
        }
    }
}

/// Whether an entry has `"disabled": true`.
fn is_disabled(object: &ast::Object<'_>, kind: Kind) -> bool {
    matches!(kind, Kind::Server | Kind::Local | Kind::Forward)
        && object
            .get_boolean("disabled")
            .is_some_and(|disabled| disabled.value)
}

/// Parses a number of JSON5: `1`, `+1`, `.5`, `5.`, `0x1F`.
fn number(text: &str) -> Option<Value> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if let Some(hex) = digits
        .strip_prefix("0x")
        .or_else(|| digits.strip_prefix("0X"))
    {
        let magnitude = u64::from_str_radix(hex, 16).ok()?;
        return match negative {
            false => Some(Value::from(magnitude)),
            true => i64::try_from(magnitude)
                .ok()?
                .checked_neg()
                .map(Value::from),
        };
    }
    if let Ok(whole) = text.parse::<i64>() {
        return Some(Value::from(whole));
    }
    if let Ok(whole) = digits.parse::<u64>()
        && !negative
    {
        return Some(Value::from(whole));
    }
    Number::from_f64(text.parse().ok()?).map(Value::Number)
}
