//! The services of `ssr server`.

use std::future::ready;
use std::sync::Arc;

use super::builder::Builder;
use super::multiplex::{self, Sessions, Settings};
use super::plugins::Places;
use super::sockets::{incoming, outgoing};
use super::transport;
use tokio::sync::watch;

use crate::app::error::Error;
use crate::app::quic_packets::{self, Serve};
use crate::app::reverse::{Grants, ReverseServer, ServerSettings};
use crate::app::routing::{Guard, filter};
use crate::config::Server;
use crate::crypto::{Family, ReplayPolicy};
use crate::inbound::shadowsocks::packets::ShadowsocksPackets;
use crate::inbound::shadowsocks::{ReservedJobs, Shadowsocks};
use crate::inbound::stream_datagrams::WithStreams;
use crate::net;
use crate::net::alive::Limit;
use crate::outbound::dialer::Dialer;
use crate::outbound::direct::Direct;
use crate::outbound::udp_over_stream::DirectWithPackets;
use crate::relay;
use crate::relay::tcp::{Inbound, Outbound, Reserved};

impl Builder<'_> {
    /// Builds the server of reverse tunnels, which all servers share.
    pub(super) fn prepare_servers(&mut self) {
        self.reverse = Some(self.reverse_server());
    }

    /// Builds an entry of `servers`.
    pub(super) async fn server(&mut self, server: &Server) -> Result<(), Error> {
        let Some(reverse_server) = self.reverse.clone() else {
            return Ok(());
        };
        let (draining, drains) = multiplex::draining();
        let (retired, retires) = multiplex::retired();
        if let Some(jobs) = self.jobs.first_mut() {
            jobs.extend([drains, retires]);
        }
        let filter_of = self.kept.filter(server, self.config.replay);
        let address = self.listen_address(&server.address).await?;
        let table = self.table(server)?;
        let options = outgoing(&server.socket, false);
        let direct = Direct(Dialer {
            filter: filter(server.rules.as_ref()),
            ..self.dialer_through(options, &server.proxies)?
        });
        let mut places = self.places(server, address)?;
        let relay = server.mode.udp.then(|| {
            let inbound = ShadowsocksPackets {
                users: Arc::clone(&table),
                replays: Arc::clone(&filter_of.packets),
                ended: filter_of.ended.clone(),
            };
            self.relay(WithStreams(guarded(inbound, server)), direct.clone())
        });
        if server.mode.tcp {
            let idle = server.idle.unwrap_or(self.config.timeouts.idle);
            let sessions = Settings {
                timeouts: self.timeouts(idle),
                counters: Arc::clone(self.counters),
                room: self.users(),
                draining: draining.clone(),
            };
            let idle_udp = self.config.udp_timeout;
            let reserved = match &relay {
                Some(relay) => {
                    let (direct, relay) = (direct.clone(), Arc::clone(relay));
                    let outbound = DirectWithPackets::new(direct, relay, false, idle_udp);
                    reserved(&reverse_server, Sessions::new(outbound, sessions), &retired)
                }
                None => reserved(
                    &reverse_server,
                    Sessions::new(direct.clone(), sessions),
                    &retired,
                ),
            };
            let site = self.fallback(server)?;
            let transport = transport::server(server, site.clone())?;
            let is_ws = transport.as_ref().is_some_and(|layers| layers.ws.is_some());
            // Over these, a client may also send its packets inside a stream.
            let takes_packets = is_ws || server.is_quic();
            let inbound = Shadowsocks {
                replays: filter_of.streams,
                users: table,
                drain_timeout: self.config.timeouts.handshake,
                reserved,
                // Before a WebSocket, it is the site that finds the clients.
                site: site.filter(|_| !is_ws),
            };
            let inbound = guarded(inbound, server);
            match &relay {
                Some(relay) => {
                    let relay = Arc::clone(relay);
                    let by = (transport, Some(quic_packets::served_by(Arc::clone(&relay))));
                    let outbound = DirectWithPackets::new(direct, relay, takes_packets, idle_udp);
                    self.serve_clients((server, &mut places), inbound, outbound, by)?;
                }
                None => {
                    let by = (transport, None);
                    self.serve_clients((server, &mut places), inbound, direct, by)?;
                }
            }
        }
        if let Some(relay) = relay.filter(|_| !server.is_quic()) {
            let (_, sockets) = self.bind_udp(places.udp, &server.socket)?;
            self.serve_udp(&relay, sockets, incoming(&server.socket).udp);
        }
        self.server_plugin(server, &places).await?;
        tracing::info!(address = %places.public, method = server.method.name(), mode = server.mode.name(), "listening");
        Ok(())
    }

    /// Serves the streams of a server's clients, which come by TCP or QUIC.
    fn serve_clients<I, O>(
        &mut self,
        (server, places): (&Server, &mut Places),
        inbound: I,
        outbound: O,
        (transport, packets): (Option<net::transport::Server>, Option<Serve>),
    ) -> Result<(), Error>
    where
        I: Inbound + Send + 'static,
        O: Outbound + Send + 'static,
    {
        let idle = server.idle.unwrap_or(self.config.timeouts.idle);
        // What a client sends with its first packet can be sent again by others: salts must be remembered.
        let early = match server.method.family() {
            Family::Aead2022 => true,
            Family::Aead2017 => self.config.replay == ReplayPolicy::Reject,
            Family::Plain => false,
        };
        if let Some(quic) = transport::quic_server(server, early, packets.is_some())? {
            let (bound, sockets) = self.bind_udp_sockets(places.udp, &server.socket, 1)?;
            places.udp = bound;
            let port = Arc::new(self.port(inbound, outbound, idle, transport));
            if let Some(socket) = sockets.into_iter().next() {
                self.serve_quic(socket, Arc::clone(&port), (quic, packets))?;
            }
            let transport = server.transport.as_ref();
            if let Some(fallback) = transport.and_then(|layers| layers.fallback.as_ref()) {
                let (bound, listeners) = self.bind_tcp(places.tcp, &server.socket)?;
                places.tcp = bound;
                self.listen(listeners, &port);
                tracing::info!(address = %bound, fallback = fallback.name(), "listening by TCP beside QUIC");
            }
            return Ok(());
        }
        let (bound, listeners) = self.bind_tcp(places.tcp, &server.socket)?;
        places.tcp = bound;
        self.serve_tcp(listeners, inbound, outbound, idle, transport);
        Ok(())
    }

    /// Serves the links of reverse tunnels.
    fn reverse_server(&mut self) -> Arc<ReverseServer> {
        let reverse = &self.config.reverse;
        let settings = ServerSettings {
            grants: Grants(reverse.allow.clone()),
            heartbeat: reverse.heartbeat,
            options: incoming(&self.config.socket),
            timeouts: self.timeouts(self.config.timeouts.idle),
            udp_idle: self.config.udp_timeout,
            ports: Limit::new(self.share.ports),
            counters: Arc::clone(self.counters),
            visitors: Arc::clone(&self.visitors),
            handshakes: Arc::clone(&self.visitors_handshakes),
        };
        let (server, job) = ReverseServer::new(settings);
        if let Some(jobs) = self.jobs.first_mut() {
            jobs.push(job);
        }
        server
    }
}

