//! What listens where, and what it does with who comes: the table in which the two roles differ.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use super::fd_limit::Capacity;
use super::handshakes::Handshakes;
use super::reverse::{Client, Common, Offered, Publisher};
use super::worker::{Job, Port, packets};
use super::{Error, transport};
use crate::config::{self, Config, Local, Role, Server};
use crate::dns::Resolver;
use crate::inbound::shadowsocks::packets::ShadowsocksPackets;
use crate::inbound::shadowsocks::replay::ReplayFilter;
use crate::inbound::shadowsocks::{Links, Shadowsocks};
use crate::inbound::socks::packets::SocksPackets;
use crate::inbound::socks::{Login, Socks, UdpAssociate};
use crate::inbound::udp_associate::Associations;
use crate::net::{self, SocketOptions, listener};
use crate::outbound::dialer::Dialer;
use crate::outbound::direct::Direct;
use crate::outbound::endpoint::Endpoint;
use crate::outbound::shadowsocks::{self, Servers};
use crate::outbound::udp_over_stream::{Inside, WithPackets};
use crate::relay::tcp::{Service, Timeouts};
use crate::relay::udp::{PacketInbound, PacketOutbound, Relay};
use crate::relay::{Counters, User};
use crate::wire::Address;
use crate::wire::ss::{Account, Accounts, Credentials};

/// Builds all services; one list of jobs a worker.
pub(super) async fn build(
    config: &Config,
    capacity: Capacity,
    workers: usize,
    resolver: &Arc<Resolver>,
    counters: &Arc<Counters>,
) -> Result<Vec<Vec<Job>>, Error> {
    let mut builder = Builder {
        config,
        resolver,
        counters,
        connections: Arc::new(Semaphore::new(
            capacity.connections.min(Semaphore::MAX_PERMITS),
        )),
        handshakes: Arc::new(Handshakes::new(capacity.handshakes)),
        four: HashSet::new(),
        jobs: (0..workers).map(|_| Vec::new()).collect(),
    };
    match config.role {
        Role::Local => builder.locals().await?,
        Role::Server => builder.servers().await?,
        Role::Forward => {}
    }
    builder.forwards().await?;
    Ok(builder.jobs)
}

pub(super) struct Builder<'a> {
    pub(super) config: &'a Config,
    resolver: &'a Arc<Resolver>,
    counters: &'a Arc<Counters>,
    connections: Arc<Semaphore>,
    handshakes: Arc<Handshakes>,
    /// Ports on which the IPv4 wildcard is listened on too, so that the IPv6 one must leave it alone.
    four: HashSet<u16>,
    jobs: Vec<Vec<Job>>,
}

