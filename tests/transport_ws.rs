//! Shadowsocks inside WebSocket, bare and in TLS, alone and within mux.cool: two halves of `ssr`, and `ssr` with
//! v2ray-plugin under shadowsocks-libev each way round, and whoever else comes to the port.

use std::{
    fs,
    io::{Read, Write},
    net::{Shutdown, TcpStream},
    path::PathBuf,
    sync::mpsc,
    time::Instant,
};

use crate::common::{
    DEADLINE,
    bytes::{digest, pattern},
    eventually, is_open,
    matrix::{self, Targets},
    peers::{
        Half, Pair,
        Program::{Libev, Ssr},
        Spec, Start, base64,
    },
    socks::{Socks, dial},
    targets::TcpTarget,
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

const HOST: &str = "localhost";
pub(crate) const PATH: &str = "/chat";
pub(crate) const METHOD: &str = "aes-256-gcm";

/// Which of the four kinds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kind {
    pub(crate) tls: bool,
    pub(crate) mux: bool,
}

pub(crate) const KINDS: [Kind; 4] = [
    Kind {
        tls: false,
        mux: false,
    },
    Kind {
        tls: false,
        mux: true,
    },
    Kind {
        tls: true,
        mux: false,
    },
    Kind {
        tls: true,
        mux: true,
    },
];
pub(crate) const BARE: Kind = KINDS[0];

/// A certificate and who has signed it, as files.
pub(crate) struct Certificate {
    _dir: TempDir,
    pub(crate) ca: PathBuf,
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
}

impl Certificate {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![HOST.to_owned()]).unwrap();
        let cert = params.signed_by(&key, &issuer).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, text: String| {
            let path = dir.path().join(name);
            fs::write(&path, text).unwrap();
            path
        };
        Self {
            ca: file("ca.pem", issuer.pem()),
            cert: file("cert.pem", cert.pem()),
            key: file("key.pem", key.serialize_pem()),
            _dir: dir,
        }
    }

    /// The transport of our server; it finds out by itself whether mux.cool is spoken.
    pub(crate) fn server(&self, kind: Kind) -> Value {
        let mut transport = json!({"type": "ws", "path": PATH});
        if kind.tls {
            transport["tls"] = json!({"cert": self.cert, "key": self.key});
        }
        json!({"transport": transport, "mode": "tcp_only"})
    }

    /// The transport of our client.
    pub(crate) fn client(&self, kind: Kind) -> Value {
        let mut transport =
            json!({"type": "ws", "path": PATH, "host": HOST, "mux": u8::from(kind.mux)});
        if kind.tls {
            transport["tls"] = json!({"ca": self.ca});
        }
        json!({"transport": transport, "mode": "tcp_only"})
    }

    /// v2ray-plugin beside the server of shadowsocks-libev.
    fn plugin_server(&self, kind: Kind) -> Value {
        let mut options = format!("server;path={PATH};mux={}", u8::from(kind.mux));
        if kind.tls {
            let (cert, key) = (self.cert.display(), self.key.display());
            options += &format!(";tls;host={HOST};cert={cert};key={key}");
        }
        json!({"plugin": "ss-v2ray-plugin", "plugin_opts": options, "mode": "tcp_only"})
    }

    /// v2ray-plugin beside its client.
    fn plugin_client(&self, kind: Kind) -> Value {
        let mut options = format!("host={HOST};path={PATH};mux={}", u8::from(kind.mux));
        if kind.tls {
            options += &format!(";tls;cert={}", self.ca.display());
        }
        json!({"plugin": "ss-v2ray-plugin", "plugin_opts": options, "mode": "tcp_only"})
    }
}

/// Two halves of `ssr`.
fn ours(certificate: &Certificate, kind: Kind, spec: &Spec) -> Pair {
    let server = Start::server(Ssr, spec).with(certificate.server(kind));
    Pair::with(server, |at| {
        Start::local(Ssr, spec, at).with(certificate.client(kind))
    })
}

const fn is_tcp(name: &str) -> bool {
    matches!(name.as_bytes(), [b't', b'c', b'p', ..])
}

#[test]
fn pair_carries_everything_in_each_kind() {
    let certificate = Certificate::new();
    let targets = Targets::start();
    for kind in KINDS {
        for method in [METHOD, "2022-blake3-aes-256-gcm"] {
            let pair = ours(&certificate, kind, &Spec::new(method));
            let failed = matrix::failures(&pair.socks(), &targets, is_tcp);
            assert!(failed.is_empty(), "{kind:?} {method}: {failed:#?}");
        }
    }
}

