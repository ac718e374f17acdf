//! `outbound_proxy`: the proxies between `ssr local` and the server, or between `ssr server` and targets.

use std::path::PathBuf;

use crate::crypto::{Method, base64};
use crate::net::tls::{self, Pem, Trust};
use crate::wire::address::Address;

use super::between::{Plugin, ProxyHop, ProxyScheme};
use super::context::{Context, key_at};
use super::keys;
use super::model::Mode;
use crate::config::role::Role;
use crate::config::secret::Secret;
use crate::config::url::{ServerUrl, UrlError, percent};
use crate::config::written::file;
use crate::config::written::scalar::Strings;
use crate::limits::MAX_PROXIES;

/// What a URL looks like.
const EXAMPLE: &str = "write `socks5://127.0.0.1:1080`, `http://user:password@proxy.example:8080`, `https://…` or `ss://…`";

/// The proxies of the entry at `at`: its own, else those of the top level.
pub(super) fn proxies(
    entry: &file::Server,
    at: &str,
    of_top: &[ProxyHop],
    cx: &mut Context<'_>,
) -> Vec<ProxyHop> {
    match &entry.outbound_proxy {
        Some(list) => chain(Some(list), &key_at(at, "outbound_proxy"), cx),
        None => of_top.to_vec(),
    }
}

/// The proxies in the list at `path`, the nearest first.
pub(super) fn chain(written: Option<&Strings>, path: &str, cx: &mut Context<'_>) -> Vec<ProxyHop> {
    let Some(list) = written else {
        return Vec::new();
    };
    if list.items.len() > MAX_PROXIES {
        let message = format!("more than {MAX_PROXIES} proxies in a row");
        cx.report
            .error_hint(path, message, "each of them delays every connection");
        return Vec::new();
    }
    let mut hops = Vec::new();
    for (index, text) in list.items.iter().enumerate() {
        let at = list.path_of(path, index);
        if text.is_empty() && !list.array {
            continue;
        }
        let hop = match server_url(text) {
            Some(url) => server(url, &at, cx),
            None => hop(text, &at),
        };
        match hop {
            Ok(hop) => {
                try_tls(&hop, cx);
                hops.push(hop);
            }
            Err(message) => cx.report.error_hint(&at, message, EXAMPLE),
        }
    }
    hops
}

/// What a server serves through `proxies`. `udp_is_wanted`: its clients may send datagrams.
pub(super) fn mode(
    proxies: &[ProxyHop],
    udp_is_wanted: bool,
    mode: Mode,
    cx: &mut Context<'_>,
) -> Mode {
    let [first, ..] = proxies else {
        return mode;
    };
    if carry_datagrams(proxies, cx.role) || !mode.udp {
        return mode;
    }
    if udp_is_wanted {
        let message = match cx.role {
            Role::Server => "datagrams to targets cannot go through a proxy",
            Role::Local | Role::Forward => {
                "datagrams cannot go through these proxies: they can through `socks5` and `ss`"
            }
        };
        cx.report
            .error_hint(&first.at, message, "set `\"mode\": \"tcp_only\"`");
    }
    // Never beside the proxy.
    Mode { udp: false, ..mode }
}

/// Whether datagrams can go through `proxies`.
fn carry_datagrams(proxies: &[ProxyHop], role: Role) -> bool {
    let relays =
        |hop: &ProxyHop| matches!(hop.scheme, ProxyScheme::Socks5 | ProxyScheme::Shadowsocks);
    role == Role::Local && proxies.iter().all(relays)
}

/// Refuses a plugin whose connections would not go through the proxies.
pub(super) fn refuse_plugin(proxies: &[ProxyHop], plugin: Option<&Plugin>, cx: &mut Context<'_>) {
    if let (Role::Local, Some(_), [first, ..]) = (cx.role, plugin, proxies) {
        cx.report.error_hint(
            &first.at,
            "a plugin that is a program connects to the server by itself, not through a proxy",
            "leave out `plugin` or `outbound_proxy`; `builtin:v2ray-plugin` can be used with both",
        );
    }
}

/// The parts of an `ss://` URL; `None`: it has another scheme.
fn server_url(text: &str) -> Option<Result<ServerUrl, UrlError>> {
    match text.parse() {
        Err(UrlError::Scheme) => None,
        parsed => Some(parsed),
    }
}

/// A Shadowsocks server on the way.
fn server(
    url: Result<ServerUrl, UrlError>,
    at: &str,
    cx: &mut Context<'_>,
) -> Result<ProxyHop, String> {
    let url = url.map_err(|error| error.to_string())?;
    if url.plugin.is_some() {
        return Err("an `ss` proxy on the way cannot have a plugin".to_owned());
    }
    if url.address.port() == 0 {
        return Err("the URL has no valid host and port".to_owned());
    }
    let method = url.method.parse::<Method>();
    let method =
        method.map_err(|_| "the URL has an unknown method, or one that is refused here")?;
    let keys = keys::of_client(method, at, url.password, cx);
    Ok(ProxyHop {
        at: at.to_owned(),
        scheme: ProxyScheme::Shadowsocks,
        address: url.address,
        login: None,
        server_name: None,
        trust: Trust::default(),
        shadowsocks: Some((
            method,
            keys.ok_or("the password of the URL is no key of its method")?,
        )),
    })
}