impl Builder<'_> {
    async fn servers(&mut self) -> Result<(), Error> {
        let publisher = self.publisher();
        self.note_wildcards(self.config.servers.iter().map(|server| &server.address));
        for server in &self.config.servers {
            let address = self.listen_address(&server.address).await?;
            let accounts = Arc::new(accounts(server));
            let direct = Direct(self.dialer(outgoing(&server.socket, false)));
            let next_hops: Vec<_> = server
                .users
                .iter()
                .map(|user| user.next_hop.clone())
                .collect();
            let mut bound = address;
            if server.mode.tcp {
                let idle = server.idle.unwrap_or(self.config.timeouts.idle);
                let inbound = Shadowsocks {
                    accounts: Arc::clone(&accounts),
                    next_hops: next_hops.clone(),
                    replays: ReplayFilter::for_streams(server.method, self.config.replay),
                    users: server
                        .users
                        .iter()
                        .map(|account| user(&account.name))
                        .collect(),
                    drain_timeout: self.config.timeouts.handshake,
                    links: links(&publisher),
                };
                let (at, listeners) = self.bind_tcp(address, &server.socket)?;
                bound = at;
                let transport = transport::server(server)?;
                // Over WebSocket a client may send its datagrams inside, too.
                if server.mode.udp && transport.as_ref().is_some_and(|made| made.ws.is_some()) {
                    let outbound = WithPackets::new(direct.clone(), bound, self.config.udp_timeout);
                    self.port(listeners, inbound, outbound, idle, transport);
                } else {
                    self.port(listeners, inbound, direct.clone(), idle, transport);
                }
            }
            if server.mode.udp {
                let inbound = ShadowsocksPackets {
                    accounts,
                    next_hops,
                    replays: ReplayFilter::for_packets(server.method, self.config.replay),
                };
                let sockets = self.bind_udp(bound, &server.socket)?;
                let relay = self.relay(inbound, direct);
                self.packets(&relay, sockets, incoming(&server.socket).udp);
            }
            tracing::info!(address = %bound, method = server.method.name(), mode = server.mode.name(), "listening");
        }
        Ok(())
    }

    async fn locals(&mut self) -> Result<(), Error> {
        let servers = Servers::new(
            self.config
                .servers
                .iter()
                .map(|server| self.server(server))
                .collect::<Result<_, _>>()?,
        );
        let addresses = self
            .config
            .locals
            .iter()
            .flat_map(|local| [Some(&local.address), local.udp_address.as_ref()]);
        self.note_wildcards(addresses.flatten());
        for local in &self.config.locals {
            self.socks(local, &servers).await?;
        }
        self.offer(&servers);
        Ok(())
    }

    /// What serves the links of reverse tunnels.
    fn publisher(&mut self) -> Arc<Publisher> {
        let reverse = &self.config.reverse;
        let common = Common {
            options: incoming(&self.config.socket),
            timeouts: self.timeouts(self.config.timeouts.idle),
            udp_idle: self.config.udp_timeout,
            counters: Arc::clone(self.counters),
            connections: Arc::clone(&self.connections),
            handshakes: Arc::clone(&self.handshakes),
        };
        let (publisher, job) = Publisher::new(reverse.allow.clone(), reverse.heartbeat, common);
        if let Some(jobs) = self.jobs.first_mut() {
            jobs.push(job);
        }
        publisher
    }

    /// Offers services to the server, on each worker the links of its share.
    fn offer(&mut self, servers: &Servers) {
        let reverse = &self.config.reverse;
        if reverse.services.is_empty() {
            return;
        }
        let client = Client::new(Offered {
            services: reverse.services.clone(),
            heartbeat: reverse.heartbeat,
            servers: servers.clone(),
            dialer: self.dialer(outgoing(&self.config.socket, false)),
            timeouts: self.timeouts(self.config.timeouts.idle),
            udp_idle: self.config.udp_timeout,
            counters: Arc::clone(self.counters),
        });
        let workers = self.jobs.len();
        for index in 0..reverse.links {
            let number = u8::try_from(index).unwrap_or(u8::MAX);
            if let Some(jobs) = self.jobs.get_mut(index % workers.max(1)) {
                jobs.push(client.job(number));
            }
        }
    }

    async fn socks(&mut self, local: &Local, servers: &Servers) -> Result<(), Error> {
        let options = &self.config.socket;
        let mut address = self.listen_address(&local.address).await?;
        let mut streams = None;
        if local.mode.tcp {
            let bound = self.bind_tcp(address, options)?;
            address = bound.0;
            streams = Some(bound.1);
        }
        let mut datagrams = None;
        if local.mode.udp {
            let udp_address = match &local.udp_address {
                Some(other) => self.listen_address(other).await?,
                None => address,
            };
            let sockets = self.bind_udp(udp_address, options)?;
            let bound = sockets
                .first()
                .and_then(|socket| socket.local_addr().ok())
                .unwrap_or(udp_address);
            let associations = Arc::new(Associations::default());
            // Clients cannot ask for an association where no TCP is served: then everybody may send.
            let admitted = local.mode.tcp.then(|| Arc::clone(&associations));
            let relay = self.relay(SocksPackets(admitted), servers.clone());
            // Between programs of one machine, nothing is too long.
            let any = net::UdpOptions {
                longest: None,
                ..incoming(options).udp
            };
            self.packets(&relay, sockets, any);
            datagrams = Some(UdpAssociate {
                address: bound,
                public: local.udp_associate_address.clone(),
                associations,
                close: Box::new(move |peer| relay.close(peer)),
            });
        }
        if let Some(listeners) = streams {
            let logins = local.auth.iter();
            let inbound = Socks {
                logins: logins
                    .map(|login| Login {
                        user: user(&login.user),
                        password: login.password.expose().as_bytes().to_vec(),
                    })
                    .collect(),
                udp: datagrams,
            };
            self.port(
                listeners,
                inbound,
                servers.clone(),
                self.config.timeouts.idle,
                None,
            );
        }
        tracing::info!(%address, protocol = local.protocol.name(), mode = local.mode.name(), "listening");
        Ok(())
    }

    /// A server as `local` sees it.
    fn server(&self, server: &Server) -> Result<shadowsocks::Server, Error> {
        let endpoint = Endpoint {
            address: server.address.clone(),
            credentials: Credentials::new(
                server.method,
                server.keys.identity.clone(),
                server.keys.key.clone(),
            ),
            dialer: self.dialer(outgoing(&server.socket, true)),
            transport: transport::client(server)?,
        };
        let inside = server.transport.as_ref().filter(|made| made.udp_inside);
        let inside = inside.map(|_| Inside {
            timeouts: self.timeouts(self.config.udp_timeout),
            idle: self.config.udp_timeout,
            counters: Arc::clone(self.counters),
        });
        Ok(shadowsocks::Server::new(
            endpoint,
            server.weights,
            inside,
            server.warm,
        ))
    }

    pub(super) fn dialer(&self, options: SocketOptions) -> Dialer {
        Dialer {
            resolver: Arc::clone(self.resolver),
            options,
            connect_timeout: self.config.timeouts.connect,
            deny_private: self.config.deny_private,
        }
    }

    pub(super) fn port<I, O>(
        &mut self,
        listeners: Vec<TcpListener>,
        inbound: I,
        outbound: O,
        idle: Duration,
        transport: Option<net::transport::Server>,
    ) where
        I: crate::relay::tcp::Inbound + Send + 'static,
        O: crate::relay::tcp::Outbound + Send + 'static,
    {
        let port = Arc::new(Port {
            service: Service {
                inbound,
                outbound,
                timeouts: self.timeouts(idle),
                counters: Arc::clone(self.counters),
            },
            connections: Arc::clone(&self.connections),
            handshakes: Arc::clone(&self.handshakes),
            transport,
        });
        for (jobs, listener) in self.jobs.iter_mut().zip(listeners) {
            jobs.push(port.job(listener));
        }
    }

    fn timeouts(&self, idle: Duration) -> Timeouts {
        let timeouts = &self.config.timeouts;
        Timeouts {
            handshake: timeouts.handshake,
            connect: timeouts.connect,
            idle,
            half_close: timeouts.half_close,
            first_payload: self.config.first_bytes_wait,
            keep_alive: self.config.socket.keep_alive,
        }
    }

    pub(super) fn relay<I: PacketInbound, O: PacketOutbound>(
        &self,
        inbound: I,
        outbound: O,
    ) -> Arc<Relay<I, O>> {
        let capacity =
            NonZeroUsize::new(self.config.limits.udp_associations).unwrap_or(NonZeroUsize::MIN);
        Arc::new(Relay::new(
            inbound,
            outbound,
            capacity,
            self.config.udp_timeout,
            Arc::clone(self.counters),
        ))
    }

    pub(super) fn packets<I: PacketInbound, O: PacketOutbound>(
        &mut self,
        relay: &Arc<Relay<I, O>>,
        sockets: Vec<UdpSocket>,
        options: net::UdpOptions,
    ) {
        for (jobs, socket) in self.jobs.iter_mut().zip(sockets) {
            jobs.push(packets(Arc::clone(relay), socket, options));
        }
    }

    pub(super) fn bind_tcp(
        &self,
        address: SocketAddr,
        options: &config::SocketOptions,
    ) -> Result<(SocketAddr, Vec<TcpListener>), Error> {
        let listeners = listener::tcp(
            address,
            self.jobs.len(),
            self.group(address, options),
            &incoming(options),
        )?;
        let bound = listeners
            .first()
            .and_then(|listener| listener.local_addr().ok())
            .unwrap_or(address);
        Ok((bound, listeners))
    }

    pub(super) fn bind_udp(
        &self,
        address: SocketAddr,
        options: &config::SocketOptions,
    ) -> Result<Vec<UdpSocket>, Error> {
        Ok(listener::udp(
            address,
            self.jobs.len(),
            self.group(address, options),
            &incoming(options),
        )?)
    }

    fn group(&self, address: SocketAddr, options: &config::SocketOptions) -> listener::Group {
        listener::Group {
            only_v6: options.ipv6_only || self.four.contains(&address.port()),
            share: options.reuse_port,
        }
    }

    pub(super) fn note_wildcards<'a>(&mut self, addresses: impl Iterator<Item = &'a Address>) {
        let wildcards = addresses.filter_map(|address| match address {
            Address::Ip(address) if address.ip() == Ipv4Addr::UNSPECIFIED => Some(address.port()),
            _ => None,
        });
        self.four.extend(wildcards);
    }

    /// The socket address of a listening address, which may be a name.
    pub(super) async fn listen_address(&self, address: &Address) -> Result<SocketAddr, Error> {
        match address {
            Address::Ip(address) => Ok(*address),
            Address::Domain(name, port) => {
                let addresses = self.resolver.lookup(name).await;
                let addresses = addresses.map_err(|source| Error::Listen {
                    name: name.to_string(),
                    source,
                })?;
                let ip = addresses
                    .first()
                    .copied()
                    .unwrap_or(IpAddr::V6(Ipv6Addr::LOCALHOST));
                Ok(SocketAddr::new(ip, *port))
            }
        }
    }
}

