//! Keys from passwords: the server's, its users', and a client's chain of identity keys.

use std::collections::HashSet;

use crate::crypto::{Family, Key, Method};

use super::context::{Context, host_address, key_at};
use super::model::{Keys, User};
use super::user_limits;
use crate::config::role::Role;
use crate::config::secret::Secret;
use crate::config::written::file;
use crate::config::written::scalar::Number;

/// What stands for a key in the documents.
const PLACEHOLDER: &str = "PASTE-YOUR-KEY-HERE";
/// The key in `config.example.json`.
const EXAMPLE: &str = "UkVQTEFDRSBNRTogc3NyIGdlbmtleSAtbSBNRVRIT0Q=";

/// The keys that a password stands for; `path` is where the password was.
pub(super) fn keys(
    entry: &file::Server,
    method: Method,
    path: &str,
    secret: Option<Secret>,
    cx: &mut Context<'_>,
) -> Option<Keys> {
    if method.family() == Family::Plain {
        let key = Key::from_password(method, b"");
        return Some(Keys {
            identity: Vec::new(),
            key,
        });
    }
    if let Some(ready) = &entry.key
        && method.family() == Family::Aead2017
        && !path.starts_with("port_password")
    {
        let ready = expand("key", ready, cx)?;
        let key = base64("key", method, ready.expose(), "", cx)?;
        return Some(Keys {
            identity: Vec::new(),
            key,
        });
    }
    let has_users = entry.users.as_ref().is_some_and(|users| !users.is_empty());
    if method.family() == Family::Aead2017 && has_users {
        if secret.is_some() && cx.role == Role::Server {
            cx.report.warn_hint(
                path,
                format!("no effect: with `users`, {method} has a password for each of them"),
                "remove it, or make it the password of a user",
            );
        }
        if secret.is_none() || cx.role == Role::Server {
            return Some(Keys {
                identity: Vec::new(),
                key: Key::from_password(method, b""),
            });
        }
    }
    let Some(secret) = secret.or_else(|| entry.key.clone()) else {
        cx.report.error_hint(
            path,
            format!("missing: {method} needs a password"),
            format!("`ssr genkey -m {method}` prints one"),
        );
        return None;
    };
    let secret = expand(path, &secret, cx)?;
    if method.family() == Family::Aead2017 {
        if secret.expose().is_empty() {
            cx.report.warn_hint(
                path,
                "the password is empty, so anybody can use the server",
                format!("`ssr genkey -m {method}` prints one"),
            );
        }
        let key = Key::from_password(method, secret.expose().as_bytes());
        return Some(Keys {
            identity: Vec::new(),
            key,
        });
    }
    chain(method, path, secret.expose(), cx)
}

/// The keys of a client from a password, whatever role reads the config.
pub(super) fn of_client(
    method: Method,
    path: &str,
    secret: Secret,
    cx: &mut Context<'_>,
) -> Option<Keys> {
    let role = std::mem::replace(&mut cx.role, Role::Local);
    let keys = keys(&file::Server::default(), method, path, Some(secret), cx);
    cx.role = role;
    keys
}

/// One key, or the chain `iPSK:…:uPSK` (SIP023).
fn chain(method: Method, path: &str, text: &str, cx: &mut Context<'_>) -> Option<Keys> {
    let parts: Vec<&str> = text.split(':').collect();
    let several = parts.len() > 1;
    if several && !method.supports_identity() {
        cx.report.error_hint(
            path,
            format!("several keys, but {method} has no identity headers"),
            format!("use one key, or {} on both sides", Method::Blake3Aes256Gcm),
        );
        return None;
    }
    if several && cx.role == Role::Server {
        cx.report.error_other_role(
            path,
            "several keys: only a client has a chain of keys",
            "give the server one key, and list the others under `users`",
        );
        return None;
    }
    let mut keys = Vec::new();
    for (index, part) in parts.iter().enumerate() {
        let which = if several {
            format!(
                "key {} of {} (colons separate keys): ",
                index + 1,
                parts.len()
            )
        } else {
            String::new()
        };
        keys.extend(base64(path, method, part, &which, cx));
    }
    if keys.len() != parts.len() {
        return None;
    }
    let key = keys.pop()?;
    Some(Keys {
        identity: keys,
        key,
    })
}

fn base64(
    path: &str,
    method: Method,
    text: &str,
    which: &str,
    cx: &mut Context<'_>,
) -> Option<Key> {
    match Key::from_base64(method, text) {
        Ok(key) => Some(key),
        Err(error) => {
            cx.report.error(path, format!("{which}{error}"));
            None
        }
    }
}

/// Replaces `"${VAR}"` by the environment variable, and names the keys that everybody knows; `None` after an error.
pub(super) fn expand(path: &str, secret: &Secret, cx: &mut Context<'_>) -> Option<Secret> {
    let text = secret.expose();
    let variable = text
        .strip_prefix("${")
        .and_then(|rest| rest.strip_suffix('}'));
    let secret = match variable {
        None => secret.clone(),
        Some(name) => match (cx.env)(name) {
            Some(value) => Secret::from(value),
            None => {
                let message = format!("there is no environment variable `{name}`");
                let hint = "set it for ssr: `export` in a shell, `Environment=` or `EnvironmentFile=` in a unit";
                cx.report.error_hint(path, message, hint);
                return None;
            }
        },
    };
    let hint = "`ssr genkey -m METHOD` prints a key of your own";
    match secret.expose() {
        PLACEHOLDER => {
            let message = "this is the placeholder of the documents, and not a key";
            cx.report.error_hint(path, message, hint);
            None
        }
        EXAMPLE => {
            let message = "this is the key of config.example.json, which everybody knows";
            cx.report.warn_hint(path, message, hint);
            Some(secret)
        }
        _ => Some(secret),
    }
}

