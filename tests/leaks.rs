//! What leaves the machine while everything on it goes through `ssr local`: packets to the server, and no others.
//!
//! ```text
//! lan            link1   gateway                             link0   far
//!   a machine  ──────────  programs, ssr local, the capture ──────────  ssr server, targets, a name server
//! ```
//!
//! The firewall's rules are those of `ssr redir-rules`. The capture sees every packet that the gateway sends on its only
//! way out, from before `ssr local` starts until after it was killed.

use crate::common::{
    DEADLINE, eventually,
    http::Http,
    peers::{self, Spec},
    process::{Process, v4},
    socks::{CONNECT, Socks, Target, dial},
};
use crate::emulated::{self, Link, Namespace};
use crate::redir::{ELSEWHERE, PORT, TARGETS, machines};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::{
    fs,
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};
use tempfile::TempDir;

const METHOD: &str = "2022-blake3-aes-256-gcm";
const SERVER_PORT: u16 = 8388;
/// The second packet that the capture knows: to the server, so it is no leak.
const MARK_PORT: u16 = 9;
/// How long a target may stay silent before a datagram counts as lost.
const LOST: Duration = Duration::from_millis(700);

/// Prints the protocol, destination and port (for ICMP the type) of every packet that leaves by link0.
const CAPTURE: &str = r#"
import socket
packets = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3))
packets.bind(("link0", 3))
print("capturing", flush=True)
while True:
    packet, address = packets.recvfrom(65535)
    if address[2] != 4:
        continue
    if packet[0] >> 4 == 4:
        protocol, to, body = packet[9], socket.inet_ntop(socket.AF_INET, packet[16:20]), packet[(packet[0] & 15) * 4:]
    else:
        protocol, to, body = packet[6], socket.inet_ntop(socket.AF_INET6, packet[24:40]), packet[40:]
    port = int.from_bytes(body[2:4], "big") if protocol in (6, 17) else body[0]
    print("packet", protocol, to, port, flush=True)
"#;

/// The machines, and the programs that do not change.
struct Scene {
    capture: Process,
    config: TempDir,
    lan: Link,
    link: Link,
}

