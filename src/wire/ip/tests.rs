#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
//! etherparse makes packets, and reads ours.

use std::net::{IpAddr, SocketAddr};

use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice};
use proptest::prelude::*;

use super::tcp::Segment;
use super::udp::Datagram;
use super::*;

fn pairs() -> [(SocketAddr, SocketAddr); 2] {
    [
        ("10.1.2.3:4000", "198.51.100.7:443"),
        ("[fd00::3]:4000", "[2001:db8::7]:443"),
    ]
    .map(|(from, to)| (from.parse().unwrap(), to.parse().unwrap()))
}

fn builder(from: IpAddr, to: IpAddr) -> etherparse::PacketBuilderStep<etherparse::IpHeaders> {
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => PacketBuilder::ipv4(from.octets(), to.octets(), 64),
        (IpAddr::V6(from), IpAddr::V6(to)) => PacketBuilder::ipv6(from.octets(), to.octets(), 64),
        _ => unreachable!(),
    }
}

fn tcp((from, to): (SocketAddr, SocketAddr), flags: &str, data: &[u8]) -> Vec<u8> {
    let mut step = builder(from.ip(), to.ip()).tcp(from.port(), to.port(), 1000, 4096);
    for flag in flags.chars() {
        step = match flag {
            'S' => step.syn(),
            'F' => step.fin(),
            'R' => step.rst(),
            _ => step.ack(77),
        };
    }
    let mut out = Vec::new();
    step.write(&mut out, data).unwrap();
    out
}

fn udp((from, to): (SocketAddr, SocketAddr), data: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let step = builder(from.ip(), to.ip()).udp(from.port(), to.port());
    step.write(&mut out, data).unwrap();
    out
}

fn pseudo(packet: &Packet) -> Sum {
    let len = packet.end - packet.payload;
    pseudo_sum(packet.source, packet.destination, packet.protocol, len)
}

/// Whether every checksum is right, in the eyes of etherparse.
fn is_sound(bytes: &[u8]) -> bool {
    let sliced = SlicedPacket::from_ip(bytes).unwrap();
    match (sliced.net.unwrap(), sliced.transport.unwrap()) {
        (NetSlice::Ipv4(ip), TransportSlice::Tcp(tcp)) => {
            let header = ip.header().to_header();
            header.header_checksum == header.calc_header_checksum()
                && tcp.checksum()
                    == tcp
                        .calc_checksum_ipv4(header.source, header.destination)
                        .unwrap()
        }
        (NetSlice::Ipv6(ip), TransportSlice::Tcp(tcp)) => {
            let header = ip.header();
            tcp.checksum()
                == tcp
                    .calc_checksum_ipv6(header.source(), header.destination())
                    .unwrap()
        }
        (NetSlice::Ipv4(ip), TransportSlice::Udp(udp)) => {
            let ip = ip.header().to_header();
            let header = udp.to_header();
            ip.header_checksum == ip.calc_header_checksum()
                && header.checksum == header.calc_checksum_ipv4(&ip, udp.payload()).unwrap()
        }
        (NetSlice::Ipv6(ip), TransportSlice::Udp(udp)) => {
            let header = udp.to_header();
            let ip = ip.header().to_header();
            header.checksum == header.calc_checksum_ipv6(&ip, udp.payload()).unwrap()
        }
        other => unreachable!("{other:?}"),
    }
}

#[test]
fn headers_of_both_versions_are_read() {
    for (from, to) in pairs() {
        let bytes = tcp((from, to), "S", b"early");
        let packet = Packet::parse(&bytes).unwrap();
        assert_eq!((packet.source, packet.destination), (from.ip(), to.ip()));
        assert_eq!((packet.protocol, packet.end), (TCP, bytes.len()));
        let segment = Segment::parse(&packet, &bytes).unwrap();
        assert_eq!((segment.source, segment.destination), (from, to));
        assert!(segment.opens() && !segment.ends() && !segment.aborts());
        let bytes = udp((from, to), b"question");
        let packet = Packet::parse(&bytes).unwrap();
        let datagram = Datagram::parse(&packet, &bytes, Checksums::Complete).unwrap();
        assert_eq!((datagram.source, datagram.destination), (from, to));
        assert_eq!(&bytes[datagram.data], b"question");
    }
}

#[test]
fn only_a_plain_syn_opens() {
    for (flags, opens) in [
        ("S", true),
        ("SA", false),
        ("A", false),
        ("SR", false),
        ("FA", false),
    ] {
        let bytes = tcp(pairs()[0], flags, &[]);
        let packet = Packet::parse(&bytes).unwrap();
        assert_eq!(
            Segment::parse(&packet, &bytes).unwrap().opens(),
            opens,
            "{flags}"
        );
    }
}

