//! TLS as a transport, alone and around WebSocket: who is trusted, what strangers see, certificates that change.

use crate::common::{
    DEADLINE, SILENCE, eventually,
    identity::{Identity, NAME},
    matrix::{self, Targets},
    peers::{self, Half, Program, Spec, Start},
    socks::{self, Socks},
    targets::TcpTarget,
};
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::{Value, json};
use std::{
    fs,
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    path::Path,
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    thread,
};

const METHOD: &str = "2022-blake3-aes-256-gcm";

fn server(transport: &Value) -> Half {
    Start::server(Program::Ssr, &Spec::new(METHOD))
        .with(json!({"transport": transport}))
        .flags(&["-v"])
        .run()
}

fn local(server: SocketAddr, transport: &Value) -> Half {
    Start::local(Program::Ssr, &Spec::new(METHOD), server)
        .with(json!({"transport": transport}))
        .run()
}

/// Whether a request through `socks` comes back.
fn works(socks: &Socks, target: &socks::Target) -> bool {
    let Ok((mut stream, ..)) = socks.request(1, target) else {
        return false;
    };
    let mut back = [0; 5];
    stream.write_all(b"hello").is_ok() && stream.read_exact(&mut back).is_ok() && &back == b"hello"
}

#[test]
fn tls_alone_carries_everything() {
    let identity = Identity::new();
    let server = server(&json!({"tls": identity.own()}));
    let local = local(server.address, &json!({"tls": identity.trusted()}));
    matrix::run(&local.socks(), &Targets::start(), &[]);
}

#[test]
fn websocket_in_tls_carries_everything_with_and_without_mux() {
    let identity = Identity::new();
    let server = server(&json!({"type": "ws", "path": "/chat", "tls": identity.own()}));
    for mux in [0, 1] {
        let transport =
            json!({"type": "ws", "path": "/chat", "tls": identity.trusted(), "mux": mux});
        let local = local(server.address, &transport);
        matrix::run(&local.socks(), &Targets::start(), &WITHOUT_HALF_CLOSE);
    }
}

/// A port that leads to the server by TCP alone.
fn without_udp(server: SocketAddr) -> TcpTarget {
    breakable(server, &Arc::default())
}

/// The same, with the connections that it has had.
fn breakable(server: SocketAddr, connections: &Arc<Mutex<Vec<TcpStream>>>) -> TcpTarget {
    let connections = Arc::clone(connections);
    TcpTarget::serve(move |client| {
        let clone = client.try_clone().unwrap();
        connections.lock().unwrap().push(clone);
        let upstream = socks::dial(server);
        let pass = |mut from: &TcpStream, mut to: &TcpStream| {
            let _ = io::copy(&mut from, &mut to);
            let _ = to.shutdown(Shutdown::Write);
        };
        thread::scope(|scope| {
            scope.spawn(|| pass(&upstream, &client));
            pass(&client, &upstream);
        });
    })
}

#[test]
fn datagrams_go_inside_where_there_is_no_udp() {
    let identity = Identity::new();
    let targets = Targets::start();
    for method in [METHOD, "aes-256-gcm"] {
        let spec = Spec::new(method);
        let server = Start::server(Program::Ssr, &spec)
            .with(json!({"transport": {"type": "ws", "tls": identity.own()}}))
            .run();
        let gate = without_udp(server.address);
        let at = ([127, 0, 0, 1], gate.port()).into();
        let local = |udp_over| {
            Start::local(Program::Ssr, &spec, at)
                .with(json!({"transport": {
                    "type": "ws", "tls": identity.trusted(), "udp_over": udp_over,
                }}))
                .run()
        };
        let inside = local("ws");
        let failed = matrix::failures(&inside.socks(), &targets, |name| name.starts_with("udp"));
        assert!(failed.is_empty(), "{method}: {failed:#?}");
        let beside = local("udp").socks().associate();
        beside.send(&targets.udp.target(), b"lost");
        assert!(beside.receive(SILENCE).is_none());
    }
}

#[test]
fn association_goes_on_in_a_new_stream_after_one_that_broke() {
    let identity = Identity::new();
    let targets = Targets::start();
    let spec = Spec::new(METHOD);
    let server = Start::server(Program::Ssr, &spec)
        .with(json!({"transport": {"type": "ws", "tls": identity.own()}}))
        .run();
    let connections = Arc::default();
    let gate = breakable(server.address, &connections);
    let local = Start::local(Program::Ssr, &spec, ([127, 0, 0, 1], gate.port()).into())
        .with(json!({
            "warm_connections": 0,
            "transport": {"type": "ws", "tls": identity.trusted(), "udp_over": "ws"},
        }))
        .run();
    let association = local.socks().associate();
    association.exchange(&targets.udp.target(), b"before");
    for connection in connections.lock().unwrap().drain(..) {
        connection.shutdown(Shutdown::Both).unwrap();
    }
    eventually("the association goes on", || {
        association.send(&targets.udp.target(), b"after");
        association
            .receive(SILENCE)
            .is_some_and(|(_, data)| data == b"after")
    });
    let mut sources = targets.udp.seen().into_iter().map(|(source, _)| source);
    let first = sources.next().unwrap();
    assert!(
        sources.all(|source| source == first),
        "its socket has changed"
    );
}

