//! UDP over TCP of sing-box and mihomo, through the binary: as a server, as a client, and against hostile streams.

use crate::common::{
    ANSWER, SILENCE, eventually,
    forward::{self, Forwarder},
    matrix::{self, Targets},
    peers::{Half, Program, Spec, Start},
    sing_box::SingBox,
    socks::{CONNECT, Target},
    udp::UdpTarget,
};
use serde_json::{Value, json};
use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, TcpStream, UdpSocket},
};

const METHODS: [&str; 2] = ["2022-blake3-aes-256-gcm", "aes-256-gcm"];
pub(crate) const V1: &str = "sp.udp-over-tcp.arpa";
pub(crate) const V2: &str = "sp.v2.udp-over-tcp.arpa";

fn is_udp(name: &str) -> bool {
    name.starts_with("udp")
}

fn over_tcp(version: u8) -> Value {
    json!({"udp_over_tcp": {"enabled": true, "version": version}})
}

fn server(spec: &Spec) -> Half {
    Start::server(Program::Ssr, spec).flags(&["-v"]).run()
}

// --- ssr at both ends.

#[test]
fn both_versions_carry_datagrams_where_there_is_no_udp() {
    let targets = Targets::start();
    for (method, keys) in [
        (METHODS[0], json!({"udp_over_tcp": true})),
        (METHODS[1], over_tcp(1)),
    ] {
        let spec = Spec::new(method);
        let server = server(&spec);
        // Only TCP goes through it.
        let gate = Forwarder::tcp(server.address.port());
        let local = Start::local(Program::Ssr, &spec, gate.address)
            .with(keys.clone())
            .run();
        let failed = matrix::failures(&local.socks(), &targets, is_udp);
        assert!(failed.is_empty(), "{keys}: {failed:#?}");
    }
}

#[test]
fn tunnel_sends_its_datagrams_in_streams() {
    let (spec, echo) = (Spec::new(METHODS[0]), UdpTarget::echo());
    let server = server(&spec);
    let gate = Forwarder::tcp(server.address.port());
    let port = echo.address().port();
    for host in ["127.0.0.1", "localhost"] {
        let local = Start::local(Program::Ssr, &spec, gate.address)
            .with(over_tcp(2))
            .with(json!({"locals": [{
                "protocol": "tunnel", "local_address": "127.0.0.1", "forward_address": host, "forward_port": port,
            }]}))
            .run();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.connect(local.address).unwrap();
        client.set_read_timeout(Some(ANSWER)).unwrap();
        for sent in [&b"one"[..], b"", &[7; 30_000]] {
            client.send(sent).unwrap();
            let mut back = vec![0; 65_536];
            let len = client.recv(&mut back).unwrap();
            assert!(back[..len] == *sent, "{host}: {len} bytes came back");
        }
    }
}

#[test]
fn association_goes_on_in_a_new_stream_when_the_server_restarts() {
    let (spec, echo) = (Spec::new(METHODS[0]), UdpTarget::echo());
    let first = server(&spec);
    let port = first.address.port();
    let local = Start::local(Program::Ssr, &spec, first.address)
        .with(json!({"udp_over_tcp": true, "warm_connections": 0}))
        .run();
    let association = local.socks().associate();
    association.exchange(&echo.target(), b"before");
    drop(first);
    let config = json!({"servers": [{
        "server": "127.0.0.1", "server_port": port, "method": spec.method, "password": spec.password,
    }]});
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.json");
    std::fs::write(&path, config.to_string()).unwrap();
    let mut command = Program::Ssr.command(crate::common::peers::Role::Server, &path);
    let mut again = crate::common::process::Process::spawn("ssr server", &mut command).unwrap();
    again.running().unwrap();
    eventually("the association goes on", || {
        association.send(&echo.target(), b"after");
        let answer = association.receive(SILENCE);
        answer.is_some_and(|(_, data)| data == b"after")
    });
}

#[test]
fn datagrams_are_counted_for_the_user_of_their_stream() {
    let method = METHODS[0];
    let (server_key, alice) = (Spec::new(method), crate::common::peers::password(method, 2));
    let server = Start::server(Program::Ssr, &server_key)
        .with(json!({"users": [{"name": "alice", "password": alice}]}))
        .flags(&["-v"])
        .run();
    let spec = Spec {
        method: method.to_owned(),
        password: format!("{}:{alice}", server_key.password),
    };
    let local = Start::local(Program::Ssr, &spec, server.address)
        .with(over_tcp(2))
        .run();
    let echo = UdpTarget::echo();
    let association = local.socks().associate();
    association.exchange(&echo.target(), b"hello");
    drop(association);
    eventually("the association of alice has ended", || {
        let log = server.process.log();
        log.lines()
            .any(|line| line.contains("association ended") && line.contains("alice"))
    });
}

