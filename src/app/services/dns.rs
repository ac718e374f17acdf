//! The `dns` locals of `ssr local`.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;

use super::builder::Builder;
use super::local::LocalSockets;
use super::sockets::{incoming, outgoing};
use crate::app::worker::{Job, Phase, Shared};
use crate::config::{DnsLocal, Local};
use crate::inbound::dns::{Decide, Dns, Route, Settings, Upstream};
use crate::net::udp::Socket;
use crate::net::{SocketOptions, UdpOptions};
use crate::outbound::direct::Direct;
use crate::outbound::shadowsocks::Servers;
use crate::wire::Address;

/// Answers in the cache where the config does not say; as many as names in the other one.
const ANSWERS: usize = 4096;

impl Builder<'_> {
    /// Serves an entry of `locals` whose protocol is `dns`.
    pub(super) fn dns(&mut self, local: &Local, sockets: LocalSockets, servers: &Servers) {
        let Some(settings) = &local.dns else { return };
        let dns = Dns::new(Settings {
            local: settings.local.map(|at| self.direct_dns(at, settings)),
            remote: settings.remote.as_ref().map(|at| {
                let timeouts = self.timeouts(self.config.timeouts.idle);
                let counters = Arc::clone(self.counters);
                let servers = servers.clone();
                Upstream::new(at.clone(), servers, settings.streams, timeouts, counters)
            }),
            decide: self.decide(settings),
            cache: self.config.dns_cache_size.unwrap_or(ANSWERS),
        });
        if let Some((_, udp)) = sockets.udp {
            let options = UdpOptions {
                longest: None,
                ..incoming(&self.config.socket).udp
            };
            for (jobs, socket) in self.jobs.iter_mut().zip(udp) {
                jobs.push(datagrams(dns.clone(), socket, options));
            }
        }
        if let Some(listeners) = sockets.tcp {
            let idle = self.config.timeouts.idle;
            self.serve_tcp(listeners, dns, servers.clone(), idle, None);
        }
    }

    /// A name server that is asked directly, by UDP or TCP.
    fn direct_dns(&self, at: SocketAddr, settings: &DnsLocal) -> Upstream {
        let mut options = outgoing(&self.config.socket, false);
        if at.ip().is_loopback() {
            // Marks, interfaces and addresses are not meant for this machine.
            options = SocketOptions {
                mark: None,
                bind_addresses: Vec::new(),
                bind_interface: None,
                ..options
            };
        }
        // The operator has chosen it, wherever it is.
        let mut dialer = self.dialer(options.clone());
        dialer.deny_private = false;
        let timeouts = self.timeouts(self.config.timeouts.idle);
        let counters = Arc::clone(self.counters);
        let streams = settings.streams;
        Upstream::new(Address::Ip(at), Direct(dialer), streams, timeouts, counters)
            .with_datagrams(at, options)
    }

    /// The way of each name: through the server, except for the names of the servers themselves, and of proxies before them.
    fn decide(&self, settings: &DnsLocal) -> Decide {
        if settings.remote.is_none() {
            return Box::new(|_| Route::Local);
        }
        let addresses = self.config.servers.iter().flat_map(|server| {
            let proxies = server.proxies.iter().map(|proxy| &proxy.address);
            proxies.chain([&server.address])
        });
        let names: HashSet<String> = addresses
            .filter_map(|address| match address {
                Address::Domain(name, _) => Some(name.to_ascii_lowercase()),
                Address::Ip(_) => None,
            })
            .collect();
        Box::new(move |name| {
            if names.contains(name) {
                Route::Local
            } else {
                Route::Remote
            }
        })
    }
}

/// The job that answers the queries that come to `socket`. It has nothing to finish: it ends with the first signal.
fn datagrams(dns: Dns, socket: std::net::UdpSocket, options: UdpOptions) -> Job {
    Box::new(move |mut shared: Shared| {
        Box::pin(async move {
            let served = async { dns.serve(Socket::new(socket.into(), options)?).await };
            tokio::select! {
                () = shared.reached(Phase::Drain) => {}
                result = served => if let Err(error) = result {
                    tracing::error!(%error, "a UDP listener failed");
                },
            }
        })
    })
}
