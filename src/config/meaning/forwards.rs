//! `forwards`: listeners that relay to a fixed target, without Shadowsocks.

use super::context::{Context, EndpointRole, key_at, refuse_same_address};
use super::endpoint::endpoint;
use super::model::{Forward, Scheme};
use crate::config::role::Role;
use crate::config::written::file::{self, Top};

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
            "no forwards",
            "run `ssr forward LISTEN TARGET`, or add `\"forwards\": [{\"listen\": …, \"target\": …}]` to the config",
        );
    }
    let listeners = found.iter().map(|(at, forward)| {
        let listen = &forward.listen;
        let transport = match listen.scheme {
            Scheme::Udp => "UDP",
            Scheme::Tcp | Scheme::Ws | Scheme::Wss => "TCP",
        };
        (key_at(at, "listen"), &listen.address, transport)
    });
    refuse_same_address(listeners, cx);
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
            format!("cannot forward `{from}` to `{to}`"),
            "`udp` can only be forwarded to `udp`; `tcp`, `ws` and `wss` to each other",
        );
        return None;
    }
    Some(Forward { listen, target })
}
