//! `fallback` beside QUIC: networks and servers without UDP cost a client less than a second, and nothing is hidden.

use crate::common::{
    DEADLINE,
    admin::Api,
    eventually,
    identity::Identity,
    line::Line,
    matrix::{self, Targets},
    name_server::NameServer,
    peers::{self, Spec},
    process::{Process, free_port, make_private, v4},
    socks::{self, Socks},
    targets::TcpTarget,
};
use crate::doctor::{Findings, serve_file};
use crate::emulated::{self, Link, Shape};
use crate::network_change::{TARGET, serve_target, start_both};
use serde_json::{Value, json};
use std::{
    fs,
    io::{Read as _, Write as _},
    net::{TcpStream, UdpSocket},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};
use tempfile::TempDir;

const METHOD: &str = "2022-blake3-aes-256-gcm";
/// How long a first flow may take where UDP is blocked, and what a busy machine adds.
const FIRST: Duration = Duration::from_secs(1 + 4);
/// Shorter than the time that QUIC has for itself.
const AT_ONCE: Duration = Duration::from_millis(200);
const LOST: &str = "requests to the server go by the fallback";
const WON: &str = "QUIC works: new requests";

/// Files of one server and its client.
struct Scene {
    directory: TempDir,
    identity: Identity,
    spec: Spec,
    api: Api,
    port: u16,
    socks: u16,
}

impl Scene {
    fn new() -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
            identity: Identity::new(),
            spec: Spec::new(METHOD),
            api: Api::new().0,
            port: free_port(),
            socks: free_port(),
        }
    }

    /// A config for both roles.
    fn config(&self, transport: &Value, keys: &Value) -> PathBuf {
        let mut config = json!({
            "server": "127.0.0.1", "server_port": self.port, "method": METHOD, "password": self.spec.password,
            "local_address": "127.0.0.1", "local_port": self.socks, "mode": "tcp_and_udp", "transport": transport,
        });
        if transport["type"] != "tcp" {
            let tls = &mut config["transport"]["tls"];
            *tls = self.identity.own();
            for (key, value) in self.identity.trusted().as_object().unwrap() {
                tls[key] = value.clone();
            }
        }
        for (key, value) in keys.as_object().unwrap() {
            config[key] = value.clone();
        }
        let count = fs::read_dir(self.directory.path()).unwrap().count();
        let path = self.directory.path().join(format!("{count}.json"));
        fs::write(&path, config.to_string()).unwrap();
        make_private(&path);
        path
    }

    fn start(role: &str, config: &Path) -> Process {
        let mut started = None;
        // A resolver takes any port for a query: for a moment, it can be the one that was left for another process.
        eventually("the port is free", || {
            let mut command = peers::ssr(&[role, "-v", "-c", config.to_str().unwrap()]);
            let mut process = Process::spawn(&format!("ssr {role}"), &mut command).unwrap();
            match process.running() {
                Ok(_) => started = Some(process),
                Err(log) => assert!(log.contains("already in use"), "{log}"),
            }
            started.is_some()
        });
        started.unwrap()
    }

    fn server(&self, transport: &Value) -> Process {
        Self::start("server", &self.config(transport, &json!({})))
    }

    fn local(&self, transport: &Value) -> Process {
        let keys = json!({"admin": {"address": self.api.address, "token": self.api.token}});
        Self::start("local", &self.config(transport, &keys))
    }

    /// The way that flows take, as far as `ssr local` knows.
    fn way(&self) -> String {
        let servers = self.api.json("/api/v1/servers");
        servers[0]["way"].as_str().unwrap().to_owned()
    }

    fn socks(&self) -> Socks {
        Socks::new(v4(self.socks))
    }

    /// How long a flow takes from its beginning to the answer.
    fn flow(&self, target: &TcpTarget) -> Duration {
        let begun = Instant::now();
        matrix::echoes(&self.socks(), &target.v4(), 100);
        begun.elapsed()
    }

    /// A flow that tries both ways cannot be so fast.
    fn later_ones_are_at_once(&self, target: &TcpTarget) {
        eventually("a flow does not wait", || self.flow(target) < AT_ONCE);
    }

    /// Whether a flow gets its answer soon.
    fn works(&self, target: &TcpTarget) -> bool {
        let Ok((mut stream, 0, _)) = self.socks().request(socks::CONNECT, &target.v4()) else {
            return false;
        };
        stream.set_read_timeout(Some(FIRST)).unwrap();
        stream.write_all(b"x").is_ok() && stream.read_exact(&mut [0]).is_ok()
    }
}

