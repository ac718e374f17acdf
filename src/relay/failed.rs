//! The last streams and associations that failed, for the operator: what was wanted, how far it came, and why it ended.
//!
//! Only what fails is noted, at its end. Those of users, of visitors and of strangers are kept apart, so that none of them
//! can push out the others. The same failure again is counted, not kept again. A full ring gives up the oldest failure of
//! whoever has most of them.

use std::collections::VecDeque;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use super::error::{Error, Side};
use crate::limits::{FAILED_KEPT, MAX_FAILED_TEXT};
use crate::net;
use crate::net::sync::lock;
use crate::wire::Address;

/// Whose flows they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// Of a client whose request was understood: nothing came back.
    Client,
    /// The same, but they had worked before they broke.
    Broken,
    /// Of a visitor of a reverse tunnel.
    Visitor,
    /// Of somebody whose handshake failed.
    Stranger,
}

impl Whose {
    /// All of them, in the order in which they are told.
    pub const ALL: [Self; 4] = [Self::Client, Self::Broken, Self::Visitor, Self::Stranger];

    /// A short name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Broken => "broken",
            Self::Visitor => "visitor",
            Self::Stranger => "stranger",
        }
    }
}

/// How far a flow came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Its client's request was read.
    Handshake,
    /// The rules were asked.
    Rule,
    /// A name was resolved.
    Resolve,
    /// A server, a proxy or the target was connected to.
    Connect,
    /// TLS or WebSocket began on the connection to the server.
    Transport,
    /// The server or the target was waited for.
    Reply,
    /// Data went back and forth.
    Relay,
}

impl Phase {
    /// A short name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Handshake => "handshake",
            Self::Rule => "rule",
            Self::Resolve => "resolve",
            Self::Connect => "connect",
            Self::Transport => "transport",
            Self::Reply => "reply",
            Self::Relay => "relay",
        }
    }

    /// The phase in which an error ended a flow that was at `stage`; `answered`: something had come back.
    #[must_use]
    pub(super) const fn of(error: &Error, stage: Stage, answered: bool) -> Self {
        match (stage, error) {
            (Stage::Handshake, _) => Self::Handshake,
            (_, Error::Denied(_) | Error::Blocked(_) | Error::NotOffered(_)) => Self::Rule,
            (_, Error::Resolve { .. }) => Self::Resolve,
            (
                _,
                Error::Connect(
                    net::Error::Tls { .. }
                    | net::Error::TransportTimeout { .. }
                    | net::Error::Upgrade(_)
                    | net::Error::UpgradeIo(_)
                    | net::Error::UpgradeRequest,
                ),
            ) => Self::Transport,
            (_, Error::Connect(_) | Error::Proxy { .. }) => Self::Connect,
            (
                Stage::Connect,
                Error::Io {
                    side: Side::Upstream,
                    ..
                }
                | Error::Wire {
                    side: Side::Upstream,
                    ..
                }
                | Error::Cut(Side::Upstream)
                | Error::Silent { .. },
            ) => Self::Reply,
            (Stage::Connect, _) => Self::Connect,
            (Stage::Relay, _) if answered => Self::Relay,
            (Stage::Relay, _) => Self::Reply,
        }
    }
}

/// What a flow was doing when it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Handshake,
    Connect,
    Relay,
}

/// What a flow travels as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// A stream.
    Tcp,
    /// Datagrams.
    Udp,
}

impl Network {
    /// A short name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// How long each part took; the last of them is the one that failed. `None`: it was not reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Times {
    /// From accept to the complete request.
    pub handshake: Option<Duration>,
    /// From there to a connection on which data can go back and forth.
    pub connect: Option<Duration>,
    /// From there to the end.
    pub relay: Option<Duration>,
}

/// What a request that has failed asked for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Asked<'a> {
    /// The target; `None`: there was no request.
    pub target: Option<&'a Address>,
    /// The name that the client's first bytes gave for the target's address.
    pub name: Option<&'a str>,
    /// Whose request it was, on a server with users.
    pub user: Option<&'a str>,
}

/// The way that a request would go, asked for after it has failed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Way {
    /// The server, or all that are tried; `None`: it goes to the target itself.
    pub server: Option<String>,
    /// What the rules decide, and where the rule is written; `None`: there are no rules.
    pub rule: Option<String>,
    /// Whether it is a visitor of a reverse tunnel.
    pub is_visitor: bool,
}

