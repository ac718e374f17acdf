//! `store`: what several servers share.

use super::context::Context;
use super::keys::expand;
use crate::config::role::Role;
use crate::config::secret::Secret;
use crate::config::written::file::Top;

/// Translates `store`, for the role that has users. Its URL may have a password and is not quoted.
pub(super) fn store(top: &Top, cx: &mut Context<'_>) -> Option<Secret> {
    const KEY: &str = "store";
    let written = top.store.as_ref()?;
    if written.expose().is_empty() || cx.role != Role::Server {
        return None;
    }
    let url = expand(KEY, written, cx)?;
    if let Some((message, hint)) = refusal(url.expose()) {
        cx.report.error_hint(KEY, message, hint);
        return None;
    }
    Some(url)
}

/// Why there can be no such store, and what helps.
fn refusal(url: &str) -> Option<(&'static str, &'static str)> {
    const FORM: &str = "write `redis://:PASSWORD@HOST:6379/0`, or `unix:///run/redis/redis.sock`";
    if !cfg!(feature = "redis") {
        let message = "this build has no Redis";
        return Some((message, "take the full build of ssr, or leave `store` out"));
    }
    let scheme = url.split_once("://").map_or("", |(scheme, _)| scheme);
    match scheme {
        "redis" | "unix" if is_usable(url) => None,
        "rediss" => Some((
            "TLS to Redis is not supported",
            "reach it over a VPN such as WireGuard, or by a TLS tunnel such as stunnel at its own machine, and write `redis://`",
        )),
        "redis" | "unix" => Some(("this URL of a store cannot be used", FORM)),
        _ => Some(("a store is the URL of a Redis", FORM)),
    }
}

/// Whether it has a place: the rest is for Redis to say.
fn is_usable(url: &str) -> bool {
    let Some((scheme, rest)) = url.split_once("://") else {
        return false;
    };
    if scheme == "unix" {
        return rest.starts_with('/');
    }
    let place = rest.split(['?', '#']).next().unwrap_or_default();
    let place = place.rsplit_once('@').map_or(place, |(_, place)| place);
    let (server, database) = place.split_once('/').unwrap_or((place, ""));
    let (host, port) = match server.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (server, None),
    };
    let is_address = !host.is_empty() && port.is_none_or(|port| port.parse::<u16>().is_ok());
    is_address && (database.is_empty() || database.parse::<u32>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn url_has_a_place() {
        for url in [
            "redis://host",
            "redis://host:6379",
            "redis://host:6379/",
            "redis://user:pass@host:6379/3",
            "redis://:p@127.0.0.1/0?protocol=resp3",
            "redis://[::1]",
            "redis://[::1]:6379/1",
            "unix:///run/redis.sock",
            "unix:///run/redis.sock?pass=x",
        ] {
            assert!(is_usable(url), "{url}");
        }
        for url in [
            "redis://",
            "redis://:p@",
            "redis://h:x",
            "redis://h:70000",
            "redis://h/db",
            "unix://run",
        ] {
            assert!(!is_usable(url), "{url}");
        }
    }
}
