//! QUIC as a transport: everything that TCP carries, strangers, restarts, networks that change.

use crate::common::{
    DEADLINE, SILENCE, eventually,
    identity::{Identity, NAME},
    matrix::{self, Targets},
    peers::{self, Half, Program, Spec, Start},
    process::{Process, v4},
    socks::{self, Socks, read_array},
    targets::TcpTarget,
};
use crate::emulated::{self, Link, Shape};
use crate::network_change::start_both;
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Connection, Endpoint};
use serde_json::{Value, json};
use std::{
    fs,
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

const METHOD: &str = "2022-blake3-aes-256-gcm";

fn quic(tls: &Value) -> Value {
    json!({"transport": {"type": "quic", "tls": tls}})
}

fn server(spec: &Spec, identity: &Identity) -> Half {
    let start = Start::server(Program::Ssr, spec).with(quic(&identity.own()));
    start.flags(&["-v"]).run()
}

fn local(spec: &Spec, identity: &Identity, server: SocketAddr) -> Half {
    let start = Start::local(Program::Ssr, spec, server).with(quic(&identity.trusted()));
    start.flags(&["-v"]).run()
}

#[test]
fn quic_carries_everything() {
    let identity = Identity::new();
    let targets = Targets::start();
    for method in [METHOD, "aes-256-gcm"] {
        let spec = Spec::new(method);
        let server = server(&spec, &identity);
        let local = local(&spec, &identity, server.address);
        matrix::run(&local.socks(), &targets, &[]);
    }
}

#[test]
fn tcp_and_quic_share_a_port_number() {
    let identity = Identity::new();
    let spec = Spec::new(METHOD);
    let entry = |mode: &str, transport: Value| json!({"server": "127.0.0.1", "method": METHOD, "password": spec.password, "mode": mode, "transport": transport});
    let own = json!({"type": "quic", "tls": identity.own()});
    let port = crate::common::process::free_port();
    let mut entries = [
        entry("tcp_only", json!({"type": "tcp"})),
        entry("tcp_and_udp", own),
    ];
    for entry in &mut entries {
        entry["server_port"] = json!(port);
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.json");
    fs::write(&path, json!({"servers": entries}).to_string()).unwrap();
    crate::common::process::make_private(&path);
    let mut command = peers::ssr(&["server", "-c", path.to_str().unwrap()]);
    let mut both = Process::spawn("ssr server", &mut command).unwrap();
    both.running().unwrap();
    let targets = Targets::start();
    let by_quic = local(&spec, &identity, v4(port));
    matrix::echoes(&by_quic.socks(), &targets.echo.v4(), 100_000);
    let by_tcp = Start::local(Program::Ssr, &spec, v4(port)).run();
    matrix::echoes(&by_tcp.socks(), &targets.echo.v4(), 100_000);
}

#[test]
fn wrong_server_is_refused_with_the_reason() {
    let (identity, other) = (Identity::new(), Identity::new());
    let spec = Spec::new(METHOD);
    let server = server(&spec, &identity);
    let trusts_another = local(&spec, &other, server.address);
    let refused = || trusts_another.socks().request(1, &TcpTarget::echo().v4());
    drop(refused());
    eventually("the reason is told", || {
        drop(refused());
        let log = trusts_another.process.log();
        log.contains("the TLS handshake with proxy.example failed") && log.contains("`ca`")
    });
    let asks_for_another = Start::local(Program::Ssr, &spec, server.address)
        .with(json!({"transport": {"type": "quic", "alpn": "other", "tls": identity.trusted()}}))
        .flags(&["-v"])
        .run();
    eventually("the reason is told", || {
        drop(asks_for_another.socks().request(1, &TcpTarget::echo().v4()));
        asks_for_another
            .process
            .log()
            .contains("does not offer this `alpn`")
    });
}

/// A client of QUIC that knows no key.
async fn stranger(server: SocketAddr) -> Connection {
    let endpoint = Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut tls = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody(provider)))
        .with_no_client_auth();
    tls.alpn_protocols = vec![b"h3".to_vec()];
    let config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
    let connecting = endpoint.connect_with(config, server, NAME).unwrap();
    connecting.await.unwrap()
}

/// Trusts any server.
#[derive(Debug)]
struct Anybody(Arc<rustls::crypto::CryptoProvider>);

