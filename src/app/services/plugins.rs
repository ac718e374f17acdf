//! Plugins that are programs.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use super::builder::Builder;
use super::sockets::incoming;
use crate::app::error::Error;
use crate::config::{self, Server};
use crate::net::listener;
use crate::net::plugin::{Entrance, Half, Plugin, Settings, free_address};
use crate::wire::Address;

/// Where `ssr local` finds the plugin of a server: for streams, and for datagrams.
#[derive(Clone, Default)]
pub(super) struct Entrances {
    pub(super) streams: Option<Arc<Entrance>>,
    pub(super) packets: Option<Arc<Entrance>>,
}

/// Where `ssr server` listens for streams, and for datagrams.
pub(super) struct Places {
    /// Where clients connect to.
    pub(super) public: SocketAddr,
    pub(super) tcp: SocketAddr,
    pub(super) udp: SocketAddr,
}

impl Builder<'_> {
    /// Starts the plugin through which `server` is reached, if it has one.
    pub(super) async fn client_plugin(&mut self, server: &Server) -> Result<Entrances, Error> {
        let Some(config) = &server.plugin else {
            return Ok(Entrances::default());
        };
        let plugin = Plugin::start(settings(server, config, Half::Client)).await?;
        let entrance = plugin.entrance();
        let entrances = Entrances {
            streams: config.tcp.then(|| Arc::clone(entrance)),
            packets: config.udp.then(|| Arc::clone(entrance)),
        };
        self.plugins.keep(plugin);
        Ok(entrances)
    }

    /// Where to listen for the clients of `server`, which come to `public`: behind a plugin, on a port of the loopback
    /// interface.
    pub(super) fn places(&self, server: &Server, public: SocketAddr) -> Result<Places, Error> {
        let (mut tcp, mut udp) = (public, public);
        if let Some(config) = &server.plugin {
            // It binds the address later, and says less clearly why it cannot.
            if config.tcp {
                let (group, options) =
                    (self.group(public, &server.socket), incoming(&server.socket));
                drop(listener::tcp(public, 1, group, &options)?);
            }
            let inner = match config.udp {
                true => free_address().map_err(Error::system("cannot find a free port"))?,
                false => (Ipv4Addr::LOCALHOST, 0).into(),
            };
            if config.tcp {
                tcp = inner;
            }
            if config.udp {
                udp = inner;
            }
        }
        Ok(Places { public, tcp, udp })
    }

    /// Starts the plugin between the clients of `server` and us, if it has one.
    pub(super) async fn server_plugin(
        &mut self,
        server: &Server,
        places: &Places,
    ) -> Result<(), Error> {
        if let Some(config) = &server.plugin {
            let half = Half::Server {
                public: places.public,
                inner: if config.tcp { places.tcp } else { places.udp },
            };
            let plugin = Plugin::start(settings(server, config, half)).await?;
            self.plugins.keep(plugin);
        }
        Ok(())
    }
}

fn settings(server: &Server, plugin: &config::Plugin, half: Half) -> Settings {
    let (host, port) = match &server.address {
        Address::Ip(address) => (address.ip().to_string(), address.port()),
        Address::Domain(name, port) => (name.to_string(), *port),
    };
    let text = |secret: &config::Secret| secret.expose().to_owned();
    Settings {
        program: plugin.program.as_str().into(),
        options: plugin.options.as_ref().map(text),
        arguments: plugin.arguments.iter().map(text).collect(),
        host,
        port,
        half,
        streams: plugin.tcp,
    }
}
