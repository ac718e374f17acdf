//! Forwards: ports whose connections or datagrams go to one target unchanged.

use std::net::SocketAddr;

use super::builder::Builder;
use super::sockets::{incoming, outgoing};
use crate::app::error::Error;
use crate::config::{Endpoint, EndpointWs, Forward, Scheme};
use crate::inbound::forward::WebSocketForward;
use crate::inbound::forward::packets::ForwardPackets;
use crate::net::listener::Listener;
use crate::net::{tls, transport};
use crate::outbound::direct::Direct;
use crate::outbound::websocket::WebSocket;
use crate::relay::tcp::{FixedTarget, Inbound};

impl Builder<'_> {
    /// Builds an entry of `forwards`.
    pub(super) async fn forward(&mut self, forward: &Forward) -> Result<(), Error> {
        let Forward { listen, target } = forward;
        let address = self.listen_address(&listen.address).await?;
        let bound = match listen.scheme {
            Scheme::Udp => self.forward_udp(address, target)?,
            _ => self.forward_tcp(address, forward)?,
        };
        tracing::info!(listen = format!("{}://{bound}", listen.scheme.name()), %target, "forwarding");
        Ok(())
    }

    fn forward_udp(&mut self, address: SocketAddr, target: &Endpoint) -> Result<SocketAddr, Error> {
        let options = &self.config.socket;
        let direct = Direct(self.dialer(outgoing(options, true)));
        let (bound, sockets) = self.bind_udp(address, options)?;
        let relay = self.relay(ForwardPackets(target.address.clone()), direct);
        self.serve_udp(&relay, sockets, incoming(options).udp);
        Ok(bound)
    }

    fn forward_tcp(&mut self, address: SocketAddr, forward: &Forward) -> Result<SocketAddr, Error> {
        let Forward { listen, target } = forward;
        let options = &self.config.socket;
        let fixed = FixedTarget(target.address.clone());
        let (bound, listeners) = self.bind_tcp(address, options)?;
        match &listen.ws {
            None => self.forward_to(target, listeners, fixed)?,
            Some(ws) => {
                let inbound = WebSocketForward {
                    target: fixed,
                    request: ws.request.clone(),
                    tls: server(listen, ws)?,
                };
                self.forward_to(target, listeners, inbound)?;
            }
        }
        Ok(bound)
    }

    fn forward_to(
        &mut self,
        target: &Endpoint,
        listeners: Vec<Listener>,
        inbound: impl Inbound + Send + 'static,
    ) -> Result<(), Error> {
        let idle = self.config.timeouts.idle;
        let dialer = self.dialer(outgoing(&self.config.socket, true));
        match &target.ws {
            None => self.serve_visitors(listeners, inbound, Direct(dialer), idle, None),
            Some(ws) => {
                let outbound = WebSocket {
                    dialer,
                    transport: transport::Client {
                        tls: client(target, ws)?,
                        ws: Some((ws.request.clone(), false)),
                    },
                };
                self.serve_visitors(listeners, inbound, outbound, idle, None);
            }
        }
        Ok(())
    }
}

pub(super) fn server(
    listen: &Endpoint,
    ws: &EndpointWs,
) -> Result<Option<Box<tls::Server>>, Error> {
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
