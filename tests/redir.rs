//! `protocol: redir`: what the firewall redirects, in network namespaces, with the rules that `ssr redir-rules` prints.
//!
//! ```text
//! lan            link1   gateway                        link0   far
//!   a machine  ──────────  programs, ssr local, firewall ──────────  ssr server, targets
//! ```
//!
//! The targets say from where they were asked: the server's machine, or whoever went past `ssr local`.

use crate::common::{
    ANSWER, DEADLINE,
    bytes::pattern,
    eventually,
    peers::{self, Spec},
    process::Process,
};
use crate::emulated::{self, Link, Namespace, Shape};
use serde_json::{Value, json};
use std::{
    fs,
    io::{BufRead, BufReader, ErrorKind, Read, Write},
    net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket},
    process::{Command, Stdio},
    thread,
    time::Duration,
};
use tempfile::TempDir;

const METHOD: &str = "2022-blake3-aes-256-gcm";
/// The addresses of the targets, on the far machine. Nothing but the firewall's rules takes packets to them elsewhere.
pub(crate) const TARGETS: [&str; 2] = ["198.51.100.7", "2001:db8:7::7"];
pub(crate) const PORT: u16 = 7000;
/// Where the target sends a second answer from.
pub(crate) const ELSEWHERE: u16 = 7001;

/// The three machines, `ssr server` at the far one and `ssr local` at the gateway.
pub(crate) struct Scene {
    pub(crate) local: Process,
    pub(crate) server: Process,
    pub(crate) config: TempDir,
    pub(crate) lan: Link,
    pub(crate) link: Link,
}

/// The three machines and their addresses and routes: the network of the first, and the link to the far one.
pub(crate) fn machines() -> (Link, Link) {
    let shape = Shape {
        delay: Duration::from_millis(1),
        loss: 0.0,
        rate: 1e9,
        queue: Duration::from_secs(1),
        seed: 1,
    };
    let link = Link::new(shape).expect("root, /dev/net/tun and `ip`");
    let near = (Ipv4Addr::new(10, 98, 0, 1), Ipv4Addr::new(10, 98, 0, 2));
    let lan = link.extend(near.0, near.1, shape).unwrap();
    let ip = |place: &Namespace, commands: &[&str]| {
        for command in commands {
            place.ip(command).unwrap();
        }
    };
    ip(
        &link.b,
        &[
            "-6 addr add fd00:99::2/64 dev link0 nodad",
            "-6 route add fd00:98::/64 dev link0",
            "route add 10.98.0.0/24 dev link0",
        ],
    );
    for target in TARGETS {
        ip(&link.b, &[&format!("addr add {target} dev lo")]);
    }
    ip(
        &link.a,
        &[
            "-6 addr add fd00:99::1/64 dev link0 nodad",
            "-6 addr add fd00:98::2/64 dev link1 nodad",
            "route add default dev link0",
            "-6 route add default dev link0",
        ],
    );
    ip(
        &lan.a,
        &[
            "-6 addr add fd00:98::1/64 dev link1 nodad",
            "route add default dev link1",
            "-6 route add default dev link1",
        ],
    );
    (lan, link)
}

impl Scene {
    /// With this entry of `locals`, or these, and more keys at the top level.
    pub(crate) fn new(entry: &Value, more: &Value) -> Self {
        Self::with(entry, more, |_| ())
    }

    /// The same, and this done at the gateway before `ssr local` starts.
    pub(crate) fn with(entry: &Value, more: &Value, prepare: impl FnOnce(&Namespace)) -> Self {
        let (lan, link) = machines();
        link.b.run(targets).unwrap();

        let (config, spec) = (tempfile::tempdir().unwrap(), Spec::new(METHOD));
        let mut keys = json!({
            "server": emulated::B.to_string(), "server_port": 8388, "method": spec.method, "password": spec.password,
        });
        if let Some(dns) = more.get("dns") {
            keys["dns"] = dns.clone();
        }
        fs::write(config.path().join("server"), keys.to_string()).unwrap();
        let server = start("server", &config, &link.b);
        prepare(&link.a);
        keys["locals"] = match entry {
            Value::Array(_) => entry.clone(),
            one => json!([one]),
        };
        for (key, value) in more.as_object().unwrap() {
            keys[key] = value.clone();
        }
        fs::write(config.path().join("local"), keys.to_string()).unwrap();
        Self {
            local: start("local", &config, &link.a),
            server,
            config,
            lan,
            link,
        }
    }