fn quic(fallback: &str) -> Value {
    json!({"type": "quic", "fallback": fallback})
}

#[test]
fn both_halves_read_one_file_and_both_ways_work() {
    let targets = Targets::start();
    for (fallback, alone) in [
        (quic("ws"), json!({"type": "ws", "udp_over": "ws"})),
        (
            json!({"type": "quic", "fallback": "ws", "path": "/x", "host": "proxy.example"}),
            json!({"type": "ws", "udp_over": "ws", "path": "/x", "host": "proxy.example"}),
        ),
        (quic("tcp"), json!({"type": "tcp"})),
    ] {
        let scene = Scene::new();
        let both = scene.config(&fallback, &json!({}));
        let server = Scene::start("server", &both);
        {
            let _local = Scene::start("local", &both);
            matrix::echoes(&scene.socks(), &targets.echo.v4(), 100_000);
            matrix::echoes_datagram(&scene.socks(), &targets, 1200);
        }
        let log = server.log();
        assert!(log.contains("listening by TCP beside QUIC"), "{log}");
        // Clients that know one of the two.
        for one in [json!({"type": "quic"}), alone] {
            let _local = scene.local(&one);
            matrix::echoes(&scene.socks(), &targets.echo.v4(), 100_000);
            if one["type"] != "tcp" {
                matrix::echoes_datagram(&scene.socks(), &targets, 1200);
            }
        }
    }
}

#[test]
fn server_without_quic_costs_no_time() {
    let target = TcpTarget::echo();
    for (fallback, served) in [
        ("ws", json!({"type": "ws"})),
        ("tcp", json!({"type": "tcp"})),
    ] {
        let scene = Scene::new();
        let alone = scene.config(&served, &json!({"mode": "tcp_only"}));
        let _server = Scene::start("server", &alone);
        let local = scene.local(&quic(fallback));
        let first = scene.flow(&target);
        assert!(first < FIRST, "{first:?}");
        eventually("it is told", || local.log().contains(LOST));
        scene.later_ones_are_at_once(&target);
    }
}

#[test]
fn black_hole_for_udp_costs_a_second_once_and_quic_is_used_when_it_is_gone() {
    let (scene, targets) = (Scene::new(), Targets::start());
    // Its UDP port is one of Shadowsocks, which says nothing to QUIC.
    let first_server = scene.server(&json!({"type": "ws"}));
    let local = scene.local(&quic("ws"));
    let first = scene.flow(&targets.echo);
    assert!(first < FIRST, "{first:?}");
    let next = (0..5).map(|_| scene.flow(&targets.echo)).min().unwrap();
    assert!(next < AT_ONCE, "{next:?}");
    matrix::echoes_datagram(&scene.socks(), &targets, 1200);
    eventually("it is told", || local.log().contains(LOST));
    assert_eq!(scene.way(), "ws");
    // The black hole goes away; the other way, too: then both are tried before the time is over.
    drop(first_server);
    let _second = scene.server(&json!({"type": "quic"}));
    eventually("flows go by QUIC", || scene.works(&targets.echo));
    eventually("it is told", || local.log().contains(WON));
    assert_eq!(scene.way(), "quic");
    matrix::echoes_datagram(&scene.socks(), &targets, 1200);
}

