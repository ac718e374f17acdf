//! The steps from text to a [`Config`].

use std::path::Path;

use super::meaning::context::Context;
use super::meaning::model::Config;
use super::meaning::translate;
use super::overrides::Overrides;
use super::role::Role;
use super::text::diagnostic::{Diagnostic, Severity};
use super::text::document::Document;
use super::text::reporter::Reporter;

/// Parses a config for `role`. `env` looks up the variables of `"${VAR}"`.
///
/// It does no IO: [`Local::auth`](super::Local::auth) stays empty until [`load()`](super::load()) fills it.
///
/// # Errors
/// Everything that is wrong, in the order of the text, warnings included.
pub fn parse(
    text: &str,
    role: Role,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Config, Vec<Diagnostic>> {
    parse_with(text, role, env, &Overrides::default())
}

/// As [`parse`], with command line flags that override the file.
///
/// # Errors
/// As [`parse`].
pub fn parse_with(
    text: &str,
    role: Role,
    env: &dyn Fn(&str) -> Option<String>,
    flags: &Overrides,
) -> Result<Config, Vec<Diagnostic>> {
    translate(text, role, env, flags, None)
}

/// As [`parse_with`]; with `file`, the path of the config or an empty one, the files that the config names are read and
/// checked too.
pub(super) fn translate(
    text: &str,
    role: Role,
    env: &dyn Fn(&str) -> Option<String>,
    flags: &Overrides,
    file: Option<&Path>,
) -> Result<Config, Vec<Diagnostic>> {
    let mut found = Vec::new();
    let mut document = Document::parse(text, role, &mut found)?;
    flags.apply(&mut document, env, &mut found);
    let mut report = Reporter::new(document, found);
    let top = report.file();
    let mut cx = Context {
        role,
        env,
        files: file.is_some(),
        file: file.unwrap_or_else(|| Path::new("")),
        report,
    };
    let mut config = translate::config(&top, &mut cx);
    let found = cx.report.finish();
    if found
        .iter()
        .any(|finding| finding.severity == Severity::Error)
    {
        return Err(found);
    }
    config.warnings = found;
    Ok(config)
}