impl Scene {
    fn new() -> Self {
        let (lan, link) = machines();
        let forward = || {
            for key in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
                fs::write(format!("/proc/sys/net/{key}"), "1").unwrap();
            }
        };
        link.a.run(forward).unwrap();
        link.b.run(targets).unwrap();
        let mut command = Command::new("python3");
        command.args(["-u", "-c", CAPTURE]);
        link.a.place(&mut command).unwrap();
        let capture = Process::spawn("capture", &mut command).expect("python3");
        eventually("the capture runs", || capture.log().contains("capturing"));
        let config = tempfile::tempdir().unwrap();
        let scene = Self {
            capture,
            config,
            lan,
            link,
        };
        scene.write_configs();
        scene.redirect();
        scene
    }

    fn write_configs(&self) {
        let spec = Spec::new(METHOD);
        let mut keys = json!({
            "server": emulated::B.to_string(), "server_port": SERVER_PORT, "method": spec.method,
            "password": spec.password, "dns": TARGETS[0],
        });
        let write = |role: &str, keys: &Value| {
            fs::write(self.config.path().join(role), keys.to_string()).unwrap();
        };
        write("server", &keys);
        keys["locals"] = json!([
            {"protocol": "socks", "local_port": 1080},
            {"protocol": "http", "local_port": 3128},
            {"protocol": "dns", "local_port": 5353, "remote_dns_address": TARGETS[0]},
            {"protocol": "redir", "local_address": "::", "local_port": 1081},
        ]);
        keys["outbound_fwmark"] = json!(255);
        keys["timeouts"] = json!({"connect": 1});
        write("local", &keys);
    }

    /// Loads the firewall's rules as they are printed, with their routes.
    fn redirect(&self) {
        let path = self.config.path().join("local");
        let mut command = peers::ssr(&["redir-rules", "-c", path.to_str().unwrap()]);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let rules = String::from_utf8(output.stdout).unwrap();
        for line in rules.lines() {
            if let Some(route) = line.strip_prefix("#   ip ") {
                self.link.a.ip(route).unwrap();
            }
        }
        let mut command = Command::new("nft");
        command.args(["-f", "-"]).stdin(Stdio::piped());
        self.link.a.place(&mut command).unwrap();
        let mut child = command.spawn().expect("nft");
        let mut input = child.stdin.take().unwrap();
        input.write_all(rules.as_bytes()).unwrap();
        drop(input);
        assert!(child.wait().unwrap().success(), "{rules}");
    }

    fn start(&self, role: &str, place: &Namespace) -> Process {
        let path = self.config.path().join(role);
        let mut command = peers::ssr(&[role, "-v", "-c", path.to_str().unwrap()]);
        place.place(&mut command).unwrap();
        let mut process = Process::spawn(&format!("ssr {role}"), &mut command).unwrap();
        process.running().unwrap();
        process
    }

    fn server(&self) -> Process {
        self.start("server", &self.link.b)
    }

    fn local(&self) -> Process {
        self.start("local", &self.link.a)
    }

    /// Makes every kind of request, from both machines. Returns those that did not go as `expected` says.
    fn requests(&self, expected: Expected, round: u32) {
        let gateway = || {
            explicit(expected, round);
            transparent(expected);
        };
        self.link.a.run(gateway).expect("at the gateway");
        self.lan
            .a
            .run(|| transparent(expected))
            .expect("in the lan");
    }

    /// The packets so far that were for anybody but the server. A packet that is known comes last, so that all before it
    /// have been seen.
    fn leaks(&self) -> Vec<String> {
        let count = || {
            let mark = format!("packet 17 {} {MARK_PORT}\n", emulated::B);
            self.capture.log().matches(&mark).count()
        };
        let before = count();
        let send = || {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket2::SockRef::from(&socket).set_mark(255).unwrap();
            socket.send_to(b"x", (emulated::B, MARK_PORT)).unwrap();
        };
        self.link.a.run(send).unwrap();
        eventually("the capture sees the mark", || count() > before);
        let log = self.capture.log();
        let server = emulated::B.to_string();
        // The last line may not be complete yet.
        let complete = log.rsplit_once('\n').map_or("", |(lines, _)| lines);
        let packets = complete
            .lines()
            .filter_map(|line| line.strip_prefix("packet "));
        let is_leak = |line: &&str| {
            let fields: Vec<_> = line.split(' ').collect();
            let [protocol, to, port] = fields[..] else {
                return true;
            };
            let ours =
                to == server && (port == SERVER_PORT.to_string() || port == MARK_PORT.to_string());
            // The kernel looks for routers and tells of its multicast groups (RFC 4861 §4.1, RFC 3810 §5.2).
            let kernel = ["0", "58"].contains(&protocol) && to.starts_with("ff02::");
            // An answer to a packet of the server that nobody waits for any more.
            let unreachable = protocol == "1" && to == server;
            !(ours || kernel || unreachable)
        };
        packets.filter(is_leak).map(str::to_owned).collect()
    }
}

/// How requests end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    /// As without a proxy.
    Works,
    /// The client is told that nothing can be reached.
    Truth,
    /// There is no `ssr local`.
    Nobody,
}

/// Requests to the ports of `ssr local`.
fn explicit(expected: Expected, round: u32) {
    if expected == Expected::Nobody {
        assert!(TcpStream::connect(v4(1080)).is_err());
        return;
    }
    let works = expected == Expected::Works;
    let socks = Socks::new(v4(1080));
    for target in [
        SocketAddr::new(TARGETS[0].parse().unwrap(), PORT).into(),
        SocketAddr::new(TARGETS[1].parse().unwrap(), PORT).into(),
        Target::name("target.test", PORT),
    ] {
        let (mut stream, code, _) = socks.request(CONNECT, &target).unwrap();
        if works {
            assert_eq!(code, 0, "{target:?}");
            assert_eq!(echo(&mut stream), Some(true), "{target:?}");
        } else {
            assert!([1, 3, 4, 5, 6].contains(&code), "{target:?}: {code}");
        }
        let association = socks.associate();
        association.send(&target, b"datagram");
        let answer = association.receive(if works { DEADLINE } else { LOST });
        assert_eq!(answer.is_some(), works, "{target:?}");
    }
    for host in ["198.51.100.7", "[2001:db8:7::7]", "target.test"] {
        let mut http = Http::new(dial(v4(3128)));
        http.send(&format!(
            "CONNECT {host}:{PORT} HTTP/1.1\r\nHost: {host}\r\n\r\n"
        ))
        .unwrap();
        let head = http.head().unwrap();
        has_status(&head, works);
        let mut http = Http::new(dial(v4(3128)));
        let answer = http.ask(&format!(
            "GET http://{host}:7080/ HTTP/1.1\r\nHost: {host}\r\n\r\n"
        ));
        has_status(&answer.head, works);
        assert!(works || !answer.body.is_empty(), "a page says what failed");
    }
    // A name that no cache knows.
    let code = ask_dns(v4(5353), &format!("fresh{round}.test"));
    assert_eq!(
        code,
        Some(if works { 0 } else { 2 }),
        "the code of the DNS answer"
    );
}

