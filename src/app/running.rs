//! The parts of the config that run, and how they are started, replaced and ended.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::adopt::Adopter;
use super::services::{Part, Unit};
use super::worker::{Phase, Shared, Threads};
use crate::limits::{MAX_RETIRED, MAX_SUBSCRIBED_PLUGINS};
use crate::net::passed::PassedSocket;
use crate::net::plugin::Plugins;
use crate::net::unix::SocketFile;
use crate::outbound::shadowsocks;
use crate::relay::Counters;
use crate::relay::users::Table;

/// How long the plugin of a server goes on that is not used any more: connections may go through it.
const FAREWELL: Duration = Duration::from_secs(600);

/// How long a reload waits until the sockets are closed that nobody listens on any more.
const CLOSE_TIME: Duration = Duration::from_secs(2);

/// How often it is looked whether parts have ended.
const TIDY_PAUSE: Duration = Duration::from_secs(1);

/// What runs.
pub(super) struct Running {
    threads: Threads,
    counters: Arc<Counters>,
    /// Each job holds a copy; `None`: the process is ending.
    drained: Option<mpsc::Sender<()>>,
    pub(super) units: Vec<Serving>,
    /// Those that accept nothing any more, and still have something open; the oldest first.
    retired: VecDeque<Retired>,
    /// The phase of flows that another process has begun.
    adopted: watch::Sender<Phase>,
    /// Their plugins, and when these end.
    plugins: VecDeque<(Instant, Plugins)>,
}

/// A part that runs.
pub(super) struct Serving {
    pub(super) part: Part,
    phase: watch::Sender<Phase>,
    /// Closed when no job of it listens any more.
    listening: mpsc::Receiver<()>,
    pub(super) sockets: Vec<PassedSocket>,
    plugins: Plugins,
    pub(super) files: Vec<SocketFile>,
    pub(super) upstream: Option<Arc<shadowsocks::Server>>,
    pub(super) table: Option<Arc<Table>>,
}

/// A part that accepts nothing any more.
struct Retired {
    phase: watch::Sender<Phase>,
    /// Its users, until their sessions have ended.
    table: Option<Arc<Table>>,
}

impl Serving {
    /// Leaves the files of its unix sockets to those that go on with these sockets.
    pub(super) fn leave_files_to(&mut self, others: &mut [Self]) {
        for file in std::mem::take(&mut self.files) {
            let heir = others
                .iter_mut()
                .find(|one| one.part.listens_at(file.path()));
            if let Some(heir) = heir {
                heir.files.push(file);
            }
        }
    }
}

impl Running {
    pub(super) fn new(
        threads: Threads,
        drained: mpsc::Sender<()>,
        counters: Arc<Counters>,
    ) -> Self {
        Self {
            threads,
            counters,
            drained: Some(drained),
            units: Vec::new(),
            retired: VecDeque::new(),
            adopted: watch::Sender::new(Phase::Run),
            plugins: VecDeque::new(),
        }
    }

    /// What goes on with flows that another process has begun; `None`: the process is ending.
    pub(super) fn adopter(&self, connections: &Arc<Semaphore>) -> Option<Adopter> {
        let drained = self.drained.as_ref()?.downgrade();
        let (phase, counters) = (self.adopted.subscribe(), Arc::clone(&self.counters));
        let connections = Arc::clone(connections);
        let hands = self.threads.hands();
        Some(Adopter::new(hands, phase, drained, counters, connections))
    }

    /// Runs a part.
    pub(super) async fn start(&mut self, unit: Unit) -> Serving {
        let phase = watch::Sender::new(Phase::Run);
        let (listens, listening) = mpsc::channel(1);
        if let Some(drained) = &self.drained {
            let shared = Shared::new(phase.subscribe(), drained.clone(), listens);
            self.threads.run(unit.jobs, &shared).await;
        }
        Serving {
            part: unit.part,
            phase,
            listening,
            sockets: unit.sockets,
            plugins: unit.plugins,
            files: unit.files,
            upstream: unit.upstream,
            table: unit.table,
        }
    }

