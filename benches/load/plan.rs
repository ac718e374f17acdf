//! The works: what is done, with which method, by whom.

use std::net::Ipv4Addr;
use std::thread;
use std::time::Duration;

use crate::context::Context;
use crate::kind::Kind;
use crate::link::Namespace;
use crate::measure::Figures;
use crate::name_server::NameServer;
use crate::process::file_limit;
use crate::result::Result;
use crate::route::Target;
use crate::running::{Running, Setup};
use crate::scenario::{FORWARD, REVERSE, WEB_SOCKET};
use crate::start;
use crate::targets::Targets;
use crate::workloads::{allocations, link, system_calls, tcp, udp};

/// What is done.
#[derive(Clone, Copy, Debug)]
enum Task {
    Bulk { up: bool, streams: usize },
    Connections,
    RoundTrip,
    RoundTripBesideBulk,
    PageBesideBulk,
    Idle,
    Datagrams { size: usize },
    Sources { rate: usize },
    Names,
    Start,
    Size,
    Calls,
    Allocations,
    FirstByte { server_speaks: bool },
    LinkBulk,
    Page,
    Tunnel,
}

/// A row of the plan.
pub(crate) struct Work {
    pub(crate) name: String,
    task: Task,
    method: &'static str,
    pub(crate) kinds: &'static [Kind],
    /// Left out by `--quick` unless it is named.
    pub(crate) slow: bool,
}

const AES: &str = "aes-256-gcm";
const CHACHA: &str = "chacha20-ietf-poly1305";
const BLAKE: &str = "2022-blake3-aes-256-gcm";

const EVERYONE: &[Kind] = &[
    Kind::Ssr,
    Kind::Rust,
    Kind::Libev,
    Kind::Haproxy,
    Kind::Direct,
    Kind::Plain,
];
/// Those that make reverse tunnels; ours is encrypted, and one of theirs.
const TUNNELS: &[Kind] = &[Kind::Ssr, Kind::Rathole, Kind::Noise];
const TUNNELS_OVER_LINK: &[Kind] = &[Kind::Ssr, Kind::Rathole, Kind::Noise, Kind::Direct];
/// Those that speak WebSocket, and what it costs.
const WEB: &[Kind] = &[Kind::Ssr, Kind::Plugin, Kind::Tcp];
/// Those that carry one port to another.
const FORWARDERS: &[Kind] = &[
    Kind::Ssr,
    Kind::Haproxy,
    Kind::Splicing,
    Kind::Socat,
    Kind::Direct,
];
/// Those of them that do not start a process for a connection.
const LIGHT: &[Kind] = &[Kind::Ssr, Kind::Haproxy, Kind::Splicing];
/// Those that open and seal, by method: 2022 came after libev.
const SEALING: &[Kind] = &[Kind::Ssr, Kind::Rust, Kind::Libev];
const OURS: &[Kind] = &[Kind::Ssr];
const MODERN: &[Kind] = &[Kind::Ssr, Kind::Rust];
const PROXIES: &[Kind] = &[
    Kind::Ssr,
    Kind::Rust,
    Kind::Libev,
    Kind::Haproxy,
    Kind::Plain,
];
const PROGRAMS: &[Kind] = &[Kind::Ssr, Kind::Rust, Kind::Libev, Kind::Haproxy];
const DATAGRAMS: &[Kind] = &[
    Kind::Ssr,
    Kind::Rust,
    Kind::Libev,
    Kind::Direct,
    Kind::Plain,
];
const OVER_LINK: &[Kind] = &[
    Kind::Ssr,
    Kind::Rust,
    Kind::Libev,
    Kind::Haproxy,
    Kind::Direct,
];

/// UDP sources at once.
const SOURCES: usize = 2000;
/// Names that are resolved.
const NAMES: usize = 16;

