//! What a process knows, for Prometheus. All is gathered when it is asked for: nothing is counted twice, and flows do nothing
//! for it.
//!
//! Where a metric of outline-ss-server means the same, its name is used, so that its dashboards work.

use std::collections::BTreeMap;
use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeGaugeValue, EncodeLabelSet, NoLabelSet, prometheus_text,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::facts::Facts;
use super::own;
use crate::net::pool;
use crate::outbound::shadowsocks::ServerState;
use crate::relay::users::{Limits, Usage};

pub use prometheus_text::CONTENT_TYPE;

/// Counters of outline-ss-server: their names have no `_total`.
const BARE: [&str; 4] = [
    "shadowsocks_data_bytes",
    "shadowsocks_tcp_connections_opened",
    "shadowsocks_udp_nat_entries_added",
    "shadowsocks_udp_nat_entries_removed",
];

/// All metrics, in the text format of Prometheus.
#[must_use]
pub fn text(facts: &Facts) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Gathered::new(facts)));
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = prometheus_text::encode(&mut text, &registry);
    bare_names(&text)
}

/// Takes `_total` away from the names of [`BARE`].
fn bare_names(text: &str) -> String {
    let mut bare = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        let start = ["# HELP ", "# TYPE "]
            .into_iter()
            .find(|start| line.starts_with(start))
            .unwrap_or_default();
        let rest = line.get(start.len()..).unwrap_or_default();
        let found = BARE.iter().find_map(|name| {
            let rest = rest.strip_prefix(name)?.strip_prefix("_total")?;
            rest.starts_with([' ', '{']).then_some((name, rest))
        });
        match found {
            None => bare.push_str(line),
            Some((name, rest)) => bare.extend([start, name, rest]),
        }
    }
    bare
}

/// What is known at one moment.
struct Gathered {
    role: &'static str,
    uptime: f64,
    ports: u64,
    numbers: BTreeMap<&'static str, u64>,
    payload: (u64, u64),
    failures: BTreeMap<&'static str, u64>,
    users: BTreeMap<Box<str>, OfUser>,
    dns: crate::dns::Counters,
    servers: Vec<ServerState>,
    own: own::Own,
    socket_memory: (u64, u64),
}

/// What users of one name have used, on all ports.
#[derive(Default)]
struct OfUser {
    usage: Usage,
    limits: Limits,
    is_refused: bool,
}

impl fmt::Debug for Gathered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Gathered")
    }
}

impl Gathered {
    fn new(facts: &Facts) -> Self {
        let mut users: BTreeMap<Box<str>, OfUser> = BTreeMap::new();
        for user in facts.counters.users.all() {
            // The only user of a server with one key has no name.
            let name = user.name().unwrap_or_default();
            let (sum, usage) = (users.entry(name.into()).or_default(), user.usage());
            sum.limits = user.limits();
            sum.is_refused |= user.refusal().is_some();
            let all = &mut sum.usage;
            all.up += usage.up;
            all.down += usage.down;
            all.period += usage.period;
            all.failures += usage.failures;
            all.last_seen = all.last_seen.max(usage.last_seen);
            all.tcp_now += usage.tcp_now;
            all.udp_now += usage.udp_now;
            all.ips_now += usage.ips_now;
        }
        let servers = facts.servers.as_ref();
        Self {
            role: facts.role,
            uptime: facts.started.elapsed().as_secs_f64(),
            ports: facts.counters.users.tables().len() as u64,
            numbers: facts.counters.numbers().into_iter().collect(),
            payload: facts.payload(),
            failures: facts.counters.failures(),
            users,
            dns: facts.dns.counters(),
            servers: servers.map_or_else(Vec::new, |servers| servers.now().states()),
            own: own::own(),
            socket_memory: own::socket_memory(),
        }
    }

    fn number(&self, name: &str) -> u64 {
        self.numbers.get(name).copied().unwrap_or(0)
    }
}

impl Collector for Gathered {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut page = Page(encoder);
        self.process(&mut page)?;
        self.traffic(&mut page)?;
        self.users(&mut page)?;
        self.dns(&mut page)?;
        self.servers(&mut page)?;
        self.memory(&mut page)
    }
}

impl Gathered {
    fn process(&self, page: &mut Page<'_>) -> fmt::Result {
        let version = [("version", env!("CARGO_PKG_VERSION"))];
        let name = "shadowsocks_build_info";
        page.gauges(name, "The version that runs", [(version, 1_u64)])?;
        let role = [("role", self.role)];
        page.gauges("ssr_role", "The role of the process", [(role, 1_u64)])?;
        page.gauge("ssr_uptime_seconds", "Time since the start", self.uptime)?;
        let own = &self.own;
        let cpu = own.cpu_seconds;
        page.count("process_cpu_seconds", "CPU time, user and system", cpu)?;
        let (resident, started) = (own.resident_bytes, own.started);
        page.gauge("process_resident_memory_bytes", "Memory present", resident)?;
        let (addresses, files) = (own.virtual_bytes, own.open_files);
        page.gauge("process_virtual_memory_bytes", "Virtual memory", addresses)?;
        page.gauge("process_open_fds", "Open files", files)?;
        let most = own.max_files.unwrap_or(u64::MAX) as f64;
        page.gauge("process_max_fds", "The most open files", most)?;
        page.gauge("process_threads", "Threads", own.threads)?;
        let help = "When the process was started, in seconds since 1970";
        page.gauge("process_start_time_seconds", help, started)
    }

