//! Reads rules again when their files change.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, interval};

use crate::route::Live;

/// How often the files are looked at. A change counts when the next look finds it unchanged.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Looks at the files of all rules for as long as it runs.
pub(in crate::app) async fn watch(all: Vec<Arc<Live>>) {
    let mut ticks = interval(CHECK_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        for live in &all {
            if !live.is_stale() {
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
