//! The servers that were read, and what was left out.

use serde_json::{Map, Value, json};

use crate::config::written::schema::is_blank;
use crate::crypto::Method;
use crate::limits::MAX_FINDINGS;

/// What was read so far.
#[derive(Default)]
pub(super) struct Found {
    pub(super) servers: Vec<Value>,
    pub(super) local_port: Option<u16>,
    pub(super) left_out: Vec<String>,
}

/// A server of another program.
#[derive(Default)]
pub(super) struct Entry {
    pub(super) name: Option<String>,
    pub(super) host: String,
    pub(super) port: Option<u64>,
    pub(super) method: String,
    pub(super) password: String,
    pub(super) plugin: Option<String>,
    pub(super) plugin_opts: Option<String>,
    pub(super) mode: Option<&'static str>,
    /// The version of UDP over TCP.
    pub(super) udp_over_tcp: Option<u64>,
    /// `multiplex`, with the keys of sing-box.
    pub(super) multiplex: Option<Value>,
    pub(super) disabled: bool,
}

impl Entry {
    /// The server in `object`, whose keys have the names of shadowsocks-rust.
    pub(super) fn of(object: &Map<String, Value>) -> Self {
        Self {
            host: text(object, "server"),
            port: number(object, "server_port"),
            method: text(object, "method"),
            password: text(object, "password"),
            plugin: filled(text(object, "plugin")),
            plugin_opts: filled(text(object, "plugin_opts")),
            ..Self::default()
        }
    }
}

impl Found {
    /// Adds a server, or says why it cannot be used.
    pub(super) fn add(&mut self, at: &str, entry: Entry) {
        let at = match entry.name.as_deref().filter(|name| !name.is_empty()) {
            Some(name) => format!("{at} ({name})"),
            None => at.to_owned(),
        };
        let wrong = match (entry.port, entry.method.parse::<Method>()) {
            _ if entry.host.is_empty() => Some("it has no server address".to_owned()),
            (Some(1..=65_535), Ok(_)) => None,
            (_, Ok(_)) => Some("its port is missing or wrong".to_owned()),
            (_, Err(error)) => Some(error.to_string()),
        };
        if let Some(wrong) = wrong {
            self.leave_out(format!("{at}: {wrong}"));
            return;
        }
        let mut server = Map::new();
        let mut set = |key: &str, value: Value| {
            if !is_blank(&value) {
                server.insert(key.to_owned(), value);
            }
        };
        set("remarks", entry.name.into());
        set("server", entry.host.into());
        set("server_port", entry.port.into());
        set("method", entry.method.into());
        set("password", entry.password.into());
        set("mode", entry.mode.into());
        set("disabled", entry.disabled.into());
        if let Some(version) = entry.udp_over_tcp {
            set("udp_over_tcp", json!({"enabled": true, "version": version}));
        }
        if let Some(multiplex) = entry.multiplex {
            set("multiplex", multiplex);
        }
        if let Some(plugin) = entry.plugin.filter(|plugin| !plugin.is_empty()) {
            set("plugin", plugin.into());
            set("plugin_opts", entry.plugin_opts.into());
        }
        self.servers.push(Value::Object(server));
    }

    pub(super) fn leave_out(&mut self, what: String) {
        match self.left_out.len() {
            0..MAX_FINDINGS => self.left_out.push(what),
            MAX_FINDINGS => self.left_out.push("and more".to_owned()),
            _ => {}
        }
    }

    /// Lists the keys of `object` that ask for something and are not in `known`.
    pub(super) fn leave_out_keys(&mut self, at: &str, object: &Map<String, Value>, known: &[&str]) {
        for (key, value) in object {
            if !known.contains(&key.as_str()) && !is_blank(value) {
                let at = if at.is_empty() {
                    String::new()
                } else {
                    format!("{at}: ")
                };
                self.leave_out(format!("{at}`{key}`"));
            }
        }
    }
}

/// `multiplex` as in `keys`, whose names are those of sing-box as `spelled`. What it has beside is left out.
pub(super) fn multiplex(
    keys: &Map<String, Value>,
    spelled: impl Fn(&str) -> String,
    at: &str,
    found: &mut Found,
) -> Option<Value> {
    const KEYS: [&str; 6] = [
        "enabled",
        "protocol",
        "max_connections",
        "min_streams",
        "max_streams",
        "padding",
    ];
    if !is_on(keys, "enabled") {
        return None;
    }
    let spelt = KEYS.map(spelled);
    let known: Vec<&str> = spelt.iter().map(String::as_str).collect();
    found.leave_out_keys(&format!("{at}: multiplex"), keys, &known);
    let mut kept = Map::new();
    for (key, theirs) in KEYS.iter().zip(&spelt) {
        if let Some(value) = keys.get(theirs).filter(|value| !is_blank(value)) {
            kept.insert((*key).to_owned(), value.clone());
        }
    }
    Some(Value::Object(kept))
}

/// The text of a key; numbers too, as passwords and ports are written.
pub(super) fn text(object: &Map<String, Value>, key: &str) -> String {
    match object.get(key) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Number(number)) => number.to_string(),
        _ => String::new(),
    }
}

pub(super) fn number(object: &Map<String, Value>, key: &str) -> Option<u64> {
    let value = object.get(key)?;
    value
        .as_u64()
        .or_else(|| value.as_str().and_then(|text| text.trim().parse().ok()))
}

pub(super) fn is_on(object: &Map<String, Value>, key: &str) -> bool {
    object.get(key) == Some(&Value::Bool(true))
}

pub(super) fn filled(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}