    /// Has parts accept nothing new any more, and waits until their sockets are closed. What is open in them goes on, but
    /// that the plugin of a server ends which listens itself.
    pub(super) async fn retire(&mut self, units: Vec<Serving>) {
        let used: Vec<_> = self
            .units
            .iter()
            .filter_map(|unit| unit.table.clone())
            .collect();
        for unit in &units {
            unit.phase.send_replace(Phase::Retire);
        }
        let deadline = Instant::now() + CLOSE_TIME;
        for unit in units {
            let Serving {
                part,
                phase,
                mut listening,
                plugins,
                sockets,
                table,
                ..
            } = unit;
            let table = table.filter(|table| !used.iter().any(|other| Arc::ptr_eq(other, table)));
            drop(sockets);
            // A worker that is very busy closes them later.
            let _ = timeout_at(deadline, listening.recv()).await;
            self.retire_plugins(&part, plugins).await;
            self.retired.push_back(Retired { phase, table });
        }
        self.forget_ended();
        while self.retired.len() > MAX_RETIRED
            && let Some(oldest) = self.retired.pop_front()
        {
            oldest.phase.send_replace(Phase::Stop);
            self.forget_users(oldest.table);
        }
    }

    /// Forgets the parts of which nothing is open any more.
    fn forget_ended(&mut self) {
        let all = std::mem::take(&mut self.retired).into_iter();
        let (ended, open): (Vec<_>, Vec<_>) = all.partition(|one| one.phase.is_closed());
        self.retired = open.into();
        for one in ended {
            self.forget_users(one.table);
        }
    }

    fn forget_users(&self, table: Option<Arc<Table>>) {
        if let Some(table) = table {
            self.counters.users.remove(&table);
        }
    }

    async fn retire_plugins(&mut self, part: &Part, plugins: Plugins) {
        match part {
            _ if plugins.is_empty() => {}
            Part::Upstream(_) => self.plugins.push_back((Instant::now() + FAREWELL, plugins)),
            _ => plugins.end().await,
        }
        while self.plugins.len() > MAX_SUBSCRIBED_PLUGINS {
            self.end_plugin().await;
        }
    }

    /// Ends what was to end later, for as long as it is polled. Cancel safe.
    pub(super) async fn tidy(&mut self) {
        loop {
            let ends = self.plugins.front().map(|(at, _)| *at);
            let next = Instant::now() + TIDY_PAUSE;
            tokio::select! {
                () = sleep_until(ends.unwrap_or(next)), if ends.is_some() => self.end_plugin().await,
                () = sleep_until(next), if !self.retired.is_empty() => self.forget_ended(),
                else => std::future::pending().await,
            }
        }
    }

    async fn end_plugin(&mut self) {
        if let Some((_, plugins)) = self.plugins.pop_front() {
            plugins.end().await;
        }
    }

    /// Leaves everything to another process: closes all sockets, and lets what is open go on.
    pub(super) async fn leave(&mut self) {
        let units = std::mem::take(&mut self.units);
        for unit in &units {
            unit.phase.send_replace(Phase::Retire);
        }
        let deadline = Instant::now() + CLOSE_TIME;
        for mut unit in units {
            unit.sockets.clear();
            unit.files.drain(..).for_each(SocketFile::leave);
            let _ = timeout_at(deadline, unit.listening.recv()).await;
            self.units.push(unit);
        }
    }

    /// Closes the copies of listening sockets, and tells all jobs that the process has reached `phase`.
    pub(super) fn reach(&mut self, phase: Phase) {
        for unit in &mut self.units {
            unit.sockets.clear();
            unit.phase.send_replace(phase);
        }
        for retired in &self.retired {
            retired.phase.send_replace(phase);
        }
        self.adopted.send_replace(phase);
    }

    /// Nothing is added any more: what waits for the end of all jobs does not wait for this.
    pub(super) fn close(&mut self) {
        self.drained = None;
        self.threads.close();
    }

    /// Waits until all jobs and plugins have ended.
    pub(super) async fn end(self) {
        let Self {
            threads,
            units,
            plugins,
            ..
        } = self;
        threads.join();
        for unit in units {
            unit.plugins.end().await;
        }
        for (_, plugins) in plugins {
            plugins.end().await;
        }
    }
}
