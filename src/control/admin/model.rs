//! What the admin API answers, as types that its description is made of.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::control::facts::{Facts, ReasonOf};
use crate::control::orders::Changes;
use crate::control::own;
use crate::crypto::Method;
use crate::net::pool;
use crate::outbound::shadowsocks::ServerState;
use crate::relay::User;
use crate::relay::users::{LiveSession, Protocol};

/// Why a request failed.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Problem {
    /// What happened.
    pub error: String,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// What the process is, and what it does now.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Status {
    /// The version of ssr.
    pub version: &'static str,
    /// `local`, `server` or `forward`.
    pub role: &'static str,
    /// The process id.
    pub pid: u32,
    /// The config file.
    pub config: Option<String>,
    /// Seconds since the start.
    pub uptime_s: u64,
    /// TCP streams now.
    pub connections: u64,
    /// UDP associations now.
    pub udp_sessions: u64,
    /// Payload bytes from clients.
    pub bytes_up: u64,
    /// Payload bytes to clients.
    pub bytes_down: u64,
    /// Memory of the process.
    pub memory_bytes: u64,
    /// Memory of its buffers.
    pub buffer_bytes: u64,
    /// CPU time since the start.
    pub cpu_s: f64,
    /// Open files.
    pub open_files: u64,
    /// Failures since the start, by cause.
    pub failures: BTreeMap<&'static str, u64>,
    /// The cache of names.
    pub dns: Dns,
    /// The servers, as `/api/v1/servers` has them.
    pub servers: Vec<Server>,
}

/// The cache of names.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Dns {
    /// Names in it.
    pub entries: u64,
    /// Lookups that it answered.
    pub hits: u64,
    /// Lookups that asked a name server.
    pub misses: u64,
    /// Lookups that failed.
    pub failures: u64,
}

/// A server: of `ssr local`, one that it uses; of `ssr server`, an entry of `servers`.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Server {
    /// Its name.
    pub name: String,
    /// Its address; null: see the name.
    pub address: Option<String>,
    /// Its method; null: not told.
    pub method: Option<&'static str>,
    /// The transport that requests take, where there is another beside QUIC: `quic`, `ws` or `tcp`; null: there is one alone.
    pub way: Option<&'static str>,
    /// Whether the next request goes through it.
    pub active: bool,
    /// Whether it was chosen by `PUT /api/v1/servers/NAME/active`.
    pub chosen: bool,
    /// Whether the last that is known of it is a failure.
    pub failed: bool,
    /// The median of its probes, or the usual time to connect to it; null: not known.
    pub latency_ms: Option<f64>,
    /// Streams through it now; null: not counted.
    pub connections: Option<u64>,
    /// How often it has failed.
    pub failures: u64,
}

/// What a user may use; null: as much as it likes.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Limits {
    /// Bytes of a period, in both directions together.
    pub quota_bytes: Option<u64>,
    /// Bytes a second, in each direction.
    pub rate_limit: Option<u64>,
    /// TCP streams and UDP associations at once.
    pub max_connections: Option<u32>,
    /// Addresses at once.
    pub max_ips: Option<u32>,
    /// When its time is over, in seconds since 1970.
    pub expires: Option<u64>,
}

/// A user.
#[derive(Debug, Serialize, JsonSchema)]
pub struct UserInfo {
    /// Its name; null: the only user of a server that has one key.
    pub name: Option<String>,
    /// The server that it is a user of.
    pub server: String,
    /// Payload bytes from its clients.
    pub bytes_up: u64,
    /// Payload bytes to its clients.
    pub bytes_down: u64,
    /// TCP streams now.
    pub connections: u32,
    /// UDP associations now.
    pub udp_sessions: u32,
    /// The addresses of its clients now; of IPv6, the network of 64 bits.
    pub ips: Vec<String>,
    /// When it was last active, in seconds since 1970; null: never.
    pub last_seen: Option<u64>,
    /// Requests that failed or were refused.
    pub failures: u64,
    /// What it may use.
    pub limits: Limits,
    /// Bytes of the period of its quota.
    pub used_bytes: u64,
    /// Why it is refused; null: it is not.
    pub refused: Option<&'static str>,
}

/// What a client of a user needs.
#[derive(Serialize, JsonSchema)]
pub struct UserLink {
    /// The name.
    pub name: String,
    /// The server that it is a user of.
    pub server: String,
    /// Its password.
    pub password: String,
    /// The `ss://` URL for its programs; null: no URL can describe the server.
    pub link: Option<String>,
    /// The same as a QR code, an SVG picture.
    pub qr: Option<String>,
}

/// What a link is made of.
pub struct LinkOf<'a> {
    /// The name of the server.
    pub server: &'a str,
    /// Its method.
    pub method: Method,
    /// What a client sends as its password.
    pub password: &'a str,
    /// The name of the user.
    pub name: &'a str,
    /// The public address of the server.
    pub host: &'a str,
}

/// A session that runs.
#[derive(Debug, Serialize, JsonSchema)]
pub struct SessionInfo {
    /// Its number.
    pub id: u64,
    /// Its user; null: the server has one key.
    pub user: Option<String>,
    /// The client's address.
    pub peer: String,
    /// The target.
    pub target: String,
    /// `tcp`, `udp`, `link` (of a reverse tunnel) or `multiplex`.
    pub protocol: &'static str,
    /// Payload bytes from the client.
    pub bytes_up: u64,
    /// Payload bytes to the client.
    pub bytes_down: u64,
    /// How long it has lasted.
    pub age_s: u64,
    /// The server that the client came to.
    pub server: String,
    /// The rule that decided it, in `ssr local`; null: none did.
    pub rule: Option<String>,
}