    fn traffic(&self, page: &mut Page<'_>) -> fmt::Result {
        let help = "TCP connections accepted";
        let streams = self.number("streams");
        page.count("shadowsocks_tcp_connections_opened", help, streams)?;
        let now = self.number("streams_now");
        page.gauge("ssr_connections", "TCP connections now", now)?;
        let (all, now) = (self.number("associations"), self.number("associations_now"));
        let help = "UDP associations that began";
        page.count("shadowsocks_udp_nat_entries_added", help, all)?;
        let (help, ended) = ("UDP associations that ended", all.saturating_sub(now));
        page.count("shadowsocks_udp_nat_entries_removed", help, ended)?;
        page.gauge("ssr_udp_associations", "UDP associations now", now)?;
        let both = |(up, down)| [([("direction", "up")], up), ([("direction", "down")], down)];
        let help = "Payload: up is from clients, down is to clients";
        let bytes = both(self.payload);
        page.counts("ssr_payload_bytes", help, bytes)?;
        let datagrams = (self.number("datagrams_up"), self.number("datagrams_down"));
        let (help, datagrams) = ("Datagrams", both(datagrams));
        page.counts("ssr_datagrams", help, datagrams)?;
        let (help, lost) = ("Datagrams lost at a full socket", "datagrams_lost");
        page.count("ssr_datagrams_lost", help, self.number(lost))?;
        let help = "Connections and associations that failed, by cause";
        let failures = self.failures.iter();
        let failures = failures.map(|(cause, count)| ([("cause", *cause)], *count));
        page.counts("ssr_failures", help, failures)
    }

    fn users(&self, page: &mut Page<'_>) -> fmt::Result {
        let keys = self.users.len() as u64;
        page.gauge("shadowsocks_keys", "Users", keys)?;
        page.gauge("shadowsocks_ports", "Servers that listen", self.ports)?;
        let data = self.users.iter().flat_map(|(name, user)| {
            let labels = |dir| [("dir", dir), ("access_key", &**name)];
            [
                (labels("p>t"), user.usage.up),
                (labels("p<t"), user.usage.down),
            ]
        });
        let help = "Payload by user: p>t is to targets, p<t is from targets";
        page.counts("shadowsocks_data_bytes", help, data)?;
        let of = |get: fn(&Usage) -> u64| {
            let users = self.users.iter();
            users.map(move |(name, user)| ([("user", &**name)], get(&user.usage)))
        };
        let help = "TCP connections of a user now";
        page.gauges(
            "ssr_user_connections",
            help,
            of(|usage| usage.tcp_now.into()),
        )?;
        let help = "UDP associations of a user now";
        let now = of(|usage| usage.udp_now.into());
        page.gauges("ssr_user_udp_associations", help, now)?;
        let help = "Addresses of a user now";
        page.gauges("ssr_user_addresses", help, of(|usage| usage.ips_now.into()))?;
        let help = "Requests of a user that failed or were refused";
        page.counts("ssr_user_failures", help, of(|usage| usage.failures))?;
        let help = "When a user was last active, in seconds since 1970; 0: never";
        let seen = of(|usage| usage.last_seen);
        page.gauges("ssr_user_last_seen_timestamp_seconds", help, seen)?;
        let limited = self.users.iter().filter_map(|(name, user)| {
            let (quota, _) = user.limits.quota?;
            Some(([("user", &**name)], quota, user.usage.period))
        });
        let quotas = limited.clone().map(|(name, quota, _)| (name, quota));
        page.gauges("ssr_user_quota_bytes", "What a period may have", quotas)?;
        let used = limited.map(|(name, _, used)| (name, used));
        let help = "Bytes of the period of the quota";
        page.gauges("ssr_user_period_bytes", help, used)?;
        let refused = self.users.iter();
        let refused = refused.map(|(name, user)| ([("user", &**name)], u64::from(user.is_refused)));
        let help = "1: the quota or the time of a user is over";
        page.gauges("ssr_user_refused", help, refused)
    }

