//! What commands print, and exit codes.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use ssr::config::{Diagnostic, Severity, visible};

/// `EX_USAGE` of sysexits.h: the command line is wrong.
pub(crate) const USAGE: u8 = 64;
/// `EX_DATAERR`: the input is wrong.
pub(crate) const DATA: u8 = 65;
/// `EX_UNAVAILABLE`: something cannot be had.
pub(crate) const UNAVAILABLE: u8 = 69;
/// `EX_SOFTWARE`: an internal error.
pub(crate) const SOFTWARE: u8 = 70;
/// `EX_CONFIG`: the config is wrong.
pub(crate) const CONFIG: u8 = 78;

/// Lists the places where a config was looked for.
pub(crate) fn no_config(searched: &[PathBuf]) -> String {
    let mut places: Vec<&PathBuf> = Vec::new();
    for place in searched {
        if !places.contains(&place) {
            places.push(place);
        }
    }
    let list: String = places
        .iter()
        .map(|place| format!("\n  {}", shown(place)))
        .collect();
    format!("no config found: name one with -c FILE, or put it in one of these places:\n{list}\n")
}

fn shown(place: &Path) -> String {
    match place.parent() {
        Some(parent) if parent.as_os_str().is_empty() => format!("./{}", place.display()),
        _ => place.display().to_string(),
    }
}

pub(crate) fn usage_error(message: &str) -> ExitCode {
    print_error(message);
    USAGE.into()
}

/// Prints findings. If `strict`, all of them are errors.
pub(crate) fn report(found: &[Diagnostic], strict: bool) {
    for finding in found {
        let severity = match finding.severity {
            Severity::Error => "error",
            _ if strict => "error",
            Severity::Foreign | Severity::Warning => "warning",
        };
        print_error(&format!("{severity}: {finding}"));
    }
}

/// Prints a line on standard error. A failure has nowhere to be reported.
pub(crate) fn print_error(line: &str) {
    let _ = writeln!(std::io::stderr(), "{}", *visible(line));
}

/// Prints text on standard output. It is not an error if the reader is gone (`| head`).
pub(crate) fn print(text: &str) {
    print_styled(&visible(text));
}

/// As [`print`], for text of ours that may control the terminal.
pub(crate) fn print_styled(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}
