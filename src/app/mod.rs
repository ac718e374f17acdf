//! Floor 6: builds the services from the config, runs them, and shuts them down.
//!
//! - [`log`]: where the log goes.
//! - `services/`: which services a role runs.
//! - `reverse/`: reverse tunnels.
//! - `routing/`: rules at work: what goes where, and who may come.
//! - [`explain`]: says which rule decides.
//! - [`doctor`]: tries what a config says, and names the fault.
//! - [`redir_rules`]: the firewall rules for `redir` listeners.
//! - `running.rs`: the parts of the config that run.
//! - `reload/`: reads the config again, and has it used by difference.
//! - `manager.rs`: where the commands of a manager come.
//! - `adopt.rs`: goes on with flows that another process has begun.
//! - `admin.rs`: the admin API, on a thread of its own; `no_admin.rs`: a build without it.
//! - `store.rs`: shares users with other servers.
//! - `supervise.rs`: signals, orders, and the end.
//! - [`sandbox`]: limits what the process can do.
//! - `upgrade/`: a new process takes over.
//! - `quic.rs`: the QUIC connections of a port; `quic_packets.rs`: UDP in them; `quic_visitors.rs`: those of a forward's clients.
//! - `worker.rs`: a thread with its own reactor, listeners and flows.
//! - `fd_limit.rs`: how many connections the limit of open files allows.
//! - `granted.rs`: how many sockets the files and the memory of the process allow.
//! - `udp_share.rs`: how many files datagrams and public ports may take.
//! - `handshakes.rs`: connections that are still in their handshake.
//! - `room.rs`: the places of connections; `visitors.rs`: those of visitors.
//! - `places.rs`: the places of many streams in one connection.
//! - `privileges.rs`: becomes another user once the ports are bound.
//!
//! The main thread has a reactor for signals and for DNS queries, which serve all workers.

#[cfg_attr(not(feature = "admin"), path = "no_admin.rs")]
mod admin;
mod adopt;
pub mod doctor;
mod error;
pub mod explain;
mod fd_limit;
mod granted;
mod handshakes;
pub mod log;
mod manager;
mod places;
mod privileges;
mod quic;
mod quic_packets;
mod quic_visitors;
pub mod redir_rules;
mod reload;
mod reverse;
mod room;
mod routing;
mod running;
pub mod sandbox;
mod services;
mod store;
mod supervise;
mod udp_share;
mod upgrade;
mod visitors;
mod worker;

use std::io;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::{self, Runtime};
use tokio::sync::{Notify, mpsc};

use crate::config::{self, Config, Role};
use crate::control::answer::Socket;
use crate::control::facts::{Facts, ReasonOf};
use crate::control::orders::Orders;
use crate::control::state::State;
use crate::control::store::Replica;
use crate::dns::{self, Resolver};
use crate::net;
use crate::net::notify::{keep_alive, notify};
use crate::net::passed::Passed;
use crate::net::pool;
use crate::net::sampled;
use crate::net::tasks::Tasks;
use crate::net::tls;
use crate::relay::Counters;
use crate::relay::replay::{Answerer, Salts};
use crate::relay::tcp::moving::Moved;
use crate::route::Network;
use error::Error;
use granted::Granted;
use reload::Reloader;
use routing::Rulebook;
use running::Running;
use services::Built;
use supervise::{Signals, Supervisor, report};
use upgrade::{Inherited, Successor};
use worker::Threads;

/// Exit code of errors outside the config (`EX_UNAVAILABLE` of sysexits.h).
const EX_UNAVAILABLE: u8 = 69;
/// How often users are reviewed: their limits hold within this time.
const REVIEW_TIME: Duration = Duration::from_millis(500);

/// Runs the role of `config` until a signal ends it, and calls `running` as soon as it serves. Call [`log::init`] first.
#[must_use]
pub fn run(config: &Config, running: impl FnOnce()) -> ExitCode {
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    match start(config, running) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::from(EX_UNAVAILABLE)
        }
    }
}

