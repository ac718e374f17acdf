//! `multiplex` of `ssr local`: to `ssr server`, and to the server of sing-box.

use crate::common::{
    DEADLINE,
    bytes::pattern,
    eventually,
    matrix::{self, Targets},
    peers::{Half, Program::Ssr, Role, Spec, Start},
    process::Process,
    sing_box::SingBox,
    socks::Socks,
    targets::TcpTarget,
};
use serde_json::{Value, json};
use std::{
    io::{Read, Write, copy},
    net::{Shutdown, SocketAddr, TcpStream},
    sync::Barrier,
    thread,
    time::Duration,
};

const METHOD: &str = "2022-blake3-aes-128-gcm";
pub(crate) const PROTOCOLS: [&str; 3] = ["smux", "yamux", "h2mux"];

fn server(spec: &Spec) -> Half {
    Start::server(Ssr, spec).run()
}

/// With `more` keys of `multiplex`.
fn local(spec: &Spec, server: SocketAddr, protocol: &str, more: &Value) -> Half {
    let mut multiplex = json!({"enabled": true, "protocol": protocol});
    let keys = multiplex.as_object_mut().unwrap();
    keys.extend(more.as_object().unwrap().clone());
    Start::local(Ssr, spec, server)
        .with(json!({"multiplex": multiplex}))
        .run()
}

/// Passes connections on to `to`, and counts them.
pub(crate) fn gate(to: SocketAddr) -> TcpTarget {
    TcpTarget::serve(move |near| {
        let Ok(far) = TcpStream::connect(to) else {
            return;
        };
        thread::scope(|scope| {
            for (mut from, mut into) in [(&near, &far), (&far, &near)] {
                scope.spawn(move || {
                    let _ = copy(&mut from, &mut into);
                    let _ = into.shutdown(Shutdown::Write);
                });
            }
        });
    })
}

pub(crate) fn at(gate: &TcpTarget) -> SocketAddr {
    ([127, 0, 0, 1], gate.port()).into()
}

/// The end of a smux stream ends both directions.
pub(crate) fn is_possible(protocol: &str, name: &str) -> bool {
    protocol != "smux" || !name.contains("half-close")
}

/// So many streams at once, each with data of its own.
fn carries_at_once(socks: &Socks, count: usize) {
    let echo = TcpTarget::echo();
    let all_open = Barrier::new(count);
    thread::scope(|scope| {
        for number in 0..count {
            let (echo, all_open) = (&echo, &all_open);
            scope.spawn(move || {
                let mut stream = socks.connect(&echo.v4());
                let sent = pattern(number as u64, 50_000);
                stream.write_all(&sent).unwrap();
                let mut back = vec![0; sent.len()];
                stream.read_exact(&mut back).unwrap();
                assert!(back == sent);
                all_open.wait();
            });
        }
    });
}

#[test]
fn every_protocol_carries_all_traffic_padded_or_not() {
    let (spec, targets) = (Spec::new(METHOD), Targets::start());
    let server = server(&spec);
    for protocol in PROTOCOLS {
        for padding in [false, true] {
            let gate = gate(server.address);
            let more = json!({"padding": padding, "max_connections": 2});
            let local = local(&spec, at(&gate), protocol, &more);
            let failed =
                matrix::failures(&local.socks(), &targets, |name| is_possible(protocol, name));
            assert!(failed.is_empty(), "{protocol} {padding}: {failed:#?}");
            matrix::echoes(&local.socks(), &targets.echo.v4(), 20 << 20);
            assert!(gate.accepted() <= 2, "{}", gate.accepted());
        }
    }
}

#[test]
fn a_hundred_streams_share_as_many_connections_as_the_config_says() {
    let spec = Spec::new(METHOD);
    let server = server(&spec);
    for (protocol, more, expected) in [
        ("smux", json!({"max_connections": 3}), 3..=3),
        (
            "yamux",
            json!({"max_connections": 2, "min_streams": 4}),
            2..=2,
        ),
        ("h2mux", json!({"max_streams": 25}), 4..=4),
        ("h2mux", json!({}), 13..=13),
    ] {
        let gate = gate(server.address);
        let local = local(&spec, at(&gate), protocol, &more);
        carries_at_once(&local.socks(), 100);
        let used = gate.accepted();
        assert!(expected.contains(&used), "{protocol} {more}: {used}");
    }
}

#[test]
fn streams_beyond_what_a_session_takes_are_refused_and_make_room() {
    let spec = Spec::new(METHOD);
    let server = server(&spec);
    let echo = TcpTarget::echo();
    let gate = gate(server.address);
    let local = local(&spec, at(&gate), "h2mux", &json!({"max_connections": 1}));
    let mut all: Vec<TcpStream> = Vec::new();
    for _ in 0..256 {
        let mut stream = local.socks().connect(&echo.v4());
        stream.write_all(b"x").unwrap();
        stream.read_exact(&mut [0]).unwrap();
        all.push(stream);
    }
    let mut refused = local.socks().connect(&echo.v4());
    let _ = refused.write_all(b"x");
    assert!(!matches!(refused.read(&mut [0]), Ok(1..)), "one too many");
    assert_eq!(gate.accepted(), 1);
    drop(all);
    eventually("there is room again", || {
        let mut stream = local.socks().connect(&echo.v4());
        stream.write_all(b"x").is_ok() && matches!(stream.read(&mut [0]), Ok(1))
    });
}

