//! Command line flags override the file. Each flag is a value at a key path, so it is validated like one of the file.

use serde_json::{Map, Value};

use super::text::document::Document;
use super::url::{ServerUrl, UrlError};

/// The variable with the password of a server given by flags, if there is no `-k`.
const PASSWORD_VARIABLE: &str = "SS_SERVER_PASSWORD";

/// Keys that describe a server: a server given by flags replaces all of them.
const SERVER_KEYS: [&str; 15] = [
    "server",
    "server_port",
    "password",
    "method",
    "users",
    "key",
    "port_password",
    "remarks",
    "id",
    "servers",
    "transport",
    "plugin",
    "plugin_opts",
    "plugin_args",
    "plugin_mode",
];

/// Keys that describe a listener of `ssr local`: one given by flags replaces all of them.
const LOCAL_KEYS: [&str; 4] = ["locals", "local_address", "local_port", "protocol"];

/// The values of the flags. No `Debug`: there may be passwords in it.
#[derive(Default)]
pub struct Overrides {
    server: Option<Map<String, Value>>,
    server_flag: &'static str,
    local: Map<String, Value>,
    mode: Option<(&'static str, &'static str)>,
    forwards: Vec<Value>,
    rest: Vec<(&'static str, Value, &'static str)>,
}

impl Overrides {
    /// `-s`, `-m`, `-k`: one server in place of those in the file. `address` is `host:port`.
    pub fn server(&mut self, address: &str, method: Option<&str>, password: Option<&str>) {
        let mut server = Map::new();
        server.insert("server".to_owned(), address.into());
        server.extend(method.map(|method| ("method".to_owned(), method.into())));
        server.extend(password.map(|password| ("password".to_owned(), password.into())));
        self.server = Some(server);
        self.server_flag = "--server-addr";
    }

    /// `--server-url`: one server in place of those in the file.
    ///
    /// # Errors
    /// [`UrlError`].
    pub fn server_url(&mut self, url: &str) -> Result<(), UrlError> {
        let url: ServerUrl = url.parse()?;
        self.server(
            &url.address.to_string(),
            Some(&url.method),
            Some(url.password.expose()),
        );
        self.server_flag = "--server-url";
        if let (Some(server), Some(name)) = (&mut self.server, url.name) {
            server.insert("remarks".to_owned(), name.into());
        }
        if let (Some(server), Some(plugin)) = (&mut self.server, url.plugin) {
            let (name, options) = plugin.split_once(';').unwrap_or((&plugin, ""));
            server.insert("plugin".to_owned(), name.into());
            server.insert("plugin_opts".to_owned(), options.into());
        }
        Ok(())
    }

    /// A key of an entry of `locals`: one listener in place of those in the file.
    pub fn local(&mut self, key: &'static str, value: impl Into<Value>) {
        self.local.insert(key.to_owned(), value.into());
    }

    /// The mode, by its name, in place of every `mode` in the file.
    pub fn mode(&mut self, mode: &'static str, flag: &'static str) {
        self.mode = Some((mode, flag));
    }

    /// `LISTEN TARGET`: a forward, in place of those in the file.
    pub fn forward(&mut self, listen: &str, target: &str) {
        let mut forward = Map::new();
        forward.insert("listen".to_owned(), listen.into());
        forward.insert("target".to_owned(), target.into());
        self.forwards.push(Value::Object(forward));
    }

    /// Sets the value at `path` (keys joined by dots).
    pub fn set(&mut self, path: &'static str, value: impl Into<Value>, flag: &'static str) {
        self.rest.push((path, value.into(), flag));
    }

    /// Whether the flags can run without a file.
    pub fn are_enough(&self) -> bool {
        self.server.is_some() || !self.forwards.is_empty()
    }

    /// Applies all flags to `document`.
    pub(super) fn apply(&self, document: &mut Document, env: &dyn Fn(&str) -> Option<String>) {
        if let Some(server) = &self.server {
            let password = server
                .get("password")
                .cloned()
                .or_else(|| env(PASSWORD_VARIABLE).map(Value::String));
            for key in SERVER_KEYS {
                let value = match key {
                    "password" => password.clone(),
                    _ => server.get(key).cloned(),
                };
                let flag = match (key, self.server_flag) {
                    ("password", "--server-addr") => "--password",
                    ("method", "--server-addr") => "--encrypt-method",
                    (_, flag) => flag,
                };
                document.set(key, value.unwrap_or_default(), flag);
            }
        }
        if !self.local.is_empty() {
            for key in LOCAL_KEYS {
                document.set(key, Value::Null, "--local-addr");
            }
            let local = Value::Object(self.local.clone());
            document.set("locals", Value::Array(vec![local]), "--local-addr");
        }
        if let Some((mode, flag)) = self.mode {
            document.set("mode", mode.into(), flag);
            document.forget("servers", "mode");
            document.forget("locals", "mode");
        }
        if !self.forwards.is_empty() {
            let forwards = Value::Array(self.forwards.clone());
            document.set("forwards", forwards, "LISTEN TARGET");
            for index in 0..self.forwards.len() {
                document.name(format!("forwards[{index}].listen"), "LISTEN");
                document.name(format!("forwards[{index}].target"), "TARGET");
            }
        }
        for (path, value, flag) in &self.rest {
            if *path == "timeouts.idle" {
                document.forget("servers", "timeout");
            }
            document.set(path, value.clone(), flag);
        }
    }
}
