//! The resolver: answers from the hosts file and the cache, or by a query in a task.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use hickory_resolver::TlsConfig;
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout_at};

use super::answer::{Addresses, Answer, Error, arrange};
use super::cache::{Cache, Freshness, Join, Outcome, Place, Start};
use super::config::Config;
use super::hosts::Hosts;
use super::source::Source;
use super::system::Stamp;
use super::upstream::Upstream;
use crate::net::shares::Party;
use crate::net::sync::{lock, read, write};
use crate::net::tasks::Tasks;

/// The longest name in bytes, without the final dot; 255 on the wire (RFC 1035 §2.3.4).
const MAX_NAME: usize = 253;

/// The shortest time between two checks of the hosts file and resolv.conf for changes.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// How often a lookup whose query gave way, although it is of another party, asks again.
const MAX_REPEATED: usize = 2;

/// Waits for the answer of a query.
#[derive(Clone)]
struct Waiter {
    /// `None` until it has ended.
    answer: watch::Receiver<Option<Answer>>,
    /// Tells the query that it gives way to another one.
    gives_way: Arc<Notify>,
}

/// Resolves names for all workers.
///
/// Queries run as tasks on the runtime that was given to [`Resolver::new`]. They outlive the lookup that started them, so
/// that a client that gives up does not cancel the query for the others. Dropping the resolver ends them all.
pub struct Resolver {
    shared: Arc<Shared>,
    handle: Handle,
    tasks: Tasks,
}

/// State that the resolver shares with its tasks.
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

/// The files that have been read, and when to check them again.
struct Files {
    start: Instant,
    /// The time of the next check, in milliseconds after `start`.
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

/// What a [`Resolver`] has done so far. All but `entries` only grow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Answers given without waiting: IP addresses, the hosts file, the cache (stale answers included).
    pub hits: u64,
    /// Lookups that started a query.
    pub misses: u64,
    /// Hits on an answer past its TTL.
    pub stale: u64,
    /// Lookups that waited for the query of another one.
    pub joined: u64,
    /// Queries for names that do not exist or have no address.
    pub negative: u64,
    /// Queries that no name server answered, and lookups refused with [`Error::Busy`].
    pub failures: u64,
    /// Those of `failures` that reached the deadline.
    pub timeouts: u64,
    /// Questions sent: one for each name, record type and server; retransmissions are not counted.
    pub queries: u64,
    /// Names evicted because the cache was full.
    pub evicted: u64,
    /// Names in the cache now.
    pub entries: u64,
}

impl Resolver {
    /// Makes a resolver whose queries run on `handle`. Reads the hosts file and, for [`Source::System`], resolv.conf;
    /// sends no query yet.
    ///
    /// # Errors
    ///
    /// [`Error::Source`] when `config.source` is not usable.
    pub fn new(config: Config, handle: Handle) -> Result<Self, Error> {
        let tls = TlsConfig::new()
            .map_err(|_| Error::Source("cannot set up TLS for name servers".to_owned()))?;
        Self::with_tls(config, handle, tls)
    }

    /// Makes a resolver that trusts the certificates of `tls`.
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

    /// Returns the answer for `name` if it is known without a query: IP addresses, the hosts file, `localhost`, the cache.
    ///
    /// An answer past its TTL is returned too, and refreshed in the background, as a query of the program itself. A hit in the
    /// hosts file or the cache allocates nothing.
    #[must_use]
    pub fn cached(&self, name: &str) -> Option<Answer> {
        let mut buffer = [0; MAX_NAME + 1];
        let name = match self.normalize_or_answer(name, &mut buffer) {
            Ok(name) => name,
            Err(answer) => return Some(answer),
        };
        let (answer, freshness) = lock(&self.shared.cache).get(name, Instant::now())?;
        Some(self.hit(name, answer, freshness))
    }

    /// Resolves a name of the program's own, such as that of a server, within [`Config::deadline`].
    ///
    /// # Errors
    ///
    /// Those of [`Resolver::lookup_for`].
    ///
    /// # Cancel safety
    ///
    /// As [`Resolver::lookup_for`].
    pub async fn lookup(&self, name: &str) -> Answer {
        self.lookup_for(name, &Party::Own).await
    }

