//! `ssr local` against `ssr server`: everything that the product carries, for every method.

use crate::common::{
    self, DEADLINE, METHODS_2017, METHODS_2022, SILENCE, eventually,
    matrix::{self, Targets},
    peers::{Pair, Program, Spec, Start},
    socks::{self, Target},
    targets::TcpTarget,
    udp::UdpTarget,
};
use serde_json::json;
use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, UdpSocket},
    time::Duration,
};

fn carries_everything(method: &str) {
    let pair = Pair::ssr(method);
    let targets = Targets::start();
    matrix::run(&pair.socks(), &targets, &[]);
}

macro_rules! every_method {
    ($($name:ident = $method:literal;)*) => {$(
        #[test]
        fn $name() {
            carries_everything($method);
        }
    )*};
}

every_method! {
    aes_128_gcm_carries_everything = "aes-128-gcm";
    aes_256_gcm_carries_everything = "aes-256-gcm";
    chacha20_carries_everything = "chacha20-ietf-poly1305";
    xchacha20_carries_everything = "xchacha20-ietf-poly1305";
    blake3_aes_128_gcm_carries_everything = "2022-blake3-aes-128-gcm";
    blake3_aes_256_gcm_carries_everything = "2022-blake3-aes-256-gcm";
    blake3_chacha20_carries_everything = "2022-blake3-chacha20-poly1305";
    blake3_chacha8_carries_everything = "2022-blake3-chacha8-poly1305";
    none_carries_everything = "none";
}

#[test]
fn one_file_serves_both_roles() {
    let spec = Spec::new("2022-blake3-aes-256-gcm");
    let echo = TcpTarget::echo();
    let ports = [common::process::free_port(), common::process::free_port()];
    let config = json!({
        "server": "127.0.0.1", "server_port": ports[0], "local_address": "127.0.0.1", "local_port": ports[1],
        "method": spec.method, "password": spec.password,
    });
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.json");
    std::fs::write(&file, config.to_string()).unwrap();
    let _halves = [common::peers::Role::Server, common::peers::Role::Local].map(|role| {
        let mut process =
            common::process::Process::spawn("ssr", &mut Program::Ssr.command(role, &file)).unwrap();
        process.running().unwrap();
        process
    });
    matrix::echoes(
        &socks::Socks::new(common::process::v4(ports[1])),
        &echo.v4(),
        5000,
    );
}

#[test]
fn the_end_of_a_download_reaches_the_client_while_it_uploads() {
    let pair = Pair::ssr("2022-blake3-aes-128-gcm");
    let target = TcpTarget::serve(|mut stream| {
        stream.write_all(b"all I say").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut upload = Vec::new();
        let _end = stream.read_to_end(&mut upload);
    });
    let mut stream = pair.socks().connect(&target.v4());
    let mut said = Vec::new();
    stream.read_to_end(&mut said).unwrap();
    assert_eq!(said, b"all I say");
    stream.write_all(b"still talking").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
}

#[test]
fn an_aborted_client_ends_the_connection_to_the_target() {
    let pair = Pair::ssr("aes-256-gcm");
    let (ended, end) = std::sync::mpsc::channel();
    let target = TcpTarget::serve(move |mut stream| {
        let mut buf = [0; 64];
        while let Ok(1..) = stream.read(&mut buf) {}
        ended.send(()).unwrap();
    });
    let mut stream = pair.socks().connect(&target.v4());
    stream.write_all(b"x").unwrap();
    eventually("the target is reached", || target.accepted() == 1);
    socket2::SockRef::from(&stream)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    drop(stream);
    end.recv_timeout(DEADLINE)
        .expect("the target's connection ends");
}

#[test]
fn wrong_password_carries_nothing() {
    for method in ["aes-128-gcm", "2022-blake3-aes-128-gcm"] {
        let good = Spec::new(method);
        let bad = Spec {
            password: common::peers::password(method, 99),
            ..good.clone()
        };
        let (server, local) = (Start::server(Program::Ssr, &good), |at| {
            Start::local(Program::Ssr, &bad, at)
        });
        let pair = Pair::with(server.with(json!({"timeouts": {"handshake": 1}})), local);
        let echo = TcpTarget::echo();
        let mut stream = pair.socks().connect(&echo.v4());
        let _gone = stream.write_all(b"anyone?");
        let mut answer = Vec::new();
        let _reset_or_end = stream.read_to_end(&mut answer);
        assert_eq!((answer.len(), echo.accepted()), (0, 0));
    }
}

#[test]
fn a_fragmented_datagram_is_dropped() {
    let pair = Pair::ssr("2022-blake3-aes-128-gcm");
    let echo = UdpTarget::echo();
    let association = pair.socks().associate();
    association.warm_up(&echo.target());
    for frag in [1, 127, 128, 255] {
        association.send_fragment(frag, &echo.target(), b"a fragment");
    }
    let (_, data) = association.exchange(&echo.target(), b"whole");
    assert_eq!(data, b"whole");
    assert!(!echo.saw(b"a fragment"));
}

#[test]
fn an_association_dies_with_its_control_connection() {
    for method in [METHODS_2017[0], METHODS_2022[0]] {
        let pair = Pair::ssr(method);
        let echo = UdpTarget::echo();
        let association = pair.socks().associate();
        association.warm_up(&echo.target());
        association.control.shutdown(Shutdown::Both).unwrap();
        eventually("datagrams of a closed association are dropped", || {
            association.send(&echo.target(), b"from beyond");
            association.receive(SILENCE / 4).is_none()
        });
        // Not at the first try where a datagram from beyond comes late: it is taken for the first of the next.
        eventually("the next is served", || {
            let next = pair.socks().associate();
            next.send(&echo.target(), b"next");
            next.receive(SILENCE)
                .is_some_and(|(_, data)| data == b"next")
        });
    }
}

