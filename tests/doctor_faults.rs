//! `ssr doctor` names what is wrong: each fault is injected on an emulated link, and looked for in what it says.
//!
//! ```text
//! near                        link0                        far
//!   ssr doctor   10.99.0.1 ─────────── 10.99.0.2   ssr server, web server, name server
//!                                      10.99.0.3   a name server that lies
//! ```

use crate::common::{
    eventually,
    peers::{self, Spec, password},
    process::Process,
};
use crate::doctor::{Findings, METHOD, serve_file};
use crate::emulated::{B, Link, Namespace, Shape};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
use serde_json::{Value, json};
use std::{
    fs,
    io::Write as _,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    process::{Command, Stdio},
    sync::Mutex,
    thread,
    time::Duration,
};
use tempfile::TempDir;

const PORT: u16 = 8388;
const WEB: u16 = 8080;
/// The name of the server, and one that is not its own.
const NAME: &str = "proxy.example";
const OTHER_NAME: &str = "other.example";
/// Where the name server lies.
const LIAR: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 3);

/// What is wrong.
#[derive(Default)]
struct Fault {
    /// What `ssr doctor` calls it.
    code: &'static str,
    /// The step that finds it.
    step: &'static str,
    loss: f64,
    /// Bits a second, if not many.
    rate: Option<f64>,
    dark: bool,
    /// Keys of the config of the server, and of that of `ssr local`; null takes one away.
    server: Value,
    local: Value,
    /// There is no server.
    absent: bool,
    /// How the clock of the server is wrong, as faketime says it.
    clock: Option<&'static str>,
    /// Rules of nftables at both ends, in the chains of what comes in.
    near_rule: &'static str,
    far_rule: &'static str,
    /// Files that may be open.
    files: Option<u32>,
    /// A port that somebody has at the near end.
    taken: Option<u16>,
    /// Words that the message must have.
    says: &'static str,
}

struct Scene {
    link: Link,
    directory: TempDir,
    _processes: Vec<Process>,
    _taken: Option<TcpListener>,
}

fn write(directory: &TempDir, name: &str, changes: [&Value; 2]) -> String {
    let spec = Spec::new(METHOD);
    let mut keys = json!({
        "server": B.to_string(), "server_port": PORT, "method": spec.method, "password": spec.password,
        "local_address": "127.0.0.1", "local_port": 1080, "dns": B.to_string(),
    });
    for change in changes {
        for (key, value) in change.as_object().into_iter().flatten() {
            keys[key] = value.clone();
        }
    }
    let path = directory.path().join(name);
    fs::write(&path, keys.to_string()).unwrap();
    crate::common::process::make_private(&path);
    path.to_str().unwrap().to_owned()
}

/// Runs a program in a namespace, with this input.
fn feed(place: &Namespace, program: &str, arguments: &[&str], input: &str) {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped());
    place.place(&mut command).unwrap();
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(input.as_bytes()).unwrap();
    drop(stdin);
    assert!(child.wait().unwrap().success(), "{program}: {input}");
}

fn drop_incoming(place: &Namespace, rule: &str) {
    if !rule.is_empty() {
        let table = format!(
            "table inet faults {{\nchain input {{\ntype filter hook input priority 0\n{rule}\n}}\n}}\n"
        );
        feed(place, "nft", &["-f", "-"], &table);
    }
}

fn name_server(place: &Namespace, address: Ipv4Addr, lines: &[&str]) -> Process {
    let mut command = Command::new("dnsmasq");
    command.args([
        "--keep-in-foreground",
        "--no-resolv",
        "--no-hosts",
        "--conf-file=/dev/null",
        "--pid-file=",
        "--user=root",
        "--bind-interfaces",
        "--except-interface=lo",
        "--cache-size=0",
    ]);
    command
        .arg(format!("--listen-address={address}"))
        .args(lines);
    command.env(
        "PATH",
        "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    );
    place.place(&mut command).unwrap();
    Process::spawn("dnsmasq", &mut command).unwrap()
}

/// The web server of the far end.
fn serve_web() {
    let listener = TcpListener::bind((B, WEB)).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || serve_file(stream));
        }
    });
}

