//! The SOCKS5 face of `ssr local`: RFC 1928 and RFC 1929, spoken well and badly.

use crate::common::{
    self, DEADLINE, SILENCE, matrix,
    peers::{Pair, Program, Spec, Start},
    process::{free_port, v4},
    socks::{
        self, ASSOCIATE, BIND, CONNECT, Socks, Target, login_bytes, read_array, read_reply,
        request_bytes,
    },
    targets::TcpTarget,
    udp::UdpTarget,
};
use serde_json::json;
use std::{
    io::{Read, Write},
    net::{Shutdown, TcpStream},
    time::Duration,
};

const METHOD: &str = "2022-blake3-aes-128-gcm";

fn pair() -> Pair {
    Pair::ssr(METHOD)
}

/// A greeting answered with "no authentication".
fn greeted(socks: &Socks) -> TcpStream {
    let mut stream = socks.dial();
    stream.write_all(&[5, 1, 0]).unwrap();
    assert_eq!(read_array(&mut stream), [5, 0]);
    stream
}

fn ends(stream: &mut TcpStream) {
    let mut rest = Vec::new();
    match stream.read_to_end(&mut rest) {
        Ok(_) => assert!(rest.is_empty(), "more bytes: {rest:?}"),
        Err(err) => assert_eq!(
            err.kind(),
            std::io::ErrorKind::ConnectionReset,
            "the proxy ends the connection"
        ),
    }
}

#[test]
fn bind_is_refused_with_reply_7() {
    let pair = pair();
    let (mut stream, code, _) = pair
        .socks()
        .request(BIND, &Target::name("localhost", 80))
        .unwrap();
    assert_eq!(code, 7);
    ends(&mut stream);
}

#[test]
fn an_unknown_command_is_refused_with_reply_7() {
    let pair = pair();
    for command in [0, 4, 0xf0, 0xff] {
        let (mut stream, code, _) = pair
            .socks()
            .request(command, &Target::name("localhost", 80))
            .unwrap();
        assert_eq!(code, 7, "command {command}");
        ends(&mut stream);
    }
}

#[test]
fn an_unknown_address_type_is_refused_with_reply_8() {
    let pair = pair();
    for kind in [0, 2, 5, 255] {
        let mut stream = greeted(&pair.socks());
        stream.write_all(&[5, CONNECT, 0, kind]).unwrap();
        assert_eq!(read_reply(&mut stream).0, 8, "address type {kind}");
        ends(&mut stream);
    }
}

#[test]
fn a_greeting_without_an_acceptable_method_gets_0xff() {
    let pair = pair();
    for greeting in [vec![5, 1, 2], vec![5, 2, 1, 0x80], vec![5, 0]] {
        let mut stream = pair.socks().dial();
        stream.write_all(&greeting).unwrap();
        assert_eq!(read_array(&mut stream), [5, 0xff], "greeting {greeting:?}");
        ends(&mut stream);
    }
}

#[test]
fn another_protocol_is_closed() {
    let pair = pair();
    for first in [
        b"GET / HTTP/1.1\r\n\r\n".as_slice(),
        &[0x16, 3, 1, 0, 5],
        &[0],
    ] {
        let mut stream = pair.socks().dial();
        stream.write_all(first).unwrap();
        let mut rest = Vec::new();
        match stream.read_to_end(&mut rest) {
            Ok(_) => {}
            Err(err) => assert_eq!(
                err.kind(),
                std::io::ErrorKind::ConnectionReset,
                "the proxy closes it"
            ),
        }
    }
}

#[test]
fn a_method_list_is_searched_to_its_end() {
    let pair = pair();
    let mut stream = pair.socks().dial();
    let methods: Vec<u8> = (0..255).rev().collect();
    stream
        .write_all(&[&[5, 255], methods.as_slice()].concat())
        .unwrap();
    assert_eq!(read_array(&mut stream), [5, 0]);
}

/// A pair whose local side knows one user.
fn with_login() -> (Pair, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("auth.json");
    let users = json!({"password": {"users": [{"user_name": "ann", "password": "s3cret"}]}});
    std::fs::write(&file, users.to_string()).unwrap();
    let spec = Spec::new(METHOD);
    let pair = Pair::with(Start::server(Program::Ssr, &spec), |at| {
        let login =
            json!({"locals": [{"local_address": "127.0.0.1", "socks5_auth_config_path": file}]});
        Start::local(Program::Ssr, &spec, at).with(login)
    });
    (pair, dir)
}

