//! The plan: every workload, its scenario, and the implementations that take part.

use std::net::Ipv4Addr;
use std::time::Duration;

use ssr::crypto::Method;

use crate::context::Context;
use crate::link::Namespace;
use crate::measure::Figures;
use crate::name_server::NameServer;
use crate::process::file_limit;
use crate::proxy::Proxy;
use crate::result::Result;
use crate::route::Route;
use crate::running::{Running, Setup};
use crate::scenario::{DEFAULT, Scenario, WayIn};
use crate::start;
use crate::targets::Targets;
use crate::workloads::{allocations, dns, http, link, names, system_calls, tcp, udp};

/// A row of the plan.
pub(crate) struct Workload {
    pub(crate) name: String,
    task: Task,
    scenario: Scenario,
    pub(crate) proxies: &'static [Proxy],
    /// Left out by `--quick` unless it is named.
    pub(crate) slow: bool,
}

/// What is done.
#[derive(Clone, Copy, Debug)]
enum Task {
    Bulk {
        up: bool,
        streams: usize,
    },
    Connections,
    /// As many as a full room opens at once.
    ManyConnections,
    RoundTrip,
    RoundTripBesideBulk,
    PageBesideBulk,
    Idle,
    Datagrams {
        size: usize,
    },
    UdpSources {
        rate: usize,
    },
    Names,
    HttpRequests,
    CachedNames,
    Start,
    Size,
    SystemCalls,
    Allocations,
    FirstByte {
        server_speaks: bool,
    },
    /// The probability of a loss in hundredths.
    LinkBulk {
        loss: u8,
    },
    LinkPage {
        loss: u8,
    },
    ReverseLink,
}

const EVERYONE: &[Proxy] = &[
    Proxy::Ssr,
    Proxy::Rust,
    Proxy::Libev,
    Proxy::Haproxy,
    Proxy::Direct,
    Proxy::Unencrypted,
];
/// Shadowsocks implementations, with AEAD-2017.
const SHADOWSOCKS: &[Proxy] = &[Proxy::Ssr, Proxy::Rust, Proxy::Libev];
/// Those with AEAD-2022, which libev lacks.
const AEAD_2022: &[Proxy] = &[Proxy::Ssr, Proxy::Rust];
const ONLY_SSR: &[Proxy] = &[Proxy::Ssr];
const NOT_DIRECT: &[Proxy] = &[
    Proxy::Ssr,
    Proxy::Rust,
    Proxy::Libev,
    Proxy::Haproxy,
    Proxy::Unencrypted,
];
const PROGRAMS: &[Proxy] = &[Proxy::Ssr, Proxy::Rust, Proxy::Libev, Proxy::Haproxy];
const WITH_UDP: &[Proxy] = &[
    Proxy::Ssr,
    Proxy::Rust,
    Proxy::Libev,
    Proxy::Direct,
    Proxy::Unencrypted,
];
const OVER_LINK: &[Proxy] = &[
    Proxy::Ssr,
    Proxy::Rust,
    Proxy::Libev,
    Proxy::Haproxy,
    Proxy::Direct,
];
/// Those that speak WebSocket, and `ssr` without it for comparison.
const WEB_SOCKET: &[Proxy] = &[Proxy::Ssr, Proxy::Plugin, Proxy::Plain];
/// Those that make reverse tunnels; `ssr` and `noise` encrypt theirs.
const REVERSE: &[Proxy] = &[Proxy::Ssr, Proxy::Rathole, Proxy::Noise];
const REVERSE_OVER_LINK: &[Proxy] = &[Proxy::Ssr, Proxy::Rathole, Proxy::Noise, Proxy::Direct];
/// Those that forward one port to another.
const FORWARDERS: &[Proxy] = &[
    Proxy::Ssr,
    Proxy::Haproxy,
    Proxy::Splicing,
    Proxy::Socat,
    Proxy::Direct,
];
/// Forwarders that do not start a process for each connection.
const LIGHT_FORWARDERS: &[Proxy] = &[Proxy::Ssr, Proxy::Haproxy, Proxy::Splicing];

