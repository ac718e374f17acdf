//! What is published, and by which links.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use tokio::sync::watch;

use super::grants::RequestError;
use crate::app::worker::Phase;
use crate::relay::link::Handle;
use crate::wire::reverse::{Code, Protocol, Register};

/// Bytes of a token that are the client's own; the rest tells its links apart.
const CLIENT_TOKEN: usize = 15;

/// All that is published.
#[derive(Default)]
pub(super) struct Registry {
    names: HashMap<Key, Entry>,
    /// Ports on which HTTP is spoken.
    ports: HashMap<SocketAddr, HttpPort>,
    /// Every link.
    links: Vec<Handle>,
}

/// Two users may call two things by one name.
type Key = (Option<String>, String);

struct Entry {
    protocol: Protocol,
    /// What was asked for, and what it has come to.
    asked: String,
    bound: SocketAddr,
    group: bool,
    members: Vec<Member>,
}

struct Member {
    link: Handle,
    service: u64,
    token: Vec<u8>,
}

struct HttpPort {
    /// What its listener is told.
    phase: watch::Sender<Phase>,
    hosts: HashMap<String, Key>,
    /// Whose turn it is.
    turn: AtomicUsize,
}

/// What becomes of an offer.
pub(super) enum Verdict {
    /// It is a new service.
    New,
    /// It joins others at this address.
    Joins(SocketAddr),
}

fn asked(register: &Register<'_>) -> String {
    format!("{} {}", register.bind, register.host)
}

impl Registry {
    pub(super) fn begin(&mut self, link: &Handle) {
        self.links.push(link.clone());
    }

    /// Forgets all that a link has published.
    pub(super) fn end(&mut self, link: &Handle) {
        self.links.retain(|other| !other.is_same(link));
        for entry in self.names.values_mut() {
            entry.members.retain(|member| !member.link.is_same(link));
        }
        self.names.retain(|_, entry| !entry.members.is_empty());
        let names = &self.names;
        for port in self.ports.values_mut() {
            port.hosts.retain(|_, key| names.contains_key(key));
        }
        self.ports.retain(|_, port| {
            if port.hosts.is_empty() {
                port.phase.send_replace(Phase::Drain);
            }
            !port.hosts.is_empty()
        });
    }

    /// Lets every link end.
    pub(super) fn stop(&self) {
        self.links.iter().for_each(Handle::stop);
        for port in self.ports.values() {
            port.phase.send_replace(Phase::Drain);
        }
    }

    /// Whether the user's client may have the name. An older link of that very client makes room at once, one of
    /// another client if it turns out to be dead.
    pub(super) fn judge(
        &mut self,
        user: Option<&str>,
        register: &Register<'_>,
    ) -> Result<Verdict, RequestError> {
        let key = (user.map(str::to_owned), register.name.to_owned());
        let Some(entry) = self.names.get_mut(&key) else {
            return Ok(Verdict::New);
        };
        entry.members.retain(|member| {
            let same = member.token == register.token && !register.token.is_empty();
            if same {
                member.link.evict();
            }
            !same && !member.link.is_over()
        });
        let ours = |member: &Member| {
            let client = register.token.get(..CLIENT_TOKEN);
            client.is_some() && member.token.get(..CLIENT_TOKEN) == client
        };
        let shared = (entry.group && register.group) || entry.members.iter().all(ours);
        if !shared {
            if register.replace {
                entry.members.iter().for_each(|member| member.link.probe());
            }
            let name = register.name;
            let reason = format!(
                "`{name}` is published by another client; with `\"group\": true` on both they would share it"
            );
            return Err((Code::TAKEN, reason));
        }
        if entry.protocol != register.protocol || entry.asked != asked(register) {
            let name = register.name;
            let reason = format!("`{name}` is published with another `protocol`, `bind` or `host`");
            return Err((Code::INVALID, reason));
        }
        Ok(Verdict::Joins(entry.bound))
    }

    /// Notes that a link offers a service at `bound`.
    pub(super) fn note(
        &mut self,
        user: Option<&str>,
        register: &Register<'_>,
        bound: SocketAddr,
        (link, service): (&Handle, u64),
    ) {
        let key = (user.map(str::to_owned), register.name.to_owned());
        let entry = self.names.entry(key).or_insert_with(|| Entry {
            protocol: register.protocol,
            asked: asked(register),
            bound,
            group: register.group,
            members: Vec::new(),
        });
        entry.members.push(Member {
            link: link.clone(),
            service,
            token: register.token.to_vec(),
        });
    }

    /// The HTTP port at `bound`, if it is there already: whether `host` can be added to it.
    pub(super) fn http_port(
        &mut self,
        bound: SocketAddr,
        user: Option<&str>,
        register: &Register<'_>,
    ) -> Option<Result<(), RequestError>> {
        let port = self.ports.get_mut(&bound)?;
        let key = (user.map(str::to_owned), register.name.to_owned());
        Some(match port.hosts.get(register.host) {
            Some(other) if *other != key => {
                let host = register.host;
                Err((
                    Code::TAKEN,
                    format!("host `{host}` at {bound} is another service's"),
                ))
            }
            _ => {
                port.hosts.insert(register.host.to_owned(), key);
                Ok(())
            }
        })
    }

    /// A new HTTP port, whose listener runs until `phase` says otherwise.
    pub(super) fn add_http_port(
        &mut self,
        bound: SocketAddr,
        user: Option<&str>,
        register: &Register<'_>,
        phase: watch::Sender<Phase>,
    ) {
        let key = (user.map(str::to_owned), register.name.to_owned());
        let port = HttpPort {
            phase,
            hosts: HashMap::from([(register.host.to_owned(), key)]),
            turn: AtomicUsize::new(0),
        };
        self.ports.insert(bound, port);
    }

    /// A link for a visitor of `host`, each in its turn.
    pub(super) fn pick(&self, bound: SocketAddr, host: &str) -> Option<(Handle, u64)> {
        let port = self.ports.get(&bound)?;
        let members = &self.names.get(port.hosts.get(host)?)?.members;
        let alive: Vec<&Member> = members
            .iter()
            .filter(|member| !member.link.is_over())
            .collect();
        let turn = port.turn.fetch_add(1, Relaxed);
        let member = alive.get(turn.checked_rem(alive.len())?)?;
        Some((member.link.clone(), member.service))
    }
}