    /// Kills `ssr local` and starts it again.
    pub(crate) fn restart(&mut self) {
        self.local.signal(rustix::process::Signal::KILL);
        let _status = self.local.wait(DEADLINE);
        self.local = start("local", &self.config, &self.link.a);
    }

    /// What `ssr redir-rules` prints for the config of `ssr local`.
    pub(crate) fn rules(&self, flags: &[&str]) -> String {
        let path = self.config.path().join("local");
        let mut command = peers::ssr(&["redir-rules", "-c", path.to_str().unwrap()]);
        let output = command.args(flags).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Loads the rules as the documents say: `ssr redir-rules | nft -f -`, and the routes of their comments.
    pub(crate) fn load_rules(&self) {
        let rules = self.rules(&[]);
        for line in rules.lines() {
            if let Some(route) = line.strip_prefix("#   ip ") {
                self.link.a.ip(route).unwrap();
            }
        }
        // Twice, since loading again must change nothing.
        feed(&self.link.a, "nft", &["-f", "-"], &rules);
        feed(&self.link.a, "nft", &["-f", "-"], &rules);
    }

    /// Streams and datagrams go through the server, from both machines and over both IP versions.
    pub(crate) fn carries_everything(&self) {
        for (name, place) in [("gateway", &self.link.a), ("lan", &self.lan.a)] {
            for target in TARGETS {
                let target: IpAddr = target.parse().unwrap();
                let carries = || {
                    echoes_stream(target, target);
                    echoes_datagrams(target, target);
                };
                place
                    .run(carries)
                    .unwrap_or_else(|_| panic!("from {name} to {target}"));
            }
        }
    }
}

/// Starts `ssr` with the config of this role.
pub(crate) fn start(role: &str, config: &TempDir, place: &Namespace) -> Process {
    let path = config.path().join(role);
    let mut command = peers::ssr(&[role, "-v", "-c", path.to_str().unwrap()]);
    command.current_dir(config.path());
    place.place(&mut command).unwrap();
    let mut process = Process::spawn(&format!("ssr {role}"), &mut command).unwrap();
    process.running().unwrap();
    process
}

/// Runs a program in a namespace with this input.
pub(crate) fn feed(place: &Namespace, program: &str, arguments: &[&str], input: &str) {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .stdin(Stdio::piped())
        .stderr(Stdio::piped());
    place.place(&mut command).unwrap();
    let mut child = command
        .spawn()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program}: {stderr}\n{input}");
}

/// Starts the targets in the namespace of this thread. Each answers with the address that asked it, then echoes.
fn targets() {
    for target in TARGETS {
        let ip: IpAddr = target.parse().unwrap();
        let listener = TcpListener::bind((ip, PORT)).unwrap();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                thread::spawn(move || serve(stream));
            }
        });
        let asked = UdpSocket::bind((ip, PORT)).unwrap();
        let elsewhere = UdpSocket::bind((ip, ELSEWHERE)).unwrap();
        thread::spawn(move || {
            let mut buf = [0; 2048];
            while let Ok((len, from)) = asked.recv_from(&mut buf) {
                let mut answer = format!("{} ", from.ip()).into_bytes();
                answer.extend_from_slice(&buf[..len]);
                for socket in [&asked, &elsewhere] {
                    let _gone = socket.send_to(&answer, from);
                }
            }
        });
    }
}

