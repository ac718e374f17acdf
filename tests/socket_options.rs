//! Options of sockets that are seen from outside: TCP Fast Open, Multipath TCP, the interface, and the family of addresses.

use std::{
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, Ipv6Addr, TcpListener, TcpStream, UdpSocket},
    process::Command,
    thread,
    time::Duration,
};

use crate::common::{
    DEADLINE,
    matrix::{self, Targets},
    peers::{Pair, Program::Ssr, Spec, Start},
    socks::{CONNECT, Socks, Target},
};
use crate::emulated::{self, Link, Namespace, Shape};
use serde_json::{Value, json};

fn pair(server: Value, local: Value) -> Pair {
    let spec = Spec::new("2022-blake3-aes-256-gcm");
    Pair::with(Start::server(Ssr, &spec).with(server), |at| {
        Start::local(Ssr, &spec, at).with(local)
    })
}

/// A counter of `/proc/net/netstat` in the namespace of this thread.
fn counter(name: &str) -> u64 {
    let text = fs::read_to_string("/proc/thread-self/net/netstat").unwrap();
    let mut lines = text.lines().filter(|line| line.starts_with("TcpExt:"));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let mut pairs = names.split(' ').zip(values.split(' '));
    let found = pairs.find(|(known, _)| *known == name);
    found.unwrap().1.parse().unwrap()
}

#[test]
#[ignore = "needs root: a namespace"]
fn fast_open_saves_a_round_trip_and_lets_the_target_speak_first_over_link() {
    let place = Namespace::loopback().unwrap();
    let test = || {
        // Both sides, and listeners that do not ask for it, as targets.
        fs::write("/proc/sys/net/ipv4/tcp_fastopen", "1027").unwrap();
        let pair = pair(json!({"fast_open": true}), json!({"fast_open": true}));
        let targets = Targets::start();
        for _ in 0..3 {
            matrix::echoes(&pair.socks(), &targets.echo.v4(), 10_000);
            matrix::server_speaks_first(&pair.socks(), &targets);
        }
        assert!(counter("TCPFastOpenPassive") > 0, "data came with a SYN");
    };
    place.run(test).unwrap();
}

#[test]
#[ignore = "needs peers: scripts/test"]
fn multipath_tcp_is_spoken_where_asked_for() {
    let pair = pair(json!({"mptcp": true}), json!({"mptcp": true}));
    let targets = Targets::start();
    let mut stream = pair.socks().connect(&targets.echo.v4());
    let mut byte = [7];
    stream.write_all(&byte).unwrap();
    stream.read_exact(&mut byte).unwrap();
    // `ss -M` lists the sockets of Multipath TCP, and not those that fell back to TCP.
    let output = Command::new("ss")
        .args(["-M", "-n", "-a"])
        .output()
        .unwrap();
    let list = String::from_utf8(output.stdout).unwrap();
    let server = pair.server.address.to_string();
    let established = list
        .lines()
        .any(|line| line.starts_with("ESTAB") && line.contains(&server));
    assert!(established, "{list}");
}

#[test]
#[ignore = "needs peers: scripts/test"]
fn listeners_let_as_many_connections_wait_as_the_kernel_and_4096() {
    let server = Start::server(Ssr, &Spec::new("2022-blake3-aes-256-gcm")).run();
    let filter = format!("sport = :{}", server.address.port());
    let output = Command::new("ss").args(["-ltnH", &filter]).output();
    let list = String::from_utf8(output.unwrap().stdout).unwrap();
    let most: u32 = fs::read_to_string("/proc/sys/net/core/somaxconn")
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    // `ss` shows the limit of a listener as its Send-Q.
    let limit = list.split_whitespace().nth(2).unwrap();
    assert_eq!(limit.parse::<u32>().unwrap(), most.min(4096), "{list}");
}

