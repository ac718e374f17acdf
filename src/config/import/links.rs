//! Links, one a line.

use super::found::{Entry, Found};
use crate::config::url::ServerUrl;

/// Whether each line is a link or a comment, and one is a link.
pub(super) fn has_links(text: &str) -> bool {
    let is_link = |line: &str| {
        let scheme = line.trim().split_once("://").map(|(scheme, _)| scheme);
        scheme.is_some_and(|scheme| scheme.chars().all(|c| c.is_ascii_alphanumeric()))
    };
    let mut lines = text.lines().filter(|line| !is_comment(line)).peekable();
    lines.peek().is_some() && lines.all(is_link)
}

fn is_comment(line: &str) -> bool {
    let line = line.trim();
    line.is_empty() || line.starts_with('#') || line.starts_with("//")
}

/// One link a line.
pub(super) fn links(text: &str, found: &mut Found) {
    for (index, line) in text.lines().enumerate() {
        if is_comment(line) {
            continue;
        }
        let at = format!("line {}", index + 1);
        let scheme = line.trim().split("://").next().unwrap_or_default();
        if !scheme.eq_ignore_ascii_case("ss") {
            found.leave_out(format!("{at}: a link of `{scheme}`, not of Shadowsocks"));
            continue;
        }
        match line.parse::<ServerUrl>() {
            Err(error) => found.leave_out(format!("{at}: {error}")),
            Ok(url) => {
                let (plugin, options) = match &url.plugin {
                    Some(plugin) => plugin.split_once(';').unwrap_or((plugin, "")),
                    None => ("", ""),
                };
                let entry = Entry {
                    name: url.name.clone(),
                    host: host(&url),
                    port: Some(u64::from(url.address.port())),
                    method: url.method.clone(),
                    password: url.password.expose().to_owned(),
                    plugin: Some(plugin.to_owned()),
                    plugin_opts: Some(options.to_owned()),
                    ..Entry::default()
                };
                found.add(&at, entry);
            }
        }
    }
}

fn host(url: &ServerUrl) -> String {
    match &url.address {
        crate::wire::Address::Ip(address) => address.ip().to_string(),
        crate::wire::Address::Domain(name, _) => name.to_string(),
    }
}
