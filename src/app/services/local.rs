//! The services of `ssr local`.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;

use super::builder::{Builder, Named, user};
use super::plugins::Entrances;
use super::sockets::{incoming, outgoing};
use super::subscription::{Parts, Subscription};
use super::transport;
use crate::app::error::Error;
use crate::app::reverse::{ClientSettings, ReverseClient};
use crate::app::routing::{Router, Rules, names};
use crate::config::{Credential, Local, OnlineConfig, Place, Protocol, Server, TcpRedir};
use crate::inbound::forward::packets::ForwardPackets;
use crate::inbound::http::Http;
use crate::inbound::http::upstream::Upstreams;
use crate::inbound::login::Login;
use crate::inbound::mixed::Mixed;
use crate::inbound::socks::packets::SocksPackets;
use crate::inbound::socks::{Socks, UdpAssociate};
use crate::inbound::udp_associate::Associations;
use crate::net;
use crate::net::listener::Listener;
use crate::net::passed::Wanted;
use crate::net::stream::UNIX_ADDRESS;
use crate::outbound::current::Current;
use crate::outbound::dialer::Dialer;
use crate::outbound::endpoint::Endpoint;
use crate::outbound::multiplex;
use crate::outbound::shadowsocks::{self, Servers};
use crate::outbound::udp_over_stream::{Carried, UdpOverStream};
use crate::relay::tcp::FixedTarget;
use crate::wire::ss::Credentials;

/// The sockets of one entry of `locals`, with the address of each half: for the workers to share out.
pub(super) struct LocalSockets {
    /// For the log.
    pub(super) place: String,
    /// At a path, the address is [`UNIX_ADDRESS`].
    pub(super) tcp: Option<(SocketAddr, Vec<Listener>)>,
    pub(super) udp: Option<(SocketAddr, Vec<UdpSocket>)>,
}

