//! Queries the name servers, through hickory.
//!
//! # Steps of a query
//!
//! 1. The search list turns the name into one or more candidates, as getaddrinfo(3) does.
//! 2. For each candidate, A and AAAA are queried together. When one has arrived, the other has [`RESOLUTION_DELAY`] to
//!    arrive; after that the answer goes out as it is, and is completed when the rest arrives.
//! 3. Each record type is queried from one server, and also from the next when that fails or is silent for
//!    [`HEDGE_DELAY`].
//!
//! Every server has its own hickory resolver: hickory's pool would end a query at the first server that answers SERVFAIL
//! or REFUSED, and spend the whole timeout on silent servers.

use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ProtocolConfig, ResolveHosts, ResolverConfig,
};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use hickory_resolver::{Resolver, TlsConfig};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::answer::{Error, arrange};
use super::cache::Outcome;
use super::config::Config;
use super::sockets::Sockets;
use super::source::{self, Server, Source, Transport};
use super::system;
use crate::limits::{MAX_ADDRESSES, MAX_PENDING};
use crate::net::sync::lock;

/// How long the first of A and AAAA waits for the second (RFC 8305 §3).
const RESOLUTION_DELAY: Duration = Duration::from_millis(50);

/// How long a server may be silent before the next is queried too. Longer than a distant resolver needs for a name that
/// it has to look up itself; shorter than a delay that people notice as a fault.
const HEDGE_DELAY: Duration = Duration::from_millis(400);

/// How long a server that was silent or unreachable is queried last.
const DEMOTION: Duration = Duration::from_secs(30);

/// Most search domains used, as in glibc. With the deadline it limits the cost of a made-up name.
const MAX_SEARCH: usize = 6;

/// The reply to one question: one record type of one name.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Reply {
    Found {
        addresses: Vec<IpAddr>,
        ttl: Duration,
    },
    Absent {
        nxdomain: bool,
        ttl: Option<Duration>,
    },
    Failed(Error),
}

/// One server, and whether it is demoted.
struct NameServer {
    resolver: Resolver<Sockets>,
    demoted_until: Mutex<Option<Instant>>,
}

impl NameServer {
    fn demote(&self, now: Instant) {
        *lock(&self.demoted_until) = Some(now + DEMOTION);
    }

    fn is_demoted(&self, now: Instant) -> bool {
        lock(&self.demoted_until).is_some_and(|until| now < until)
    }
}

/// The name servers of one configuration.
pub(super) struct Upstream {
    servers: Vec<Arc<NameServer>>,
    search: Vec<Name>,
    ndots: usize,
    ipv6_first: bool,
    queries: Arc<AtomicU64>,
}

impl Upstream {
    /// Sets up the servers of `config`; sends nothing yet. `tls` says which certificates are trusted, `queries` counts the
    /// questions.
    ///
    /// # Errors
    ///
    /// [`Error::Source`] when the source cannot be used.
    pub(super) fn new(
        config: &Config,
        tls: &TlsConfig,
        queries: Arc<AtomicU64>,
    ) -> Result<Self, Error> {
        let (resolver, ndots) = match &config.source {
            Source::System => system::read(&config.resolv_conf_path),
            Source::Servers(servers) => (
                ResolverConfig::from_name_servers(servers.iter().map(Server::to_hickory).collect()),
                1,
            ),
            Source::Hickory(value) => (source::hickory(value)?, 1),
        };
        let (domain, mut search, servers) = resolver.into_parts();
        if search.is_empty() {
            search.extend(domain);
        }
        search.truncate(MAX_SEARCH);
        let servers = servers
            .into_iter()
            .map(|server| name_server(server, tls, config));
        let servers = servers.collect::<Result<_, _>>()?;
        Ok(Self {
            servers,
            search,
            ndots,
            ipv6_first: config.ipv6_first,
            queries,
        })
    }