#[test]
fn old_spelling_is_the_same_transport() {
    let certificate = Certificate::new();
    let targets = Targets::start();
    let spec = Spec::new(METHOD);
    for kind in KINDS {
        let builtin = |mut keys: Value| {
            keys["plugin"] = json!("builtin:v2ray-plugin");
            keys
        };
        let server = Start::server(Ssr, &spec).with(builtin(certificate.plugin_server(kind)));
        let pair = Pair::with(server, |at| {
            Start::local(Ssr, &spec, at).with(builtin(certificate.plugin_client(kind)))
        });
        matrix::echoes(&pair.socks(), &targets.echo.v4(), 1 << 20);
        matrix::half_close(&pair.socks(), &targets, 1000);
    }
}

#[test]
fn connection_closes_without_a_wait() {
    let certificate = Certificate::new();
    for kind in KINDS {
        let pair = ours(&certificate, kind, &Spec::new(METHOD));
        let echo = TcpTarget::echo();
        matrix::echoes(&pair.socks(), &echo.v4(), 1);
        let begun = Instant::now();
        for _ in 0..20 {
            let mut stream = pair.socks().connect(&echo.v4());
            stream.write_all(b"ping").unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            let mut back = Vec::new();
            stream.read_to_end(&mut back).unwrap();
            assert_eq!(back, b"ping");
        }
        // v2ray-plugin takes a second for each.
        assert!(
            begun.elapsed() < DEADLINE / 2,
            "{kind:?}: {:?}",
            begun.elapsed()
        );
    }
}

/// What no pair with v2ray-plugin in it can: WebSocket ends both directions at once, and it knows no other way.
const PLUGIN_CANNOT: &[&str] = &[
    "tcp: upload, half-close, answer",
    "tcp: small upload, half-close, answer",
    "tcp: no upload, half-close, answer",
];

/// An upload and its end arrive at the target, though no answer to the end can come back.
fn upload_arrives(socks: &Socks) {
    let (told, heard) = mpsc::channel();
    let target = TcpTarget::serve(move |mut stream| {
        let mut upload = Vec::new();
        let ended = stream.read_to_end(&mut upload).is_ok();
        let _gone = told.send((ended, digest(&upload)));
    });
    let upload = pattern(3, 1 << 20);
    let mut stream = socks.connect(&target.v4());
    stream.write_all(&upload).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let (ended, sum) = heard.recv_timeout(DEADLINE).expect("the end of the upload");
    assert!(ended, "a reset instead of the end");
    assert_eq!(sum, digest(&upload));
}

/// ss-local listens before its plugin does.
fn plugin_is_up(local: &Half) {
    let echo = TcpTarget::echo();
    eventually("the plugin carries a byte", || {
        let mut stream = local.socks().connect(&echo.v4());
        let mut byte = [7];
        stream.write_all(&byte).is_ok() && stream.read_exact(&mut byte).is_ok()
    });
}

fn works_with_the_plugin(kind: Kind, socks: &Socks, targets: &Targets) {
    let can = |name: &str| is_tcp(name) && !PLUGIN_CANNOT.contains(&name);
    let failed = matrix::failures(socks, targets, can);
    assert!(failed.is_empty(), "{kind:?}: {failed:#?}");
    upload_arrives(socks);
}

#[test]
#[ignore = "needs peers: scripts/test"]
fn ssr_client_reaches_v2ray_plugin_server() {
    let certificate = Certificate::new();
    let targets = Targets::start();
    let spec = Spec::new(METHOD);
    for kind in KINDS {
        let server = Start::server(Libev, &spec).with(certificate.plugin_server(kind));
        let pair = Pair::with(server, |at| {
            Start::local(Ssr, &spec, at).with(certificate.client(kind))
        });
        works_with_the_plugin(kind, &pair.socks(), &targets);
    }
}

#[test]
#[ignore = "needs peers: scripts/test"]
fn v2ray_plugin_clients_with_and_without_mux_reach_one_ssr_port() {
    let certificate = Certificate::new();
    let targets = Targets::start();
    let spec = Spec::new(METHOD);
    for tls in [false, true] {
        let kind = |mux| Kind { tls, mux };
        let server = Start::server(Ssr, &spec)
            .with(certificate.server(kind(false)))
            .run();
        for mux in [false, true] {
            let local = Start::local(Libev, &spec, server.address)
                .with(certificate.plugin_client(kind(mux)))
                .run();
            plugin_is_up(&local);
            works_with_the_plugin(kind(mux), &local.socks(), &targets);
        }
    }
}

