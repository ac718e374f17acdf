//! The `dns` locals of `ssr local`.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::builder::Builder;
use super::local::LocalSockets;
use super::sockets::{incoming, outgoing};
use crate::app::worker::{Job, Phase, Shared};
use crate::config::{Config, DnsLocal, Local};
use crate::inbound::dns::{Decide, Dns, Route, Settings, Upstream};
use crate::net::udp::Socket;
use crate::net::{SocketOptions, UdpOptions};
use crate::outbound::current::Current;
use crate::outbound::direct::Direct;
use crate::route::{Action, Host, Live, Network, Query, Step};
use crate::wire::Address;

/// Answers in the cache where the config does not say; as many as names in the other one.
const ANSWERS: usize = 4096;

impl Builder<'_> {
    /// Serves an entry of `locals` whose protocol is `dns`.
    pub(super) fn dns(&mut self, local: &Local, sockets: LocalSockets, servers: &Current) {
        let Some(settings) = &local.dns else { return };
        let dns = Dns::new(Settings {
            local: settings.local.map(|at| self.direct_dns(at, settings)),
            remote: settings.remote.as_ref().map(|at| {
                let timeouts = self.timeouts(self.config.timeouts.idle);
                let counters = Arc::clone(self.counters);
                let servers = servers.clone();
                Upstream::new(at.clone(), servers, settings.streams, timeouts, counters)
            }),
            decide: self.decide(local, servers),
            cache: self.config.dns_cache_size.unwrap_or(ANSWERS),
        });
        self.serve_dns(dns, sockets, servers);
    }

    /// Serves the clients of a `dns` or `fake-dns` local.
    pub(super) fn serve_dns(&mut self, dns: Dns, sockets: LocalSockets, servers: &Current) {
        if let Some((_, udp)) = sockets.udp {
            let options = UdpOptions {
                longest: None,
                ..incoming(&self.config.socket).udp
            };
            for (index, socket) in udp.into_iter().enumerate() {
                self.push(index, datagrams(dns.clone(), socket, options));
            }
        }
        if let Some((_, listeners)) = sockets.tcp {
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

    /// The way of each name: as the rules say, but names of the servers themselves, and of proxies before them, are asked
    /// directly.
    fn decide(&self, local: &Local, servers: &Current) -> Box<dyn Decide> {
        Box::new(Ways {
            own: own_names(self.config),
            listed: self.config.online.is_some().then(|| servers.clone()),
            rules: local.rules.clone(),
            local: local.address.to_string().into(),
        })
    }
}

/// The names that `ssr local` itself has to resolve before it can go through a server.
pub(super) fn own_names(config: &Config) -> HashSet<String> {
    let addresses = config.servers.iter().flat_map(|server| {
        let proxies = server.proxies.iter().map(|proxy| &proxy.address);
        proxies.chain([&server.address])
    });
    let names = addresses.filter_map(|address| match address {
        Address::Domain(name, _) => Some(name.trim_end_matches('.').to_ascii_lowercase()),
        Address::Ip(_) => None,
    });
    names.collect()
}

/// The ways of names.
struct Ways {
    own: HashSet<String>,
    /// Servers whose names change.
    listed: Option<Current>,
    rules: Option<Arc<Live>>,
    /// The address of the listener, as rules name it.
    local: Box<str>,
}

impl Decide for Ways {
    fn route(&self, name: &str, addresses: Option<&[IpAddr]>) -> Option<Route> {
        let listed = self.listed.as_ref();
        if self.own.contains(name) || listed.is_some_and(|servers| servers.now().has_name(name)) {
            return Some(Route::Local);
        }
        let Some(rules) = &self.rules else {
            return Some(Route::Remote);
        };
        let query = Query {
            host: Host::Domain(name),
            // Which port it is for is not known.
            port: 0,
            network: Network::Name,
            user: None,
            local: Some(&self.local),
        };
        match rules.current().decide(&query, addresses) {
            Step::Decided(decision) => Some(match decision.action {
                Action::Direct => Route::Local,
                Action::Proxy | Action::Server(_) => Route::Remote,
                Action::Block => Route::Blocked,
            }),
            Step::Resolve => None,
        }
    }

    fn version(&self) -> u64 {
        self.rules.as_ref().map_or(0, |rules| rules.version())
    }
}

/// The job that answers the queries that come to `socket`. It has nothing to finish: it ends with the first signal.
fn datagrams(dns: Dns, socket: std::net::UdpSocket, options: UdpOptions) -> Job {
    Box::new(move |mut shared: Shared| {
        Box::pin(async move {
            let served = async { dns.serve(Socket::new(socket.into(), options)?).await };
            tokio::select! {
                () = shared.reached(Phase::Retire) => {}
                result = served => if let Err(error) = result {
                    tracing::error!(%error, "a UDP listener failed");
                },
            }
        })
    })
}
