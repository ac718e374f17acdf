//! Where values stand in a text.

use super::diagnostic::Position;

/// Where a value was in the text.
#[derive(Clone, Debug)]
pub(super) struct Spot {
    /// The path with the keys as the author wrote them.
    pub(super) shown: String,
    /// Byte offset of the value.
    pub(super) offset: usize,
}

/// Whether `path` is `outer` or inside it.
pub(super) fn within(path: &str, outer: &str) -> bool {
    path.strip_prefix(outer)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

/// The line and column of a byte offset in `text`.
pub(super) fn position(text: &str, offset: usize) -> Position {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    Position {
        line: before.matches('\n').count() + 1,
        column: before.get(line_start..).unwrap_or_default().chars().count() + 1,
    }
}

/// A path in two spellings: canonical, and as written.
#[derive(Clone, Default)]
pub(super) struct Path {
    pub(super) canonical: String,
    pub(super) shown: String,
}

impl Path {
    pub(super) fn key(&self, canonical: &str, shown: &str) -> Self {
        let join = |base: &str, key: &str| match base {
            "" => key.to_owned(),
            _ => format!("{base}.{key}"),
        };
        Self {
            canonical: join(&self.canonical, canonical),
            shown: join(&self.shown, shown),
        }
    }

    /// As [`Path::key`], for a key that is implied and not written.
    pub(super) fn inside(&self, canonical: &str) -> Self {
        Self {
            shown: self.shown.clone(),
            ..self.key(canonical, canonical)
        }
    }

    pub(super) fn index(&self, index: usize) -> Self {
        Self {
            canonical: format!("{}[{index}]", self.canonical),
            shown: format!("{}[{index}]", self.shown),
        }
    }
}
