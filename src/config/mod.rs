//! Floor 5: from a config file, flags and `ss://` URLs to checked values.
//!
//! ```text
//! text ─ document ─> JSON that knows where it stood ─ overrides ─> … and what the flags say
//!      ─ reporter ─> file as written (`file.rs`)    ─ meaning ───> Config as meant (`model.rs`)
//! ```
//!
//! Files of shadowsocks-rust 1.25 and shadowsocks-libev 3.3 run unchanged, or are told by line, column and key why
//! not. Each step goes on after an error, so that one reading finds them all.
//!
//! [`parse`] does no IO; [`load()`] reads files around it.

mod load;
mod meaning;
mod overrides;
mod secret;
mod summary;
mod text;
mod url;
mod written;

#[cfg(test)]
mod tests;

pub use self::load::{default_path, load, lookup_places};
pub use self::meaning::model::{
    Allow, Config, Credential, Endpoint, EndpointTls, EndpointWs, Forward, Keys, Limits, Local,
    Log, Mode, Protocol, ReplayPolicy, Reverse, Role, Rotation, Scheme, Server, Service, Sink,
    SocketOptions, Timeouts, Tls, Transport, User, WebSocket, Writer,
};
pub use self::overrides::Overrides;
pub use self::secret::Secret;
pub use self::text::diagnostic::{Diagnostic, Position, Severity};
pub use self::url::{ServerUrl, UrlError};
pub use self::written::schema::documented_keys;

/// Whether `found` says no more than that the file is for the other role.
pub fn is_for_other_role(found: &[Diagnostic]) -> bool {
    let mut errors = found
        .iter()
        .filter(|finding| finding.severity == Severity::Error)
        .peekable();
    errors.peek().is_some() && errors.all(|finding| finding.other_role)
}

use self::meaning::translate::Context;
use self::text::document::Document;
use self::text::reporter::Reporter;

/// Reads a config for `role`. `env` is asked for the variables of `"${VAR}"`.
///
/// Touches neither files nor network: [`Local::auth`] stays empty, [`load()`] fills it.
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

/// As [`parse`], with command line flags over the file.
///
/// # Errors
/// As [`parse`].
pub fn parse_with(
    text: &str,
    role: Role,
    env: &dyn Fn(&str) -> Option<String>,
    flags: &Overrides,
) -> Result<Config, Vec<Diagnostic>> {
    translate(text, role, env, flags, false)
}

/// As [`parse_with`]; with `files`, those that the config names are read and judged.
fn translate(
    text: &str,
    role: Role,
    env: &dyn Fn(&str) -> Option<String>,
    flags: &Overrides,
    files: bool,
) -> Result<Config, Vec<Diagnostic>> {
    let mut found = Vec::new();
    let mut document = Document::parse(text, role, &mut found)?;
    flags.apply(&mut document, env);
    let mut report = Reporter::new(document, found);
    let top = report.file();
    let mut cx = Context {
        role,
        env,
        files,
        report,
    };
    let mut config = meaning::translate::config(&top, &mut cx);
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