impl Scene {
    fn new(fault: &Fault, directory: TempDir) -> Self {
        let shape = Shape {
            delay: Duration::from_millis(4),
            loss: 0.0,
            rate: fault.rate.unwrap_or(40e6),
            queue: Duration::from_secs(1),
            seed: 7,
        };
        let link = Link::new(Shape {
            loss: fault.loss,
            ..shape
        })
        .expect("root, /dev/net/tun and `ip`");
        for (place, commands) in [
            (&link.a, &["-6 addr add fd00:99::1/64 dev link0 nodad"][..]),
            (
                &link.b,
                &[
                    "-6 addr add fd00:99::2/64 dev link0 nodad",
                    "addr add 10.99.0.3/24 dev link0",
                ],
            ),
        ] {
            for command in commands {
                place.ip(command).unwrap();
            }
        }
        let truth = format!("--host-record={NAME},{B}");
        let both = format!("--host-record=dual.example,{B},fd00:99::2");
        let true_lines = ["--local=/example/", "--local=/invalid/", &truth, &both];
        let false_lines = ["--address=/proxy.example/10.99.0.66", "--local=/invalid/"];
        let mut processes = vec![
            name_server(&link.b, B, &true_lines),
            name_server(&link.b, LIAR, &false_lines),
        ];
        link.b.run(serve_web).unwrap();
        if !fault.absent {
            processes.push(start_server(&link, fault, &directory));
        }
        for address in [(B, 53), (LIAR, 53), (B, WEB)] {
            let answers = || TcpStream::connect(SocketAddr::from(address)).is_ok();
            let listens = || eventually("it listens", answers);
            link.b.run(listens).unwrap();
        }
        let taken = fault.taken.map(|port| {
            let bind = || TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
            link.a.run(bind).unwrap()
        });
        drop_incoming(&link.a, fault.near_rule);
        drop_incoming(&link.b, fault.far_rule);
        link.set_dark(fault.dark);
        Self {
            link,
            directory,
            _processes: processes,
            _taken: taken,
        }
    }

    fn doctor(&self, fault: &Fault) -> Findings {
        let config = write(&self.directory, "local", [&json!({}), &fault.local]);
        let url = format!("http://{B}:{WEB}/file");
        let name_server = format!("{B}:53");
        let mut command = match fault.files {
            Some(files) => {
                let mut command = Command::new("prlimit");
                command
                    .arg(format!("--nofile={files}"))
                    .arg(env!("CARGO_BIN_EXE_ssr"));
                command
            }
            None => peers::ssr(&[]),
        };
        command.args(["doctor", "--json", "-c", &config]);
        command.args(["--url", &url, "--name-server", &name_server]);
        self.link.a.place(&mut command).unwrap();
        Findings::of(&command.output().unwrap())
    }
}

fn start_server(link: &Link, fault: &Fault, directory: &TempDir) -> Process {
    let both = json!({"server": "::"});
    let config = write(directory, "server", [&both, &fault.server]);
    let arguments = ["server", "-c", &config];
    let mut command = match fault.clock {
        Some(offset) => {
            let mut command = Command::new("faketime");
            command.args(["-f", offset, env!("CARGO_BIN_EXE_ssr")]);
            command
                .args(arguments)
                .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
            command
        }
        None => peers::ssr(&arguments),
    };
    link.b.place(&mut command).unwrap();
    let mut server = Process::spawn("ssr server", &mut command).unwrap();
    server.running().unwrap();
    server
}

/// A certificate of an authority of its own, and what both sides need for it.
fn tls(directory: &TempDir, expired: bool) -> (Value, Value) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec![NAME.to_owned()]).unwrap();
    if expired {
        params.not_after = date_time_ymd(2020, 1, 1);
    }
    let cert = params.signed_by(&key, &issuer).unwrap();
    let file = |name: &str, text: String| {
        let path = directory.path().join(name);
        fs::write(&path, text).unwrap();
        json!(path)
    };
    let ca = file("ca.pem", issuer.pem());
    let own =
        json!({"cert": file("cert.pem", cert.pem()), "key": file("key.pem", key.serialize_pem())});
    (own, json!({"server_name": NAME, "ca": ca}))
}

/// The faults that concern TLS: the certificate is in `directory`.
fn of_tls(code: &'static str, directory: &TempDir) -> Fault {
    let (own, mut trusted) = tls(directory, code == "certificate_expired");
    match code {
        "tls_name" => trusted["server_name"] = json!(OTHER_NAME),
        "wrong_pin" => trusted = json!({"pin_sha256": peers::base64(&[7; 32])}),
        _ => {}
    }
    Fault {
        code,
        step: "transport",
        server: json!({"transport": {"type": "tcp", "tls": own}}),
        local: json!({"transport": {"type": "tcp", "tls": trusted}}),
        ..Fault::default()
    }
}

