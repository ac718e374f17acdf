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
//! - `plugins.rs`: plugins that are programs.
//! - `subscription.rs`: servers of a list that is downloaded.
//! - `proxies.rs`: proxies on the way.
//! - `transport.rs`: the layers between TCP and Shadowsocks.
//! - `sockets.rs`: listening sockets, and the options of all sockets.
//! - `single.rs`: single parts of these services, for `ssr doctor`.
//! - `builder.rs`: what all of these share.

mod builder;
mod dns;
mod fake_dns;
mod forwards;
mod local;
mod multiplex;
mod plugins;
mod proxies;
mod redir;
mod server;
pub(super) mod single;
mod sockets;
mod subscription;
mod transport;
mod tun;

use std::sync::Arc;

use builder::Builder;

use super::error::Error;
use super::fd_limit::Capacity;
use super::udp_share::UdpShare;
use super::worker::Job;
use crate::config::{Config, Role};
use crate::dns::Resolver;
use crate::net::passed::Passed;
use crate::net::plugin::Plugins;
use crate::net::tun::routes::AutoRoute;
use crate::net::unix::SocketFile;
use crate::relay::Counters;

/// What the services of a process are.
pub(super) struct Built {
    /// A list of jobs for each worker.
    pub(super) jobs: Vec<Vec<Job>>,
    /// The programs that run beside them.
    pub(super) plugins: Plugins,
    /// The files of unix sockets, to be kept as long as the process serves.
    pub(super) files: Vec<SocketFile>,
    /// What leads the traffic of this machine into a tun device, once the jobs run.
    pub(super) routes: Option<AutoRoute>,
}

/// Builds all services. They listen on the sockets of `passed` that are theirs, and bind the others.
pub(super) async fn build(
    config: &Config,
    (capacity, share): (Capacity, UdpShare),
    workers: usize,
    resolver: &Arc<Resolver>,
    counters: &Arc<Counters>,
    passed: Passed,
) -> Result<Built, Error> {
    let mut builder = Builder::new(config, capacity, workers, resolver, counters);
    builder.passed = passed;
    builder.share = share;
    match config.role {
        Role::Local => builder.locals().await?,
        Role::Server => builder.servers().await?,
        Role::Forward => {}
    }
    builder.forwards().await?;
    for socket in builder.passed.close_rest() {
        tracing::warn!(%socket, "systemd passed a socket that the config has no use for");
    }
    Ok(Built {
        jobs: builder.jobs,
        plugins: builder.plugins,
        files: builder.files,
        routes: builder.routes,
    })
}
