//! `plugin` and `plugin_opts`: v2ray-plugin, which is served in this process. Other plugins are programs.

use std::path::{Path, PathBuf};

use crate::net::tls::{Pem, Trust};
use crate::wire::http::Endpoint;

use super::model::{Tls, Transport, WebSocket};
use super::servers::Build;
use crate::config::role::Role;
use crate::config::written::schema;

/// The plugin that we are ourselves.
const OURS: &str = "v2ray-plugin";
/// Says so even where a program of that name is installed.
const BUILTIN: &str = "builtin:v2ray-plugin";
/// What v2ray-plugin takes where nothing is said.
const DEFAULT_HOST: &str = "cloudfront.com";

impl Build<'_, '_> {
    /// What `plugin` says.
    pub(super) fn plugin(&mut self) -> Option<Transport> {
        let name = self.entry.plugin.clone().filter(|name| !name.is_empty())?;
        let path = self.key("plugin");
        match name.as_str() {
            BUILTIN => {}
            OURS if self.is_installed(OURS) => {
                self.cx.report.error_hint(
                    &path,
                    "a program of this name is installed, and plugins that are programs are not yet in this version of ssr",
                    format!("`{BUILTIN}` does the same without it"),
                );
                return None;
            }
            OURS => {}
            _ => {
                self.cx.report.error_hint(
                    &path,
                    "not yet in this version of ssr",
                    format!("`{BUILTIN}` is in it"),
                );
                return None;
            }
        }
        self.no_arguments();
        let path = self.key("plugin_opts");
        let text = self.entry.plugin_opts.clone().unwrap_or_default();
        let transport = self.options(&text, &path);
        self.files(&transport);
        Some(transport)
    }

    /// Refuses arguments for a program that does not run: one may ask for TLS, and none would be spoken.
    fn no_arguments(&mut self) {
        let given = self.entry.plugin_args.as_ref();
        if given.is_some_and(|arguments| !schema::is_blank(arguments)) {
            let path = self.key("plugin_args");
            self.cx.report.error_hint(
                &path,
                "arguments are for a program, and this plugin is built in",
                "put the options into `plugin_opts`: `tls;host=example.com`",
            );
        }
    }

    /// Whether the search path has a program.
    fn is_installed(&self, name: &str) -> bool {
        let path = (self.cx.env)("PATH").unwrap_or_default();
        std::env::split_paths(&path).any(|directory| directory.join(name).is_file())
    }

    fn options(&mut self, text: &str, path: &str) -> Transport {
        let mut given = Options::default();
        for (key, value) in pairs(text) {
            if let Err((message, hint)) = given.take(&key, &value) {
                self.cx.report.error_hint(path, message, hint);
            }
        }
        if given.fast_open {
            self.cx.report.warn(
                path,
                "fastOpen: no effect here: `\"fast_open\": true` does it",
            );
        }
        if given.mark {
            self.cx
                .report
                .warn(path, "fwmark: no effect here: `outbound_fwmark` does it");
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
        self.sound(&endpoint, path);
        let tls = given.tls.then(|| {
            let identity = match (given.cert.clone(), given.key) {
                (Some(cert), Some(key)) => Some((cert, key)),
                (cert, key) => {
                    if self.cx.role == Role::Server {
                        self.lacking(path, cert.is_none(), key.is_none());
                    }
                    None
                }
            };
            Tls {
                at: path.to_owned(),
                server_name: Some(host),
                trust: Trust {
                    ca: given.cert,
                    ..Trust::default()
                },
                identity,
            }
        });
        if self.cx.role == Role::Server {
            // v2ray-plugin looks at the path alone.
            endpoint.host = None;
        }
        Transport {
            tls,
            ws: Some(WebSocket {
                endpoint,
                mux: given.mux.unwrap_or(true),
                trusted_proxies: Vec::new(),
            }),
            udp_inside: false,
        }
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
    /// Takes one option in.
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
                    "mode=quic: not in ssr: the QUIC of v2ray-plugin is a protocol of its own that few networks let pass"
                        .to_owned(),
                    "use mode=websocket, with tls where the way is watched, on both sides",
                ));
            }
            "mode" => {
                return Err((
                    "mode: v2ray-plugin has no such mode".to_owned(),
                    "it is websocket",
                ));
            }
            "mux" => match value.parse::<u32>() {
                Ok(count) => self.mux = Some(count > 0),
                Err(_) => {
                    return Err(("mux: not a number".to_owned(), "0 switches it off"));
                }
            },
            _ => {
                return Err((
                    "an option that v2ray-plugin does not have".to_owned(),
                    "it has server, tls, host, path, mode, mux, cert, certRaw, key, fastOpen, loglevel, fwmark",
                ));
            }
        }
        Ok(())
    }
}

/// `~/` is the user's directory, for v2ray-plugin too.
fn expanded(file: &str) -> PathBuf {
    match (file.strip_prefix("~/"), std::env::var_os("HOME")) {
        (Some(rest), Some(home)) => Path::new(&home).join(rest),
        _ => PathBuf::from(file),
    }
}

/// `key=value;key;…`, where `\` takes the next character for itself.
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
