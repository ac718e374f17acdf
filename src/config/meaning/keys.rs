//! The keys of a server: its own, its users', a client's chain of them.

use std::collections::HashSet;

use crate::crypto::{Family, Key, Method};

use super::context::{host_address, key_at};
use super::model::{Keys, User};
use super::servers::Build;
use crate::config::role::Role;
use crate::config::secret::Secret;
use crate::config::written::file;
use crate::config::written::scalar::Number;

impl Build<'_, '_> {
    /// The keys that a password stands for. `path` is where it stood.
    pub(super) fn keys(
        &mut self,
        method: Method,
        path: &str,
        secret: Option<Secret>,
    ) -> Option<Keys> {
        if method.family() == Family::Plain {
            let key = Key::from_password(method, b"");
            return Some(Keys {
                identity: Vec::new(),
                key,
            });
        }
        if let Some(ready) = &self.entry.key
            && method.family() == Family::Aead2017
            && !path.starts_with("port_password")
        {
            let ready = self.expand("key", ready);
            let key = self.base64("key", method, ready.expose(), "")?;
            return Some(Keys {
                identity: Vec::new(),
                key,
            });
        }
        let Some(secret) = secret.or_else(|| self.entry.key.clone()) else {
            self.cx.report.error_hint(
                path,
                format!("missing: {method} needs one"),
                format!("`ssr genkey -m {method}` makes one"),
            );
            return None;
        };
        let secret = self.expand(path, &secret);
        if method.family() == Family::Aead2017 {
            if secret.expose().is_empty() {
                self.cx.report.warn_hint(
                    path,
                    "empty: everybody knows it",
                    format!("`ssr genkey -m {method}` makes one"),
                );
            }
            let key = Key::from_password(method, secret.expose().as_bytes());
            return Some(Keys {
                identity: Vec::new(),
                key,
            });
        }
        self.chain(method, path, secret.expose())
    }

    /// `iPSK:…:uPSK` of SIP023, or one key.
    fn chain(&mut self, method: Method, path: &str, text: &str) -> Option<Keys> {
        let parts: Vec<&str> = text.split(':').collect();
        let several = parts.len() > 1;
        if several && !method.supports_identity() {
            self.cx.report.error_hint(
                path,
                format!("several keys, and {method} has no identity headers: they are AES blocks"),
                format!(
                    "give one key, or use {} on both sides",
                    Method::Blake3Aes256Gcm
                ),
            );
            return None;
        }
        if several && self.cx.role == Role::Server {
            self.cx.report.error_other_role(
                path,
                "several keys: that is how a client names its user",
                "a server has one key of its own, and `users`",
            );
            return None;
        }
        let mut keys = Vec::new();
        for (index, part) in parts.iter().enumerate() {
            let which = if several {
                format!("key {} of {}: ", index + 1, parts.len())
            } else {
                String::new()
            };
            keys.extend(self.base64(path, method, part, &which));
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

    fn base64(&mut self, path: &str, method: Method, text: &str, which: &str) -> Option<Key> {
        match Key::from_base64(method, text) {
            Ok(key) => Some(key),
            Err(error) => {
                self.cx.report.error(path, format!("{which}{error}"));
                None
            }
        }
    }

    /// `"${VAR}"` -> the variable; as it is, if there is none of that name.
    fn expand(&mut self, path: &str, secret: &Secret) -> Secret {
        let text = secret.expose();
        let Some(name) = text
            .strip_prefix("${")
            .and_then(|rest| rest.strip_suffix('}'))
        else {
            return secret.clone();
        };
        match (self.cx.env)(name) {
            Some(value) => Secret::from(value),
            None => {
                let message = format!("the environment has no variable `{name}`: taken literally");
                self.cx.report.warn(path, message);
                secret.clone()
            }
        }
    }

    pub(super) fn users(&mut self, method: Method, own: &Keys) -> Vec<User> {
        let written = self.entry.users.as_deref().unwrap_or_default();
        if written.is_empty() {
            return Vec::new();
        }
        let path = self.key("users");
        if !method.supports_identity() {
            self.cx.report.error_hint(
                &path,
                format!("{method} cannot tell users apart: identity headers are AES blocks of a 2022 method"),
                format!("use {}", Method::Blake3Aes256Gcm),
            );
            return Vec::new();
        }
        let (mut names, mut hashes) = (HashSet::new(), HashSet::new());
        let mut users = Vec::new();
        for (index, user) in written.iter().enumerate() {
            let at = format!("{path}[{index}]");
            let Some(user) = self.user(user, &at, method) else {
                continue;
            };
            if !names.insert(user.name.clone()) {
                self.cx.report.error(
                    &key_at(&at, "name"),
                    format!("`{}` is another user's name", user.name),
                );
            }
            if user.key.identity_hash() == own.key.identity_hash() {
                self.cx
                    .report
                    .error(&key_at(&at, "password"), "the server's own key");
            }
            if !hashes.insert(user.key.identity_hash()) {
                self.cx
                    .report
                    .error(&key_at(&at, "password"), "another user's key");
            }
            users.push(user);
        }
        users
    }

    fn user(&mut self, written: &file::User, at: &str, method: Method) -> Option<User> {
        let name = written.name.clone().filter(|name| !name.is_empty());
        if name.is_none() {
            self.cx
                .report
                .error(&key_at(at, "name"), "missing: the user's name");
        }
        let path = key_at(at, "password");
        let key = match &written.password {
            None => {
                let hint = format!("`ssr genkey -m {method}` makes one");
                self.cx
                    .report
                    .error_hint(&path, "missing: the user's key", hint);
                None
            }
            Some(secret) => {
                let secret = self.expand(&path, secret);
                self.base64(&path, method, secret.expose(), "")
            }
        };
        let next_hop = match (&written.server, written.server_port) {
            (None, None) => None,
            (None, Some(_)) => {
                self.cx
                    .report
                    .error(&key_at(at, "server"), "missing: the next server's address");
                None
            }
            (Some(host), port) => {
                let address = host_address(
                    &key_at(at, "server"),
                    host,
                    port.map(|Number(port)| port),
                    self.cx,
                );
                if address.as_ref().is_some_and(|address| address.port() == 0) {
                    self.cx.report.error(
                        &key_at(at, "server_port"),
                        "missing: the next server's port",
                    );
                }
                address
            }
        };
        Some(User {
            name: name?,
            key: key?,
            next_hop,
        })
    }

    /// One file for both halves: where server sorts by `users`, local must be one of them. It is the first, unless
    /// the password names one.
    pub(super) fn as_first_user(&mut self, keys: Keys, users: &[User]) -> Keys {
        let Some(first) = users.first().filter(|_| keys.identity.is_empty()) else {
            return keys;
        };
        let path = self.key("users");
        self.cx.report.warn_hint(
            &path,
            format!("local goes as `{}`, the first of them", first.name),
            "to go as another, give local the password `server key:user key`",
        );
        Keys {
            identity: vec![keys.key],
            key: first.key.clone(),
        }
    }
}
