//! Datagrams from very many sources: what they can make a process hold, and what they cannot take from others.

use crate::common::{
    DEADLINE, eventually,
    forward::Forwarder,
    matrix,
    peers::{Half, Pair, Program, Spec, Start},
    process::{Process, free_port},
    reverse::{METHOD, client, open_server, published, said, serves, service, services, with},
    seal::{Packet, Sealing},
    targets::TcpTarget,
    udp::UdpTarget,
};
use serde_json::json;
use std::{
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// KiB that a process may hold, whatever strangers send to it.
const BOUND: u64 = 64 << 10;
/// KiB by which it may differ when the same is repeated.
const FLAT: u64 = 6 << 10;
/// Sources whose datagrams have to arrive before the memory is looked at.
const SOURCES: u32 = 25_000;

/// A target that counts what it gets, and answers nothing.
struct Counter {
    address: SocketAddr,
    count: Arc<AtomicU32>,
}

impl Counter {
    fn new() -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = socket.local_addr().unwrap();
        let count = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&count);
        thread::spawn(move || {
            while socket.recv(&mut [0; 100]).is_ok_and(|len| len > 0) {
                counted.fetch_add(1, Ordering::Relaxed);
            }
        });
        Self { address, count }
    }

    fn count(&self) -> u32 {
        self.count.load(Ordering::Relaxed)
    }
}

impl Drop for Counter {
    fn drop(&mut self) {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let _ends = socket.send_to(&[], self.address);
    }
}

/// Sends `count` datagrams of 20 bytes to `to`, each from another source.
fn send(to: SocketAddr, count: u32) {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    for _ in 0..count {
        let next = NEXT.fetch_add(1, Ordering::Relaxed) % (120 * 250 * 250);
        let [a, b, c] = [next / 62_500, next / 250 % 250, next % 250];
        let [a, b, c] = [a, b, c].map(|part| u8::try_from(part).unwrap() + 1);
        let socket = UdpSocket::bind((Ipv4Addr::new(127, 1 + a, b, c), 0)).unwrap();
        let _lost = socket.send_to(&[7; 20], to);
    }
}

/// Sends such datagrams until `target` has got [`SOURCES`] of them.
fn flood(to: SocketAddr, target: &Counter) {
    let (begun, before) = (Instant::now(), target.count());
    while target.count() - before < SOURCES {
        assert!(begun.elapsed() < 3 * DEADLINE, "they do not arrive");
        send(to, 1000);
        if begun.elapsed() > DEADLINE {
            // A slow machine: it has more time for each.
            thread::sleep(Duration::from_millis(50));
        }
    }
}

/// What the processes hold, in KiB, and have held at most.
fn memory<const N: usize>(processes: [&Process; N]) -> [(u64, u64); N] {
    processes.map(|process| (process.memory_kib("VmRSS"), process.memory_kib("VmHWM")))
}

/// Floods `to` twice, and asserts that the `processes` hold a bounded amount, and not more than after the first time.
fn stays_bounded<const N: usize>(to: SocketAddr, target: &Counter, processes: [&Process; N]) {
    flood(to, target);
    let first = memory(processes);
    flood(to, target);
    let second = memory(processes);
    eprintln!("{first:?} {second:?}");
    for ((before, _), (after, most)) in first.into_iter().zip(second) {
        assert!(most <= BOUND, "{first:?} {second:?}");
        assert!(after <= before + FLAT, "{first:?} {second:?}");
    }
}

/// Whether a new source is answered.
fn is_served(address: SocketAddr) -> bool {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_millis(500)))
        .unwrap();
    socket.send_to(b"anybody?", address).unwrap();
    let mut answer = [0; 100];
    matches!(socket.recv(&mut answer), Ok(8)) && answer.starts_with(b"anybody?")
}

#[test]
fn flood_at_a_forward_is_bounded_and_flat() {
    let target = Counter::new();
    let to = format!("udp://{}", target.address);
    let forwarder = Forwarder::start("udp", "", &to, &[]);
    stays_bounded(forwarder.address, &target, [&forwarder.process]);
}