/// All works, in the order of the table.
pub(crate) fn works() -> Vec<Work> {
    let mut works = Vec::new();
    let mut add = |name: String, task, method, kinds| {
        let slow = match task {
            Task::Calls => true,
            Task::Sources { rate } => rate < 20_000,
            // One method shows how streams share.
            Task::Bulk { streams, .. } => streams > 1 && ![AES, FORWARD, REVERSE].contains(&method),
            _ => false,
        };
        works.push(Work {
            name,
            task,
            method,
            kinds,
            slow,
        });
    };
    for (method, kinds) in [(AES, EVERYONE), (BLAKE, MODERN), (CHACHA, SEALING)] {
        for (up, way) in [(false, "down"), (true, "up")] {
            for streams in [1, 8] {
                let name = format!("bulk-{way}-{streams}/{method}");
                add(name, Task::Bulk { up, streams }, method, kinds);
            }
        }
    }
    let mut plain = |name: &str, task, kinds| add(name.to_owned(), task, AES, kinds);
    plain("connections", Task::Connections, EVERYONE);
    plain("round-trip", Task::RoundTrip, EVERYONE);
    plain(
        "round-trip-beside-bulk",
        Task::RoundTripBesideBulk,
        EVERYONE,
    );
    plain("page-beside-bulk", Task::PageBesideBulk, EVERYONE);
    plain("idle", Task::Idle, PROXIES);
    plain("udp-100", Task::Datagrams { size: 100 }, DATAGRAMS);
    plain("udp-1200", Task::Datagrams { size: 1200 }, DATAGRAMS);
    plain("udp-sources-5k", Task::Sources { rate: 5_000 }, DATAGRAMS);
    plain("udp-sources-20k", Task::Sources { rate: 20_000 }, DATAGRAMS);
    plain("names", Task::Names, SEALING);
    let speaks = |server_speaks| Task::FirstByte { server_speaks };
    plain("first-byte-client-speaks", speaks(false), OVER_LINK);
    plain("first-byte-server-speaks", speaks(true), OVER_LINK);
    plain("link-bulk", Task::LinkBulk, OVER_LINK);
    plain("link-page", Task::Page, OVER_LINK);
    plain("start", Task::Start, PROGRAMS);
    plain("size", Task::Size, PROGRAMS);
    plain("system-calls", Task::Calls, PROGRAMS);
    plain("allocations", Task::Allocations, OURS);
    let mut modern = |name: &str, task| add(format!("{name}/{BLAKE}"), task, BLAKE, MODERN);
    modern("connections", Task::Connections);
    modern("round-trip", Task::RoundTrip);
    modern("udp-1200", Task::Datagrams { size: 1200 });
    modern("udp-sources-20k", Task::Sources { rate: 20_000 });
    add(
        format!("allocations/{BLAKE}"),
        Task::Allocations,
        BLAKE,
        OURS,
    );
    let mut web = |name: &str, task| add(format!("ws-{name}"), task, WEB_SOCKET, WEB);
    for (up, way) in [(false, "down"), (true, "up")] {
        web(&format!("bulk-{way}-1"), Task::Bulk { up, streams: 1 });
    }
    web("connections", Task::Connections);
    web("round-trip", Task::RoundTrip);
    add(
        "ws-idle".to_owned(),
        Task::Idle,
        WEB_SOCKET,
        &[Kind::Ssr, Kind::Tcp],
    );
    let mut reverse = |name: &str, task| add(format!("reverse-{name}"), task, REVERSE, TUNNELS);
    for (up, way) in [(false, "down"), (true, "up")] {
        reverse(&format!("bulk-{way}-1"), Task::Bulk { up, streams: 1 });
    }
    reverse(
        "bulk-down-8",
        Task::Bulk {
            up: false,
            streams: 8,
        },
    );
    reverse("connections", Task::Connections);
    reverse("round-trip", Task::RoundTrip);
    reverse("idle", Task::Idle);
    add(
        "reverse-link".to_owned(),
        Task::Tunnel,
        REVERSE,
        TUNNELS_OVER_LINK,
    );
    let mut forward =
        |name: &str, task, kinds| add(format!("forward-{name}"), task, FORWARD, kinds);
    for (up, way) in [(false, "down"), (true, "up")] {
        for streams in [1, 8] {
            let name = format!("bulk-{way}-{streams}");
            forward(&name, Task::Bulk { up, streams }, FORWARDERS);
        }
    }
    forward("connections", Task::Connections, FORWARDERS);
    forward("round-trip", Task::RoundTrip, FORWARDERS);
    forward("round-trip-beside-bulk", Task::RoundTripBesideBulk, LIGHT);
    forward("idle", Task::Idle, LIGHT);
    works
}

impl Work {
    /// Whether it comes to the same every time: then once is enough.
    pub(crate) fn is_exact(&self) -> bool {
        matches!(self.task, Task::Size | Task::Calls | Task::Allocations)
    }

    /// Whether implementations may do it at the same time: over the lossy link all wait, and nobody's CPU is the limit.
    pub(crate) fn at_once(&self) -> bool {
        matches!(self.task, Task::LinkBulk | Task::Page | Task::Tunnel)
    }