    /// Resolves `name`. May call `early` with addresses that are valid but not yet all; the returned outcome replaces them.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future cancels its questions.
    pub(super) async fn resolve(&self, name: &str, mut early: impl FnMut(Outcome)) -> Outcome {
        let Some(candidates) = self.candidates(name) else {
            return Outcome::Failed(Error::InvalidName);
        };
        let mut worst = None;
        for candidate in candidates {
            match self.resolve_exactly(candidate, &mut early).await {
                outcome @ Outcome::Absent { .. }
                | outcome @ Outcome::Failed(Error::ServerFailure(_)) => {
                    worst = Some(match worst {
                        Some(worst) => least_certain(worst, outcome),
                        None => outcome,
                    });
                }
                outcome => return outcome,
            }
        }
        worst.unwrap_or(Outcome::Failed(Error::InvalidName))
    }

    /// The names to try for `name`, in the order of getaddrinfo(3): with a final dot only that name, with fewer than
    /// `ndots` dots the search list first.
    fn candidates(&self, name: &str) -> Option<Vec<Name>> {
        let name = Name::from_str_relaxed(name).ok()?;
        let mut exact = name.clone();
        exact.set_fqdn(true);
        if name.is_fqdn() {
            return Some(vec![exact]);
        }
        let mut candidates: Vec<Name> = self
            .search
            .iter()
            .filter_map(|domain| name.clone().append_domain(domain).ok())
            .collect();
        let at = if usize::from(name.num_labels()) > self.ndots {
            0
        } else {
            candidates.len()
        };
        candidates.insert(at, exact);
        Some(candidates)
    }

    /// Queries A and AAAA of `name` together.
    async fn resolve_exactly(&self, name: Name, early: &mut impl FnMut(Outcome)) -> Outcome {
        type Question<'a> = Pin<&'a mut (dyn Future<Output = Reply> + Send)>;
        let a = pin!(self.query(name.clone(), RecordType::A));
        let aaaa = pin!(self.query(name, RecordType::AAAA));
        let (mut a, mut aaaa): (Question<'_>, Question<'_>) = (a, aaaa);
        let (first, mut rest) = tokio::select! {
            reply = &mut a => (reply, aaaa),
            reply = &mut aaaa => (reply, a),
        };
        match &first {
            Reply::Found { .. } => match timeout(RESOLUTION_DELAY, rest.as_mut()).await {
                Ok(second) => self.outcome([first, second]),
                Err(_late) => {
                    early(self.outcome([first.clone()]));
                    self.outcome([first, rest.await])
                }
            },
            // The name does not exist for the other type either (RFC 2308 §5), but some servers claim this for AAAA only.
            Reply::Absent { nxdomain: true, .. } => {
                match timeout(RESOLUTION_DELAY, rest.as_mut()).await {
                    Ok(second) => self.outcome([first, second]),
                    Err(_late) => self.outcome([first]),
                }
            }
            _ => self.outcome([first, rest.await]),
        }
    }

    /// Combines the replies to A and AAAA.
    fn outcome<const N: usize>(&self, replies: [Reply; N]) -> Outcome {
        let (mut all, mut shortest) = (Vec::new(), Duration::MAX);
        let (mut failure, mut exists, mut denial) = (None, false, None);
        for reply in replies {
            match reply {
                Reply::Found { addresses, ttl } => {
                    all.extend(addresses);
                    shortest = shortest.min(ttl);
                }
                Reply::Absent { nxdomain, ttl } => {
                    exists |= !nxdomain;
                    denial = denial.into_iter().chain(ttl).min();
                }
                Reply::Failed(error) => failure = failure.or(Some(error)),
            }
        }
        // The order must not depend on which reply came first.
        all.sort_by_key(IpAddr::is_ipv6);
        let all = arrange(all, self.ipv6_first);
        match failure {
            _ if !all.is_empty() => Outcome::Found {
                addresses: all.into(),
                ttl: shortest,
            },
            Some(error) => Outcome::Failed(error),
            None if exists || shortest != Duration::MAX => Outcome::Absent {
                error: Error::NoAddress,
                ttl: denial,
            },
            None => Outcome::Absent {
                error: Error::NoSuchName,
                ttl: denial,
            },
        }
    }

