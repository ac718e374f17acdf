//! Tries the servers by real requests: HTTP through each server, to a target that answers shortly.

use std::future::Future;
use std::io::IoSliceMut;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use super::health::{Fault, Health};
use crate::limits::MAX_PROBES;
use crate::net::dial::SpeaksFirst;
use crate::net::pool::{Buffer, Size};
use crate::net::slots::scatter;
use crate::net::unix_now;
use crate::outbound::endpoint::Endpoint;
use crate::relay::Error;
use crate::wire::Address;
use crate::wire::ss::stream::{Fresh, Opener};

/// Without a request for this long, nothing is probed.
const UNUSED: Duration = Duration::from_secs(300);
/// Bytes of an answer that are looked at: its status line is shorter.
const STATUS_LINE: usize = 12;

/// How servers are probed.
#[derive(Clone, Debug, PartialEq)]
pub struct Probe {
    /// The target of the request.
    pub target: Address,
    /// What is requested of it.
    pub path: String,
    /// The name server that is asked through servers for datagrams; `None`: they are not probed.
    pub name_server: Option<Address>,
    /// The time that a probe may take.
    pub longest: Duration,
    /// The time between two probes of a server.
    pub interval: Duration,
    /// The time between two probes of the server that is used; `None`: as the others.
    pub best_interval: Option<Duration>,
}

/// A server that is probed.
#[derive(Clone)]
pub struct Probed {
    /// Its address, for the log.
    pub address: Address,
    /// Asks through it.
    pub ask: Arc<dyn Ask>,
    /// What is known of it.
    pub health: Arc<Health>,
    /// Its weight.
    pub weight: f64,
}

/// Makes a request through one server.
pub trait Ask: Send + Sync {
    /// Whether there is an answer.
    fn ask<'a>(&'a self, probe: &'a Probe) -> Asked<'a>;
}

/// What [`Ask::ask`] returns: why there was no answer, if there was none.
pub type Asked<'a> = Pin<Box<dyn Future<Output = Result<(), String>> + Send + 'a>>;

/// What is probed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Streams.
    Tcp,
    /// Datagrams.
    Udp,
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }

    /// The key of the config that names the target.
    const fn key(self) -> &'static str {
        match self {
            Self::Tcp => "balancer.probe",
            Self::Udp => "balancer.probe_udp",
        }
    }
}

/// When the proxy was last used.
#[derive(Debug)]
pub struct Activity {
    begun: Instant,
    /// Seconds since `begun`.
    last: AtomicU64,
    woken: Notify,
}

impl Default for Activity {
    fn default() -> Self {
        Self {
            begun: Instant::now(),
            last: AtomicU64::new(0),
            woken: Notify::new(),
        }
    }
}

impl Activity {
    /// Notes a request. After a pause, the probes begin again at once.
    pub fn note(&self) {
        let now = self.begun.elapsed().as_secs();
        let before = self.last.load(Relaxed);
        if before != now {
            self.last.store(now, Relaxed);
            if now.saturating_sub(before) >= UNUSED.as_secs() {
                self.woken.notify_one();
            }
        }
    }

    /// Has the servers probed now.
    pub fn probe_now(&self) {
        self.woken.notify_one();
    }

    fn is_used(&self) -> bool {
        let now = self.begun.elapsed().as_secs();
        now.saturating_sub(self.last.load(Relaxed)) < UNUSED.as_secs()
    }
}

/// Probes `servers` for as long as the proxy is used.
pub async fn run(kind: Kind, probe: Arc<Probe>, servers: Vec<Probed>, activity: Arc<Activity>) {
    let mut all_at = Instant::now();
    let mut passes = true;
    loop {
        if !activity.is_used() {
            activity.woken.notified().await;
            all_at = Instant::now();
        }
        let now = Instant::now();
        if now >= all_at {
            all_at = now + probe.interval;
            passes = round(kind, &probe, &servers, passes).await;
        } else if let Some(best) = best(&servers) {
            round(kind, &probe, &[best], true).await;
        }
        let best_at = probe.best_interval.map(|interval| now + interval);
        let next = best_at.map_or(all_at, |at| at.min(all_at));
        tokio::select! {
            () = sleep_until(next) => {}
            () = activity.woken.notified() => all_at = Instant::now(),
        }
    }
}

/// The server with the best score.
fn best(servers: &[Probed]) -> Option<Probed> {
    let score = |server: &&Probed| server.health.score() / server.weight.max(f64::EPSILON);
    let working = servers.iter().filter(|server| !server.health.has_failed());
    working
        .min_by(|a, b| score(a).total_cmp(&score(b)))
        .cloned()
}

/// Probes `servers` once. Returns whether one of them has passed; `passed`: whether one did the last time.
async fn round(kind: Kind, probe: &Arc<Probe>, servers: &[Probed], passed: bool) -> bool {
    let mut waiting = servers.iter().enumerate();
    let mut running = JoinSet::new();
    let mut results = Vec::new();
    loop {
        while running.len() < MAX_PROBES
            && let Some((index, server)) = waiting.next()
        {
            let (probe, asking) = (Arc::clone(probe), Arc::clone(&server.ask));
            running.spawn(async move { (index, probe.ask(&*asking).await) });
        }
        match running.join_next().await {
            Some(Ok(result)) => results.push(result),
            Some(Err(_)) => {}
            None => break,
        }
    }
    let passes = results.iter().any(|(_, result)| result.is_ok());
    for (index, result) in results {
        if let Some(server) = servers.get(index) {
            server.note(kind, result, probe.longest, passes && servers.len() > 1);
        }
    }
    if servers.len() > 1 && passes != passed {
        let (network, key) = (kind.name(), kind.key());
        if passes {
            tracing::info!(network, "servers pass the probe again");
        } else {
            tracing::warn!(
                network,
                target_key = key,
                "no server passes the probe: all are down, or its target is"
            );
        }
    }
    passes
}

