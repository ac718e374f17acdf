//! Options of sockets and servers, seen from outside.

use std::time::Duration;

use crate::common::{
    eventually, is_open, matrix,
    peers::{Pair, Program, Spec, Start},
    process::v4,
    udp::UdpTarget,
};
use serde_json::{Value, json};

/// For a datagram that must not come; it would take microseconds.
const ABSENCE: Duration = Duration::from_millis(300);

fn pair(server: Value, local: Value) -> Pair {
    let spec = Spec::new("2022-blake3-aes-256-gcm");
    Pair::with(Start::server(Program::Ssr, &spec).with(server), |address| {
        Start::local(Program::Ssr, &spec, address).with(local)
    })
}

#[test]
fn local_sends_nothing_longer_than_udp_mtu() {
    let pair = pair(json!({}), json!({"udp_mtu": 1000}));
    let target = UdpTarget::echo();
    let client = pair.socks().associate();
    client.warm_up(&target.target());
    // What the relay adds is part of the datagram: 1000 bytes of payload make a longer one.
    client.send(&target.target(), &[7; 1000]);
    client.send(&target.target(), &[8; 800]);
    assert_eq!(client.receive(Duration::from_secs(5)).unwrap().1, [8; 800]);
    assert!(!target.saw(&[7; 1000]));
}

#[test]
fn server_takes_and_sends_nothing_longer_than_udp_mtu() {
    let pair = pair(json!({"udp_mtu": 1000}), json!({}));
    let target = UdpTarget::echo();
    let client = pair.socks().associate();
    client.warm_up(&target.target());
    client.send(&target.target(), &[7; 1000]);
    assert!(client.receive(ABSENCE).is_none());
    assert!(!target.saw(&[7; 1000]));
    assert_eq!(client.exchange(&target.target(), &[8; 800]).1, [8; 800]);
}

#[test]
fn heavier_server_is_preferred_and_the_lighter_stands_in() {
    let spec = Spec::new("aes-256-gcm");
    let light = Start::server(Program::Ssr, &spec).run();
    let mut heavy = Start::server(Program::Ssr, &spec).flags(&["-v"]).run();
    let entry = |address: std::net::SocketAddr, weight: f64| {
        json!({
            "server": address.ip().to_string(), "server_port": address.port(), "method": spec.method,
            "password": spec.password, "tcp_weight": weight, "udp_weight": 1.0 - weight,
        })
    };
    let local = Start::local(Program::Ssr, &spec, v4(1))
        .with(json!({"servers": [entry(light.address, 0.2), entry(heavy.address, 0.9)]}))
        .run();
    let targets = matrix::Targets::start();
    let socks = local.socks();
    matrix::echoes(&socks, &targets.echo.v4(), 1000);
    eventually("the heavier server has served", || {
        heavy.process.log().contains("stream ended")
    });
    matrix::echoes_datagram(&socks, &targets, 100);
    assert!(
        !heavy.process.log().contains("association begun"),
        "datagrams go where their own weight says"
    );

    heavy.process.signal(rustix::process::Signal::TERM);
    heavy.process.wait(Duration::from_secs(15));
    let stood_in = || {
        let target = targets.echo.v4();
        std::panic::catch_unwind(|| matrix::echoes(&socks, &target, 1000)).is_ok()
    };
    eventually("the lighter server stands in", stood_in);
}

#[test]
fn an_association_takes_no_place_of_a_handshake() {
    let pair = pair(json!({}), json!({"limits": {"handshakes": 2}}));
    let target = UdpTarget::echo();
    let client = pair.socks().associate();
    client.warm_up(&target.target());
    // Each takes a place and keeps it: with two places the oldest handshake is pushed out, and an association is none.
    let mut silent: Vec<_> = (0..4).map(|_| pair.socks().dial()).collect();
    eventually("two of four are pushed out", || {
        silent.retain_mut(is_open);
        silent.len() == 2
    });
    matrix::echoes(&pair.socks(), &matrix::Targets::start().echo.v4(), 1000);
    assert_eq!(client.exchange(&target.target(), b"still").1, b"still");
}