/// A name server that knows one name, and answers the gateway alone: not whoever comes through the server.
fn name_server() {
    let socket = UdpSocket::bind((TARGETS[0].parse::<IpAddr>().unwrap(), 53)).unwrap();
    thread::spawn(move || {
        let mut buf = [0; 512];
        while let Ok((_, from)) = socket.recv_from(&mut buf) {
            if from.ip() != IpAddr::from(emulated::A) {
                continue;
            }
            // The question ends four bytes after its name; what follows it is left out (RFC 1035 §4.1).
            let mut end = 12;
            while buf[end] != 0 {
                end += 1 + usize::from(buf[end]);
            }
            let is_v4 = buf[end + 2] == 1;
            let mut answer = buf[..end + 5].to_vec();
            answer[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, u8::from(is_v4), 0, 0, 0, 0]);
            if is_v4 {
                answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
                answer.extend(emulated::B.octets());
            }
            let _gone = socket.send_to(&answer, from);
        }
    });
}

fn serve(mut stream: TcpStream) {
    let peer = stream.peer_addr().unwrap().ip();
    let _gone = stream.write_all(format!("{peer}\n").as_bytes());
    let mut buf = vec![0; 64 << 10];
    while let Ok(len @ 1..) = stream.read(&mut buf) {
        if stream.write_all(&buf[..len]).is_err() {
            return;
        }
    }
    let _gone = stream.shutdown(Shutdown::Write);
}

/// A stream to `target` comes from `seen` there, and carries bytes both ways.
pub(crate) fn echoes_stream(target: IpAddr, seen: IpAddr) {
    let mut stream = TcpStream::connect_timeout(&(target, PORT).into(), DEADLINE).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    assert_eq!(
        stream.peer_addr().unwrap(),
        SocketAddr::from((target, PORT))
    );
    let sent = pattern(3, 300_000);
    let mut writing = stream.try_clone().unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            writing.write_all(&sent).unwrap();
            writing.shutdown(Shutdown::Write).unwrap();
        });
        let mut reading = BufReader::new(&mut stream);
        let (mut peer, mut back) = (String::new(), Vec::new());
        reading.read_line(&mut peer).unwrap();
        assert_eq!(peer.trim(), seen.to_string());
        reading.read_to_end(&mut back).unwrap();
        assert!(back == sent, "{} bytes came back", back.len());
    });
}

/// Datagrams to `target` come from `seen` there. Each is answered from where it was sent to, and from another port.
pub(crate) fn echoes_datagrams(target: IpAddr, seen: IpAddr) {
    let any: IpAddr = match target {
        IpAddr::V4(_) => "0.0.0.0".parse().unwrap(),
        IpAddr::V6(_) => "::".parse().unwrap(),
    };
    let client = UdpSocket::bind((any, 0)).unwrap();
    client.set_read_timeout(Some(ANSWER)).unwrap();
    for number in 0..5_u8 {
        client.send_to(&[number; 1200], (target, PORT)).unwrap();
        let mut expected = format!("{seen} ").into_bytes();
        expected.extend([number; 1200]);
        let mut sources = Vec::new();
        for _ in 0..2 {
            let mut buf = [0; 2048];
            let (len, source) = client.recv_from(&mut buf).unwrap();
            assert_eq!(buf[..len], expected);
            sources.push(source);
        }
        sources.sort();
        assert_eq!(
            sources,
            [PORT, ELSEWHERE].map(|port| SocketAddr::from((target, port)))
        );
    }
}

#[test]
#[ignore = "needs root: namespaces and their firewalls"]
fn redirect_carries_streams_and_tproxy_datagrams_over_link() {
    let entry = json!({"protocol": "redir", "local_address": "::", "local_port": 1081});
    let scene = Scene::new(&entry, &json!({"outbound_fwmark": 255}));
    // Without rules, everybody goes past it: the targets would notice.
    let direct: IpAddr = emulated::A.into();
    scene
        .link
        .a
        .run(|| echoes_stream(TARGETS[0].parse().unwrap(), direct))
        .unwrap();
    scene.load_rules();
    scene.carries_everything();
}

