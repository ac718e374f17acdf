//! Why nothing was imported.

use crate::config::text::diagnostic::Diagnostic;

/// Why nothing was imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The text is in none of the formats.
    #[error(
        "not recognised: use links (one per line), SIP008, gui-config.json of shadowsocks-windows, profiles of \
         shadowsocks-android, Clash (YAML) or sing-box"
    )]
    Unknown,
    /// The text is not the JSON that it seems to be.
    #[error("{0}")]
    Json(Box<Diagnostic>),
    /// The text is not the YAML that it seems to be.
    #[error("not valid YAML, at line {line}")]
    Yaml {
        /// The line, from 1; 0 if it is not known.
        line: u64,
    },
    /// No server can be used.
    #[error("no server in it can be used")]
    Empty {
        /// Why each server was left out.
        left_out: Vec<String>,
    },
}
