//! `transport.fallback`, and forwards to `http://` and `file://`: the site in front.

use std::path::{Path, PathBuf};

use crate::limits::MAX_UPSTREAMS;
use crate::net::site::Strategy;
use crate::wire::address::Address;

use super::context::{Context, filled, key_at};
use super::sites::{Site, SiteSource};
use crate::config::role::Role;
use crate::config::url::percent;
use crate::config::written::file;
use crate::config::written::scalar::NameOr;

/// The beginnings of the targets of forwards that are sites.
const SCHEMES: [&str; 3] = ["http://", "https://", "file://"];

/// The site of a `fallback` at `at`. Clients have no use for it.
pub(super) fn fallback(
    written: Option<&NameOr<file::Fallback>>,
    at: &str,
    cx: &mut Context<'_>,
) -> Option<Site> {
    let written = match written? {
        NameOr::Object(written) => written,
        NameOr::Name(name) if name.is_empty() => return None,
        NameOr::Name(_) => {
            cx.report.error_hint(
                at,
                "only QUIC has another transport beside it",
                "remove it, or set `\"type\": \"quic\"`; a site in front is an object, as `{\"root\": \"/srv/www\"}`",
            );
            return None;
        }
    };
    if cx.role != Role::Server {
        return None;
    }
    let path_of = |key: &str| key_at(at, key);
    let list = written.proxy.clone().unwrap_or_default();
    let source = match (filled(written.root.as_deref()), list.items.is_empty()) {
        (Some(root), true) => root_of(root, &path_of("root"), cx)?,
        (None, false) => SiteSource::Proxy {
            upstreams: upstreams(
                list.items.iter().map(String::as_str),
                &|index| list.path_of(&path_of("proxy"), index),
                cx,
            )?,
            strategy: strategy(written.strategy.as_deref(), &path_of("strategy"), cx),
            check: check(written.check.as_deref(), &path_of("check"), cx),
        },
        _ => {
            cx.report.error_hint(
                at,
                "a fallback has either `root` or `proxy`",
                "write `{\"root\": \"/srv/www\"}` for files, or `{\"proxy\": [\"http://127.0.0.1:8080\"]}`",
            );
            return None;
        }
    };
    if matches!(source, SiteSource::Root(_)) {
        for (key, given) in [
            ("strategy", written.strategy.is_some()),
            ("check", written.check.is_some()),
        ] {
            if given {
                cx.report.warn(&path_of(key), "no effect without `proxy`");
            }
        }
    }
    Some(Site { source })
}

/// Whether the target of a forward is a site.
pub(super) fn is_target(text: &str) -> bool {
    SCHEMES.iter().any(|scheme| text.trim().starts_with(scheme))
}

/// The site that is the target of a forward: `http://a,http://b?strategy=hash&check=/health`, or `file:///srv/www`.
pub(super) fn target(text: &str, at: &str, cx: &mut Context<'_>) -> Option<Site> {
    let text = text.trim();
    if let Some(root) = text.strip_prefix("file://") {
        if !root.starts_with('/') {
            cx.report.error_hint(
                at,
                "the URL has a host, and files are on this machine",
                "write three slashes: `file:///srv/www`",
            );
            return None;
        }
        let Ok(root) = percent(root, "path") else {
            cx.report.error_hint(
                at,
                "bad percent-encoding in the URL's path",
                "`%` must be followed by two hex digits",
            );
            return None;
        };
        let source = root_of(root, at, cx)?;
        return Some(Site { source });
    }
    let (urls, options) = text.split_once('?').unwrap_or((text, ""));
    let upstreams = upstreams(urls.split(','), &|_| at.to_owned(), cx)?;
    let (mut strategy_of, mut check_of) = (None, None);
    for pair in options.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=').unwrap_or((pair, "")) {
            ("strategy", value) => strategy_of = Some(value),
            ("check", value) => check_of = Some(value),
            (other, _) => {
                cx.report.error_hint(
                    at,
                    format!("the URL has an unknown option `{other}`"),
                    "the options of `http` are `strategy` and `check`",
                );
                return None;
            }
        }
    }
    Some(Site {
        source: SiteSource::Proxy {
            upstreams,
            strategy: strategy(strategy_of, at, cx),
            check: check(check_of, at, cx),
        },
    })
}

fn root_of(root: String, at: &str, cx: &mut Context<'_>) -> Option<SiteSource> {
    let root = PathBuf::from(root);
    if cx.files && !Path::is_dir(&root) {
        cx.report.error_hint(
            at,
            format!("{} is not a directory", root.display()),
            "name the directory of the site, which ssr can read",
        );
        return None;
    }
    Some(SiteSource::Root(root))
}

fn upstreams<'a>(
    urls: impl Iterator<Item = &'a str>,
    path_of: &dyn Fn(usize) -> String,
    cx: &mut Context<'_>,
) -> Option<Vec<Address>> {
    let mut all = Vec::new();
    let mut is_good = true;
    for (index, url) in urls.enumerate() {
        match upstream(url.trim()) {
            Ok(address) => all.push(address),
            Err((message, hint)) => {
                is_good = false;
                cx.report.error_hint(&path_of(index), message, hint);
            }
        }
    }
    if all.len() > MAX_UPSTREAMS {
        let message = format!("at most {MAX_UPSTREAMS} web servers can be behind a site");
        cx.report.error(&path_of(0), message);
        return None;
    }
    is_good.then_some(all)
}

fn upstream(url: &str) -> Result<Address, (String, &'static str)> {
    const EXAMPLE: &str = "write `http://HOST:PORT`, for example `http://127.0.0.1:8080`";
    let Some(rest) = url.strip_prefix("http://") else {
        return Err(match url.starts_with("https://") {
            true => (
                "web servers behind a site are asked without TLS".to_owned(),
                "write `http://HOST:PORT`; for one on another machine, use a way that is encrypted by itself",
            ),
            false => ("not the URL of a web server".to_owned(), EXAMPLE),
        });
    };
    let host = rest.strip_suffix('/').unwrap_or(rest);
    if host.contains(['/', '@', '#', '?']) {
        return Err((
            "the URL of a web server behind a site has a host and a port only".to_owned(),
            EXAMPLE,
        ));
    }
    let has_port = match host.rsplit_once(':') {
        Some((before, _)) => !before.contains(':') || before.ends_with(']'),
        None => false,
    };
    let written = match has_port {
        true => host.to_owned(),
        false => format!("{host}:80"),
    };
    match written.parse::<Address>() {
        Ok(address) if address.port() != 0 => Ok(address),
        _ => Err((format!("`{host}` is not a host with a port"), EXAMPLE)),
    }
}

fn strategy(written: Option<&str>, at: &str, cx: &mut Context<'_>) -> Strategy {
    let Some(name) = written else {
        return Strategy::default();
    };
    let found = Strategy::ALL.into_iter().find(|one| one.name() == name);
    found.unwrap_or_else(|| {
        let hint = "use `round_robin`, `least_connections` or `hash`";
        cx.report.unknown(at, "strategy", name, hint);
        Strategy::default()
    })
}

fn check(written: Option<&str>, at: &str, cx: &mut Context<'_>) -> Option<String> {
    let path = filled(written)?;
    let is_path = path.starts_with('/') && path.bytes().all(|byte| byte.is_ascii_graphic());
    if !is_path || path.contains('#') {
        cx.report.error_hint(
            at,
            "not a path of a URL",
            "begin it with `/`, and write a space as `%20`",
        );
        return None;
    }
    Some(path)
}