#[test]
fn connection_that_went_silent_is_left_for_the_fallback() {
    let (scene, target) = (Scene::new(), TcpTarget::echo());
    let first = scene.server(&json!({"type": "quic"}));
    let client = json!({"type": "quic", "fallback": "tcp", "fallback_retry": 1});
    let local = scene.local(&client);
    scene.flow(&target);
    drop(first); // by SIGKILL: it says nothing
    let alone = scene.config(&json!({"type": "tcp"}), &json!({"mode": "tcp_only"}));
    let second = Scene::start("server", &alone);
    let black_hole = UdpSocket::bind(v4(scene.port)).unwrap();
    eventually("flows go by the fallback", || scene.works(&target));
    eventually("it is told", || local.log().contains(LOST));
    // Another process answers there again, which does not know the connection.
    drop((second, black_hole));
    let _third = scene.server(&quic("tcp"));
    eventually("QUIC is used again", || {
        scene.works(&target) && local.log().contains(WON)
    });
}

#[test]
fn wrong_certificate_is_an_error_and_not_a_reason_for_the_fallback() {
    let (scene, other) = (Scene::new(), Identity::new());
    let target = TcpTarget::echo();
    let _server = scene.server(&quic("tcp"));
    let mut transport = quic("tcp");
    transport["tls"] = other.trusted();
    let local = Scene::start(
        "local",
        &scene.config(&json!({"type": "tcp"}), &json!({"transport": transport})),
    );
    // On a busy machine the other way may be ready before the certificate comes; not any more when it has come.
    eventually("requests fail", || !scene.works(&target));
    for _ in 0..3 {
        assert!(!scene.works(&target), "a flow went by TCP");
    }
    eventually("the reason is told", || {
        let log = local.log();
        log.contains("the TLS handshake with proxy.example failed") && log.contains("`ca`")
    });
}

#[test]
fn upgraded_server_has_both_ways() {
    let (scene, target) = (Scene::new(), TcpTarget::echo());
    let keys = fs::read(scene.config(&quic("tcp"), &json!({}))).unwrap();
    let mut line = Line::start("server", serde_json::from_slice(&keys).unwrap());
    for _ in 0..2 {
        for one in ["quic", "tcp"] {
            let _local = scene.local(&json!({"type": one}));
            scene.flow(&target);
        }
        line.upgrade();
    }
    let _local = scene.local(&quic("tcp"));
    scene.flow(&target);
}

#[test]
fn check_shows_both_listeners_and_where_a_fallback_is_wrong() {
    let scene = Scene::new();
    let check = |transport: &Value| {
        let config = scene.config(transport, &json!({}));
        let output = peers::ssr(&["check", "-c", config.to_str().unwrap()])
            .output()
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (
            output.status.success(),
            text(&output.stdout) + &text(&output.stderr),
        )
    };
    let (is_good, text) = check(&json!({"type": "quic", "fallback": "ws", "path": "/x"}));
    assert!(is_good, "{text}");
    for line in [
        format!(
            "listen      127.0.0.1:{} tcp_and_udp, {METHOD}, over quic",
            scene.port
        ),
        format!("beside    TCP 127.0.0.1:{}, over wss /x", scene.port),
        "fallback  TCP, over wss /x, where UDP is blocked; QUIC is tried again after 300 s"
            .to_owned(),
    ] {
        assert!(text.contains(&line), "{line}: {text}");
    }
    for (transport, words) in [
        (quic("kcp"), "use `ws`"),
        (
            json!({"type": "quic", "fallback": {"root": "/"}}),
            "no site in front of QUIC",
        ),
        (json!({"type": "ws", "fallback": "tcp"}), "only QUIC"),
    ] {
        let (is_good, text) = check(&transport);
        assert!(!is_good && text.contains(".json:1:"), "{text}");
        assert!(
            text.contains("transport.fallback") && text.contains(words),
            "{text}"
        );
    }
}

