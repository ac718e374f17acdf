//! The thread that speaks with the store.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime;
use tokio::sync::oneshot;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use super::redis::{Link, LinkError, Place};
use super::replica::{NotTaken, Replica};
use super::tables;
use crate::limits::{
    MAX_SHARED_SALTS, SHARED_SALT_TIME, STORE_BATCH, STORE_SILENCE, STORE_TIME, STORE_TIMEOUT,
};
use crate::net::unix_now;
use crate::relay::Counters;
use crate::relay::group::Group;
use crate::relay::replay::Answerer;
use crate::relay::users::Table;

/// How long the store is left alone after it gave no answer.
const PAUSE: Duration = Duration::from_secs(1);
/// How often processes that have ended are looked for, and how long after the store was away.
const FOLD_TIME: Duration = Duration::from_secs(60);
/// Exchanges with the store for one group at a time.
const MOST_AT_ONCE: usize = 64;

/// Shares users and salts with other servers, for as long as the process runs.
pub struct Store {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl Store {
    /// Begins. The store may be away.
    ///
    /// # Errors
    /// When the system has no thread for it, or the URL is none of a store.
    pub fn start(
        url: String,
        replica: Arc<Replica>,
        counters: Arc<Counters>,
        salts: Answerer,
    ) -> io::Result<Self> {
        let reactor = runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (link, for_salts) = {
            let _in = reactor.enter();
            (link(&url)?, link(&url)?)
        };
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new().name("store".to_owned());
        let thread = thread.spawn(move || {
            reactor.block_on(async move {
                let mut service = Service {
                    link,
                    replica,
                    counters,
                    places: HashMap::new(),
                    away: None,
                    next_fold: Instant::now(),
                    odd: false,
                };
                tokio::select! {
                    () = service.run(stopped) => {}
                    () = answer(for_salts, salts) => {}
                }
            });
        })?;
        Ok(Self { stop, thread })
    }

    /// Tells the store the rest, and ends. It blocks for a moment.
    pub fn finish(self) {
        drop(self.stop);
        if self.thread.join().is_err() {
            tracing::error!("the thread of the store panicked");
        }
    }
}

fn link(url: &str) -> io::Result<Link> {
    Link::new(url).map_err(io::Error::other)
}

struct Service {
    link: Link,
    replica: Arc<Replica>,
    counters: Arc<Counters>,
    /// How far each group has read.
    places: HashMap<Group, Place>,
    /// Whether the store gives no answer, as it was said; `None`: nothing was said.
    away: Option<bool>,
    /// When processes that have ended are looked for.
    next_fold: Instant,
    /// It has something that cannot be used, which was said.
    odd: bool,
}

impl Service {
    async fn run(&mut self, mut stopped: oneshot::Receiver<()>) {
        let mut ticks = interval(STORE_TIME);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let stop = tokio::select! {
                _ = ticks.tick() => false,
                _ = &mut stopped => true,
            };
            let done = self.round().await;
            let failed = done.is_err();
            self.say(done.err());
            if stop {
                return;
            }
            if failed {
                tokio::select! {
                    () = sleep(PAUSE) => {}
                    _ = &mut stopped => return,
                }
            }
        }
    }

    /// Says once that the store is away, and that it is back.
    fn say(&mut self, error: Option<LinkError>) {
        let is_away = error.is_some();
        match error {
            Some(error) if self.away != Some(true) => {
                tracing::warn!(%error, "the store gives no answer; users and quotas go on with what is known here, and it is asked again");
            }
            None if self.away == Some(true) => tracing::info!("the store answers again"),
            None if self.away.is_none() => tracing::info!("the store answers"),
            _ => {}
        }
        self.away = Some(is_away);
    }

