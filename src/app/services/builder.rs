//! What the services of one process share.

use std::collections::HashSet;
use std::net::UdpSocket;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use super::kept::Kept;
use super::proxies::chain;
use crate::app::error::Error;
use crate::app::fd_limit::Capacity;
use crate::app::handshakes::Handshakes;
use crate::app::quic::QuicService;
use crate::app::quic_packets::Serve;
use crate::app::reverse::ReverseServer;
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
use crate::outbound::current::Current;
use crate::outbound::dialer::Dialer;
use crate::outbound::shadowsocks::{self, Servers};
use crate::relay::replay::ClientReplays;
use crate::relay::tcp::{Inbound, Outbound, Service, Timeouts};
use crate::relay::udp::{PacketInbound, PacketOutbound, Relay};
use crate::relay::users::Table;
use crate::relay::{Counters, User};

/// Collects the jobs of each worker.
pub(in crate::app) struct Builder<'a> {
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
    /// The servers that `ssr local` uses.
    pub(super) servers: Current,
    /// Those of them that are in the config itself.
    pub(super) own: Vec<Arc<shadowsocks::Server>>,
    /// Those that rules may name, by all their names.
    pub(in crate::app) named: Named,
    /// The server of reverse tunnels.
    pub(super) reverse: Option<Arc<ReverseServer>>,
    /// What outlives a change of the settings of a server.
    pub(super) kept: Kept,
}

/// Servers by the names that rules may use.
pub(in crate::app) type Named = Vec<(Arc<str>, Current)>;

/// What all parts of a process share, for as long as it runs.
pub(in crate::app) struct Shares {
    pub(in crate::app) resolver: Arc<Resolver>,
    pub(in crate::app) counters: Arc<Counters>,
    pub(in crate::app) connections: Arc<Semaphore>,
    pub(in crate::app) handshakes: Arc<Handshakes>,
    pub(in crate::app) visitors: Arc<Visitors>,
    pub(in crate::app) visitors_handshakes: Arc<Handshakes>,
    pub(in crate::app) share: UdpShare,
    fakes: Fakes,
    replays: ClientReplays,
    /// The servers that clients are sent through.
    pub(in crate::app) servers: Current,
    named: Named,
    reverse: Option<Arc<ReverseServer>>,
    pub(in crate::app) kept: Kept,
}

impl Shares {
    /// Rules may name these servers from now on.
    pub(in crate::app) fn set_named(&mut self, named: Named) {
        self.named = named;
    }

