//! What the services of one process share.

use std::collections::HashSet;
use std::net::UdpSocket;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use super::proxies::chain;
use crate::app::error::Error;
use crate::app::fd_limit::Capacity;
use crate::app::handshakes::Handshakes;
use crate::app::room::Room;
use crate::app::udp_share::UdpShare;
use crate::app::visitors::Visitors;
use crate::app::worker::{Job, ListenerService, packets};
use crate::config::{self, Config, ProxyHop, Server};
use crate::dns::Resolver;
use crate::dns::fake::Fakes;
use crate::net::listener::Listener;
use crate::net::passed::Passed;
use crate::net::plugin::Plugins;
use crate::net::tun::routes::AutoRoute;
use crate::net::unix::SocketFile;
use crate::net::{self, SocketOptions};
use crate::outbound::dialer::Dialer;
use crate::relay::replay::ClientReplays;
use crate::relay::tcp::{Inbound, Outbound, Service, Timeouts};
use crate::relay::udp::{PacketInbound, PacketOutbound, Relay};
use crate::relay::users::Table;
use crate::relay::{Counters, User};

/// Collects the jobs of each worker.
pub(super) struct Builder<'a> {
    pub(super) config: &'a Config,
    pub(super) resolver: &'a Arc<Resolver>,
    pub(super) counters: &'a Arc<Counters>,
    pub(super) connections: Arc<Semaphore>,
    pub(super) handshakes: Arc<Handshakes>,
    /// The visitors of reverse tunnels and the clients of `forwards`, ...
    pub(super) visitors: Arc<Visitors>,
    /// ... and those of them who are in their handshake.
    pub(super) visitors_handshakes: Arc<Handshakes>,
    /// The most UDP associations, UDP flows of reverse tunnels and public ports.
    pub(super) share: UdpShare,
    /// Ports that a service binds on the IPv4 wildcard: a service on the IPv6 wildcard must leave IPv4 alone there.
    pub(super) ipv4_wildcards: HashSet<u16>,
    pub(super) jobs: Vec<Vec<Job>>,
    pub(super) plugins: Plugins,
    /// What leads the traffic of this machine into a tun device.
    pub(super) routes: Option<AutoRoute>,
    /// The names behind the addresses of `fake-dns` locals.
    pub(super) fakes: Fakes,
    /// What was sent to servers and received from them.
    pub(super) replays: ClientReplays,
    /// What the service manager has passed.
    pub(super) passed: Passed,
    pub(super) files: Vec<SocketFile>,
}

impl<'a> Builder<'a> {
    pub(super) fn new(
        config: &'a Config,
        capacity: Capacity,
        workers: usize,
        resolver: &'a Arc<Resolver>,
        counters: &'a Arc<Counters>,
    ) -> Self {
        let connections = capacity.connections.min(Semaphore::MAX_PERMITS);
        Self {
            config,
            resolver,
            counters,
            connections: Arc::new(Semaphore::new(connections)),
            handshakes: Arc::new(Handshakes::new(capacity.handshakes)),
            visitors: Visitors::new(capacity.visitors),
            visitors_handshakes: Arc::new(Handshakes::new(capacity.visitors_handshakes)),
            share: UdpShare::of(config, None),
            ipv4_wildcards: HashSet::new(),
            jobs: (0..workers).map(|_| Vec::new()).collect(),
            plugins: Plugins::default(),
            routes: None,
            fakes: Fakes::default(),
            replays: ClientReplays::new(config.replay),
            passed: Passed::default(),
            files: Vec::new(),
        }
    }

    pub(super) fn dialer(&self, options: SocketOptions) -> Dialer {
        Dialer {
            resolver: Arc::clone(self.resolver),
            options,
            connect_timeout: self.config.timeouts.connect,
            deny_private: self.config.deny_private,
            proxies: None,
            filter: None,
        }
    }

    /// A dialer whose connections go through `proxies`.
    pub(super) fn dialer_through(
        &self,
        options: SocketOptions,
        proxies: &[ProxyHop],
    ) -> Result<Dialer, Error> {
        Ok(Dialer {
            proxies: chain(proxies, &self.replays)?,
            ..self.dialer(options)
        })
    }

