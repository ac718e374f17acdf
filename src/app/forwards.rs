//! Forwards: ports whose connections, or datagrams, are carried to one target as they are.

use std::net::SocketAddr;

use super::Error;
use super::services::{Builder, incoming, outgoing};
use crate::config::{Endpoint, EndpointWs, Forward, Scheme};
use crate::inbound::forward::packets::ForwardPackets;
use crate::inbound::forward::{self, Entrance};
use crate::net::{tls, transport};
use crate::outbound::direct::Direct;
use crate::outbound::websocket::WebSocket;

impl Builder<'_> {
    /// Listens for every forward of the config.
    pub(super) async fn forwards(&mut self) -> Result<(), Error> {
        let forwards = &self.config.forwards;
        self.note_wildcards(forwards.iter().map(|forward| &forward.listen.address));
        for forward in forwards {
            let Forward { listen, target } = forward;
            let address = self.listen_address(&listen.address).await?;
            let bound = match listen.scheme {
                Scheme::Udp => self.datagrams(address, target)?,
                Scheme::Tcp | Scheme::Ws | Scheme::Wss => self.tunnel(address, forward)?,
            };
            tracing::info!(listen = format!("{}://{bound}", listen.scheme.name()), %target, "forwarding");
        }
        Ok(())
    }

    fn datagrams(&mut self, address: SocketAddr, target: &Endpoint) -> Result<SocketAddr, Error> {
        let options = &self.config.socket;
        let direct = Direct(self.dialer(outgoing(options, true)));
        let sockets = self.bind_udp(address, options)?;
        let bound = sockets.first().and_then(|socket| socket.local_addr().ok());
        let relay = self.relay(ForwardPackets(target.address.clone()), direct);
        self.packets(&relay, sockets, incoming(options).udp);
        Ok(bound.unwrap_or(address))
    }

    fn tunnel(&mut self, address: SocketAddr, forward: &Forward) -> Result<SocketAddr, Error> {
        let Forward { listen, target } = forward;
        let options = &self.config.socket;
        let idle = self.config.timeouts.idle;
        let dialer = self.dialer(outgoing(options, true));
        let inbound = forward::Forward {
            target: target.address.clone(),
            entrance: match &listen.ws {
                None => Entrance::Plain,
                Some(ws) => Entrance::Ws {
                    request: ws.request.clone(),
                    tls: server(listen, ws)?,
                },
            },
        };
        let (bound, listeners) = self.bind_tcp(address, options)?;
        match &target.ws {
            None => self.port(listeners, inbound, Direct(dialer), idle, None),
            Some(ws) => {
                let outbound = WebSocket {
                    dialer,
                    transport: transport::Client {
                        tls: client(target, ws)?,
                        ws: Some((ws.request.clone(), false)),
                    },
                };
                self.port(listeners, inbound, outbound, idle, None);
            }
        }
        Ok(bound)
    }
}

fn server(listen: &Endpoint, ws: &EndpointWs) -> Result<Option<Box<tls::Server>>, Error> {
    let identity = ws.tls.as_ref().and_then(|tls| tls.identity.clone());
    identity
        .map(|(cert, key)| tls::Server::new(cert, key).map(Box::new))
        .transpose()
        .map_err(Error::tls(listen))
}

fn client(target: &Endpoint, ws: &EndpointWs) -> Result<Option<tls::Client>, Error> {
    ws.tls
        .as_ref()
        .map(|tls| tls::Client::new(ws.server_name(), &tls.trust))
        .transpose()
        .map_err(Error::tls(target))
}