#[test]
fn a_datagram_of_a_foreign_client_is_dropped() {
    let pair = Pair::ssr("2022-blake3-aes-128-gcm");
    let echo = UdpTarget::echo();
    let association = pair.socks().associate();
    association.warm_up(&echo.target());
    // Another host: 127.0.0.2 has no control connection.
    let stranger = UdpSocket::bind("127.0.0.2:0").unwrap();
    let packet = socks::datagram(0, &echo.target(), b"not mine");
    stranger.send_to(&packet, association.relay).unwrap();
    assert_eq!(association.exchange(&echo.target(), b"mine").1, b"mine");
    assert!(!echo.saw(b"not mine"));
}

#[test]
fn a_malformed_datagram_is_dropped_and_the_association_lives() {
    let pair = Pair::ssr("chacha20-ietf-poly1305");
    let echo = UdpTarget::echo();
    let association = pair.socks().associate();
    association.warm_up(&echo.target());
    let target = echo.target();
    let whole = socks::datagram(0, &target, b"");
    for len in 0..whole.len() {
        association
            .socket
            .send_to(&whole[..len], association.relay)
            .unwrap();
    }
    association
        .socket
        .send_to(&[0, 0, 0, 9, 1, 2, 3, 4, 5, 6], association.relay)
        .unwrap();
    association.send(&Target::name("", 53), b"nameless");
    association.send(&Target(vec![3, 2, 0xff, 0xfe, 0, 53]), b"not a name");
    assert_eq!(association.exchange(&target, b"alive").1, b"alive");
}

#[test]
fn the_relay_address_of_a_wildcard_listener_is_the_one_that_the_client_reached() {
    let spec = Spec::new("2022-blake3-aes-128-gcm");
    let pair = Pair::with(Start::server(Program::Ssr, &spec), |at| {
        Start::local(Program::Ssr, &spec, at).with(json!({"local_address": "0.0.0.0"}))
    });
    let mut proxy = pair.socks().proxy;
    proxy.set_ip([127, 0, 0, 3].into());
    let unspecified = SocketAddr::from(([0, 0, 0, 0], 0));
    let (_control, code, bound) = socks::Socks::new(proxy)
        .request(socks::ASSOCIATE, &unspecified.into())
        .unwrap();
    assert_eq!(code, 0);
    assert_eq!(bound.socket().unwrap().ip(), proxy.ip());
}

#[test]
fn many_associations_work_at_once() {
    let pair = Pair::ssr("2022-blake3-aes-256-gcm");
    let echo = UdpTarget::echo();
    let associations: Vec<_> = (0..50).map(|_| pair.socks().associate()).collect();
    associations[0].warm_up(&echo.target());
    for (i, association) in associations.iter().enumerate() {
        association.send(&echo.target(), format!("client {i}").as_bytes());
    }
    for (i, association) in associations.iter().enumerate() {
        let (_, data) = association.receive(DEADLINE).expect("an answer");
        assert_eq!(data, format!("client {i}").into_bytes());
    }
}

#[test]
fn an_ipv6_server_is_reached() {
    let spec = Spec::new("2022-blake3-aes-256-gcm");
    let echo = TcpTarget::echo();
    let udp = UdpTarget::echo();
    let port = common::process::free_port();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.json");
    let config = json!({"server": "::1", "server_port": port, "method": spec.method, "password": spec.password});
    std::fs::write(&file, config.to_string()).unwrap();
    let mut command = Program::Ssr.command(common::peers::Role::Server, &file);
    let mut server = common::process::Process::spawn("ssr server", &mut command).unwrap();
    let address = SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, port));
    server.running().unwrap();
    let local = Start::local(Program::Ssr, &spec, address).run();
    matrix::echoes(&local.socks(), &echo.v4(), 5000);
    let association = local.socks().associate();
    association.warm_up(&udp.target());
}

#[test]
fn a_user_with_an_identity_header_is_served() {
    for method in &METHODS_2022[..2] {
        let [identity, one, two] = [1, 2, 3].map(|seed| common::peers::password(method, seed));
        let server = Start::server(Program::Ssr, &Spec::new(method)).with(json!({"servers": [{
            "method": method, "password": identity,
            "users": [{"name": "one", "password": one}, {"name": "two", "password": two}],
        }]}));
        let server = server.run();
        let (echo, udp) = (TcpTarget::echo(), UdpTarget::echo());
        for user in [&one, &two] {
            let spec = Spec {
                method: (*method).to_owned(),
                password: format!("{identity}:{user}"),
            };
            let local = Start::local(Program::Ssr, &spec, server.address).run();
            matrix::echoes(&local.socks(), &echo.v4(), 70_000);
            local.socks().associate().warm_up(&udp.target());
        }
        let stranger = common::peers::password(method, 4);
        let spec = Spec {
            method: (*method).to_owned(),
            password: format!("{identity}:{stranger}"),
        };
        let local = Start::local(Program::Ssr, &spec, server.address).run();
        let before = echo.accepted();
        let mut stream = local.socks().connect(&echo.v4());
        stream.set_read_timeout(Some(SILENCE)).unwrap();
        stream.write_all(b"let me in").unwrap();
        let mut answer = [0; 16];
        assert!(
            !matches!(stream.read(&mut answer), Ok(1..)),
            "an unknown user is answered"
        );
        assert_eq!(echo.accepted(), before);
    }
}