    /// Sends one question to one server after another until one answers.
    async fn query(&self, name: Name, kind: RecordType) -> Reply {
        let mut waiting = self.order(Instant::now()).into_iter();
        let mut questions: JoinSet<(usize, Reply)> = JoinSet::new();
        let mut silent: Vec<usize> = Vec::new();
        let mut failure = None;
        loop {
            if let Some((index, server)) = waiting.next() {
                self.queries.fetch_add(1, Ordering::Relaxed);
                let (resolver, name) = (server.resolver.clone(), name.clone());
                questions.spawn(Box::pin(async move {
                    (index, reply(resolver.lookup(name, kind).await))
                }));
                silent.push(index);
            }
            let done = tokio::select! {
                done = questions.join_next() => done,
                () = sleep(HEDGE_DELAY), if waiting.len() > 0 => continue,
            };
            match done {
                Some(Ok((index, Reply::Failed(error)))) => {
                    silent.retain(|&other| other != index);
                    // An error code may concern this name alone, and this server may be the only one to know others.
                    if !matches!(error, Error::Busy | Error::ServerFailure(_)) {
                        self.demote([index]);
                    }
                    failure = Some(error);
                }
                Some(Ok((index, reply))) => {
                    // Servers queried after this one had less time: only those queried before it were slow.
                    self.demote(silent.into_iter().take_while(|&other| other != index));
                    return reply;
                }
                Some(Err(_panicked)) => {}
                None => return Reply::Failed(failure.unwrap_or(Error::Timeout)),
            }
        }
    }

    /// The servers in the order to query them: as configured, but with demoted ones last.
    fn order(&self, now: Instant) -> Vec<(usize, Arc<NameServer>)> {
        let mut order: Vec<_> = self.servers.iter().cloned().enumerate().collect();
        order.sort_by_cached_key(|(_, server)| server.is_demoted(now));
        order
    }

    fn demote(&self, indexes: impl IntoIterator<Item = usize>) {
        let now = Instant::now();
        for server in indexes
            .into_iter()
            .filter_map(|index| self.servers.get(index))
        {
            server.demote(now);
        }
    }
}

impl Server {
    fn to_hickory(&self) -> NameServerConfig {
        let protocols = match &self.transport {
            Transport::UdpTcp => vec![ProtocolConfig::Udp, ProtocolConfig::Tcp],
            Transport::Udp => vec![ProtocolConfig::Udp],
            Transport::Tcp => vec![ProtocolConfig::Tcp],
            Transport::Tls { server_name } => vec![ProtocolConfig::Tls {
                server_name: server_name.as_str().into(),
            }],
            Transport::Https { server_name, path } => {
                vec![ProtocolConfig::Https {
                    server_name: server_name.as_str().into(),
                    path: path.as_str().into(),
                }]
            }
        };
        let connection = |protocol| {
            let mut connection = ConnectionConfig::new(protocol);
            connection.port = self.address.port();
            connection
        };
        NameServerConfig::new(
            self.address.ip(),
            true,
            protocols.into_iter().map(connection).collect(),
        )
    }
}

/// Makes a hickory resolver for one server, with everything off that this module does itself.
fn name_server(
    server: NameServerConfig,
    tls: &TlsConfig,
    settings: &Config,
) -> Result<Arc<NameServer>, Error> {
    let ip = server.ip;
    let config = ResolverConfig::from_name_servers(vec![server]);
    let mut builder = Resolver::builder_with_config(config, Sockets::new(settings.mark))
        .with_tls_config(tls.config.clone());
    let options = builder.options_mut();
    options.cache_size = 0;
    options.use_hosts_file = ResolveHosts::Never;
    // hickory retransmits UDP within the timeout; `Upstream::query` tries other servers.
    options.timeout = settings.deadline;
    options.attempts = 0;
    options.edns0 = true;
    // Two for each name, and as many again of those that have just given way.
    options.max_active_requests = 4 * MAX_PENDING;
    let resolver = builder
        .build()
        .map_err(|error| Error::Source(format!("name server {ip}: {}", reason(&error))))?;
    Ok(Arc::new(NameServer {
        resolver,
        demoted_until: Mutex::new(None),
    }))
}

