//! Builds the services of each role: where they listen, and which inbound and outbound serve their clients.
//!
//! - `local.rs`: the ways into `ssr local`, by `protocol`; the servers it uses; the links of its reverse tunnels.
//! - `dns.rs`: the name servers of `dns` locals, and the way to each.
//! - `fake_dns.rs`: `fake-dns` locals, and the files of their names.
//! - `redir.rs`: the way in that the firewall redirects to.
//! - `multiplex.rs`: sessions of sing-box's `multiplex` on a server.
//! - `tun.rs`: tun devices, and what leads into them.
//! - `server.rs`: the Shadowsocks servers of `ssr server`, and the server of reverse tunnels.
//! - `forwards.rs`: ports with one target, in either role.
//! - `sites.rs`: sites in front, and ports with nothing behind them.
//! - `plugins.rs`: plugins that are programs.
//! - `subscription.rs`: servers of a list that is downloaded.
//! - `proxies.rs`: proxies on the way.
//! - `transport.rs`: the layers between TCP and Shadowsocks.
//! - `parts.rs`: the parts of a config, which are built, replaced and ended by themselves.
//! - `kept.rs`: what outlives a change of a server's settings.
//! - `sockets.rs`: listening sockets, and the options of all sockets.
//! - `single.rs`: single parts of these services, for `ssr doctor`.
//! - `builder.rs`: what all of these share.

mod builder;
mod dns;
mod fake_dns;
mod forwards;
mod kept;
mod local;
mod multiplex;
mod parts;
mod plugins;
mod proxies;
mod redir;
mod server;
pub(super) mod single;
mod sites;
mod sockets;
mod subscription;
mod transport;
mod tun;

use std::sync::Arc;

pub(super) use builder::{Named, Shares};

pub(super) use kept::Kept;
pub(super) use parts::{Part, Unit};
pub(super) use sockets::listen_address;
pub(super) use subscription::directory as subscription_directory;

use super::error::Error;
use super::fd_limit::Capacity;
use super::udp_share::UdpShare;
use crate::config::{Config, Role};
use crate::dns::Resolver;
use crate::net::passed::{Passed, PassedSocket};
use crate::net::tun::routes::AutoRoute;
use crate::relay::Counters;
use crate::relay::replay::Salts;

/// What the services of a process are.
pub(super) struct Built {
    /// The parts of the config.
    pub(super) units: Vec<Unit>,
    /// What more parts can be built with.
    pub(super) shares: Shares,
    /// What leads the traffic of this machine into a tun device, once the jobs run.
    pub(super) routes: Option<AutoRoute>,
}

impl Built {
    /// Keeps copies of sockets that no part of the config has.
    pub(super) fn keep(&mut self, sockets: Vec<PassedSocket>) {
        let shared = self
            .units
            .iter_mut()
            .find(|unit| matches!(unit.part, Part::Shared));
        if let Some(unit) = shared {
            unit.sockets.extend(sockets);
        }
    }
}

/// Builds all services. They listen on the sockets of `passed` that are theirs, and bind the others.
pub(super) async fn build(
    config: &Config,
    (capacity, share): (Capacity, UdpShare),
    workers: usize,
    resolver: &Arc<Resolver>,
    counters: &Arc<Counters>,
    (passed, salts): (Passed, Option<Salts>),
) -> Result<Built, Error> {
    let mut builder = builder::Builder::new(config, capacity, workers, resolver, counters);
    builder.passed = passed;
    builder.share = share;
    if let Some(salts) = salts {
        builder.kept.share_salts(salts);
    }
    match config.role {
        Role::Local => builder.prepare_fakes(),
        Role::Server => builder.prepare_servers(),
        Role::Forward => {}
    }
    let mut units = builder.parts(Part::all(config)).await?;
    builder.offer();
    units.push(builder.cut(Part::Shared, None));
    for socket in builder.passed.close_rest() {
        if builder.passed.is_inherited() {
            tracing::info!(%socket, "a socket of the old process is closed: the config has no use for it");
        } else {
            tracing::warn!(%socket, "systemd passed a socket that the config has no use for");
        }
    }
    Ok(Built {
        units,
        routes: builder.routes.take(),
        shares: builder.shares(),
    })
}

impl builder::Builder<'_> {
    /// Builds `parts`, in their order, and has the servers among them used.
    async fn parts(&mut self, parts: Vec<Part>) -> Result<Vec<Unit>, Error> {
        self.note_listeners();
        let mut units: Vec<Unit> = Vec::new();
        let is_upstream = |part: &Part| matches!(part, Part::Upstream(_));
        let (upstreams, others): (Vec<_>, Vec<_>) = parts.into_iter().partition(is_upstream);
        for part in upstreams {
            units.push(self.unit(part).await?);
        }
        if self.config.role == Role::Local {
            self.note_names();
            let upstreams = units.iter().filter_map(|unit| unit.upstream.clone());
            self.use_servers(upstreams.collect());
        }
        for part in others {
            units.push(self.unit(part).await?);
        }
        Ok(units)
    }
}