/// A flow that failed, as it is noted.
pub struct Noted<'a> {
    /// Whose it was.
    pub whose: Whose,
    /// What it travelled as.
    pub network: Network,
    /// How far it came.
    pub phase: Phase,
    /// The client.
    pub peer: SocketAddr,
    /// Its user.
    pub user: Option<&'a str>,
    /// What it wanted.
    pub target: Option<&'a str>,
    /// The way there.
    pub way: Way,
    /// The short name of the error.
    pub status: &'static str,
    /// The error.
    pub error: &'a dyn fmt::Display,
    /// How long each part took.
    pub times: Times,
    /// Payload bytes from the client.
    pub up: u64,
    /// Payload bytes to the client.
    pub down: u64,
}

impl<'a> Noted<'a> {
    /// A handshake that failed.
    #[must_use]
    pub fn handshake(
        network: Network,
        peer: SocketAddr,
        status: &'static str,
        error: &'a dyn fmt::Display,
    ) -> Self {
        Self {
            whose: Whose::Stranger,
            network,
            phase: Phase::Handshake,
            peer,
            user: None,
            target: None,
            way: Way::default(),
            status,
            error,
            times: Times::default(),
            up: 0,
            down: 0,
        }
    }
}

/// A flow that failed, or several that failed in the same way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    /// Whose it was.
    pub whose: Whose,
    /// What it travelled as.
    pub network: Network,
    /// How far it came.
    pub phase: Phase,
    /// The client of the last one.
    pub peer: SocketAddr,
    /// Its user.
    pub user: Option<Box<str>>,
    /// What it wanted.
    pub target: Option<Box<str>>,
    /// The server, or all that were tried; `None`: it went to the target itself.
    pub server: Option<Box<str>>,
    /// What the rules decided, and where the rule is written.
    pub rule: Option<Box<str>>,
    /// The short name of the error.
    pub status: &'static str,
    /// The error, in words.
    pub error: Box<str>,
    /// How long each part of the last one took.
    pub times: Times,
    /// Payload bytes from the client of the last one.
    pub up: u64,
    /// Payload bytes to it.
    pub down: u64,
    /// When the first one failed.
    pub first: SystemTime,
    /// When the last one failed.
    pub last: SystemTime,
    /// How many there were.
    pub count: u64,
}

/// The failures of one kind of people, the newest last.
#[derive(Debug, Default)]
struct Ring {
    kept: VecDeque<Failed>,
    /// How many entries were given up for newer ones.
    given_up: u64,
}

/// The last flows that failed.
#[derive(Debug, Default)]
pub struct FailedFlows {
    clients: Mutex<Ring>,
    broken: Mutex<Ring>,
    visitors: Mutex<Ring>,
    strangers: Mutex<Ring>,
}

impl FailedFlows {
    /// Notes a flow that failed.
    pub fn note(&self, noted: &Noted<'_>) {
        let mut ring = lock(self.ring(noted.whose));
        let known = ring.kept.iter().position(|one| one.is_like(noted));
        if let Some(mut again) = known.and_then(|place| ring.kept.remove(place)) {
            again.count = again.count.saturating_add(1);
            again.last = SystemTime::now();
            (again.peer, again.times) = (canonical(noted.peer), noted.times);
            (again.up, again.down) = (noted.up, noted.down);
            ring.kept.push_back(again);
            return;
        }
        if ring.kept.len() >= FAILED_KEPT {
            ring.give_up_one();
        }
        ring.kept.push_back(Failed::of(noted));
    }

    /// Those of one kind, the newest first, and how many were given up for newer ones.
    #[must_use]
    pub fn of(&self, whose: Whose) -> (Vec<Failed>, u64) {
        let ring = lock(self.ring(whose));
        (ring.kept.iter().rev().cloned().collect(), ring.given_up)
    }

    const fn ring(&self, whose: Whose) -> &Mutex<Ring> {
        match whose {
            Whose::Client => &self.clients,
            Whose::Broken => &self.broken,
            Whose::Visitor => &self.visitors,
            Whose::Stranger => &self.strangers,
        }
    }
}

impl Ring {
    /// Gives up the oldest entry of whoever has most of them: nobody can push out what failed for others.
    fn give_up_one(&mut self) {
        let mut counts: Vec<(Owner<'_>, usize, usize)> = Vec::new();
        for (place, one) in self.kept.iter().enumerate() {
            let owner = one.owner();
            match counts.iter_mut().find(|(known, ..)| *known == owner) {
                Some((_, _, count)) => *count += 1,
                None => counts.push((owner, place, 1)),
            }
        }
        // Of those with equally many, the one whose entry is the oldest.
        let most = counts
            .iter()
            .max_by_key(|(_, place, count)| (*count, usize::MAX - *place));
        if let Some(place) = most.map(|(_, place, _)| *place) {
            self.kept.remove(place);
            self.given_up = self.given_up.saturating_add(1);
        }
    }
}

/// Who caused an entry.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Owner<'a> {
    User(&'a str),
    Address(IpAddr),
}

impl Failed {
    fn of(noted: &Noted<'_>) -> Self {
        let now = SystemTime::now();
        Self {
            whose: noted.whose,
            network: noted.network,
            phase: noted.phase,
            peer: canonical(noted.peer),
            user: noted.user.map(bounded),
            target: noted.target.map(bounded),
            server: noted.way.server.as_deref().map(bounded),
            rule: noted.way.rule.as_deref().map(bounded),
            status: noted.status,
            error: bounded(&noted.error.to_string()),
            times: noted.times,
            up: noted.up,
            down: noted.down,
            first: now,
            last: now,
            count: 1,
        }
    }