#[test]
fn reserved_names_are_no_targets_for_clients_of_a_local() {
    let spec = Spec::new(METHODS[0]);
    let server = server(&spec);
    let local = Start::local(Program::Ssr, &spec, server.address).run();
    for name in [V1, V2, "SP.V2.UDP-over-TCP.arpa"] {
        for port in [0, 443] {
            let asked = local.socks().request(CONNECT, &Target::name(name, port));
            let (_stream, code, _) = asked.expect("negotiation");
            assert_eq!(code, 2, "{name}:{port} is not allowed");
        }
    }
}

// --- sing-box at one end.

/// What sing-box cannot do: its buffer for a datagram has 16 KiB.
fn fits_sing_box(name: &str) -> bool {
    is_udp(name) && name != "udp: 30000 bytes"
}

#[test]
#[ignore = "needs peers: scripts/test"]
fn sing_box_sends_datagrams_in_streams_of_either_version() {
    let targets = Targets::start();
    for method in METHODS {
        let spec = Spec::new(method);
        let server = server(&spec);
        let gate = Forwarder::tcp(server.address.port());
        for version in [1, 2] {
            let client = SingBox::client(&spec, gate.address, &over_tcp(version), &json!([]));
            let failed = matrix::failures(&client.socks(), &targets, fits_sing_box);
            assert!(
                failed.is_empty(),
                "{method}, version {version}: {failed:#?}"
            );
        }
    }
}

#[test]
#[ignore = "needs peers: scripts/test"]
fn sing_box_connects_to_one_target_in_a_stream() {
    let (spec, echo, elsewhere) = (
        Spec::new(METHODS[0]),
        UdpTarget::echo(),
        UdpTarget::answers_from_elsewhere(),
    );
    let server = server(&spec);
    let gate = Forwarder::tcp(server.address.port());
    let connects = json!([{"action": "route-options", "udp_connect": true}]);
    let client = SingBox::client(&spec, gate.address, &over_tcp(2), &connects);
    for target in [echo.target(), echo.name()] {
        let association = client.socks().associate();
        for len in [1, 1200, 16_000] {
            let sent = vec![7; len];
            let (_, data) = association.exchange(&target, &sent);
            assert!(data == sent, "{len} bytes");
        }
    }
    let association = client.socks().associate();
    association.send(&elsewhere.target(), b"who answers?");
    eventually("it arrives", || elsewhere.saw(b"who answers?"));
    assert_eq!(association.receive(SILENCE), None, "not the target");
}

#[test]
#[ignore = "needs peers: scripts/test"]
fn sing_box_takes_datagrams_in_streams_of_either_version() {
    let targets = Targets::start();
    for method in METHODS {
        let spec = Spec::new(method);
        // It does not take them by UDP.
        let server = SingBox::server(&spec, &json!({"network": "tcp"}));
        for version in [1, 2] {
            let local = Start::local(Program::Ssr, &spec, server.address)
                .with(over_tcp(version))
                .run();
            // Its server of version 1 resolves no names; that of version 2 has a socket for the first target's family.
            let cannot: &[&str] = match version {
                1 => &["udp: named target"],
                _ => &["udp: IPv6 target", "udp: two targets from one socket"],
            };
            let can = |name: &str| fits_sing_box(name) && !cannot.contains(&name);
            let failed = matrix::failures(&local.socks(), &targets, can);
            assert!(
                failed.is_empty(),
                "{method}, version {version}: {failed:#?}"
            );
        }
    }
}

// --- Streams by hand, with the method `none`, so that they are not encrypted.

fn plain(keys: Value) -> Half {
    Start::server(Program::Ssr, &Spec::new("none"))
        .with(keys)
        .flags(&["-v"])
        .run()
}

fn open(server: &Half, name: &str) -> TcpStream {
    let mut stream = forward::connect(server.address);
    stream.write_all(&Target::name(name, 0).0).unwrap();
    stream
}

/// A frame with an address.
pub(crate) fn frame(target: &Target, data: &[u8]) -> Vec<u8> {
    let mut address = target.0.clone();
    address[0] = match address[0] {
        1 => 0,
        4 => 1,
        _ => 2,
    };
    [address, bare(data)].concat()
}

/// A frame without an address.
fn bare(data: &[u8]) -> Vec<u8> {
    let len = u16::try_from(data.len()).unwrap();
    [&len.to_be_bytes(), data].concat()
}

pub(crate) fn request(connect: u8, target: &Target) -> Vec<u8> {
    [&[connect], target.0.as_slice()].concat()
}

