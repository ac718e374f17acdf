//! Several servers behind one local half: one that fails costs no request, and each strategy chooses as it says.
//!
//! Each server connects to targets from an address of its own, so that a target can tell through which one it was asked.

use crate::common::{
    DEADLINE,
    bytes::digest,
    eventually,
    peers::{self, Half, Program, Spec, Start, password},
    process::{Process, v4},
    socks::{CONNECT, Target, read_array, request_bytes},
    targets::TcpTarget,
};
use crate::emulated::Namespace;
use rustix::process::Signal;
use serde_json::{Value, json};
use std::{
    io::{self, Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

pub(crate) const METHOD: &str = "2022-blake3-aes-256-gcm";
/// The last byte of the address that the first server has; the next one has the next.
pub(crate) const FIRST: u8 = 2;
pub(crate) const SECOND: u8 = 3;

/// The server whose connections come from `127.0.0.NUMBER`.
pub(crate) fn server(number: u8, password: &str) -> Half {
    let spec = Spec {
        method: METHOD.to_owned(),
        password: password.to_owned(),
    };
    Start::server(Program::Ssr, &spec)
        .with(json!({"outbound_bind_addr": format!("127.0.0.{number}"), "mode": "tcp_only"}))
        .run()
}

pub(crate) fn good(number: u8) -> Half {
    server(number, &password(METHOD, 1))
}

pub(crate) fn entry(address: SocketAddr) -> Value {
    json!({
        "server": address.ip().to_string(), "server_port": address.port(), "method": METHOD,
        "password": password(METHOD, 1), "warm_connections": 0,
    })
}

/// The local half for servers at these addresses, with more keys at the top level.
pub(crate) fn local(servers: &[SocketAddr], more: Value) -> Half {
    let entries: Vec<_> = servers.iter().map(|address| entry(*address)).collect();
    Start::local(Program::Ssr, &Spec::new(METHOD), servers[0])
        .with(json!({"servers": entries, "mode": "tcp_only"}))
        .with(more)
        .run()
}

/// Answers every ClientHello by the last byte of the address that it came from.
pub(crate) fn who() -> TcpTarget {
    TcpTarget::serve(|mut stream| {
        let IpAddr::V4(from) = stream.peer_addr().unwrap().ip() else {
            return;
        };
        let mut hello = [0; 512];
        if matches!(stream.read(&mut hello), Ok(1..)) {
            let _gone = stream.write_all(&from.octets()[3..]);
            let _held = stream.read(&mut hello);
        }
    })
}

/// A ClientHello of TLS with no extension.
fn hello() -> Vec<u8> {
    let body = [&[3, 3][..], &[7; 32], &[0, 0, 2, 0x13, 1, 1, 0, 0, 0]].concat();
    let len = u8::try_from(body.len()).unwrap();
    [&[22, 3, 1, 0, len + 4, 1, 0, 0, len], &body[..]].concat()
}

/// Sends a ClientHello to `target`. Returns the stream and which server it went through.
pub(crate) fn ask(proxy: SocketAddr, target: &Target) -> Result<(TcpStream, u8), String> {
    let step = |what: &'static str| move |error: io::Error| format!("{what}: {error}");
    let mut stream = TcpStream::connect(proxy).map_err(step("connect"))?;
    stream.set_read_timeout(Some(DEADLINE / 2)).unwrap();
    let mut reply = [0; 2];
    stream.write_all(&[5, 1, 0]).map_err(step("greeting"))?;
    stream.read_exact(&mut reply).map_err(step("method"))?;
    let request = request_bytes(CONNECT, target);
    stream.write_all(&request).map_err(step("request"))?;
    let mut reply = [0; 10];
    stream.read_exact(&mut reply).map_err(step("reply"))?;
    if reply[1] != 0 {
        return Err(format!("reply code {}", reply[1]));
    }
    stream.write_all(&hello()).map_err(step("hello"))?;
    let mut answer = [0];
    stream.read_exact(&mut answer).map_err(step("answer"))?;
    Ok((stream, answer[0]))
}

/// The numbers of the servers that `count` requests went through.
pub(crate) fn used(proxy: SocketAddr, target: &Target, count: usize) -> Vec<u8> {
    (0..count)
        .map(|_| ask(proxy, target).map(|(_, number)| number).unwrap())
        .collect()
}

/// Makes 20 requests a second for four seconds, and calls `fail` after the first. None may fail. Returns through which
/// servers the last ten went, and the longest time that a request took.
pub(crate) fn under_load(
    proxy: SocketAddr,
    target: &Target,
    fail: impl FnOnce(),
) -> (Vec<u8>, Duration) {
    let results = Mutex::new(Vec::new());
    thread::scope(|scope| {
        let mut fail = Some(fail);
        for number in 0..80 {
            let results = &results;
            scope.spawn(move || {
                let begun = Instant::now();
                let result = ask(proxy, target).map(|(_, server)| server);
                results
                    .lock()
                    .unwrap()
                    .push((number, result, begun.elapsed()));
            });
            thread::sleep(Duration::from_millis(50));
            if number == 20
                && let Some(fail) = fail.take()
            {
                fail();
            }
        }
    });
    let mut results = results.into_inner().unwrap();
    results.sort_by_key(|(number, ..)| *number);
    let failed: Vec<_> = results
        .iter()
        .filter(|(_, result, _)| result.is_err())
        .collect();
    assert!(failed.is_empty(), "{failed:?}");
    let longest = results.iter().map(|(.., time)| *time).max().unwrap();
    let last = results[70..]
        .iter()
        .map(|(_, result, _)| *result.as_ref().unwrap());
    (last.collect(), longest)
}

#[test]
fn no_request_fails_when_a_server_is_killed() {
    let (first, second) = (good(FIRST), good(SECOND));
    let local = local(&[first.address, second.address], json!({}));
    let target = who();
    assert_eq!(used(local.address, &target.v4(), 3), [FIRST; 3]);
    let (last, longest) = under_load(local.address, &target.v4(), || drop(first));
    assert_eq!(last, [SECOND; 10]);
    assert!(longest < DEADLINE / 4, "{longest:?}");
}

#[test]
fn no_request_fails_when_a_server_is_silent() {
    let (first, second) = (good(FIRST), good(SECOND));
    let local = local(&[first.address, second.address], json!({}));
    let target = who();
    assert_eq!(used(local.address, &target.v4(), 3), [FIRST; 3]);
    let stop = || first.process.signal(Signal::STOP);
    let (last, longest) = under_load(local.address, &target.v4(), stop);
    assert_eq!(last, [SECOND; 10]);
    assert!(longest < DEADLINE / 4, "{longest:?}");
    let log = local.process.log();
    let warnings = log.matches("server did not answer").count();
    assert_eq!(warnings, 1, "a change is logged once: {log}");
}

/// Accepts nothing: its queue is full, so that the system drops further SYNs. The streams fill it.
pub(crate) fn black_hole() -> (socket2::Socket, SocketAddr, Vec<TcpStream>) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&v4(0).into()).unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let mut fill = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(300)) {
        fill.push(stream);
    }
    (socket, address, fill)
}