/// Those with ways in beside SOCKS5, and `ssr` with SOCKS5 for comparison.
const WAYS_IN: &[Proxy] = &[Proxy::Ssr, Proxy::Rust, Proxy::SingBox, Proxy::Plain];
/// The same where what SOCKS5 costs says nothing.
const KERNEL_WAYS_IN: &[Proxy] = &[Proxy::Ssr, Proxy::Rust, Proxy::SingBox];
/// Those that speak QUIC.
const QUIC: &[Proxy] = &[Proxy::Ssr, Proxy::Hysteria2, Proxy::Tuic];
const NAME_SERVERS: &[Proxy] = &[Proxy::Ssr, Proxy::Rust, Proxy::SingBox, Proxy::Dnsmasq];
/// Those with rules, and `ssr` without.
const WITH_RULES: &[Proxy] = &[Proxy::Ssr, Proxy::Rust, Proxy::Plain];

/// Where the targets are if the way to them is not by SOCKS.
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(10, 9, 9, 9);

/// UDP sources at once.
const SOURCES: usize = 2000;

/// Direction of a bulk stream, as a row's name shows it.
const DIRECTIONS: [(bool, &str); 2] = [(false, "down"), (true, "up")];

/// All workloads, in the order of the table.
pub(crate) fn workloads() -> Vec<Workload> {
    let mut plan = Plan(Vec::new());
    plan.shadowsocks();
    plan.web_socket();
    plan.quic();
    plan.reverse();
    plan.forward();
    plan.ways_in();
    plan.rules();
    plan.0
}

struct Plan(Vec<Workload>);

impl Plan {
    fn add(&mut self, name: &str, task: Task, scenario: Scenario, proxies: &'static [Proxy]) {
        let slow = match task {
            Task::SystemCalls => true,
            Task::UdpSources { rate } => rate < 20_000,
            // One method shows how streams share.
            Task::Bulk { streams, .. } => {
                streams > 8 || (streams > 1 && scenario.method() != DEFAULT)
            }
            Task::ManyConnections => true,
            _ => false,
        };
        self.0.push(Workload {
            name: name.to_owned(),
            task,
            scenario,
            proxies,
            slow,
        });
    }

    fn shadowsocks(&mut self) {
        let blake3 = Method::Blake3Aes256Gcm;
        let methods = [
            (DEFAULT, EVERYONE),
            (blake3, AEAD_2022),
            (Method::ChaCha20Poly1305, SHADOWSOCKS),
        ];
        for (method, proxies) in methods {
            for (up, direction) in DIRECTIONS {
                for streams in [1, 8] {
                    let name = format!("bulk-{direction}-{streams}/{method}");
                    let task = Task::Bulk { up, streams };
                    self.add(&name, task, Scenario::Shadowsocks(method), proxies);
                }
            }
        }
        for streams in [64, 512, 2000] {
            let name = format!("bulk-down-{streams}");
            let task = Task::Bulk { up: false, streams };
            self.add(&name, task, Scenario::SHADOWSOCKS, SHADOWSOCKS);
        }
        let first_byte = |server_speaks| Task::FirstByte { server_speaks };
        let with_default = [
            ("connections", Task::Connections, EVERYONE),
            ("many-connections", Task::ManyConnections, SHADOWSOCKS),
            ("round-trip", Task::RoundTrip, EVERYONE),
            (
                "round-trip-beside-bulk",
                Task::RoundTripBesideBulk,
                EVERYONE,
            ),
            ("page-beside-bulk", Task::PageBesideBulk, EVERYONE),
            ("idle", Task::Idle, NOT_DIRECT),
            ("udp-100", Task::Datagrams { size: 100 }, WITH_UDP),
            ("udp-1200", Task::Datagrams { size: 1200 }, WITH_UDP),
            ("udp-sources-5k", Task::UdpSources { rate: 5_000 }, WITH_UDP),
            (
                "udp-sources-20k",
                Task::UdpSources { rate: 20_000 },
                WITH_UDP,
            ),
            ("names", Task::Names, SHADOWSOCKS),
            ("first-byte-client-speaks", first_byte(false), OVER_LINK),
            ("first-byte-server-speaks", first_byte(true), OVER_LINK),
            ("link-bulk", Task::LinkBulk { loss: 1 }, OVER_LINK),
            ("link-page", Task::LinkPage { loss: 1 }, OVER_LINK),
            ("start", Task::Start, PROGRAMS),
            ("size", Task::Size, PROGRAMS),
            ("system-calls", Task::SystemCalls, PROGRAMS),
            ("allocations", Task::Allocations, ONLY_SSR),
        ];
        for (name, task, proxies) in with_default {
            self.add(name, task, Scenario::SHADOWSOCKS, proxies);
        }
        let with_blake3 = [
            ("connections", Task::Connections, AEAD_2022),
            ("round-trip", Task::RoundTrip, AEAD_2022),
            ("udp-1200", Task::Datagrams { size: 1200 }, AEAD_2022),
            (
                "udp-sources-20k",
                Task::UdpSources { rate: 20_000 },
                AEAD_2022,
            ),
            ("allocations", Task::Allocations, ONLY_SSR),
        ];
        for (name, task, proxies) in with_blake3 {
            let name = format!("{name}/{blake3}");
            self.add(&name, task, Scenario::Shadowsocks(blake3), proxies);
        }
    }

