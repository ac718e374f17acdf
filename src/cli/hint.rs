//! What `ssr local` shows on a terminal: where to point programs.

use std::io::{self, IsTerminal as _, Write as _};

use ssr::config::{Config, Local, Role};
use ssr::wire::address::Address;

/// Writes three lines to standard error, if that is a terminal.
pub(crate) fn show(config: &Config) {
    let mut stderr = io::stderr();
    if config.role != Role::Local || !stderr.is_terminal() {
        return;
    }
    if let Some(text) = config.locals.iter().find_map(text) {
        // A failure has nowhere to be reported.
        let _ = stderr.write_all(text.as_bytes());
    }
}

/// The lines for a listener that a browser can use.
fn text(local: &Local) -> Option<String> {
    let (name, scheme, note) = match local.protocol.name() {
        "socks" | "mixed" => (
            "SOCKS5",
            "socks5h",
            "; tick \"Proxy DNS when using SOCKS v5\"",
        ),
        "http" => ("HTTP", "http", ""),
        _ => return None,
    };
    if !local.mode.tcp {
        return None;
    }
    let (host, port) = match local.address.address()? {
        Address::Ip(ip) if ip.ip().is_unspecified() => ("127.0.0.1".to_owned(), ip.port()),
        Address::Ip(ip) => (ip.ip().to_string(), ip.port()),
        Address::Domain(name, port) => (name.to_string(), *port),
    };
    let in_url = match host.contains(':') {
        true => format!("[{host}]"),
        false => host.clone(),
    };
    Some(format!(
        "\n  Browser:   {name} proxy, host {host}, port {port}{note}\n  \
           Chromium:  chromium --proxy-server={}://{in_url}:{port}\n  \
           Terminal:  curl --proxy {scheme}://{in_url}:{port} https://example.com/\n\n",
        scheme.trim_end_matches('h'),
    ))
}
