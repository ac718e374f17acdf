//! The `shadowsocks` crate as the other half, in this process: every method, and users with identity headers.

use crate::common::{
    self, DEADLINE, METHODS_2017, METHODS_2022,
    bytes::{digest, pattern},
    matrix,
    peers::{Half, Program, Spec, Start, password},
    process::{free_port, v4},
    socks::Socks,
    targets::{Order, TcpTarget},
    udp::UdpTarget,
};
use serde_json::json;
use shadowsocks::{
    ProxyClientStream, ProxyListener, ProxySocket, ServerConfig,
    config::{ServerType, ServerUser, ServerUserManager},
    context::{Context, SharedContext},
    crypto::CipherKind,
    relay::{socks5::Address, udprelay::options::UdpSocketControlData},
};
use std::{future::Future, net::SocketAddr, sync::Arc};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    runtime::Runtime,
    time::timeout,
};

fn methods() -> impl Iterator<Item = &'static str> {
    METHODS_2017.into_iter().chain(METHODS_2022).chain(["none"])
}

fn config(spec: &Spec, address: SocketAddr) -> ServerConfig {
    let kind: CipherKind = spec.method.parse().unwrap();
    let password = if spec.method == "none" {
        ""
    } else {
        &spec.password
    };
    ServerConfig::new(address, password, kind).unwrap()
}

fn client_context() -> SharedContext {
    Context::new_shared(ServerType::Local)
}

async fn soon<T>(what: &str, work: impl Future<Output = T>) -> T {
    timeout(DEADLINE, work)
        .await
        .unwrap_or_else(|_| panic!("{what}: not within {DEADLINE:?}"))
}

fn address(port: u16) -> Address {
    Address::SocketAddress(v4(port))
}

/// The crate as a TCP client: an echo, a named target, and both ways at once.
async fn client_tcp(config: &ServerConfig, echo: &TcpTarget, duplex: &TcpTarget) {
    for target in [
        address(echo.port()),
        Address::from(("localhost".to_owned(), echo.port())),
    ] {
        let mut stream = ProxyClientStream::connect(client_context(), config, target)
            .await
            .unwrap();
        // The first write is kept within one chunk; the crate itself loses what exceeds it.
        let sent = pattern(1, 10_000);
        stream.write_all(&sent).await.unwrap();
        let mut back = vec![0; sent.len()];
        soon("the echo", stream.read_exact(&mut back))
            .await
            .unwrap();
        assert!(back == sent);
    }
    let order = Order {
        seed: 4,
        up: 3 << 20,
        down: 5 << 20,
    };
    let stream = ProxyClientStream::connect(client_context(), config, address(duplex.port()))
        .await
        .unwrap();
    let (mut reading, mut writing) = tokio::io::split(stream);
    let upload = tokio::spawn(async move {
        writing.write_all(&order.to_bytes()).await.unwrap();
        writing.write_all(&pattern(8, order.up)).await.unwrap();
        writing
    });
    let mut down = vec![0; order.down + 32];
    soon("the download", reading.read_exact(&mut down))
        .await
        .unwrap();
    let (download, sum) = down.split_at(order.down);
    assert!(
        download == pattern(order.seed, order.down),
        "the download differs"
    );
    assert_eq!(sum, digest(&pattern(8, order.up)), "digest of the upload");
    upload.await.unwrap();
}

