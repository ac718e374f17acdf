//! A new process takes over: no connection is refused or broken, and nothing is served twice.

use crate::common::{
    eventually,
    line::Line,
    load::Load,
    peers::Spec,
    probe::{Cut, End, Then, probe},
    process::{free_port, v4},
    seal::{Packet, Sealing},
    socks::Socks,
    targets::TcpTarget,
    udp::UdpTarget,
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::{
    fs,
    io::{Read, Write},
    net::{TcpStream, UdpSocket},
};

const METHOD: &str = "2022-blake3-aes-256-gcm";

fn server(port: u16) -> Value {
    let spec = Spec::new(METHOD);
    json!({
        "server": "127.0.0.1", "server_port": port, "method": METHOD, "password": spec.password,
        "timeouts": {"handshake": 3},
    })
}

fn local(server: u16, port: u16) -> Value {
    let spec = Spec::new(METHOD);
    json!({
        "server": "127.0.0.1", "server_port": server, "method": METHOD, "password": spec.password,
        "local_address": "127.0.0.1", "local_port": port,
    })
}

fn echoes(stream: &mut TcpStream) -> bool {
    let mut back = [0; 5];
    stream.write_all(b"hello").is_ok() && stream.read_exact(&mut back).is_ok() && &back == b"hello"
}

#[test]
fn upgrades_of_both_ends_under_load_break_no_connection() {
    let (port, at) = (free_port(), free_port());
    let mut keys = server(port);
    let admin = free_port();
    keys["admin"] = json!({"address": format!("127.0.0.1:{admin}")});
    let mut server = Line::start("server", keys);
    let mut local = Line::start("local", local(port, at));
    let load = Load::start(&Socks::new(v4(at)), 4, 8);
    for _ in 0..5 {
        let done = load.done();
        server.upgrade();
        local.upgrade();
        eventually("downloads go on", || load.done() > done + 4);
    }
    let mut api = TcpStream::connect(v4(admin)).unwrap();
    let request = format!("GET /api/v1/status HTTP/1.1\r\nHost: 127.0.0.1:{admin}\r\n\r\n");
    api.write_all(request.as_bytes()).unwrap();
    let mut status = [0; 12];
    api.read_exact(&mut status).unwrap();
    assert_eq!(&status, b"HTTP/1.1 200");
    let outcome = load.end();
    assert_eq!(outcome.broken, Vec::<String>::new());
    println!(
        "{} downloads, longest pause {:?}",
        outcome.done, outcome.pause
    );
    for line in [&mut server, &mut local] {
        for place in 0..5 {
            eventually("the old processes end", || line.has_ended(place));
        }
        assert!(!line.has_ended(5), "{}", line.first.process.log());
    }
}

#[test]
fn new_process_that_cannot_serve_leaves_everything_to_the_old_one() {
    let (port, at, target) = (free_port(), free_port(), TcpTarget::echo());
    let _server = Line::start("server", server(port));
    let mut local = Line::start("local", local(port, at));
    let mut open = Socks::new(v4(at)).connect(&target.v4());
    let good = fs::read(local.first.path()).unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken_port = taken.local_addr().unwrap().port();
    let mut other = local.first.keys.clone();
    other["locals"] = json!([{"local_address": "127.0.0.1", "local_port": taken_port}]);
    for (config, reason) in [
        ("{".to_owned(), "ended before it was ready"),
        (other.to_string(), "the address is already in use"),
    ] {
        fs::write(local.first.path(), config).unwrap();
        let (done, text) = local.ask();
        assert!(
            !done && text.contains("the old process goes on") && text.contains(reason),
            "{text}"
        );
        assert!(echoes(&mut open), "what is open goes on");
        assert!(echoes(&mut Socks::new(v4(at)).connect(&target.v4())));
    }
    fs::write(local.first.path(), good).unwrap();
    local.upgrade();
    assert!(echoes(&mut open), "what is open goes on");
    assert!(echoes(&mut Socks::new(v4(at)).connect(&target.v4())));
}

#[test]
fn what_one_process_has_served_the_next_refuses() {
    for method in [METHOD, "aes-256-gcm"] {
        let (spec, port) = (Spec::new(method), free_port());
        let mut keys = server(port);
        keys["method"] = json!(method);
        keys["password"] = json!(spec.password);
        let mut server = Line::start("server", keys);
        let (echo, udp) = (TcpTarget::echo(), UdpTarget::echo());
        let sealing = Sealing::new(&spec);
        let request = sealing.seal(&sealing.request(&echo.v4(), b"once"));
        let served = |request: &[u8]| {
            let outcome = probe(v4(port), request, Cut::Whole, Then::Finish);
            assert_eq!(outcome.end, End::Closed);
            outcome.answered > 0
        };
        assert!(served(&request));
        let packet = match sealing.is_2022() {
            true => sealing.seal_packet(&Packet::new(7, 3), &udp.target(), b"one datagram"),
            false => sealing.seal_packet_2017(&udp.target(), b"one datagram"),
        };
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(v4(port)).unwrap();
        socket.send(&packet).unwrap();
        eventually("the datagram arrives", || udp.count(b"one datagram") == 1);
        server.upgrade();
        assert!(!served(&request), "{method}");
        // Sessions of datagrams end a moment after the new process has begun to serve.
        eventually("the old process has ended", || server.has_ended(0));
        for _ in 0..3 {
            socket.send(&packet).unwrap();
        }
        let next = match sealing.is_2022() {
            true => sealing.seal_packet(&Packet::new(7, 4), &udp.target(), b"the next one"),
            false => sealing.seal_packet_2017(&udp.target(), b"the next one"),
        };
        socket.send(&next).unwrap();
        eventually("the session goes on", || udp.count(b"the next one") == 1);
        assert_eq!(udp.count(b"one datagram"), 1, "{method}");
    }
}

#[test]
fn signal_does_the_same_and_what_is_open_keeps_the_old_process() {
    let (port, at, target) = (free_port(), free_port(), TcpTarget::echo());
    let _server = Line::start("server", server(port));
    let mut keys = local(port, at);
    let path = std::env::temp_dir().join(format!("ssr-upgrade-{}-{at}", std::process::id()));
    keys["locals"] = json!([{"local_address": path, "mode": "tcp_only"}]);
    let mut local = Line::start("local", keys);
    let mut held = std::os::unix::net::UnixStream::connect(&path).unwrap();
    held.write_all(&[5, 1, 0]).unwrap();
    held.read_exact(&mut [0; 2]).unwrap();
    held.write_all(&[&[5, 1, 0][..], &target.v4().0].concat())
        .unwrap();
    held.read_exact(&mut [0; 10]).unwrap();
    local.first.process.signal(Signal::USR2);
    eventually("the new one serves", || {
        local.first.said("the new process serves") == 1
    });
    let line = local.first.process.log();
    let pid = line
        .split("the new process serves; this one ends with its last connection pid=")
        .nth(1);
    let pid = pid
        .unwrap()
        .split_whitespace()
        .next()
        .unwrap()
        .parse()
        .unwrap();
    local.pids.push(pid);
    eventually("it says so itself", || {
        local.first.said(" running role=") == 2
    });
    assert!(path.exists() && std::os::unix::net::UnixStream::connect(&path).is_ok());
    held.write_all(b"hello").unwrap();
    held.read_exact(&mut [0; 5]).unwrap();
    assert!(echoes(&mut Socks::new(v4(at)).connect(&target.v4())));
    assert!(!local.has_ended(0));
    drop(held);
    eventually("the old one ends", || local.has_ended(0));
    assert!(local.first.process.exited().unwrap().success());
    let pid = Pid::from_raw(local.pid().cast_signed()).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    eventually("the new one removes the file", || !path.exists());
}