#[test]
#[ignore = "needs peers: scripts/test"]
fn download_until_the_end_ends_at_a_v2ray_plugin_client() {
    let certificate = Certificate::new();
    let spec = Spec::new(METHOD);
    let target = TcpTarget::serve(|mut stream| {
        let mut order = [0; 4];
        if stream.read_exact(&mut order).is_ok() {
            let _gone = stream.write_all(&pattern(1, 300_000));
        }
    });
    for kind in [BARE, KINDS[1]] {
        let server = Start::server(Ssr, &spec)
            .with(certificate.server(kind))
            .run();
        let local = Start::local(Libev, &spec, server.address)
            .with(certificate.plugin_client(kind))
            .run();
        plugin_is_up(&local);
        let mut stream = local.socks().connect(&target.v4());
        stream.write_all(b"GET!").unwrap();
        let mut body = Vec::new();
        stream.read_to_end(&mut body).unwrap();
        assert!(
            body == pattern(1, 300_000),
            "{kind:?}: {} bytes",
            body.len()
        );
    }
}

#[test]
fn only_a_trusted_proxy_is_believed_who_has_come() {
    let certificate = Certificate::new();
    let echo = TcpTarget::echo();
    for (trusted, believed) in [("127.0.0.0/8", true), ("192.0.2.0/24", false)] {
        let spec = Spec::new(METHOD);
        let mut keys = certificate.server(BARE);
        keys["transport"]["trusted_proxies"] = json!([trusted]);
        let server = Start::server(Ssr, &spec).with(keys).flags(&["-v"]).run();
        let mut client = certificate.client(BARE);
        client["transport"]["headers"] = json!({"X-Forwarded-For": "203.0.113.9"});
        let local = Start::local(Ssr, &spec, server.address).with(client).run();
        matrix::echoes(&local.socks(), &echo.v4(), 1000);
        eventually("the log names the end of the stream", || {
            server.process.log().contains("stream ended peer=")
        });
        let log = server.process.log();
        let named = |peer: &str| log.contains(&format!("stream ended peer={peer}:"));
        assert_eq!(
            (named("203.0.113.9"), named("127.0.0.1")),
            (believed, !believed),
            "{log}"
        );
    }
}

fn request(path: &str, host: &str, fields: &str) -> String {
    let key = base64(&pattern(1, 16));
    format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n{fields}\r\n"
    )
}

fn answer(server: &Half, request: &[u8]) -> String {
    let mut stream = dial(server.address);
    stream.write_all(request).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn strangers_find_a_web_server() {
    let certificate = Certificate::new();
    let spec = Spec::new(METHOD);
    let mut keys = certificate.server(BARE);
    keys["transport"]["host"] = json!(HOST);
    let server = Start::server(Ssr, &spec).with(keys).run();
    for (bytes, status) in [
        (request("/other", HOST, ""), 404),
        (request("/", HOST, ""), 404),
        (request(PATH, "other.example", ""), 404),
        (request(PATH, HOST, "").replace("GET", "POST"), 404),
        (
            request(PATH, HOST, "").replace("Upgrade: websocket\r\n", ""),
            404,
        ),
        (request(PATH, HOST, "").replace(": 13", ": 12"), 426),
        (request(PATH, HOST, "").replace("HTTP/1.1", "HTTP/9"), 400),
        (
            request(PATH, HOST, &format!("X: {}\r\n", "y".repeat(20_000))),
            400,
        ),
        ("\x16\x03\x01\x02\x00\x01\x00".to_owned(), 400),
    ] {
        let answer = answer(&server, bytes.as_bytes());
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{bytes:.200}: {answer}"
        );
        assert!(answer.contains("<center>nginx</center>"), "{answer}");
    }
    // Random bytes, too, get no more than a page, and the port serves on.
    for seed in 0..20 {
        let mut stream = dial(server.address);
        let _gone = stream.write_all(&pattern(seed, 3000));
        let _gone = stream.shutdown(Shutdown::Write);
        let mut answer = Vec::new();
        let _reset = stream.read_to_end(&mut answer);
        assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 400 "));
    }
    let local = Start::local(Ssr, &spec, server.address)
        .with(certificate.client(BARE))
        .run();
    matrix::echoes(&local.socks(), &TcpTarget::echo().v4(), 1000);
}