/// Says why a server could not be queried. Some errors of rustls and hickory would print their `Debug` form.
fn reason(error: &NetError) -> String {
    match error {
        NetError::Io(error)
            if error
                .get_ref()
                .is_some_and(|inner| inner.is::<rustls::Error>()) =>
        {
            "TLS failed".to_owned()
        }
        NetError::NoConnections => {
            "every connection failed (network, TLS or certificate)".to_owned()
        }
        NetError::Proto(_) | NetError::Dns(_) => "the answer was malformed".to_owned(),
        error => error.to_string(),
    }
}

/// Translates hickory's answer.
fn reply(result: Result<Lookup, NetError>) -> Reply {
    let lookup = match result {
        Ok(lookup) => lookup,
        Err(NetError::Dns(DnsError::NoRecordsFound(none))) => {
            // A referral instead of an answer: the server does not do recursion for us.
            if none.response_code == ResponseCode::NoError
                && none.soa.is_none()
                && none.ns.is_some()
            {
                return Reply::Failed(Error::ServerFailure("a referral to another server"));
            }
            let ttl = none
                .negative_ttl
                .map(|seconds| Duration::from_secs(seconds.into()));
            return Reply::Absent {
                nxdomain: none.response_code == ResponseCode::NXDomain,
                ttl,
            };
        }
        Err(NetError::Dns(DnsError::ResponseCode(code))) => {
            return Reply::Failed(Error::ServerFailure(code.to_str()));
        }
        Err(NetError::Busy) => return Reply::Failed(Error::Busy),
        Err(NetError::Timeout) => return Reply::Failed(Error::Timeout),
        Err(error) => return Reply::Failed(Error::Unreachable(reason(&error).into())),
    };
    let (mut addresses, mut ttl) = (Vec::new(), u32::MAX);
    for record in lookup.answers() {
        match &record.data {
            RData::A(a) => addresses.push(IpAddr::V4(a.0)),
            RData::AAAA(aaaa) => addresses.push(IpAddr::V6(aaaa.0)),
            // An alias adds no address, but limits the TTL: once expired, it may point elsewhere.
            RData::CNAME(_) => {}
            _ => continue,
        }
        ttl = ttl.min(record.ttl);
    }
    addresses.truncate(MAX_ADDRESSES);
    if addresses.is_empty() {
        return Reply::Absent {
            nxdomain: false,
            ttl: None,
        };
    }
    Reply::Found {
        addresses,
        ttl: Duration::from_secs(ttl.into()),
    }
}

/// Returns the one to report of two outcomes without addresses. A failure comes first, since it may hide addresses, then a
/// name that exists, then one that does not.
fn least_certain(one: Outcome, other: Outcome) -> Outcome {
    let rank = |outcome: &Outcome| match outcome {
        Outcome::Found { .. } | Outcome::Failed(_) => 2,
        Outcome::Absent {
            error: Error::NoAddress,
            ..
        } => 1,
        Outcome::Absent { .. } => 0,
    };
    let (kept, left) = if rank(&other) > rank(&one) {
        (other, one)
    } else {
        (one, other)
    };
    match (kept, left) {
        (Outcome::Absent { error, ttl }, Outcome::Absent { ttl: other, .. }) => Outcome::Absent {
            error,
            ttl: ttl.into_iter().chain(other).min(),
        },
        (kept, _) => kept,
    }
}