    fn web_socket(&mut self) {
        let mut add = |name: &str, task, proxies| {
            self.add(&format!("ws-{name}"), task, Scenario::WebSocket, proxies);
        };
        for (up, direction) in DIRECTIONS {
            let task = Task::Bulk { up, streams: 1 };
            add(&format!("bulk-{direction}-1"), task, WEB_SOCKET);
        }
        add("connections", Task::Connections, WEB_SOCKET);
        add("round-trip", Task::RoundTrip, WEB_SOCKET);
        add("idle", Task::Idle, &[Proxy::Ssr, Proxy::Plain]);
    }

    fn quic(&mut self) {
        let mut add = |name: &str, task| {
            self.add(&format!("quic-{name}"), task, Scenario::Quic, QUIC);
        };
        for (up, direction) in DIRECTIONS {
            for streams in [1, 8] {
                let task = Task::Bulk { up, streams };
                add(&format!("bulk-{direction}-{streams}"), task);
            }
        }
        add("connections", Task::Connections);
        add("udp-1200", Task::Datagrams { size: 1200 });
        add("idle", Task::Idle);
        let first_byte = |server_speaks| Task::FirstByte { server_speaks };
        add("first-byte-client-speaks", first_byte(false));
        add("first-byte-server-speaks", first_byte(true));
        for loss in [0, 2, 5] {
            add(&format!("link-bulk-{loss}"), Task::LinkBulk { loss });
            add(&format!("link-page-{loss}"), Task::LinkPage { loss });
        }
    }

    fn reverse(&mut self) {
        let mut add = |name: &str, task, proxies| {
            self.add(&format!("reverse-{name}"), task, Scenario::Reverse, proxies);
        };
        for (name, up, streams) in [
            ("bulk-down-1", false, 1),
            ("bulk-up-1", true, 1),
            ("bulk-down-8", false, 8),
        ] {
            add(name, Task::Bulk { up, streams }, REVERSE);
        }
        add("connections", Task::Connections, REVERSE);
        add("round-trip", Task::RoundTrip, REVERSE);
        add("idle", Task::Idle, REVERSE);
        add("link", Task::ReverseLink, REVERSE_OVER_LINK);
    }

