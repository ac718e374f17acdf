//! What goes wrong between two halves is said by both, at the default log level, and once.

use crate::common::{
    DEADLINE, eventually,
    peers::{Half, Program, Spec, Start, password},
    process::{free_port, v4},
    seal::{Sealing, now},
    socks::{CONNECT, Target, dial},
    targets::TcpTarget,
};
use rcgen::{CertificateParams, KeyPair};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, UdpSocket},
    time::{Duration, Instant},
};
use tempfile::TempDir;

const METHOD: &str = "2022-blake3-aes-256-gcm";
const NO_REPLY: &str =
    "requests): password, method, clock or transport may differ from the server's";
const REFUSED: &str = "a client was refused";

/// Strangers are closed after a second.
fn server(spec: &Spec, more: Value) -> Half {
    Start::server(Program::Ssr, spec)
        .with(json!({"timeouts": {"handshake": 1}}))
        .with(more)
        .run()
}

fn local(spec: &Spec, server: SocketAddr, more: Value) -> Half {
    Start::local(Program::Ssr, spec, server)
        .with(json!({"warm_connections": 0, "timeouts": {"connect": 2}}))
        .with(more)
        .run()
}

fn spec(method: &str, password: &str) -> Spec {
    Spec {
        method: method.to_owned(),
        password: password.to_owned(),
    }
}

/// A request that asks for nothing in particular. Returns what came back, and how long that took.
fn ask(local: &Half, target: &Target, bytes: &[u8]) -> (Vec<u8>, Duration) {
    let begun = Instant::now();
    let mut answer = Vec::new();
    if let Ok((mut stream, 0, _)) = local.socks().request(CONNECT, target) {
        let _gone = stream.write_all(bytes);
        let _reset = stream.read_to_end(&mut answer);
    }
    (answer, begun.elapsed())
}

fn lines<'a>(log: &'a str, text: &str) -> Vec<&'a str> {
    log.lines().filter(|line| line.contains(text)).collect()
}

/// Waits for lines with this text, and returns them.
fn said(half: &Half, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    eventually(text, || {
        let log = half.process.log();
        found = lines(&log, text).into_iter().map(str::to_owned).collect();
        !found.is_empty()
    });
    found
}

/// That the log has one line with this text, which also has each of `parts`.
fn said_once(half: &Half, text: &str, parts: &[&str]) {
    let found = said(half, text);
    assert_eq!(found.len(), 1, "{found:?}");
    for part in parts {
        assert!(found[0].contains(part), "`{part}` is not in {found:?}");
    }
}

/// The local's complaint about a server.
fn no_reply(local: &Half, server: SocketAddr) {
    said_once(
        local,
        NO_REPLY,
        &["WARN", &format!("no reply from {server} (3 ")],
    );
}

/// That both halves say once why none of ten requests works, and that the server counts the cause.
fn both_say(local: &Half, server: &Half, status: &str, parts: &[&str]) {
    let target = TcpTarget::echo();
    for _ in 0..3 {
        let (answer, time) = ask(local, &target.v4(), b"hello");
        assert!(answer.is_empty() && time < DEADLINE, "{time:?}");
    }
    no_reply(local, server.address);
    std::thread::scope(|scope| {
        for _ in 0..7 {
            scope.spawn(|| ask(local, &target.v4(), b"hello"));
        }
    });
    assert_eq!(target.accepted(), 0);
    no_reply(local, server.address);
    let cause = format!("status=\"{status}\"");
    let all = [
        &["WARN", "source=127.0.0.1", "network=\"tcp\"", &cause],
        parts,
    ]
    .concat();
    said_once(server, &format!("{REFUSED} "), &all);
}

/// Waits until a counter has this value. What the client has seen may not be counted yet, so the half is asked again.
fn counted(half: &Half, text: &str) {
    eventually(text, || {
        half.process.signal(Signal::USR1);
        let log = half.process.log();
        log.lines()
            .any(|line| line.contains("counters:") && line.contains(text))
    });
}

/// The counters of both halves after that.
fn both_count(local: &Half, server: &Half, status: &str) {
    counted(server, &format!("failed.{status}=10"));
    said_once(
        server,
        &format!("{REFUSED}: more lines like this"),
        &["unlogged=9"],
    );
    counted(local, "failed.no_answer=10");
}