impl Builder<'_> {
    /// Takes note of the names that rules may use, before listeners with rules are built.
    pub(in crate::app) fn note_names(&mut self) {
        let all = self.config.servers.iter();
        let mut named: Named = Vec::new();
        for name in all.flat_map(|server| names(&server.name)) {
            if named.iter().any(|(known, _)| **known == *name) {
                continue;
            }
            let known = self.named.iter().find(|(known, _)| **known == *name);
            let current = match known {
                Some((_, current)) => current.clone(),
                None => Current::from(Servers::new(Vec::new())),
            };
            named.push((name.into(), current));
        }
        self.named = named;
    }

    /// Has these servers, which are those of the config, used from now on.
    pub(in crate::app) fn use_servers(&mut self, upstreams: Vec<Arc<shadowsocks::Server>>) {
        self.own.clone_from(&upstreams);
        let servers = Servers::of(upstreams, self.config.balancer.clone());
        let all = &self.config.servers;
        for (name, current) in &self.named {
            let is_meant = |place: usize| all.get(place).is_some_and(|one| one.is_named(name));
            current.replace(servers.only(is_meant));
        }
        self.servers.replace(servers);
    }

    /// Builds an entry of `locals`.
    pub(super) async fn local(&mut self, local: &Local) -> Result<(), Error> {
        let servers = self.servers.clone();
        let router = self.router(local, &servers);
        if let Some(settings) = &local.tun {
            return self.tun(local, settings, &router).await;
        }
        let sockets = self.bind_local(local).await?;
        let (address, mode) = (sockets.place.clone(), local.mode.name());
        match local.protocol {
            Protocol::Socks | Protocol::Mixed => self.socks(local, sockets, &router),
            Protocol::Http => self.http(local, sockets, &router),
            Protocol::Dns => self.dns(local, sockets, &servers),
            Protocol::FakeDns => self.fake_dns(local, sockets, &servers),
            Protocol::Tunnel => self.tunnel(local, sockets, &router),
            Protocol::Redir => self.redir(local, sockets, &router),
            // Above.
            Protocol::Tun => {}
        }
        tracing::info!(%address, protocol = local.protocol.name(), mode, "listening");
        Ok(())
    }

    /// Has the servers of `online_config` used too.
    pub(super) async fn subscribe(&mut self, online: &OnlineConfig) {
        let parts = Parts {
            config: Arc::new(self.config.clone()),
            resolver: Arc::clone(self.resolver),
            counters: Arc::clone(self.counters),
            replays: self.replays.clone(),
        };
        let (own, current) = (self.own.clone(), self.servers.clone());
        let subscription = Subscription::new(online.clone(), parts, own, current).await;
        if let Some(jobs) = self.jobs.first_mut() {
            jobs.push(subscription.job());
        }
    }

    async fn bind_local(&mut self, local: &Local) -> Result<LocalSockets, Error> {
        let mut sockets = LocalSockets {
            place: local.address.to_string(),
            tcp: None,
            udp: None,
        };
        if local.mode.tcp {
            let tcp = self.bind_local_tcp(local).await?;
            if tcp.0 != UNIX_ADDRESS {
                sockets.place = tcp.0.to_string();
            }
            sockets.tcp = Some(tcp);
        }
        if local.mode.udp {
            let udp = self.bind_local_udp(local, &sockets).await?;
            if sockets.tcp.is_none() {
                sockets.place = udp.0.to_string();
            }
            sockets.udp = Some(udp);
        }
        Ok(sockets)
    }

    async fn bind_local_tcp(
        &mut self,
        local: &Local,
    ) -> Result<(SocketAddr, Vec<Listener>), Error> {
        if let Some(name) = &local.passed.tcp {
            let passed = self.passed_streams(Wanted::Name(name), &self.config.socket)?;
            let first = passed.first().ok_or_else(|| Error::NotPassed {
                key: "systemd_tcp_socket_name",
                kind: "stream",
                name: name.clone(),
            })?;
            return Ok((first.address().unwrap_or(UNIX_ADDRESS), passed));
        }
        match &local.address {
            Place::Path(path, mode) => Ok((UNIX_ADDRESS, self.bind_path(path, *mode)?)),
            Place::Address(address) => {
                let address = self.listen_address(address).await?;
                match (local.protocol, local.tcp_redir) {
                    (Protocol::Redir, TcpRedir::Tproxy) => self.bind_tproxy_tcp(address),
                    _ => self.bind_tcp(address, &self.config.socket),
                }
            }
        }
    }

    /// The same for UDP, on the port of TCP unless the config has another address.
    async fn bind_local_udp(
        &self,
        local: &Local,
        sockets: &LocalSockets,
    ) -> Result<(SocketAddr, Vec<UdpSocket>), Error> {
        if let Some(name) = &local.passed.udp {
            let passed = self.passed_datagrams(Wanted::Name(name))?;
            let first = passed.first().and_then(|first| first.local_addr().ok());
            let address = first.ok_or_else(|| Error::NotPassed {
                key: "systemd_udp_socket_name",
                kind: "datagram",
                name: name.clone(),
            })?;
            return Ok((address, passed));
        }
        let beside = sockets.tcp.as_ref().map(|(address, _)| *address);
        let beside = beside.filter(|address| *address != UNIX_ADDRESS);
        let address = match (&local.udp_address, beside, local.address.address()) {
            (Some(other), ..) => self.listen_address(other).await?,
            (None, Some(address), _) => address,
            (None, None, Some(address)) => self.listen_address(address).await?,
            (None, None, None) => UNIX_ADDRESS,
        };
        match local.protocol {
            Protocol::Redir => self.bind_tproxy_udp(address),
            _ => self.bind_udp(address, &self.config.socket),
        }
    }

    fn socks(&mut self, local: &Local, sockets: LocalSockets, router: &Router) {
        let udp = sockets.udp.map(|(address, udp)| {
            let associations = Arc::new(Associations::default());
            // Without TCP, clients cannot request an association: then everybody may send.
            let admitted = local.mode.tcp.then(|| Arc::clone(&associations));
            let relay = self.relay(
                SocksPackets {
                    admitted,
                    fakes: self.fakes.clone(),
                },
                router.clone(),
            );
            // Clients are on this machine or near it: no datagram is too long.
            let options = net::UdpOptions {
                longest: None,
                ..incoming(&self.config.socket).udp
            };
            self.serve_udp(&relay, udp, options);
            UdpAssociate {
                address,
                public: local.udp_associate_address.clone(),
                associations,
                close: Box::new(move |peer| relay.close(peer)),
            }
        });
        if let Some((_, listeners)) = sockets.tcp {
            let socks = Socks {
                logins: logins(local.socks_logins()),
                udp,
                fakes: self.fakes.clone(),
            };
            let http = self.http_inbound(local, router);
            let idle = self.config.timeouts.idle;
            let inbound = Mixed { socks, http };
            self.serve_tcp(listeners, inbound, router.clone(), idle, None);
        }
    }

    fn http(&mut self, local: &Local, sockets: LocalSockets, router: &Router) {
        if let Some((_, listeners)) = sockets.tcp {
            let inbound = self.http_inbound(local, router);
            let idle = self.config.timeouts.idle;
            self.serve_tcp(listeners, inbound, router.clone(), idle, None);
        }
    }

    fn http_inbound(&self, local: &Local, router: &Router) -> Http<Router> {
        Http {
            logins: logins(local.http_logins()),
            upstreams: Upstreams {
                outbound: router.clone(),
                fakes: self.fakes.clone(),
                timeouts: self.timeouts(self.config.timeouts.idle),
                counters: Arc::clone(self.counters),
            },
        }
    }

    /// Where the requests of a listener go. `servers` are those of the config, in their order.
    pub(super) fn router(&self, local: &Local, servers: &Current) -> Router {
        let Some(live) = &local.rules else {
            return Router::through(servers.clone());
        };
        let direct = Dialer {
            // It is for what the clients of the server may reach.
            deny_private: false,
            ..self.dialer(outgoing(&self.config.socket, false))
        };
        let rules = Rules {
            live: Arc::clone(live),
            local: local.place().into(),
            direct,
            named: self.named.clone(),
        };
        Router::by_rules(servers.clone(), rules)
    }

    fn tunnel(&mut self, local: &Local, sockets: LocalSockets, router: &Router) {
        let Some(target) = &local.target else { return };
        if let Some((_, udp)) = sockets.udp {
            let relay = self.relay(ForwardPackets(target.clone()), router.clone());
            // Clients are on this machine or near it: no datagram is too long.
            let options = net::UdpOptions {
                longest: None,
                ..incoming(&self.config.socket).udp
            };
            self.serve_udp(&relay, udp, options);
        }
        if let Some((_, listeners)) = sockets.tcp {
            let (fixed, idle) = (FixedTarget(target.clone()), self.config.timeouts.idle);
            self.serve_tcp(listeners, fixed, router.clone(), idle, None);
        }
    }

    /// A server as it is reached.
    pub(super) fn endpoint(&self, server: &Server, plugin: &Entrances) -> Result<Endpoint, Error> {
        Ok(Endpoint {
            address: server.address.clone(),
            credentials: Credentials::new(
                server.method,
                server.keys.identity.clone(),
                server.keys.key.clone(),
            ),
            replays: self.replays.clone(),
            dialer: self.dialer_through(outgoing(&server.socket, true), &server.proxies)?,
            transport: transport::client(server)?,
            quic: transport::quic_client(
                server,
                outgoing(&server.socket, false),
                self.config.timeouts.connect,
            )?,
            fallback: transport::fallback(server),
            stream_plugin: plugin.streams.clone(),
            packet_plugin: plugin.packets.clone(),
        })
    }

    /// A server that clients are sent through.
    pub(super) fn upstream(
        &self,
        server: &Server,
        plugin: &Entrances,
    ) -> Result<shadowsocks::Server, Error> {
        let endpoint = self.endpoint(server, plugin)?;
        let transport = server.transport.as_ref();
        let inside = transport.is_some_and(|transport| transport.udp_inside);
        let carried = match (server.udp_over_tcp, server.multiplex) {
            (Some(version), _) => Some(Carried::Datagrams(version)),
            (None, Some(_)) => Some(Carried::Multiplexed),
            (None, None) if transport.is_some_and(|transport| transport.udp_datagrams) => {
                Some(Carried::QuicDatagrams)
            }
            (None, None) => inside.then_some(Carried::Packets),
        };
        let over_stream = carried.map(|carried| UdpOverStream {
            carried,
            timeouts: self.timeouts(self.config.udp_timeout),
            idle: self.config.udp_timeout,
            counters: Arc::clone(self.counters),
        });
        let upstream = shadowsocks::Server::new(endpoint, server.weights, over_stream, server.warm)
            .named(&server.name);
        let Some(multiplex) = server.multiplex else {
            return Ok(upstream);
        };
        let timeouts = self.timeouts(self.config.timeouts.idle);
        Ok(upstream.multiplexed(multiplex::Settings {
            head: multiplex.head,
            sharing: multiplex.sharing,
            first_payload_wait: timeouts.first_payload_wait,
            keep_alive: timeouts.keep_alive,
        }))
    }

    /// Offers the services of `reverse` to the server. Each worker runs its share of the links.
    pub(super) fn offer(&mut self) {
        let reverse = &self.config.reverse;
        if reverse.services.is_empty() {
            return;
        }
        let client = ReverseClient::new(ClientSettings {
            services: reverse.services.clone(),
            heartbeat: reverse.heartbeat,
            servers: self.servers.clone(),
            dialer: self.dialer(outgoing(&self.config.socket, false)),
            timeouts: self.timeouts(self.config.timeouts.idle),
            udp_idle: self.config.udp_timeout,
            flows: self.share.flows,
            counters: Arc::clone(self.counters),
        });
        let workers = self.jobs.len();
        for index in 0..reverse.links.count(workers) {
            let number = u8::try_from(index).unwrap_or(u8::MAX);
            if let Some(jobs) = self.jobs.get_mut(index % workers.max(1)) {
                jobs.push(client.job(number));
            }
        }
    }
}

fn logins(credentials: &[Credential]) -> Vec<Login> {
    let login = |login: &Credential| Login {
        user: user(&login.user),
        password: login.password.expose().as_bytes().to_vec(),
    };
    credentials.iter().map(login).collect()
}
