//! The IO around [`super::parse::parse`]: finds the config, and reads it and the files that it names.

use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;
use zeroize::Zeroizing;

use super::meaning::model::{Config, Credential};
use super::overrides::Overrides;
use super::parse::translate;
use super::reread::Reread;
use super::role::Role;
use super::secret::Secret;
use super::text::diagnostic::{Diagnostic, Severity};
use super::text::document::Document;
use super::text::reporter::strict;

use crate::limits::MAX_CONFIG_SIZE;
use crate::route::Live;

/// Reads the config at `path` for `role`, overridden by `flags`, and every file that it names. Without a path, only the
/// flags count.
///
/// # Errors
/// Everything that is wrong with the config, warnings included, with the name of the file.
pub fn load(path: Option<&Path>, role: Role, flags: &Overrides) -> Result<Config, Vec<Diagnostic>> {
    let name = |mut found: Vec<Diagnostic>| {
        for finding in &mut found {
            finding.file = finding.file.take().or_else(|| {
                // What is wrong with a flag begins with it, and is not in the file.
                path.filter(|_| finding.position.is_some() || finding.path.is_empty())
                    .map(Path::to_path_buf)
            });
        }
        found
    };
    let text = match path {
        Some(path) => read(path)?,
        None => Zeroizing::new("{}".to_owned()),
    };
    let env = |variable: &str| std::env::var(variable).ok();
    let mut config = translate(
        &text,
        role,
        &env,
        flags,
        Some(path.unwrap_or_else(|| Path::new(""))),
    )
    .map_err(name)?;
    config.file = path.map(|path| path.canonicalize().unwrap_or_else(|_| path.to_path_buf()));
    config.warnings = name(std::mem::take(&mut config.warnings));
    let exposed = path.and_then(|path| readable_by_all(path, &config));
    config.warnings.extend(exposed);
    config.reread = path.map(|path| Reread::new(path, role, flags));
    let mut found = Vec::new();
    for local in &mut config.locals {
        if let Some(path) = &local.auth_file {
            match credentials(path) {
                Ok(auth) => local.auth = auth,
                Err(more) => found.extend(more),
            }
        }
        if let Some(path) = &local.http_auth_file {
            match http_credentials(path) {
                Ok(auth) => local.http_auth = auth,
                Err(more) => found.extend(more),
            }
        }
    }
    match found.is_empty() {
        true => Ok(config),
        false => Err(found),
    }
}

impl Config {
    /// All rules in use, each once.
    pub fn live_rules(&self) -> Vec<Arc<Live>> {
        let locals = self.locals.iter().filter_map(|local| local.rules.as_ref());
        let servers = self.servers.iter().filter_map(|one| one.rules.as_ref());
        let mut all: Vec<Arc<Live>> = Vec::new();
        for live in locals.chain(servers) {
            if !all.iter().any(|known| Arc::ptr_eq(known, live)) {
                all.push(Arc::clone(live));
            }
        }
        all
    }
}

/// The first of [`lookup_places`] that exists.
pub fn default_path(role: Role) -> Option<PathBuf> {
    lookup_places(role).into_iter().find(|path| path.is_file())
}

/// Where a config is searched if none is named: the working directory, then `ssr/`, `shadowsocks-rust/` and
/// `shadowsocks-libev/` in the user's and the system's XDG directories and in `/etc`; in each `local.json` or `server.json`, then `config.json`.
pub fn lookup_places(role: Role) -> Vec<PathBuf> {
    let mut directories = vec![PathBuf::new()];
    for root in roots() {
        let products = ["ssr", "shadowsocks-rust", "shadowsocks-libev"];
        directories.extend(products.map(|product| root.join(product)));
    }
    let file = format!("{}.json", role.name());
    directories
        .iter()
        .flat_map(|directory| [directory.join(&file), directory.join("config.json")])
        .collect()
}

/// Where the programs of shadowsocks-libev search their config.
pub fn libev_places() -> Vec<PathBuf> {
    let file = |root: PathBuf| root.join("shadowsocks-libev/config.json");
    roots().into_iter().map(file).collect()
}

/// The directories of configs: the user's, those of the system, `/etc`.
fn roots() -> Vec<PathBuf> {
    let env = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let mut roots = Vec::new();
    match (env("XDG_CONFIG_HOME"), env("HOME")) {
        (Some(own), _) => roots.push(PathBuf::from(own)),
        (None, Some(home)) => roots.push(Path::new(&home).join(".config")),
        (None, None) => {}
    }
    match env("XDG_CONFIG_DIRS") {
        Some(list) => roots.extend(std::env::split_paths(&list)),
        None => roots.push(PathBuf::from("/etc/xdg")),
    }
    roots.push(PathBuf::from("/etc"));
    roots
}

