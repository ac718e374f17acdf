//! The servers of a config as `ss://` URLs.

use std::net::IpAddr;
use std::path::Path;

use serde_json::{Map, Value};

use crate::crypto::{Family, Method};
use crate::wire::address::Address;

use super::load::read;
use super::role::Role;
use super::secret::Secret;
use super::text::diagnostic::Diagnostic;
use super::text::document::Document;
use super::url::ServerUrl;
use super::written::schema::is_blank;

/// The default of `method`, that of shadowsocks-libev.
const DEFAULT_METHOD: &str = "chacha20-ietf-poly1305";

/// The servers of a config that are written for others.
#[derive(Debug, Default)]
pub struct Shared {
    /// The servers; one with users once for each of them.
    pub urls: Vec<ServerUrl>,
    /// The servers that no URL can describe, and why; one line each.
    pub left_out: Vec<String>,
}

/// Reads the servers of the config at `path`. `host` stands in for the hosts of all of them: a server's own file may have
/// an address to listen on. The rest of the config need not be right.
///
/// # Errors
/// When the file cannot be read or is not JSON.
pub fn share(
    path: &Path,
    host: Option<&str>,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Shared, Vec<Diagnostic>> {
    let text = read(path)?;
    let mut found = Vec::new();
    let document = Document::parse(&text, Role::Server, &mut found).map_err(|mut found| {
        for finding in &mut found {
            finding.file = Some(path.to_path_buf());
        }
        found
    })?;
    let mut shared = Shared::default();
    let mut sharing = Sharing {
        host,
        env,
        shared: &mut shared,
    };
    let Some(top) = document.value.as_object() else {
        return Ok(shared);
    };
    let listed = top.get("servers").and_then(Value::as_array);
    if top.contains_key("server") || top.contains_key("server_port") || listed.is_none() {
        sharing.entry(top, "the server");
    }
    for (index, entry) in listed.into_iter().flatten().enumerate() {
        if let Some(entry) = entry.as_object() {
            sharing.entry(entry, &format!("servers[{index}]"));
        }
    }
    Ok(shared)
}

struct Sharing<'a> {
    host: Option<&'a str>,
    env: &'a dyn Fn(&str) -> Option<String>,
    shared: &'a mut Shared,
}

impl Sharing<'_> {
    fn entry(&mut self, entry: &Map<String, Value>, at: &str) {
        if entry.get("disabled") == Some(&Value::Bool(true)) {
            return;
        }
        let name = words(entry, "remarks").or_else(|| words(entry, "id"));
        let at = match &name {
            Some(name) => format!("{at} ({name})"),
            None => at.to_owned(),
        };
        if let Err(why) = self.servers(entry, name) {
            self.shared.left_out.push(format!("{at}: {why}"));
        }
    }

    fn servers(&mut self, entry: &Map<String, Value>, name: Option<String>) -> Result<(), String> {
        let method = words(entry, "method").unwrap_or_else(|| DEFAULT_METHOD.to_owned());
        let known: Method = method
            .parse()
            .map_err(|error: crate::crypto::MethodError| error.to_string())?;
        if entry.get("transport").is_some_and(|value| !is_blank(value)) {
            return Err("`transport` has no place in a URL; `plugin` has".to_owned());
        }
        let ports: Vec<(Option<String>, Option<Secret>)> =
            match entry.get("port_password").and_then(Value::as_object) {
                Some(ports) => ports
                    .iter()
                    .map(|(port, password)| (Some(port.clone()), self.secret(password)))
                    .collect(),
                None => {
                    let password = entry.get("password").and_then(|value| self.secret(value));
                    vec![(words(entry, "server_port"), password)]
                }
            };
        for (port, password) in ports {
            let password = match (password, known.family()) {
                (Some(password), _) => password,
                (None, Family::Plain) => Secret::default(),
                (None, Family::Aead2017) if has_users(entry) => Secret::default(),
                (None, _) => return Err("it has no `password`".to_owned()),
            };
            for address in self.addresses(entry, port.as_deref())? {
                let server = ServerUrl {
                    address,
                    method: method.clone(),
                    password: password.clone(),
                    plugin: plugin(entry),
                    name: name.clone(),
                };
                self.users(entry, known, server);
            }
        }
        Ok(())
    }

    /// One URL, or one for each user of the server.
    fn users(&mut self, entry: &Map<String, Value>, method: Method, server: ServerUrl) {
        let users = entry.get("users").and_then(Value::as_array);
        let Some(users) = users.filter(|users| !users.is_empty()) else {
            self.shared.urls.push(server);
            return;
        };
        for user in users.iter().filter_map(Value::as_object) {
            if let Some(password) = user.get("password").and_then(|value| self.secret(value)) {
                // Under AEAD-2017 methods, each has a password of its own and the server has none.
                let password = match method.family() {
                    Family::Aead2017 => password,
                    _ => format!("{}:{}", server.password.expose(), password.expose()).into(),
                };
                self.shared.urls.push(ServerUrl {
                    password,
                    name: words(user, "name"),
                    ..server.clone()
                });
            }
        }
    }

    fn addresses(
        &self,
        entry: &Map<String, Value>,
        port: Option<&str>,
    ) -> Result<Vec<Address>, String> {
        let hosts = match (self.host, entry.get("server")) {
            (Some(host), _) => vec![host.to_owned()],
            (None, Some(Value::Array(hosts))) => hosts
                .iter()
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect(),
            (None, Some(Value::String(host))) => vec![host.clone()],
            (None, _) => Vec::new(),
        };
        if hosts.is_empty() {
            return Err("it has no `server`; name it with --host HOST".to_owned());
        }
        hosts.iter().map(|host| address(host, port)).collect()
    }

    /// The password, from the environment if it is `"${VAR}"`.
    fn secret(&self, value: &Value) -> Option<Secret> {
        let text = text(value)?;
        let variable = text
            .strip_prefix("${")
            .and_then(|rest| rest.strip_suffix('}'))
            .and_then(|name| (self.env)(name));
        Some(Secret::from(variable.unwrap_or(text)))
    }
}

