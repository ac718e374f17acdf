//! Outbounds of sing-box.

use serde_json::{Map, Value};

use super::found::{Entry, Found, filled, is_on, multiplex, number, text};

pub(super) fn read(top: &Map<String, Value>, found: &mut Found) {
    let outbounds = top.get("outbounds").and_then(Value::as_array);
    for (index, outbound) in outbounds.into_iter().flatten().enumerate() {
        let at = format!("outbound {}", index + 1);
        let Some(outbound) = outbound.as_object() else {
            found.leave_out(format!("{at}: not an object"));
            continue;
        };
        let kind = text(outbound, "type");
        let name = filled(text(outbound, "tag"));
        if kind != "shadowsocks" {
            let name = name.map(|name| format!(" ({name})")).unwrap_or_default();
            found.leave_out(format!("{at}{name}: of type `{kind}`, not `shadowsocks`"));
            continue;
        }
        let known = [
            "type",
            "tag",
            "server",
            "server_port",
            "method",
            "password",
            "plugin",
            "plugin_opts",
            "network",
            "udp_over_tcp",
            "multiplex",
        ];
        found.leave_out_keys(&at, outbound, &known);
        let udp_over_tcp = udp_over_tcp(outbound.get("udp_over_tcp"));
        let keys = outbound.get("multiplex").and_then(Value::as_object);
        let multiplex = match (keys, udp_over_tcp) {
            (Some(keys), None) => multiplex(keys, |key| key.to_owned(), &at, found),
            // sing-box does not multiplex then.
            _ => None,
        };
        let entry = Entry {
            name,
            mode: match text(outbound, "network").as_str() {
                "tcp" => Some("tcp_only"),
                "udp" => Some("udp_only"),
                _ => None,
            },
            udp_over_tcp,
            multiplex,
            ..Entry::of(outbound)
        };
        found.add(&at, entry);
    }
    found.leave_out_keys("", top, &["outbounds", "$schema"]);
}

/// The version of UDP over TCP: `true`, or an object that is on.
fn udp_over_tcp(value: Option<&Value>) -> Option<u64> {
    /// The default of sing-box.
    const VERSION: u64 = 2;
    match value? {
        Value::Bool(true) => Some(VERSION),
        Value::Object(keys) if is_on(keys, "enabled") => {
            let version = number(keys, "version").filter(|version| *version > 0);
            Some(version.unwrap_or(VERSION))
        }
        _ => None,
    }
}