fn has_status(head: &str, works: bool) {
    let codes: &[&str] = if works {
        &["200"]
    } else {
        &["502", "503", "504"]
    };
    let code = head.split(' ').nth(1).unwrap_or_default();
    assert!(codes.contains(&code), "{head}");
}

/// Requests of programs that know of no proxy.
fn transparent(expected: Expected) {
    let works = expected == Expected::Works;
    for target in TARGETS {
        let target: IpAddr = target.parse().unwrap();
        let stream = TcpStream::connect_timeout(&(target, PORT).into(), DEADLINE);
        let echoed = stream.ok().and_then(|mut stream| echo(&mut stream));
        assert_eq!(echoed, works.then_some(true), "{target}");
        let any = if target.is_ipv4() {
            "0.0.0.0:0"
        } else {
            "[::]:0"
        };
        let socket = UdpSocket::bind(any).unwrap();
        let wait = if works { DEADLINE } else { LOST };
        socket.set_read_timeout(Some(wait)).unwrap();
        // Where nobody listens, this may be refused.
        let _refused = socket.send_to(b"datagram", (target, PORT));
        let received = || socket.recv_from(&mut [0; 64]).map(|(_, from)| from);
        if works {
            let mut from = [received().unwrap(), received().unwrap()];
            from.sort();
            assert_eq!(from, [PORT, ELSEWHERE].map(|port| (target, port).into()));
            // Where the second answer came from, another packet goes.
            socket.send_to(b"datagram", from[1]).unwrap();
        } else {
            assert!(received().is_err(), "{target}");
        }
    }
    let code = ask_dns(
        (TARGETS[0].parse::<IpAddr>().unwrap(), 53).into(),
        "plain.test",
    );
    assert_eq!(code, works.then_some(0));
}

/// Whether what is sent comes back; `None`: the stream ends.
fn echo(stream: &mut TcpStream) -> Option<bool> {
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(b"hello").ok()?;
    let mut back = [0; 5];
    stream.read_exact(&mut back).ok()?;
    Some(&back == b"hello")
}

/// Asks for the address of a name. Returns the code of the answer; `None`: there is none.
fn ask_dns(at: SocketAddr, name: &str) -> Option<u8> {
    let mut query = vec![7, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        query.push(u8::try_from(label.len()).unwrap());
        query.extend(label.bytes());
    }
    query.extend([0, 0, 1, 0, 1]);
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    let loopback = at.ip().is_loopback();
    socket
        .set_read_timeout(Some(if loopback { DEADLINE } else { 3 * LOST }))
        .unwrap();
    let _refused = socket.send_to(&query, at);
    let mut answer = [0; 512];
    let len = socket.recv(&mut answer).ok()?;
    assert!(len > 12);
    Some(answer[3] & 15)
}

/// Starts the targets in the namespace of this thread: they echo; on port 7080 a page; on port 53 a name server that knows
/// every name.
fn targets() {
    for target in TARGETS {
        let ip: IpAddr = target.parse().unwrap();
        listen(ip, PORT, |mut stream| {
            let mut buf = [0; 4096];
            while let Ok(len @ 1..) = stream.read(&mut buf) {
                let _gone = stream.write_all(&buf[..len]);
            }
        });
        listen(ip, 7080, |mut stream| {
            let _read = stream.read(&mut [0; 4096]);
            let _gone = stream
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi");
        });
        listen(ip, 53, |mut stream| {
            let mut len = [0; 2];
            while stream.read_exact(&mut len).is_ok() {
                let mut query = vec![0; usize::from(u16::from_be_bytes(len))];
                stream.read_exact(&mut query).unwrap();
                let answer = answer(&query);
                let len = u16::try_from(answer.len()).unwrap().to_be_bytes();
                let _gone = stream.write_all(&[&len[..], &answer].concat());
            }
        });
        let elsewhere = UdpSocket::bind((ip, ELSEWHERE)).unwrap();
        for (port, reply) in [(PORT, None), (53, Some(answer as fn(&[u8]) -> Vec<u8>))] {
            let socket = UdpSocket::bind((ip, port)).unwrap();
            let elsewhere = elsewhere.try_clone().unwrap();
            thread::spawn(move || {
                let mut buf = [0; 2048];
                while let Ok((len, from)) = socket.recv_from(&mut buf) {
                    let query = &buf[..len];
                    let reply = reply.map_or_else(|| query.to_vec(), |reply| reply(query));
                    let _gone = socket.send_to(&reply, from);
                    let _gone = elsewhere.send_to(&reply, from);
                }
            });
        }
    }
}

