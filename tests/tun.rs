//! `protocol: tun`: the packets of a network interface, in network namespaces. The machines are those of [`crate::redir`].

use crate::common::{ANSWER, DEADLINE, eventually, peers, process::Process};
use crate::emulated::{self, Namespace};
use crate::redir::{PORT, Scene, TARGETS, echoes_datagrams, echoes_stream};
use rustix::process::Signal;
use serde_json::{Value, json};
use socket2::{Domain, Protocol, Socket, Type};
use std::{
    io::{ErrorKind, IoSlice, Read, Write},
    mem::MaybeUninit,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsFd,
    os::unix::net::UnixStream,
    process::Command,
    thread,
    time::{Duration, Instant},
};

/// An address that leads nowhere but into the device, and that nothing at the far end has.
const NAME_SERVER: &str = "192.0.2.53";

pub(crate) fn auto() -> Value {
    json!({"protocol": "tun", "tun_interface_name": "tun7", "auto_route": true})
}

pub(crate) fn target(index: usize) -> IpAddr {
    TARGETS[index].parse().unwrap()
}

/// What a program prints in a namespace.
fn printed(place: &Namespace, program: &str, arguments: &[&str]) -> String {
    let mut command = Command::new(program);
    command.args(arguments);
    place.place(&mut command).unwrap();
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The rules of both IP versions that `auto_route` has set.
fn rules(place: &Namespace) -> Vec<String> {
    let all = ["-4", "-6"].map(|version| printed(place, "ip", &[version, "rule"]));
    let lines = all.iter().flat_map(|text| text.lines());
    let ours = lines.filter(|line| line.contains("proto 115"));
    ours.map(str::to_owned).collect()
}

/// Sends an echo request and waits for its answer.
fn pings(ip: IpAddr) {
    let (domain, protocol, request, answer) = match ip {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4, 8, 0),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6, 128, 129),
    };
    let socket = Socket::new(domain, Type::RAW, Some(protocol)).unwrap();
    socket.set_read_timeout(Some(ANSWER)).unwrap();
    let mut packet = vec![request, 0, 0, 0, 7, 7, 0, 1];
    packet.extend(b"are you there?..");
    if ip.is_ipv4() {
        let words = packet
            .chunks(2)
            .map(|word| u32::from(word[0]) << 8 | u32::from(word[1]));
        let sum: u32 = words.sum();
        let sum = !u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
        packet[2..4].copy_from_slice(&sum.to_be_bytes());
    }
    socket
        .send_to(&packet, &SocketAddr::new(ip, 0).into())
        .unwrap();
    let deadline = Instant::now() + DEADLINE;
    while Instant::now() < deadline {
        let mut buf = [0; 1500];
        let len = (&socket).read(&mut buf).unwrap();
        // The IPv4 header is in front.
        let message = &buf[if ip.is_ipv4() { 20 } else { 0 }..len];
        if message[0] == answer && message[4..8] == packet[4..8] {
            assert_eq!(message[8..], packet[8..]);
            return;
        }
    }
    panic!("no answer from {ip}");
}

/// Datagrams that the kernel hands over as one (GSO).
fn sends_joined(target: IpAddr) {
    let any: IpAddr = if target.is_ipv4() {
        [0; 4].into()
    } else {
        [0_u16; 8].into()
    };
    let client = UdpSocket::bind((any, 0)).unwrap();
    client.set_read_timeout(Some(ANSWER)).unwrap();
    let state = quinn_udp::UdpSocketState::new((&client).into()).unwrap();
    client.set_nonblocking(false).unwrap();
    let contents: Vec<u8> = (0..20_u8).flat_map(|number| [number; 1000]).collect();
    let transmit = quinn_udp::Transmit {
        destination: (target, PORT).into(),
        ecn: None,
        contents: &contents,
        segment_size: Some(1000),
        src_ip: None,
    };
    let receive = |len: usize| {
        let mut buf = [0; 10_000];
        let (got, _) = client.recv_from(&mut buf).unwrap();
        let start = got.checked_sub(len).unwrap();
        let told = String::from_utf8_lossy(&buf[..start]);
        assert_eq!(told.trim(), target.to_string());
        buf[start..got].to_vec()
    };
    state.try_send((&client).into(), &transmit).unwrap();
    let mut seen: Vec<u8> = (0..40).map(|_| receive(1000)[0]).collect();
    seen.sort_unstable();
    assert_eq!(
        seen,
        (0..20).flat_map(|number| [number; 2]).collect::<Vec<u8>>()
    );
}

