//! `forwards`: from where to where bytes are carried as they are.

use std::collections::HashMap;

use crate::wire::address::Address;

use super::context::{Context, EndpointRole, key_at};
use super::endpoint::EndpointUrl;
use super::model::{Endpoint, Forward, Scheme};
use super::websocket::Written;
use crate::config::role::Role;
use crate::config::written::file::{self, Top};
use crate::config::written::scalar::UrlOr;

/// Every forward that is not disabled.
pub(super) fn forwards(top: &Top, cx: &mut Context<'_>) -> Vec<Forward> {
    let listed = top.forwards.as_deref().unwrap_or_default();
    let mut found = Vec::new();
    let mut asked = false;
    for (index, entry) in listed.iter().enumerate() {
        if entry.disabled != Some(true) {
            asked = true;
            let at = format!("forwards[{index}]");
            found.extend(forward(entry, &at, cx).map(|forward| (at, forward)));
        }
    }
    if cx.role == Role::Forward && !asked {
        cx.report.error_other_role(
            "forwards",
            "nothing to forward",
            "`ssr forward LISTEN TARGET`, or `\"forwards\": [{\"listen\": …, \"target\": …}]` in the file of `-c`",
        );
    }
    refuse_same_address(&found, cx);
    found.into_iter().map(|(_, forward)| forward).collect()
}

fn forward(entry: &file::Forward, at: &str, cx: &mut Context<'_>) -> Option<Forward> {
    let listen = endpoint(
        entry.listen.as_ref(),
        &key_at(at, "listen"),
        EndpointRole::Listen,
        cx,
    );
    let path = key_at(at, "target");
    let target = endpoint(entry.target.as_ref(), &path, EndpointRole::Target, cx);
    let (listen, target) = (listen?, target?);
    if (listen.scheme == Scheme::Udp) != (target.scheme == Scheme::Udp) {
        let (from, to) = (listen.scheme.name(), target.scheme.name());
        cx.report.error_hint(
            &path,
            format!("`{from}` cannot be carried to `{to}`"),
            "`udp` goes to `udp`; `tcp`, `ws` and `wss` go to each other",
        );
        return None;
    }
    Some(Forward { listen, target })
}

fn endpoint(
    written: Option<&UrlOr<file::Endpoint>>,
    at: &str,
    end: EndpointRole,
    cx: &mut Context<'_>,
) -> Option<Endpoint> {
    let none = file::Endpoint::default();
    let (path, text, keys) = match written {
        Some(UrlOr::Url(url)) => (at.to_owned(), Some(url), &none),
        Some(UrlOr::Object(keys)) => (key_at(at, "url"), keys.url.as_ref(), keys),
        None => (at.to_owned(), None, &none),
    };
    let Some(text) = text else {
        let what = match end {
            EndpointRole::Listen => "missing: the URL to listen on",
            EndpointRole::Target => "missing: the URL to carry to",
        };
        cx.report
            .error_hint(&path, what, "`tcp://127.0.0.1:9090`, for example");
        return None;
    };
    let url = match EndpointUrl::parse(text) {
        Ok(url) => url,
        Err(error) => {
            cx.report.error_hint(&path, error.message, error.hint);
            return None;
        }
    };
    if !is_reachable(&url.address, end, &path, cx) {
        return None;
    }
    let written = Written {
        at,
        url_at: &path,
        url: &url,
        keys,
    };
    // Also where there is none: an option that means nothing is an error.
    let ws = written.websocket(end, cx)?;
    if let (true, Some(tls)) = (cx.files, &ws.tls)
        && let Err(error) = tls.try_files()
    {
        cx.report
            .error(&path, format!("`{}`: {error}", error.key()));
        return None;
    }
    Some(Endpoint {
        scheme: url.scheme,
        ws: url.scheme.is_ws().then(|| Box::new(ws)),
        address: url.address,
    })
}

/// A target has a port, and an address that is somebody's.
fn is_reachable(address: &Address, end: EndpointRole, path: &str, cx: &mut Context<'_>) -> bool {
    if end == EndpointRole::Listen {
        return true;
    }
    if address.port() == 0 {
        cx.report
            .error_hint(path, "0 is no port to reach", "give the target's port");
        return false;
    }
    match address {
        Address::Ip(ip) if ip.ip().is_unspecified() => {
            let message = format!(
                "{} is where to listen, not where to reach a target",
                ip.ip()
            );
            cx.report
                .error_hint(path, message, "for this machine it is 127.0.0.1");
            false
        }
        _ => true,
    }
}

/// Two forwards cannot listen on one address.
fn refuse_same_address(found: &[(String, Forward)], cx: &mut Context<'_>) {
    let mut taken: HashMap<(&Address, bool), &str> = HashMap::new();
    for (at, forward) in found {
        let listen = &forward.listen;
        if listen.address.port() == 0 {
            continue;
        }
        let key = (&listen.address, listen.scheme == Scheme::Udp);
        if let Some(first) = taken.insert(key, at) {
            let message = format!("{} is taken already, by `{first}`", listen.address);
            cx.report.error(&key_at(at, "listen"), message);
        }
    }
}