/// A session as an operator sees it.
#[must_use]
pub fn session(session: LiveSession, reason: Option<&ReasonOf>) -> SessionInfo {
    let rule = reason.and_then(|reason| {
        let target = session.target.parse().ok()?;
        reason(&target, session.protocol == Protocol::Tcp)
    });
    SessionInfo {
        rule,
        id: session.id,
        user: session.user.map(Into::into),
        peer: session.peer.to_string(),
        target: session.target.to_string(),
        protocol: session.protocol.name(),
        bytes_up: session.up,
        bytes_down: session.down,
        age_s: session.age.as_secs(),
        server: session.server.to_string(),
    }
}

/// How much is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// What does not work.
    Error,
    /// What is wrong, too.
    Warn,
    /// What an operator needs; level 0 of the config.
    Info,
    /// A line for each connection, too; level 1.
    Debug,
    /// Everything of ssr; level 2.
    Trace,
}

/// The body of `PUT /api/v1/log`.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LogLevel {
    /// How much is logged from now on, until the process ends.
    pub level: Level,
}

/// What a reload has changed: listeners, servers, forwards and users, in words.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Reloaded {
    /// What runs now and did not before.
    pub added: Vec<String>,
    /// What runs with other settings.
    pub changed: Vec<String>,
    /// What accepts nothing new any more.
    pub removed: Vec<String>,
    /// Keys that have changed, and need a restart.
    pub needs_restart: Vec<String>,
    /// What the config was warned of.
    pub warnings: Vec<String>,
}

impl From<Changes> for Reloaded {
    fn from(changes: Changes) -> Self {
        Self {
            added: changes.added,
            changed: changes.changed,
            removed: changes.removed,
            needs_restart: changes.needs_restart,
            warnings: changes.warnings,
        }
    }
}

/// What the process is, and what it does now.
#[must_use]
pub fn status(facts: &Facts) -> Status {
    let numbers: BTreeMap<_, _> = facts.counters.numbers().into_iter().collect();
    let number = |name: &str| numbers.get(name).copied().unwrap_or(0);
    let (own, dns) = (own::own(), facts.dns.counters());
    let (bytes_up, bytes_down) = facts.payload();
    Status {
        version: env!("CARGO_PKG_VERSION"),
        role: facts.role,
        pid: std::process::id(),
        config: facts
            .config
            .as_ref()
            .map(|path| path.to_string_lossy().into_owned()),
        uptime_s: facts.started.elapsed().as_secs(),
        connections: number("streams_now"),
        udp_sessions: number("associations_now"),
        bytes_up,
        bytes_down,
        memory_bytes: own.resident_bytes,
        buffer_bytes: pool::in_use() as u64,
        cpu_s: own.cpu_seconds,
        open_files: own.open_files,
        failures: facts.counters.failures(),
        dns: Dns {
            entries: dns.entries,
            hits: dns.hits,
            misses: dns.misses,
            failures: dns.failures,
        },
        servers: servers(facts),
    }
}

/// The servers that are used, or listen.
#[must_use]
pub fn servers(facts: &Facts) -> Vec<Server> {
    let tables = facts.counters.users.tables();
    let ports = tables.iter().map(|table| Server {
        name: table.server.to_string(),
        address: None,
        method: Some(table.method.name()),
        way: None,
        active: true,
        chosen: false,
        failed: false,
        latency_ms: None,
        connections: None,
        failures: 0,
    });
    let used = facts
        .servers
        .iter()
        .flat_map(|servers| servers.now().states());
    ports.chain(used.map(server)).collect()
}

fn server(state: ServerState) -> Server {
    Server {
        name: state.name,
        address: Some(state.address),
        method: None,
        way: state.way,
        active: state.is_next,
        chosen: state.is_chosen,
        failed: state.has_failed,
        latency_ms: state.latency.map(|time| time.as_secs_f64() * 1000.0),
        connections: state.streams.map(|count| count as u64),
        failures: state.failures,
    }
}

/// The users of all servers, in the order of the config.
#[must_use]
pub fn users(facts: &Facts) -> Vec<UserInfo> {
    let tables = facts.counters.users.tables();
    let users = tables.iter().flat_map(|table| {
        let users = table.users();
        let users = users.iter().map(|one| user(one, &table.server));
        users.collect::<Vec<_>>()
    });
    users.collect()
}

fn user(user: &User, server: &str) -> UserInfo {
    let (usage, limits) = (user.usage(), user.limits());
    UserInfo {
        name: user.name().map(Into::into),
        server: server.to_owned(),
        bytes_up: usage.up,
        bytes_down: usage.down,
        connections: usage.tcp_now,
        udp_sessions: usage.udp_now,
        ips: user.addresses().iter().map(ToString::to_string).collect(),
        last_seen: (usage.last_seen > 0).then_some(usage.last_seen),
        failures: usage.failures,
        limits: Limits {
            quota_bytes: limits.quota.map(|(bytes, _)| bytes),
            rate_limit: limits.rate,
            max_connections: limits.max_connections,
            max_ips: limits.max_ips,
            expires: limits.expires,
        },
        used_bytes: usage.period,
        refused: user.refusal().map(|refusal| refusal.status()),
    }
}
