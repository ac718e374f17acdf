//! Floor 6: builds the services from the config, runs them, lets them end.
//!
//! - [`log`]: where the log goes.
//! - `services.rs`: what listens where, and what it does with who comes.
//! - `reverse/`: reverse tunnels.
//! - `forwards.rs`: the same for ports with one target.
//! - `transport.rs`: what stands between TCP and Shadowsocks.
//! - `worker.rs`: a thread with its own reactor, its own listeners and its own flows.
//! - `files.rs`: how many connections the system's files are enough for.
//! - `handshakes.rs`: connections that have not said yet what they want.
//!
//! The main thread has a reactor too, for signals and for DNS queries, which serve all workers.

mod error;
mod fd_limit;
mod handshakes;
pub mod log;
mod reverse;
mod services;
mod worker;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime;
#[cfg(unix)]
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};

use crate::config::Config;
use crate::dns::{self, Resolver};
use crate::net::pool;
use crate::relay::Counters;
use error::Error;
use worker::{Phase, Threads};

/// How long flows may go on after the first signal.
const DRAIN_TIME: Duration = Duration::from_secs(10);
/// Exit code of an error that is not the config's (sysexits: EX_UNAVAILABLE).
const EX_UNAVAILABLE: u8 = 69;

/// Runs until a signal ends it; the log has been set up.
#[must_use]
pub fn run(config: &Config) -> ExitCode {
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    match start(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::from(EX_UNAVAILABLE)
        }
    }
}

fn start(config: &Config) -> Result<(), Error> {
    let room = fd_limit::Capacity::of(&config.limits, fd_limit::raise(config.nofile));
    if config.limits.memory_mib > 0 {
        pool::set_budget(config.limits.memory_mib << 20);
    }
    let control = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::system("cannot start the main reactor"))?;
    // Before anything listens: a signal must find its handler as soon as the process can be seen to run.
    let signals = control.block_on(async { Signals::listen() })?;
    let resolver = Arc::new(control.block_on(async { resolver(config) })?);
    let counters = Arc::new(Counters::default());
    let workers = match config.workers {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        count => count,
    };
    let jobs = control.block_on(services::build(config, room, workers, &resolver, &counters))?;
    let (phase, phases) = watch::channel(Phase::Run);
    let (drained, drain) = mpsc::channel(1);
    // One end is kept here: what serves datagrams alone has no flows to wait for, and is to run all the same.
    let threads = Threads::start(jobs, phases, drained.clone())
        .map_err(Error::system("cannot start a worker"))?;
    tracing::info!(
        role = config.role.name(),
        workers,
        connections = room.connections,
        version = env!("CARGO_PKG_VERSION"),
        "running"
    );
    control.block_on(supervise(
        signals,
        phase,
        (drained, drain),
        &resolver,
        &counters,
    ));
    threads.join();
    report(&resolver, &counters);
    Ok(())
}

fn resolver(config: &Config) -> Result<Resolver, dns::Error> {
    let defaults = dns::Config::default();
    let settings = dns::Config {
        source: config.dns.clone(),
        cache_size: config.dns_cache_size.unwrap_or(defaults.cache_size),
        ipv6_first: config.socket.ipv6_first,
        ..defaults
    };
    Resolver::new(settings, runtime::Handle::current())
}

/// The end whose last copy is dropped when no flow is left, and the end that notices.
type Drain = (mpsc::Sender<()>, mpsc::Receiver<()>);

/// The signals that mean something.
#[cfg(unix)]
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    usr1: Signal,
    hangup: Signal,
}

#[cfg(unix)]
impl Signals {
    fn listen() -> Result<Self, Error> {
        let listen = |kind| signal(kind).map_err(Error::system("cannot listen for signals"));
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            usr1: listen(SignalKind::user_defined1())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }
}

/// Waits for signals and passes on what they mean.
#[cfg(unix)]
async fn supervise(
    signals: Signals,
    phase: watch::Sender<Phase>,
    (drained, mut drain): Drain,
    resolver: &Resolver,
    counters: &Counters,
) {
    let Signals {
        mut interrupt,
        mut terminate,
        mut usr1,
        mut hangup,
    } = signals;
    loop {
        tokio::select! {
            _ = interrupt.recv() => break,
            _ = terminate.recv() => break,
            _ = usr1.recv() => report(resolver, counters),
            _ = hangup.recv() => tracing::warn!("SIGHUP: reloading is not yet in this version; nothing was changed"),
        }
    }
    tracing::info!(
        seconds = DRAIN_TIME.as_secs(),
        "stopping: no new connections, those there are may end"
    );
    drop(drained);
    phase.send_replace(Phase::Drain);
    tokio::select! {
        _ = drain.recv() => {}
        () = tokio::time::sleep(DRAIN_TIME) => tracing::info!("closing the connections that are left"),
        _ = interrupt.recv() => tracing::info!("second signal: stopping at once"),
        _ = terminate.recv() => tracing::info!("second signal: stopping at once"),
    }
    phase.send_replace(Phase::Stop);
}

/// Waits for Ctrl-C.
#[cfg(not(unix))]
async fn supervise(
    _: Signals,
    phase: watch::Sender<Phase>,
    (drained, mut drain): Drain,
    _: &Resolver,
    _: &Counters,
) {
    if let Err(error) = tokio::signal::ctrl_c().await {
        tracing::error!(%error, "cannot listen for Ctrl-C");
    }
    drop(drained);
    phase.send_replace(Phase::Drain);
    tokio::select! {
        _ = drain.recv() => {}
        () = tokio::time::sleep(DRAIN_TIME) => {}
        _ = tokio::signal::ctrl_c() => {}
    }
    phase.send_replace(Phase::Stop);
}

/// Ctrl-C alone, which needs no preparation.
#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn listen() -> Result<Self, Error> {
        Ok(Self)
    }
}

/// Writes the counters to the log: at the end, and when SIGUSR1 asks for it.
fn report(resolver: &Resolver, counters: &Counters) {
    tracing::info!("counters: {counters}");
    let dns = resolver.counters();
    tracing::info!(
        hits = dns.hits,
        misses = dns.misses,
        stale = dns.stale,
        joined = dns.joined,
        negative = dns.negative,
        queries = dns.queries,
        failures = dns.failures,
        timeouts = dns.timeouts,
        evicted = dns.evicted,
        entries = dns.entries,
        "dns counters"
    );
}