pub(super) fn users(
    entry: &file::Server,
    at: &str,
    method: Method,
    own: &Keys,
    cx: &mut Context<'_>,
) -> Vec<User> {
    let written = entry.users.as_deref().unwrap_or_default();
    if written.is_empty() {
        return Vec::new();
    }
    let path = key_at(at, "users");
    if !method.supports_users() {
        cx.report.error_hint(
            &path,
            format!("{method} does not support `users`: it has no identity headers"),
            format!("use {}", Method::Blake3Aes256Gcm),
        );
        return Vec::new();
    }
    let (mut names, mut hashes) = (HashSet::new(), HashSet::new());
    let mut users = Vec::new();
    for (index, entry) in written.iter().enumerate() {
        let at = format!("{path}[{index}]");
        let Some(user) = user(entry, &at, method, cx) else {
            continue;
        };
        if !names.insert(user.name.clone()) {
            cx.report.error(
                &key_at(&at, "name"),
                format!("another user is already named `{}`", user.name),
            );
        }
        if method.supports_identity() && user.key.identity_hash() == own.key.identity_hash() {
            cx.report.error(
                &key_at(&at, "password"),
                "this is the server's own key: a user needs another one",
            );
        }
        if !hashes.insert(user.key.identity_hash()) {
            let what = match method.family() {
                Family::Aead2017 => "password",
                _ => "key",
            };
            cx.report.error(
                &key_at(&at, "password"),
                format!("another user already has this {what}"),
            );
        }
        users.push(user);
    }
    users
}

fn user(written: &file::User, at: &str, method: Method, cx: &mut Context<'_>) -> Option<User> {
    let name = written.name.clone().filter(|name| !name.is_empty());
    if name.is_none() {
        cx.report
            .error(&key_at(at, "name"), "missing: the user's name");
    }
    let path = key_at(at, "password");
    let secret = match &written.password {
        None => {
            let hint = format!("`ssr genkey -m {method}` prints one");
            let message = match method.family() {
                Family::Aead2017 => "missing: the user's password",
                _ => "missing: the user's key",
            };
            cx.report.error_hint(&path, message, hint);
            None
        }
        Some(secret) => expand(&path, secret, cx),
    };
    let key = secret
        .as_ref()
        .and_then(|secret| user_key(&path, method, secret.expose(), cx));
    if written.server.is_some() && !method.supports_identity() {
        cx.report.error_hint(
            &key_at(at, "server"),
            format!("{method} cannot relay a user to another server: it has no identity headers"),
            format!("use {}", Method::Blake3Aes256Gcm),
        );
    }
    let next_hop = match (&written.server, written.server_port) {
        (None, None) => None,
        (None, Some(_)) => {
            cx.report
                .error(&key_at(at, "server"), "missing: the next server's address");
            None
        }
        (Some(host), port) => {
            let address = host_address(
                &key_at(at, "server"),
                host,
                port.map(|Number(port)| port),
                cx,
            );
            if address.as_ref().is_some_and(|address| address.port() == 0) {
                cx.report.error(
                    &key_at(at, "server_port"),
                    "missing: the next server's port",
                );
            }
            address
        }
    };
    let limits = user_limits::limits(written, at, cx);
    Some(User {
        limits,
        name: name?,
        key: key?,
        password: secret?,
        next_hop,
    })
}

/// The key of a user: under AEAD-2017 the password is any text but none.
fn user_key(path: &str, method: Method, text: &str, cx: &mut Context<'_>) -> Option<Key> {
    match method.family() {
        Family::Aead2017 if text.is_empty() => {
            let hint = format!("`ssr genkey -m {method}` prints one");
            cx.report.error_hint(path, "the password is empty", hint);
            None
        }
        Family::Aead2017 => Some(Key::from_password(method, text.as_bytes())),
        _ => base64(path, method, text, "", cx),
    }
}

/// With one file for both sides, the client must be one of the server's `users`: the first, unless the password names one.
pub(super) fn as_first_user(
    keys: Keys,
    method: Method,
    users: &[User],
    at: &str,
    cx: &mut Context<'_>,
) -> Keys {
    let Some(first) = users.first().filter(|_| keys.identity.is_empty()) else {
        return keys;
    };
    let by_trial = method.family() == Family::Aead2017;
    if by_trial && users.iter().any(|user| user.key == keys.key) {
        return keys;
    }
    let path = key_at(at, "users");
    let hint = match by_trial {
        true => "to connect as another, give `ssr local` its password",
        false => "to connect as another, give `ssr local` the password `SERVER_KEY:USER_KEY`",
    };
    cx.report.warn_hint(
        &path,
        format!("`ssr local` connects as `{}`, the first user", first.name),
        hint,
    );
    Keys {
        identity: if by_trial { Vec::new() } else { vec![keys.key] },
        key: first.key.clone(),
    }
}
