//! Forwards from TCP to WebSocket and back, plain and in TLS.

use crate::common::{
    self, DEADLINE, eventually,
    forward::{self, Forwarder},
    peers::ssr,
    process::free_port,
    targets::TcpTarget,
};
use std::{
    io::{ErrorKind, Read, Write},
    path::PathBuf,
    time::{Duration, Instant},
};
use tempfile::TempDir;

const MIB: usize = 1 << 20;

/// A certificate for `cdn.example` that signs itself, and its key.
struct Certificate {
    _dir: TempDir,
    cert: PathBuf,
    key: PathBuf,
}

impl Certificate {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let made = rcgen::generate_simple_self_signed(["cdn.example".to_owned()]).unwrap();
        let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
        std::fs::write(&cert, made.cert.pem()).unwrap();
        std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        Self {
            _dir: dir,
            cert,
            key,
        }
    }
}

/// TCP to WebSocket, and WebSocket to TCP: between them the scheme says.
struct Chain {
    near: Forwarder,
    far: Forwarder,
    _certificate: Option<Certificate>,
}

impl Chain {
    fn ws(target: u16) -> Self {
        let far = Forwarder::start("ws", "/tunnel", &format!("tcp://127.0.0.1:{target}"), &[]);
        let url = format!("ws://{}/tunnel?header=X-Key:%20k", far.address);
        Self {
            near: Forwarder::start("tcp", "", &url, &[]),
            far,
            _certificate: None,
        }
    }

    fn wss(target: u16) -> Self {
        let made = Certificate::new();
        let (cert, key) = (made.cert.display(), made.key.display());
        let far = Forwarder::start(
            "wss",
            &format!("/t?cert={cert}&key={key}&host=cdn.example"),
            &format!("tcp://127.0.0.1:{target}"),
            &[],
        );
        let url = format!("wss://{}/t?host=cdn.example&ca={cert}", far.address);
        Self {
            near: Forwarder::start("tcp", "", &url, &[]),
            far,
            _certificate: Some(made),
        }
    }
}

fn carries_everything(chain: fn(u16) -> Chain) {
    let duplex = TcpTarget::duplex();
    let both = chain(duplex.port());
    for (up, down) in [(1, 1), (5 * MIB, 1), (1, 5 * MIB), (20 * MIB, 20 * MIB)] {
        forward::both_ways(both.near.connect(), up, down);
    }
    let digest = TcpTarget::digest_at_end();
    let both = chain(digest.port());
    for len in [0, 1, 3 * MIB] {
        forward::answer_after_the_end(both.near.connect(), len);
    }
    let banner = TcpTarget::speaks_first();
    forward::server_speaks_first(chain(banner.port()).near.connect());
}

#[test]
fn two_in_a_row_over_websocket_carry_what_a_wire_does() {
    carries_everything(Chain::ws);
}

#[test]
fn two_in_a_row_over_tls_carry_what_a_wire_does() {
    carries_everything(Chain::wss);
}

#[test]
fn fifty_at_once_pass_both() {
    let target = TcpTarget::duplex();
    let chain = Chain::ws(target.port());
    let works: Vec<_> = (0..50)
        .map(|_| {
            let stream = chain.near.connect();
            std::thread::spawn(|| forward::both_ways(stream, 100_000, 200_000))
        })
        .collect();
    for work in works {
        work.join().unwrap();
    }
}