#[test]
#[ignore = "needs root: namespaces and their firewalls"]
fn ss_redir_takes_what_the_firewall_redirects_over_link() {
    let entry = json!({"protocol": "redir", "local_address": "::", "local_port": 1081});
    let mut scene = Scene::new(&entry, &json!({"outbound_fwmark": 255}));
    scene.load_rules();
    // In place of ours, with the flags of libev. The rules let out what has the mark, so the file sets that.
    scene.local.signal(rustix::process::Signal::KILL);
    scene.local.wait(DEADLINE);
    let link = scene.config.path().join("ss-redir");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_ssr"), &link).unwrap();
    let file = scene.config.path().join("mark");
    fs::write(&file, r#"{"outbound_fwmark": 255}"#).unwrap();
    let spec = Spec::new(METHOD);
    let mut command = Command::new(link);
    command
        .args([
            "-s",
            &emulated::B.to_string(),
            "-p",
            "8388",
            "-b",
            "::",
            "-l",
            "1081",
        ])
        .args(["-m", METHOD, "-k", &spec.password, "-u", "-c"])
        .arg(file);
    scene.link.a.place(&mut command).unwrap();
    let mut redir = Process::spawn("ss-redir", &mut command).unwrap();
    redir.running().unwrap();
    scene.carries_everything();
}

#[test]
#[ignore = "needs root: namespaces and their firewalls"]
fn queries_for_the_server_are_not_redirected_over_link() {
    let entry = json!({"protocol": "redir", "local_address": "::", "local_port": 1081});
    let more = json!({"outbound_fwmark": 255, "server": "proxy.example", "dns": TARGETS[0]});
    let scene = Scene::new(&entry, &more);
    scene.link.b.run(name_server).unwrap();
    assert!(
        scene
            .rules(&[])
            .contains("proxy.example could not be resolved")
    );
    scene.load_rules();
    let target: IpAddr = TARGETS[1].parse().unwrap();
    for place in [&scene.link.a, &scene.lan.a] {
        place.run(|| echoes_stream(target, target)).unwrap();
        place.run(|| echoes_datagrams(target, target)).unwrap();
    }
}

#[test]
#[ignore = "needs root: namespaces and their firewalls"]
fn tproxy_carries_streams_and_datagrams_over_link() {
    let entry = json!({
        "protocol": "redir", "local_address": "::", "local_port": 1081, "tcp_redir": "tproxy", "udp_redir": "tproxy",
    });
    let scene = Scene::new(&entry, &json!({"outbound_fwmark": 255}));
    // The script does everything, and does it again.
    let script = scene.rules(&["--script", "--interface", "link1"]);
    feed(&scene.link.a, "sh", &[], &script);
    feed(&scene.link.a, "sh", &[], &script);
    scene.carries_everything();
}

#[test]
#[ignore = "needs root: namespaces and their firewalls"]
fn listener_on_loopback_serves_what_tproxy_hands_over_link() {
    let entry = json!({"protocol": "redir", "local_port": 1081, "tcp_redir": "tproxy"});
    let scene = Scene::new(&entry, &json!({"outbound_fwmark": 255}));
    scene.load_rules();
    let target: IpAddr = TARGETS[0].parse().unwrap();
    for place in [&scene.link.a, &scene.lan.a] {
        place.run(|| echoes_stream(target, target)).unwrap();
        place.run(|| echoes_datagrams(target, target)).unwrap();
    }
    // IPv6 is not redirected to an IPv4 listener, but goes its own way.
    let (target, own): (IpAddr, IpAddr) =
        (TARGETS[1].parse().unwrap(), "fd00:99::1".parse().unwrap());
    scene.link.a.run(|| echoes_stream(target, own)).unwrap();
}

#[test]
#[ignore = "needs root: namespaces and their firewalls"]
fn iptables_redirects_streams_and_datagrams_over_link() {
    let entry = json!({"protocol": "redir", "local_address": "::", "local_port": 1081});
    let scene = Scene::new(&entry, &json!({}));
    for (program, target, private) in [
        ("iptables", TARGETS[0], "10.0.0.0/8"),
        ("ip6tables", TARGETS[1], "fd00::/8"),
    ] {
        for rule in [
            format!("-t nat -A OUTPUT -p tcp ! -d {private} -j REDIRECT --to-ports 1081"),
            format!("-t nat -A PREROUTING -p tcp ! -d {private} -j REDIRECT --to-ports 1081"),
            format!(
                "-t mangle -A PREROUTING -p udp -d {target} -j TPROXY --on-port 1081 --tproxy-mark 1"
            ),
            format!("-t mangle -A OUTPUT -p udp -d {target} -j MARK --set-mark 1"),
        ] {
            let rule: Vec<&str> = rule.split(' ').collect();
            feed(&scene.link.a, program, &rule, "");
        }
    }
    for version in ["-4", "-6"] {
        scene
            .link
            .a
            .ip(&format!("{version} rule add fwmark 1 lookup 100"))
            .unwrap();
        scene
            .link
            .a
            .ip(&format!(
                "{version} route add local default dev lo table 100"
            ))
            .unwrap();
    }
    scene.carries_everything();
}

/// The client of a stream that must not be relayed: it ends, without a byte.
fn is_refused(address: SocketAddr) {
    let mut stream = match TcpStream::connect_timeout(&address, DEADLINE) {
        // It ended before we could look.
        Err(error) if error.kind() == ErrorKind::ConnectionReset => return,
        connected => connected.unwrap(),
    };
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let _gone = stream.write_all(b"hello");
    assert!(!matches!(stream.read(&mut [0]), Ok(1..)));
}

#[test]
#[ignore = "needs root: namespaces and their firewalls"]
fn loops_are_refused_over_link() {
    for way in ["redirect", "tproxy"] {
        let entry = json!({"protocol": "redir", "local_address": "0.0.0.0", "local_port": 1081, "tcp_redir": way});
        let scene = Scene::new(&entry, &json!({}));
        for address in ["127.0.0.1", "10.99.0.1", "10.98.0.2"] {
            let address: IpAddr = address.parse().unwrap();
            scene
                .link
                .a
                .run(|| is_refused((address, 1081).into()))
                .unwrap();
            let datagram = || {
                UdpSocket::bind("0.0.0.0:0")
                    .unwrap()
                    .send_to(b"hello", (address, 1081))
                    .unwrap()
            };
            scene.link.a.run(datagram).unwrap();
        }
        eventually("the datagrams are refused", || {
            scene.local.log().matches("datagram refused").count() == 3
        });
    }
    // Rules that redirect everything, the connections of `ssr local` itself too: each ends at once, and none makes another.
    let entry = json!({"protocol": "redir", "local_port": 1081, "mode": "tcp_only"});
    let scene = Scene::new(&entry, &json!({}));
    let rule: Vec<&str> = "-t nat -A OUTPUT -p tcp -j REDIRECT --to-ports 1081"
        .split(' ')
        .collect();
    feed(&scene.link.a, "iptables", &rule, "");
    let target: IpAddr = TARGETS[0].parse().unwrap();
    scene
        .link
        .a
        .run(|| is_refused((target, PORT).into()))
        .unwrap();
    eventually("the log says why", || {
        scene.local.log().contains("set `outbound_fwmark`")
    });
    assert!(scene.local.log().matches("stream ended").count() < 20);
}

#[test]
fn rules_need_a_redir_listener() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.json");
    let config = json!({"server": "192.0.2.1", "server_port": 1, "method": "none"});
    fs::write(&path, config.to_string()).unwrap();
    let rules = || {
        peers::ssr(&["redir-rules", "-c", path.to_str().unwrap()])
            .output()
            .unwrap()
    };
    let output = rules();
    assert_eq!(output.status.code(), Some(78));
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        stderr.contains("no listener with `\"protocol\": \"redir\"`"),
        "{stderr}"
    );

    for (key, value, complaint) in [
        ("tcp_redir", "pf", "it exists on BSD and macOS only"),
        ("tcp_redir", "tproxxy", "use `redirect` or `tproxy`"),
        ("udp_redir", "redirect", "use `tproxy`"),
    ] {
        let mut config = config.clone();
        config["locals"] = json!([{"protocol": "redir"}]);
        config["locals"][0][key] = json!(value);
        fs::write(&path, config.to_string()).unwrap();
        let output = rules();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(stderr.contains(complaint), "{stderr}");
        assert_eq!(output.status.code(), Some(78));
    }
}