fn has_users(entry: &Map<String, Value>) -> bool {
    let users = entry.get("users").and_then(Value::as_array);
    users.is_some_and(|users| !users.is_empty())
}

fn address(host: &str, port: Option<&str>) -> Result<Address, String> {
    let host = host.trim();
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let whole = match (bare.parse::<IpAddr>(), port) {
        (Ok(ip), _) if ip.is_unspecified() => {
            return Err(format!(
                "{ip} is an address to listen on: name the public one with --host HOST"
            ));
        }
        (Ok(IpAddr::V6(ip)), Some(port)) => format!("[{ip}]:{port}"),
        (Ok(ip), Some(port)) => format!("{ip}:{port}"),
        (Err(_), _) if host.contains(':') => host.to_owned(),
        (Err(_), Some(port)) => format!("{host}:{port}"),
        (_, None) => return Err("it has no `server_port`".to_owned()),
    };
    whole
        .parse()
        .map_err(|_| "`server` and `server_port` are not an address".to_owned())
}

/// `plugin` and `plugin_opts` as SIP002 joins them.
fn plugin(entry: &Map<String, Value>) -> Option<String> {
    let name = words(entry, "plugin")?;
    // Others know it by its own name only.
    let name = name.strip_prefix("builtin:").unwrap_or(&name);
    Some(match words(entry, "plugin_opts") {
        Some(options) => format!("{name};{options}"),
        None => name.to_owned(),
    })
}

fn words(entry: &Map<String, Value>, key: &str) -> Option<String> {
    entry
        .get(key)
        .and_then(text)
        .filter(|text| !text.is_empty())
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use super::*;

    fn shared(config: &str, host: Option<&str>) -> (Vec<String>, Vec<String>) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), config).unwrap();
        let env = |name: &str| (name == "SECRET").then(|| "hunter2".to_owned());
        let shared = share(file.path(), host, &env).unwrap();
        let urls = shared.urls.iter().map(|url| url.encode().to_string());
        (urls.collect(), shared.left_out)
    }

    #[test]
    fn the_servers_of_a_config_become_urls() {
        let (urls, left_out) = shared(
            r#"{"server": ["a.example", "[::1]:9"], "server_port": "8388", "password": 123, "method": "aes-128-gcm",
                "servers": [
                    {"server": "192.0.2.1", "server_port": 1, "password": "${SECRET}", "method": "2022-blake3-aes-256-gcm",
                     "remarks": "Zürich 1", "plugin": "builtin:v2ray-plugin", "plugin_opts": "tls;host=x"},
                    {"server": "192.0.2.2", "server_port": 1, "password": "p", "method": "aes-128-gcm", "disabled": true},
                    {"server": "0.0.0.0", "server_port": 1, "password": "p", "method": "aes-128-gcm", "id": "wild"},
                    {"server": "192.0.2.3", "server_port": 1, "password": "p", "method": "rc4-md5"}
                ]}"#,
            None,
        );
        assert_eq!(
            urls,
            [
                "ss://YWVzLTEyOC1nY206MTIz@a.example:8388",
                "ss://YWVzLTEyOC1nY206MTIz@[::1]:9",
                "ss://2022-blake3-aes-256-gcm:hunter2@192.0.2.1:1/?plugin=v2ray-plugin%3Btls%3Bhost%3Dx#Z%C3%BCrich%201",
            ]
        );
        assert_eq!(left_out.len(), 2, "{left_out:?}");
        assert!(left_out[0].starts_with("servers[2] (wild): 0.0.0.0 is an address to listen on"));
        assert!(left_out[1].contains("rc4-md5"));
    }

    #[test]
    fn users_of_older_methods_have_urls_with_their_passwords_alone() {
        let (urls, left_out) = shared(
            r#"{"server": "::", "server_port": 8388, "method": "aes-128-gcm",
                "users": [{"name": "ann", "password": "anns"}, {"name": "bob", "password": "bobs"}]}"#,
            Some("vpn.example"),
        );
        assert_eq!(
            urls,
            [
                "ss://YWVzLTEyOC1nY206YW5ucw@vpn.example:8388#ann",
                "ss://YWVzLTEyOC1nY206Ym9icw@vpn.example:8388#bob",
            ]
        );
        assert!(left_out.is_empty(), "{left_out:?}");
    }

    #[test]
    fn each_user_has_a_url_and_the_host_can_be_named() {
        let (urls, left_out) = shared(
            r#"{"server": "::", "server_port": 8388, "password": "server", "method": "2022-blake3-aes-128-gcm",
                "users": [{"name": "ann", "password": "a=="}, {"name": "bob", "password": "b=="}]}"#,
            Some("vpn.example"),
        );
        assert_eq!(
            urls,
            [
                "ss://2022-blake3-aes-128-gcm:server%3Aa%3D%3D@vpn.example:8388#ann",
                "ss://2022-blake3-aes-128-gcm:server%3Ab%3D%3D@vpn.example:8388#bob",
            ]
        );
        assert!(left_out.is_empty());
    }
}