/// A datagram that this machine cuts into fragments for the device.
fn sends_long(target: IpAddr) {
    let any: IpAddr = if target.is_ipv4() {
        [0; 4].into()
    } else {
        [0_u16; 8].into()
    };
    // Too long for the device, and not for the link with what the server's packet adds.
    let len = if target.is_ipv4() { 1390 } else { 1370 };
    let long: Vec<u8> = (0..len)
        .map(|at| u8::try_from(at % 251_u16).unwrap())
        .collect();
    let client = UdpSocket::bind((any, 0)).unwrap();
    client.set_read_timeout(Some(ANSWER)).unwrap();
    client.send_to(&long, (target, PORT)).unwrap();
    let mut buf = [0; 10_000];
    let got = client.recv(&mut buf).unwrap();
    assert!(buf[..got].ends_with(&long), "{got} bytes came back");
}

/// Makes a machine a router.
fn forward(place: &Namespace) {
    let on = || {
        for key in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
            std::fs::write(format!("/proc/sys/net/{key}"), "1").unwrap();
        }
    };
    place.run(on).unwrap();
}

/// Nothing leads to `target`.
fn is_unreachable(target: IpAddr) {
    let refused = TcpStream::connect_timeout(&(target, PORT).into(), DEADLINE).unwrap_err();
    let kinds = [ErrorKind::HostUnreachable, ErrorKind::NetworkUnreachable];
    assert!(kinds.contains(&refused.kind()), "{refused}");
}

#[test]
#[ignore = "needs root: namespaces and tun devices"]
fn auto_route_leads_everything_into_the_device_until_the_end_over_link() {
    let mut scene = Scene::new(&auto(), &json!({}));
    let gateway = &scene.link.a;
    forward(gateway);
    scene.carries_everything();
    for (name, place) in [("gateway", gateway), ("lan", &scene.lan.a)] {
        for index in [0, 1] {
            let answered = place.run(|| {
                pings(target(index));
                sends_joined(target(index));
            });
            answered.unwrap_or_else(|_| panic!("from {name} to {}", TARGETS[index]));
        }
    }
    for index in [0, 1] {
        gateway.run(|| sends_long(target(index))).unwrap();
    }
    // Networks of its own stay: the server is in one, and sees the gateway's address.
    let near = scene
        .lan
        .a
        .run(|| TcpListener::bind("10.98.0.1:7002").unwrap())
        .unwrap();
    gateway
        .run(|| TcpStream::connect("10.98.0.1:7002").unwrap())
        .unwrap();
    assert_eq!(near.accept().unwrap().1.ip(), IpAddr::from([10, 98, 0, 2]));
    // A second process would take the traffic away from the first.
    let config = scene.config.path().join("local");
    let text = std::fs::read_to_string(&config).unwrap();
    let other = scene.config.path().join("other");
    std::fs::write(&other, text.replace("tun7", "tun8")).unwrap();
    let mut command = peers::ssr(&["local", "-c", other.to_str().unwrap()]);
    gateway.place(&mut command).unwrap();
    let mut second = Process::spawn("second ssr local", &mut command).unwrap();
    let (status, log) = second.wait(DEADLINE);
    assert!(
        !status.success()
            && log.contains("another process leads the traffic of this machine into tun7"),
        "{log}"
    );
    scene.carries_everything();

    scene.local.signal(Signal::TERM);
    let (status, log) = scene.local.wait(DEADLINE);
    assert!(status.success(), "{log}");
    let gateway = &scene.link.a;
    assert_eq!(rules(gateway), Vec::<String>::new());
    for version in ["-4", "-6"] {
        let left = printed(gateway, "ip", &[version, "route", "show", "table", "all"]);
        assert!(!left.contains("29556") && !left.contains("tun7"), "{left}");
    }
    let own: IpAddr = emulated::A.into();
    gateway.run(|| echoes_stream(target(0), own)).unwrap();
}