#[test]
fn doctor_tries_quic_and_its_fallback() {
    let target = TcpTarget::serve(serve_file);
    let diagnose = |scene: &Scene, transport: &Value, trusts: Option<&Identity>| {
        let mut transport = transport.clone();
        let trusted = trusts.unwrap_or(&scene.identity).trusted();
        transport["tls"] = trusted;
        let names = NameServer::start();
        let keys = json!({"transport": transport, "dns": names.address.to_string()});
        let config = scene.config(&json!({"type": "tcp"}), &keys);
        let mut command = peers::ssr(&["doctor", "--json", "-c", config.to_str().unwrap()]);
        command.args(["--url", &format!("http://127.0.0.1:{}/file", target.port())]);
        command.args(["--name-server", &names.address.to_string()]);
        Findings::of(&command.output().unwrap())
    };
    let scene = Scene::new();
    let server = scene.server(&quic("ws"));
    let works = diagnose(&scene, &quic("ws"), None);
    let transport = works
        .all()
        .iter()
        .find(|one| one["step"] == "transport")
        .unwrap();
    let said = transport["what"].as_str().unwrap();
    assert!(
        said.contains("QUIC agreed") && said.contains("its fallback"),
        "{said}"
    );
    let other = diagnose(&scene, &quic("ws"), Some(&Identity::new()));
    assert!(
        !other.ok && other.codes().contains(&"certificate_untrusted"),
        "{:?}",
        other.all()
    );
    drop(server);
    let _server = scene.server(&json!({"type": "ws"}));
    let blocked = diagnose(&scene, &quic("ws"), None);
    let said = blocked.with("udp_blocked")["what"].as_str().unwrap();
    assert!(
        said.contains("QUIC does not work here") && said.contains("WebSocket in TLS"),
        "{said}"
    );
    assert_eq!(blocked.result("key"), "ok", "{:?}", blocked.all());
}

// Over a link.

#[test]
#[ignore = "needs root and nft: namespaces and a link between them"]
fn change_of_network_decides_anew_over_link() {
    let link = Link::new(Shape {
        delay: Duration::from_millis(5),
        loss: 0.0,
        rate: 1e8,
        queue: Duration::from_millis(100),
        seed: 1,
    })
    .expect("root, /dev/net/tun and `ip`");
    serve_target(&link, TcpStream::write_all);
    let scene = Scene::new();
    let admin = json!({"address": scene.api.address, "token": scene.api.token});
    let keys = json!({"admin": admin, "server": emulated::B.to_string(), "local_port": 1080, "server_port": 8388});
    let (_server, local) = start_both(&link, &scene.config(&quic("ws"), &keys));
    let flow = || {
        let ask = || {
            let begun = Instant::now();
            let mut stream = Socks::new(v4(1080)).connect(&socks::Target::from(TARGET));
            stream.set_read_timeout(Some(DEADLINE)).unwrap();
            stream.write_all(b"x").unwrap();
            stream.read_exact(&mut [0]).unwrap();
            begun.elapsed()
        };
        link.a.run(ask).unwrap()
    };
    let way = || link.a.run(|| scene.way()).unwrap();
    let said = |words: &str| local.log().matches(words).count();
    flow();
    let shell = |line: &str| {
        let mut command = std::process::Command::new("sh");
        command.args(["-c", line]);
        link.a.place(&mut command).unwrap();
        assert!(command.status().unwrap().success(), "{line}");
    };
    let changes = || said("the network has changed");
    let change = |address: &str| {
        let before = changes();
        link.a
            .ip(&format!("addr add {address}/24 dev link0"))
            .unwrap();
        eventually("the change is noticed", || changes() > before);
    };
    // Another network, which lets no UDP out. A connection is there.
    shell(
        "nft 'table inet block { chain out { type filter hook output priority 0; udp dport 8388 drop; }; }'",
    );
    change("10.99.0.5");
    let first = flow();
    assert!(first < FIRST, "{first:?}");
    // A change comes as a group of changes.
    eventually("it is told", || {
        flow();
        way() == "ws"
    });
    // TCP, TLS, the upgrade and the request; QUIC would have been waited for 250 ms.
    eventually("a flow does not wait", || flow() < AT_ONCE);
    // A third one lets it out: QUIC is tried without a wait for the memory to end.
    shell("nft delete table inet block");
    change("10.99.0.6");
    eventually("QUIC is used again", || {
        flow();
        way() == "quic"
    });
    assert_eq!(
        said("sendmsg error"),
        0,
        "what the system says of packets is no news"
    );
}