fn read(stream: &mut TcpStream, expected: &[u8]) {
    let mut back = vec![0; expected.len()];
    stream.read_exact(&mut back).expect("an answer");
    assert_eq!(back, expected);
}

fn is_closed(stream: &mut TcpStream) -> bool {
    match stream.read(&mut [0; 64]) {
        Ok(count) => count == 0,
        Err(error) => error.kind() == ErrorKind::ConnectionReset,
    }
}

fn is_silent(stream: &mut TcpStream) -> bool {
    stream.set_read_timeout(Some(SILENCE)).unwrap();
    matches!(stream.read(&mut [0; 64]), Err(error) if error.kind() == ErrorKind::WouldBlock)
}

/// The server still serves others.
fn serves(server: &Half, echo: &UdpTarget) {
    let mut stream = open(server, V1);
    let framed = frame(&echo.target(), b"still served");
    stream.write_all(&framed).unwrap();
    read(&mut stream, &framed);
}

#[test]
fn request_and_datagrams_may_come_byte_by_byte() {
    let (server, echo) = (plain(json!({})), UdpTarget::echo());
    let framed = frame(&echo.target(), b"slowly");
    for bytes in [
        [
            request(0, &Target::name("unused.example", 1)),
            framed.clone(),
        ]
        .concat(),
        [request(1, &echo.target()), bare(b"slowly")].concat(),
    ] {
        let connect = bytes[0] == 1;
        let mut stream = open(&server, V2);
        for byte in bytes {
            stream.write_all(&[byte]).unwrap();
        }
        let expected = if connect {
            bare(b"slowly")
        } else {
            framed.clone()
        };
        read(&mut stream, &expected);
    }
}

#[test]
fn connected_stream_gets_answers_of_its_target_alone() {
    let server = plain(json!({}));
    let (echo, elsewhere) = (UdpTarget::echo(), UdpTarget::answers_from_elsewhere());
    for target in [echo.target(), echo.name()] {
        let mut stream = open(&server, V2);
        let sent = [request(1, &target), bare(b"one"), bare(b"")].concat();
        stream.write_all(&sent).unwrap();
        read(&mut stream, &[bare(b"one"), bare(b"")].concat());
    }
    let mut stream = open(&server, V2);
    let sent = [request(1, &elsewhere.target()), bare(b"one")].concat();
    stream.write_all(&sent).unwrap();
    eventually("it arrives", || elsewhere.saw(b"one"));
    assert!(is_silent(&mut stream), "an answer of somebody else");
    let mut stream = open(&server, V2);
    let unconnected = [
        request(0, &elsewhere.target()),
        frame(&elsewhere.target(), b"two"),
    ]
    .concat();
    stream.write_all(&unconnected).unwrap();
    read(&mut stream, &frame(&elsewhere.answers_from(), b"two"));
}

#[test]
fn datagrams_before_the_end_of_a_stream_arrive() {
    let (server, echo) = (plain(json!({})), UdpTarget::echo());
    for count in 0..20 {
        let mut stream = open(&server, V1);
        let data = format!("goodbye {count}");
        let target = if count % 2 == 0 {
            echo.target()
        } else {
            echo.name()
        };
        stream.write_all(&frame(&target, data.as_bytes())).unwrap();
        drop(stream);
        eventually("it arrives", || echo.saw(data.as_bytes()));
    }
}

#[test]
fn forbidden_targets_get_no_datagrams() {
    let echo = UdpTarget::echo();
    let rules = tempfile::tempdir().unwrap();
    let acl = rules.path().join("server.acl");
    std::fs::write(&acl, "[outbound_block_list]\n127.0.0.0/8\n").unwrap();
    for keys in [json!({"deny_private": true}), json!({"acl": acl})] {
        let server = plain(keys);
        for target in [echo.target(), echo.name()] {
            let streams = [
                (V1, frame(&target, b"refused")),
                (
                    V2,
                    [request(0, &target), frame(&target, b"refused")].concat(),
                ),
                (V2, [request(1, &target), bare(b"refused")].concat()),
            ];
            for (name, bytes) in streams {
                let mut stream = open(&server, name);
                stream.write_all(&bytes).unwrap();
                assert!(is_silent(&mut stream));
            }
        }
    }
    assert_eq!(echo.seen(), [], "nothing reached the target");
}

#[test]
fn server_without_udp_refuses_the_streams() {
    let server = plain(json!({"mode": "tcp_only"}));
    for name in [V1, V2] {
        assert!(is_closed(&mut open(&server, name)), "{name}");
    }
}