#[test]
fn stream_of_an_association_ends_with_it() {
    let identity = Identity::new();
    let targets = Targets::start();
    let spec = Spec::new(METHOD);
    let server = Start::server(Program::Ssr, &spec)
        .with(json!({"transport": {"type": "ws", "tls": identity.own()}}))
        .run();
    let local = Start::local(Program::Ssr, &spec, server.address)
        .with(json!({
            "warm_connections": 0,
            "transport": {"type": "ws", "tls": identity.trusted(), "udp_over": "ws"},
        }))
        .run();
    let associations: Vec<_> = (0..10)
        .map(|_| {
            let association = local.socks().associate();
            association.exchange(&targets.udp.target(), b"there?");
            association
        })
        .collect();
    // Two each: the program's connection and the stream to the server.
    let open = local.process.open_files();
    drop(associations);
    eventually("all is closed", || local.process.open_files() + 18 <= open);
}

/// WebSocket has no half-close: a target that waits for the client's end waits until the connection goes.
const WITHOUT_HALF_CLOSE: [&str; 3] = [
    "tcp: upload, half-close, answer",
    "tcp: small upload, half-close, answer",
    "tcp: no upload, half-close, answer",
];

#[test]
fn spare_connections_are_ready_for_use() {
    let identity = Identity::new();
    for kind in ["tcp", "ws"] {
        let server = server(&json!({"type": kind, "tls": identity.own()}));
        let local = Start::local(Program::Ssr, &Spec::new(METHOD), server.address)
            .with(json!({"warm_connections": 2}))
            .with(json!({"transport": {"type": kind, "tls": identity.trusted()}}))
            .run();
        let echo = TcpTarget::echo();
        for len in [1, 100, 100_000, 1, 100_000] {
            matrix::echoes(&local.socks(), &echo.v4(), len);
        }
    }
}

#[test]
fn wrong_server_is_refused_and_the_log_says_why() {
    let (own, other) = (Identity::new(), Identity::new());
    let expired = Identity::issue(|params| {
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2021, 1, 1);
    });
    let echo = TcpTarget::echo();
    let right = server(&json!({"tls": own.own()}));
    let late = server(&json!({"tls": expired.own()}));
    for (at, tls, words) in [
        (&right, json!({"pin_sha256": other.pin}), &*own.pin),
        (&right, other.trusted(), "a trusted authority"),
        (&right, json!({"server_name": NAME}), "a trusted authority"),
        (
            &right,
            json!({"ca": own.file("ca.pem")}),
            "is not for 127.0.0.1 but for",
        ),
        (&late, expired.trusted(), "expired"),
    ] {
        let local = local(at.address, &json!({"tls": tls}));
        assert!(!works(&local.socks(), &echo.v4()), "{tls}");
        eventually("the log says why", || {
            let log = local.process.log();
            log.contains("server cannot be reached")
                && log.contains("the TLS handshake with ")
                && log.contains(words)
        });
    }
    for tls in [json!({"pin_sha256": own.pin}), json!({"insecure": true})] {
        assert!(works(
            &local(right.address, &json!({"tls": tls})).socks(),
            &echo.v4()
        ));
    }
    assert_eq!(echo.accepted(), 2);
}

#[test]
fn changed_certificate_is_taken_over_under_load() {
    let (first, second) = (Identity::new(), Identity::new());
    let server = server(&json!({"tls": first.own()}));
    let both = json!({"tls": {"pin_sha256": [first.pin, second.pin]}, "type": "tcp"});
    let client = Start::local(Program::Ssr, &Spec::new(METHOD), server.address)
        .with(json!({"transport": both, "warm_connections": 0}))
        .run();
    let echo = TcpTarget::echo();
    let (stop, rounds, failed) = (
        AtomicBool::new(false),
        AtomicUsize::new(0),
        AtomicUsize::new(0),
    );
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !stop.load(SeqCst) {
                    let good = works(&client.socks(), &echo.v4());
                    failed.fetch_add(usize::from(!good), SeqCst);
                    rounds.fetch_add(1, SeqCst);
                }
            });
        }
        eventually("load runs", || rounds.load(SeqCst) > 20);
        fs::write(first.directory.path().join("cert.pem"), "broken").unwrap();
        eventually("the broken one is reported", || {
            server
                .process
                .log()
                .contains("cannot be used; the previous one stays in use")
        });
        let before = rounds.load(SeqCst);
        eventually("load runs on", || rounds.load(SeqCst) > before + 20);
        second.replace(&first);
        eventually("the new one is read", || {
            server.process.log().contains("certificate read again")
        });
        stop.store(true, SeqCst);
    });
    assert_eq!(failed.load(SeqCst), 0, "of {}", rounds.load(SeqCst));
    let log = server.process.log();
    assert!(log.contains("cert.pem"), "{log}");
    let new = local(server.address, &json!({"tls": {"pin_sha256": second.pin}}));
    assert!(works(&new.socks(), &echo.v4()));
    let old = local(server.address, &json!({"tls": {"pin_sha256": first.pin}}));
    assert!(!works(&old.socks(), &echo.v4()));
}