#[test]
fn flood_at_a_reverse_port_is_bounded_and_flat() {
    let (target, echo) = (Counter::new(), UdpTarget::echo());
    let server = open_server();
    let udp = |name, target: SocketAddr| {
        let service = service(name, free_port(), target.port());
        with(service, json!({"protocol": "udp"}))
    };
    let list = vec![udp("flooded", target.address), udp("echo", echo.address())];
    let client = client(&server, services(list));
    let (flooded, echo) = (published(&client, "flooded"), published(&client, "echo"));
    stays_bounded(flooded, &target, [&server.process, &client.process]);
    eventually("visitors of another service are served", || is_served(echo));
}

/// Open files of a process in tests of too few.
const FILES: usize = 256;
/// Sessions, visitors or ports: far more than there are files for.
const MANY: u64 = 400;

/// Asserts that a half has files left, and that its log has a few lines about what it refused.
fn has_files_and_little_to_say(half: &Half) {
    let open = half.process.open_files();
    assert!(open < FILES * 3 / 4, "{open} open files");
    let log = half.process.log();
    assert!(!log.contains("cannot accept"), "{log}");
    let lines = log.lines().count();
    assert!(lines < 40, "{lines} lines: {log}");
}

#[test]
fn udp_sessions_leave_files_to_connections() {
    let (spec, few) = (Spec::new(METHOD), json!({"nofile": FILES}));
    let server = Start::server(Program::Ssr, &spec).with(few);
    let pair = Pair::with(server, |at| Start::local(Program::Ssr, &spec, at));
    let (udp, tcp) = (UdpTarget::echo(), TcpTarget::echo());
    let (sealing, client) = (
        Sealing::new(&spec),
        UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap(),
    );
    client.set_read_timeout(Some(DEADLINE)).unwrap();
    for session in 0..MANY {
        let packet = sealing.seal_packet(&Packet::new(session, 0), &udp.target(), b"here");
        eventually("the session is served", || {
            client.send_to(&packet, pair.server.address).unwrap();
            udp.seen().len() > usize::try_from(session).unwrap()
        });
    }
    let streams: Vec<_> = (0..20).map(|_| pair.socks().connect(&tcp.v4())).collect();
    matrix::echoes(&pair.socks(), &tcp.v4(), 100);
    has_files_and_little_to_say(&pair.server);
    drop(streams);
}

#[test]
fn visitors_of_udp_services_leave_files_to_connections() {
    let server = open_server();
    let (udp, tcp) = (UdpTarget::echo(), TcpTarget::echo());
    let list = vec![
        with(
            service("udp", free_port(), udp.address().port()),
            json!({"protocol": "udp"}),
        ),
        service("tcp", free_port(), tcp.port()),
    ];
    let start = Start::local(Program::Ssr, &Spec::new(METHOD), server.address);
    let client = start
        .with(json!({"nofile": FILES, "reverse": services(list)}))
        .run();
    let (flooded, echo) = (published(&client, "udp"), published(&client, "tcp"));
    for _ in 0..MANY / 20 {
        send(flooded, 20);
        eventually("a new visitor is served", || is_served(flooded));
    }
    assert!(serves(echo), "a visitor of another service is served");
    has_files_and_little_to_say(&client);
}

#[test]
fn public_ports_leave_files_to_connections() {
    let (spec, tcp) = (Spec::new(METHOD), TcpTarget::echo());
    let allow = json!({"allow": [{"bind": "127.0.0.1:1-65535"}]});
    let server = Start::server(Program::Ssr, &spec)
        .with(json!({"nofile": FILES, "reverse": allow}))
        .run();
    let list = (0..200).map(|number| service(&format!("s{number}"), 0, tcp.port()));
    let client = client(&server, services(list.collect()));
    let full = ["refused to publish", "as many public ports"];
    eventually("further ports are refused", || said(&client, &full) > 0);
    let local = Start::local(Program::Ssr, &spec, server.address).run();
    matrix::echoes(&local.socks(), &tcp.v4(), 100);
    let open = server.process.open_files();
    assert!(open < FILES / 2, "{open} open files");
    assert!(serves(published(&client, "s0")));
}
