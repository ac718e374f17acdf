//! Workloads over a slow link: client and local at the near end, server and target at the far end.

use std::io::Read as _;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant};

use crate::client::{Flows, request};
use crate::context::Context;
use crate::goals::STALLED;
use crate::link::{self, Link, Shape};
use crate::measure::Figures;
use crate::proxy::Proxy;
use crate::result::Result;
use crate::route::{Route, Target};
use crate::running::{Running, Setup};
use crate::scenario::Scenario;
use crate::start;
use crate::targets::Targets;

/// One way: half of the round trip.
const DELAY: Duration = Duration::from_millis(50);
/// Bits a second of either link.
const RATE: f64 = 100e6;
/// Between two connections, so that the first can warm up what the second uses.
const SOON: Duration = Duration::from_millis(300);
/// How long a stream takes to reach full speed over the link.
const SETTLE: Duration = Duration::from_secs(2);
/// Requests of a page: the document and its parts.
const REQUESTS: usize = 30;
/// Connections that a browser opens to one host.
const CONNECTIONS: usize = 6;

/// The link, targets at its far end, and an implementation that connects both ends.
struct Site {
    running: Running,
    targets: Targets,
    link: Link,
}

impl Site {
    fn new(
        cx: &Context<'_>,
        proxy: Proxy,
        scenario: Scenario,
        loss: f64,
        seed: u64,
    ) -> Result<Self> {
        let link = Link::new(Shape {
            delay: DELAY,
            loss,
            rate: RATE,
            queue: 2 * DELAY,
            seed,
        })?;
        let targets = Targets::start(link::B, Some(&link.b))?;
        let setup = Setup {
            proxy,
            scenario,
            targets: &[targets.respond, targets.source, targets.banner],
            name_server: None,
            link: Some(&link),
            far: None,
            counted: false,
            directory: &cx.directory(proxy),
        };
        let running = start::start(cx.programs, &setup)?;
        Ok(Self {
            running,
            targets,
            link,
        })
    }

    /// Runs a client at the near end.
    fn client<T: Send>(&self, run: impl FnOnce(&Route, &Targets) -> Result<T> + Send) -> Result<T> {
        let (route, targets) = (&self.running.route, &self.targets);
        self.link.a.run(|| run(route, targets))?
    }
}

/// Milliseconds from the client's connect to the target's first byte: for the first connection of a fresh proxy, and for
/// one soon after.
pub(crate) fn first_byte(
    cx: &Context<'_>,
    proxy: Proxy,
    scenario: Scenario,
    server_speaks: bool,
) -> Result<Figures> {
    let site = Site::new(cx, proxy, scenario, 0.0, 1)?;
    let once = |route: &Route, targets: &Targets| -> Result<f64> {
        let begun = Instant::now();
        if server_speaks {
            let mut stream = route.connect(&Target::from(targets.banner))?;
            stream.read_exact(&mut [0])?;
        } else {
            let mut stream = route.connect(&Target::from(targets.respond))?;
            request(&mut stream, 1)?;
        }
        Ok(begun.elapsed().as_secs_f64() * 1e3)
    };
    site.client(|route, targets| {
        let cold = once(route, targets)?;
        thread::sleep(SOON);
        Ok(vec![("cold ms", cold), ("warm ms", once(route, targets)?)])
    })
}

/// One stream down the lossy link.
pub(crate) fn bulk(
    cx: &Context<'_>,
    proxy: Proxy,
    scenario: Scenario,
    (loss, time): (u8, Duration),
    seed: u64,
) -> Result<Figures> {
    let site = Site::new(cx, proxy, scenario, f64::from(loss) / 100.0, seed)?;
    site.client(|route, targets| {
        let flows = Flows::start(route, targets, false, 1)?;
        let begun = Instant::now();
        thread::sleep(time);
        flows.check()?;
        let bits = flows.moved.load(Relaxed) as f64 * 8.0;
        let rate = bits / 1e6 / begun.elapsed().as_secs_f64();
        Ok(vec![
            ("Mbit/s", rate),
            ("queue ms", site.link.waited().into()),
        ])
    })
}

/// A page: a document, then everything else over six connections.
pub(crate) fn page(
    cx: &Context<'_>,
    proxy: Proxy,
    scenario: Scenario,
    loss: u8,
    seed: u64,
) -> Result<Figures> {
    let site = Site::new(cx, proxy, scenario, f64::from(loss) / 100.0, seed)?;
    site.client(|route, targets| {
        let begun = Instant::now();
        let target = Target::from(targets.respond);
        let mut first = route.connect(&target)?;
        request(&mut first, size(0))?;
        let mut first = Some(first);
        let loaded = thread::scope(|scope| {
            let mut loaders = Vec::new();
            for connection in 0..CONNECTIONS {
                let (kept, target) = (first.take(), &target);
                loaders.push(scope.spawn(move || -> Result<()> {
                    let mut stream = match kept {
                        Some(stream) => stream,
                        None => route.connect(target)?,
                    };
                    for number in (1..REQUESTS).skip(connection).step_by(CONNECTIONS) {
                        request(&mut stream, size(number))?;
                    }
                    Ok(())
                }));
            }
            let mut outcomes = loaders.into_iter().map(|loader| loader.join());
            outcomes.try_for_each(|outcome| outcome.map_err(|_| "a loader died")?)
        });
        loaded.map(|()| vec![("ms", begun.elapsed().as_secs_f64() * 1e3)])
    })
}

/// A reverse tunnel over the link without loss, to a target at the near end: how much of the link one visitor gets, and how
/// much nine visitors lose when a tenth reads nothing.
pub(crate) fn reverse(cx: &Context<'_>, proxy: Proxy, time: Duration) -> Result<Figures> {
    let link = Link::new(Shape {
        delay: DELAY,
        loss: 0.0,
        rate: RATE,
        queue: 2 * DELAY,
        seed: 1,
    })?;
    let targets = Targets::start(link::A, Some(&link.a))?;
    let running = start::start(
        cx.programs,
        &Setup {
            proxy,
            scenario: Scenario::Reverse,
            targets: &[targets.source],
            name_server: None,
            link: Some(&link),
            far: None,
            counted: false,
            directory: &cx.directory(proxy),
        },
    )?;
    let visit = |count| Flows::start(&running.route, &targets, false, count);
    let mbits = |flows: &Flows| -> Result<f64> {
        // The congestion control needs the first seconds.
        thread::sleep(SETTLE);
        let (begun, before) = (Instant::now(), flows.moved.load(Relaxed));
        thread::sleep(time);
        flows.check()?;
        let bits = (flows.moved.load(Relaxed) - before) as f64 * 8.0;
        Ok(bits / 1e6 / begun.elapsed().as_secs_f64())
    };
    link.b.run(|| -> Result<Figures> {
        let one = mbits(&visit(1)?)?;
        let nine = visit(9)?;
        let alone = mbits(&nine)?;
        let _stalled = running.route.connect(&Target::from(targets.source))?;
        let beside = mbits(&nine)?;
        Ok(vec![
            ("Mbit/s", one),
            (STALLED, 100.0 * (1.0 - beside / alone)),
        ])
    })?
}

/// Bytes of a page's part: 4 to 40 KiB, the same every time.
fn size(number: usize) -> u64 {
    4096 * (1 + number as u64 * 7 % 10)
}
