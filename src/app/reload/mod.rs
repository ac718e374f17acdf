//! Reads the config again, and has it used by difference.
//!
//! What is the same in both configs goes on untouched. Everything new is built before anything is ended: a config that
//! cannot be used changes nothing. A part that has changed gets the listening sockets of the one that it replaces.
//!
//! - `difference.rs`: what of two configs is the same.
//! - `fixed.rs`: the keys that only a restart changes.
//! - `rules.rs`: rules that go on, with what is in them now.
//! - `users.rs`: users of servers that go on.
//! - `ports.rs`: ports that a manager adds and removes.
//! - `places.rs`: limits that change while they are in use.
//! - `file.rs`: notices that the file has changed.

mod difference;
mod file;
mod fixed;
mod places;
mod ports;
mod rules;
mod users;

use std::sync::Arc;

use tokio::task::spawn_blocking;

use self::difference::Difference;
use self::file::File;
use self::places::Places;
use super::adopt::Adopter;
use super::granted::Granted;
use super::log;
use super::routing::Rulebook;
use super::running::Running;
use super::sandbox;
use super::services::{Named, Part, Shares, Unit};
use super::upgrade::Legacy;
use crate::config::{self, Config, Diagnostic, ManagedPort, Severity};
use crate::control::orders::{Changes, Reloaded};
use crate::net::notify::notify;
use crate::net::passed::{Passed, PassedSocket};
use crate::net::pool;
use crate::net::quic::Ports;
use crate::outbound::shadowsocks;

/// What is needed to change what runs.
pub(super) struct Reloader {
    /// The config that runs.
    config: Config,
    shares: Shares,
    pub(super) running: Running,
    places: Places,
    file: Option<File>,
    rulebook: Rulebook,
    workers: usize,
    granted: Granted,
    /// What a manager has added, in this order.
    ports: Vec<ManagedPort>,
}

impl Reloader {
    pub(super) fn new(
        config: &Config,
        shares: Shares,
        running: Running,
        rulebook: Rulebook,
        (workers, granted): (usize, Granted),
    ) -> Self {
        let (_, capacity) = granted.places(config);
        Self {
            places: Places::new(&shares, capacity),
            file: config.reread.as_ref().map(|how| File::new(how.path())),
            config: config.clone(),
            shares,
            running,
            rulebook,
            workers,
            granted,
            ports: Vec::new(),
        }
    }

    /// Waits until the file has changed, if that matters, and ends plugins whose time is over. Cancel safe.
    pub(super) async fn file_changed(&mut self) {
        let Self {
            file,
            running,
            config,
            rulebook,
            ..
        } = self;
        let changed = async {
            match file {
                Some(file) if config.watch || rulebook.is_in_use() => file.changed().await,
                _ => std::future::pending().await,
            }
        };
        tokio::select! {
            () = changed => {}
            () = running.tidy() => {}
        }
    }

    /// Reads the file that has changed: all of it, or only its rules.
    pub(super) async fn read_changed(&mut self) {
        if self.config.watch {
            tracing::info!("the config file has changed");
            let _ = self.reload().await;
        } else {
            self.reload_rules().await;
        }
    }

    /// Copies of all listening sockets, for a process that takes over.
    ///
    /// # Errors
    /// What cannot be taken over.
    pub(super) fn sockets_to_leave(&self) -> Result<Vec<PassedSocket>, String> {
        if self.config.manager.is_some() {
            return Err("a manager has added ports, or may do so: restart instead".to_owned());
        }
        let units = &self.running.units;
        let stuck = units.iter().find_map(|unit| {
            let reason = unit.part.cannot_move()?;
            Some(format!("{}: {reason}: restart instead", unit.part))
        });
        if let Some(reason) = stuck {
            return Err(reason);
        }
        let sockets = units.iter().flat_map(|unit| &unit.sockets);
        let copies: Result<_, _> = sockets.map(PassedSocket::copy).collect();
        copies.map_err(|error| format!("cannot pass a listening socket on: {error}"))
    }

