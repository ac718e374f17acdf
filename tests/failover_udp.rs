//! Datagrams and several servers: an association moves when its server fails, and `user` rules hold for datagrams too.
//!
//! Each server sends from an address of its own, so that a target can tell through which one it was asked.

use crate::common::{
    DEADLINE, SILENCE, eventually,
    peers::{Half, Program, Spec, Start, password},
    socks::{Association, CONNECT, Socks, Target},
    targets::TcpTarget,
};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, UdpSocket},
    thread,
    time::Instant,
};

const METHOD: &str = "2022-blake3-aes-256-gcm";

/// The server that sends from `127.0.0.NUMBER`.
fn server(number: u8) -> Half {
    Start::server(Program::Ssr, &Spec::new(METHOD))
        .with(json!({"outbound_bind_addr": format!("127.0.0.{number}")}))
        .run()
}

fn local(servers: [&Half; 2], more: Value) -> Half {
    let entries: Vec<_> = servers
        .iter()
        .enumerate()
        .map(|(place, half)| {
            json!({
                "server": "127.0.0.1", "server_port": half.address.port(), "method": METHOD,
                "password": password(METHOD, 1), "warm_connections": 0, "remarks": format!("number {place}"),
            })
        })
        .collect();
    Start::local(Program::Ssr, &Spec::new(METHOD), servers[0].address)
        .with(json!({"servers": entries}))
        .with(more)
        .flags(&["-v"])
        .run()
}

/// Answers every datagram with the last byte of the address that it came from.
fn who() -> Target {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    thread::spawn(move || {
        let mut room = [0; 2048];
        while let Ok((_, from)) = socket.recv_from(&mut room) {
            let SocketAddr::V4(v4) = from else { continue };
            let _gone = socket.send_to(&v4.ip().octets()[3..], from);
        }
    });
    address.into()
}

/// A name server that refuses everything, which is an answer.
fn name_server() -> String {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    thread::spawn(move || {
        let mut room = [0; 2048];
        while let Ok((len @ 12.., from)) = socket.recv_from(&mut room) {
            (room[2], room[3]) = (0x81, 5);
            let _gone = socket.send_to(&room[..len], from);
        }
    });
    address.to_string()
}

/// Answers every HTTP request.
fn portal() -> TcpTarget {
    TcpTarget::serve(|mut stream| {
        let _read = stream.read(&mut [0; 1024]);
        let _gone = stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n");
    })
}

/// Through which server a datagram goes; `None`: there is no answer.
fn asked(association: &Association, target: &Target) -> Option<u8> {
    association.send(target, b"who?");
    let (_, answer) = association.receive(SILENCE)?;
    answer.first().copied()
}

#[test]
fn association_moves_when_the_probe_by_udp_says_that_its_server_has_failed() {
    let (first, second) = (server(2), server(3));
    let portal = portal();
    let local = local(
        [&first, &second],
        json!({"balancer": {
            "strategy": "fallback", "check_interval": 1, "max_server_rtt": 1, "probe_udp": name_server(),
            "probe": format!("127.0.0.1:{}", portal.port()),
        }}),
    );
    let (association, target) = (local.socks().associate(), who());
    eventually("the first server is used", || {
        asked(&association, &target) == Some(2)
    });
    first.process.signal(Signal::STOP);
    let begun = Instant::now();
    eventually("the same association goes through the second", || {
        asked(&association, &target) == Some(3)
    });
    assert!(begun.elapsed() < DEADLINE / 2, "{:?}", begun.elapsed());
    let log = local.process.log();
    let udp_failures = log.lines().filter(|line| {
        line.contains("server fails the probe: others") && line.contains("network=\"udp\"")
    });
    assert_eq!(udp_failures.count(), 1, "{log}");
    first.process.signal(Signal::CONT);
    eventually("it passes again", || {
        let log = local.process.log();
        let mut lines = log.lines();
        lines.any(|line| {
            line.contains("server passes the probe") && line.contains("network=\"udp\"")
        })
    });
    // What moved stays where it works; what begins goes to the first again.
    assert_eq!(asked(&association, &target), Some(3));
    let new = local.socks().associate();
    assert_eq!(asked(&new, &target), Some(2));
}