#[test]
fn a_wrong_password_is_said_by_both_halves() {
    for method in [METHOD, "aes-256-gcm", "chacha20-ietf-poly1305"] {
        let server = server(&Spec::new(method), json!({}));
        let wrong = spec(method, &password(method, 2));
        let local = local(&wrong, server.address, json!({}));
        both_say(&local, &server, "unauthenticated", &["wrong key or method"]);
        both_count(&local, &server, "unauthenticated");
    }
}

#[test]
fn a_wrong_method_or_family_is_said_by_both_halves() {
    for (ours, theirs) in [
        ("aes-256-gcm", "chacha20-ietf-poly1305"),
        (METHOD, "2022-blake3-chacha20-poly1305"),
        (METHOD, "aes-256-gcm"),
    ] {
        let server = server(&Spec::new(theirs), json!({}));
        let local = local(&Spec::new(ours), server.address, json!({}));
        both_say(&local, &server, "unauthenticated", &[]);
        both_count(&local, &server, "unauthenticated");
    }
}

/// A server with two users.
fn with_users() -> Value {
    let user = |name: &str, seed| json!({"name": name, "password": password(METHOD, seed)});
    json!({"users": [user("alice", 11), user("bob", 12)]})
}

fn as_user(seed: u64) -> Spec {
    let both = [password(METHOD, 1), password(METHOD, seed)].join(":");
    spec(METHOD, &both)
}

#[test]
fn an_unknown_user_is_said_by_both_halves() {
    let server = server(&Spec::new(METHOD), with_users());
    let local = local(&as_user(13), server.address, json!({}));
    both_say(
        &local,
        &server,
        "unknown_identity",
        &["no user of this server"],
    );
    both_count(&local, &server, "unknown_identity");
}

#[test]
#[ignore = "needs faketime"]
fn a_clock_that_is_off_is_said_by_both_halves_with_the_user_and_the_direction() {
    for (offset, direction) in [("+5m", "behind ours"), ("-5m", "ahead of ours")] {
        let faketime = [
            "env",
            "FAKETIME_DONT_FAKE_MONOTONIC=1",
            "faketime",
            "-f",
            offset,
        ];
        let server = Start::server(Program::Ssr, &Spec::new(METHOD))
            .with(json!({"timeouts": {"handshake": 1}}))
            .with(with_users())
            .wrapped(&faketime)
            .run();
        let local = local(&as_user(12), server.address, json!({}));
        let parts = [
            "user=\"bob\"",
            "the peer's clock is ",
            direction,
            "set both clocks",
        ];
        both_say(&local, &server, "timestamp_skew", &parts);
    }
}

#[test]
fn a_server_says_how_far_a_clock_is_off_and_answers_nothing() {
    let server = server(&Spec::new(METHOD), json!({}));
    let sealing = Sealing::new(&Spec::new(METHOD));
    let target = TcpTarget::echo();
    for (by, words) in [(-300_i64, "s behind ours"), (300, "s ahead of ours")] {
        for _ in 0..3 {
            let mut request = sealing.request(&target.v4(), b"hello");
            request.timestamp = now().checked_add_signed(by).unwrap();
            let mut stream = dial(server.address);
            stream.write_all(&sealing.seal(&request)).unwrap();
            let begun = Instant::now();
            let mut answer = Vec::new();
            let _reset = stream.read_to_end(&mut answer);
            assert!(answer.is_empty());
            let waited = begun.elapsed();
            assert!(
                waited > Duration::from_millis(700),
                "closed like all: {waited:?}"
            );
        }
        if by < 0 {
            // Of the same source and cause, the next ones are counted only.
            said_once(
                &server,
                &format!("{REFUSED} "),
                &["timestamp_skew", "300 s", words],
            );
        }
    }
    said_once(&server, &format!("{REFUSED} "), &["timestamp_skew"]);
    assert_eq!(target.accepted(), 0);
}

/// Several servers, the first with another key.
fn beside_a_wrong_one() -> (Half, Half, Half) {
    let wrong = server(&spec(METHOD, &password(METHOD, 2)), json!({}));
    let right = server(&Spec::new(METHOD), json!({}));
    let entry = |half: &Half| {
        json!({"server": "127.0.0.1", "server_port": half.address.port(), "method": METHOD,
            "password": password(METHOD, 1), "warm_connections": 0})
    };
    let servers = json!({"servers": [entry(&wrong), entry(&right)]});
    let local = local(&Spec::new(METHOD), wrong.address, servers);
    (wrong, right, local)
}

