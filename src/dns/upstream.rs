//! Asks the name servers, through hickory.
//!
//! # The course of a question
//!
//! 1. The name becomes one or more candidates by the search list, as getaddrinfo(3) has it.
//! 2. Each candidate is asked for as A and AAAA at once. When one has come, the other has [`RESOLUTION_DELAY`] to come
//!    too; after that the answer goes out as it is, and is completed when the rest arrives.
//! 3. Each record type is asked of one server; of the next one too when that is silent for [`HEDGE`] or fails.
//!
//! Every server has a hickory resolver of its own: hickory's pool would end a query with the first server that says
//! SERVFAIL or REFUSED, and spend the whole timeout on silent ones.

use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ProtocolConfig, ResolveHosts, ResolverConfig,
};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use hickory_resolver::{TlsConfig, TokioResolver};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::cache::{MAX_PENDING, Outcome};
use super::source::{Server, Source, Transport};
use super::{Config, Error, arrange, source, system};
use crate::net::sync::lock;

/// How long the first of A and AAAA waits for the second, RFC 8305 §3.
const RESOLUTION_DELAY: Duration = Duration::from_millis(50);

/// How long a server may be silent before the next is asked too. Longer than a distant resolver takes for a name that it
/// has to look up itself, shorter than a person takes for a fault.
const HEDGE: Duration = Duration::from_millis(400);

/// For how long a server that was silent or could not be reached is asked last.
const DEMOTION: Duration = Duration::from_secs(30);

/// Search domains used, as in the glibc that most lists were written for. With the deadline it bounds what a made-up
/// name can cost.
const MAX_SEARCH: usize = 6;

/// Addresses kept of one record type. An answer by TCP may carry thousands; nobody dials them.
const MAX_ADDRESSES: usize = 32;

/// What one question, one record type of one name, came to.
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

/// One server, and how it behaved.
struct NameServer {
    resolver: TokioResolver,
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
    /// Makes ready to ask the servers of `config`; nothing is sent yet. `tls` says which certificates are trusted,
    /// `queries` counts the questions.
    ///
    /// # Errors
    ///
    /// [`Error::Source`] when the source is not usable.
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
            .map(|server| name_server(server, tls, config.deadline));
        let servers = servers.collect::<Result<_, _>>()?;
        Ok(Self {
            servers,
            search,
            ndots,
            ipv6_first: config.ipv6_first,
            queries,
        })
    }

    /// Resolves `name`. May call `early` with addresses that are good but not yet all; what is returned replaces them.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future abandons its questions.
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

    /// The names that `name` may mean, in the order of getaddrinfo(3): a final dot means exactly this one, fewer than
    /// `ndots` dots mean that the search list comes first.
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

    /// Asks for A and AAAA of `name` at once.
    async fn resolve_exactly(&self, name: Name, early: &mut impl FnMut(Outcome)) -> Outcome {
        type Asking<'a> = Pin<&'a mut (dyn Future<Output = Reply> + Send)>;
        let four = pin!(self.ask(name.clone(), RecordType::A));
        let six = pin!(self.ask(name, RecordType::AAAA));
        let (mut four, mut six): (Asking<'_>, Asking<'_>) = (four, six);
        let (first, mut rest) = tokio::select! {
            reply = &mut four => (reply, six),
            reply = &mut six => (reply, four),
        };
        match &first {
            Reply::Found { .. } => match timeout(RESOLUTION_DELAY, rest.as_mut()).await {
                Ok(second) => self.outcome([first, second]),
                Err(_late) => {
                    early(self.outcome([first.clone()]));
                    self.outcome([first, rest.await])
                }
            },
            // It does not exist for the other type either (RFC 2308 §5), but some servers say so of AAAA alone.
            Reply::Absent { nxdomain: true, .. } => {
                match timeout(RESOLUTION_DELAY, rest.as_mut()).await {
                    Ok(second) => self.outcome([first, second]),
                    Err(_late) => self.outcome([first]),
                }
            }
            _ => self.outcome([first, rest.await]),
        }
    }

    /// What the replies to A and AAAA mean together.
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
        // Which reply came first must not show.
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

    /// Asks one question, of as many servers as it takes.
    async fn ask(&self, name: Name, kind: RecordType) -> Reply {
        let mut waiting = self.order(Instant::now()).into_iter();
        let mut asked: JoinSet<(usize, Reply)> = JoinSet::new();
        let mut silent: Vec<usize> = Vec::new();
        let mut failure = None;
        loop {
            if let Some((index, server)) = waiting.next() {
                self.queries.fetch_add(1, Ordering::Relaxed);
                let (resolver, name) = (server.resolver.clone(), name.clone());
                asked.spawn(Box::pin(async move {
                    (index, reply(resolver.lookup(name, kind).await))
                }));
                silent.push(index);
            }
            let done = tokio::select! {
                done = asked.join_next() => done,
                () = sleep(HEDGE), if waiting.len() > 0 => continue,
            };
            match done {
                Some(Ok((index, Reply::Failed(error)))) => {
                    silent.retain(|&other| other != index);
                    // An error code may be about this name alone, and others may be known to this server only.
                    if !matches!(error, Error::Busy | Error::ServerFailure(_)) {
                        self.demote([index]);
                    }
                    failure = Some(error);
                }
                Some(Ok((index, reply))) => {
                    // Those asked later had less time: only what was asked before the winner is slow.
                    self.demote(silent.into_iter().take_while(|&other| other != index));
                    return reply;
                }
                Some(Err(_panicked)) => {}
                None => return Reply::Failed(failure.unwrap_or(Error::Timeout)),
            }
        }
    }

    /// The servers in the order to ask them: as configured, but those that did badly of late come last.
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