/// The crate as a UDP client.
async fn client_udp(config: &ServerConfig, echo: &UdpTarget, named_port: u16) {
    let socket = ProxySocket::connect(client_context(), config)
        .await
        .unwrap();
    let mut control = UdpSocketControlData::default();
    control.client_session_id = u64::from(named_port) << 20 | 77;
    let target = Address::SocketAddress(echo.target().socket().unwrap());
    let mut buf = vec![0; 65536];
    const WARM_UP: &[u8] = b"warm-up";
    let warm_up = async {
        loop {
            control.packet_id += 1;
            socket
                .send_with_ctrl(&target, &control, WARM_UP)
                .await
                .unwrap();
            let wait = timeout(common::SILENCE, socket.recv_with_ctrl(&mut buf)).await;
            if let Ok(Ok(_)) = wait {
                return;
            }
        }
    };
    soon("a first answer", warm_up).await;
    // Answers to warm-ups may still come.
    let next = async |buf: &mut Vec<u8>| loop {
        let (len, from, _, answer) = soon("an answer", socket.recv_with_ctrl(buf)).await.unwrap();
        if buf[..len] != *WARM_UP {
            return (len, from, answer);
        }
    };
    for size in [1, 1400, 4000, 30_000] {
        let data = pattern(size as u64, size);
        control.packet_id += 1;
        socket
            .send_with_ctrl(&target, &control, &data)
            .await
            .unwrap();
        let (len, from, answer) = next(&mut buf).await;
        assert_eq!(from, target);
        assert!(buf[..len] == data, "a datagram of {size} bytes differs");
        if let Some(answer) = answer.filter(|_| config.method().is_aead_2022()) {
            assert_eq!(answer.client_session_id, control.client_session_id);
        }
    }
    let name = Address::from(("localhost".to_owned(), named_port));
    control.packet_id += 1;
    socket
        .send_with_ctrl(&name, &control, b"by name")
        .await
        .unwrap();
    let (len, ..) = next(&mut buf).await;
    assert_eq!(&buf[..len], b"by name");
}

fn crate_client_reaches(server: &Half, spec: &Spec) {
    let config = config(spec, server.address);
    let (echo, duplex, udp) = (TcpTarget::echo(), TcpTarget::duplex(), UdpTarget::echo());
    let runtime = Runtime::new().unwrap();
    runtime.block_on(client_tcp(&config, &echo, &duplex));
    let port = udp.target().socket().unwrap().port();
    runtime.block_on(client_udp(&config, &udp, port));
}

/// The crate as a server: relays TCP with half-close and answers UDP itself.
struct CrateServer {
    address: SocketAddr,
    _runtime: Runtime,
}

/// Passes bytes on until the end. tokio's copy offers a writer more bytes when it is asked again; this crate's streams
/// then claim to have written what they have not.
async fn pass(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
) -> std::io::Result<()> {
    let mut buf = vec![0; 8192];
    loop {
        let len = from.read(&mut buf).await?;
        if len == 0 {
            return to.shutdown().await;
        }
        to.write_all(&buf[..len]).await?;
    }
}

impl CrateServer {
    fn start(spec: &Spec, users: Option<ServerUserManager>) -> Self {
        let runtime = Runtime::new().unwrap();
        let address = v4(free_port());
        let mut config = config(spec, address);
        if let Some(users) = users {
            config.set_user_manager(users);
        }
        let context = Context::new_shared(ServerType::Server);
        let tcp = runtime
            .block_on(ProxyListener::bind(Arc::clone(&context), &config))
            .unwrap();
        let udp = runtime
            .block_on(ProxySocket::bind(context, &config))
            .unwrap();
        runtime.spawn(async move {
            while let Ok((mut stream, _)) = tcp.accept().await {
                tokio::spawn(async move {
                    let target = stream.handshake().await?;
                    let remote = TcpStream::connect(target.to_string()).await?;
                    let (from_remote, to_remote) = remote.into_split();
                    let (from_client, to_client) = tokio::io::split(stream);
                    tokio::try_join!(pass(from_client, to_remote), pass(from_remote, to_client))
                });
            }
        });
        runtime.spawn(async move {
            let mut buf = vec![0; 65536];
            loop {
                let Ok((len, client, target, _, control)) = udp.recv_from_with_ctrl(&mut buf).await
                else {
                    continue;
                };
                let mut control = control.unwrap_or_default();
                control.server_session_id = control.client_session_id ^ 0x5555;
                let remote = UdpSocket::bind("127.0.0.1:0").await.unwrap();
                remote
                    .send_to(&buf[..len], target.to_string())
                    .await
                    .unwrap();
                let Ok(Ok((len, from))) = timeout(common::ANSWER, remote.recv_from(&mut buf)).await
                else {
                    continue;
                };
                let from = Address::SocketAddress(from);
                udp.send_to_with_ctrl(client, &from, &control, &buf[..len])
                    .await
                    .unwrap();
            }
        });
        Self {
            address,
            _runtime: runtime,
        }
    }
}

