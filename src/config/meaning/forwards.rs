//! `forwards`: from where to where bytes are carried as they are.

use std::collections::HashMap;

use crate::wire::address::Address;

use super::context::{Context, EndpointRole, key_at};
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
