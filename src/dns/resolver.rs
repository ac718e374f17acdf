//! The resolver that callers hold.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use hickory_resolver::TlsConfig;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::cache::{Cache, Freshness, Join, Outcome};
use super::hosts::Hosts;
use super::system::Stamp;
use super::upstream::Upstream;
use super::{Addresses, Answer, Config, Counters, Error, Source, arrange};
use crate::net::sync::{lock, read, write};
use crate::net::tasks::Tasks;

/// The longest name in bytes, without the final dot: 255 on the wire, RFC 1035 §2.3.4.
const MAX_NAME: usize = 253;

/// How often hosts file and resolver configuration are checked for changes, at most.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// What those who wait for a query hold; `None` until it has ended.
type Waiter = watch::Receiver<Option<Answer>>;

/// Resolves names for all workers.
///
/// Questions run as tasks on the runtime that the resolver was made with: they outlive those who asked, so that an
/// impatient client does not take the answer away from the others. All of them end when the resolver is dropped.
pub struct Resolver {
    shared: Arc<Shared>,
    handle: Handle,
    tasks: Tasks,
}

/// What the tasks share with the resolver; they do not own it.
struct Shared {
    config: Config,
    tls: TlsConfig,
    cache: Mutex<Cache<Waiter>>,
    hosts: RwLock<Arc<Hosts>>,
    upstream: RwLock<Arc<Upstream>>,
    loopback: Addresses,
    tally: Tally,
    files: Files,
}

/// The counters that the cache does not keep.
#[derive(Default)]
struct Tally {
    hits: AtomicU64,
    misses: AtomicU64,
    stale: AtomicU64,
    joined: AtomicU64,
    negative: AtomicU64,
    failures: AtomicU64,
    timeouts: AtomicU64,
    queries: Arc<AtomicU64>,
}

/// The versions of the files that have been read.
struct Files {
    start: Instant,
    /// When to look again, in milliseconds after `start`.
    next_check: AtomicU64,
    read: Mutex<Stamps>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamps {
    hosts: Stamp,
    resolv_conf: Option<Stamp>,
}

impl Stamps {
    fn now(config: &Config) -> Self {
        let watches_system = config.source == Source::System;
        Self {
            hosts: Stamp::of(&config.hosts_path),
            resolv_conf: watches_system.then(|| Stamp::of(&config.resolv_conf_path)),
        }
    }
}

fn add_one(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

fn current<T>(slot: &RwLock<Arc<T>>) -> Arc<T> {
    Arc::clone(&read(slot))
}

fn replace<T>(slot: &RwLock<Arc<T>>, value: T) {
    *write(slot) = Arc::new(value);
}

impl Resolver {
    /// A resolver whose questions run on `handle`. Reads the hosts file and, for [`Source::System`], the resolver
    /// configuration; asks nobody yet.
    ///
    /// # Errors
    ///
    /// [`Error::Source`] when `config.source` is not usable.
    pub fn new(config: Config, handle: Handle) -> Result<Self, Error> {
        let tls = TlsConfig::new()
            .map_err(|error| Error::Source(format!("TLS is not usable: {error}")))?;
        Self::with_tls(config, handle, tls)
    }

    /// The same, with the say in which certificates are trusted.
    pub(super) fn with_tls(config: Config, handle: Handle, tls: TlsConfig) -> Result<Self, Error> {
        let tally = Tally::default();
        let stamps = Stamps::now(&config);
        let upstream = Upstream::new(&config, &tls, Arc::clone(&tally.queries))?;
        let loopback = [
            IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(Ipv6Addr::LOCALHOST),
        ];
        let shared = Shared {
            cache: Mutex::new(Cache::new(&config)),
            hosts: RwLock::new(Arc::new(Hosts::read(&config.hosts_path, config.ipv6_first))),
            upstream: RwLock::new(Arc::new(upstream)),
            loopback: arrange(loopback, config.ipv6_first).into(),
            tally,
            files: Files {
                start: Instant::now(),
                next_check: AtomicU64::new(0),
                read: Mutex::new(stamps),
            },
            config,
            tls,
        };
        Ok(Self {
            shared: Arc::new(shared),
            handle,
            tasks: Tasks::default(),
        })
    }

    /// The answer for `name` where it is known without waiting: IP addresses, the hosts file, `localhost`, the cache.
    /// Counts a hit, or nothing.
    ///
    /// An answer past its TTL is given too, and a new one fetched in the background. Nothing is allocated for what the
    /// hosts file or the cache knows.
    #[must_use]
    pub fn cached(&self, name: &str) -> Option<Answer> {
        let mut buffer = [0; MAX_NAME + 1];
        let name = match self.known(name, &mut buffer) {
            Ok(name) => name,
            Err(answer) => return Some(answer),
        };
        let (answer, freshness) = lock(&self.shared.cache).get(name, Instant::now())?;
        Some(self.hit(name, answer, freshness))
    }

    /// Resolves `name`, at the latest by [`Config::deadline`].
    ///
    /// A name without a final dot is looked up as getaddrinfo(3) does, by the search list if there is one. Letter case
    /// does not matter.
    ///
    /// # Errors
    ///
    /// Any [`Error`] but [`Error::Source`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing: the question goes on for the cache and for those who joined.
    pub async fn lookup(&self, name: &str) -> Answer {
        let deadline = Instant::now() + self.shared.config.deadline;
        let mut waiter = match self.begin(name) {
            Ok(waiter) => waiter,
            Err(answer) => return answer,
        };
        match timeout_at(deadline, waiter.wait_for(Option::is_some)).await {
            Ok(Ok(answer)) => answer.clone().unwrap_or(Err(Error::Timeout)),
            Ok(Err(_stopped)) => Err(Error::Unreachable("the resolver has been stopped".into())),
            Err(_late) => Err(Error::Timeout),
        }
    }

    /// What has happened so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        let tally = &self.shared.tally;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (evicted, entries) = {
            let cache = lock(&self.shared.cache);
            (cache.evicted(), cache.len())
        };
        Counters {
            hits: read(&tally.hits),
            misses: read(&tally.misses),
            stale: read(&tally.stale),
            joined: read(&tally.joined),
            negative: read(&tally.negative),
            failures: read(&tally.failures),
            timeouts: read(&tally.timeouts),
            queries: read(&tally.queries),
            evicted,
            entries: u64::try_from(entries).unwrap_or(u64::MAX),
        }
    }

