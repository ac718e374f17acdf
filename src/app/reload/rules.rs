//! Rules that go on, with what is in them now: whoever uses them sees it at once.

use std::sync::Arc;

use super::difference::Difference;
use crate::app::running::Serving;
use crate::app::services::Part;
use crate::config::Config;
use crate::route::Live;

/// Rules in use, and those that were read for their place.
pub(super) type Pair = (Arc<Live>, Arc<Live>);

/// The rules of the units that go on.
pub(super) fn pairs(units: &[Serving], difference: &Difference) -> Vec<Pair> {
    let mut pairs: Vec<Pair> = Vec::new();
    for (part, kept) in difference.parts.iter().zip(&difference.kept) {
        let unit = kept.and_then(|place| units.get(place));
        if let Some(old) = unit.and_then(|unit| rules(&unit.part))
            && let Some(new) = rules(part)
            && !Arc::ptr_eq(old, new)
            && !pairs.iter().any(|(known, _)| Arc::ptr_eq(known, old))
        {
            pairs.push((Arc::clone(old), Arc::clone(new)));
        }
    }
    pairs
}

fn rules(part: &Part) -> Option<&Arc<Live>> {
    match part {
        Part::Local(local, _) => local.rules.as_ref(),
        Part::Server(server) => server.rules.as_ref(),
        _ => None,
    }
}

/// Has `config` use the rules that go on.
pub(super) fn share(pairs: &[Pair], config: &mut Config) {
    let locals = config.locals.iter_mut().map(|local| &mut local.rules);
    let servers = config.servers.iter_mut().map(|server| &mut server.rules);
    for rules in locals.chain(servers).flatten() {
        if let Some((old, _)) = pairs.iter().find(|(_, new)| Arc::ptr_eq(new, rules)) {
            *rules = Arc::clone(old);
        }
    }
}

/// Has what was read used.
pub(super) fn replace(pairs: &[Pair]) {
    for (old, new) in pairs {
        old.replace(new);
    }
}