#[test]
fn malformed_stream_is_closed_and_disturbs_no_other() {
    let (server, echo) = (plain(json!({})), UdpTarget::echo());
    let mut other = open(&server, V1);
    let framed = frame(&echo.target(), b"undisturbed");
    let good = frame(&echo.target(), b"good");
    for (name, bytes) in [
        // A type of SOCKS, of another protocol, and none.
        (V1, vec![3]),
        (V1, vec![4, 0, 0]),
        (V1, vec![255]),
        (V1, [good.as_slice(), &[9]].concat()),
        (V2, vec![0, 0]),
        (V2, vec![1, 2]),
        (V2, vec![1, 255]),
        // A name of no length, and one that is no text.
        (V2, vec![0, 3, 0]),
        (V2, vec![1, 3, 1, 255]),
        (V2, [request(0, &echo.target()), vec![7]].concat()),
    ] {
        let mut stream = open(&server, name);
        stream.write_all(&bytes).unwrap();
        let mut back = Vec::new();
        let end = stream.read_to_end(&mut back);
        let timed_out = matches!(end, Err(error) if error.kind() == ErrorKind::WouldBlock);
        assert!(!timed_out, "{name} {bytes:?} is not closed");
        other.write_all(&framed).unwrap();
        read(&mut other, &framed);
    }
    // Cut in every place.
    let whole = [request(1, &echo.name()), bare(b"cut")].concat();
    for len in 0..whole.len() {
        let mut stream = open(&server, V2);
        stream.write_all(&whole[..len]).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        assert!(is_closed(&mut stream), "{len} bytes");
    }
    assert!(!echo.saw(b"cut"));
    serves(&server, &echo);
}

#[test]
fn datagram_for_an_invalid_name_is_dropped_alone() {
    let (server, echo) = (plain(json!({})), UdpTarget::echo());
    let mut stream = open(&server, V1);
    let framed = frame(&echo.target(), b"the next");
    for name in [&b""[..], b" ", b"\xff\xff"] {
        let len = u8::try_from(name.len()).unwrap();
        let invalid = [&[2, len], name, &[0, 53, 0, 1, b'x']].concat();
        stream
            .write_all(&[invalid, framed.clone()].concat())
            .unwrap();
        read(&mut stream, &framed);
    }
}

#[test]
fn claimed_lengths_and_tiny_frames_take_bounded_memory() {
    let (server, echo) = (plain(json!({})), UdpTarget::echo());
    serves(&server, &echo);
    let before = server.process.memory_kib("VmHWM");
    // Each claims 65,535 bytes, and sends all but one of them, or none.
    let claims: Vec<_> = (0..64)
        .map(|number| {
            let mut stream = open(&server, V1);
            let mut bytes = frame(&echo.target(), &vec![0; 65_535]);
            bytes.truncate(if number % 2 == 0 { 10 } else { bytes.len() - 1 });
            stream.write_all(&bytes).unwrap();
            stream
        })
        .collect();
    // Two bytes each, and a long address inside the process.
    let name = format!("{}.example", "a".repeat(60));
    let mut tiny = open(&server, V2);
    tiny.write_all(&request(1, &Target::name(&name, 9)))
        .unwrap();
    let frames = vec![0; 2 << 20];
    tiny.write_all(&frames).unwrap();
    serves(&server, &echo);
    let grown = server.process.memory_kib("VmHWM") - before;
    assert!(grown < 40 << 10, "{grown} KiB more");
    drop(claims);
}

#[test]
fn associations_of_streams_are_bounded_with_all_others() {
    let server = plain(json!({"limits": {"udp_associations": 16}}));
    let echo = UdpTarget::echo();
    serves(&server, &echo);
    let idle = server.process.open_files();
    let mut streams: Vec<_> = (0..48).map(|_| open(&server, V1)).collect();
    for stream in &mut streams {
        let framed = frame(&echo.target(), b"one of many");
        stream.write_all(&framed).unwrap();
        read(stream, &framed);
    }
    // Each stream is a file itself.
    eventually("the oldest associations have made room", || {
        server.process.open_files() <= idle + 48 + 16 + 2
    });
    // By UDP too.
    let beside = UdpSocket::bind("127.0.0.1:0").unwrap();
    beside.set_read_timeout(Some(ANSWER)).unwrap();
    let packet = [echo.target().0, b"by UDP".to_vec()].concat();
    beside.send_to(&packet, server.address).unwrap();
    let mut back = [0; 64];
    let (len, _) = beside.recv_from(&mut back).expect("an answer");
    assert_eq!(&back[..len], packet);
    // A stream whose association is gone begins another one.
    let framed = frame(&echo.target(), b"again");
    streams[0].write_all(&framed).unwrap();
    read(&mut streams[0], &framed);
    drop(streams);
    eventually("all is closed", || server.process.open_files() <= idle + 4);
}