    /// Answers at once (`Err`), or starts or joins a query and gives what to wait with.
    fn begin(&self, name: &str) -> Result<Waiter, Answer> {
        let mut buffer = [0; MAX_NAME + 1];
        let name = self.known(name, &mut buffer)?;
        let mut sender = None;
        // One lock for both steps, so that a query that ends between them is not asked again.
        let joined = {
            let mut cache = lock(&self.shared.cache);
            if let Some((answer, freshness)) = cache.get(name, Instant::now()) {
                drop(cache);
                return Err(self.hit(name, answer, freshness));
            }
            cache.join(name, || open(&mut sender))
        };
        let tally = &self.shared.tally;
        match joined {
            Join::Joined(waiter) => {
                add_one(&tally.joined);
                Ok(waiter)
            }
            Join::Start(waiter, name) => {
                add_one(&tally.misses);
                self.ask(name, sender);
                Ok(waiter)
            }
            Join::Busy => {
                add_one(&tally.failures);
                Err(Err(Error::Busy))
            }
        }
    }

    /// Counts a hit in the cache, and has the answer refreshed if it is time.
    fn hit(&self, name: &str, answer: Answer, freshness: Freshness) -> Answer {
        add_one(&self.shared.tally.hits);
        if freshness != Freshness::Fresh {
            add_one(&self.shared.tally.stale);
        }
        if freshness == Freshness::Expired {
            let mut sender = None;
            let joined = lock(&self.shared.cache).join(name, || open(&mut sender));
            if let Join::Start(_, name) = joined {
                self.ask(name, sender);
            }
        }
        answer
    }

    /// Brings `name` into the form in which it is looked up, or answers it without cache and servers (`Err`).
    fn known<'a>(
        &self,
        name: &'a str,
        buffer: &'a mut [u8; MAX_NAME + 1],
    ) -> Result<&'a str, Answer> {
        self.check_files();
        let answer = match self.shared.local(name, buffer) {
            Ok(name) => return Ok(name),
            Err(answer) => answer,
        };
        add_one(&self.shared.tally.hits);
        Err(answer)
    }

    /// Starts the query for `name`.
    fn ask(&self, name: Arc<str>, sender: Option<watch::Sender<Option<Answer>>>) {
        let Some(sender) = sender else { return };
        let query = Query {
            shared: Arc::clone(&self.shared),
            name,
            sender,
        };
        self.spawn(Box::pin(query.run()));
    }

    /// Has a task see whether the files have changed, if the last look was long enough ago.
    fn check_files(&self) {
        let files = &self.shared.files;
        let now = u64::try_from(files.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        let next = files.next_check.load(Ordering::Relaxed);
        let after =
            now.saturating_add(u64::try_from(CHECK_INTERVAL.as_millis()).unwrap_or(u64::MAX));
        if now >= next
            && files
                .next_check
                .compare_exchange(next, after, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
        {
            self.spawn(reread(Arc::clone(&self.shared)));
        }
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn_on(task, &self.handle);
    }
}

/// Makes what to wait with, and leaves the other end in `sender`.
fn open(sender: &mut Option<watch::Sender<Option<Answer>>>) -> Waiter {
    let (other_end, waiter) = watch::channel(None);
    *sender = Some(other_end);
    waiter
}

impl Shared {
    /// Brings `name` into the form in which it is looked up, or answers what needs no question (`Err`).
    fn local<'a>(
        &self,
        name: &'a str,
        buffer: &'a mut [u8; MAX_NAME + 1],
    ) -> Result<&'a str, Answer> {
        if let Ok(address) = name.parse::<IpAddr>() {
            return Err(Ok(Arc::from([address])));
        }
        let name = normalise(name, buffer).ok_or(Err(Error::InvalidName))?;
        let bare = name.strip_suffix('.').unwrap_or(name);
        let hosts = read(&self.hosts);
        if let Some(answer) = hosts.get(bare) {
            return Err(answer);
        }
        match bare.rsplit('.').next() {
            // RFC 6761 §6.3: loopback, and nobody is asked.
            Some("localhost") => Err(Ok(Arc::clone(&self.loopback))),
            // RFC 6761 §6.4, RFC 7686 §2: never exist in DNS, and asking would tell who is wanted.
            Some("invalid" | "onion") => Err(Err(Error::NoSuchName)),
            // "127.1" and the like are addresses to some libraries and names to others. They are neither here.
            Some(last) if last.bytes().all(|byte| byte.is_ascii_digit()) => {
                Err(Err(Error::InvalidName))
            }
            _ => Ok(name),
        }
    }
}

