//! Workloads on streams: bulk, short connections, round trips, idle connections.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::client::{Flows, request};
use crate::measure::{Figures, Interval, Span, measure};
use crate::result::Result;
use crate::route::{Route, Target};
use crate::running::Running;
use crate::targets::Targets;

/// Bytes of the small message.
const MESSAGE: usize = 64;
/// Bytes of the answer to a request.
const RESPONSE: u64 = 512;
/// Bytes of a small page.
const PAGE: u64 = 40_000;
/// Threads that open idle connections.
const OPENERS: usize = 8;

/// Moves as many bytes as the proxies can carry.
pub(crate) fn bulk(
    running: &Running,
    targets: &Targets,
    up: bool,
    streams: usize,
    span: Span,
) -> Result<Figures> {
    let flows = Flows::start(&running.route, targets, up, streams)?;
    let interval = measure(running, &flows.moved, span)?;
    flows.check()?;
    let gib = interval.count / f64::from(1 << 30);
    Ok(vec![
        ("Gbit/s", interval.count * 8.0 / 1e9 / interval.seconds),
        ("CPU s/GiB", interval.cpu / gib),
    ])
}

/// Connects, sends a request, reads the answer and closes, again and again, `at_once` in parallel.
pub(crate) fn connections(
    running: &Running,
    wanted: &[Target],
    at_once: usize,
    span: Span,
) -> Result<Interval> {
    let done = AtomicU64::new(0);
    let stop = AtomicBool::new(false);
    let failure = Mutex::new(None);
    let interval = thread::scope(|scope| {
        for worker in 0..at_once {
            let (done, stop, failure) = (&done, &stop, &failure);
            let wanted = wanted.iter().cycle().skip(worker);
            scope.spawn(move || {
                for target in wanted {
                    if stop.load(Relaxed) {
                        return;
                    }
                    if let Err(error) = connection(&running.route, target) {
                        *failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                        return;
                    }
                    done.fetch_add(1, Relaxed);
                }
            });
        }
        let interval = measure(running, &done, span);
        stop.store(true, Relaxed);
        interval
    });
    match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(format!("a connection failed: {error}").into()),
        None => interval,
    }
}

fn connection(route: &Route, target: &Target) -> Result<()> {
    let mut stream = route.connect(target)?;
    request(&mut stream, RESPONSE)
}

/// Short connections to the target that answers, `at_once` in parallel.
pub(crate) fn connect_request_response(
    running: &Running,
    targets: &Targets,
    at_once: usize,
    span: Span,
) -> Result<Figures> {
    let interval = connections(running, &[targets.respond.into()], at_once, span)?;
    Ok(vec![
        ("conn/s", interval.count / interval.seconds),
        ("CPU us/conn", interval.cpu * 1e6 / interval.count),
    ])
}

/// Repeats `once` and returns percentiles of how long it took.
fn times(span: Span, mut once: impl FnMut() -> Result<()>) -> Result<Figures> {
    let mut times: Vec<f64> = Vec::new();
    let begun = Instant::now();
    while begun.elapsed() < span.warm + span.time {
        let before = Instant::now();
        once()?;
        if begun.elapsed() > span.warm {
            times.push(before.elapsed().as_secs_f64() * 1e6);
        }
    }
    times.sort_by(f64::total_cmp);
    let at = |share: f64| times.get((times.len() as f64 * share) as usize).copied();
    Ok(vec![
        ("p50 us", at(0.5).ok_or("nothing came back")?),
        ("p99 us", at(0.99).ok_or("nothing came back")?),
    ])
}

/// Sends one small message at a time and waits for its echo.
pub(crate) fn round_trip(running: &Running, targets: &Targets, span: Span) -> Result<Figures> {
    let mut stream = running.route.connect(&targets.echo.into())?;
    let message = [b'm'; MESSAGE];
    let mut answer = [0; MESSAGE];
    times(span, || {
        stream.write_all(&message)?;
        Ok(stream.read_exact(&mut answer)?)
    })
}

/// Opens one connection after another and requests a small page on each.
pub(crate) fn page(running: &Running, targets: &Targets, span: Span) -> Result<Figures> {
    times(span, || {
        let mut stream = running.route.connect(&targets.respond.into())?;
        request(&mut stream, PAGE)
    })
}

/// Runs a workload while four streams load the proxies as much as they can.
pub(crate) fn beside_bulk(
    running: &Running,
    targets: &Targets,
    span: Span,
    workload: impl FnOnce(&Running, &Targets, Span) -> Result<Figures>,
) -> Result<Figures> {
    let flows = Flows::start(&running.route, targets, false, 4)?;
    let before = Instant::now();
    let mut figures = workload(running, targets, span)?;
    let moved = flows.moved.load(Relaxed) as f64;
    flows.check()?;
    figures.push((
        "bulk Gbit/s",
        moved * 8.0 / 1e9 / before.elapsed().as_secs_f64(),
    ));
    Ok(figures)
}

/// Measures the memory of connections that have been used and are idle.
pub(crate) fn idle(running: &Running, targets: &Targets, count: usize) -> Result<Figures> {
    let before = running.anonymous_kib()?;
    let target: SocketAddr = targets.hold;
    let open = || -> Result<Vec<TcpStream>> {
        let mut streams = Vec::new();
        for _ in 0..count / OPENERS {
            let mut stream = running.route.connect(&target.into())?;
            let mut bytes = [b'i'; MESSAGE];
            stream.write_all(&bytes)?;
            stream.read_exact(&mut bytes)?;
            streams.push(stream);
        }
        Ok(streams)
    };
    let streams = thread::scope(|scope| {
        let openers: Vec<_> = (0..OPENERS).map(|_| scope.spawn(open)).collect();
        let mut streams = Vec::new();
        for opener in openers {
            streams.extend(opener.join().map_err(|_| "an opener died")??);
        }
        Result::Ok(streams)
    })?;
    // By then the proxies have released what they release when idle.
    thread::sleep(Duration::from_millis(1000));
    let after = running.anonymous_kib()?;
    let each = streams.len() as f64;
    Ok(vec![
        ("local KiB", (after.0 - before.0) / each),
        ("server KiB", (after.1 - before.1) / each),
    ])
}