#[test]
fn a_right_login_is_served_and_a_wrong_one_refused() {
    let (pair, _file) = with_login();
    let echo = TcpTarget::echo();
    let socks = |user: &str, password: &str| Socks {
        proxy: pair.local.address,
        login: Some((user.into(), password.into())),
    };
    matrix::echoes(&socks("ann", "s3cret"), &echo.v4(), 5000);
    let udp = UdpTarget::echo();
    socks("ann", "s3cret").associate().warm_up(&udp.target());
    for (user, password) in [("ann", "guess"), ("bob", "s3cret"), ("ann", ""), ("", "")] {
        let refused = socks(user, password).request(CONNECT, &echo.v4());
        assert!(matches!(refused, Err(1..)), "{user}:{password} is let in");
    }
    let refused = pair.socks().request(CONNECT, &echo.v4());
    assert!(matches!(refused, Err(0xff)), "no login is let in");
}

#[test]
fn a_login_may_arrive_in_one_segment_with_everything_else() {
    let (pair, _file) = with_login();
    let echo = TcpTarget::echo();
    let mut stream = pair.socks().dial();
    let all = [
        vec![5, 2, 0, 2],
        login_bytes("ann", "s3cret"),
        request_bytes(CONNECT, &echo.v4()),
        b"payload".to_vec(),
    ];
    stream.write_all(&all.concat()).unwrap();
    assert_eq!(read_array(&mut stream), [5, 2]);
    assert_eq!(read_array(&mut stream), [1, 0]);
    assert_eq!(read_reply(&mut stream).0, 0);
    assert_eq!(&read_array::<7>(&mut stream), b"payload");
}

#[test]
fn greeting_request_and_payload_may_come_in_one_segment() {
    let pair = pair();
    let echo = TcpTarget::echo();
    for target in [echo.v4(), echo.v6(), echo.name()] {
        let mut stream = pair.socks().dial();
        let all = [
            vec![5, 1, 0],
            request_bytes(CONNECT, &target),
            b"payload".to_vec(),
        ]
        .concat();
        stream.write_all(&all).unwrap();
        assert_eq!(read_array(&mut stream), [5, 0]);
        assert_eq!(read_reply(&mut stream).0, 0);
        assert_eq!(&read_array::<7>(&mut stream), b"payload");
    }
}

#[test]
fn everything_then_the_end_in_one_go_is_served() {
    let pair = pair();
    let target = TcpTarget::digest_at_end();
    let mut stream = pair.socks().dial();
    let all = [
        vec![5, 1, 0],
        request_bytes(CONNECT, &target.v4()),
        b"payload".to_vec(),
    ]
    .concat();
    stream.write_all(&all).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_array(&mut stream), [5, 0]);
    assert_eq!(read_reply(&mut stream).0, 0);
    assert_eq!(read_array(&mut stream), common::bytes::digest(b"payload"));
    ends(&mut stream);
}

#[test]
fn everything_may_come_byte_by_byte() {
    let pair = pair();
    let echo = TcpTarget::echo();
    for target in [echo.v4(), echo.v6(), echo.name()] {
        let mut stream = pair.socks().dial();
        let all = [
            vec![5, 1, 0],
            request_bytes(CONNECT, &target),
            b"payload".to_vec(),
        ]
        .concat();
        socks::write_byte_by_byte(&mut stream, &all).unwrap();
        assert_eq!(read_array(&mut stream), [5, 0]);
        assert_eq!(read_reply(&mut stream).0, 0);
        assert_eq!(&read_array::<7>(&mut stream), b"payload");
    }
}

#[test]
fn the_longest_name_passes_and_an_empty_one_is_refused() {
    let pair = pair();
    let long = format!("{}.invalid", "a".repeat(50)).repeat(5)[..255].to_owned();
    let (mut stream, _, _) = pair
        .socks()
        .request(CONNECT, &Target::name(&long, 80))
        .unwrap();
    ends_in_time(&mut stream);
    let (mut stream, code, _) = pair
        .socks()
        .request(CONNECT, &Target::name("", 80))
        .unwrap();
    assert_ne!(code, 0, "an empty name");
    ends(&mut stream);
}

/// Reads until the connection ends, whatever comes.
fn ends_in_time(stream: &mut TcpStream) {
    let mut rest = Vec::new();
    if let Err(err) = stream.read_to_end(&mut rest) {
        assert_eq!(
            err.kind(),
            std::io::ErrorKind::ConnectionReset,
            "the proxy ends the connection"
        );
    }
}

#[test]
fn a_target_that_refuses_ends_the_connection() {
    let pair = pair();
    let (mut stream, code, _) = pair
        .socks()
        .request(CONNECT, &v4(free_port()).into())
        .unwrap();
    if code == 0 {
        ends_in_time(&mut stream);
    }
}