#[test]
fn wrong_checksums_are_noticed() {
    for pair in pairs() {
        let mut bytes = udp(pair, b"question");
        *bytes.last_mut().unwrap() ^= 1;
        let packet = Packet::parse(&bytes).unwrap();
        let wrong = Datagram::parse(&packet, &bytes, Checksums::Complete);
        assert_eq!(wrong, Err(Error::IpHeader));
        assert!(Datagram::parse(&packet, &bytes, Checksums::Partial).is_ok());
    }
    let mut bytes = udp(pairs()[0], b"question");
    bytes[8] ^= 1;
    assert_eq!(Packet::parse(&bytes), Err(Error::IpHeader));
}

#[test]
fn fragments_are_recognized() {
    let mut bytes = udp(pairs()[0], b"question");
    for (field, is_fragment) in [
        (0x2000_u16, true),
        (0x0001, true),
        (0x4000, false),
        (0, false),
    ] {
        bytes[6..8].copy_from_slice(&field.to_be_bytes());
        bytes[10..12].fill(0);
        let sum = Sum::of(&bytes[..IPV4_HEADER]).complement();
        bytes[10..12].copy_from_slice(&sum.to_be_bytes());
        let packet = Packet::parse(&bytes).unwrap();
        assert_eq!(packet.fragment.is_some(), is_fragment, "{field:#x}");
    }
    let mut bytes = udp(pairs()[1], b"question");
    bytes.splice(IPV6_HEADER..IPV6_HEADER, [UDP, 0, 0, 1, 0, 0, 0, 9]);
    bytes[6] = 44;
    bytes[5] += 8;
    let packet = Packet::parse(&bytes).unwrap();
    let fragment = packet.fragment.unwrap();
    assert_eq!((fragment.id, fragment.offset, fragment.more), (9, 0, true));
    assert_eq!((packet.protocol, packet.payload), (UDP, IPV6_HEADER + 8));
}

#[test]
fn endless_extensions_are_refused() {
    let mut bytes = udp(pairs()[1], b"question");
    for _ in 0..=MAX_EXTENSIONS {
        let next = std::mem::replace(&mut bytes[6], 60);
        bytes.splice(IPV6_HEADER..IPV6_HEADER, [next, 0, 1, 4, 0, 0, 0, 0]);
        bytes[5] += 8;
    }
    assert_eq!(Packet::parse(&bytes), Err(Error::IpHeader));
}

#[test]
fn resets_answer_what_was_sent() {
    for (from, to) in pairs() {
        for (flags, sequence, acknowledged) in [("S", 0, 1000 + 1 + 3), ("A", 77, 0)] {
            let bytes = tcp((from, to), flags, b"abc");
            let packet = Packet::parse(&bytes).unwrap();
            let segment = Segment::parse(&packet, &bytes).unwrap();
            let mut out = [0; tcp::MAX_RESET];
            let len = segment.reset(&mut out).unwrap();
            let reset = &out[..len];
            assert!(is_sound(reset));
            let sliced = SlicedPacket::from_ip(reset).unwrap();
            let Some(TransportSlice::Tcp(read)) = sliced.transport else {
                panic!()
            };
            assert!(read.rst() && read.ack() == (flags == "S"));
            assert_eq!((read.source_port(), read.destination_port()), (443, 4000));
            assert_eq!(read.sequence_number(), sequence);
            assert_eq!(read.acknowledgment_number(), acknowledged);
        }
        let bytes = tcp((from, to), "R", &[]);
        let packet = Packet::parse(&bytes).unwrap();
        let segment = Segment::parse(&packet, &bytes).unwrap();
        assert_eq!(segment.reset(&mut [0; tcp::MAX_RESET]), None);
    }
}

#[test]
fn echo_requests_are_answered() {
    let (from, to) = pairs()[0];
    let mut bytes = Vec::new();
    builder(from.ip(), to.ip())
        .icmpv4_echo_request(3, 4)
        .write(&mut bytes, b"ping")
        .unwrap();
    let mut packet = Packet::parse(&bytes).unwrap();
    assert!(icmp::answer_echo(&mut packet, &mut bytes, Checksums::Complete).unwrap());
    assert!(!icmp::answer_echo(&mut packet, &mut bytes, Checksums::Complete).unwrap());
    let read = Packet::parse(&bytes).unwrap();
    assert_eq!((read.source, read.destination), (to.ip(), from.ip()));
    assert_eq!(Sum::of(read.payload(&bytes)).folded(), u16::MAX);

    let (from, to) = pairs()[1];
    let mut bytes = Vec::new();
    builder(from.ip(), to.ip())
        .icmpv6_echo_request(3, 4)
        .write(&mut bytes, b"ping")
        .unwrap();
    let mut packet = Packet::parse(&bytes).unwrap();
    assert!(icmp::answer_echo(&mut packet, &mut bytes, Checksums::Complete).unwrap());
    let read = Packet::parse(&bytes).unwrap();
    assert_eq!((read.source, read.destination), (to.ip(), from.ip()));
    let sum = pseudo(&read).plus(Sum::of(read.payload(&bytes)));
    assert_eq!(sum.folded(), u16::MAX);
}