    /// Resolves `name` within [`Config::deadline`], for `party`.
    ///
    /// A name without a final dot is looked up as getaddrinfo(3) does, with the search list if there is one. Case does not
    /// matter.
    ///
    /// # Errors
    ///
    /// Any [`Error`] but [`Error::Source`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing: the query goes on for the cache and for the lookups that joined it.
    pub async fn lookup_for(&self, name: &str, party: &Party) -> Answer {
        let deadline = Instant::now() + self.shared.config.deadline;
        let mut left = MAX_REPEATED;
        loop {
            let (joined, mut waiter) = match self.begin(name, party) {
                Ok(begun) => begun,
                Err(answer) => return answer,
            };
            let ended = waiter.answer.wait_for(Option::is_some);
            let answer = match timeout_at(deadline, ended).await {
                Ok(Ok(answer)) => answer.clone().unwrap_or(Err(Error::Timeout)),
                Ok(Err(_stopped)) => Err(Error::Unreachable("the resolver was stopped".into())),
                Err(_late) => Err(Error::Timeout),
            };
            if answer != Err(Error::Busy) || !joined || left == 0 {
                return answer;
            }
            // The query of another party gave way to a third one. This one has a place of its own.
            left -= 1;
        }
    }

    /// The counters.
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

    /// Answers at once (`Err`), or starts or joins a query and returns its waiter, and whether it was joined.
    fn begin(&self, name: &str, party: &Party) -> Result<(bool, Waiter), Answer> {
        let mut buffer = [0; MAX_NAME + 1];
        let name = self.normalize_or_answer(name, &mut buffer)?;
        let mut sender = None;
        // One lock for both steps, so that a query that ends between them is not repeated.
        let joined = {
            let mut cache = lock(&self.shared.cache);
            if let Some((answer, freshness)) = cache.get(name, Instant::now()) {
                drop(cache);
                return Err(self.hit(name, answer, freshness));
            }
            cache.join(name, party.clone(), || waiter(&mut sender))
        };
        let tally = &self.shared.tally;
        match joined {
            Join::Joined(waiter) => {
                add_one(&tally.joined);
                Ok((true, waiter))
            }
            Join::Start(start) => {
                add_one(&tally.misses);
                let waiter = start.waiter.clone();
                self.query(start, sender);
                Ok((false, waiter))
            }
        }
    }

    /// Counts a hit in the cache, and starts a refresh if one is due.
    fn hit(&self, name: &str, answer: Answer, freshness: Freshness) -> Answer {
        add_one(&self.shared.tally.hits);
        if freshness != Freshness::Fresh {
            add_one(&self.shared.tally.stale);
        }
        if freshness == Freshness::Expired {
            let mut sender = None;
            let mut cache = lock(&self.shared.cache);
            let joined = cache.join(name, Party::Own, || waiter(&mut sender));
            drop(cache);
            if let Join::Start(start) = joined {
                self.query(start, sender);
            }
        }
        answer
    }

    /// Normalizes `name` for the cache and the servers, or answers it without them (`Err`), which counts as a hit.
    fn normalize_or_answer<'a>(
        &self,
        name: &'a str,
        buffer: &'a mut [u8; MAX_NAME + 1],
    ) -> Result<&'a str, Answer> {
        self.check_files();
        let answer = match self.shared.normalize_or_answer(name, buffer) {
            Ok(name) => return Ok(name),
            Err(answer) => answer,
        };
        add_one(&self.shared.tally.hits);
        Err(answer)
    }

    /// Starts a query, and ends the one that gives way to it.
    fn query(&self, start: Start<Waiter>, sender: Option<watch::Sender<Option<Answer>>>) {
        if let Some(displaced) = start.displaced {
            displaced.gives_way.notify_one();
        }
        let Some(sender) = sender else { return };
        let query = Query {
            shared: Arc::clone(&self.shared),
            place: start.place,
            sender,
            gives_way: start.waiter.gives_way,
        };
        self.spawn(Box::pin(query.run()));
    }

    /// Starts a task that checks the files for changes, if [`CHECK_INTERVAL`] has passed since the last check.
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

/// Makes a waiter, and puts its other end into `sender`.
fn waiter(sender: &mut Option<watch::Sender<Option<Answer>>>) -> Waiter {
    let (other_end, answer) = watch::channel(None);
    *sender = Some(other_end);
    Waiter {
        answer,
        gives_way: Arc::default(),
    }
}

