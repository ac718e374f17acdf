//! Reads rules again when their files change.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, interval};

use crate::net::sync::lock;
use crate::route::{Host, Live, Network, Query, Step};
use crate::wire::Address;
use crate::wire::address::AddressRef;

/// How often the files are looked at. A change counts when the next look finds it unchanged.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// All rules in use.
#[derive(Clone)]
pub(in crate::app) struct Rulebook(Arc<Mutex<Vec<Arc<Live>>>>);

impl Rulebook {
    pub(in crate::app) fn new(rules: Vec<Arc<Live>>) -> Self {
        Self(Arc::new(Mutex::new(rules)))
    }

    /// Others are in use now.
    pub(in crate::app) fn set(&self, rules: Vec<Arc<Live>>) {
        *lock(&self.0) = rules;
    }

    /// Whether there are any.
    pub(in crate::app) fn is_in_use(&self) -> bool {
        !lock(&self.0).is_empty()
    }

    /// All of them.
    fn all(&self) -> Vec<Arc<Live>> {
        lock(&self.0).clone()
    }

    /// The rule by which a request for `target` is decided, for an operator: where it is written, and what it decides. `None`: no
    /// rule decides it, the addresses of its name do, or listeners have rules of their own that differ.
    pub(in crate::app) fn reason(&self, target: &Address, network: Network) -> Option<String> {
        let query = Query {
            host: match target.as_ref() {
                AddressRef::Ip(address) => Host::Ip(address.ip()),
                AddressRef::Domain(name, _) => Host::of_name(name),
            },
            port: target.port(),
            network,
            user: None,
            local: None,
        };
        let all = self.all();
        let mut reasons = all.iter().map(|live| {
            let rules = live.current();
            let Step::Decided(decision) = rules.decide(&query, None) else {
                return None;
            };
            let origin = rules.origin(&query, None)?;
            Some(format!("{origin} ({})", decision.action))
        });
        let first = reasons.next()?;
        reasons.all(|reason| reason == first).then_some(first)?
    }

    /// Looks at the files of all rules for as long as it runs.
    pub(in crate::app) async fn watch(self) {
        let mut ticks = interval(CHECK_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            for live in self.all() {
                if !live.is_stale() {
                    continue;
                }
                let changed = Arc::clone(&live);
                match spawn_blocking(move || changed.reload()).await {
                    Ok(Ok(())) => tracing::info!("rules read again"),
                    Ok(Err(error)) => {
                        tracing::error!(%error, "the changed rules cannot be used; the previous ones stay in use");
                    }
                    // It was cancelled, since the process ends.
                    Err(_) => return,
                }
            }
        }
    }
}