/// Lower case in `buffer`, or `name` itself where that is lower case already; `None` for what cannot be a name.
fn normalise<'a>(name: &'a str, buffer: &'a mut [u8; MAX_NAME + 1]) -> Option<&'a str> {
    let bare = name.strip_suffix('.').unwrap_or(name);
    let printable = bare
        .bytes()
        .all(|byte| byte > b' ' && byte != 0x7f && byte != b'\\');
    if bare.is_empty() || bare.len() > MAX_NAME || !printable {
        return None;
    }
    if bare.starts_with('.') || bare.ends_with('.') || bare.contains("..") {
        return None;
    }
    if !name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Some(name);
    }
    let lower = buffer.get_mut(..name.len())?;
    lower.copy_from_slice(name.as_bytes());
    lower.make_ascii_lowercase();
    std::str::from_utf8(lower).ok()
}

/// A query under way. Dropping it, by abortion or panic too, lets the next one to ask start anew.
struct Query {
    shared: Arc<Shared>,
    name: Arc<str>,
    sender: watch::Sender<Option<Answer>>,
}

impl Query {
    async fn run(self) {
        let deadline = Instant::now() + self.shared.config.deadline;
        let upstream = current(&self.shared.upstream);
        let resolution = upstream.resolve(&self.name, |outcome| self.publish(&upstream, &outcome));
        let outcome = timeout_at(deadline, resolution)
            .await
            .unwrap_or(Outcome::Failed(Error::Timeout));
        let answered_early = self.sender.borrow().is_some();
        match outcome {
            // What was answered early stands.
            Outcome::Failed(_) | Outcome::Absent { .. } if answered_early => return,
            Outcome::Failed(ref error) => {
                add_one(&self.shared.tally.failures);
                if *error == Error::Timeout {
                    add_one(&self.shared.tally.timeouts);
                }
                tracing::debug!(name = %self.name, %error, "name not resolved");
            }
            Outcome::Absent { .. } => add_one(&self.shared.tally.negative),
            Outcome::Found { .. } => {}
        }
        self.publish(&upstream, &outcome);
    }

    /// Remembers `outcome` and wakes those who wait.
    fn publish(&self, upstream: &Arc<Upstream>, outcome: &Outcome) {
        // Servers of a network that has been left may know other names than those of the new one.
        if Arc::ptr_eq(upstream, &current(&self.shared.upstream)) {
            lock(&self.shared.cache).store(&self.name, outcome, Instant::now());
        }
        self.sender.send_replace(Some(outcome.answer()));
    }
}

impl Drop for Query {
    fn drop(&mut self) {
        lock(&self.shared.cache).release(&self.name);
    }
}

/// Reads again what has changed of hosts file and resolver configuration.
async fn reread(shared: Arc<Shared>) {
    let stamps = Stamps::now(&shared.config);
    let before = std::mem::replace(&mut *lock(&shared.files.read), stamps);
    if stamps == before {
        return;
    }
    let reading = tokio::task::spawn_blocking(move || {
        if stamps.hosts != before.hosts {
            replace(
                &shared.hosts,
                Hosts::read(&shared.config.hosts_path, shared.config.ipv6_first),
            );
            tracing::info!(path = %shared.config.hosts_path.display(), "hosts file read again");
        }
        if stamps.resolv_conf != before.resolv_conf {
            match Upstream::new(
                &shared.config,
                &shared.tls,
                Arc::clone(&shared.tally.queries),
            ) {
                Ok(upstream) => {
                    replace(&shared.upstream, upstream);
                    lock(&shared.cache).clear();
                    tracing::info!(path = %shared.config.resolv_conf_path.display(), "resolver configuration read again");
                }
                Err(error) => {
                    tracing::warn!(%error, "resolver configuration not usable, the old one stays")
                }
            }
        }
    });
    if let Err(error) = reading.await {
        tracing::warn!(%error, "files not read again");
    }
}