/// Hands the links of a server's clients to the publisher, with their users' names.
fn links(publisher: &Arc<Publisher>) -> Links {
    let publisher = Arc::clone(publisher);
    Box::new(move |leg, peer, user| {
        let user = user.map(|user| user.name.to_string());
        Box::pin(Arc::clone(&publisher).serve(leg, peer, user))
    })
}

fn user(name: &str) -> Arc<User> {
    Arc::new(User { name: name.into() })
}

fn accounts(server: &Server) -> Accounts {
    let users = server.users.iter();
    let users = users
        .map(|user| Account {
            key: user.key.clone(),
            relayed: user.next_hop.is_some(),
        })
        .collect();
    Accounts::new(server.method, server.keys.key.clone(), users)
}

/// Options of the sockets that clients come to.
pub(super) fn incoming(options: &config::SocketOptions) -> SocketOptions {
    SocketOptions {
        fast_open: options.fast_open,
        mptcp: options.mptcp,
        keep_alive: options.keep_alive,
        send_buffer: size(options.inbound_send_buffer),
        recv_buffer: size(options.inbound_recv_buffer),
        udp: net::UdpOptions {
            fragment: options.inbound_udp_allow_fragmentation.unwrap_or(true),
            longest: options.udp_mtu,
        },
        ..SocketOptions::default()
    }
}

/// Options of the sockets that go out, to a server or to targets. What is long for the path because of our own tags and
/// headers should not be lost, so on the way to a server the system may cut it where the config does not say.
pub(super) fn outgoing(options: &config::SocketOptions, to_server: bool) -> SocketOptions {
    SocketOptions {
        fast_open: options.fast_open,
        mptcp: options.mptcp,
        keep_alive: options.keep_alive,
        send_buffer: size(options.outbound_send_buffer),
        recv_buffer: size(options.outbound_recv_buffer),
        mark: options.fwmark,
        bind_addresses: options
            .bind_address
            .into_iter()
            .chain(options.bind_address_other)
            .collect(),
        bind_interface: options.bind_interface.clone(),
        udp: net::UdpOptions {
            fragment: options
                .outbound_udp_allow_fragmentation
                .unwrap_or(to_server),
            longest: options.udp_mtu,
        },
    }
}

fn size(bytes: Option<u32>) -> Option<usize> {
    bytes.and_then(|bytes| usize::try_from(bytes).ok())
}