    fn dns(&self, page: &mut Page<'_>) -> fmt::Result {
        let dns = &self.dns;
        page.gauge("ssr_dns_cache_entries", "Names in the cache", dns.entries)?;
        let results = [
            ([("result", "hit")], dns.hits),
            ([("result", "miss")], dns.misses),
            ([("result", "joined")], dns.joined),
        ];
        let help = "Lookups: answered at once, by a query, by the query of another";
        page.counts("ssr_dns_lookups", help, results)?;
        let (help, stale) = ("Answers past their TTL", dns.stale);
        page.count("ssr_dns_stale_answers", help, stale)?;
        let (help, queries) = ("Questions to name servers", dns.queries);
        page.count("ssr_dns_queries", help, queries)?;
        let (help, failures) = ("Queries without an answer", dns.failures);
        page.count("ssr_dns_failures", help, failures)?;
        let (help, timeouts) = ("Those that took too long", dns.timeouts);
        page.count("ssr_dns_timeouts", help, timeouts)?;
        let (help, evicted) = ("Names that made room in the cache", dns.evicted);
        page.count("ssr_dns_cache_evictions", help, evicted)
    }

    fn servers(&self, page: &mut Page<'_>) -> fmt::Result {
        fn of<T>(
            servers: &[ServerState],
            get: impl Fn(&ServerState) -> Option<T>,
        ) -> impl Iterator<Item = ([(&str, &str); 2], T)> {
            let all = servers.iter();
            all.filter_map(move |one| {
                let labels = [("server", &*one.name), ("address", &*one.address)];
                get(one).map(|value| (labels, value))
            })
        }
        let all = &self.servers;
        let help = "1: the server works, as far as is known";
        let up = of(all, |one| Some(u64::from(!one.has_failed)));
        page.gauges("ssr_server_up", help, up)?;
        let next = of(all, |one| Some(u64::from(one.is_next)));
        page.gauges("ssr_server_active", "1: it is used next", next)?;
        let latency = of(all, |one| one.latency.map(|time| time.as_secs_f64()));
        let help = "The median of its probes, or the time to connect to it";
        page.gauges("ssr_server_latency_seconds", help, latency)?;
        let streams = of(all, |one| one.streams.map(|count| count as u64));
        page.gauges("ssr_server_connections", "Connections now", streams)?;
        let failures = of(all, |one| Some(one.failures));
        page.counts("ssr_server_failures", "How often it failed", failures)
    }

    fn memory(&self, page: &mut Page<'_>) -> fmt::Result {
        let (used, most) = (pool::in_use() as u64, pool::budget() as u64);
        page.gauge("ssr_buffer_bytes", "Memory of buffers in use", used)?;
        page.gauge("ssr_buffer_limit_bytes", "The most of it", most)?;
        let (tcp, udp) = self.socket_memory;
        let kernel = [([("protocol", "tcp")], tcp), ([("protocol", "udp")], udp)];
        let help = "Kernel memory of all sockets of this network namespace";
        page.gauges("ssr_kernel_socket_memory_bytes", help, kernel)
    }
}

/// Where metrics are written.
struct Page<'a>(DescriptorEncoder<'a>);

impl Page<'_> {
    fn gauge(&mut self, name: &str, help: &str, value: impl EncodeGaugeValue) -> fmt::Result {
        let kind = MetricType::Gauge;
        let mut metric = self.0.encode_descriptor(name, help, None, kind)?;
        metric.encode_gauge(&value)
    }

    fn gauges<S: EncodeLabelSet, V: EncodeGaugeValue>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (S, V)>,
    ) -> fmt::Result {
        let kind = MetricType::Gauge;
        let mut metric = self.0.encode_descriptor(name, help, None, kind)?;
        for (labels, value) in values {
            metric.encode_family(&labels)?.encode_gauge(&value)?;
        }
        Ok(())
    }

    fn count(
        &mut self,
        name: &str,
        help: &str,
        value: impl prometheus_client::encoding::EncodeCounterValue,
    ) -> fmt::Result {
        let kind = MetricType::Counter;
        let mut metric = self.0.encode_descriptor(name, help, None, kind)?;
        metric.encode_counter::<NoLabelSet, _, u64>(&value, None)
    }

    fn counts<S: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (S, u64)>,
    ) -> fmt::Result {
        let kind = MetricType::Counter;
        let mut metric = self.0.encode_descriptor(name, help, None, kind)?;
        for (labels, value) in values {
            let mut one = metric.encode_family(&labels)?;
            one.encode_counter::<NoLabelSet, _, u64>(&value, None)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_names_of_outline_lose_their_ending() {
        let text = "# HELP shadowsocks_data_bytes_total x\n\
                    # TYPE shadowsocks_data_bytes_total counter\n\
                    shadowsocks_data_bytes_total{access_key=\"shadowsocks_data_bytes_total \"} 1\n\
                    ssr_datagrams_total 2\n";
        let bare = "# HELP shadowsocks_data_bytes x\n\
                    # TYPE shadowsocks_data_bytes counter\n\
                    shadowsocks_data_bytes{access_key=\"shadowsocks_data_bytes_total \"} 1\n\
                    ssr_datagrams_total 2\n";
        assert_eq!(bare_names(text), bare);
    }
}