#[test]
#[ignore = "needs root: namespaces and tun devices"]
fn killed_process_leaks_nothing_and_the_next_one_cleans_up_over_link() {
    let mut scene = Scene::new(&auto(), &json!({}));
    let gateway = &scene.link.a;
    gateway.run(|| echoes_stream(target(0), target(0))).unwrap();
    let set = rules(gateway);
    assert!(!set.is_empty());
    scene.local.signal(Signal::KILL);
    scene.local.wait(DEADLINE);
    let gateway = &scene.link.a;
    for index in [0, 1] {
        gateway.run(|| is_unreachable(target(index))).unwrap();
    }
    let config = scene.config.path().join("local");
    let mut command = peers::ssr(&["local", "-v", "-c", config.to_str().unwrap()]);
    gateway.place(&mut command).unwrap();
    scene.local = Process::spawn("ssr local", &mut command).unwrap();
    scene.local.running().unwrap();
    assert_eq!(rules(&scene.link.a), set, "each rule once");
    forward(&scene.link.a);
    scene.carries_everything();
    scene.local.signal(Signal::TERM);
    scene.local.wait(DEADLINE);
    assert_eq!(rules(&scene.link.a), Vec::<String>::new());
}

/// The device of another program, with its own address and routes.
fn passed_device(place: &Namespace, name: &str) -> tun_rs::SyncDevice {
    let builder = tun_rs::DeviceBuilder::new().name(name);
    let device = place.run(|| builder.build_sync().unwrap()).unwrap();
    lead_into(place, name);
    device
}

/// Gives a device addresses, and leads packets to the targets into it.
pub(crate) fn lead_into(place: &Namespace, device: &str) {
    for command in [
        format!("addr add 172.30.0.1/24 dev {device}"),
        format!("-6 addr add fd00:30::1/64 dev {device} nodad"),
        format!("link set {device} up"),
        format!("route add {} dev {device}", TARGETS[0]),
        format!("-6 route add {} dev {device}", TARGETS[1]),
    ] {
        place.ip(&command).unwrap();
    }
}

#[test]
#[ignore = "needs root: namespaces and tun devices"]
fn device_that_comes_through_a_socket_is_served_over_link() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("device");
    let entry = json!({"protocol": "tun", "tun_device_fd_from_path": path});
    let scene = Scene::with(&entry, &json!({}), |gateway| {
        let device = passed_device(gateway, "given");
        let path = path.clone();
        thread::spawn(move || {
            let mut connected = None;
            eventually("the socket is there", || {
                connected = UnixStream::connect(&path).ok();
                connected.is_some()
            });
            let fds = [device.as_fd()];
            let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut ancillary = rustix::net::SendAncillaryBuffer::new(&mut room);
            ancillary.push(rustix::net::SendAncillaryMessage::ScmRights(&fds));
            let flags = rustix::net::SendFlags::empty();
            let parts = [IoSlice::new(b"x")];
            rustix::net::sendmsg(connected.unwrap(), &parts, &mut ancillary, flags).unwrap();
        });
    });
    carries_all(&scene.link.a);
}

/// Streams, datagrams and echo requests go through the device.
pub(crate) fn carries_all(gateway: &Namespace) {
    for index in [0, 1] {
        let carries = || {
            echoes_stream(target(index), target(index));
            echoes_datagrams(target(index), target(index));
            pings(target(index));
        };
        gateway.run(carries).unwrap();
    }
}

