//! `multiplex` together with what else a config may have: transports, rules, and UDP over TCP in its streams.

use crate::common::{
    matrix::{self, Targets},
    peers::{Program::Ssr, Spec, Start},
    socks::{CONNECT, Target},
    targets::TcpTarget,
    udp::UdpTarget,
};
use crate::multiplex::{Session, server};
use crate::multiplex_local::{PROTOCOLS, at, gate, is_possible};
use crate::udp_over_tcp::{V1, V2, frame, request};
use serde_json::json;

const METHOD: &str = "2022-blake3-aes-128-gcm";

#[test]
fn sessions_go_through_a_websocket() {
    let (spec, targets) = (Spec::new(METHOD), Targets::start());
    let transport = json!({"transport": {"type": "ws", "path": "/mux"}});
    let server = Start::server(Ssr, &spec).with(transport.clone()).run();
    for protocol in PROTOCOLS {
        let gate = gate(server.address);
        let mut keys = transport.clone();
        keys["multiplex"] = json!({"enabled": true, "protocol": protocol, "max_connections": 1});
        let local = Start::local(Ssr, &spec, at(&gate)).with(keys).run();
        let failed = matrix::failures(&local.socks(), &targets, |name| is_possible(protocol, name));
        assert!(failed.is_empty(), "{protocol}: {failed:#?}");
        matrix::echoes(&local.socks(), &targets.echo.v4(), 5 << 20);
        assert_eq!(gate.accepted(), 1, "{protocol}");
    }
}

#[test]
fn rules_decide_before_a_stream_is_opened() {
    let (spec, echo) = (Spec::new(METHOD), TcpTarget::echo());
    let server = Start::server(Ssr, &spec).run();
    let gate = gate(server.address);
    let local = Start::local(Ssr, &spec, at(&gate))
        .with(json!({
            "multiplex": {"enabled": true},
            "rules": [
                {"domain": "localhost", "to": "direct"},
                {"domain": "blocked.test", "to": "block"},
            ],
        }))
        .run();
    matrix::echoes(
        &local.socks(),
        &Target::name("localhost", echo.port()),
        10_000,
    );
    let blocked = Target::name("blocked.test", echo.port());
    let (_, code, _) = local.socks().request(CONNECT, &blocked).unwrap();
    assert_eq!(code, 2, "not allowed by the rules");
    assert_eq!(gate.accepted(), 0);
    matrix::echoes(&local.socks(), &echo.v4(), 10_000);
    assert_eq!(gate.accepted(), 1);
}

/// mihomo does this where `udp-over-tcp` and `smux` are both on.
#[test]
fn streams_of_a_session_carry_datagrams_over_tcp() {
    let (server, echo) = (server(json!({})), UdpTarget::echo());
    let mut session = Session::smux(&server);
    let framed = frame(&echo.target(), b"in two wrappings");
    let mut next = 3;
    for (name, head) in [
        (V1, Vec::new()),
        (V2, request(0, &Target::name("unused.example", 1))),
    ] {
        session.open(
            next,
            &Target::name(name, 0),
            &[head, framed.clone()].concat(),
        );
        // The stream's answer, then the frame that came back.
        let mut back = Vec::new();
        while back.len() < 1 + framed.len() {
            back.extend(session.data(next).expect("the stream goes on"));
        }
        assert_eq!(back, [&[0], framed.as_slice()].concat(), "{name}");
        next += 2;
    }
}