#[test]
fn without_probes_an_association_moves_when_its_server_fails_for_tcp() {
    let (first, second) = (server(2), server(3));
    let local = local([&first, &second], json!({}));
    let (association, target) = (local.socks().associate(), who());
    association.warm_up(&target);
    assert_eq!(asked(&association, &target), Some(2));
    drop(first);
    assert_eq!(asked(&association, &target), None);
    // A request that goes to the second server tells that the first one fails.
    let web = TcpTarget::echo();
    let _stream = local.socks().connect(&web.v4());
    eventually("the failure is noticed", || {
        local.process.log().contains("server cannot be reached")
    });
    eventually("the association has moved", || {
        asked(&association, &target) == Some(3)
    });
    // It does not move back and forth.
    let moved = || local.process.log().matches("association moves").count();
    let before = moved();
    for _ in 0..20 {
        assert_eq!(asked(&association, &target), Some(3));
    }
    assert_eq!(moved(), before);
}

#[test]
fn without_any_server_datagrams_go_nowhere() {
    let (first, second) = (server(2), server(3));
    let local = local([&first, &second], json!({}));
    let (association, target) = (local.socks().associate(), who());
    association.warm_up(&target);
    drop((first, second));
    let web = TcpTarget::echo();
    for _ in 0..3 {
        let _refused = local.socks().request(CONNECT, &web.v4());
        assert_eq!(asked(&association, &target), None);
    }
    assert_eq!(web.accepted(), 0);
}

/// A SOCKS5 client with a name.
fn login(proxy: SocketAddr, user: &str) -> Socks {
    Socks {
        proxy,
        login: Some((user.to_owned(), "secret".to_owned())),
    }
}

#[test]
fn rules_by_user_hold_for_datagrams_of_socks5() {
    let (first, second) = (server(2), server(3));
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("auth.json");
    let users: Vec<_> = ["ann", "bob", "cid"]
        .map(|user| json!({"user_name": user, "password": "secret"}))
        .into();
    fs::write(&file, json!({"password": {"users": users}}).to_string()).unwrap();
    let local = local(
        [&first, &second],
        json!({
            "locals": [{"local_address": "127.0.0.1", "socks5_auth_config_path": file}],
            "rules": [
                {"user": "bob", "network": "udp", "to": "block"},
                {"user": "cid", "to": "number 1"},
            ],
        }),
    );
    let target = who();
    // One after the other: an association begins with its first datagram.
    let goes = |user: &str| {
        let association = login(local.address, user).associate();
        asked(&association, &target)
    };
    assert_eq!(goes("ann"), Some(2));
    assert_eq!(goes("cid"), Some(3));
    assert_eq!(goes("bob"), None);
    eventually("the log says so", || {
        local.process.log().contains("status=\"blocked\"")
    });
    // The rule is for datagrams alone.
    let web = TcpTarget::echo();
    login(local.address, "bob").connect(&web.v4());
}

#[test]
fn rules_by_user_hold_for_datagrams_of_the_server() {
    let spec = Spec::new(METHOD);
    let (ann, bob) = (password(METHOD, 11), password(METHOD, 12));
    let server = Start::server(Program::Ssr, &spec)
        .with(json!({
            "users": [{"name": "ann", "password": ann}, {"name": "bob", "password": bob}],
            "rules": [{"user": "bob", "to": "block"}],
        }))
        .run();
    let target = who();
    let through = |user: &str| {
        let spec = Spec {
            method: METHOD.to_owned(),
            password: format!("{}:{user}", spec.password),
        };
        Start::local(Program::Ssr, &spec, server.address).run()
    };
    let (ann, bob) = (through(&ann), through(&bob));
    let association = ann.socks().associate();
    association.warm_up(&target);
    assert_eq!(asked(&association, &target), Some(1));
    assert_eq!(asked(&bob.socks().associate(), &target), None);
    assert_eq!(asked(&association, &target), Some(1), "others go on");
}