fn start(config: &Config, running: impl FnOnce()) -> Result<(), Error> {
    Successor::prepare();
    let inherited = Inherited::from_parent();
    let mut inherited =
        inherited.map_err(Error::system("cannot take over from the old process"))?;
    // First of all: later, other files could have the numbers of these sockets.
    let passed = match &mut inherited {
        Some(inherited) => inherited.sockets(),
        None => Passed::to_this_process(),
    };
    let prepared = match prepare(config, passed) {
        Ok(prepared) => prepared,
        Err(error) => {
            if let Some(inherited) = inherited {
                inherited.fail(error.to_string());
            }
            return Err(error);
        }
    };
    if let Some(mut inherited) = inherited {
        let kept = &prepared.services.shares.kept;
        let taken = inherited.take_over(kept);
        taken.map_err(Error::system("cannot take over from the old process"))?;
        let (to, flows) = mpsc::channel(adopt::WAITING);
        let listening = inherited.listen(kept.clone(), to);
        listening.map_err(Error::system("cannot listen to the old process"))?;
        return serve(config, prepared, Some(flows), running);
    }
    serve(config, prepared, None, running)
}

/// Everything that a process needs to serve.
struct Prepared {
    control: Runtime,
    signals: Signals,
    resolver: Arc<Resolver>,
    counters: Arc<Counters>,
    services: Built,
    capacity: fd_limit::Capacity,
    workers: usize,
    granted: Granted,
    /// Where commands ask.
    asked: io::Result<Socket>,
    admin: Option<admin::Admin>,
    manager: Option<net::manager::Socket>,
    /// Keeps what users have used.
    state: Option<State>,
    /// What servers share in a store, and who asks for salts there.
    shared: Option<(Arc<Replica>, Answerer)>,
}

/// Does everything that can fail before the process serves.
fn prepare(config: &Config, passed: Passed) -> Result<Prepared, Error> {
    let user = config.user.as_deref().map(privileges::find).transpose()?;
    let granted = Granted::with_files(fd_limit::raise(config.nofile));
    let (share, capacity) = granted.places(config);
    pool::set_budget(granted.buffers(config.limits.buffers()));
    let control = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::system("cannot start the main reactor"))?;
    if config.servers.iter().any(config::Server::has_tls) {
        control.spawn_blocking(tls::prepare);
    }
    // Before any service listens: as soon as others can see the process run, signals must be handled.
    let signals = control.block_on(async { Signals::listen() })?;
    let resolver = Arc::new(control.block_on(async { resolver(config) })?);
    let counters = Arc::new(Counters::default());
    if config.fair {
        // Before there are any.
        counters.users.share_fairly();
    }
    let workers = match config.workers {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        count => count,
    };
    let admin = control.block_on(admin::Admin::bind(config, &resolver, &passed))?;
    let of_admin = passed.take_used();
    let (salts, salts_asked) = config.store.as_ref().map(|_| Salts::channel()).unzip();
    let replica = config.store.as_ref().map(|_| Arc::<Replica>::default());
    let mut services = control.block_on(services::build(
        config,
        (capacity, share),
        workers,
        &resolver,
        &counters,
        (passed, salts),
    ))?;
    services.keep(of_admin);
    let owner = user
        .as_ref()
        .map(|user| (user.uid.as_raw(), user.gid.as_raw()));
    let manager = control.block_on(manager::bind(config, &resolver, owner))?;
    // Where root may make it, if root started the process.
    let asked = control.block_on(async { Socket::listen(owner) });
    if let Some(user) = &user {
        privileges::assume(user)?;
    }
    // As the user who will write it, and before anybody is served.
    let state = config.state.as_deref();
    let state = state
        .map(|directory| State::open(directory, Arc::clone(&counters), replica.clone()))
        .transpose()?;
    Ok(Prepared {
        control,
        signals,
        resolver,
        counters,
        services,
        capacity,
        workers,
        granted,
        asked,
        admin,
        manager,
        state,
        shared: replica.zip(salts_asked),
    })
}