fn listen(ip: IpAddr, port: u16, serve: fn(TcpStream)) {
    let listener = TcpListener::bind((ip, port)).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || serve(stream));
        }
    });
}

/// The answer of a name server: the target's IPv4 address, and no IPv6 address.
fn answer(query: &[u8]) -> Vec<u8> {
    // The question ends four bytes after its name (RFC 1035 §4.1).
    let mut end = 12;
    while query.get(end).is_some_and(|len| *len != 0) {
        end += 1 + usize::from(query[end]);
    }
    if query.len() < end + 5 {
        return query.to_vec();
    }
    let is_v4 = query[end + 2] == 1;
    let mut answer = query[..end + 5].to_vec();
    answer[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, u8::from(is_v4), 0, 0, 0, 0]);
    if is_v4 {
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 198, 51, 100, 7]);
    }
    answer
}

#[test]
#[ignore = "needs root: namespaces, their firewall, and python3 that captures"]
fn nothing_but_packets_to_the_server_leaves_over_link() {
    let scene = Scene::new();
    // Before anything runs, and while it starts: programs try all the time.
    let stop = AtomicBool::new(false);
    let (local, server) = thread::scope(|scope| {
        // Also when a step fails.
        let _stop = Stop(&stop);
        scope.spawn(|| {
            let attempt = || {
                for target in TARGETS {
                    let target: IpAddr = target.parse().unwrap();
                    let _any = TcpStream::connect_timeout(&(target, PORT).into(), LOST);
                    let any = if target.is_ipv4() {
                        "0.0.0.0:0"
                    } else {
                        "[::]:0"
                    };
                    let socket = UdpSocket::bind(any).unwrap();
                    for port in [53, PORT] {
                        let _any = socket.send_to(b"early datagram", (target, port));
                    }
                }
            };
            while !stop.load(Relaxed) {
                scene.link.a.run(attempt).unwrap();
                scene.lan.a.run(attempt).unwrap();
            }
        });
        scene.requests(Expected::Nobody, 0);
        let begun = Instant::now();
        let started = (scene.local(), scene.server());
        eventually("programs tried beside the start", || begun.elapsed() > LOST);
        started
    });
    assert_eq!(scene.leaks(), Vec::<String>::new(), "at the start");
    scene.requests(Expected::Works, 1);
    assert_eq!(scene.leaks(), Vec::<String>::new(), "while all works");

    // `kill -9`; a stream that is open ends with the server.
    let mut open = scene
        .link
        .a
        .run(|| {
            Socks::new(v4(1080)).connect(&SocketAddr::new(TARGETS[0].parse().unwrap(), PORT).into())
        })
        .unwrap();
    assert_eq!(echo(&mut open), Some(true));
    server.signal(Signal::KILL);
    drop(server);
    assert_eq!(echo(&mut open), None);
    scene.link.a.run(notice).unwrap();
    scene.requests(Expected::Truth, 2);
    assert_eq!(scene.leaks(), Vec::<String>::new(), "server killed");

    // No packet arrives any more.
    scene.link.set_dark(true);
    scene.requests(Expected::Truth, 3);
    assert_eq!(scene.leaks(), Vec::<String>::new(), "link dead");
    scene.link.set_dark(false);

    let server = scene.server();
    eventually("the server is used again", || {
        let target = SocketAddr::new(TARGETS[0].parse().unwrap(), PORT).into();
        let asked = || Socks::new(v4(1080)).request(CONNECT, &target).unwrap().1;
        scene.link.a.run(asked).unwrap() == 0
    });
    scene.requests(Expected::Works, 4);

    // Without `ssr local`, whatever is redirected goes nowhere.
    local.signal(Signal::KILL);
    drop(local);
    scene.requests(Expected::Nobody, 5);
    assert_eq!(scene.leaks(), Vec::<String>::new(), "ssr local killed");
    drop(server);
}

struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// Has `ssr local` notice that the server is gone: until then, clients hear that they are connected.
fn notice() {
    let target = SocketAddr::new(TARGETS[0].parse().unwrap(), PORT).into();
    eventually("the failure is noticed", || {
        Socks::new(v4(1080)).request(CONNECT, &target).unwrap().1 != 0
    });
}