    /// The places of users.
    pub(super) fn users(&self) -> Room {
        Room::Users(Arc::clone(&self.connections))
    }

    /// Serves connections of users that come to `listeners`, which the workers share out among them.
    pub(super) fn serve_tcp<I, O>(
        &mut self,
        listeners: Vec<Listener>,
        inbound: I,
        outbound: O,
        idle: Duration,
        transport: Option<net::transport::Server>,
    ) where
        I: Inbound + Send + 'static,
        O: Outbound + Send + 'static,
    {
        let service = self.service(inbound, outbound, idle);
        let port = ListenerService {
            service,
            room: self.users(),
            handshakes: Arc::clone(&self.handshakes),
            transport,
        };
        self.listen(listeners, port);
    }

    /// The same for connections of visitors.
    pub(super) fn serve_visitors<I, O>(
        &mut self,
        listeners: Vec<Listener>,
        inbound: I,
        outbound: O,
        idle: Duration,
    ) where
        I: Inbound + Send + 'static,
        O: Outbound + Send + 'static,
    {
        let service = self.service(inbound, outbound, idle);
        let port = ListenerService {
            service,
            room: Room::Visitors(self.visitors.port()),
            handshakes: Arc::clone(&self.visitors_handshakes),
            transport: None,
        };
        self.listen(listeners, port);
    }

    fn service<I, O>(&self, inbound: I, outbound: O, idle: Duration) -> Service<I, O> {
        Service {
            inbound,
            outbound,
            timeouts: self.timeouts(idle),
            counters: Arc::clone(self.counters),
        }
    }

    fn listen<I, O>(&mut self, listeners: Vec<Listener>, port: ListenerService<I, O>)
    where
        I: Inbound + Send + 'static,
        O: Outbound + Send + 'static,
    {
        let port = Arc::new(port);
        for (index, listener) in listeners.into_iter().enumerate() {
            self.push(index, port.job(listener));
        }
    }

    pub(super) fn timeouts(&self, idle: Duration) -> Timeouts {
        let timeouts = &self.config.timeouts;
        Timeouts {
            handshake: timeouts.handshake,
            connect: timeouts.connect,
            idle,
            half_close: timeouts.half_close,
            first_payload_wait: self.config.first_payload_wait,
            keep_alive: self.config.socket.keep_alive,
        }
    }

    pub(super) fn relay<I: PacketInbound, O: PacketOutbound>(
        &self,
        inbound: I,
        outbound: O,
    ) -> Arc<Relay<I, O>> {
        let capacity = self.share.associations;
        Arc::new(Relay::new(
            inbound,
            outbound,
            capacity,
            self.config.udp_timeout,
            Arc::clone(self.counters),
        ))
    }

    /// Serves datagrams that come to `sockets`, which the workers share out among them.
    pub(super) fn serve_udp<I: PacketInbound, O: PacketOutbound>(
        &mut self,
        relay: &Arc<Relay<I, O>>,
        sockets: Vec<UdpSocket>,
        options: net::UdpOptions,
    ) {
        for (index, socket) in sockets.into_iter().enumerate() {
            self.push(index, packets(Arc::clone(relay), socket, options));
        }
    }

    /// The users of a server, whom the process knows from now on.
    pub(super) fn table(&self, server: &Server) -> Result<Arc<Table>, Error> {
        let (method, key) = (server.method, server.keys.key.clone());
        let users = server.users.iter().map(config::User::stated).collect();
        let table = Table::new(&server.name, method, key, users);
        let table = Arc::new(table.map_err(|source| Error::Users {
            server: server.name.clone(),
            source,
        })?);
        self.counters.users.add(Arc::clone(&table));
        Ok(table)
    }

    /// Gives a job to one of the workers in turn.
    pub(super) fn push(&mut self, index: usize, job: Job) {
        let workers = self.jobs.len().max(1);
        if let Some(jobs) = self.jobs.get_mut(index % workers) {
            jobs.push(job);
        }
    }
}

/// The user of an account.
pub(super) fn user(name: &str) -> Arc<User> {
    Arc::new(User::new(name))
}
