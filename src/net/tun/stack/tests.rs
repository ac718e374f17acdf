#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use etherparse::PacketBuilder;

use super::*;
use crate::limits::MAX_TUN_OPENING;

const LISTENER: u16 = 40_000;

fn stack() -> Stack {
    let side = |own: &str| Side {
        ends: Ends::of(own.parse().unwrap(), None).unwrap(),
        listener: Some(LISTENER),
    };
    Stack {
        sides: vec![side("172.19.0.1/30"), side("fdfe:dcba:9876::1/126")],
        connections: Arc::default(),
    }
}

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn tcp(from: SocketAddr, to: SocketAddr, flags: &str) -> Vec<u8> {
    let builder = match (from.ip(), to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => PacketBuilder::ipv4(from.octets(), to.octets(), 64),
        (IpAddr::V6(from), IpAddr::V6(to)) => PacketBuilder::ipv6(from.octets(), to.octets(), 64),
        _ => unreachable!(),
    };
    let mut step = builder.tcp(from.port(), to.port(), 1, 4096);
    for flag in flags.chars() {
        step = match flag {
            'S' => step.syn(),
            'F' => step.fin(),
            'R' => step.rst(),
            _ => step.ack(2),
        };
    }
    let mut bytes = Vec::new();
    step.write(&mut bytes, &[]).unwrap();
    bytes
}

fn udp(from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    let (IpAddr::V4(source), IpAddr::V4(destination)) = (from.ip(), to.ip()) else {
        unreachable!()
    };
    let step = PacketBuilder::ipv4(source.octets(), destination.octets(), 64);
    let mut bytes = Vec::new();
    step.udp(from.port(), to.port())
        .write(&mut bytes, b"data")
        .unwrap();
    bytes
}

/// What becomes of a packet, and the addresses that a segment has then.
fn handled(stack: &Stack, bytes: &mut [u8]) -> (Verdict, Option<(SocketAddr, SocketAddr)>) {
    let mut answer = [0; tcp::MAX_RESET];
    let verdict = stack
        .handle(bytes, Checksums::Complete, &mut answer)
        .unwrap();
    let segment = Packet::parse(bytes).and_then(|packet| Segment::parse(&packet, bytes));
    let addresses = segment.map(|segment| (segment.source, segment.destination));
    (verdict, addresses.ok())
}

#[test]
fn connection_goes_to_the_listener_and_back() {
    for (program, target, own, other) in [
        (
            "172.19.0.1:5000",
            "198.51.100.7:443",
            "172.19.0.1:40000",
            "172.19.0.2:1",
        ),
        (
            "[fd00::5]:5000",
            "[2001:db8::7]:443",
            "[fdfe:dcba:9876::1]:40000",
            "[fdfe:dcba:9876::2]:1",
        ),
    ] {
        let stack = stack();
        let (program, target, own, other) = (at(program), at(target), at(own), at(other));
        let opened = handled(&stack, &mut tcp(program, target, "S"));
        assert_eq!(opened, (Verdict::Return, Some((other, own))));
        let accepted = stack.connections.accept(other).unwrap();
        assert_eq!((accepted.source, accepted.destination), (program, target));
        let answered = handled(&stack, &mut tcp(own, other, "SA"));
        assert_eq!(answered, (Verdict::Return, Some((target, program))));
        let more = handled(&stack, &mut tcp(program, target, "A"));
        assert_eq!(more, (Verdict::Return, Some((other, own))));
    }
}

#[test]
fn unknown_connections_are_reset() {
    let stack = stack();
    let program = at("172.19.0.1:5000");
    for target in ["198.51.100.7:443", "172.19.0.2:80"] {
        let (verdict, _) = handled(&stack, &mut tcp(program, at(target), "A"));
        assert_eq!(verdict, Verdict::Answer(40), "{target}");
    }
    let (verdict, _) = handled(&stack, &mut tcp(program, at("198.51.100.7:443"), "R"));
    assert_eq!(verdict, Verdict::Drop);
    // The address of the other end is nobody's: whoever uses it pretends to be us.
    let (verdict, _) = handled(
        &stack,
        &mut tcp(at("172.19.0.2:1"), at("198.51.100.7:443"), "S"),
    );
    assert_eq!(verdict, Verdict::Answer(40));
    assert!(stack.connections.accept(at("172.19.0.2:1")).is_none());
}

#[test]
fn listener_is_known_by_the_device_alone() {
    let stack = stack();
    // What it sends elsewhere is not an answer to a connection of the device.
    let (verdict, _) = handled(
        &stack,
        &mut tcp(at("172.19.0.1:40000"), at("10.0.0.9:1"), "SA"),
    );
    assert_eq!(verdict, Verdict::Drop);
    let (opened, _) = handled(
        &stack,
        &mut tcp(at("10.0.0.9:7"), at("198.51.100.7:443"), "S"),
    );
    assert_eq!(opened, Verdict::Return);
    assert!(
        stack
            .connections
            .accept(at("[fdfe:dcba:9876::2]:1"))
            .is_none()
    );
}

#[test]
fn datagrams_are_handed_over_unless_they_are_for_nobody() {
    let stack = stack();
    let program = at("172.19.0.1:5000");
    let (verdict, _) = handled(&stack, &mut udp(program, at("198.51.100.7:53")));
    let Verdict::Datagram(datagram) = verdict else {
        panic!("{verdict:?}")
    };
    assert_eq!(datagram.destination, at("198.51.100.7:53"));
    for nobody in [
        "224.0.0.251:5353",
        "255.255.255.255:67",
        "172.19.0.2:53",
        "198.51.100.7:0",
    ] {
        let (verdict, _) = handled(&stack, &mut udp(program, at(nobody)));
        assert_eq!(verdict, Verdict::Drop, "{nobody}");
    }
}

#[test]
fn flood_of_openings_is_bounded_and_hurts_nobody() {
    let stack = stack();
    let (program, target) = (at("10.0.0.5:5000"), at("198.51.100.7:443"));
    handled(&stack, &mut tcp(program, target, "S"));
    stack.connections.accept(at("172.19.0.2:1")).unwrap();
    for host in 0..3_u8 {
        for port in 1..=u16::MAX {
            handled(
                &stack,
                &mut tcp(([10, 1, 0, host], port).into(), target, "S"),
            );
        }
    }
    let known = lock(&stack.connections.0).len();
    assert!(known <= MAX_TUN_OPENING + 1, "{known}");
    let more = handled(&stack, &mut tcp(program, target, "A"));
    assert_eq!(more.0, Verdict::Return);
}

#[test]
fn joined_datagrams_are_separated() {
    let all = |data, segment| pieces(data, segment).collect::<Vec<_>>();
    assert_eq!(all(28..58, 10), [28..38, 38..48, 48..58]);
    assert_eq!(all(28..50, 10), [28..38, 38..48, 48..50]);
    assert_eq!(all(28..50, 0), vec![28..50; 1]);
    assert_eq!(all(28..28, 0), vec![28..28; 1]);
}
