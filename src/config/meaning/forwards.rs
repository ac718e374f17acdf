//! `forwards`: listeners that relay to a fixed target, without Shadowsocks.

use super::context::{Context, EndpointRole, key_at, refuse_same_address};
use super::endpoint::endpoint;
use super::model::{Endpoint, Forward, Scheme, SiteForward};
use super::site;
use crate::config::role::Role;
use crate::config::written::file::{self, Top};
use crate::config::written::scalar::UrlOr;

/// What a forward is.
enum Kind {
    Stream(Forward),
    Site(SiteForward),
}

impl Kind {
    const fn listen(&self) -> &Endpoint {
        match self {
            Self::Stream(forward) => &forward.listen,
            Self::Site(forward) => &forward.listen,
        }
    }
}

/// Every forward that is not disabled, and the sites among them.
pub(super) fn forwards(top: &Top, cx: &mut Context<'_>) -> (Vec<Forward>, Vec<SiteForward>) {
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
            "no forwards",
            "run `ssr forward LISTEN TARGET`, or add `\"forwards\": [{\"listen\": …, \"target\": …}]` to the config",
        );
    }
    let listeners = found.iter().map(|(at, forward)| {
        let listen = forward.listen();
        let transport = match listen.scheme {
            Scheme::Udp | Scheme::Quic => "UDP",
            Scheme::Tcp | Scheme::Ws | Scheme::Wss | Scheme::Http | Scheme::Https => "TCP",
        };
        (key_at(at, "listen"), &listen.address, transport)
    });
    refuse_same_address(listeners, cx);
    let (mut streams, mut sites) = (Vec::new(), Vec::new());
    for (_, forward) in found {
        match forward {
            Kind::Stream(forward) => streams.push(forward),
            Kind::Site(forward) => sites.push(forward),
        }
    }
    (streams, sites)
}

fn forward(entry: &file::Forward, at: &str, cx: &mut Context<'_>) -> Option<Kind> {
    let listen = endpoint(
        entry.listen.as_ref(),
        &key_at(at, "listen"),
        EndpointRole::Listen,
        cx,
    );
    let path = key_at(at, "target");
    let url = match &entry.target {
        Some(UrlOr::Url(url)) => Some(url),
        Some(UrlOr::Object(keys)) => keys.url.as_ref(),
        None => None,
    };
    if let Some(url) = url.filter(|url| site::is_target(url)) {
        let site = site::target(url, &path, cx);
        let (listen, site) = (listen?, site?);
        if !listen.scheme.is_site() {
            cx.report.error_hint(
                &key_at(at, "listen"),
                format!("a site cannot be forwarded from `{}`", listen.scheme.name()),
                "listen on `http://HOST:PORT`, or on `https://HOST:PORT?cert=FILE&key=FILE`",
            );
            return None;
        }
        return Some(Kind::Site(SiteForward { listen, site }));
    }
    let target = endpoint(entry.target.as_ref(), &path, EndpointRole::Target, cx);
    let (listen, target) = (listen?, target?);
    if listen.scheme.is_site() {
        cx.report.error_hint(
            &path,
            format!("`{}` needs a site as its target", listen.scheme.name()),
            "forward it to `http://HOST:PORT`, several of these with commas between, or `file:///DIRECTORY`",
        );
        return None;
    }
    if (listen.scheme == Scheme::Udp) != (target.scheme == Scheme::Udp) {
        let (from, to) = (listen.scheme.name(), target.scheme.name());
        cx.report.error_hint(
            &path,
            format!("cannot forward `{from}` to `{to}`"),
            "`udp` can only be forwarded to `udp`; `tcp`, `ws`, `wss` and `quic` to each other",
        );
        return None;
    }
    Some(Kind::Stream(Forward { listen, target }))
}