#[test]
fn a_name_that_does_not_exist_ends_the_connection() {
    let pair = pair();
    let (mut stream, code, _) = pair
        .socks()
        .request(CONNECT, &Target::name("no-such-host.invalid", 80))
        .unwrap();
    if code == 0 {
        ends_in_time(&mut stream);
    }
}

#[test]
fn after_a_failed_dial_the_reply_is_the_truth() {
    let local = Start::local(Program::Ssr, &Spec::new(METHOD), v4(free_port())).run();
    let target = Target::name("localhost", 80);
    let (mut stream, code, _) = local.socks().request(CONNECT, &target).unwrap();
    if code == 0 {
        ends_in_time(&mut stream); // the first client may have been answered before the dial failed
    }
    for _ in 0..3 {
        let (mut stream, code, _) = local.socks().request(CONNECT, &target).unwrap();
        assert!(
            [1, 3, 4, 5].contains(&code),
            "reply {code} while the server is down"
        );
        ends(&mut stream);
    }
}

#[test]
fn a_server_that_comes_back_is_used() {
    let spec = Spec::new(METHOD);
    let echo = TcpTarget::echo();
    let server = Start::server(Program::Ssr, &spec).run();
    let local = Start::local(Program::Ssr, &spec, server.address).run();
    let port = server.address.port();
    drop(server);
    for _ in 0..2 {
        if let Ok((mut stream, 0, _)) = local.socks().request(CONNECT, &echo.v4()) {
            ends_in_time(&mut stream);
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.json");
    let config = json!({"server": "127.0.0.1", "server_port": port, "method": spec.method, "password": spec.password});
    std::fs::write(&file, config.to_string()).unwrap();
    let mut command = Program::Ssr.command(common::peers::Role::Server, &file);
    let mut server = common::process::Process::spawn("ssr server", &mut command).unwrap();
    server.running().unwrap();
    matrix::echoes(&local.socks(), &echo.v4(), 100);
}

#[test]
fn a_client_that_leaves_during_the_handshake_costs_nothing() {
    let pair = pair();
    let idle = pair.local.process.files_at_rest();
    let all = [
        vec![5, 1, 0],
        request_bytes(CONNECT, &Target::name("localhost", 80)),
    ]
    .concat();
    for len in 0..all.len() {
        let mut stream = pair.socks().dial();
        stream.write_all(&all[..len]).unwrap();
    }
    common::eventually("every socket is closed", || {
        pair.local.process.open_files() <= idle
    });
}

#[test]
fn a_client_that_says_nothing_is_closed_at_the_handshake_timeout() {
    let spec = Spec::new(METHOD);
    let timeouts = json!({"timeouts": {"handshake": 1}});
    let local = Start::local(Program::Ssr, &spec, v4(free_port()))
        .with(timeouts)
        .run();
    for said in [&[][..], &[5], &[5, 1, 0], &[5, 1, 0, 5, 1]] {
        let mut stream = local.socks().dial();
        stream.write_all(said).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(4)))
            .unwrap();
        ends_in_time(&mut stream);
    }
}

#[test]
fn an_association_request_may_name_any_address() {
    let pair = pair();
    let udp = UdpTarget::echo();
    for hint in [
        v4(0).into(),
        v4(9).into(),
        Target::name("localhost", 0),
        "[::]:0".parse::<std::net::SocketAddr>().unwrap().into(),
    ] {
        let (control, code, bound) = pair.socks().request(ASSOCIATE, &hint).unwrap();
        assert_eq!(code, 0, "hint {hint:?}");
        let relay = bound.socket().unwrap();
        assert_ne!(relay.port(), 0);
        if hint == v4(9).into() {
            continue; // a client that names its port may be held to it
        }
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        socks::Association {
            control,
            socket,
            relay,
        }
        .warm_up(&udp.target());
    }
}

#[test]
fn tcp_only_refuses_associations() {
    let spec = Spec::new(METHOD);
    let pair = Pair::with(Start::server(Program::Ssr, &spec), |at| {
        Start::local(Program::Ssr, &spec, at).with(json!({"mode": "tcp_only"}))
    });
    let (mut stream, code, _) = pair.socks().request(ASSOCIATE, &v4(0).into()).unwrap();
    assert_eq!(code, 7);
    ends(&mut stream);
}

#[test]
fn an_idle_connection_outlives_the_wait_for_the_first_bytes() {
    let pair = pair();
    let echo = TcpTarget::echo();
    let mut stream = pair.socks().connect(&echo.v4());
    std::thread::sleep(SILENCE); // the pause is the subject
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(b"late").unwrap();
    assert_eq!(&read_array::<4>(&mut stream), b"late");
}