/// Sends a request and reads the answer to its end.
fn asks(forward: &Forwarder, head: &str) -> String {
    let mut stream = forward.connect();
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = Vec::new();
    let _reset = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

const UPGRADE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

#[test]
fn whoever_asks_for_something_else_gets_the_page_of_a_web_server() {
    let target = TcpTarget::echo();
    let url = format!("tcp://127.0.0.1:{}", target.port());
    let forward = Forwarder::start("ws", "/tunnel?host=cdn.example", &url, &[]);
    for head in [
        "GET / HTTP/1.1\r\nHost: cdn.example\r\n\r\n".to_owned(),
        "POST /tunnel HTTP/1.1\r\nHost: cdn.example\r\n\r\n".to_owned(),
        format!("GET /other HTTP/1.1\r\nHost: cdn.example\r\n{UPGRADE}"),
        format!("GET /tunnel HTTP/1.1\r\nHost: elsewhere.example\r\n{UPGRADE}"),
    ] {
        let answer = asks(&forward, &head);
        assert!(answer.starts_with("HTTP/1.1 404 "), "{head}: {answer}");
    }
    let answer = asks(&forward, "\x16\x03\x01 garbage\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert_eq!(target.accepted(), 0, "none of them reached the target");
}

#[test]
fn a_target_that_refuses_is_a_bad_gateway_and_a_line_in_the_log() {
    let port = free_port();
    let forward = Forwarder::start("ws", "/", &format!("tcp://127.0.0.1:{port}"), &[]);
    let answer = asks(&forward, &format!("GET / HTTP/1.1\r\nHost: a\r\n{UPGRADE}"));
    assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
    eventually("a line about it", || {
        forward.process.log().contains("cannot reach the target")
    });
    // And the one in front closes its client for it, and says why.
    let near = Forwarder::start("tcp", "", &format!("ws://{}", forward.address), &[]);
    let mut stream = near.connect();
    let read = stream.read(&mut [0]);
    assert!(!matches!(read, Ok(1)), "{read:?}");
    eventually("a line about the answer", || {
        near.process.log().contains("502")
    });
}

#[test]
fn a_server_that_is_not_the_one_meant_is_refused() {
    let target = TcpTarget::echo();
    let chain = Chain::wss(target.port());
    for trust in ["", "&server_name=other.example"] {
        let ca = chain._certificate.as_ref().unwrap().cert.display();
        let query = match trust {
            "" => "?host=cdn.example".to_owned(),
            more => format!("?host=cdn.example&ca={ca}{more}"),
        };
        let url = format!("wss://{}/t{query}", chain.far.address);
        let near = Forwarder::start("tcp", "", &url, &[]);
        let mut stream = near.connect();
        let read = stream.read(&mut [0]);
        assert!(!matches!(read, Ok(1)), "{read:?}");
        eventually("a line about it", || {
            near.process.log().to_lowercase().contains("certificate")
        });
    }
    assert_eq!(target.accepted(), 0);
    let url = format!("wss://{}/t?host=cdn.example&insecure=1", chain.far.address);
    let near = Forwarder::start("tcp", "", &url, &[]);
    forward::echoes(near.connect(), b"whoever you are");
}

#[test]
fn a_target_killed_in_mid_flow_is_no_good_end_for_the_client() {
    let target = TcpTarget::serve(|mut stream| {
        stream.read_exact(&mut [0; 2]).unwrap();
        common::targets::write_pattern(&mut stream, 1, 3 * MIB).unwrap();
        socket2::SockRef::from(&stream)
            .set_linger(Some(Duration::ZERO))
            .unwrap();
    });
    let chain = Chain::ws(target.port());
    let mut stream = chain.near.connect();
    stream.write_all(b"go").unwrap();
    let end = stream.read_to_end(&mut Vec::new()).unwrap_err();
    assert_eq!(end.kind(), ErrorKind::ConnectionReset);
}

#[test]
fn a_silent_client_is_closed_when_the_time_for_its_request_is_over() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.json");
    std::fs::write(&file, r#"{"timeouts": {"handshake": 1}}"#).unwrap();
    let forward = Forwarder::start(
        "ws",
        "/",
        "tcp://127.0.0.1:9",
        &["-c", file.to_str().unwrap()],
    );
    let mut stream = forward.connect();
    stream.write_all(b"GET / HTTP/1.1\r\n").unwrap();
    let begun = Instant::now();
    let mut rest = Vec::new();
    let _reset = stream.read_to_end(&mut rest);
    assert!(begun.elapsed() < DEADLINE / 2, "{:?}", begun.elapsed());
}

#[test]
fn a_wrong_option_is_told_by_name_and_with_a_hint() {
    for (listen, target, parts) in [
        (
            "ws://127.0.0.1:0/?cert=x",
            "tcp://a:1",
            ["no option `cert`", "`wss`"],
        ),
        (
            "wss://127.0.0.1:0",
            "tcp://a:1",
            ["a TLS server needs `cert`", "openssl req"],
        ),
        (
            "wss://127.0.0.1:0/?ca=x",
            "tcp://a:1",
            ["LISTEN: `ca` has no effect", "`cert`"],
        ),
        (
            "tcp://127.0.0.1:0",
            "ws://a/?x=1",
            ["TARGET: the URL has an unknown option `x`", "%3F"],
        ),
        (
            "tcp://127.0.0.1:0",
            "wss://a/?pin_sha256=x",
            ["`pin_sha256`", "base64"],
        ),
        (
            "tcp://127.0.0.1:0",
            "wss://a/?header=x",
            ["header", "Name: value"],
        ),
        (
            "tcp://127.0.0.1:0",
            "wss://a/?host=b&host=c",
            ["`host` is given twice", "TARGET"],
        ),
    ] {
        let output = ssr(&["forward", listen, target]).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(78), "{listen} {target}: {said}");
        for part in parts {
            assert!(said.contains(part), "no {part:?} in {said}");
        }
    }
    let output = ssr(&[
        "forward",
        "wss://127.0.0.1:0/?cert=/nowhere&key=/nowhere",
        "tcp://a:1",
    ]);
    let output = { output }.output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        !output.status.success() && said.contains("/nowhere"),
        "{said}"
    );
}