/// A stranger who has asked for the right thing; what the server said then has been read.
pub(crate) fn upgraded(server: &Half) -> TcpStream {
    let mut stream = dial(server.address);
    stream
        .write_all(request(PATH, HOST, "").as_bytes())
        .unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    assert!(head.starts_with(b"HTTP/1.1 101 "));
    stream
}

/// A server of bare WebSockets that does not wait long for a request.
pub(crate) fn impatient() -> Half {
    let mut keys = Certificate::new().server(BARE);
    keys["timeouts"] = json!({"handshake": 2});
    Start::server(Ssr, &Spec::new(METHOD)).with(keys).run()
}

#[test]
fn stranger_with_the_path_gets_no_byte_of_ours() {
    let server = impatient();
    let noise = pattern(5, 100);
    let masked = [&[0x82, 0x80 | 100, 0, 0, 0, 0], &noise[..]].concat();
    let mux = b"\x82\x8e\0\0\0\0\x00\x0c\x00\x01\x01\x00\x01\x00\x00\x01\x7f\x00\x00\x01";
    for bytes in [&masked[..], mux, &[mux, &masked[..]].concat(), &[0x82]] {
        let mut stream = upgraded(&server);
        stream.write_all(bytes).unwrap();
        let mut answer = Vec::new();
        let _reset = stream.read_to_end(&mut answer);
        // A Close, as any WebSocket ends, or the end of its stream of mux.cool and then a Close.
        assert!(
            answer.len() <= 2 + 2 + 6 + 4 && !answer.starts_with(&[2, 0]),
            "{answer:x?}"
        );
    }
}

#[test]
fn thousand_open_handshakes_keep_nobody_out() {
    let certificate = Certificate::new();
    let spec = Spec::new(METHOD);
    let mut keys = certificate.server(BARE);
    keys["limits"] = json!({"handshakes": 100});
    keys["timeouts"] = json!({"handshake": 60});
    let server = Start::server(Ssr, &spec).with(keys).run();
    let before = server.process.memory_kib("VmRSS");
    let half = request(PATH, HOST, &format!("X: {}", "y".repeat(8000)));
    let mut open: Vec<_> = (0..1000)
        .map(|_| {
            let mut stream = dial(server.address);
            let _gone = stream.write_all(&half.as_bytes()[..half.len() - 10]);
            stream
        })
        .collect();
    let local = Start::local(Ssr, &spec, server.address)
        .with(certificate.client(BARE))
        .run();
    matrix::echoes(&local.socks(), &TcpTarget::echo().v4(), 1000);
    // All but the last hundred have been closed to make room.
    eventually("900 are closed", || {
        open.retain_mut(is_open);
        open.len() <= 100
    });
    let after = server.process.memory_kib("VmRSS");
    assert!(
        after < before + 20 * 1024,
        "{before} KiB became {after} KiB"
    );
}

#[test]
fn killed_half_breaks_the_stream_and_not_the_other_half() {
    let certificate = Certificate::new();
    let spec = Spec::new(METHOD);
    for kind in KINDS {
        let endless = TcpTarget::serve(|mut stream| {
            let chunk = pattern(1, 1 << 16);
            while stream.write_all(&chunk).is_ok() {}
        });
        let pair = ours(&certificate, kind, &spec);
        let mut stream = pair.socks().connect(&endless.v4());
        stream.write_all(b"go").unwrap();
        let mut buf = vec![0; 1 << 20];
        stream.read_exact(&mut buf).unwrap();
        pair.server.process.signal(Signal::KILL);
        while let Ok(1..) = stream.read(&mut buf) {}
        drop(stream);
        // The local half lives, and so does a server whose client was killed.
        let server = Start::server(Ssr, &spec)
            .with(certificate.server(kind))
            .run();
        let local = Start::local(Ssr, &spec, server.address)
            .with(certificate.client(kind))
            .run();
        let (told, heard) = mpsc::channel();
        let target = TcpTarget::serve(move |mut stream| {
            let chunk = pattern(1, 1 << 16);
            while stream.write_all(&chunk).is_ok() {}
            let _gone = told.send(());
        });
        let mut stream = local.socks().connect(&target.v4());
        stream.write_all(b"go").unwrap();
        stream.read_exact(&mut buf).unwrap();
        local.process.signal(Signal::KILL);
        heard.recv_timeout(DEADLINE).expect("the target's end");
        let again = Start::local(Ssr, &spec, server.address)
            .with(certificate.client(kind))
            .run();
        matrix::echoes(&again.socks(), &TcpTarget::echo().v4(), 1000);
    }
}
