//! `plugin` and `plugin_opts` where they mean the plugin that is built in. Other plugins are programs: [`super::program`].

use std::path::{Path, PathBuf};

use crate::net::tls::{Pem, Trust};
use crate::wire::http::Endpoint;

use super::context::{Context, EndpointRole, filled, key_at};
use super::model::{Tls, Transport, WebSocket};
use super::{tls, websocket};
use crate::config::written::{file, schema};

/// The plugin that is built in.
const OURS: &str = "v2ray-plugin";
/// The same, even where a program of that name is installed.
const BUILTIN: &str = "builtin:v2ray-plugin";
/// v2ray-plugin's default for `host`.
const DEFAULT_HOST: &str = "cloudfront.com";

/// The transport that `plugin` asks for, if it is the one that is built in.
pub(super) fn plugin(
    entry: &file::Server,
    at: &str,
    role: EndpointRole,
    cx: &mut Context<'_>,
) -> Option<Transport> {
    let name = filled(entry.plugin.as_deref())?;
    if !is_builtin(&name, cx) {
        return None;
    }
    refuse_arguments(entry, at, cx);
    let path = key_at(at, "plugin_opts");
    let text = entry.plugin_opts.as_deref().unwrap_or_default();
    Some(transport(text, &path, role, cx))
}

/// Whether `plugin` means the plugin that is built in, and not a program.
pub(super) fn is_builtin(name: &str, cx: &Context<'_>) -> bool {
    name == BUILTIN || (name == OURS && !is_installed(OURS, cx))
}

/// Refuses arguments for a program that does not run: if one of them asks for TLS, the traffic would go without.
fn refuse_arguments(entry: &file::Server, at: &str, cx: &mut Context<'_>) {
    let given = entry.plugin_args.as_ref();
    if given.is_some_and(|arguments| !schema::is_blank(arguments)) {
        cx.report.error_hint(
            &key_at(at, "plugin_args"),
            "arguments are for a program, and this plugin is built in",
            "put the options into `plugin_opts`: `tls;host=example.com`",
        );
    }
}

/// Whether there is a program of this name on `PATH`, or at this path.
pub(super) fn is_installed(name: &str, cx: &Context<'_>) -> bool {
    if name.contains('/') {
        return Path::new(name).is_file();
    }
    let path = (cx.env)("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(name).is_file())
}

/// Translates `plugin_opts`.
fn transport(text: &str, path: &str, role: EndpointRole, cx: &mut Context<'_>) -> Transport {
    let mut given = Options::default();
    for (key, value) in pairs(text) {
        if let Err((message, hint)) = given.take(&key, &value) {
            cx.report.error_hint(path, message, hint);
        }
    }
    for (ignored, message) in [
        (
            given.fast_open,
            "`fastOpen` has no effect here: use `\"fast_open\": true`",
        ),
        (
            given.mark,
            "`fwmark` has no effect here: use `outbound_fwmark`",
        ),
    ] {
        if ignored {
            cx.report.warn(path, message);
        }
    }
    let host = given.host.unwrap_or_else(|| DEFAULT_HOST.to_owned());
    let mut endpoint = Endpoint {
        path: given.path.unwrap_or_else(|| "/".to_owned()),
        host: Some(host.clone()),
        fields: Vec::new(),
    };
    if !endpoint.path.starts_with('/') {
        endpoint.path.insert(0, '/');
    }
    let path_of = |_: &str| path.to_owned();
    websocket::check(&endpoint, &path_of, cx);
    let tls = given.tls.then(|| Tls {
        at: path.to_owned(),
        server_name: Some(host.clone()),
        trust: Trust {
            ca: given.cert.clone(),
            ..Trust::default()
        },
        identity: tls::identity(given.cert, given.key, role, &path_of, cx),
    });
    if let Some(tls) = &tls {
        tls::try_files(tls, role, &host, &path_of, cx);
    }
    if role == EndpointRole::Listen {
        // v2ray-plugin looks at the path alone.
        endpoint.host = None;
    }
    Transport {
        quic: None,
        fallback: None,
        tls,
        ws: Some(WebSocket {
            endpoint,
            mux: given.mux.unwrap_or(true),
            trusted_proxies: Vec::new(),
        }),
        udp_inside: false,
        udp_datagrams: false,
        site: None,
    }
}

#[derive(Default)]
struct Options {
    tls: bool,
    host: Option<String>,
    path: Option<String>,
    mux: Option<bool>,
    cert: Option<Pem>,
    key: Option<Pem>,
    fast_open: bool,
    mark: bool,
}

impl Options {
    /// Sets one option.
    fn take(&mut self, key: &str, value: &str) -> Result<(), (String, &'static str)> {
        let file = || Some(Pem::File(expanded(value)));
        match key {
            "" | "server" | "loglevel" | "localAddr" | "localPort" | "remoteAddr"
            | "remotePort" => {}
            "tls" => self.tls = true,
            "host" => self.host = Some(value.to_owned()),
            "path" => self.path = Some(value.to_owned()),
            "cert" => self.cert = file(),
            "key" => self.key = file(),
            "certRaw" => {
                let head = "-----BEGIN CERTIFICATE-----";
                self.cert = Some(Pem::Text(match value.contains(head) {
                    true => value.into(),
                    false => format!("{head}\n{value}\n-----END CERTIFICATE-----\n").into(),
                }));
            }
            "fastOpen" | "fast-open" => self.fast_open = true,
            "fwmark" => self.mark = true,
            "mode" if value == "websocket" => {}
            "mode" if value == "quic" => {
                return Err((
                    "mode=quic: ssr does not have v2ray-plugin's QUIC, a protocol of its own"
                        .to_owned(),
                    "use mode=websocket on both sides, and add tls if the network is censored",
                ));
            }
            "mode" => {
                return Err((
                    format!("mode: unknown mode `{value}`"),
                    "use mode=websocket",
                ));
            }
            "mux" => match value.parse::<u32>() {
                Ok(count) => self.mux = Some(count > 0),
                Err(_) => {
                    return Err(("mux: not a number".to_owned(), "mux=0 switches it off"));
                }
            },
            _ => {
                return Err((
                    format!("unknown option `{key}` of v2ray-plugin"),
                    "the options are server, tls, host, path, mode, mux, cert, certRaw, key, fastOpen, loglevel, fwmark",
                ));
            }
        }
        Ok(())
    }
}

/// Replaces `~/` by the user's home directory, as v2ray-plugin does.
fn expanded(file: &str) -> PathBuf {
    match (file.strip_prefix("~/"), std::env::var_os("HOME")) {
        (Some(rest), Some(home)) => Path::new(&home).join(rest),
        _ => PathBuf::from(file),
    }
}

/// `key=value;key;…`, where `\` escapes the next character.
fn pairs(text: &str) -> Vec<(String, String)> {
    let mut all = Vec::new();
    let (mut key, mut value) = (String::new(), None::<String>);
    let mut chars = text.chars();
    loop {
        let (c, plain) = match chars.next() {
            Some('\\') => (chars.next(), true),
            other => (other, false),
        };
        match c {
            Some('=') if !plain && value.is_none() => value = Some(String::new()),
            Some(c) if plain || c != ';' => value.as_mut().unwrap_or(&mut key).push(c),
            end => {
                let pair = (std::mem::take(&mut key), value.take().unwrap_or_default());
                all.push((pair.0.trim().to_owned(), pair.1));
                if end.is_none() {
                    return all;
                }
            }
        }
    }
}
