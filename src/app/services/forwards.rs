//! Forwards: ports whose connections or datagrams go to one target unchanged.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;

use super::builder::Builder;
use super::sockets::{incoming, outgoing};
use crate::app::error::Error;
use crate::config::{Endpoint, EndpointWs, Forward, Scheme};
use crate::inbound::forward::WebSocketForward;
use crate::inbound::forward::packets::ForwardPackets;
use crate::inbound::forward::quic::QuicForward;
use crate::net::listener::Listener;
use crate::net::{quic, tls, transport};
use crate::outbound::direct::Direct;
use crate::outbound::quic::QuicTarget;
use crate::outbound::websocket::WebSocket;
use crate::relay::tcp::{FixedTarget, Inbound, Outbound};

/// Where a forward listens for streams.
enum Port {
    Tcp(Vec<Listener>),
    Quic(UdpSocket, Arc<quic::Server>),
}

impl Builder<'_> {
    /// Builds an entry of `forwards`.
    pub(super) async fn forward(&mut self, forward: &Forward) -> Result<(), Error> {
        let Forward { listen, target } = forward;
        let address = self.listen_address(&listen.address).await?;
        let bound = match listen.scheme {
            Scheme::Udp => self.forward_udp(address, target)?,
            Scheme::Quic => self.forward_quic(address, forward)?,
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
        let listeners = Port::Tcp(listeners);
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

    fn forward_quic(
        &mut self,
        address: SocketAddr,
        forward: &Forward,
    ) -> Result<SocketAddr, Error> {
        let Forward { listen, target } = forward;
        let server = quic_server(listen)?;
        let (bound, sockets) = self.bind_udp_sockets(address, &self.config.socket, 1)?;
        let inbound = QuicForward(FixedTarget(target.address.clone()));
        if let (Some(server), Some(socket)) = (server, sockets.into_iter().next()) {
            self.forward_to(target, Port::Quic(socket, server), inbound)?;
        }
        Ok(bound)
    }

    fn forward_to(
        &mut self,
        target: &Endpoint,
        port: Port,
        inbound: impl Inbound + Send + 'static,
    ) -> Result<(), Error> {
        let dialer = self.dialer(outgoing(&self.config.socket, true));
        match (&target.ws, &target.quic) {
            (None, _) => self.serve_port(port, inbound, Direct(dialer)),
            (Some(ws), Some(settings)) => {
                let limit = self.config.timeouts.connect;
                let options = outgoing(&self.config.socket, false);
                let client = match client(target, ws)? {
                    None => return Ok(()),
                    Some(tls) => quic::Client::new(&tls, settings, options, limit)
                        .map_err(Error::tls(target))?,
                };
                self.serve_port(port, inbound, QuicTarget { dialer, client })
            }
            (Some(ws), None) => {
                let outbound = WebSocket {
                    dialer,
                    transport: transport::Client {
                        tls: client(target, ws)?,
                        ws: Some((ws.request.clone(), false)),
                    },
                };
                self.serve_port(port, inbound, outbound)
            }
        }
    }

    fn serve_port<I, O>(&mut self, port: Port, inbound: I, outbound: O) -> Result<(), Error>
    where
        I: Inbound + Send + 'static,
        O: Outbound + Send + 'static,
    {
        let idle = self.config.timeouts.idle;
        match port {
            Port::Tcp(listeners) => {
                self.serve_visitors(listeners, inbound, outbound, idle, None);
                Ok(())
            }
            Port::Quic(socket, server) => {
                self.serve_quic_visitors(socket, inbound, outbound, server)
            }
        }
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

/// How a `quic` listener serves its clients.
fn quic_server(listen: &Endpoint) -> Result<Option<Arc<quic::Server>>, Error> {
    let tls = listen.ws.as_ref().and_then(|ws| ws.tls.as_ref());
    let identity = tls.and_then(|tls| tls.identity.clone());
    let (Some((cert, key)), Some(settings)) = (identity, &listen.quic) else {
        return Ok(None);
    };
    // The same after a restart, and known to nobody else.
    let secret = key
        .secret("quic stateless reset")
        .map_err(Error::tls(listen))?;
    // Nothing in a forward refuses what is sent a second time.
    let tls = tls::Server::for_quic(cert, key, settings.alpn.clone(), false);
    let tls = tls.map_err(Error::tls(listen))?;
    Ok(Some(quic::Server::new(tls, settings.clone(), &secret)))
}

fn client(target: &Endpoint, ws: &EndpointWs) -> Result<Option<tls::Client>, Error> {
    ws.tls
        .as_ref()
        .map(|tls| tls::Client::new(ws.server_name(), &tls.trust))
        .transpose()
        .map_err(Error::tls(target))
}
