//! What a process knows of itself.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use serde_json::{Value, json};

use crate::dns::Resolver;
use crate::outbound::current::Current;
use crate::relay::Counters;

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
}

impl Facts {
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