    /// Tells and asks for all groups.
    async fn round(&mut self) -> Result<(), LinkError> {
        let tables = tables(&self.counters);
        self.places
            .retain(|group, _| tables.iter().any(|(known, _)| known == group));
        for (group, table) in &tables {
            self.replica.refresh(group.as_str(), table);
        }
        for (group, table) in &tables {
            let done = self.group(group, table).await;
            // What came before it failed holds.
            for error in self.replica.apply(group.as_str(), table) {
                tracing::warn!(server = %table.server, %error, "a user of the store cannot be used here");
            }
            if done.is_err() {
                self.next_fold = Instant::now() + FOLD_TIME;
                self.replica.doubt();
                self.places.values_mut().for_each(Place::rewind);
            }
            done?;
        }
        if self.next_fold <= Instant::now() {
            self.next_fold = Instant::now() + FOLD_TIME;
            for (group, _) in &tables {
                self.fold(group).await?;
            }
        }
        Ok(())
    }

    /// Adds a process that has ended to the sum of them: each leaves an entry for each of its users.
    async fn fold(&mut self, group: &Group) -> Result<(), LinkError> {
        let before = unix_now().saturating_sub(STORE_SILENCE.as_secs());
        match self.replica.silent(group.as_str(), before) {
            Some((node, names)) => self.link.fold(group.as_str(), node, &names).await,
            None => Ok(()),
        }
    }

    async fn group(&mut self, group: &Group, table: &Table) -> Result<(), LinkError> {
        for _ in 0..MOST_AT_ONCE {
            let unsent = self.replica.unsent(group.as_str());
            let place = self.places.entry(group.clone()).or_default();
            let entries = unsent.iter().map(|(text, _)| text);
            let news = self.link.exchange(group.as_str(), place, entries).await?;
            let is_first = *place == Place::default();
            if !is_first && place.is_elsewhere(&news.place) {
                tracing::info!(server = %table.server, "the store has lost what it had; it is told again");
                self.replica.retell(group.as_str());
            }
            *place = news.place;
            let mut odd = match news.left_out {
                0 => None,
                _ => Some(NotTaken::Broken),
            };
            for (name, value) in news.entries {
                let value = zeroize::Zeroizing::new(value);
                let taken = self.replica.take(group.as_str(), &name, &value);
                odd = odd.or_else(|| taken.err());
            }
            // After that, since what an ended process states is not taken.
            self.replica.confirm(group.as_str(), &unsent);
            if let Some(error) = odd.filter(|_| !self.odd) {
                self.odd = true;
                tracing::warn!(server = %table.server, %error, "the store has something that is left out");
            }
            if !news.more && unsent.len() < STORE_BATCH {
                break;
            }
        }
        Ok(())
    }
}

/// Answers whether salts are new, while the store does in time.
async fn answer(mut link: Link, mut salts: Answerer) {
    let mut said = None;
    loop {
        if !salts.answers.load(Relaxed) {
            // Whoever waits goes on alone.
            while salts.questions.try_recv().is_ok() {}
            if let Ok(Ok(())) = timeout(SHARED_SALT_TIME, link.ping()).await {
                salts.answers.store(true, Relaxed);
                if said.replace(false) != Some(false) {
                    tracing::info!("the store says whether salts are new");
                }
            } else {
                if said.replace(true) != Some(true) {
                    tracing::warn!(
                        "the store does not say in time whether salts are new; what another server has served may be served again"
                    );
                }
                sleep(PAUSE).await;
            }
            continue;
        }
        let mut questions = Vec::new();
        let received = salts.questions.recv_many(&mut questions, MAX_SHARED_SALTS);
        match timeout(PAUSE, received).await {
            Ok(0) => return std::future::pending().await,
            Ok(_) => {}
            // Somebody may have waited too long.
            Err(_) => continue,
        }
        match timeout(STORE_TIMEOUT, link.spend(&questions)).await {
            Ok(Ok(new)) => {
                for (question, is_new) in questions.into_iter().zip(new) {
                    if let Some(answer) = question.answer {
                        let _gone = answer.send(is_new);
                    }
                }
            }
            _ => salts.answers.store(false, Relaxed),
        }
    }
}