    fn forward(&mut self) {
        let mut add = |name: &str, task, proxies| {
            self.add(&format!("forward-{name}"), task, Scenario::Forward, proxies);
        };
        for (up, direction) in DIRECTIONS {
            for streams in [1, 8] {
                let name = format!("bulk-{direction}-{streams}");
                add(&name, Task::Bulk { up, streams }, FORWARDERS);
            }
        }
        add("connections", Task::Connections, FORWARDERS);
        add("round-trip", Task::RoundTrip, FORWARDERS);
        add(
            "round-trip-beside-bulk",
            Task::RoundTripBesideBulk,
            LIGHT_FORWARDERS,
        );
        add("idle", Task::Idle, LIGHT_FORWARDERS);
    }
}

impl Plan {
    fn ways_in(&mut self) {
        let mut add = |name: &str, task, way, proxies| {
            self.add(name, task, Scenario::WayIn(way), proxies);
        };
        let down = |streams| Task::Bulk { up: false, streams };
        add("http-connect", Task::Connections, WayIn::Http, WAYS_IN);
        add("http-requests", Task::HttpRequests, WayIn::Http, WAYS_IN);
        let redir = WayIn::Redir;
        add("redir-bulk-down-1", down(1), redir, KERNEL_WAYS_IN);
        add("redir-bulk-down-8", down(8), redir, KERNEL_WAYS_IN);
        add(
            "redir-connections",
            Task::Connections,
            redir,
            KERNEL_WAYS_IN,
        );
        let tun = WayIn::Tun;
        add("tun-bulk-down-1", down(1), tun, KERNEL_WAYS_IN);
        let up = Task::Bulk {
            up: true,
            streams: 1,
        };
        add("tun-bulk-up-1", up, tun, KERNEL_WAYS_IN);
        let datagrams = Task::Datagrams { size: 1200 };
        add("tun-udp-1200", datagrams, tun, KERNEL_WAYS_IN);
        add("dns-cached", Task::CachedNames, WayIn::Dns, NAME_SERVERS);
    }

    fn rules(&mut self) {
        for count in [0, 10_000, 1_000_000] {
            let name = format!("rules-{count}");
            self.add(&name, Task::Connections, Scenario::Rules(count), WITH_RULES);
        }
    }
}

impl Workload {
    /// Whether it gives the same figures every time: then one round is enough.
    pub(crate) fn is_exact(&self) -> bool {
        matches!(
            self.task,
            Task::Size | Task::SystemCalls | Task::Allocations
        )
    }

    /// Whether implementations may run it at the same time: over the link all wait, and CPU limits nobody.
    pub(crate) fn at_once(&self) -> bool {
        matches!(
            self.task,
            Task::LinkBulk { .. } | Task::LinkPage { .. } | Task::ReverseLink
        )
    }

    /// Starts a fresh `proxy`, runs the workload once, and ends the proxy.
    pub(crate) fn run(&self, cx: &Context<'_>, proxy: Proxy, round: u64) -> Result<Figures> {
        let time = cx.either(Duration::from_secs(3), Duration::from_secs(10));
        match self.task {
            Task::Size => {
                let bytes = cx.programs.size(proxy)? as f64;
                return Ok(vec![("MiB", bytes / f64::from(1 << 20))]);
            }
            Task::FirstByte { server_speaks } => {
                return link::first_byte(cx, proxy, self.scenario, server_speaks);
            }
            Task::LinkBulk { loss } => {
                return link::bulk(cx, proxy, self.scenario, (loss, time), round);
            }
            Task::LinkPage { loss } => return link::page(cx, proxy, self.scenario, loss, round),
            Task::ReverseLink => return link::reverse(cx, proxy, time),
            _ => {}
        }
        // What closed connections leave behind for a minute slows down whoever comes next: with tens of thousands of
        // ports in TIME_WAIT every connect is a search. A network namespace for each run takes them along.
        match Namespace::loopback() {
            Ok(own) => {
                let far = self.far(&own)?;
                Ok(own.run(|| {
                    self.on_loopback(cx, proxy, far.as_ref())
                        .map_err(|error| error.to_string())
                })??)
            }
            Err(_) if self.is_elsewhere() => Err("needs root".into()),
            Err(_) => self.on_loopback(cx, proxy, None),
        }
    }