impl Probed {
    /// Notes a result. A failure counts only if another server has passed: else the target may be down.
    fn note(
        &self,
        kind: Kind,
        result: Result<Duration, String>,
        longest: Duration,
        other_passes: bool,
    ) {
        let (server, network) = (&self.address, kind.name());
        self.health
            .note_probe(result.as_ref().ok().copied(), longest);
        match result {
            Ok(time) => {
                if self.health.work() {
                    let latency_ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
                    tracing::info!(%server, network, latency_ms, "server passes the probe");
                }
            }
            Err(error) if other_passes => {
                if self.health.fail(Fault::Probe) {
                    tracing::warn!(%server, network, %error, "server fails the probe: others are used");
                }
            }
            Err(error) => tracing::debug!(%server, network, %error, "server fails the probe"),
        }
    }
}

impl Probe {
    /// Makes one request through the server. Returns how long it took, or why there was no answer.
    async fn ask(&self, server: &dyn Ask) -> Result<Duration, String> {
        let begun = Instant::now();
        match timeout(self.longest, server.ask(self)).await {
            Ok(Ok(())) => Ok(begun.elapsed()),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(format!("no answer within {} s", self.longest.as_secs())),
        }
    }

    pub(crate) async fn request(&self, server: &Endpoint) -> Result<(), String> {
        let text = |error: Error| error.to_string();
        let stream = server.dial(SpeaksFirst::Us).await.map_err(text)?;
        let mut leg = server.leg(stream, self.target.as_ref());
        let (opener, sealer) = leg.codec.as_mut().ok_or("the server has no method")?;
        let request = format!(
            "GET {} HTTP/1.1\r\nHost: {}\r\nUser-Agent: ssr\r\nAccept: */*\r\nConnection: close\r\n\r\n",
            self.path, self.target
        );
        let mut payload = request.as_bytes();
        while !payload.is_empty() {
            let mut buffer = Buffer::take(Size::Small);
            let (bytes, ..) = buffer.parts();
            let count = {
                let mut slots = [IoSliceMut::new(&mut [])];
                let used = sealer.slots(bytes, &mut slots);
                scatter(payload, slots.get_mut(..used).unwrap_or_default(), 0)
            };
            let fresh = Fresh {
                now: unix_now(),
                padding: &[],
            };
            let len = sealer
                .seal(bytes, count, fresh)
                .map_err(|error| error.to_string())?;
            let sealed = bytes.get(..len).unwrap_or_default();
            leg.stream
                .write_all(sealed)
                .await
                .map_err(|error| error.to_string())?;
            payload = payload.get(count..).unwrap_or_default();
        }
        let answer = read_front(&leg.stream, opener).await?;
        if is_success(&answer) {
            Ok(())
        } else {
            let answer = String::from_utf8_lossy(&answer).escape_debug().to_string();
            Err(format!("the target answered `{answer}`"))
        }
    }
}

/// Reads the first bytes of an answer.
async fn read_front(stream: &crate::net::Stream, opener: &mut Opener) -> Result<Vec<u8>, String> {
    let mut buffer = Buffer::take(Size::Medium);
    let mut answer = Vec::new();
    while answer.len() < STATUS_LINE {
        let (bytes, _, raw) = buffer.parts();
        let free = bytes.get_mut(raw.end..).unwrap_or_default();
        if free.is_empty() {
            return Err("the answer is too long".into());
        }
        match stream.read(free).await {
            Ok(0) => return Err("the server closed the connection without an answer".into()),
            Ok(count) => raw.end += count,
            Err(error) => return Err(error.to_string()),
        }
        loop {
            let chunk = bytes.get_mut(raw.clone()).unwrap_or_default();
            let opened = opener
                .open(chunk, unix_now)
                .map_err(|error| error.to_string())?;
            if opened.used == 0 {
                break;
            }
            answer.extend_from_slice(chunk.get(opened.payload).unwrap_or_default());
            raw.start += opened.used;
        }
        buffer.compact();
    }
    answer.truncate(STATUS_LINE);
    Ok(answer)
}

/// Whether `status` is that of an HTTP response that was meant, or a redirection.
fn is_success(status: &[u8]) -> bool {
    let code = status
        .strip_prefix(b"HTTP/1.")
        .and_then(|rest| rest.get(2..3));
    matches!(code, Some(b"2" | b"3"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_response_that_was_meant_is_a_success() {
        for status in ["HTTP/1.1 200", "HTTP/1.0 204", "HTTP/1.1 302"] {
            assert!(is_success(status.as_bytes()), "{status}");
        }
        for status in [
            "HTTP/1.1 404",
            "HTTP/1.1 502",
            "SSH-2.0-Open",
            "HTTP/1.",
            "",
        ] {
            assert!(!is_success(status.as_bytes()), "{status}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_proxy_is_used_until_five_minutes_after_a_request() {
        let activity = Activity::default();
        assert!(activity.is_used());
        tokio::time::advance(UNUSED).await;
        assert!(!activity.is_used());
        activity.note();
        assert!(activity.is_used());
    }
}