#[test]
#[ignore = "needs root: namespaces and tun devices"]
fn device_without_auto_route_takes_what_is_led_into_it_over_link() {
    let entry = json!({
        "protocol": "tun", "tun_interface_name": "tun7", "tun_interface_address": "10.77.0.1/24", "mtu": 9000,
        "mode": "tcp_only",
    });
    let scene = Scene::new(&entry, &json!({}));
    let gateway = &scene.link.a;
    let device = printed(gateway, "ip", &["addr", "show", "tun7"]);
    assert!(
        device.contains("mtu 9000") && device.contains("10.77.0.1/24"),
        "{device}"
    );
    assert_eq!(rules(gateway), Vec::<String>::new());
    gateway
        .ip(&format!("route add {} dev tun7", TARGETS[0]))
        .unwrap();
    gateway
        .run(|| {
            echoes_stream(target(0), target(0));
            pings(target(0));
            // Datagrams are not served.
            let client = UdpSocket::bind("0.0.0.0:0").unwrap();
            client
                .set_read_timeout(Some(Duration::from_millis(300)))
                .unwrap();
            client.send_to(b"anybody?", (target(0), PORT)).unwrap();
            assert!(client.recv(&mut [0; 100]).is_err());
            // The device's network has nobody else.
            let refused = TcpStream::connect_timeout(&"10.77.0.2:80".parse().unwrap(), DEADLINE);
            assert_eq!(refused.unwrap_err().kind(), ErrorKind::ConnectionRefused);
        })
        .unwrap();
}

/// A name server behind the server, by UDP and TCP: every name is 203.0.113.9.
fn name_server(place: &Namespace) {
    let answer = |query: &[u8]| {
        // The question ends four bytes after its name; what follows it is left out (RFC 1035 §4.1).
        let mut end = 12;
        while query[end] != 0 {
            end += 1 + usize::from(query[end]);
        }
        let mut answer = query[..end + 5].to_vec();
        answer[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 203, 0, 113, 9]);
        answer
    };
    place
        .run(|| {
            let socket = UdpSocket::bind((target(0), 53)).unwrap();
            let listener = TcpListener::bind((target(0), 53)).unwrap();
            thread::spawn(move || {
                let mut buf = [0; 512];
                while let Ok((len, from)) = socket.recv_from(&mut buf) {
                    let _gone = socket.send_to(&answer(&buf[..len]), from);
                }
            });
            thread::spawn(move || {
                for mut stream in listener.incoming().map_while(Result::ok) {
                    let mut len = [0; 2];
                    stream.read_exact(&mut len).unwrap();
                    let mut query = vec![0; u16::from_be_bytes(len).into()];
                    stream.read_exact(&mut query).unwrap();
                    let answer = answer(&query);
                    let len = u16::try_from(answer.len()).unwrap();
                    stream
                        .write_all(&[&len.to_be_bytes()[..], &answer].concat())
                        .unwrap();
                }
            });
        })
        .unwrap();
}

#[test]
#[ignore = "needs root: namespaces and tun devices"]
fn queries_go_to_the_name_server_of_the_config_over_link() {
    let mut entry = auto();
    entry["remote_dns_address"] = TARGETS[0].into();
    let scene = Scene::new(&entry, &json!({}));
    name_server(&scene.link.b);
    // Even a name server in a network of the machine is not asked: nobody is there.
    for server in [NAME_SERVER, "10.98.0.1"] {
        for flag in ["+notcp", "+tcp"] {
            let at = format!("@{server}");
            let found = printed(
                &scene.link.a,
                "dig",
                &[&at, "+short", "+time=5", flag, "example.com", "A"],
            );
            assert_eq!(found.trim(), "203.0.113.9", "{server} {flag}");
        }
    }
}

