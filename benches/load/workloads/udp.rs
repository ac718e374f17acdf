//! Workloads on datagrams: one busy socket, and very many sockets that each send a little.

use std::io;
use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use crate::measure::{Figures, Span, measure};
use crate::mmsg::{BATCH, Batch};
use crate::result::Result;
use crate::route::udp_socket;
use crate::running::Running;
use crate::targets::Targets;

/// How long an answer may take before its datagram counts as lost.
const LOST: Duration = Duration::from_millis(50);
/// Payload bytes of a datagram from one of many sources.
const SMALL: usize = 200;
/// How often the sources send.
const TICK: Duration = Duration::from_millis(1);

/// Keeps [`BATCH`] datagrams of `size` bytes on their way to the echo and back.
pub(crate) fn window(
    running: &Running,
    targets: &Targets,
    size: usize,
    span: Span,
) -> Result<Figures> {
    let (relay, mut datagram, _association) = running.route.associate(targets.udp)?;
    datagram.resize(datagram.len() + size, b'u');
    let socket = udp_socket(relay)?;
    socket.set_read_timeout(Some(LOST))?;
    rustix::net::sockopt::set_socket_recv_buffer_size(&socket, 4 << 20)?;
    let (sent, received) = (AtomicU64::new(0), AtomicU64::new(0));
    let stop = AtomicBool::new(false);
    let interval = thread::scope(|scope| {
        scope.spawn(|| keep_full(&socket, &datagram, &sent, &received, &stop));
        let interval = measure(running, &received, span);
        stop.store(true, Relaxed);
        interval
    })?;
    let (sent, received) = (sent.load(Relaxed) as f64, received.load(Relaxed) as f64);
    Ok(vec![
        ("datagrams/s", interval.count / interval.seconds),
        ("CPU us/datagram", interval.cpu * 1e6 / interval.count),
        ("loss %", loss(sent, received)),
    ])
}

/// Percentage of sent datagrams that did not come back.
fn loss(sent: f64, received: f64) -> f64 {
    (1.0 - received / sent).max(0.0) * 100.0
}

fn keep_full(
    socket: &UdpSocket,
    datagram: &[u8],
    sent: &AtomicU64,
    received: &AtomicU64,
    stop: &AtomicBool,
) {
    let mut out = Batch::of(datagram);
    let mut back = Batch::of(&[]);
    let mut on_the_way = 0;
    loop {
        if on_the_way < BATCH && !stop.load(Relaxed) {
            // What the kernel does not accept now is sent next time.
            let count = out.send(socket, BATCH - on_the_way, false).unwrap_or(0);
            sent.fetch_add(count as u64, Relaxed);
            on_the_way += count;
        }
        match back.receive(socket) {
            Ok(count) => {
                received.fetch_add(count as u64, Relaxed);
                on_the_way = on_the_way.saturating_sub(count);
            }
            Err(_) => on_the_way = 0,
        }
        if on_the_way == 0 && stop.load(Relaxed) {
            return;
        }
    }
}

/// Opens `count` sockets with an association each, which together send `rate` datagrams a second.
pub(crate) fn sources(
    running: &Running,
    targets: &Targets,
    count: usize,
    rate: usize,
    time: Duration,
) -> Result<Figures> {
    let memory = running.anonymous_kib()?;
    let cpu = running.cpu()?;
    let mut sources = Vec::new();
    for _ in 0..count {
        let (relay, mut datagram, association) = running.route.associate(targets.udp)?;
        datagram.resize(datagram.len() + SMALL, b'u');
        let socket = udp_socket(relay)?;
        socket.set_nonblocking(true)?;
        sources.push((socket, datagram, association));
    }
    let associated = running.cpu()?;
    let mut sent = 0;
    let begun = Instant::now();
    let mut turn = sources.iter().cycle();
    while begun.elapsed() < time {
        let due = (begun.elapsed().as_secs_f64() * rate as f64) as usize;
        for (socket, datagram, _) in turn.by_ref().take(due - sent) {
            // Counts as lost, like one lost later.
            let _ = socket.send(datagram);
        }
        sent = due;
        thread::sleep(TICK);
    }
    // Each socket receives few answers, which wait in its buffer.
    thread::sleep(4 * LOST);
    let received: usize = sources
        .iter()
        .map(|(socket, ..)| count_arrived(socket))
        .sum();
    let cpu_relay = (running.cpu()? - associated).as_secs_f64();
    let grown = running.anonymous_kib()?;
    Ok(vec![
        ("loss %", loss(sent as f64, received as f64)),
        ("CPU us/datagram", cpu_relay * 1e6 / received as f64),
        (
            "CPU us/association",
            (associated - cpu).as_secs_f64() * 1e6 / count as f64,
        ),
        ("local KiB", (grown.0 - memory.0) / count as f64),
        ("server KiB", (grown.1 - memory.1) / count as f64),
    ])
}

/// Counts the datagrams that have arrived.
fn count_arrived(socket: &UdpSocket) -> usize {
    let mut byte = [0; 1];
    let mut count = 0;
    loop {
        match socket.recv(&mut byte) {
            Ok(_) => count += 1,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return count,
        }
    }
}
