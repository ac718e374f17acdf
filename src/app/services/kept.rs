//! What outlives a change of a server's settings: its users, and what it has seen of salts.

use std::sync::{Arc, Mutex};

use crate::app::upgrade::{Legacy, Seen};
use crate::config::Server;
use crate::crypto::{Key, Method, ReplayPolicy};
use crate::net::quic::Ports;
use crate::net::sync::lock;
use crate::relay::group::Group;
use crate::relay::replay::{ReplayFilter, Salts, SessionMemory};
use crate::relay::users::Table;
use crate::wire::Address;

/// That of all servers.
#[derive(Clone, Default)]
pub(in crate::app) struct Kept(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    filters: Vec<Filter>,
    tables: Vec<Users>,
    /// Whom to ask for the salts that other servers have served.
    salts: Option<Salts>,
    /// Ports whose QUIC connections outlive their listener.
    quic: Ports,
}

/// What one server has seen.
#[derive(Clone)]
pub(in crate::app) struct Filter {
    address: Address,
    method: Method,
    pub(super) streams: Arc<ReplayFilter>,
    pub(super) packets: Arc<ReplayFilter>,
    pub(super) ended: SessionMemory,
}

/// The users of one server.
struct Users {
    address: Address,
    method: Method,
    name: String,
    key: Key,
    table: Arc<Table>,
}

impl Kept {
    /// The filters of `server`, which are new if it is.
    pub(super) fn filter(&self, server: &Server, policy: ReplayPolicy) -> Filter {
        let mut inner = lock(&self.0);
        if let Some(known) = inner.filters.iter().find(|one| one.is_of(server)) {
            return known.clone();
        }
        let new = Filter {
            address: server.address.clone(),
            method: server.method,
            streams: Arc::new(ReplayFilter::for_streams(server.method, policy)),
            packets: Arc::new(ReplayFilter::for_packets(server.method, policy)),
            ended: SessionMemory::default(),
        };
        if let Some(salts) = &inner.salts {
            let group = Group::of(server.method, &server.keys.key);
            new.streams.share(salts.clone(), group, server.method);
        }
        inner.filters.push(new.clone());
        new
    }

    /// Has servers that are built from now on share salts with others.
    pub(super) fn share_salts(&self, salts: Salts) {
        lock(&self.0).salts = Some(salts);
    }

    /// The ports on which QUIC is served.
    pub(in crate::app) fn quic(&self) -> Ports {
        lock(&self.0).quic.clone()
    }

    /// The users of `server`, if it is known.
    pub(in crate::app) fn table(&self, server: &Server) -> Option<Arc<Table>> {
        let inner = lock(&self.0);
        let known = inner.tables.iter().find(|one| one.is_of(server));
        known.map(|users| Arc::clone(&users.table))
    }

    /// Keeps the users of `server`.
    pub(super) fn note_table(&self, server: &Server, table: &Arc<Table>) {
        lock(&self.0).tables.push(Users {
            address: server.address.clone(),
            method: server.method,
            name: server.name.clone(),
            key: server.keys.key.clone(),
            table: Arc::clone(table),
        });
    }

    /// What all servers have seen, for a process that takes over.
    pub(in crate::app) fn record(&self) -> Vec<Legacy> {
        let filters = lock(&self.0).filters.clone();
        let mut all = Vec::new();
        for filter in filters {
            for of in [Seen::Streams, Seen::Packets, Seen::Sessions] {
                let mut bytes = Vec::new();
                match of {
                    Seen::Streams => filter.streams.record(&mut bytes),
                    Seen::Packets => filter.packets.record(&mut bytes),
                    Seen::Sessions => filter.ended.record(&mut bytes),
                }
                let (server, method) = (filter.address.to_string(), filter.method.name());
                all.push((server, method.to_owned(), of, bytes));
            }
        }
        all
    }

    /// Takes over what a server has seen in an earlier process, if it is still served.
    pub(in crate::app) fn restore(&self, server: &str, method: &str, of: Seen, bytes: &[u8]) {
        let is_it =
            |one: &&Filter| one.address.to_string() == server && one.method.name() == method;
        let found = lock(&self.0).filters.iter().find(is_it).cloned();
        let restored = found.and_then(|filter| match of {
            Seen::Streams => filter.streams.restore(bytes),
            Seen::Packets => filter.packets.restore(bytes),
            Seen::Sessions => filter.ended.restore(bytes),
        });
        if restored.is_none() {
            tracing::debug!(
                server,
                ?of,
                "what the old process has seen is not taken over"
            );
        }
    }

    /// Forgets what belongs to servers that are not among `servers`. Returns their users.
    pub(in crate::app) fn keep(&self, servers: &[Server]) -> Vec<Arc<Table>> {
        let mut inner = lock(&self.0);
        inner
            .filters
            .retain(|one| servers.iter().any(|server| one.is_of(server)));
        let is_gone = |one: &mut Users| !servers.iter().any(|server| one.is_of(server));
        let gone = inner.tables.extract_if(.., is_gone);
        gone.map(|users| users.table).collect()
    }
}

impl Filter {
    fn is_of(&self, server: &Server) -> bool {
        self.address == server.address && self.method == server.method
    }
}

impl Users {
    fn is_of(&self, server: &Server) -> bool {
        self.address == server.address
            && self.method == server.method
            && self.name == server.name
            && self.key == server.keys.key
    }
}
