//! `sniff` and `sniff_override_destination`.

use super::context::{Context, key_at};
use super::model::{Protocol, Sniff};
use crate::config::written::file;

/// How the entry at `at` looks for names.
pub(super) fn sniff(
    protocol: Protocol,
    entry: &file::Local,
    at: &str,
    cx: &mut Context<'_>,
) -> Sniff {
    let keys = [
        ("sniff", entry.sniff),
        (
            "sniff_override_destination",
            entry.sniff_override_destination,
        ),
    ];
    if !matches!(protocol, Protocol::Redir | Protocol::Tun) {
        for (key, written) in keys {
            if written == Some(true) {
                let message = format!("no effect: clients of `{}` say names", protocol.name());
                cx.report.warn(&key_at(at, key), message);
            }
        }
        return Sniff::default();
    }
    let overrides = entry.sniff_override_destination == Some(true);
    if overrides && entry.sniff == Some(false) {
        let path = key_at(at, "sniff_override_destination");
        cx.report.warn(
            &path,
            "no effect: with `\"sniff\": false` no names are found",
        );
    }
    Sniff {
        // Who wants connections to go to their names wants names.
        wanted: entry.sniff.or_else(|| overrides.then_some(true)),
        overrides,
    }
}