    /// What goes on with flows that another process was to take; `None`: the process is ending.
    pub(super) fn adopter(&self) -> Option<Adopter> {
        self.running.adopter(&self.shares.connections)
    }

    /// The ports on which QUIC is served.
    pub(super) fn quic(&self) -> Ports {
        self.shares.kept.quic()
    }

    /// What the servers have seen of salts and sessions.
    pub(super) fn seen(&self) -> Vec<Legacy> {
        self.shares.kept.record()
    }

    /// Reads the whole config again and has it used, and logs what has changed.
    ///
    /// # Errors
    /// Everything that is wrong with it. Nothing has changed then.
    pub(super) async fn reload(&mut self) -> Reloaded {
        notify("RELOADING=1");
        let result = match self.load().await {
            Ok(config) => self.apply(config).await,
            Err(errors) => Err(errors),
        };
        match &result {
            Ok(changes) => {
                for key in &changes.needs_restart {
                    tracing::warn!(key, "this has changed in the config, and needs a restart");
                }
                for warning in &changes.warnings {
                    tracing::warn!("{warning}");
                }
                tracing::info!("config read again; {changes}");
            }
            Err(errors) => self.refuse(errors),
        }
        notify("READY=1");
        result
    }

    fn refuse(&self, errors: &[String]) {
        for error in errors {
            tracing::error!(%error, "the changed config cannot be used; nothing has changed");
        }
    }

    async fn load(&mut self) -> Result<Config, Vec<String>> {
        let Some(how) = self.config.reread.clone() else {
            return Err(vec![
                "there is no config file to read again: the process was started with flags alone"
                    .to_owned(),
            ]);
        };
        if let Some(file) = &mut self.file {
            file.note_read();
        }
        let load = move || config::load(Some(how.path()), how.role(), how.flags());
        match spawn_blocking(load).await {
            Ok(loaded) => {
                let mut config = loaded.map_err(|found| {
                    let mut errors = texts(found);
                    errors.extend(sandbox::hint(&errors));
                    errors
                })?;
                self.keep_ports(&mut config)?;
                if let Some(refused) = sandbox::refused(&config) {
                    return Err(vec![refused]);
                }
                Ok(config)
            }
            Err(_) => Err(vec!["reading the config was interrupted".to_owned()]),
        }
    }

    /// Has a config used whose rules are all that is new; otherwise says what would use all of it.
    async fn reload_rules(&mut self) {
        let config = match self.load().await {
            Ok(config) => config,
            Err(errors) => return self.refuse(&errors),
        };
        let difference = Difference::of(&self.running.units, &self.config, &config);
        if difference.is_none(&self.running.units) && users::are_same(&self.config, &config) {
            let pairs = rules::pairs(&self.running.units, &difference);
            rules::replace(&pairs);
            tracing::info!("rules of the config read again");
        } else {
            tracing::warn!(
                "the config file has changed in more than its rules, and waits for SIGHUP; see the key \"watch\""
            );
        }
    }

    /// Has `config` used.
    async fn apply(&mut self, mut config: Config) -> Reloaded {
        let mut changes = Changes {
            warnings: config.warnings.iter().map(Diagnostic::to_string).collect(),
            needs_restart: fixed::keep(&self.config, &mut config),
            ..Changes::default()
        };
        let mut difference = Difference::of(&self.running.units, &self.config, &config);
        let pairs = rules::pairs(&self.running.units, &difference);
        rules::share(&pairs, &mut config);
        // The same parts, with rules that go on.
        difference.parts = Part::all(&config);
        difference.note(&self.running.units, &mut changes);
        let built = self.build(&config, &difference).await;
        let (units, named) = match built {
            Ok(built) => built,
            Err(error) => return Err(self.give_up(error)),
        };
        match users::reload(&self.shares.kept, &self.config, &config) {
            Ok(users) => changes.changed.extend(users),
            Err(error) => return Err(self.give_up(error)),
        }
        rules::replace(&pairs);
        self.shares.set_named(named);
        self.change(units, &difference, &config).await;
        // Those that are gone have users until their sessions have ended.
        self.shares.kept.keep(&config.servers);
        self.resize(&config);
        log::set_levels(&config.log);
        self.rulebook.set(config.live_rules());
        self.config = config;
        Ok(changes)
    }