pub(super) fn read(path: &Path) -> Result<Zeroizing<String>, Vec<Diagnostic>> {
    let fail = |message: String| {
        let mut finding = Diagnostic::new(Severity::Error, "", message);
        finding.file = Some(path.to_path_buf());
        vec![finding]
    };
    let mut bytes = Zeroizing::new(Vec::new());
    std::fs::File::open(path)
        .and_then(|file| file.take(MAX_CONFIG_SIZE + 1).read_to_end(&mut bytes))
        .map_err(|error| fail(format!("cannot read the file: {error}")))?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > MAX_CONFIG_SIZE) {
        return Err(fail(format!(
            "too long for a config: the limit is {MAX_CONFIG_SIZE} bytes"
        )));
    }
    if is_utf16(&bytes) {
        let mut found = fail("the file is UTF-16 text, and a config is UTF-8".to_owned());
        for finding in &mut found {
            let hint = "save it as UTF-8: `iconv -f UTF-16 -t UTF-8 OLD > NEW`";
            finding.hint = Some(hint.to_owned());
        }
        return Err(found);
    }
    match std::str::from_utf8(&bytes) {
        Ok(text) => Ok(Zeroizing::new(text.to_owned())),
        Err(error) => Err(fail(format!(
            "the file is not UTF-8 text, at byte {}",
            error.valid_up_to()
        ))),
    }
}

/// Whether a text begins as in UTF-16: with its mark, or with a letter of ASCII in two bytes.
fn is_utf16(bytes: &[u8]) -> bool {
    matches!(
        bytes,
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] | [0, 1..=255, ..] | [1..=255, 0, ..]
    )
}

/// A warning if everybody on this machine can read a config with passwords.
fn readable_by_all(path: &Path, config: &Config) -> Option<Diagnostic> {
    let mode = std::fs::metadata(path).ok()?.permissions().mode();
    if mode & 0o004 == 0 || config.servers.is_empty() {
        return None;
    }
    let message = "everybody on this machine can read this file, and it has passwords";
    let mut finding = Diagnostic::new(Severity::Warning, "", message);
    finding.file = Some(path.to_path_buf());
    finding.hint = Some("`chmod o-r` it, and let the user that runs ssr read it".to_owned());
    Some(finding)
}

/// `socks5_auth_config_path`: `{"password": {"users": [{"user_name": "…", "password": "…"}]}}`.
#[derive(Deserialize, Default)]
#[serde(default)]
struct AuthFile {
    password: Option<AuthPassword>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct AuthPassword {
    users: Vec<AuthUser>,
}

#[derive(Deserialize)]
struct AuthUser {
    user_name: String,
    password: Secret,
}

/// `http_auth_config_path`: `{"basic": {"users": [{"user_name": "…", "password": "…"}]}}`.
#[derive(Deserialize, Default)]
#[serde(default)]
struct HttpAuthFile {
    basic: Option<AuthPassword>,
}

/// The users in the file at `path`.
fn credentials(path: &Path) -> Result<Vec<Credential>, Vec<Diagnostic>> {
    let read = |document: &Document| {
        let file: AuthFile = strict(document)?;
        Ok(file.password.unwrap_or_default())
    };
    users(path, "password", read, |_, _| None)
}

/// The users in the file at `path`. RFC 7617 §2 separates name and password by the first colon.
fn http_credentials(path: &Path) -> Result<Vec<Credential>, Vec<Diagnostic>> {
    let read = |document: &Document| {
        let file: HttpAuthFile = strict(document)?;
        Ok(file.basic.unwrap_or_default())
    };
    users(path, "basic", read, |key, text| {
        (key == "user_name" && text.contains(':'))
            .then_some("must have no colon, which ends the name (RFC 7617)")
    })
}

/// The users that `read` finds in the file at `path`, in the object `section`. No users at all is an error: a file without
/// users would let everybody in. `refuse` says what is wrong with the value of a key.
fn users(
    path: &Path,
    section: &str,
    read_users: impl Fn(&Document) -> Result<AuthPassword, Vec<Diagnostic>>,
    refuse: impl Fn(&str, &str) -> Option<&'static str>,
) -> Result<Vec<Credential>, Vec<Diagnostic>> {
    let text = read(path)?;
    let fail = |mut found: Vec<Diagnostic>| {
        for finding in &mut found {
            finding.file = Some(path.to_path_buf());
        }
        found
    };
    let document = Document::plain(&text).map_err(fail)?;
    let users = read_users(&document).map_err(fail)?.users;
    if users.is_empty() {
        let message = "no users, so nobody could log in";
        return Err(fail(vec![Diagnostic::new(
            Severity::Error,
            format!("{section}.users"),
            message,
        )]));
    }
    let mut found = Vec::new();
    for (index, user) in users.iter().enumerate() {
        for (key, text) in [
            ("user_name", user.user_name.as_str()),
            ("password", user.password.expose()),
        ] {
            let wrong = match text.len() {
                1..=255 => refuse(key, text),
                _ => Some("must have 1 to 255 bytes (RFC 1929)"),
            };
            if let Some(wrong) = wrong {
                let at = format!("{section}.users[{index}].{key}");
                let (shown, position) = document.locate(&at);
                let mut finding = Diagnostic::new(Severity::Error, shown, wrong);
                finding.position = position;
                found.push(finding);
            }
        }
    }
    match found.is_empty() {
        true => Ok(users
            .into_iter()
            .map(
                |AuthUser {
                     user_name: user,
                     password,
                 }| Credential { user, password },
            )
            .collect()),
        false => Err(fail(found)),
    }
}
