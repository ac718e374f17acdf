//! QUIC as a transport: everything that TCP carries, strangers, restarts.

use crate::common::{
    DEADLINE, SILENCE, at_rest, eventually,
    identity::{Identity, NAME},
    matrix::{self, Targets},
    peers::{self, Half, Program, Spec, Start},
    process::{Process, v4},
    socks::read_array,
    targets::TcpTarget,
};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Connection, Endpoint};
use serde_json::{Value, json};
use ssr::limits::MAX_QUIC_WAITING;
use std::{
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

const METHOD: &str = "2022-blake3-aes-256-gcm";

pub(crate) fn quic(tls: &Value) -> Value {
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
pub(crate) async fn stranger(server: SocketAddr) -> Connection {
    client(server).await.1
}

/// A client of QUIC at loopback, and its connection.
pub(crate) async fn client(server: SocketAddr) -> (Endpoint, Connection) {
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
    let connection = connecting.await.unwrap();
    (endpoint, connection)
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

pub(crate) fn reactor() -> tokio::runtime::Runtime {
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

/// Passes datagrams of one client on to `server`, and counts the packets by which the server has it prove its address (Retry, RFC
/// 9000 §17.2.5).
fn retries(server: SocketAddr) -> (SocketAddr, Arc<AtomicUsize>) {
    let near = Arc::new(UdpSocket::bind(v4(0)).unwrap());
    let far = Arc::new(UdpSocket::bind(v4(0)).unwrap());
    far.connect(server).unwrap();
    let address = near.local_addr().unwrap();
    let count = Arc::new(AtomicUsize::new(0));
    let client = Arc::new(Mutex::new(None));
    let (back, to, counted, known) = (
        Arc::clone(&far),
        Arc::clone(&near),
        Arc::clone(&count),
        Arc::clone(&client),
    );
    thread::spawn(move || {
        let mut room = [0; 2048];
        while let Ok(len) = back.recv(&mut room) {
            if room[0] & 0xf0 == 0xf0 {
                counted.fetch_add(1, Relaxed);
            }
            let client = known.lock().unwrap().unwrap();
            to.send_to(&room[..len], client).unwrap();
        }
    });
    thread::spawn(move || {
        let mut room = [0; 2048];
        while let Ok((len, from)) = near.recv_from(&mut room) {
            *client.lock().unwrap() = Some(from);
            far.send(&room[..len]).unwrap();
        }
    });
    (address, count)
}

#[test]
fn clients_prove_their_address_while_many_are_in_their_handshake() {
    let identity = Identity::new();
    let spec = Spec::new(METHOD);
    // The first are still there when the last have come.
    let server = Start::server(Program::Ssr, &spec)
        .with(quic(&identity.own()))
        .with(json!({"timeouts": {"handshake": 120}}))
        .run();
    let (relay, count) = retries(server.address);
    let reactor = reactor();
    drop(reactor.block_on(stranger(relay)));
    assert_eq!(count.load(Relaxed), 0, "nobody else is there");
    let held = reactor.block_on(async {
        let mut held = Vec::new();
        for _ in 0..=MAX_QUIC_WAITING {
            held.push(stranger(server.address).await);
        }
        held
    });
    let (relay, count) = retries(server.address);
    drop(reactor.block_on(stranger(relay)));
    assert!(count.load(Relaxed) > 0, "beside many strangers");
    let targets = Targets::start();
    let local = local(&spec, &identity, server.address);
    matrix::echoes(&local.socks(), &targets.echo.v4(), 100_000);
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
    let _may_have_ended = open.write_all(b"still there?");
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

#[test]
fn readers_that_do_not_read_stop_nobody_else_in_their_connection() {
    let (spec, identity) = (Spec::new(METHOD), Identity::new());
    let server = server(&spec, &identity);
    let local = local(&spec, &identity, server.address);
    let target = TcpTarget::serve(|mut stream| while stream.write_all(&[7; 64 << 10]).is_ok() {});
    let open = || {
        let mut stream = local.socks().connect(&target.v4());
        let [_] = read_array(&mut stream);
        stream
    };
    let _stopped: Vec<TcpStream> = (0..12).map(|_| open()).collect();
    let mut other = open();
    other.set_read_timeout(Some(DEADLINE)).unwrap();
    // Meanwhile those are sent all that they may be.
    let mut chunk = vec![0; 1 << 20];
    for _ in 0..96 {
        other.read_exact(&mut chunk).unwrap();
    }
}

#[test]
fn memory_mib_holds_for_what_nobody_reads_from_a_connection() {
    let (spec, identity) = (Spec::new(METHOD), Identity::new());
    let server = server(&spec, &identity);
    let local = Start::local(Program::Ssr, &spec, server.address)
        .with(quic(&identity.trusted()))
        .with(json!({"limits": {"memory_mib": 32}}))
        .run();
    let target = TcpTarget::serve(|mut stream| while stream.write_all(&[7; 64 << 10]).is_ok() {});
    let open = || local.socks().connect(&target.v4());
    let [_] = read_array(&mut open());
    let before = local.process.memory_kib("VmRSS");
    let _stopped: Vec<TcpStream> = (0..40).map(|_| open()).collect();
    let grown = || local.process.memory_kib("VmRSS").saturating_sub(before);
    let kib = at_rest("what may be sent was sent", grown);
    println!("{kib} KiB");
    // 16 MiB of payload in the first connection; by default, 40 such readers hold 128 MiB.
    assert!(kib < 48 << 10, "{kib} KiB");
    // The window of that connection is used up: new flows begin in another one.
    let echo = TcpTarget::echo();
    let mut other = local.socks().connect(&echo.v4());
    other.set_read_timeout(Some(DEADLINE)).unwrap();
    other.write_all(b"hello").unwrap();
    assert_eq!(&read_array(&mut other), b"hello");
}