    /// Starts `kind` fresh, does the work once, ends it.
    pub(crate) fn run(&self, cx: &Context<'_>, kind: Kind, round: u64) -> Result<Figures> {
        let time = cx.either(Duration::from_secs(3), Duration::from_secs(10));
        match self.task {
            Task::Size => {
                let bytes = cx.programs.size(kind)? as f64;
                return Ok(vec![("MiB", bytes / f64::from(1 << 20))]);
            }
            Task::FirstByte { server_speaks } => {
                return link::first_byte(cx, kind, self.method, server_speaks);
            }
            Task::LinkBulk => return link::bulk(cx, kind, self.method, time, round),
            Task::Page => return link::page(cx, kind, self.method, round),
            Task::Tunnel => return link::tunnel(cx, kind, time),
            _ => {}
        }
        // What closed connections leave behind for a minute is felt by whoever comes next: tens of thousands of ports
        // in TIME_WAIT make every connect a search. A namespace of its own takes it along.
        match Namespace::loopback() {
            Ok(own) => Ok(own.run(|| self.apart(cx, kind).map_err(|error| error.to_string()))??),
            Err(_) => self.apart(cx, kind),
        }
    }

    fn apart(&self, cx: &Context<'_>, kind: Kind) -> Result<Figures> {
        let targets = &Targets::start(Ipv4Addr::LOCALHOST, None)?;
        if matches!(self.task, Task::Names) {
            return self.names(cx, targets, kind);
        }
        let mut running = self.start(cx, targets, kind, None)?;
        let figures = self.on_loopback(cx, targets, kind, &running);
        match running.check() {
            Err(death) => Err(death),
            Ok(()) => figures,
        }
    }

    fn start(
        &self,
        cx: &Context<'_>,
        t: &Targets,
        kind: Kind,
        names: Option<&NameServer>,
    ) -> Result<Running> {
        let setup = Setup {
            kind,
            method: self.method,
            targets: &[t.source, t.sink, t.echo, t.respond, t.hold],
            name_server: names.map(|server| server.address),
            link: None,
            counted: matches!(self.task, Task::Allocations),
            directory: &cx.directory(kind),
        };
        start::start(cx.programs, &setup)
    }

    fn on_loopback(
        &self,
        cx: &Context<'_>,
        targets: &Targets,
        kind: Kind,
        running: &Running,
    ) -> Result<Figures> {
        let (span, directory) = (cx.span(), &cx.directory(kind));
        match self.task {
            Task::Bulk { up, streams } => tcp::bulk(running, targets, up, streams, span),
            Task::Connections => tcp::connect_request_response(running, targets, span),
            Task::RoundTrip => tcp::round_trip(running, targets, span),
            Task::RoundTripBesideBulk => tcp::beside_bulk(running, targets, span, tcp::round_trip),
            Task::PageBesideBulk => tcp::beside_bulk(running, targets, span, tcp::page),
            Task::Idle => {
                // A proxy has two files for each connection, and haproxy is set up for three.
                let most = (file_limit() / 3).saturating_sub(200) as usize;
                tcp::idle(running, targets, most.min(cx.either(2000, 8000)))
            }
            Task::Datagrams { size } => udp::window(running, targets, size, span),
            Task::Sources { rate } => udp::sources(
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
            Task::Calls => system_calls::count(running, targets, directory),
            Task::Allocations => allocations::count(running, targets, directory),
            _ => Err("not a work on loopback".into()),
        }
    }

    /// Short connections to names, of which there are few: what a cache of names is worth.
    fn names(&self, cx: &Context<'_>, targets: &Targets, kind: Kind) -> Result<Figures> {
        let server = NameServer::start()?;
        let mut running = self.start(cx, targets, kind, Some(&server))?;
        let port = targets.respond.port();
        let wanted: Vec<Target> = (0..NAMES)
            .map(|number| Target::Name(format!("host{number}.bench.example"), port))
            .collect();
        let interval = tcp::connections(&running, &wanted, 32, cx.span())?;
        // The last to be asked for may still be on their way.
        thread::sleep(Duration::from_millis(50));
        running.check()?;
        Ok(vec![
            ("conn/s", interval.count / interval.seconds),
            ("CPU us/conn", interval.cpu * 1e6 / interval.count),
            (
                "queries/1000 conn",
                server.queries() as f64 * 1e3 / interval.total,
            ),
        ])
    }
}