/// Answers the first bytes of a request and closes.
fn portal() -> TcpTarget {
    TcpTarget::serve(|mut stream| {
        let _read = stream.read(&mut [0; 1024]);
        let _gone = stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n");
    })
}

#[test]
fn a_request_goes_to_the_next_server_when_the_first_has_a_wrong_key() {
    let target = portal();
    for request in [
        &b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[..],
        b"POST / HTTP/1.1\r\n\r\n",
        b"\x01",
    ] {
        let (wrong, _right, local) = beside_a_wrong_one();
        let before = target.accepted();
        for _ in 0..6 {
            let (answer, time) = ask(&local, &target.v4(), request);
            assert!(answer.starts_with(b"HTTP/1.1 204"), "{answer:?} {time:?}");
            assert!(time < DEADLINE / 2, "{time:?}");
        }
        assert_eq!(target.accepted(), before + 6, "none runs twice");
        let address = format!("server={}", wrong.address);
        let line = "server did not answer what another server answered";
        said_once(&local, line, &["WARN", &address]);
        said_once(&wrong, &format!("{REFUSED} "), &["unauthenticated"]);
        let log = local.process.log();
        assert!(lines(&log, NO_REPLY).is_empty(), "{log}");
    }
}

/// A certificate, and what both sides need for it.
fn identity() -> (TempDir, Value, Value) {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["proxy.example".to_owned()]).unwrap();
    let cert = params.self_signed(&key).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, text: String| {
        let path = directory.path().join(name);
        fs::write(&path, text).unwrap();
        json!(path)
    };
    let cert = file("cert.pem", cert.pem());
    let own = json!({"cert": &cert, "key": file("key.pem", key.serialize_pem())});
    let trusted = json!({"server_name": "proxy.example", "ca": cert});
    (directory, own, trusted)
}

#[test]
fn a_plain_local_at_a_server_with_tls_or_websocket_is_said_by_both_halves() {
    let (_files, own, _) = identity();
    for transport in [
        json!({"type": "tcp", "tls": own}),
        json!({"type": "ws", "path": "/here"}),
    ] {
        let server = server(&Spec::new(METHOD), json!({"transport": transport}));
        let local = local(&Spec::new(METHOD), server.address, json!({}));
        let target = TcpTarget::echo();
        for _ in 0..6 {
            let (answer, time) = ask(&local, &target.v4(), b"hello");
            assert!(answer.is_empty() && time < DEADLINE / 2, "{time:?}");
        }
        no_reply(&local, server.address);
        said_once(
            &server,
            &format!("{REFUSED} "),
            &["WARN", "status=\"transport\""],
        );
    }
}

#[test]
fn a_local_with_tls_or_websocket_at_a_plain_server_is_said_by_both_halves() {
    let (_files, _, trusted) = identity();
    for (transport, protocol) in [
        (json!({"type": "tcp", "tls": trusted}), "this is TLS"),
        (json!({"type": "ws", "path": "/here"}), "this is HTTP"),
    ] {
        let server = server(&Spec::new(METHOD), json!({}));
        let local = local(
            &Spec::new(METHOD),
            server.address,
            json!({"transport": transport}),
        );
        let target = TcpTarget::echo();
        for _ in 0..4 {
            let (answer, time) = ask(&local, &target.v4(), b"hello");
            assert!(answer.is_empty() && time < DEADLINE / 2, "{time:?}");
        }
        let address = format!("server={}", server.address);
        said_once(
            &local,
            "server cannot be reached",
            &["WARN", &address, "transport"],
        );
        let parts = [
            "WARN",
            "status=\"other_protocol\"",
            protocol,
            "`transport` may differ",
        ];
        said_once(&server, &format!("{REFUSED} "), &parts);
    }
}

