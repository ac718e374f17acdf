//! What of a new config runs already, what takes the place of something, and what is new.

use crate::app::running::Serving;
use crate::app::services::Part;
use crate::config::Config;
use crate::control::orders::Changes;

/// How a new config differs from what runs.
pub(super) struct Difference {
    /// The parts of the new config, without those that cannot be started now.
    pub(super) parts: Vec<Part>,
    /// For each, the place of the unit that goes on as it is.
    pub(super) kept: Vec<Option<usize>>,
    /// For each, the place of the unit that it replaces.
    replaced: Vec<Option<usize>>,
    /// The places of units that go on although the config does not have them any more.
    staying: Vec<usize>,
    /// What needs a restart, and why.
    held_back: Vec<String>,
    /// Whether `ssr local` has other servers, or chooses in another way.
    pub(super) has_other_servers: bool,
}

impl Difference {
    pub(super) fn of(units: &[Serving], old: &Config, new: &Config) -> Self {
        let mut difference = Self {
            parts: Vec::new(),
            kept: Vec::new(),
            replaced: Vec::new(),
            staying: Vec::new(),
            held_back: Vec::new(),
            has_other_servers: false,
        };
        let all_change = has_other_globals(old, new);
        let mut free: Vec<bool> = units.iter().map(|_| true).collect();
        let mut take = |is: &dyn Fn(&Part) -> bool| {
            let mut places = units.iter().zip(&mut free).enumerate();
            let found = places.find(|(_, (unit, free))| **free && is(&unit.part));
            found.map(|(place, (_, free))| {
                *free = false;
                place
            })
        };
        let parts = Part::all(new);
        // What is the same comes first, so that nothing else takes its place.
        let same: Vec<Option<usize>> = parts
            .iter()
            .map(|part| take(&|unit| !all_change && unit.is_same(part)))
            .collect();
        for (part, same) in parts.into_iter().zip(same) {
            let replaced = match same {
                Some(_) => None,
                None => take(&|unit| unit.is_in_place_of(&part)),
            };
            let before = replaced.and_then(|place| units.get(place));
            difference.add(part, same, replaced, before);
        }
        for (place, (unit, _)) in units
            .iter()
            .zip(&free)
            .enumerate()
            .filter(|(_, (_, free))| **free)
        {
            match (&unit.part, unit.part.cannot_end()) {
                (Part::Shared, _) => difference.staying.push(place),
                (part, Some(reason)) => {
                    difference.staying.push(place);
                    difference.hold_back(part, reason);
                }
                (_, None) => {}
            }
        }
        difference.has_other_servers =
            old.balancer != new.balancer || difference.changes_servers(units);
        difference
    }

    fn add(
        &mut self,
        part: Part,
        same: Option<usize>,
        replaced: Option<usize>,
        before: Option<&Serving>,
    ) {
        let reason = match (same, before) {
            (Some(_), _) => None,
            (None, Some(before)) => before.part.cannot_change().or_else(|| part.cannot_change()),
            (None, None) => part.cannot_begin(),
        };
        if let Some(reason) = reason {
            self.hold_back(&part, reason);
            if replaced.is_none() {
                return;
            }
        }
        let (kept, replaced) = match (same, reason) {
            (None, Some(_)) => (replaced, None),
            _ => (same, replaced),
        };
        self.parts.push(part);
        self.kept.push(kept);
        self.replaced.push(replaced);
    }

    fn hold_back(&mut self, part: &Part, reason: &str) {
        self.held_back.push(format!("{part} ({reason})"));
    }

    /// Whether the servers of `ssr local` are others, or in another order.
    fn changes_servers(&self, units: &[Serving]) -> bool {
        let is_one = |part: &Part| matches!(part, Part::Upstream(_) | Part::Online(..));
        let places = units
            .iter()
            .enumerate()
            .filter(|(_, unit)| is_one(&unit.part));
        let before = places.map(|(place, _)| Some(place));
        let now = self.parts.iter().zip(&self.kept);
        let now = now.filter(|(part, _)| is_one(part)).map(|(_, kept)| *kept);
        !before.eq(now)
    }

    /// Whether nothing differs but what is in rules.
    pub(super) fn is_none(&self, units: &[Serving]) -> bool {
        let others = units.len().saturating_sub(self.kept.len());
        self.kept.iter().all(Option::is_some)
            && self.staying.len() == others
            && self.held_back.is_empty()
            && !self.has_other_servers
    }

    /// The units that end or are replaced.
    pub(super) fn ending<'a>(&'a self, units: &'a [Serving]) -> impl Iterator<Item = &'a Serving> {
        let goes_on = |place: &usize| self.stays(*place) || self.kept.contains(&Some(*place));
        let ending = units.iter().enumerate();
        ending
            .filter(move |(place, _)| !goes_on(place))
            .map(|(_, unit)| unit)
    }

    /// Whether a unit goes on although the config does not have it any more.
    pub(super) fn stays(&self, place: usize) -> bool {
        self.staying.contains(&place)
    }

    /// `online_config`, if it is to be started.
    pub(super) fn new_online(&self) -> Option<&Part> {
        let mut parts = self.parts.iter().zip(&self.kept);
        let online = parts.find(|(part, kept)| matches!(part, Part::Online(..)) && kept.is_none());
        online.map(|(part, _)| part)
    }

    /// Says what differs.
    pub(super) fn note(&self, units: &[Serving], changes: &mut Changes) {
        let news = self.parts.iter().zip(&self.kept).zip(&self.replaced);
        for ((part, kept), replaced) in news {
            match (kept, replaced) {
                (Some(_), _) => {}
                (None, Some(_)) => changes.changed.push(part.to_string()),
                (None, None) => changes.added.push(part.to_string()),
            }
        }
        for unit in self.ending(units) {
            let is_replaced = self.replaced.iter().flatten().any(|place| {
                units
                    .get(*place)
                    .is_some_and(|other| std::ptr::eq(other, unit))
            });
            if !is_replaced {
                changes.removed.push(unit.part.to_string());
            }
        }
        changes.needs_restart.extend(self.held_back.iter().cloned());
    }
}

/// Whether something differs that is built into every part.
fn has_other_globals(old: &Config, new: &Config) -> bool {
    old.timeouts != new.timeouts
        || old.udp_timeout != new.udp_timeout
        || old.replay != new.replay
        || old.deny_private != new.deny_private
        || old.socket != new.socket
        || old.first_payload_wait != new.first_payload_wait
        || old.limits.udp_associations != new.limits.udp_associations
        // The servers of the list are chosen by it too.
        || (old.balancer != new.balancer && new.online.is_some())
}
