//! Proxies of Clash and mihomo.

use serde_json::{Map, Value};

use super::error::ImportError;
use super::found::{Entry, Found, filled, is_on, multiplex, number, text};

/// Parses YAML.
///
/// # Errors
/// [`ImportError::Yaml`].
pub(super) fn parse(yaml: &str) -> Result<Value, ImportError> {
    // Its defaults bound depth, aliases and the number of nodes.
    serde_saphyr::from_str(yaml).map_err(|error: serde_saphyr::Error| ImportError::Yaml {
        line: error.location().map_or(0, |at| at.line()),
    })
}

pub(super) fn read(document: &Value, found: &mut Found) {
    let Some(top) = document.as_object() else {
        return;
    };
    let proxies = top.get("proxies").and_then(Value::as_array);
    for (index, proxy) in proxies.into_iter().flatten().enumerate() {
        let at = format!("proxy {}", index + 1);
        match proxy.as_object() {
            Some(proxy) => one(proxy, &at, found),
            None => found.leave_out(format!("{at}: not an object")),
        }
    }
    found.leave_out_keys("", top, &["proxies"]);
}

fn one(proxy: &Map<String, Value>, at: &str, found: &mut Found) {
    let name = filled(text(proxy, "name"));
    let shown = name
        .as_ref()
        .map(|name| format!(" ({name})"))
        .unwrap_or_default();
    let kind = text(proxy, "type");
    if kind != "ss" {
        found.leave_out(format!("{at}{shown}: of type `{kind}`, not `ss`"));
        return;
    }
    let known = [
        "name",
        "type",
        "server",
        "port",
        "cipher",
        "password",
        "udp",
        "plugin",
        "plugin-opts",
        "udp-over-tcp",
        "udp-over-tcp-version",
        "smux",
    ];
    found.leave_out_keys(at, proxy, &known);
    let empty = Map::new();
    let options = proxy
        .get("plugin-opts")
        .and_then(Value::as_object)
        .unwrap_or(&empty);
    let (plugin, plugin_opts) = match text(proxy, "plugin").as_str() {
        "" => (None, None),
        "obfs" => ("obfs-local".to_owned().into(), Some(obfs(options))),
        "v2ray-plugin" => {
            let known = ["mode", "tls", "host", "path", "mux"];
            found.leave_out_keys(&format!("{at}: plugin-opts"), options, &known);
            ("v2ray-plugin".to_owned().into(), Some(v2ray(options)))
        }
        other => {
            let why = format!("its plugin `{other}` has no counterpart");
            found.leave_out(format!("{at}{shown}: {why}"));
            return;
        }
    };
    let keys = proxy.get("smux").and_then(Value::as_object);
    let multiplex = keys
        .filter(|_| !is_on(proxy, "udp-over-tcp"))
        .and_then(|keys| multiplex(keys, |key| key.replace('_', "-"), at, found));
    let entry = Entry {
        name,
        host: text(proxy, "server"),
        port: number(proxy, "port"),
        method: text(proxy, "cipher"),
        password: text(proxy, "password"),
        plugin,
        plugin_opts,
        // UDP is off there unless it is switched on.
        mode: (!is_on(proxy, "udp")).then_some("tcp_only"),
        // Its servers take both versions.
        udp_over_tcp: is_on(proxy, "udp-over-tcp")
            .then(|| number(proxy, "udp-over-tcp-version").unwrap_or(2)),
        multiplex,
        disabled: false,
    };
    found.add(at, entry);
}

/// The options of simple-obfs.
fn obfs(options: &Map<String, Value>) -> String {
    let mut all = format!("obfs={}", escaped(&text(options, "mode")));
    if let Some(host) = filled(text(options, "host")) {
        all.push_str(&format!(";obfs-host={}", escaped(&host)));
    }
    all
}

/// The options of v2ray-plugin.
fn v2ray(options: &Map<String, Value>) -> String {
    let mut all = Vec::new();
    if is_on(options, "tls") {
        all.push("tls".to_owned());
    }
    for key in ["host", "path"] {
        if let Some(value) = filled(text(options, key)) {
            all.push(format!("{key}={}", escaped(&value)));
        }
    }
    if options.get("mux") == Some(&Value::Bool(false)) {
        all.push("mux=0".to_owned());
    }
    all.join(";")
}

/// A value of SIP003's options.
fn escaped(value: &str) -> String {
    value
        .chars()
        .flat_map(|c| {
            let mark = matches!(c, ';' | '=' | '\\').then_some('\\');
            mark.into_iter().chain([c])
        })
        .collect()
}
