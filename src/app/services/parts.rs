//! The parts of a config: each is built, replaced and ended by itself.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use super::builder::Builder;
use crate::app::error::Error;
use crate::app::routing::names;
use crate::app::worker::Job;
use crate::config::{
    Config, Forward, Local, OnlineConfig, Place, Protocol, Role, Server, SiteForward,
};
use crate::net::passed::PassedSocket;
use crate::net::plugin::Plugins;
use crate::net::unix::SocketFile;
use crate::outbound::shadowsocks;
use crate::relay::users::Table;
use crate::wire::Address;

/// A part of a config.
#[derive(Clone, Debug)]
pub(in crate::app) enum Part {
    /// What all others share.
    Shared,
    /// A server that `ssr local` uses.
    Upstream(Box<Server>),
    /// The list of servers on the web, and those beside it.
    Online(Box<OnlineConfig>, Vec<Server>),
    /// A listener of `ssr local`, and what it knows of the servers.
    Local(Box<Local>, Vec<String>),
    /// A server of `ssr server`.
    Server(Box<Server>),
    /// A forward.
    Forward(Box<Forward>),
    /// A forward that is a site.
    Site(Box<SiteForward>),
}

/// A part that was built.
pub(in crate::app) struct Unit {
    pub(in crate::app) part: Part,
    /// A list of jobs for each worker.
    pub(in crate::app) jobs: Vec<Vec<Job>>,
    /// Copies of the sockets that it listens on.
    pub(in crate::app) sockets: Vec<PassedSocket>,
    /// The programs that run beside it.
    pub(in crate::app) plugins: Plugins,
    /// The files of its unix sockets, to be kept as long as it serves.
    pub(in crate::app) files: Vec<SocketFile>,
    /// The server of [`Part::Upstream`].
    pub(in crate::app) upstream: Option<Arc<shadowsocks::Server>>,
    /// The users of [`Part::Server`].
    pub(in crate::app) table: Option<Arc<Table>>,
}

impl Part {
    /// The parts of `config`, in the order in which they are built.
    pub(in crate::app) fn all(config: &Config) -> Vec<Self> {
        let mut all = Vec::new();
        let servers = || config.servers.iter().cloned().map(Box::new);
        match config.role {
            Role::Local => {
                all.extend(servers().map(Self::Upstream));
                if let Some(online) = &config.online {
                    let beside = config.servers.clone();
                    all.push(Self::Online(Box::new(online.clone()), beside));
                }
                let locals = config.locals.iter().cloned().map(Box::new);
                all.extend(locals.map(|local| {
                    let known = known_to(&local, config);
                    Self::Local(local, known)
                }));
            }
            Role::Server => all.extend(servers().map(Self::Server)),
            Role::Forward => {}
        }
        let forwards = config.forwards.iter().cloned().map(Box::new);
        all.extend(forwards.map(Self::Forward));
        let sites = config.sites.iter().cloned().map(Box::new);
        all.extend(sites.map(Self::Site));
        all
    }