/// What curl says of an address: the status and the page.
fn curl(arguments: &[&str]) -> (String, String) {
    let output = Command::new("curl")
        .args([
            "-sk",
            "--noproxy",
            "*",
            "--max-time",
            "10",
            "-w",
            "\n%{http_code}",
        ])
        .args(arguments)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (page, status) = text.rsplit_once('\n').unwrap_or_default();
    (status.to_owned(), page.to_owned())
}

#[test]
fn stranger_on_the_tls_port_finds_a_web_server_without_pages() {
    let identity = Identity::new();
    let server = server(&json!({"type": "ws", "path": "/chat", "tls": identity.own()}));
    for path in ["/", "/chat", "/chat/x"] {
        let url = format!("https://{}{path}", server.address);
        let (status, page) = curl(&[&url]);
        assert_eq!(status, "404", "{path}");
        assert!(
            page.contains("404") && !page.to_lowercase().contains("ssr"),
            "{page}"
        );
    }
    // Plain bytes get what TLS says to them, an alert at most, and the end.
    for bytes in [&b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..], &[0; 600]] {
        let mut stream = socks::dial(server.address);
        stream.write_all(bytes).unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(answer.len() <= 7, "{answer:?}");
        assert!(answer.is_empty() || answer[0] == 21, "{answer:?}");
    }
    // It lives on.
    let transport = json!({"type": "ws", "path": "/chat", "tls": identity.trusted()});
    let echo = TcpTarget::echo();
    assert!(works(
        &local(server.address, &transport).socks(),
        &echo.v4()
    ));
}

#[test]
fn every_stranger_within_tls_sees_the_same_end() {
    let identity = Identity::new();
    let ca = CertificateDer::from_pem_file(identity.directory.path().join("ca.pem")).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(ca).unwrap();
    let config = Arc::new(
        ClientConfig::builder()
            .with_root_certificates(roots)
            .with_no_client_auth(),
    );
    for method in ["aes-256-gcm", METHOD] {
        let server = Start::server(Program::Ssr, &Spec::new(method))
            .with(json!({"transport": {"tls": identity.own()}, "timeouts": {"handshake": 3}}))
            .run();
        // Nothing, less than a salt, a salt, a head that does not open.
        let ends = [0, 1, 10, 32, 100, 1000].map(|len| {
            let config = Arc::clone(&config);
            thread::spawn(move || {
                let socket = socks::dial(server.address);
                let tls = ClientConnection::new(config, NAME.try_into().unwrap()).unwrap();
                let mut stream = StreamOwned::new(tls, socket);
                stream.write_all(&vec![7; len]).unwrap();
                stream.flush().unwrap();
                // Without a close_notify this is an error.
                let mut said = Vec::new();
                let end = stream.read_to_end(&mut said).map_err(|error| error.kind());
                (len, said, end)
            })
        });
        for end in ends {
            let (len, said, end) = end.join().unwrap();
            assert_eq!((said.len(), end), (0, Ok(0)), "{len} bytes, {method}");
        }
    }
}

#[test]
fn silent_stranger_is_closed_when_the_handshake_has_had_its_time() {
    let identity = Identity::new();
    let server = Start::server(Program::Ssr, &Spec::new(METHOD))
        .with(json!({"transport": {"type": "ws", "tls": identity.own()}, "timeouts": {"handshake": 1}}))
        .run();
    let mut stream = socks::dial(server.address);
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    assert_eq!(stream.read(&mut [0; 8]).unwrap_or(0), 0);
}

#[test]
fn check_names_the_file_that_cannot_be_used() {
    let identity = Identity::new();
    let directory = tempfile::tempdir().unwrap();
    let check = |tls: Value| {
        let config = json!({
            "server": "192.0.2.1", "server_port": 8388, "method": "aes-256-gcm", "password": "x",
            "transport": {"tls": tls},
        });
        let file = directory.path().join("config.json");
        fs::write(&file, serde_json::to_string_pretty(&config).unwrap()).unwrap();
        let output = peers::ssr(&["check", "-c", file.to_str().unwrap()])
            .output()
            .unwrap();
        let text = [output.stdout, output.stderr].concat();
        (
            output.status.success(),
            String::from_utf8_lossy(&text).into_owned(),
        )
    };
    let missing = Path::new("/nonexistent/cert.pem");
    let (good, text) = check(json!({"cert": missing, "key": identity.file("key.pem")}));
    assert!(
        !good && text.contains("transport.tls.cert: /nonexistent/cert.pem"),
        "{text}"
    );
    let (good, text) =
        check(json!({"cert": identity.file("cert.pem"), "key": Identity::new().file("key.pem")}));
    assert!(!good && text.contains("transport.tls.key"), "{text}");
    let (good, text) = check(json!({
        "cert": identity.file("cert.pem"), "key": identity.file("key.pem"), "pin_sha256": identity.pin,
    }));
    assert!(good && text.contains("over tls"), "{text}");
}
