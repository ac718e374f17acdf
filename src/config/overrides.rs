//! Command line flags override the file. Each flag is a value at a key path, so it is validated like one of the file.

use serde_json::{Map, Value};

use super::text::diagnostic::{Diagnostic, Severity};
use super::text::document::Document;
use super::url::{ServerUrl, UrlError};
use super::written::schema::{self, Fate, Kind};

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
const LOCAL_KEYS: [&str; 7] = [
    "locals",
    "local_address",
    "local_port",
    "local_socket_mode",
    "systemd_tcp_socket_name",
    "systemd_udp_socket_name",
    "protocol",
];

/// The values of the flags. No `Debug`: there may be passwords in it.
#[derive(Clone, Default)]
pub struct Overrides {
    server: Option<Map<String, Value>>,
    server_flag: &'static str,
    local: Map<String, Value>,
    mode: Option<(&'static str, &'static str)>,
    default_mode: Option<&'static str>,
    default_method: Option<&'static str>,
    listen_as: Option<&'static str>,
    forwards: Vec<Value>,
    needs_manager: bool,
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

    /// The mode where neither a flag nor the file has one.
    pub fn default_mode(&mut self, mode: &'static str) {
        self.default_mode = Some(mode);
    }

    /// The method of the server at the top level where neither a flag nor the file has one.
    pub fn default_method(&mut self, method: &'static str) {
        self.default_method = Some(method);
    }

    /// The protocol of the listener that the top level describes: `tunnel` for ss-tunnel, `redir` for ss-redir.
    pub fn listen_as(&mut self, protocol: &'static str) {
        self.listen_as = Some(protocol);
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

    /// A manager is needed: from a flag, or from the file.
    pub fn need_manager(&mut self) {
        self.needs_manager = true;
    }

    /// Whether the flags can run without a file.
    pub fn are_enough(&self) -> bool {
        let has_manager = || {
            self.rest
                .iter()
                .any(|(path, ..)| *path == "manager_address")
        };
        self.server.is_some() || !self.forwards.is_empty() || has_manager()
    }

    /// Applies all flags to `document`. Those of features that are not supported yet go to `found`.
    pub(super) fn apply(
        &self,
        document: &mut Document,
        env: &dyn Fn(&str) -> Option<String>,
        found: &mut Vec<Diagnostic>,
    ) {
        self.refuse(found);
        self.apply_server(document, env);
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
        if let Some(mode) = self.default_mode
            && document.value.get("mode").is_none_or(Value::is_null)
        {
            document.set("mode", mode.into(), "mode");
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
        let is_blank = |key| document.value.get(key).is_none_or(Value::is_null);
        if self.needs_manager && is_blank("manager_address") {
            let message = "missing: where commands come, as HOST:PORT or the path of a unix socket";
            found.push(Diagnostic::new(Severity::Error, "manager_address", message));
        }
        if let Some(method) = self.default_method
            && is_blank("method")
            && !is_blank("server")
        {
            document.set("method", method.into(), "method");
        }
        match self.listen_as {
            Some(protocol) => listen_as(protocol, document),
            // ss-local takes no notice of the keys of the others.
            None if self.default_method.is_some() => {
                document.set("tunnel_address", Value::Null, "ss-local");
                document.set("tcp_tproxy", Value::Null, "ss-local");
            }
            None => {}
        }
    }

    fn apply_server(&self, document: &mut Document, env: &dyn Fn(&str) -> Option<String>) {
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
    }

    /// Reports flags whose keys are not supported.
    fn refuse(&self, found: &mut Vec<Diagnostic>) {
        let top = self.rest.iter().map(|(path, _, flag)| {
            let key = path.split('.').next().unwrap_or_default();
            (schema::fate(Kind::Top, key), *flag)
        });
        let local = self
            .local
            .keys()
            .map(|key| (schema::fate(Kind::Local, key), key.as_str()));
        for (fate, flag) in top.chain(local) {
            let (severity, message) = match fate {
                Fate::Withdrawn(why) => (Severity::Error, why.to_owned()),
                Fate::NoEffect(why) => (Severity::Warning, format!("no effect: {why}")),
                _ => continue,
            };
            let finding = Diagnostic::new(severity, flag, message);
            if !found.contains(&finding) {
                found.push(finding);
            }
        }
    }
}

/// Makes the listener of the top level one of another protocol, with the keys of shadowsocks-libev.
fn listen_as(protocol: &str, document: &mut Document) {
    let mut take = |key: &str| {
        document
            .value
            .as_object_mut()
            .and_then(|top| top.remove(key))
            .filter(|value| !value.is_null())
    };
    let mut local = Map::new();
    local.insert("protocol".to_owned(), protocol.into());
    for key in [
        "local_address",
        "local_port",
        "local_socket_mode",
        "systemd_tcp_socket_name",
        "systemd_udp_socket_name",
    ] {
        local.extend(take(key).map(|value| (key.to_owned(), value)));
    }
    let target = take("tunnel_address");
    if let Some(target) = target.as_ref().and_then(Value::as_str) {
        let (host, port) = target.rsplit_once(':').unwrap_or((target, ""));
        local.insert("forward_address".to_owned(), host.into());
        local.insert("forward_port".to_owned(), port.into());
    }
    if let Some(Value::Bool(true)) = take("tcp_tproxy") {
        local.insert("tcp_redir".to_owned(), "tproxy".into());
    }
    let locals = Value::Array(vec![Value::Object(local)]);
    document.set("locals", locals, "the listener");
}