    /// Whether they are the same, apart from what is in their rules, and from users.
    pub(in crate::app) fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Shared, Self::Shared) => true,
            (Self::Upstream(one), Self::Upstream(other))
            | (Self::Server(one), Self::Server(other)) => is_same_server(one, other),
            (Self::Online(one, beside), Self::Online(other, others)) => {
                let mut pairs = beside.iter().zip(others);
                one == other
                    && beside.len() == others.len()
                    && pairs.all(|(one, other)| is_same_server(one, other))
            }
            (Self::Local(one, known), Self::Local(other, others)) => {
                known == others && is_same_local(one, other)
            }
            (Self::Forward(one), Self::Forward(other)) => one == other,
            (Self::Site(one), Self::Site(other)) => one == other,
            _ => false,
        }
    }

    /// Whether one takes the place of the other: what they listen on, or how they are called, is the same.
    pub(in crate::app) fn is_in_place_of(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Upstream(one), Self::Upstream(other)) => one.name == other.name,
            (Self::Online(..), Self::Online(..)) => true,
            (Self::Local(one, _), Self::Local(other, _)) => {
                one.address == other.address && one.protocol == other.protocol
            }
            (Self::Server(one), Self::Server(other)) => one.address == other.address,
            (Self::Forward(one), Self::Forward(other)) => {
                let listen = |one: &Forward| (one.listen.scheme, one.listen.address.clone());
                listen(one) == listen(other)
            }
            (Self::Site(one), Self::Site(other)) => {
                one.listen.scheme == other.listen.scheme
                    && one.listen.address == other.listen.address
            }
            _ => false,
        }
    }

    /// Why it cannot be started while the process runs.
    pub(in crate::app) fn cannot_begin(&self) -> Option<&'static str> {
        match self {
            Self::Local(local, _) if local.tun.is_some() => Some("it has a tun device"),
            Self::Local(local, _) if local.fake_dns.is_some() => {
                Some("listeners must know its names from the start")
            }
            _ => None,
        }
    }

    /// Why it cannot be ended while the process runs.
    pub(in crate::app) fn cannot_end(&self) -> Option<&'static str> {
        match self {
            Self::Local(local, _) if local.tun.is_some() => Some("it has a tun device"),
            _ => None,
        }
    }

    /// Why it cannot be replaced while the process runs.
    pub(in crate::app) fn cannot_change(&self) -> Option<&'static str> {
        match self {
            Self::Server(server) if server.plugin.is_some() => Some("its plugin has the port"),
            _ => self.cannot_begin(),
        }
    }

    /// Why another process cannot take it over.
    pub(in crate::app) fn cannot_move(&self) -> Option<&'static str> {
        match self {
            Self::Local(local, _) if local.fake_dns.is_some() => {
                Some("the names of its addresses are in use")
            }
            Self::Local(..) => self.cannot_end(),
            Self::Server(_) => self.cannot_change(),
            _ => None,
        }
    }

    /// Whether it listens at a path.
    pub(in crate::app) fn listens_at(&self, path: &Path) -> bool {
        match self {
            Self::Local(local, _) => matches!(&local.address, Place::Path(at, _) if at == path),
            _ => false,
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shared => f.write_str("what all share"),
            Self::Upstream(server) | Self::Server(server) => {
                write!(f, "server {}", server.address)
            }
            Self::Online(..) => f.write_str("online_config"),
            Self::Local(local, _) => {
                write!(f, "{} listener {}", local.protocol.name(), local.address)
            }
            Self::Forward(forward) => write!(f, "forward {}", forward.listen),
            Self::Site(forward) => write!(f, "site {}", forward.listen),
        }
    }
}

fn is_same_server(one: &Server, other: &Server) -> bool {
    // Rules and users change while the server runs.
    let without = |server: &Server| Server {
        rules: None,
        users: Vec::new(),
        ..server.clone()
    };
    // Where there are many servers, most are not the one.
    one.address == other.address
        && one.rules.is_some() == other.rules.is_some()
        && without(one) == without(other)
}

fn is_same_local(one: &Local, other: &Local) -> bool {
    let without = |local: &Local| Local {
        rules: None,
        ..local.clone()
    };
    one.rules.is_some() == other.rules.is_some() && without(one) == without(other)
}

/// What of the servers is built into a listener: the names that its rules may use, and for some protocols the addresses.
fn known_to(local: &Local, config: &Config) -> Vec<String> {
    let mut known = Vec::new();
    let all = || config.servers.iter();
    if local.rules.is_some() {
        known.extend(
            all()
                .flat_map(|server| names(&server.name))
                .map(str::to_owned),
        );
    }
    let needs_addresses = matches!(
        local.protocol,
        Protocol::Dns | Protocol::FakeDns | Protocol::Redir | Protocol::Tun
    );
    if needs_addresses {
        let text = |address: &Address| address.to_string();
        known.extend(all().map(|server| text(&server.address)));
        let proxies = all().flat_map(|server| &server.proxies);
        known.extend(proxies.map(|proxy| text(&proxy.address)));
    }
    known
}

impl Builder<'_> {
    /// Builds a part.
    pub(in crate::app) async fn unit(&mut self, part: Part) -> Result<Unit, Error> {
        let mut upstream = None;
        match &part {
            Part::Shared => {}
            Part::Upstream(server) => {
                let plugin = self.client_plugin(server).await?;
                upstream = Some(Arc::new(self.upstream(server, &plugin)?));
            }
            Part::Online(online, _) => self.subscribe(online).await,
            Part::Local(local, _) => self.local(local).await?,
            Part::Server(server) => self.server(server).await?,
            Part::Forward(forward) => self.forward(forward).await?,
            Part::Site(forward) => self.site_forward(forward).await?,
        }
        Ok(self.cut(part, upstream))
    }

    /// What was built since the last call, as a part.
    pub(in crate::app) fn cut(
        &mut self,
        part: Part,
        upstream: Option<Arc<shadowsocks::Server>>,
    ) -> Unit {
        let jobs = self.jobs.iter_mut().map(std::mem::take).collect();
        let table = match &part {
            Part::Server(server) => self.kept.table(server),
            _ => None,
        };
        Unit {
            part,
            table,
            jobs,
            sockets: self.passed.take_used(),
            plugins: std::mem::take(&mut self.plugins),
            files: std::mem::take(&mut self.files),
            upstream,
        }
    }
}
