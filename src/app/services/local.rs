//! The services of `ssr local`.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;

use super::builder::{Builder, user};
use super::plugins::Entrances;
use super::sockets::{incoming, outgoing};
use super::transport;
use crate::app::error::Error;
use crate::app::reverse::{ClientSettings, ReverseClient};
use crate::config::{Credential, Local, Protocol, Server};
use crate::inbound::socks::packets::SocksPackets;
use crate::inbound::socks::{Login, Socks, UdpAssociate};
use crate::inbound::udp_associate::Associations;
use crate::net;
use crate::outbound::endpoint::Endpoint;
use crate::outbound::shadowsocks::{self, Servers};
use crate::outbound::udp_over_stream::UdpOverStream;
use crate::wire::ss::Credentials;

/// The sockets of one entry of `locals`: the address that they were bound to, and one socket for each worker.
struct LocalSockets {
    address: SocketAddr,
    tcp: Option<Vec<TcpListener>>,
    udp: Option<(SocketAddr, Vec<UdpSocket>)>,
}

impl Builder<'_> {
    /// Builds every entry of `locals`, and the links of `reverse`.
    pub(super) async fn locals(&mut self) -> Result<(), Error> {
        let mut upstreams = Vec::new();
        for server in &self.config.servers {
            let plugin = self.client_plugin(server).await?;
            upstreams.push(self.upstream(server, plugin)?);
        }
        let servers = Servers::new(upstreams);
        let addresses = self
            .config
            .locals
            .iter()
            .flat_map(|local| [Some(&local.address), local.udp_address.as_ref()]);
        self.note_wildcards(addresses.flatten());
        for local in &self.config.locals {
            let sockets = self.bind_local(local).await?;
            let (address, mode) = (sockets.address, local.mode.name());
            match local.protocol {
                Protocol::Socks => self.socks(local, sockets, &servers),
            }
            tracing::info!(%address, protocol = local.protocol.name(), mode, "listening");
        }
        self.offer(&servers);
        Ok(())
    }

    async fn bind_local(&self, local: &Local) -> Result<LocalSockets, Error> {
        let options = &self.config.socket;
        let mut sockets = LocalSockets {
            address: self.listen_address(&local.address).await?,
            tcp: None,
            udp: None,
        };
        if local.mode.tcp {
            let (bound, listeners) = self.bind_tcp(sockets.address, options)?;
            sockets.address = bound;
            sockets.tcp = Some(listeners);
        }
        if local.mode.udp {
            let address = match &local.udp_address {
                Some(other) => self.listen_address(other).await?,
                None => sockets.address,
            };
            sockets.udp = Some(self.bind_udp(address, options)?);
        }
        Ok(sockets)
    }

    fn socks(&mut self, local: &Local, sockets: LocalSockets, servers: &Servers) {
        let udp = sockets.udp.map(|(address, udp)| {
            let associations = Arc::new(Associations::default());
            // Without TCP, clients cannot request an association: then everybody may send.
            let admitted = local.mode.tcp.then(|| Arc::clone(&associations));
            let relay = self.relay(SocksPackets(admitted), servers.clone());
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
        if let Some(listeners) = sockets.tcp {
            let login = |login: &Credential| Login {
                user: user(&login.user),
                password: login.password.expose().as_bytes().to_vec(),
            };
            let inbound = Socks {
                logins: local.auth.iter().map(login).collect(),
                udp,
            };
            let idle = self.config.timeouts.idle;
            self.serve_tcp(listeners, inbound, servers.clone(), idle, None);
        }
    }

    /// A server that clients are sent through.
    fn upstream(&self, server: &Server, plugin: Entrances) -> Result<shadowsocks::Server, Error> {
        let endpoint = Endpoint {
            address: server.address.clone(),
            credentials: Credentials::new(
                server.method,
                server.keys.identity.clone(),
                server.keys.key.clone(),
            ),
            dialer: self.dialer_through(outgoing(&server.socket, true), &server.proxies)?,
            transport: transport::client(server)?,
            stream_plugin: plugin.streams,
            packet_plugin: plugin.packets,
        };
        let transport = server.transport.as_ref();
        let inside = transport.filter(|transport| transport.udp_inside);
        let over_stream = inside.map(|_| UdpOverStream {
            timeouts: self.timeouts(self.config.udp_timeout),
            idle: self.config.udp_timeout,
            counters: Arc::clone(self.counters),
        });
        Ok(shadowsocks::Server::new(
            endpoint,
            server.weights,
            over_stream,
            server.warm,
        ))
    }

    /// Offers the services of `reverse` to the server. Each worker runs its share of the links.
    fn offer(&mut self, servers: &Servers) {
        let reverse = &self.config.reverse;
        if reverse.services.is_empty() {
            return;
        }
        let client = ReverseClient::new(ClientSettings {
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
}