    /// A builder of more parts. They listen on the sockets of `passed` that are theirs, and bind the others.
    pub(in crate::app) fn builder<'a>(
        &'a self,
        config: &'a Config,
        workers: usize,
        passed: Passed,
    ) -> Builder<'a> {
        Builder {
            config,
            resolver: &self.resolver,
            counters: &self.counters,
            connections: Arc::clone(&self.connections),
            handshakes: Arc::clone(&self.handshakes),
            visitors: Arc::clone(&self.visitors),
            visitors_handshakes: Arc::clone(&self.visitors_handshakes),
            share: self.share,
            ipv4_wildcards: HashSet::new(),
            jobs: (0..workers).map(|_| Vec::new()).collect(),
            plugins: Plugins::default(),
            routes: None,
            fakes: self.fakes.clone(),
            replays: self.replays.clone(),
            passed,
            files: Vec::new(),
            servers: self.servers.clone(),
            own: Vec::new(),
            named: self.named.clone(),
            reverse: self.reverse.clone(),
            kept: self.kept.clone(),
        }
    }
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
            servers: Current::from(Servers::new(Vec::new())),
            own: Vec::new(),
            named: Vec::new(),
            reverse: None,
            kept: Kept::default(),
        }
    }

    /// What more parts can be built with.
    pub(super) fn shares(self) -> Shares {
        Shares {
            resolver: Arc::clone(self.resolver),
            counters: Arc::clone(self.counters),
            connections: self.connections,
            handshakes: self.handshakes,
            visitors: self.visitors,
            visitors_handshakes: self.visitors_handshakes,
            share: self.share,
            fakes: self.fakes,
            replays: self.replays,
            servers: self.servers,
            named: self.named,
            reverse: self.reverse,
            kept: self.kept,
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
        let port = Arc::new(self.port(inbound, outbound, idle, transport));
        self.listen(listeners, &port);
    }

    /// What the connections of users share that come to one listener.
    pub(super) fn port<I, O>(
        &self,
        inbound: I,
        outbound: O,
        idle: Duration,
        transport: Option<net::transport::Server>,
    ) -> ListenerService<I, O> {
        ListenerService {
            service: self.service(inbound, outbound, idle),
            room: self.users(),
            handshakes: Arc::clone(&self.handshakes),
            transport,
        }
    }

    /// As [`Builder::serve_tcp`], for QUIC connections that come to `socket`. The transport of `port` is not theirs.
    pub(super) fn serve_quic<I, O>(
        &mut self,
        socket: UdpSocket,
        port: Arc<ListenerService<I, O>>,
        server: (Arc<net::quic::Server>, Option<Serve>),
    ) -> Result<(), Error>
    where
        I: Inbound + Send + 'static,
        O: Outbound + Send + 'static,
    {
        let claim = self.kept.quic().claim(socket);
        let claim = claim.map_err(Error::system("cannot use a socket for QUIC"))?;
        let workers = self.jobs.len();
        let (listen, shares) = QuicService::jobs(port, server, claim, workers);
        self.push(0, listen);
        for (index, job) in shares.into_iter().enumerate() {
            self.push(index, job);
        }
        Ok(())
    }

    /// As [`Builder::serve_tcp`], for connections of visitors.
    pub(super) fn serve_visitors<I, O>(
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
        let port = self.visitors_port(service, transport);
        self.listen(listeners, &Arc::new(port));
    }

    /// The same for those that come by QUIC, in streams.
    pub(super) fn serve_quic_visitors<I, O>(
        &mut self,
        socket: UdpSocket,
        inbound: I,
        outbound: O,
        server: Arc<net::quic::Server>,
    ) -> Result<(), Error>
    where
        I: Inbound + Send + 'static,
        O: Outbound + Send + 'static,
    {
        let service = self.service(inbound, outbound, self.config.timeouts.idle);
        let port = self.visitors_port(service, None);
        self.serve_quic(socket, Arc::new(port), (server, None))
    }

    fn visitors_port<I, O>(
        &self,
        service: Service<I, O>,
        transport: Option<net::transport::Server>,
    ) -> ListenerService<I, O> {
        ListenerService {
            service,
            room: Room::Visitors(self.visitors.port()),
            handshakes: Arc::clone(&self.visitors_handshakes),
            transport,
        }
    }

    fn service<I, O>(&self, inbound: I, outbound: O, idle: Duration) -> Service<I, O> {
        Service {
            inbound,
            outbound,
            timeouts: self.timeouts(idle),
            counters: Arc::clone(self.counters),
        }
    }

    pub(super) fn listen<I, O>(
        &mut self,
        listeners: Vec<Listener>,
        port: &Arc<ListenerService<I, O>>,
    ) where
        I: Inbound + Send + 'static,
        O: Outbound + Send + 'static,
    {
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
        if let Some(known) = self.kept.table(server) {
            return Ok(known);
        }
        let (method, key) = (server.method, server.keys.key.clone());
        let users = server.users.iter().map(config::User::stated).collect();
        let table = Table::new(&server.name, method, key, users);
        let table = Arc::new(table.map_err(|source| Error::Users {
            server: server.name.clone(),
            source,
        })?);
        self.counters.users.add(Arc::clone(&table));
        self.kept.note_table(server, &table);
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