    /// Whether it is the same failure for the same client.
    fn is_like(&self, noted: &Noted<'_>) -> bool {
        let same = |own: &Option<Box<str>>, other: Option<&str>| match (own, other) {
            (Some(own), Some(other)) => own.chars().eq(clean(other)),
            (None, None) => true,
            _ => false,
        };
        self.peer.ip() == noted.peer.ip().to_canonical()
            && self.status == noted.status
            && self.phase == noted.phase
            && self.network == noted.network
            && same(&self.user, noted.user)
            && same(&self.target, noted.target)
            && same(&self.server, noted.way.server.as_deref())
            && same(&self.rule, noted.way.rule.as_deref())
    }

    fn owner(&self) -> Owner<'_> {
        let user = self.user.as_deref();
        user.map_or_else(|| Owner::Address(self.peer.ip()), Owner::User)
    }
}

fn canonical(peer: SocketAddr) -> SocketAddr {
    SocketAddr::new(peer.ip().to_canonical(), peer.port())
}

/// A text without control characters, and not longer than what is kept of it.
fn bounded(text: &str) -> Box<str> {
    clean(text).collect::<String>().into_boxed_str()
}

fn clean(text: &str) -> impl Iterator<Item = char> + '_ {
    let printable = text.chars().filter(|letter| !letter.is_control());
    printable.take(MAX_FAILED_TEXT)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use super::*;

    fn note(flows: &FailedFlows, whose: Whose, peer: [u8; 4], target: &str) {
        flows.note(&Noted {
            whose,
            network: Network::Tcp,
            phase: Phase::Connect,
            peer: (peer, 1000).into(),
            user: None,
            target: Some(target),
            way: Way::default(),
            status: "connect",
            error: &"no connection within 5 s",
            times: Times::default(),
            up: 0,
            down: 0,
        });
    }

    #[test]
    fn the_same_failure_again_is_counted_and_comes_first() {
        let flows = FailedFlows::default();
        for target in ["a:1", "b:1", "a:1"] {
            note(&flows, Whose::Client, [10, 0, 0, 1], target);
        }
        let (kept, given_up) = flows.of(Whose::Client);
        let told: Vec<_> = kept
            .iter()
            .map(|one| (one.target.as_deref().unwrap(), one.count))
            .collect();
        assert_eq!((told, given_up), (vec![("a:1", 2), ("b:1", 1)], 0));
    }

    #[test]
    fn a_flood_is_bounded_and_pushes_out_only_its_own() {
        let flows = FailedFlows::default();
        note(&flows, Whose::Client, [10, 0, 0, 1], "quiet:1");
        for number in 0..10 * FAILED_KEPT {
            note(
                &flows,
                Whose::Client,
                [10, 0, 0, 2],
                &format!("t{number}:1"),
            );
            note(
                &flows,
                Whose::Stranger,
                [10, 0, 0, 3],
                &format!("t{number}:1"),
            );
        }
        let (kept, given_up) = flows.of(Whose::Client);
        assert_eq!(kept.len(), FAILED_KEPT);
        assert_eq!(given_up, (9 * FAILED_KEPT + 1) as u64);
        assert_eq!(kept.last().unwrap().target.as_deref(), Some("quiet:1"));
        let newest = format!("t{}:1", 10 * FAILED_KEPT - 1);
        assert_eq!(kept[0].target.as_deref(), Some(&*newest));
        assert_eq!(flows.of(Whose::Stranger).0.len(), FAILED_KEPT);
    }

    #[test]
    fn a_text_is_bounded_and_has_no_control_characters() {
        let flows = FailedFlows::default();
        let long = format!("\u{1b}[31m{}", "x".repeat(10 * MAX_FAILED_TEXT));
        note(&flows, Whose::Client, [10, 0, 0, 1], &long);
        note(&flows, Whose::Client, [10, 0, 0, 1], &long);
        let (kept, _) = flows.of(Whose::Client);
        let target = kept[0].target.as_deref().unwrap();
        assert!(target.starts_with("[31mxxx") && target.len() == MAX_FAILED_TEXT);
        assert_eq!(kept[0].count, 2);
    }
}
