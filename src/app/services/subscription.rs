//! The servers of `online_config`: downloads their list now and then, keeps the last good one on disk, and has them used.
//!
//! The servers of the config stay beside them. A list that is wrong changes nothing. A server that was in the list before is
//! the same server: its connections, its plugin and what is known of it stay. One that is not in the list any more gets no
//! new connections; those that it has go on.

mod store;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until};
use zeroize::Zeroizing;

use self::store::Store;
pub(in crate::app) use self::store::directory;
use super::builder::Builder;
use super::plugins::Entrances;
use crate::app::fd_limit::Capacity;
use crate::app::worker::{Job, Phase, Shared};
use crate::config::{Config, OnlineConfig, OnlineServer, online_servers};
use crate::dns::Resolver;
use crate::limits::{MAX_SUBSCRIBED_PLUGINS, MAX_SUBSCRIPTION};
use crate::net::fetch::{Shown, fetch};
use crate::net::plugin::Plugins;
use crate::outbound::current::Current;
use crate::outbound::shadowsocks::{Server, Servers};
use crate::relay::Counters;
use crate::relay::replay::ClientReplays;

/// The pause after a download that failed; it doubles up to the interval.
const RETRY: Duration = Duration::from_secs(10);
/// How long the plugin of a server goes on that is not in the list any more.
const FAREWELL: Duration = Duration::from_secs(600);

/// What servers are built from.
pub(super) struct Parts {
    pub(super) config: Arc<Config>,
    pub(super) resolver: Arc<Resolver>,
    pub(super) counters: Arc<Counters>,
    pub(super) replays: ClientReplays,
}

/// The subscription of a process.
pub(super) struct Subscription {
    online: OnlineConfig,
    parts: Parts,
    /// The servers of the config.
    own: Vec<Arc<Server>>,
    members: Vec<Member>,
    current: Current,
    store: Option<Store>,
    /// The plugins of servers that are not in the list any more, and when they end.
    retired: VecDeque<(Instant, Plugins)>,
}

/// A server of the list.
struct Member {
    /// What the list says of it.
    written: Zeroizing<String>,
    servers: Vec<Arc<Server>>,
    plugins: Plugins,
}

/// Why an update failed.
type Failure = String;

impl Subscription {
    /// Has the servers of the last good list used, if there is one.
    pub(super) async fn new(
        online: OnlineConfig,
        parts: Parts,
        own: Vec<Arc<Server>>,
        current: Current,
    ) -> Self {
        let store = Store::new(online.url.expose());
        let mut subscription = Self {
            online,
            parts,
            own,
            members: Vec::new(),
            current,
            store: None,
            retired: VecDeque::new(),
        };
        let document = match &store {
            Ok(store) => store.read(),
            Err(_) => None,
        };
        if let Some(document) = document {
            let url = subscription.shown();
            match subscription.apply(&document).await {
                Ok(servers) => {
                    tracing::info!(url, servers, "servers of the last good list are used");
                }
                Err(error) => tracing::warn!(
                    url,
                    error,
                    "the kept list of servers cannot be used; it is downloaded again"
                ),
            }
        }
        match store {
            Ok(store) => subscription.store = Some(store),
            Err(error) => tracing::warn!(
                error,
                "there is no place for the list of servers: without the network, the next start has none"
            ),
        }
        subscription
    }

    /// The job that keeps the servers up to date.
    pub(super) fn job(self) -> Job {
        Box::new(move |shared| Box::pin(self.run(shared)))
    }

    async fn run(mut self, mut shared: Shared) {
        tokio::select! {
            () = shared.reached(Phase::Retire) => {}
            () = self.keep_up_to_date() => {}
        }
        // Connections may still go through its plugins, and have their own signs for being there.
        let mut until_stop = shared.without_drain();
        until_stop.reached(Phase::Stop).await;
    }

    async fn keep_up_to_date(&mut self) {
        let mut pause = RETRY;
        loop {
            let next = match self.update().await {
                Ok(()) => {
                    pause = RETRY;
                    self.online.interval
                }
                Err(error) => {
                    let next = pause.min(self.online.interval);
                    pause = pause.saturating_mul(2);
                    let (url, retry_s) = (self.shown(), next.as_secs());
                    tracing::warn!(
                        url,
                        error,
                        retry_s,
                        "the list of servers cannot be updated; the servers stay as they are"
                    );
                    next
                }
            };
            let next = Instant::now() + next;
            loop {
                let ends = self.retired.front().map(|(at, _)| *at);
                tokio::select! {
                    () = sleep_until(next) => break,
                    () = sleep_until(ends.unwrap_or(next)), if ends.is_some() => {
                        if let Some((_, plugins)) = self.retired.pop_front() {
                            plugins.end().await;
                        }
                    }
                }
            }
        }
    }