#[test]
fn next_request_works_when_a_killed_server_is_back() {
    let spec = Spec::new(METHOD);
    for protocol in PROTOCOLS {
        let first = server(&spec);
        let address = first.address;
        let echo = TcpTarget::echo();
        let local = local(&spec, address, protocol, &json!({"max_connections": 1}));
        let mut flow = local.socks().connect(&echo.v4());
        flow.write_all(b"x").unwrap();
        flow.read_exact(&mut [0]).unwrap();
        first.process.signal(rustix::process::Signal::KILL);
        let ended = flow.read(&mut [0]);
        assert!(!matches!(ended, Ok(1..)), "the flow ends with its session");
        drop(first);
        let config = json!({
            "server": "127.0.0.1", "server_port": address.port(), "method": spec.method, "password": spec.password,
        });
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        std::fs::write(&path, config.to_string()).unwrap();
        let mut command = Ssr.command(Role::Server, &path);
        let mut again = Process::spawn("ssr server", &mut command).unwrap();
        again.running().unwrap();
        matrix::echoes(&local.socks(), &echo.v4(), 100_000);
        assert!(local.process.log().contains("`multiplex`"), "{protocol}");
    }
}

#[test]
fn requests_go_to_the_next_server_when_sessions_with_the_first_fail() {
    let spec = Spec::new(METHOD);
    let (first, second) = (server(&spec), server(&spec));
    let echo = TcpTarget::echo();
    let entry = |half: &Half, weight: f64| {
        json!({
            "server": "127.0.0.1", "server_port": half.address.port(), "method": spec.method,
            "password": spec.password, "tcp_weight": weight, "multiplex": {"enabled": true, "max_connections": 1},
        })
    };
    let local = Start::local(Ssr, &spec, first.address)
        .with(json!({"servers": [entry(&first, 1.0), entry(&second, 0.5)]}))
        .run();
    matrix::echoes(&local.socks(), &echo.v4(), 1000);
    drop(first);
    for _ in 0..3 {
        matrix::echoes(&local.socks(), &echo.v4(), 1000);
    }
}

/// Bytes that nobody reads do not hold up other streams.
#[test]
fn a_stopped_reader_does_not_hold_up_other_streams() {
    let spec = Spec::new(METHOD);
    let server = server(&spec);
    let echo = TcpTarget::echo();
    let source = TcpTarget::serve(|mut stream| {
        let _ = stream.set_write_timeout(Some(DEADLINE));
        while stream.write_all(&[1; 60_000]).is_ok() {}
    });
    for protocol in ["yamux", "h2mux"] {
        let local = local(
            &spec,
            server.address,
            protocol,
            &json!({"max_connections": 1}),
        );
        let before = local.process.memory_kib("VmRSS");
        let mut stopped: Vec<_> = (0..2)
            .map(|_| local.socks().connect(&source.v4()))
            .collect();
        for stream in &mut stopped {
            stream.read_exact(&mut [0; 1000]).unwrap();
        }
        thread::sleep(Duration::from_millis(500));
        for _ in 0..5 {
            matrix::echoes(&local.socks(), &echo.v4(), 100_000);
        }
        let grown = local.process.memory_kib("VmRSS").saturating_sub(before);
        assert!(grown < 24 << 10, "{protocol}: {grown} KiB");
    }
}

#[test]
fn refused_targets_end_the_stream_and_the_session_goes_on() {
    let spec = Spec::new(METHOD);
    let server = Start::server(Ssr, &spec)
        .with(json!({"rules": [{"ip": ["127.0.0.1"], "port": 1, "to": "block"}]}))
        .run();
    let echo = TcpTarget::echo();
    let gate = gate(server.address);
    let local = local(&spec, at(&gate), "h2mux", &json!({"max_connections": 1}));
    matrix::echoes(&local.socks(), &echo.v4(), 1000);
    let closed = SocketAddr::from(([127, 0, 0, 1], 1)).into();
    let mut refused = local.socks().connect(&closed);
    let _ = refused.write_all(b"x");
    assert!(!matches!(refused.read(&mut [0]), Ok(1..)));
    matrix::echoes(&local.socks(), &echo.v4(), 1000);
    assert_eq!(gate.accepted(), 1);
}

/// What the server of sing-box cannot do: it ends a multiplexed stream in both directions at once, cuts long datagrams, and
/// sends to addresses of the IP version of the first datagram only.
fn is_possible_with_sing_box(name: &str) -> bool {
    !name.contains("half-close")
        && ![
            "udp: full cone",
            "udp: 30000 bytes",
            "udp: IPv6 target",
            "udp: two targets from one socket",
        ]
        .contains(&name)
}

#[test]
#[ignore = "needs peers: scripts/test"]
fn ssr_local_with_multiplex_reaches_a_sing_box_server() {
    let (spec, targets) = (Spec::new(METHOD), Targets::start());
    let server = SingBox::server(&spec, &json!({"multiplex": {"enabled": true}}));
    for protocol in PROTOCOLS {
        for padding in [false, true] {
            eprintln!("{protocol} {padding}");
            let gate = gate(server.address);
            let more = json!({"padding": padding, "max_connections": 2});
            let local = local(&spec, at(&gate), protocol, &more);
            let failed = matrix::failures(&local.socks(), &targets, is_possible_with_sing_box);
            assert!(failed.is_empty(), "{protocol} {padding}: {failed:#?}");
            matrix::echoes(&local.socks(), &targets.echo.v4(), 20 << 20);
            carries_at_once(&local.socks(), 100);
            assert!(gate.accepted() <= 2, "{}", gate.accepted());
        }
    }
}