/// Lets in only clients that the rules of the server admit.
fn guarded<I>(inner: I, server: &Server) -> Guard<I> {
    Guard {
        inner,
        rules: server.rules.clone(),
    }
}

/// Passes the streams of reserved targets to what serves them: links to the server of reverse tunnels, with the names of
/// their users. A link ends when the server is `retired`; when the process stops, its visitors may finish.
fn reserved<O: Outbound + Send + 'static>(
    reverse: &Arc<ReverseServer>,
    sessions: Sessions<O>,
    retired: &watch::Receiver<bool>,
) -> ReservedJobs {
    let (reverse, retired) = (Arc::clone(reverse), retired.clone());
    let sessions = Arc::new(sessions);
    Box::new(move |what, leg, peer, user| match what {
        Reserved::Link => {
            let user = user.and_then(|user| user.name().map(str::to_owned));
            let link = Arc::clone(&reverse).serve(leg, peer, user);
            let mut retired = retired.clone();
            Box::pin(async move {
                tokio::select! {
                    result = link => result,
                    // Its client comes back, if it still may.
                    Ok(_) = retired.wait_for(|is_over| *is_over) => Ok(()),
                }
            })
        }
        // The outbound connects them.
        Reserved::Packets | Reserved::UdpOverTcp(_) => {
            Box::pin(ready(Err(relay::Error::NotOffered(what.refusal()))))
        }
        Reserved::Multiplex => Box::pin(Arc::clone(&sessions).serve(leg, peer, user)),
    })
}
