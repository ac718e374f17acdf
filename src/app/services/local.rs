//! The services of `ssr local`.

use std::sync::Arc;

use super::builder::{Builder, user};
use super::sockets::{incoming, outgoing};
use super::transport;
use crate::app::error::Error;
use crate::app::reverse::{Client, Offered};
use crate::config::{Local, Server};
use crate::inbound::socks::packets::SocksPackets;
use crate::inbound::socks::{Login, Socks, UdpAssociate};
use crate::inbound::udp_associate::Associations;
use crate::net;
use crate::outbound::endpoint::Endpoint;
use crate::outbound::shadowsocks::{self, Servers};
use crate::outbound::udp_over_stream::UdpOverStream;
use crate::wire::ss::Credentials;

impl Builder<'_> {
    pub(super) async fn locals(&mut self) -> Result<(), Error> {
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
}
