//! What a process knows of itself.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use serde_json::{Value, json};

use crate::dns::Resolver;
use crate::outbound::current::Current;
use crate::relay::Counters;
use crate::wire::Address;

/// Finds the rule for a target by TCP (`true`) or UDP.
pub type ReasonOf = Arc<dyn Fn(&Address, bool) -> Option<String> + Send + Sync>;

/// What there is to tell.
#[derive(Clone)]
pub struct Facts {
    /// The role of the process.
    pub role: &'static str,
    /// Its config file.
    pub config: Option<PathBuf>,
    /// When it was started.
    pub started: Instant,
    /// What it has counted.
    pub counters: Arc<Counters>,
    /// Resolves names.
    pub dns: Arc<Resolver>,
    /// The servers that `ssr local` uses; `None`: it is another role.
    pub servers: Option<Current>,
    /// The rule that decides a request for a target, by TCP or not; `None`: there are no rules of requests.
    pub reason: Option<ReasonOf>,
    /// The most that was said of payload bytes: it never becomes less.
    pub most: Arc<[AtomicU64; 2]>,
}

impl Facts {
    /// Payload bytes from clients and to them, of flows that have ended and of those that run.
    #[must_use]
    pub fn payload(&self) -> (u64, u64) {
        let users = &self.counters.users;
        let everybody = users.everybody().cloned();
        let all = users.all().into_iter().chain(everybody);
        let (up, down) = all.map(|user| user.usage()).fold((0, 0), |sum, usage| {
            (
                usage.up.saturating_add(sum.0),
                usage.down.saturating_add(sum.1),
            )
        });
        let ended = |counter: &AtomicU64| counter.load(Relaxed);
        // Users that were removed are no longer among them.
        let never_less = |most: &AtomicU64, now: u64| most.fetch_max(now, Relaxed).max(now);
        let (up, down) = (
            up.max(ended(&self.counters.bytes_up)),
            down.max(ended(&self.counters.bytes_down)),
        );
        let [most_up, most_down] = &*self.most;
        (never_less(most_up, up), never_less(most_down, down))
    }

    /// What describes the process.
    #[must_use]
    pub fn process(&self) -> Value {
        json!({
            "pid": std::process::id(),
            "role": self.role,
            "config": self.config.as_ref().map(|path| path.to_string_lossy()),
            "version": env!("CARGO_PKG_VERSION"),
            "uptime_s": self.started.elapsed().as_secs(),
        })
    }
}