fn any_address(is_v4: bool) -> BoxedStrategy<SocketAddr> {
    if is_v4 {
        any::<([u8; 4], u16)>().prop_map(SocketAddr::from).boxed()
    } else {
        any::<([u8; 16], u16)>().prop_map(SocketAddr::from).boxed()
    }
}

fn addresses() -> impl Strategy<Value = [SocketAddr; 4]> {
    any::<bool>().prop_flat_map(|is_v4| std::array::from_fn(|_| any_address(is_v4)))
}

proptest! {
    #[test]
    fn readdressed_segments_are_sound(
        [from, to, other, another] in addresses(), data in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        let mut bytes = tcp((from, to), "A", &data);
        let mut packet = Packet::parse(&bytes).unwrap();
        tcp::readdress(&mut packet, &mut bytes, Checksums::Complete, (other, another)).unwrap();
        prop_assert!(is_sound(&bytes));
        let segment = Segment::parse(&Packet::parse(&bytes).unwrap(), &bytes).unwrap();
        prop_assert_eq!((segment.source, segment.destination), (other, another));
    }

    /// The kernel completes a partial checksum: it sums the segment, in which the field stands.
    #[test]
    fn partial_sums_are_completed_to_sound_segments(
        [from, to, other, another] in addresses(), data in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        let mut bytes = tcp((from, to), "A", &data);
        let mut packet = Packet::parse(&bytes).unwrap();
        let field = packet.payload + 16;
        let pseudo = pseudo(&packet).folded();
        bytes[field..field + 2].copy_from_slice(&pseudo.to_be_bytes());
        tcp::readdress(&mut packet, &mut bytes, Checksums::Partial, (other, another)).unwrap();
        let sum = Sum::of(packet.payload(&bytes)).complement();
        bytes[field..field + 2].copy_from_slice(&sum.to_be_bytes());
        prop_assert!(is_sound(&bytes));
    }

    #[test]
    fn datagrams_are_written_as_others_read_them(
        [from, to, ..] in addresses(), data in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        let mut head = [0; udp::MAX_HEAD];
        let len = udp::write_head(&mut head, (from, to), (Checksums::Complete, 7), &data, data.len()).unwrap();
        let bytes = [&head[..len], &data].concat();
        prop_assert!(is_sound(&bytes));
        let packet = Packet::parse(&bytes).unwrap();
        let datagram = Datagram::parse(&packet, &bytes, Checksums::Complete).unwrap();
        prop_assert_eq!((datagram.source, datagram.destination), (from, to));
        prop_assert_eq!(&bytes[datagram.data], &data[..]);
    }

    #[test]
    fn garbage_is_refused_or_read_within_its_bounds(bytes in proptest::collection::vec(any::<u8>(), 0..120), version in 0_u8..2) {
        let mut bytes = bytes;
        if let Some(first) = bytes.first_mut() {
            *first = if version == 0 { 0x45 } else { 0x60 };
        }
        if version == 0 && bytes.len() >= IPV4_HEADER {
            let len = u16::try_from(bytes.len()).unwrap();
            bytes[2..4].copy_from_slice(&len.to_be_bytes());
            bytes[10..12].fill(0);
            let sum = Sum::of(&bytes[..IPV4_HEADER]).complement();
            bytes[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        if let Ok(mut packet) = Packet::parse(&bytes) {
            prop_assert!(packet.payload <= packet.end && packet.end <= bytes.len());
            let _ = Segment::parse(&packet, &bytes).map(|segment| segment.reset(&mut [0; tcp::MAX_RESET]));
            if let Ok(datagram) = Datagram::parse(&packet, &bytes, Checksums::Partial) {
                prop_assert!(datagram.data.end <= packet.end);
            }
            let _ = icmp::answer_echo(&mut packet, &mut bytes, Checksums::Complete);
            let (source, destination) = (SocketAddr::new(packet.destination, 1), SocketAddr::new(packet.source, 2));
            let _ = tcp::readdress(&mut packet, &mut bytes, Checksums::Complete, (source, destination));
        }
    }
}
