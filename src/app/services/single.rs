//! Single parts of the services, which `ssr doctor` tries one by one.

use std::net::SocketAddr;
use std::sync::Arc;

use super::builder::Builder;
use super::plugins::Entrances;
use super::sockets::outgoing;
use super::transport;
use crate::app::error::Error;
use crate::app::fd_limit::Capacity;
use crate::config::{self, Config, Server};
use crate::dns::Resolver;
use crate::net::plugin::Plugins;
use crate::outbound::dialer::Dialer;
use crate::outbound::endpoint::Endpoint;
use crate::outbound::shadowsocks::Servers;
use crate::relay::Counters;
use crate::wire::Address;

/// Makes parts of the services of a config.
pub(in crate::app) struct Parts<'a> {
    config: &'a Config,
    resolver: Arc<Resolver>,
    counters: Arc<Counters>,
}

/// The plugin of one server. It runs until it is dropped.
#[derive(Default)]
pub(in crate::app) struct Running {
    entrances: Entrances,
    _plugins: Plugins,
}

impl<'a> Parts<'a> {
    pub(in crate::app) fn new(config: &'a Config, resolver: Arc<Resolver>) -> Self {
        Self {
            config,
            resolver,
            counters: Arc::default(),
        }
    }

    fn builder(&self) -> Builder<'_> {
        let capacity = Capacity {
            connections: 1,
            handshakes: 1,
            visitors: 1,
            visitors_handshakes: 1,
        };
        Builder::new(self.config, capacity, 1, &self.resolver, &self.counters)
    }

    /// Starts the plugin of `server`, if it has one.
    pub(in crate::app) async fn plugin(&self, server: &Server) -> Result<Running, Error> {
        let mut builder = self.builder();
        let entrances = builder.client_plugin(server).await?;
        Ok(Running {
            entrances,
            _plugins: builder.plugins,
        })
    }

    /// `server` as `ssr local` reaches it.
    pub(in crate::app) fn endpoint(
        &self,
        server: &Server,
        plugin: &Running,
    ) -> Result<Endpoint, Error> {
        self.builder().endpoint(server, &plugin.entrances)
    }

    /// `server` as the only one, for datagrams.
    pub(in crate::app) fn alone(
        &self,
        server: &Server,
        plugin: &Running,
    ) -> Result<Servers, Error> {
        let upstream = self.builder().upstream(server, &plugin.entrances)?;
        Ok(Servers::new(vec![upstream]))
    }

    /// Connects without a server in between.
    pub(in crate::app) fn direct(&self) -> Dialer {
        Dialer {
            deny_private: false,
            ..self.builder().dialer(outgoing(&self.config.socket, false))
        }
    }

    /// Reads the certificate and the key of a server.
    pub(in crate::app) fn certificate(&self, server: &Server) -> Result<(), Error> {
        transport::server(server, None).map(drop)
    }

    /// Binds `address` for streams or datagrams, and lets it go again. Returns the address, which may be a name.
    pub(in crate::app) async fn bind(
        &self,
        address: &Address,
        options: &config::SocketOptions,
        is_udp: bool,
    ) -> Result<SocketAddr, Error> {
        let mut builder = self.builder();
        let all = self.config.servers.iter().map(|server| &server.address);
        let locals = self.config.locals.iter();
        let locals = locals.filter_map(|local| local.address.address());
        builder.note_wildcards(all.chain(locals));
        let address = builder.listen_address(address).await?;
        match is_udp {
            true => drop(builder.bind_udp(address, options)?),
            false => drop(builder.bind_tcp(address, options)?),
        }
        Ok(address)
    }
}