#[test]
fn no_request_fails_or_waits_long_for_a_server_that_is_a_black_hole() {
    let second = good(SECOND);
    let (_hole, address, _fill) = black_hole();
    let local = local(&[address, second.address], json!({}));
    let target = who();
    let (last, longest) = under_load(local.address, &target.v4(), || {});
    assert_eq!(last, [SECOND; 10]);
    assert!(longest < Duration::from_secs(4), "{longest:?}");
}

#[test]
fn no_request_fails_because_of_a_server_with_another_key() {
    let (first, second) = (server(FIRST, &password(METHOD, 2)), good(SECOND));
    let local = local(&[first.address, second.address], json!({}));
    let target = who();
    let (last, longest) = under_load(local.address, &target.v4(), || {});
    assert_eq!(last, [SECOND; 10]);
    assert!(longest < DEADLINE / 4, "{longest:?}");
}

#[test]
fn what_could_run_twice_is_sent_to_one_server_only() {
    // It passes on the first stream to a server. Later it takes what it is sent, and closes.
    let behind = good(FIRST);
    let (real, is_first) = (behind.address, Arc::new(AtomicBool::new(true)));
    let deaf = TcpTarget::serve(move |mut stream| {
        if !is_first.swap(false, Relaxed) {
            let _read = stream.read(&mut [0; 4096]);
            return;
        }
        let mut server = TcpStream::connect(real).unwrap();
        let (mut from, mut to) = (stream.try_clone().unwrap(), server.try_clone().unwrap());
        thread::spawn(move || io::copy(&mut from, &mut to));
        let _gone = io::copy(&mut server, &mut stream);
    });
    let second = good(SECOND);
    let first = SocketAddr::from(([127, 0, 0, 1], deaf.port()));
    let local = local(&[first, second.address], json!({}));
    // A server that has answered may have done what it was asked for.
    assert_eq!(used(local.address, &who().v4(), 1), [FIRST]);
    let target = TcpTarget::echo();
    let mut stream = local.socks().connect(&target.v4());
    stream.write_all(b"POST / HTTP/1.1\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    let _reset = stream.read_to_end(&mut answer);
    assert_eq!((answer.len(), target.accepted()), (0, 0));
    assert_eq!(deaf.accepted(), 2);
}

/// Longer than what is kept of a request, and never finished.
#[test]
fn a_hello_that_is_too_long_to_keep_arrives_whole() {
    let (first, second) = (good(FIRST), good(SECOND));
    let local = local(&[first.address, second.address], json!({}));
    let target = TcpTarget::digest_at_end();
    let mut upload = Vec::new();
    for number in 0..20 {
        let mut part = vec![7; 4000];
        if number == 0 {
            part[..4].copy_from_slice(&[1, 0xff, 0xff, 0xff]);
        }
        upload.extend([22, 3, 1, 15, 160]);
        upload.extend(part);
    }
    let mut stream = local.socks().connect(&target.v4());
    for part in upload.chunks(3000) {
        stream.write_all(part).unwrap();
        thread::sleep(Duration::from_millis(5));
    }
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert_eq!(answer, digest(&upload));
}

#[test]
#[ignore = "needs root: a network namespace, and nft"]
fn a_request_that_is_not_acknowledged_goes_to_the_next_server() {
    let place = Namespace::loopback().expect("root");
    place
        .run(|| {
            let (first, second) = (good(FIRST), good(SECOND));
            let mut entries = [entry(first.address), entry(second.address)];
            entries[0]["warm_connections"] = json!(1);
            let local = local(&[first.address], json!({"servers": entries}));
            let target = TcpTarget::echo();
            let exchange = || {
                let begun = Instant::now();
                let mut stream = local.socks().connect(&target.v4());
                stream.write_all(b"not a hello").unwrap();
                assert_eq!(&read_array::<11>(&mut stream), b"not a hello");
                begun.elapsed()
            };
            exchange();
            // A spare connection is there by then; from now on nothing arrives at the server.
            thread::sleep(Duration::from_millis(300));
            let port = first.address.port();
            let rules = format!(
                "add table ip t; add chain ip t i {{ type filter hook input priority 0; }}; \
                 add rule ip t i tcp dport {port} drop"
            );
            assert!(Command::new("nft").arg(rules).status().unwrap().success());
            let times: Vec<_> = (0..3).map(|_| exchange()).collect();
            assert!(
                times[0] > Duration::from_millis(900),
                "the spare: {times:?}"
            );
            assert!(times[0] < Duration::from_secs(4), "{times:?}");
            assert!(times[2] < Duration::from_millis(500), "avoided: {times:?}");
        })
        .unwrap();
}

#[test]
fn a_target_that_says_nothing_is_no_fault_of_a_server() {
    let (first, second) = (good(FIRST), good(SECOND));
    let local = local(&[first.address, second.address], json!({}));
    let closes = TcpTarget::serve(drop);
    let silent = TcpTarget::silent();
    for target in [&closes, &silent] {
        let mut stream = local.socks().connect(&target.v4());
        stream.set_read_timeout(Some(DEADLINE / 5)).unwrap();
        stream.write_all(&hello()).unwrap();
        assert!(!matches!(stream.read(&mut [0]), Ok(1..)));
    }
    assert_eq!(used(local.address, &who().v4(), 3), [FIRST; 3]);
    assert!(
        !local.process.log().contains("WARN"),
        "{}",
        local.process.log()
    );
}

#[test]
fn without_a_server_the_client_is_told_and_nothing_goes_direct() {
    let (first, second) = (good(FIRST), good(SECOND));
    let local = local(
        &[first.address, second.address],
        json!({"balancer": {"strategy": "fallback", "probe": false}}),
    );
    let target = who();
    assert_eq!(used(local.address, &target.v4(), 2), [FIRST; 2]);
    drop((first, second));
    let before = target.accepted();
    assert!(ask(local.address, &target.v4()).is_err());
    let begun = Instant::now();
    let refused = ask(local.address, &target.v4()).unwrap_err();
    assert_eq!(refused, "reply code 5");
    assert!(begun.elapsed() < Duration::from_secs(3), "{begun:?}");
    assert_eq!(target.accepted(), before);
}

#[test]
fn each_strategy_chooses_as_it_says() {
    let (first, second) = (good(FIRST), good(SECOND));
    let with = |keys: Value, weights: [f64; 2]| {
        let mut entries = [entry(first.address), entry(second.address)];
        for (entry, weight) in entries.iter_mut().zip(weights) {
            entry["tcp_weight"] = json!(weight);
        }
        let mut balancer = json!({"probe": false});
        for (key, value) in keys.as_object().unwrap() {
            balancer[key] = value.clone();
        }
        local(
            &[first.address],
            json!({"servers": entries, "balancer": balancer}),
        )
    };
    let target = who();
    let count = |all: &[u8], number| all.iter().filter(|one| **one == number).count();

    let local = with(json!({"strategy": "fallback"}), [0.1, 0.9]);
    assert_eq!(used(local.address, &target.v4(), 4), [FIRST; 4]);

    let local = with(json!({"strategy": "weight"}), [0.1, 0.9]);
    assert_eq!(used(local.address, &target.v4(), 4), [SECOND; 4]);

    let local = with(json!({"strategy": "round_robin"}), [1.0, 1.0]);
    let all = used(local.address, &target.v4(), 20);
    assert_eq!((count(&all, FIRST), count(&all, SECOND)), (10, 10));

    let local = with(json!({"strategy": "least_connections"}), [1.0, 1.0]);
    let held: Vec<_> = (0..6)
        .map(|_| ask(local.address, &target.v4()).unwrap())
        .collect();
    let all: Vec<u8> = held.iter().map(|(_, number)| *number).collect();
    assert_eq!((count(&all, FIRST), count(&all, SECOND)), (3, 3));
    // Those of the second end: the next ones go there.
    let left: Vec<_> = held.into_iter().filter(|(_, one)| *one == FIRST).collect();
    eventually("the streams have ended", || {
        ask(local.address, &target.v4()).unwrap().1 == SECOND
    });
    drop(left);

    for by in ["source", "target"] {
        let local = with(json!({"strategy": "hash", "hash_by": by}), [1.0, 1.0]);
        let all = used(local.address, &target.v4(), 5);
        assert_eq!(all, [all[0]; 5], "{by}");
    }
}

#[test]
fn probes_are_real_requests_and_find_the_faster_server() {
    // The way through the first server is slow.
    let seen: Arc<Mutex<Vec<(u8, String)>>> = Arc::default();
    let list = Arc::clone(&seen);
    let portal = TcpTarget::serve(move |mut stream| {
        let IpAddr::V4(from) = stream.peer_addr().unwrap().ip() else {
            return;
        };
        let mut request = vec![0; 1024];
        let count = stream.read(&mut request).unwrap_or_default();
        let text = String::from_utf8_lossy(&request[..count]).into_owned();
        let number = from.octets()[3];
        list.lock().unwrap().push((number, text));
        if number == FIRST {
            thread::sleep(Duration::from_millis(300));
        }
        let _gone = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    });
    let (first, second) = (good(FIRST), good(SECOND));
    let probe = format!("127.0.0.1:{}/ok?1", portal.port());
    let local = local(
        &[first.address, second.address],
        json!({"balancer": {"check_interval": 1, "max_server_rtt": 2, "probe": probe}}),
    );
    let rounds = |number| {
        let seen = seen.lock().unwrap();
        seen.iter().filter(|(one, _)| *one == number).count()
    };
    eventually("two rounds of probes", || {
        rounds(FIRST) >= 2 && rounds(SECOND) >= 2
    });
    let target = who();
    assert_eq!(used(local.address, &target.v4(), 5), [SECOND; 5]);
    let request = seen.lock().unwrap()[0].1.clone();
    let host = format!("\r\nHost: 127.0.0.1:{}\r\n", portal.port());
    assert!(
        request.starts_with("GET /ok?1 HTTP/1.1\r\n") && request.contains(&host),
        "{request}"
    );
    // The faster one is stopped: the probes notice, though nobody makes a request.
    second.process.signal(Signal::STOP);
    eventually("the stopped server fails its probe", || {
        local.process.log().contains("server fails the probe")
    });
    assert_eq!(used(local.address, &target.v4(), 3), [FIRST; 3]);
    second.process.signal(Signal::CONT);
    eventually("it passes again", || {
        local.process.log().contains("server passes the probe")
    });
}

#[test]
#[ignore = "needs root: a network namespace"]
fn spare_connections_are_made_anew_when_the_network_changes() {
    let place = Namespace::loopback().expect("root");
    let ip = |arguments: &str| {
        let mut command = Command::new("ip");
        command.args(arguments.split(' '));
        place.place(&mut command).unwrap();
        assert!(command.status().unwrap().success(), "{arguments}");
    };
    place
        .run(|| {
            // A server that accepts and says nothing.
            let listener = TcpListener::bind(v4(0)).unwrap();
            let address = listener.local_addr().unwrap();
            let accepted: Arc<Mutex<Vec<TcpStream>>> = Arc::default();
            let list = Arc::clone(&accepted);
            thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    list.lock().unwrap().push(stream);
                }
            });
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("config.json");
            let mut config = entry(address);
            config["warm_connections"] = json!(2);
            config["local_port"] = json!(1080);
            config["mode"] = json!("tcp_only");
            std::fs::write(&path, config.to_string()).unwrap();
            let mut command = peers::ssr(&["local", "-c", path.to_str().unwrap()]);
            let mut process = Process::spawn("ssr local", &mut command).unwrap();
            process.running().unwrap();
            let count = || accepted.lock().unwrap().len();
            assert_eq!(count(), 0);
            let socks = crate::common::socks::Socks::new(v4(1080));
            let _stream = socks.connect(&v4(9).into());
            eventually("two spares beside the first", || count() == 3);
            ip("addr add 10.1.2.3/32 dev lo");
            eventually("two new spares", || count() >= 5);
            eventually("the old ones are closed", || {
                let streams = accepted.lock().unwrap();
                let closed = streams.iter().take(3).filter(|stream| {
                    stream.set_nonblocking(true).unwrap();
                    matches!(stream.peek(&mut [0]), Ok(0))
                });
                closed.count() == 2
            });
        })
        .unwrap();
}