fn reaches_crate_server(socks: &Socks) {
    let targets = matrix::Targets::start();
    // This small server binds IPv4 sockets and one at a time; what it cannot do is not the client's to show.
    let inability = [
        "udp: IPv6 target",
        "udp: named target",
        "udp: two targets from one socket",
        "udp: full cone",
        "udp: 0 bytes",
    ];
    matrix::run(socks, &targets, &inability);
}

#[test]
fn crate_client_reaches_ssr_server() {
    for method in methods() {
        eprintln!("{method}");
        let spec = Spec::new(method);
        let server = Start::server(Program::Ssr, &spec).run();
        crate_client_reaches(&server, &spec);
    }
}

#[test]
fn ssr_client_reaches_crate_server() {
    for method in methods() {
        eprintln!("{method}");
        let spec = Spec::new(method);
        let server = CrateServer::start(&spec, None);
        let local = Start::local(Program::Ssr, &spec, server.address).run();
        reaches_crate_server(&local.socks());
    }
}

/// The identity key and the users' keys of `method`.
fn identities(method: &str) -> (String, [String; 2]) {
    (
        password(method, 50),
        [password(method, 51), password(method, 52)],
    )
}

#[test]
fn crate_clients_with_identity_headers_reach_ssr_server() {
    for method in &METHODS_2022[..2] {
        let (identity, users) = identities(method);
        let server = Start::server(Program::Ssr, &Spec::new(method)).with(json!({"servers": [{
            "method": method, "password": identity,
            "users": [{"name": "first", "password": users[0]}, {"name": "second", "password": users[1]}],
        }]}));
        let server = server.run();
        for user in &users {
            let spec = Spec {
                method: (*method).to_owned(),
                password: format!("{identity}:{user}"),
            };
            crate_client_reaches(&server, &spec);
        }
    }
}

#[test]
fn ssr_clients_with_identity_headers_reach_crate_server() {
    for method in &METHODS_2022[..2] {
        let (identity, users) = identities(method);
        let mut manager = ServerUserManager::new();
        for (name, key) in ["first", "second"].iter().zip(&users) {
            manager.add_user(ServerUser::with_encoded_key(*name, key).unwrap());
        }
        let spec = Spec {
            method: (*method).to_owned(),
            password: identity.clone(),
        };
        let server = CrateServer::start(&spec, Some(manager));
        for user in &users {
            let spec = Spec {
                method: (*method).to_owned(),
                password: format!("{identity}:{user}"),
            };
            let local = Start::local(Program::Ssr, &spec, server.address).run();
            reaches_crate_server(&local.socks());
        }
    }
}

#[test]
fn a_user_reaches_the_server_through_a_relay_that_only_knows_the_next_identity() {
    for method in &METHODS_2022[..2] {
        let [first, second, user] = [60, 61, 62].map(|seed| password(method, seed));
        let server = Start::server(Program::Ssr, &Spec::new(method)).with(json!({"servers": [{
            "method": method, "password": second, "users": [{"name": "user", "password": user}],
        }]}));
        let server = server.run();
        // The relay's one "user" is the next server's identity key, with the address to pass its sessions to.
        let relay = Start::server(Program::Ssr, &Spec::new(method)).with(json!({"servers": [{
            "method": method, "password": first,
            "users": [{
                "name": "next hop", "password": second,
                "server": server.address.ip().to_string(), "server_port": server.address.port(),
            }],
        }]}));
        let relay = relay.run();
        let spec = Spec {
            method: (*method).to_owned(),
            password: format!("{first}:{second}:{user}"),
        };
        crate_client_reaches(&relay, &spec);
    }
}