#[test]
fn ipv6_only_leaves_ipv4_to_others() {
    for (only, reached) in [(true, false), (false, true)] {
        let spec = Spec::new("aes-256-gcm");
        let local = Start::local(Ssr, &spec, ([127, 0, 0, 1], 1).into())
            .with(json!({"local_address": "::", "ipv6_only": only}))
            .run();
        let port = local.address.port();
        assert!(TcpStream::connect((Ipv6Addr::LOCALHOST, port)).is_ok());
        let by_ipv4 = TcpStream::connect((Ipv4Addr::LOCALHOST, port));
        assert_eq!(by_ipv4.is_ok(), reached, "ipv6_only: {only}");
    }
}

/// A name server that knows both loopback addresses for every name.
fn name_server() -> u16 {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = socket.local_addr().unwrap().port();
    thread::spawn(move || {
        let mut query = [0; 1500];
        while let Ok((len, from)) = socket.recv_from(&mut query) {
            let name = query[12..len].iter().position(|byte| *byte == 0).unwrap();
            let question = &query[12..12 + name + 5];
            let kind = question[name + 2];
            let address: &[u8] = match kind {
                1 => &Ipv4Addr::LOCALHOST.octets(),
                _ => &Ipv6Addr::LOCALHOST.octets(),
            };
            let mut answer = query[..2].to_vec();
            answer.extend([0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
            answer.extend(question);
            answer.extend([0xc0, 12, 0, kind, 0, 1, 0, 0, 0, 60, 0]);
            answer.push(u8::try_from(address.len()).unwrap());
            answer.extend(address);
            let _gone = socket.send_to(&answer, from);
        }
    });
    port
}

#[test]
fn ipv6_first_says_which_address_of_a_name_is_tried() {
    let name_server = name_server();
    let first = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = first.local_addr().unwrap().port();
    let second = TcpListener::bind((Ipv6Addr::LOCALHOST, port)).unwrap();
    for listener in [first, second] {
        let is_v6 = listener.local_addr().unwrap().is_ipv6();
        thread::spawn(move || {
            for mut stream in listener.incoming().map_while(Result::ok) {
                let _gone = stream.write_all(if is_v6 { b"6" } else { b"4" });
            }
        });
    }
    for (ipv6_first, answer) in [(true, b"6"), (false, b"4")] {
        let dns = format!("udp://127.0.0.1:{name_server}");
        let pair = pair(json!({"dns": dns, "ipv6_first": ipv6_first}), json!({}));
        let target = Target::name("both.example", port);
        let mut stream = pair.socks().connect(&target);
        let mut got = [0];
        stream.read_exact(&mut got).unwrap();
        assert_eq!(&got, answer, "ipv6_first: {ipv6_first}");
    }
}

#[test]
#[ignore = "needs root: an emulated link"]
fn outbound_bind_interface_is_the_only_way_over_link() {
    let link = Link::new(Shape {
        delay: Duration::from_millis(1),
        loss: 0.0,
        rate: 100e6,
        queue: Duration::from_millis(100),
        seed: 1,
    })
    .expect("root, /dev/net/tun and `ip`");
    let target = link
        .b
        .run(|| {
            let listener = TcpListener::bind((emulated::B, 0)).unwrap();
            let port = listener.local_addr().unwrap().port();
            thread::spawn(move || {
                for mut stream in listener.incoming().map_while(Result::ok) {
                    let _gone = stream.write_all(b"!");
                }
            });
            std::net::SocketAddr::from((emulated::B, port))
        })
        .unwrap();
    let reaches = |interface: &str| {
        let server = json!({"outbound_bind_interface": interface, "timeouts": {"connect": 1}});
        let pair = pair(server, json!({}));
        let socks: Socks = pair.socks();
        let mut stream = socks.request(CONNECT, &target.into()).unwrap().0;
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        matches!(stream.read(&mut [0]), Ok(1))
    };
    let near = &link.a;
    assert!(near.run(|| reaches("link0")).unwrap());
    assert!(!near.run(|| reaches("lo")).unwrap(), "another interface");
    assert!(!near.run(|| reaches("no-such0")).unwrap());
}
