//! Reads rules again when their files change, or on SIGHUP.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, interval};

use super::reload::Reload;
use crate::route::Live;

/// How often the files are looked at. A change counts when the next look finds it unchanged.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// The rules of the process.
pub(in crate::app) struct Watched {
    /// All rules in use.
    pub(in crate::app) all: Vec<Arc<Live>>,
    /// Reads the config file; `None`: there is none, or no rules are in use.
    pub(in crate::app) reload: Option<Arc<Reload>>,
    /// SIGHUP has come.
    pub(in crate::app) hangup: Arc<Notify>,
}

/// Looks at the files of all rules for as long as it runs.
pub(in crate::app) async fn watch(watched: Watched) {
    let mut ticks = interval(CHECK_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let asked = tokio::select! {
            _ = ticks.tick(), if !watched.all.is_empty() => false,
            () = watched.hangup.notified() => true,
        };
        match &watched.reload {
            Some(reload) if asked || reload.is_stale() => read_config(reload).await,
            None if asked => {
                tracing::warn!(
                    "SIGHUP: no rules of a config file are in use, so nothing was read again; other keys need a restart"
                );
            }
            _ => {}
        }
        for live in &watched.all {
            if !(asked || live.is_stale()) {
                continue;
            }
            let changed = Arc::clone(live);
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

async fn read_config(reload: &Arc<Reload>) {
    let changed = Arc::clone(reload);
    match spawn_blocking(move || changed.apply()).await {
        Ok(Ok(())) => {
            let file = reload.path().display();
            tracing::info!(%file, "rules of the config read again; other keys need a restart");
        }
        Ok(Err(problems)) => {
            for error in problems {
                tracing::error!(%error, "the changed config cannot be used; the previous rules stay in use");
            }
        }
        // It was cancelled, since the process ends.
        Err(_) => {}
    }
}
