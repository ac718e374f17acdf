//! Plugins that are programs (SIP003): `plugin`, `plugin_opts`, `plugin_args` and `plugin_mode`.

use serde_json::Value;

use super::between::Plugin;
use super::context::{Context, filled, key_at};
use super::model::Mode;
use super::plugin::{is_builtin, is_installed};
use crate::config::secret::Secret;
use crate::config::written::file;
use crate::config::written::schema;

/// What begins the name of a plugin that is built in.
const BUILTIN: &str = "builtin:";

/// The program that the entry at `at` asks for; `mode` is what its server serves.
pub(super) fn program(
    entry: &file::Server,
    at: &str,
    mode: Mode,
    cx: &mut Context<'_>,
) -> Option<Plugin> {
    let name = filled(entry.plugin.as_deref()).filter(|name| !is_builtin(name, cx))?;
    let path = key_at(at, "plugin");
    if name.starts_with(BUILTIN) {
        cx.report.error_hint(
            &path,
            format!("`{name}` is not built in"),
            "`builtin:v2ray-plugin` is; for a program, write its name alone",
        );
        return None;
    }
    if entry.transport.is_some() {
        // The other error, of `transport`, says what to do.
        return None;
    }
    if cx.files && !is_installed(&name, cx) {
        let searched = (cx.env)("PATH").unwrap_or_default();
        cx.report.error_hint(
            &path,
            format!("the plugin `{name}` is not installed: there is no such program on PATH, which is `{searched}`"),
            "install it, or write its whole path",
        );
    }
    // As in shadowsocks-rust, datagrams go beside a plugin unless it is said to carry them.
    let through = cx.mode(
        &key_at(at, "plugin_mode"),
        entry.plugin_mode.as_deref(),
        Mode::TCP_ONLY,
    );
    let plugin = Plugin {
        program: name,
        options: filled(entry.plugin_opts.as_deref()).map(Secret::from),
        arguments: arguments(entry, &key_at(at, "plugin_args"), cx),
        tcp: through.tcp && mode.tcp,
        udp: through.udp && mode.udp,
    };
    if !plugin.tcp && !plugin.udp {
        let message = format!(
            "the plugin carries nothing: `mode` is `{}` and `plugin_mode` is `{}`",
            mode.name(),
            through.name()
        );
        cx.report
            .error_hint(&path, message, "let them have TCP or UDP in common");
        return None;
    }
    Some(plugin)
}

fn arguments(entry: &file::Server, path: &str, cx: &mut Context<'_>) -> Vec<Secret> {
    let written = match &entry.plugin_args {
        None => return Vec::new(),
        Some(value) if schema::is_blank(value) => return Vec::new(),
        Some(value) => value,
    };
    let text = |value: &Value| value.as_str().map(|text| Secret::from(text.to_owned()));
    let arguments: Option<Vec<Secret>> = written
        .as_array()
        .and_then(|values| values.iter().map(text).collect());
    if arguments.is_none() {
        let message = "the arguments of a plugin are an array of strings";
        cx.report
            .error_hint(path, message, "write `[\"-fast-open\", \"-verbose\"]`");
    }
    arguments.unwrap_or_default()
}