    /// Forgets what was made for a config that is not used.
    fn give_up(&self, error: String) -> Vec<String> {
        for table in self.shares.kept.keep(&self.config.servers) {
            self.shares.counters.users.remove(&table);
        }
        vec![error]
    }

    /// Builds what is new, but for what cannot fail and would be in use at once.
    async fn build(
        &self,
        config: &Config,
        difference: &Difference,
    ) -> Result<(Vec<Option<Unit>>, Named), String> {
        let units = &self.running.units;
        let replaced = difference.ending(units).flat_map(|unit| &unit.sockets);
        let copies: Result<Vec<_>, _> = replaced.map(|socket| socket.copy()).collect();
        let copies =
            copies.map_err(|error| format!("cannot pass a listening socket on: {error}"))?;
        let mut builder = self
            .shares
            .builder(config, self.workers, Passed::from(copies));
        builder.note_listeners();
        builder.note_names();
        let mut built = Vec::new();
        for (part, kept) in difference.parts.iter().zip(&difference.kept) {
            built.push(match (part, kept) {
                (Part::Online(..), _) | (_, Some(_)) => None,
                (part, None) => {
                    let unit = builder.unit(part.clone()).await;
                    Some(unit.map_err(|error| error.to_string())?)
                }
            });
        }
        Ok((built, builder.named))
    }

    /// Ends what the config does not have any more, and starts what is new in it.
    async fn change(&mut self, built: Vec<Option<Unit>>, difference: &Difference, config: &Config) {
        let mut before: Vec<Option<_>> = std::mem::take(&mut self.running.units)
            .into_iter()
            .map(Some)
            .collect();
        let mut taken = difference.kept.iter();
        let mut after = Vec::new();
        for (unit, part) in built.into_iter().zip(&difference.parts) {
            let kept = taken.next().copied().flatten();
            let kept = kept
                .and_then(|place| before.get_mut(place))
                .and_then(Option::take);
            match (kept, unit, part) {
                (Some(kept), ..) => after.push(kept),
                (None, Some(unit), _) => {
                    after.push(self.running.start(unit).await);
                }
                (None, None, _) => {}
            }
        }
        let upstreams: Vec<Arc<shadowsocks::Server>> = after
            .iter()
            .filter_map(|unit| unit.upstream.clone())
            .collect();
        let (mut stay, mut end) = (Vec::new(), Vec::new());
        for (place, unit) in before.into_iter().enumerate() {
            match unit {
                Some(unit) if difference.stays(place) => stay.push(unit),
                Some(unit) => end.push(unit),
                None => {}
            }
        }
        after.append(&mut stay);
        if difference.has_other_servers {
            let mut builder = self.shares.builder(config, self.workers, Passed::default());
            builder.use_servers(upstreams);
            let online = difference.new_online();
            let online = match online {
                Some(part) => builder.unit(part.clone()).await.ok(),
                None => None,
            };
            drop(builder);
            if let Some(unit) = online {
                after.push(self.running.start(unit).await);
            }
        }
        for unit in &mut end {
            unit.leave_files_to(&mut after);
        }
        self.running.units = after;
        self.running.retire(end).await;
    }

    fn resize(&mut self, config: &Config) {
        pool::set_budget(self.granted.buffers(config.limits.buffers()));
        let (share, capacity) = self.granted.places(config);
        self.shares.share = share;
        self.places.resize(&self.shares, capacity);
    }
}

fn texts(found: Vec<Diagnostic>) -> Vec<String> {
    let errors = found
        .into_iter()
        .filter(|finding| finding.severity == Severity::Error);
    errors.map(|finding| finding.to_string()).collect()
}
