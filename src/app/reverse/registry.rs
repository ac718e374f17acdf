//! What is published, and by which links.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use tokio::sync::watch;

use super::grants::Refusal;
use super::sharing::Door;
use crate::app::worker::Phase;
use crate::relay::link::Handle;
use crate::wire::reverse::{Code, Protocol, Register};

/// Length of the part of a token that identifies the client; the rest identifies the link.
const CLIENT_TOKEN: usize = 15;

/// Everything that is published.
#[derive(Default)]
pub(super) struct Registry {
    services: HashMap<Key, Entry>,
    http_ports: HashMap<SocketAddr, HttpPort>,
    /// All links, published or not.
    links: Vec<Handle>,
}

/// User and name: two users may use one name.
pub(super) type Key = (Option<String>, String);

struct Entry {
    protocol: Protocol,
    /// The `bind` and `host` of the registration, which other links must repeat.
    requested: String,
    bound: SocketAddr,
    group: bool,
    members: Vec<Member>,
}

struct Member {
    link: Handle,
    service: u64,
    token: Vec<u8>,
    /// Where its link takes visitors that others have accepted; only of TCP services.
    door: Option<Door>,
}

struct HttpPort {
    /// Stops the listener.
    phase: watch::Sender<Phase>,
    hosts: HashMap<String, Key>,
    /// Selects the next link.
    next: AtomicUsize,
}

fn requested(register: &Register<'_>) -> String {
    format!("{} {}", register.bind, register.host)
}

impl Registry {
    pub(super) fn add_link(&mut self, link: &Handle) {
        self.links.push(link.clone());
    }

    /// Removes a link and everything that it has published.
    pub(super) fn remove_link(&mut self, link: &Handle) {
        self.links.retain(|other| !other.is_same(link));
        for entry in self.services.values_mut() {
            entry.members.retain(|member| !member.link.is_same(link));
        }
        self.services.retain(|_, entry| !entry.members.is_empty());
        let services = &self.services;
        for port in self.http_ports.values_mut() {
            port.hosts.retain(|_, key| services.contains_key(key));
        }
        self.http_ports.retain(|_, port| {
            if port.hosts.is_empty() {
                port.phase.send_replace(Phase::Drain);
            }
            !port.hosts.is_empty()
        });
    }

    /// Stops every link and every HTTP port.
    pub(super) fn stop_links(&self) {
        self.links.iter().for_each(Handle::stop);
        for port in self.http_ports.values() {
            port.phase.send_replace(Phase::Drain);
        }
    }

    /// Checks whether a client may publish under the name. Returns the address of the service that it joins, if there is
    /// one. An older link with the same token is closed at once; links of another client are probed, so that a dead one
    /// gives the name up.
    pub(super) fn admit(
        &mut self,
        user: Option<&str>,
        register: &Register<'_>,
    ) -> Result<Option<SocketAddr>, Refusal> {
        let key = (user.map(str::to_owned), register.name.to_owned());
        let Some(entry) = self.services.get_mut(&key) else {
            return Ok(None);
        };
        entry.members.retain(|member| {
            let same = member.token == register.token && !register.token.is_empty();
            if same {
                member.link.evict();
            }
            !same && !member.link.is_closed()
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
                "another client publishes `{name}`; choose another name, or set `\"group\": true` on both to share it"
            );
            return Err((Code::TAKEN, reason));
        }
        if entry.protocol != register.protocol || entry.requested != requested(register) {
            let name = register.name;
            let reason = format!(
                "`{name}` is already published with another `protocol`, `bind` or `host`; make them equal"
            );
            return Err((Code::INVALID, reason));
        }
        Ok(Some(entry.bound))
    }

    /// Adds a link that publishes a service at `bound`.
    pub(super) fn insert(
        &mut self,
        user: Option<&str>,
        register: &Register<'_>,
        bound: SocketAddr,
        (link, service, door): (&Handle, u64, Option<Door>),
    ) {
        let key = (user.map(str::to_owned), register.name.to_owned());
        let entry = self.services.entry(key).or_insert_with(|| Entry {
            protocol: register.protocol,
            requested: requested(register),
            bound,
            group: register.group,
            members: Vec::new(),
        });
        entry.members.push(Member {
            link: link.clone(),
            service,
            token: register.token.to_vec(),
            door,
        });
    }

    /// Adds the host to the HTTP port at `bound`. `None`: there is no such port yet.
    pub(super) fn join_http_port(
        &mut self,
        bound: SocketAddr,
        user: Option<&str>,
        register: &Register<'_>,
    ) -> Option<Result<(), Refusal>> {
        let port = self.http_ports.get_mut(&bound)?;
        let key = (user.map(str::to_owned), register.name.to_owned());
        Some(match port.hosts.get(register.host) {
            Some(other) if *other != key => {
                let host = register.host;
                Err((
                    Code::TAKEN,
                    format!("another service has host `{host}` at {bound}"),
                ))
            }
            _ => {
                port.hosts.insert(register.host.to_owned(), key);
                Ok(())
            }
        })
    }

    /// Adds an HTTP port, whose listener `phase` stops.
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
            next: AtomicUsize::new(0),
        };
        self.http_ports.insert(bound, port);
    }

    /// The link with the fewest visitors of those that publish the service beside `own`, if it has fewer than `own`.
    pub(super) fn lighter(&self, service: &Key, own: &Handle) -> Option<(Handle, Door)> {
        let members = &self.services.get(service)?.members;
        if members.len() < 2 {
            return None;
        }
        let open = members.iter().filter(|member| !member.link.is_closed());
        let lightest = open.min_by_key(|member| member.link.load())?;
        (lightest.link.load() < own.load())
            .then(|| Some((lightest.link.clone(), lightest.door.clone()?)))?
    }

    /// The link with the fewest visitors for one of `host`, and the service's id on it.
    pub(super) fn pick(&self, bound: SocketAddr, host: &str) -> Option<(Handle, u64)> {
        let port = self.http_ports.get(&bound)?;
        let members = &self.services.get(port.hosts.get(host)?)?.members;
        let alive: Vec<&Member> = members
            .iter()
            .filter(|member| !member.link.is_closed())
            .collect();
        // Among equals in rotation.
        let first = port
            .next
            .fetch_add(1, Relaxed)
            .checked_rem(alive.len())
            .unwrap_or_default();
        let (before, after) = alive.split_at(first);
        let turns = after.iter().chain(before);
        let member = turns.min_by_key(|member| member.link.load())?;
        Some((member.link.clone(), member.service))
    }
}