/// A hickory resolver for one server, with everything off that is done here.
fn name_server(
    config: NameServerConfig,
    tls: &TlsConfig,
    deadline: Duration,
) -> Result<Arc<NameServer>, Error> {
    let ip = config.ip;
    let config = ResolverConfig::from_name_servers(vec![config]);
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
        .with_tls_config(tls.config.clone());
    let options = builder.options_mut();
    options.cache_size = 0;
    options.use_hosts_file = ResolveHosts::Never;
    // UDP is retransmitted within the timeout; other servers are tried by `Upstream::ask`.
    options.timeout = deadline;
    options.attempts = 0;
    options.edns0 = true;
    options.max_active_requests = 2 * MAX_PENDING;
    let resolver = builder
        .build()
        .map_err(|error| Error::Source(format!("name server {ip}: {error}")))?;
    Ok(Arc::new(NameServer {
        resolver,
        demoted_until: Mutex::new(None),
    }))
}

/// What hickory's answer means.
fn reply(result: Result<Lookup, NetError>) -> Reply {
    let lookup = match result {
        Ok(lookup) => lookup,
        Err(NetError::Dns(DnsError::NoRecordsFound(none))) => {
            // A referral instead of an answer: the server does not resolve for us.
            if none.response_code == ResponseCode::NoError
                && none.soa.is_none()
                && none.ns.is_some()
            {
                return Reply::Failed(Error::ServerFailure("a referral"));
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
        Err(error) => return Reply::Failed(Error::Unreachable(error.to_string().into())),
    };
    let (mut addresses, mut ttl) = (Vec::new(), u32::MAX);
    for record in lookup.answers() {
        match &record.data {
            RData::A(a) => addresses.push(IpAddr::V4(a.0)),
            RData::AAAA(aaaa) => addresses.push(IpAddr::V6(aaaa.0)),
            // An alias that has expired may point elsewhere.
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

/// Of two candidates' outcomes without addresses, the one to report: trouble hides what there may be, and a name that
/// exists says more than one that does not.
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