impl Shared {
    /// Normalizes `name`, or answers it if it needs no query (`Err`).
    fn normalize_or_answer<'a>(
        &self,
        name: &'a str,
        buffer: &'a mut [u8; MAX_NAME + 1],
    ) -> Result<&'a str, Answer> {
        if let Ok(address) = name.parse::<IpAddr>() {
            return Err(Ok(Arc::from([address])));
        }
        let name = normalize(name, buffer).ok_or(Err(Error::InvalidName))?;
        let bare = name.strip_suffix('.').unwrap_or(name);
        let hosts = read(&self.hosts);
        if let Some(answer) = hosts.get(bare) {
            return Err(answer);
        }
        match bare.rsplit('.').next() {
            // Always loopback, never queried (RFC 6761 §6.3).
            Some("localhost") => Err(Ok(Arc::clone(&self.loopback))),
            // They never exist in DNS, and a query would leak the name (RFC 6761 §6.4, RFC 7686 §2).
            Some("invalid" | "onion") => Err(Err(Error::NoSuchName)),
            // Some libraries take "127.1" for an address, others for a name. Here it is neither.
            Some(last) if last.bytes().all(|byte| byte.is_ascii_digit()) => {
                Err(Err(Error::InvalidName))
            }
            _ => Ok(name),
        }
    }
}

/// Returns `name` in lower case, copied to `buffer` if it has upper case letters; `None` if it cannot be a name.
fn normalize<'a>(name: &'a str, buffer: &'a mut [u8; MAX_NAME + 1]) -> Option<&'a str> {
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

/// A query under way. Dropping it, even by abort or panic, lets the next lookup start a new one.
struct Query {
    shared: Arc<Shared>,
    place: Place,
    sender: watch::Sender<Option<Answer>>,
    gives_way: Arc<Notify>,
}

impl Query {
    async fn run(self) {
        let deadline = Instant::now() + self.shared.config.deadline;
        let upstream = current(&self.shared.upstream);
        let name = &*self.place.name;
        let resolution = upstream.resolve(name, |outcome| self.publish(&upstream, &outcome));
        let outcome = tokio::select! {
            outcome = timeout_at(deadline, resolution) => {
                outcome.unwrap_or(Outcome::Failed(Error::Timeout))
            }
            () = self.gives_way.notified() => Outcome::Failed(Error::Busy),
        };
        let answered_early = self.sender.borrow().is_some();
        match outcome {
            // The early answer stands.
            Outcome::Failed(_) | Outcome::Absent { .. } if answered_early => return,
            Outcome::Failed(ref error) => {
                add_one(&self.shared.tally.failures);
                if *error == Error::Timeout {
                    add_one(&self.shared.tally.timeouts);
                }
                tracing::debug!(name, %error, "cannot resolve a name");
            }
            Outcome::Absent { .. } => add_one(&self.shared.tally.negative),
            Outcome::Found { .. } => {}
        }
        self.publish(&upstream, &outcome);
    }

    /// Stores `outcome` and wakes the waiters.
    fn publish(&self, upstream: &Arc<Upstream>, outcome: &Outcome) {
        // After a change of networks, the answers of the old servers may be wrong. One that gave way says nothing of its name.
        let is_known = *outcome != Outcome::Failed(Error::Busy);
        if is_known && Arc::ptr_eq(upstream, &current(&self.shared.upstream)) {
            lock(&self.shared.cache).store(&self.place.name, outcome, Instant::now());
        }
        self.sender.send_replace(Some(outcome.answer()));
    }
}

impl Drop for Query {
    fn drop(&mut self) {
        lock(&self.shared.cache).release(&self.place);
    }
}

/// Reads the hosts file and resolv.conf again if they have changed.
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
            tracing::info!(path = %shared.config.hosts_path.display(), "read the hosts file again");
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
                    tracing::info!(path = %shared.config.resolv_conf_path.display(), "read the resolver configuration again");
                }
                Err(error) => {
                    tracing::warn!(path = %shared.config.resolv_conf_path.display(), %error, "cannot use the new resolver configuration, keeping the old one")
                }
            }
        }
    });
    if let Err(error) = reading.await {
        tracing::warn!(%error, "cannot read the hosts file and resolver configuration again");
    }
}