    /// Whether the targets have an address of their own.
    fn is_elsewhere(&self) -> bool {
        matches!(self.scenario, Scenario::WayIn(WayIn::Redir | WayIn::Tun))
    }

    /// Gives the targets their address. Packets for a device must lead to another namespace.
    fn far(&self, own: &Namespace) -> Result<Option<Namespace>> {
        let at = format!("addr add {ELSEWHERE}/32 dev lo");
        Ok(match self.scenario {
            Scenario::WayIn(WayIn::Redir) => {
                own.ip(&at)?;
                None
            }
            Scenario::WayIn(WayIn::Tun) => {
                let far = own.neighbour()?;
                far.ip(&at)?;
                Some(far)
            }
            _ => None,
        })
    }

    fn on_loopback(
        &self,
        cx: &Context<'_>,
        proxy: Proxy,
        far: Option<&Namespace>,
    ) -> Result<Figures> {
        let address = match self.is_elsewhere() {
            true => ELSEWHERE,
            false => Ipv4Addr::LOCALHOST,
        };
        let targets = &Targets::start(address, far)?;
        let name_server = match self.task {
            Task::Names | Task::CachedNames => Some(NameServer::start()?),
            _ => None,
        };
        let setup = Setup {
            proxy,
            scenario: self.scenario,
            targets: &[
                targets.source,
                targets.sink,
                targets.echo,
                targets.respond,
                targets.hold,
            ],
            name_server: name_server.as_ref().map(|server| server.address),
            link: None,
            far,
            counted: matches!(self.task, Task::Allocations),
            directory: &cx.directory(proxy),
        };
        let mut running = start::start(cx.programs, &setup)?;
        let figures = match &name_server {
            Some(server) => match running.route {
                Route::NameServer(at) => dns::cached(&running, at, server, cx.span()),
                _ => names::names(&running, targets, server, cx.span()),
            },
            None => self.measure(cx, targets, setup.directory, &running),
        };
        running.check()?;
        figures
    }

    fn measure(
        &self,
        cx: &Context<'_>,
        targets: &Targets,
        directory: &std::path::Path,
        running: &Running,
    ) -> Result<Figures> {
        let span = cx.span();
        match self.task {
            Task::Bulk { up, streams } => tcp::bulk(running, targets, up, streams, span),
            Task::Connections => tcp::connect_request_response(running, targets, 32, span),
            Task::ManyConnections => tcp::connect_request_response(running, targets, 1500, span),
            Task::HttpRequests => http::requests(running, targets, span),
            Task::RoundTrip => tcp::round_trip(running, targets, span),
            Task::RoundTripBesideBulk => tcp::beside_bulk(running, targets, span, tcp::round_trip),
            Task::PageBesideBulk => tcp::beside_bulk(running, targets, span, tcp::page),
            Task::Idle => {
                // A proxy has two files for each connection, and haproxy is set up for three.
                let most = (file_limit() / 3).saturating_sub(200) as usize;
                let most = match self.scenario {
                    // One connection has so many streams at most.
                    Scenario::Quic => most.min(1000),
                    _ => most,
                };
                tcp::idle(running, targets, most.min(cx.either(2000, 8000)))
            }
            Task::Datagrams { size } => udp::window(running, targets, size, span),
            Task::UdpSources { rate } => udp::sources(
                running,
                targets,
                SOURCES,
                rate,
                span.time.max(Duration::from_secs(1)),
            ),
            Task::Start => {
                let pair = running.processes.as_ref().ok_or("no process")?;
                Ok(vec![
                    ("local ms", pair.local_start.as_secs_f64() * 1e3),
                    ("server ms", pair.server_start.as_secs_f64() * 1e3),
                ])
            }
            Task::SystemCalls => system_calls::count(running, targets, directory),
            Task::Allocations => allocations::count(running, targets, directory),
            _ => Err("not a workload of the loopback".into()),
        }
    }
}