fn serve(
    config: &Config,
    prepared: Prepared,
    flows: Option<mpsc::Receiver<Box<Moved>>>,
    running: impl FnOnce(),
) -> Result<(), Error> {
    let Prepared {
        control,
        signals,
        resolver,
        counters,
        services,
        capacity,
        workers,
        granted,
        asked,
        admin,
        manager,
        state,
        shared,
    } = prepared;
    let watching = Tasks::default();
    let rulebook = Rulebook::new(config.live_rules());
    watching.spawn_on(rulebook.clone().watch(), control.handle());
    watching.spawn_on(sampled::report_rest(), control.handle());
    watching.spawn_on(review_users(Arc::clone(&counters)), control.handle());
    if config.fair {
        watching.spawn_on(counters.users.share_fairly().hold(), control.handle());
    }
    if admin.is_some() && config.role != Role::Server {
        counters.users.count_everybody();
    }
    let servers = &services.shares.servers;
    let facts = Facts {
        role: config.role.name(),
        config: config.file.clone(),
        started: Instant::now(),
        counters: Arc::clone(&counters),
        dns: Arc::clone(&resolver),
        servers: (config.role == Role::Local).then(|| servers.clone()),
        reason: (config.role == Role::Local).then(|| reasons(&rulebook)),
        most: Arc::default(),
    };
    let (orders, ordered) = Orders::channel();
    let leave = Arc::new(Notify::new());
    match asked {
        Ok(socket) => watching.spawn_on(
            socket.serve(facts.clone(), orders.clone(), Arc::clone(&leave)),
            control.handle(),
        ),
        Err(error) => tracing::info!(%error, "no socket for ssr why"),
    }
    if let Some(socket) = manager {
        let serve = crate::control::manager::serve(socket, orders.clone());
        watching.spawn_on(serve, control.handle());
    }
    if let Some(routes) = &services.routes {
        control.block_on(routes.set())?;
    }
    let threads = Threads::start(workers).map_err(Error::system("cannot start a worker"))?;
    let (drained, drain) = mpsc::channel(1);
    // Its sender keeps the process running even if it serves only datagrams, which have no flows to wait for.
    let mut parts = Running::new(threads, drained, Arc::clone(&counters));
    for unit in services.units {
        let serving = control.block_on(parts.start(unit));
        parts.units.push(serving);
    }
    let adopter = parts.adopter(&services.shares.connections);
    if let Some((flows, adopter)) = flows.zip(adopter) {
        watching.spawn_on(adopter.adopt_all(flows), control.handle());
    }
    let admin = admin.map(|admin| admin.start(config, facts, orders));
    let admin = admin
        .transpose()
        .map_err(Error::system("cannot start the thread of the admin API"))?;
    let store = store::start(config, shared, &counters)?;
    tracing::info!(
        role = config.role.name(),
        workers,
        connections = capacity.connections,
        visitors = (capacity.visitors > 0).then_some(capacity.visitors),
        memory_mib = granted.memory.map(|bytes| bytes >> 20),
        version = env!("CARGO_PKG_VERSION"),
        "running"
    );
    notify("READY=1");
    watching.spawn_on(keep_alive(), control.handle());
    running();
    let routes = services.routes;
    let mut reloader = control.block_on(async {
        let shares = services.shares;
        Reloader::new(config, shares, parts, rulebook, (workers, granted))
    });
    let supervisor = Supervisor {
        signals,
        reloader: &mut reloader,
        orders: ordered,
        drain,
        resolver: &resolver,
        counters: &counters,
        routes: routes.as_ref(),
        leave,
        admin,
    };
    control.block_on(supervisor.run());
    let Reloader { running, .. } = reloader;
    control.block_on(running.end());
    // First: `admin.state` keeps what the store was not told.
    if let Some(store) = store {
        store.finish();
    }
    if let Some(state) = state {
        state.finish();
    }
    if let Some(routes) = &routes {
        control.block_on(routes.take_back());
    }
    report(&resolver, &counters);
    Ok(())
}

fn resolver(config: &Config) -> Result<Resolver, dns::Error> {
    let defaults = dns::Config::default();
    let settings = dns::Config {
        source: config.dns.clone(),
        cache_size: config.dns_cache_size.unwrap_or(defaults.cache_size),
        ipv6_first: config.socket.ipv6_first,
        mark: config.socket.fwmark,
        ..defaults
    };
    Resolver::new(settings, runtime::Handle::current())
}

/// What finds the rules of sessions, for an operator.
fn reasons(rulebook: &Rulebook) -> ReasonOf {
    let rulebook = rulebook.clone();
    Arc::new(move |target, is_tcp| {
        let network = if is_tcp { Network::Tcp } else { Network::Udp };
        rulebook.reason(target, network)
    })
}

/// Ends users whose time or quota is over, and begins the periods of quotas.
async fn review_users(counters: Arc<Counters>) {
    let mut second = tokio::time::interval(REVIEW_TIME);
    loop {
        second.tick().await;
        counters.users.review(net::unix_now());
    }
}