/// Reads one URL. Messages do not quote it: there may be a password in it.
fn hop(text: &str, at: &str) -> Result<ProxyHop, String> {
    let text = text.trim();
    let (scheme, rest) = text.split_once("://").ok_or("the URL has no scheme")?;
    let scheme = match scheme.to_ascii_lowercase().as_str() {
        "socks5" | "socks5h" => ProxyScheme::Socks5,
        "http" => ProxyScheme::Http,
        "https" => ProxyScheme::Https,
        _ => return Err("the URL has an unknown scheme".to_owned()),
    };
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    if !path.is_empty() || rest.contains('#') {
        return Err("the URL of a proxy ends with the port".to_owned());
    }
    let (login, host) = match authority.rsplit_once('@') {
        Some((login, host)) => (Some(credentials(login)?), host),
        None => (None, authority),
    };
    let mut hop = ProxyHop {
        at: at.to_owned(),
        scheme,
        address: address(scheme, host)?,
        login,
        server_name: None,
        trust: Trust::default(),
        shadowsocks: None,
    };
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        option(&mut hop, pair)?;
    }
    Ok(hop)
}

fn credentials(text: &str) -> Result<(String, Secret), String> {
    let (user, password) = text.split_once(':').unwrap_or((text, ""));
    let decoded = |text| percent(text, "login").map_err(|_| "bad percent-encoding in the login");
    let (user, password) = (decoded(user)?, decoded(password)?);
    let fits = |text: &str| (1..=255).contains(&text.len());
    if !fits(&user) || password.len() > 255 {
        return Err(
            "user name and password have at most 255 bytes each, and a user name at least one"
                .to_owned(),
        );
    }
    Ok((user, Secret::from(password)))
}

fn address(scheme: ProxyScheme, host: &str) -> Result<Address, String> {
    let has_port = host.rsplit_once(':').is_some_and(|(name, port)| {
        !port.is_empty() && !port.ends_with(']') && (!name.contains(':') || name.ends_with(']'))
    });
    let whole = match (has_port, scheme) {
        (true, _) => host.to_owned(),
        (false, ProxyScheme::Socks5) => format!("{host}:1080"),
        (false, ProxyScheme::Http) => format!("{host}:80"),
        (false, ProxyScheme::Https) => format!("{host}:443"),
        (false, ProxyScheme::Shadowsocks) => format!("{host}:8388"),
    };
    match whole.parse::<Address>() {
        Ok(address) if address.port() != 0 => Ok(address),
        _ => Err("the URL has no valid host and port".to_owned()),
    }
}

/// An option of `https`: whom to trust.
fn option(hop: &mut ProxyHop, pair: &str) -> Result<(), String> {
    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
    if hop.scheme != ProxyScheme::Https {
        return Err("only `https` URLs have options".to_owned());
    }
    let value = percent(value, "query").map_err(|_| "bad percent-encoding in an option")?;
    match name {
        "ca" => hop.trust.ca = Some(Pem::File(PathBuf::from(value))),
        "server_name" => hop.server_name = Some(value),
        "pin_sha256" => {
            let pin = base64::decode(&value).and_then(|bytes| bytes.as_slice().try_into().ok());
            hop.trust.pins.push(
                pin.ok_or("`pin_sha256` is not the SHA-256 of a public key: 32 bytes in base64")?,
            );
        }
        _ => {
            return Err(
                "the options of an `https` proxy are `ca`, `server_name` and `pin_sha256`"
                    .to_owned(),
            );
        }
    }
    Ok(())
}

/// Reads the files that an `https` proxy needs, as the service will.
fn try_tls(hop: &ProxyHop, cx: &mut Context<'_>) {
    if !cx.files || hop.scheme != ProxyScheme::Https {
        return;
    }
    if let Err(error) = tls::Client::new(&hop.server_name(), &hop.trust) {
        let key = error.key();
        cx.report.error(&hop.at, format!("`{key}`: {error}"));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn takes_urls_apart() {
        let one = hop("SOCKS5://us%40er:p%3Aw@[::1]:9", "x").unwrap();
        assert_eq!(one.to_string(), "socks5://[::1]:9");
        let (user, password) = one.login.unwrap();
        assert_eq!((user.as_str(), password.expose()), ("us@er", "p:w"));
        for (text, address) in [
            ("socks5://a", "a:1080"),
            ("http://[::1]", "[::1]:80"),
            ("https://192.0.2.1/", "192.0.2.1:443"),
            ("https://a:1?server_name=b", "a:1"),
        ] {
            assert_eq!(
                hop(text, "x").unwrap().address.to_string(),
                address,
                "{text}"
            );
        }
    }

    #[test]
    fn says_what_is_wrong_without_quoting_the_url() {
        for (text, part) in [
            ("127.0.0.1:1080", "scheme"),
            ("ftp://secret@a:1", "unknown scheme"),
            ("socks5://u:secret%zz@a:1", "percent"),
            ("socks5://:secret@a:1", "user name"),
            ("socks5://u:secret@a:99999", "host and port"),
            ("socks5://u:secret@:1", "host and port"),
            ("socks5://u:secret@a:0", "host and port"),
            ("socks5://u:secret@a:1/x", "ends with the port"),
            ("http://u:secret@a:1?ca=x", "only `https`"),
            ("https://u:secret@a:1?insecure", "`ca`"),
        ] {
            let message = hop(text, "x").unwrap_err();
            assert!(message.contains(part), "{text}: {message}");
            assert!(!message.contains("secret"), "{message}");
        }
    }
}