#[test]
fn a_target_that_is_refused_or_denied_is_said_by_the_server_and_is_no_fault_of_it() {
    let server = server(&Spec::new(METHOD), json!({"deny_private": true}));
    let local = local(&Spec::new(METHOD), server.address, json!({}));
    for _ in 0..2 {
        let (answer, time) = ask(&local, &v4(free_port()).into(), b"hello");
        assert!(answer.is_empty() && time < DEADLINE / 2, "{time:?}");
    }
    let line = "a client's request got no connection ";
    said_once(
        &server,
        line,
        &[
            "INFO",
            "status=\"denied\"",
            "target=127.0.0.1:",
            "deny_private",
        ],
    );

    let server = self::server(&Spec::new(METHOD), json!({}));
    let local = self::local(&Spec::new(METHOD), server.address, json!({}));
    let target = portal();
    assert!(!ask(&local, &target.v4(), b"hello").0.is_empty());
    let nobody = v4(free_port()).into();
    for _ in 0..5 {
        assert!(ask(&local, &nobody, b"hello").0.is_empty());
    }
    said_once(
        &server,
        line,
        &["INFO", "status=\"connect\"", "target=127.0.0.1:"],
    );
    let address = format!("server={}", server.address);
    let line = "the server ended a request without an answer";
    said_once(
        &local,
        &format!("{line}: it may not"),
        &["INFO", &address, "target=127.0.0.1:"],
    );
    let log = local.process.log();
    assert!(
        lines(&log, NO_REPLY).is_empty() && lines(&log, "WARN").is_empty(),
        "{log}"
    );
    assert!(!ask(&local, &target.v4(), b"hello").0.is_empty());
}

/// Answers every datagram.
fn udp_echo() -> Target {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut room = [0; 2048];
        while let Ok((len, from)) = socket.recv_from(&mut room) {
            let _gone = socket.send_to(&room[..len], from);
        }
    });
    address.into()
}

#[test]
fn datagrams_under_a_wrong_key_are_said_by_both_halves() {
    for method in [METHOD, "aes-256-gcm"] {
        let server = server(&Spec::new(method), json!({}));
        let local = local(
            &spec(method, &password(method, 2)),
            server.address,
            json!({}),
        );
        let target = udp_echo();
        let associations: Vec<_> = (0..5).map(|_| local.socks().associate()).collect();
        for association in &associations {
            for _ in 0..3 {
                association.send(&target, b"hello");
            }
        }
        let line = format!("no datagram came back from {} (", server.address);
        said_once(
            &local,
            &line,
            &["WARN", "sent): password, method or clock may differ"],
        );
        assert!(associations[0].receive(Duration::from_secs(3)).is_none());
        said_once(&local, &line, &[]);
        let parts = [
            "WARN",
            "source=127.0.0.1",
            "network=\"udp\"",
            "unauthenticated",
        ];
        said_once(&server, &format!("{REFUSED} "), &parts);
        counted(&server, "failed.unauthenticated=15");
    }
}

#[test]
fn datagrams_go_to_the_next_server_when_the_first_has_a_wrong_key() {
    let (wrong, _right, local) = beside_a_wrong_one();
    let (target, association) = (udp_echo(), local.socks().associate());
    eventually("an answer", || {
        association.send(&target, b"hello");
        association.receive(Duration::from_millis(500)).is_some()
    });
    said_once(
        &local,
        &format!("no datagram came back from {} (", wrong.address),
        &[],
    );
}

#[test]
fn a_denied_target_of_datagrams_is_said_by_the_server() {
    let server = server(&Spec::new(METHOD), json!({"deny_private": true}));
    let local = local(&Spec::new(METHOD), server.address, json!({}));
    let (target, association) = (udp_echo(), local.socks().associate());
    for _ in 0..5 {
        association.send(&target, b"hello");
    }
    let parts = [
        "INFO",
        "network=\"udp\"",
        "status=\"denied\"",
        "target=127.0.0.1:",
    ];
    said_once(&server, "a client's request got no connection ", &parts);
    counted(&server, "failed.denied=5");
    said_once(&server, "a client's request got no connection ", &parts);
}

#[test]
fn a_program_does_not_wait_long_for_a_server_that_answers_nobody() {
    // It takes what it is sent, and never answers: as other servers do with a wrong key.
    let deaf = TcpTarget::silent();
    let address = SocketAddr::from(([127, 0, 0, 1], deaf.port()));
    let local = local(&Spec::new(METHOD), address, json!({}));
    let target = TcpTarget::echo();
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let mut stream = local.socks().connect(&target.v4());
                stream.write_all(b"hello").unwrap();
                // A client that gives up.
                stream
                    .set_read_timeout(Some(Duration::from_millis(3500)))
                    .unwrap();
                assert!(stream.read(&mut [0]).is_err());
            });
        }
    });
    no_reply(&local, address);
    let (answer, time) = ask(&local, &target.v4(), b"hello");
    assert!(answer.is_empty());
    assert!(time < Duration::from_secs(14), "{time:?}");
}
