//! What outlives a change of a server's settings: its users, and what it has seen of salts.

use std::sync::{Arc, Mutex};

use crate::config::Server;
use crate::crypto::{Key, Method, ReplayPolicy};
use crate::net::sync::lock;
use crate::relay::replay::ReplayFilter;
use crate::relay::users::Table;
use crate::wire::Address;

/// That of all servers.
#[derive(Clone, Default)]
pub(in crate::app) struct Kept(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    filters: Vec<Filter>,
    tables: Vec<Users>,
}

/// What one server has seen.
#[derive(Clone)]
pub(in crate::app) struct Filter {
    address: Address,
    method: Method,
    pub(super) streams: Arc<ReplayFilter>,
    pub(super) packets: Arc<ReplayFilter>,
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
        };
        inner.filters.push(new.clone());
        new
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