impl rustls::client::danger::ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &[rustls::pki_types::CertificateDer<'_>],
        _: &rustls::pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

fn reactor() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

#[test]
fn strangers_get_nothing_and_a_bounded_number_of_streams() {
    let identity = Identity::new();
    let spec = Spec::new(METHOD);
    let server = Start::server(Program::Ssr, &spec)
        .with(quic(&identity.own()))
        .with(json!({"timeouts": {"handshake": 2}}))
        .run();
    reactor().block_on(async {
        let connection = stranger(server.address).await;
        let begun = Instant::now();
        let mut streams = Vec::new();
        while let Ok(opened) = tokio::time::timeout(SILENCE, connection.open_bi()).await {
            let (mut send, recv) = opened.unwrap();
            send.write_all(&[7; 200]).await.unwrap();
            streams.push((send, recv));
        }
        assert_eq!(streams.len(), 4, "streams of a stranger");
        for (_, mut recv) in streams {
            let read = tokio::time::timeout(DEADLINE, recv.read_to_end(1))
                .await
                .unwrap();
            assert!(
                read.is_err() || read.is_ok_and(|bytes| bytes.is_empty()),
                "an answer"
            );
        }
        let closed = tokio::time::timeout(DEADLINE, connection.closed()).await;
        assert!(closed.is_ok(), "it is closed");
        assert!(
            begun.elapsed() < Duration::from_secs(10),
            "{:?}",
            begun.elapsed()
        );
    });
    let targets = Targets::start();
    let local = local(&spec, &identity, server.address);
    matrix::echoes(&local.socks(), &targets.echo.v4(), 100_000);
}

#[test]
fn flood_of_strangers_leaves_room_for_users() {
    let identity = Identity::new();
    let spec = Spec::new(METHOD);
    let server = Start::server(Program::Ssr, &spec)
        .with(quic(&identity.own()))
        .with(json!({"limits": {"connections": 64, "handshakes": 16}}))
        .run();
    let before = server.process.memory_kib("VmRSS");
    let reactor = reactor();
    let held = reactor.block_on(async {
        let mut held = Vec::new();
        for _ in 0..200 {
            held.push(stranger(server.address).await);
        }
        held
    });
    let targets = Targets::start();
    let local = local(&spec, &identity, server.address);
    matrix::echoes(&local.socks(), &targets.echo.v4(), 100_000);
    let open = || {
        let open = held.iter().filter(|one| one.close_reason().is_none());
        open.count()
    };
    eventually("the oldest strangers are gone", || {
        reactor.block_on(async { tokio::time::sleep(Duration::from_millis(20)).await });
        open() <= 16
    });
    let grown = server.process.memory_kib("VmRSS").saturating_sub(before);
    assert!(grown < 64 << 10, "{grown} KiB for 16 strangers");
    drop(held);
}

#[test]
fn restarted_server_is_noticed_and_requests_go_on() {
    let identity = Identity::new();
    let spec = Spec::new(METHOD);
    let first = server(&spec, &identity);
    let address = first.address;
    let local = local(&spec, &identity, address);
    let target = TcpTarget::echo();
    let mut open = local.socks().connect(&target.v4());
    open.write_all(b"hello").unwrap();
    assert_eq!(&read_array::<5>(&mut open), b"hello");
    drop(first); // by SIGKILL: it says nothing
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.json");
    let mut config = quic(&identity.own());
    for (key, value) in [
        ("server", json!("127.0.0.1")),
        ("server_port", json!(address.port())),
        ("method", json!(METHOD)),
        ("password", json!(spec.password)),
    ] {
        config[key] = value;
    }
    fs::write(&path, config.to_string()).unwrap();
    crate::common::process::make_private(&path);
    let mut second = Process::spawn(
        "ssr server",
        &mut peers::ssr(&["server", "-c", path.to_str().unwrap()]),
    )
    .unwrap();
    second.running().unwrap();
    let begun = Instant::now();
    // The flow hears of the end, by a stateless reset.
    open.write_all(b"still there?").unwrap();
    open.set_read_timeout(Some(DEADLINE)).unwrap();
    let ended = open.read(&mut [0; 5]);
    assert!(!matches!(ended, Ok(1..)), "{ended:?}");
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "{:?}",
        begun.elapsed()
    );
    // The ticket of the process before is not known any more: what was sent early is sent again.
    matrix::echoes(&local.socks(), &target.v4(), 100_000);
}

// Over a link that changes.

const TARGET: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(198, 51, 100, 7)), 7000);

/// A laptop, and a server behind a link; behind the server what sends a pattern, and echoes.
struct Scene {
    link: Link,
    local: Process,
    _server: Process,
    _files: (tempfile::TempDir, Identity),
}