    /// Downloads the list and has its servers used.
    async fn update(&mut self) -> Result<(), Failure> {
        if self.members.is_empty() {
            let url = self.shown();
            tracing::info!(url, "downloading the list of servers");
        }
        let document = download(self.online.url.expose().to_owned()).await?;
        let before = self.members.len();
        let servers = self.apply(&document).await?;
        let url = self.shown();
        tracing::debug!(url, servers, before, "list of servers downloaded");
        if let Some(store) = &self.store
            && let Err(error) = store.write(&document)
        {
            tracing::warn!(
                error,
                "there is no place for the list of servers: without the network, the next start has none"
            );
        }
        Ok(())
    }

    /// Has the servers of a list used. Returns how many there are.
    async fn apply(&mut self, document: &[u8]) -> Result<usize, Failure> {
        let config = Arc::clone(&self.parts.config);
        let listed = online_servers(document, &self.online, &config.socket);
        let listed = listed.map_err(|error| error.to_string())?;
        let is_known = |one: &OnlineServer| {
            let mut members = self.members.iter();
            members.any(|member| member.written == one.written)
        };
        // What can fail comes first, so that a list is used whole or not at all.
        let new = listed.iter().filter(|one| !is_known(one));
        let plugins = new.clone().flat_map(|one| &one.servers);
        let plugins = plugins.filter(|one| one.plugin.is_some()).count();
        let mut built = VecDeque::new();
        for one in new {
            built.push_back(self.build(one).await?);
        }
        let unchanged = built.is_empty() && listed.len() == self.members.len();
        let same_order = unchanged
            && listed
                .iter()
                .zip(&self.members)
                .all(|(one, member)| one.written == member.written);
        let count = listed.iter().map(|one| one.servers.len()).sum();
        if same_order {
            return Ok(count);
        }
        let mut before: Vec<Option<Member>> = std::mem::take(&mut self.members)
            .into_iter()
            .map(Some)
            .collect();
        for one in &listed {
            let known = before.iter_mut().find(|member| {
                member
                    .as_ref()
                    .is_some_and(|member| member.written == one.written)
            });
            let member = known.and_then(Option::take).or_else(|| built.pop_front());
            self.members.extend(member);
        }
        let removed: Vec<Member> = before.into_iter().flatten().collect();
        let (url, left) = (self.shown(), removed.len());
        self.retire(removed, plugins).await;
        let all = self.members.iter().flat_map(|member| &member.servers);
        let all = self.own.iter().chain(all).cloned().collect();
        let balancer = config.balancer.clone();
        self.current.replace(Servers::of(all, balancer));
        tracing::info!(
            url,
            servers = count,
            removed = left,
            "the servers of the list have changed"
        );
        Ok(count)
    }

    /// Builds a server that is new in the list, and starts its plugin.
    async fn build(&self, listed: &OnlineServer) -> Result<Member, Failure> {
        let parts = &self.parts;
        // It makes no listeners.
        let capacity = Capacity {
            connections: 1,
            handshakes: 1,
            visitors: 1,
            visitors_handshakes: 1,
        };
        let (resolver, counters) = (&parts.resolver, &parts.counters);
        let mut builder = Builder::new(&parts.config, capacity, 0, resolver, counters);
        builder.replays = parts.replays.clone();
        let mut servers = Vec::new();
        for server in &listed.servers {
            let plugin: Entrances = builder
                .client_plugin(server)
                .await
                .map_err(|error| error.to_string())?;
            let server = builder.upstream(server, &plugin);
            servers.push(Arc::new(server.map_err(|error| error.to_string())?));
        }
        Ok(Member {
            written: listed.written.clone(),
            servers,
            plugins: builder.plugins,
        })
    }

    /// Lets the plugins of servers go on for a while that are not in the list any more, as long as `new` ones have room.
    async fn retire(&mut self, removed: Vec<Member>, new: usize) {
        let at = Instant::now() + FAREWELL;
        let with_plugin = removed.into_iter().map(|member| member.plugins);
        let with_plugin = with_plugin.filter(|plugins| !plugins.is_empty());
        self.retired
            .extend(with_plugin.map(|plugins| (at, plugins)));
        let running = self.members.iter().filter(|one| !one.plugins.is_empty());
        let room = MAX_SUBSCRIBED_PLUGINS.saturating_sub(running.count().max(new));
        while self.retired.len() > room
            && let Some((_, plugins)) = self.retired.pop_front()
        {
            plugins.end().await;
        }
    }

    fn shown(&self) -> String {
        Shown(self.online.url.expose()).to_string()
    }
}

/// Downloads a list on a thread of its own: what it waits for must not keep the process from ending.
async fn download(url: String) -> Result<Vec<u8>, Failure> {
    let (done, answer) = oneshot::channel();
    let thread = std::thread::Builder::new().name("download".to_owned());
    thread
        .spawn(move || {
            // Nobody waits for it any more when the process ends.
            let _ = done.send(fetch(&url, MAX_SUBSCRIPTION, |_, _| ()));
        })
        .map_err(|error| error.to_string())?;
    match answer.await {
        Ok(fetched) => fetched.map_err(|error| error.to_string()),
        Err(_) => Err("the download was interrupted".to_owned()),
    }
}
