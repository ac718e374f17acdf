//! JSON: SIP008, shadowsocks-windows, shadowsocks-android, and what leads to the other formats.

use serde_json::{Map, Value};

use super::error::ImportError;
use super::found::{Entry, Found, filled, is_on, number, text};
use super::{clash, sing_box};

/// The keys of a server that all of these programs have.
const SERVER: &[&str] = &[
    "id",
    "remarks",
    "name",
    "server",
    "server_port",
    "method",
    "password",
    "plugin",
    "plugin_opts",
    "mode",
    "disabled",
];
/// Keys of Android's profiles that are about the phone, or are measured.
const PHONE: &[&str] = &["metered", "proxy_apps", "tx", "rx", "userOrder"];

pub(super) fn read(value: &Value, found: &mut Found) -> Result<&'static str, ImportError> {
    let top = match value {
        Value::Array(profiles) => {
            list(profiles, "profile", PHONE, found);
            return Ok("shadowsocks-android");
        }
        Value::Object(top) => top,
        _ => return Err(ImportError::Unknown),
    };
    let array = |key| top.get(key).and_then(Value::as_array);
    if let Some(configs) = array("configs") {
        windows(top, configs, found);
        return Ok("shadowsocks-windows");
    }
    if array("outbounds").is_some() {
        sing_box::read(top, found);
        return Ok("sing-box");
    }
    if array("proxies").is_some() {
        clash::read(value, found);
        return Ok("Clash");
    }
    if let Some(servers) = array("servers") {
        list(servers, "server", &[], found);
        let known = ["version", "servers", "bytes_used", "bytes_remaining"];
        found.leave_out_keys("", top, &known);
        return Ok("SIP008");
    }
    if top.contains_key("server") {
        server(top, "the server", &["local_port"], found);
        found.local_port = number(top, "local_port").and_then(|port| port.try_into().ok());
        return Ok("a server");
    }
    Err(ImportError::Unknown)
}

fn list(servers: &[Value], what: &str, ignored: &[&str], found: &mut Found) {
    for (index, entry) in servers.iter().enumerate() {
        let at = format!("{what} {}", index + 1);
        match entry.as_object() {
            Some(entry) => server(entry, &at, ignored, found),
            None => found.leave_out(format!("{at}: not an object")),
        }
    }
}

fn server(entry: &Map<String, Value>, at: &str, ignored: &[&str], found: &mut Found) {
    let name = filled(text(entry, "remarks")).or_else(|| filled(text(entry, "name")));
    let mode = match text(entry, "mode").as_str() {
        "tcp_only" => Some("tcp_only"),
        "udp_only" => Some("udp_only"),
        _ => None,
    };
    let known: Vec<&str> = SERVER.iter().chain(ignored).copied().collect();
    found.leave_out_keys(at, entry, &known);
    found.add(
        at,
        Entry {
            name,
            mode,
            udp_over_tcp: None,
            multiplex: None,
            disabled: is_on(entry, "disabled"),
            ..Entry::of(entry)
        },
    );
}

/// `gui-config.json`.
fn windows(top: &Map<String, Value>, configs: &[Value], found: &mut Found) {
    for (index, entry) in configs.iter().enumerate() {
        let at = format!("server {}", index + 1);
        let Some(entry) = entry.as_object() else {
            continue;
        };
        // The dial timeout and the group in its menu mean nothing here.
        server(entry, &at, &["timeout", "group"], found);
    }
    found.local_port = number(top, "localPort").and_then(|port| port.try_into().ok());
    // What its window shows and remembers.
    let window = [
        "configs",
        "localPort",
        "index",
        "version",
        "enabled",
        "global",
        "autoCheckUpdate",
        "checkPreRelease",
        "isVerboseLogging",
        "isDefault",
        "isIPv6Enabled",
        "firstRun",
        "skippedUpdateVersion",
        "logViewer",
        "hotkey",
        "userAgent",
        "geositeUrl",
        "geositeDirectGroups",
        "geositeProxiedGroups",
        "generateLegacyUrl",
        "portableMode",
        "availabilityStatistics",
    ];
    found.leave_out_keys("", top, &window);
}