#[test]
#[ignore = "needs root: namespaces and tun devices"]
fn rules_decide_what_goes_direct_over_link() {
    let more = json!({"rules": [
        {"ip": TARGETS[0], "port": PORT, "to": "direct"},
        {"ip": TARGETS[1], "local": "tun7", "to": "block"},
    ]});
    let scene = Scene::new(&auto(), &more);
    let own: IpAddr = emulated::A.into();
    scene.link.a.run(|| echoes_stream(target(0), own)).unwrap();
    let blocked = || {
        // The reset may come before `connect` returns.
        let connected = TcpStream::connect_timeout(&(target(1), PORT).into(), DEADLINE);
        let read = connected.and_then(|mut stream| {
            stream.set_read_timeout(Some(DEADLINE))?;
            stream.read(&mut [0; 1])
        });
        let ended = read.map_err(|error| error.kind());
        assert!(
            matches!(ended, Ok(0) | Err(ErrorKind::ConnectionReset)),
            "{ended:?}"
        );
    };
    scene.link.a.run(blocked).unwrap();
}

/// Sends `packet`, which has an IPv4 header, as it is.
fn send_raw(socket: &Socket, packet: &[u8], to: IpAddr) {
    // The kernel refuses some of what we send, and a full queue loses some: more of it comes.
    let _lost = socket.send_to(packet, &SocketAddr::new(to, 0).into());
}

#[test]
#[ignore = "needs root: namespaces and tun devices"]
fn floods_through_the_device_are_bounded_and_hurt_nobody_over_link() {
    let scene = Scene::new(&auto(), &json!({"udp_max_associations": 100}));
    let gateway = &scene.link.a;
    let mut early = gateway
        .run(|| TcpStream::connect_timeout(&(target(0), PORT).into(), DEADLINE).unwrap())
        .unwrap();
    early.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut byte = [0; 1];
    while byte != *b"\n" {
        early.read_exact(&mut byte).unwrap();
    }
    let before = scene.local.memory_kib("VmRSS");
    gateway
        .run(|| {
            let raw = Socket::new(
                Domain::IPV4,
                Type::RAW,
                Some(Protocol::from(libc::IPPROTO_RAW)),
            )
            .unwrap();
            let to = target(0);
            let IpAddr::V4(to_v4) = to else {
                unreachable!()
            };
            let from = Ipv4Addr::new(172, 19, 0, 1).octets();
            for number in 1..=60_000_u16 {
                // A SYN of its own port each.
                let builder = etherparse::PacketBuilder::ipv4(from, to_v4.octets(), 64);
                let mut packet = Vec::new();
                builder
                    .tcp(number, 443, 1, 1000)
                    .syn()
                    .write(&mut packet, &[])
                    .unwrap();
                send_raw(&raw, &packet, to);
                // A datagram of its own port each, whole, cut, and as a fragment that never ends.
                let builder = etherparse::PacketBuilder::ipv4(from, to_v4.octets(), 64);
                let mut packet = Vec::new();
                builder
                    .udp(number, PORT)
                    .write(&mut packet, &[0; 64])
                    .unwrap();
                send_raw(&raw, &packet, to);
                packet[6] |= 0x20;
                packet[4..6].copy_from_slice(&number.to_be_bytes());
                send_raw(&raw, &packet, to);
                packet.truncate(23);
                send_raw(&raw, &packet, to);
                // Of a protocol that nobody knows.
                packet[9] = u8::try_from(number % 256).unwrap();
                send_raw(&raw, &packet, to);
            }
        })
        .unwrap();
    early.write_all(b"still here").unwrap();
    let mut back = [0; 10];
    early.read_exact(&mut back).unwrap();
    assert_eq!(&back, b"still here");
    let carries = || {
        echoes_stream(target(0), target(0));
        echoes_datagrams(target(1), target(1));
    };
    gateway.run(carries).unwrap();
    let after = scene.local.memory_kib("VmRSS");
    assert!(
        after < before + 64 * 1024,
        "{before} KiB before, {after} KiB after"
    );
    assert!(scene.local.open_files() < 1000);
}