fn scene(delay: u64, transport: &Value) -> Scene {
    let shape = Shape {
        delay: Duration::from_millis(delay),
        loss: 0.0,
        rate: 2e7,
        queue: Duration::from_millis(200),
        seed: 1,
    };
    let link = Link::new(shape).expect("root, /dev/net/tun and `ip`");
    link.b.ip("addr add 198.51.100.7 dev lo").unwrap();
    link.b
        .run(|| {
            let listener = TcpListener::bind(TARGET).unwrap();
            thread::spawn(move || {
                for mut stream in listener.incoming().map_while(Result::ok) {
                    thread::spawn(move || {
                        let mut room = [0; 64];
                        while let Ok(len @ 1..) = stream.read(&mut room) {
                            let _gone = match room[0] {
                                b'g' => crate::common::targets::write_pattern(&mut stream, 7, MUCH),
                                _ => stream.write_all(&room[..len]),
                            };
                        }
                    });
                }
            });
        })
        .unwrap();
    let (directory, identity, spec) = (
        tempfile::tempdir().unwrap(),
        Identity::new(),
        Spec::new(METHOD),
    );
    let mut tls = identity.own();
    for (key, value) in identity.trusted().as_object().unwrap() {
        tls[key] = value.clone();
    }
    let mut transport = transport.clone();
    transport["tls"] = tls;
    let path = directory.path().join("config.json");
    let keys = json!({
        "server": emulated::B.to_string(), "server_port": 8388, "method": METHOD, "password": spec.password,
        "local_port": 1080, "transport": transport,
    });
    fs::write(&path, keys.to_string()).unwrap();
    let (server, local) = start_both(&link, &path);
    Scene {
        link,
        local,
        _server: server,
        _files: (directory, identity),
    }
}

/// Bytes of the download.
const MUCH: usize = 6_000_000;

/// A flow through `ssr local`, in the namespace of this thread.
fn flow() -> TcpStream {
    let stream = Socks::new(v4(1080)).connect(&socks::Target::from(TARGET));
    stream
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    stream
}

/// Reads the pattern to its end. Returns the longest pause.
fn download(mut stream: TcpStream) -> Duration {
    stream.write_all(b"g").unwrap();
    let mut expected = Vec::new();
    {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let mut out = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut back, _) = listener.accept().unwrap();
        let writer =
            thread::spawn(move || crate::common::targets::write_pattern(&mut out, 7, MUCH));
        back.read_to_end(&mut expected).unwrap();
        writer.join().unwrap().unwrap();
    }
    let mut received = Vec::with_capacity(MUCH);
    let (mut longest, mut last) = (Duration::ZERO, Instant::now());
    let mut room = vec![0; 65536];
    while received.len() < MUCH {
        let count = stream.read(&mut room).unwrap();
        assert!(
            count > 0,
            "the download ended after {} bytes",
            received.len()
        );
        received.extend_from_slice(&room[..count]);
        longest = longest.max(last.elapsed());
        last = Instant::now();
    }
    assert!(received == expected, "all bytes, and the right ones");
    longest
}

#[test]
#[ignore = "needs root: namespaces and a link between them"]
fn flows_outlive_a_new_address_and_a_link_that_was_down_over_link() {
    let scene = scene(20, &json!({"type": "quic"}));
    let (link, local) = (&scene.link, &scene.local);
    for change in ["address", "down"] {
        link.a
            .run(|| {
                let mut slow = flow();
                slow.write_all(b"1").unwrap();
                assert_eq!(&read_array::<1>(&mut slow), b"1");
                let running = flow();
                let download = thread::spawn(move || download(running));
                thread::sleep(Duration::from_millis(700)); // in the middle of the download
                let away = match change {
                    "address" => Duration::ZERO,
                    _ => Duration::from_secs(5),
                };
                link.a.ip("link set link0 down").unwrap();
                thread::sleep(away); // how long it is down is the subject
                if change == "address" {
                    link.a.ip("addr flush dev link0").unwrap();
                    link.a.ip("addr add 10.99.0.5/24 dev link0").unwrap();
                }
                link.a.ip("link set link0 up").unwrap();
                link.a.ip("route replace default dev link0").unwrap();
                let longest = download.join().expect("the download comes to its end");
                println!("{change}: the longest pause is {longest:?}");
                assert!(
                    longest < away + Duration::from_secs(5),
                    "{change}: {longest:?}\n{}",
                    local.log()
                );
                slow.write_all(b"2").unwrap();
                assert_eq!(
                    &read_array::<1>(&mut slow),
                    b"2",
                    "a quiet flow goes on, too"
                );
            })
            .unwrap();
    }
}

#[test]
#[ignore = "needs root: namespaces and a link between them"]
fn first_byte_takes_two_round_trips_and_then_one_over_link() {
    let scene = scene(50, &json!({"type": "quic"}));
    scene
        .link
        .a
        .run(|| {
            // Handshake and request; then the request alone. A debug build takes its own time beside.
            for round_trips in [2, 1, 1] {
                let begun = Instant::now();
                let mut one = flow();
                one.write_all(b"1").unwrap();
                assert_eq!(&read_array::<1>(&mut one), b"1");
                let taken = begun.elapsed();
                println!("first byte after {taken:?}");
                let (least, most) = (100 * round_trips, 100 * round_trips + 90);
                assert!(
                    taken >= Duration::from_millis(least) && taken < Duration::from_millis(most),
                    "{taken:?}"
                );
            }
        })
        .unwrap();
}