/// All faults but those of TLS.
fn faults() -> Vec<Fault> {
    let key = |step: &'static str, code: &'static str| Fault {
        code,
        step,
        ..Fault::default()
    };
    vec![
        Fault {
            local: json!({"password": password(METHOD, 2)}),
            ..key("key", "wrong_key")
        },
        Fault {
            local: json!({"method": "2022-blake3-chacha20-poly1305"}),
            says: METHOD,
            ..key("key", "wrong_method")
        },
        Fault {
            clock: Some("+197m"),
            says: "3 h 1",
            ..key("key", "clock")
        },
        Fault {
            clock: Some("-2h"),
            far_rule: "udp dport 8388 drop",
            says: "behind",
            ..key("key", "clock")
        },
        Fault {
            dark: true,
            ..key("tcp", "server_down")
        },
        Fault {
            absent: true,
            ..key("tcp", "port_closed")
        },
        Fault {
            far_rule: "tcp dport 8388 drop",
            ..key("tcp", "black_hole")
        },
        Fault {
            far_rule: "udp dport 8388 drop",
            ..key("udp", "udp_blocked")
        },
        Fault {
            near_rule: "meta length > 1300 drop",
            far_rule: "iifname link0 meta length > 1300 drop",
            says: "1280 bytes",
            ..key("mtu", "mtu_black_hole")
        },
        Fault {
            near_rule: "meta length > 1300 drop",
            says: "on the way back",
            ..key("mtu", "mtu_black_hole")
        },
        Fault {
            loss: 0.05,
            ..key("loss", "loss")
        },
        Fault {
            rate: Some(600e3),
            ..key("speed", "slow_link")
        },
        Fault {
            local: json!({"server": "missing.example"}),
            ..key("name", "name_unresolved")
        },
        Fault {
            local: json!({"server": NAME, "dns": LIAR.to_string()}),
            says: "10.99.0.2",
            ..key("name", "lying_dns")
        },
        Fault {
            local: json!({"server": "dual.example"}),
            far_rule: "meta nfproto ipv6 tcp dport 8388 drop",
            ..key("tcp", "ipv6_broken")
        },
        Fault {
            server: json!({"transport": {"type": "ws", "path": "/right"}}),
            local: json!({"transport": {"type": "ws", "path": "/wrong"}}),
            ..key("transport", "wrong_path")
        },
        Fault {
            server: json!({"transport": {"type": "ws", "path": "/"}}),
            says: "WebSocket without TLS",
            ..key("key", "transport_mismatch")
        },
        Fault {
            local: json!({"transport": {"type": "tcp", "tls": {"insecure": true, "server_name": NAME}}}),
            says: "bare Shadowsocks",
            ..key("transport", "transport_mismatch")
        },
        Fault {
            files: Some(64),
            ..key("files", "quota_of_files")
        },
        Fault {
            taken: Some(1080),
            ..key("ports", "port_taken")
        },
    ]
}

/// Injects a fault, and returns why it was not named.
fn miss(fault: &Fault, directory: TempDir) -> Option<String> {
    let scene = Scene::new(fault, directory);
    let found = scene.doctor(fault);
    let Fault {
        code, step, says, ..
    } = fault;
    let named = found.all().iter().any(|one| {
        let what = one["what"].as_str().unwrap();
        one["code"] == *code && one["step"] == *step && what.contains(says)
    });
    let others: Vec<_> = found
        .codes()
        .into_iter()
        .filter(|one| one != code)
        .collect();
    // What does not resolve rightly also leads nowhere.
    let expected = others.is_empty() || (*code == "lying_dns" && others == ["server_down"]);
    (!named || !expected).then(|| format!("{code} at {step}, with `{says}`:\n{found}"))
}

/// Runs the cases, a few at once: most of their time is waiting.
fn check(cases: Vec<(Fault, TempDir)>) {
    let waiting = Mutex::new(cases.into_iter());
    let missed = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                loop {
                    let next = waiting.lock().unwrap().next();
                    let Some((fault, directory)) = next else {
                        return;
                    };
                    let found = miss(&fault, directory);
                    missed.lock().unwrap().extend(found);
                }
            });
        }
    });
    let missed = missed.into_inner().unwrap();
    assert!(missed.is_empty(), "{}", missed.join("\n"));
}

#[test]
#[ignore = "needs root: an emulated link"]
fn doctor_over_link_names_each_fault() {
    let directory = || tempfile::tempdir().unwrap();
    check(
        faults()
            .into_iter()
            .map(|fault| (fault, directory()))
            .collect(),
    );
}

#[test]
#[ignore = "needs root: an emulated link"]
fn doctor_over_link_names_each_fault_of_tls() {
    let codes = ["tls_name", "certificate_expired", "wrong_pin"];
    let cases = codes.map(|code| {
        let directory = tempfile::tempdir().unwrap();
        (of_tls(code, &directory), directory)
    });
    check(cases.into());
}

#[test]
#[ignore = "needs root: an emulated link"]
fn doctor_over_link_finds_nothing_wrong_where_nothing_is() {
    let right = |server: Value, local: Value, directory: TempDir| {
        let fault = Fault {
            server,
            local,
            ..Fault::default()
        };
        let scene = Scene::new(&fault, directory);
        let found = scene.doctor(&fault);
        assert!(found.ok && found.codes().is_empty(), "{found}");
    };
    let directory = || tempfile::tempdir().unwrap();
    right(json!({}), json!({"server": "dual.example"}), directory());
    let method = json!({"method": "aes-128-gcm", "password": "secret"});
    right(method.clone(), method, directory());
    let place = directory();
    let (own, trusted) = tls(&place, false);
    let transport = |tls: &Value| json!({"transport": {"type": "ws", "path": "/a", "tls": tls}});
    right(transport(&own), transport(&trusted), place);
}
