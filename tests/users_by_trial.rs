//! Users of one port under the methods of 2017, whose requests do not say whose they are.

use std::{
    io::{ErrorKind, Read, Write},
    net::{TcpStream, UdpSocket},
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use shadowsocks::{
    ProxyClientStream, ProxySocket, ServerConfig,
    config::ServerType,
    context::Context,
    relay::{socks5::Address, udprelay::options::UdpSocketControlData},
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::common::{
    ANSWER, DEADLINE, METHODS_2017, SILENCE,
    admin::Api,
    bytes::pattern,
    eventually,
    peers::{
        Half,
        Program::{self, Libev, Rust, Ssr},
        Spec, Start,
    },
    process::v4,
    seal::Sealing,
    targets::TcpTarget,
    udp::UdpTarget,
};

const METHOD: &str = "chacha20-ietf-poly1305";
/// More users than are tried at once.
const USERS: usize = 20;

fn name(number: usize) -> String {
    format!("user{number}")
}

fn password(number: usize) -> String {
    format!("correct horse, number {number}")
}

/// A server with many users, and what its operator calls.
struct Scene {
    method: String,
    server: Half,
    api: Api,
}

impl Scene {
    fn new(method: &str, keys: Value) -> Self {
        let users: Vec<_> = (0..USERS)
            .map(|number| json!({"name": name(number), "password": password(number)}))
            .collect();
        let (api, admin) = Api::new();
        let server = Start::server(Ssr, &Spec::new(method))
            .with(admin)
            .with(json!({"password": null, "users": users}))
            .with(keys)
            .run();
        let method = method.to_owned();
        Self {
            method,
            server,
            api,
        }
    }

    fn spec(&self, password: &str) -> Spec {
        Spec {
            method: self.method.clone(),
            password: password.to_owned(),
        }
    }

    fn local_of(&self, program: Program, password: &str) -> Half {
        Start::local(program, &self.spec(password), self.server.address).run()
    }

    fn local(&self, number: usize) -> Half {
        self.local_of(Ssr, &password(number))
    }

    fn sealing(&self, number: usize) -> Sealing {
        Sealing::new(&self.spec(&password(number)))
    }

    fn user(&self, name: &str) -> Value {
        let users = self.api.json("/api/v1/users");
        let mut users = users.as_array().unwrap().iter();
        let user = users.find(|user| user["name"] == name);
        user.cloned().unwrap_or_default()
    }

    /// Payload bytes of a user, both ways together.
    fn moved(&self, number: usize) -> u64 {
        let user = self.user(&name(number));
        user["bytes_up"].as_u64().unwrap() + user["bytes_down"].as_u64().unwrap()
    }

    fn dial(&self) -> TcpStream {
        let stream = TcpStream::connect(self.server.address).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream
    }
}

/// Whether a request gets an answer.
fn works(local: &Half, echo: &TcpTarget) -> bool {
    let mut stream = local.socks().connect(&echo.v4());
    let _gone = stream.write_all(b"hello");
    stream.read_exact(&mut [0; 5]).is_ok()
}

fn echoes(local: &Half, echo: &TcpTarget, datagrams: &UdpTarget, bytes: usize) {
    let mut stream = local.socks().connect(&echo.v4());
    stream.write_all(&pattern(1, bytes)).unwrap();
    let mut back = vec![0; bytes];
    stream.read_exact(&mut back).unwrap();
    assert!(back == pattern(1, bytes));
    let association = local.socks().associate();
    let (_, back) = association.exchange(&datagrams.target(), &pattern(2, bytes / 10));
    assert!(back == pattern(2, bytes / 10));
}

#[test]
fn users_of_every_older_method_are_told_apart_by_streams_and_datagrams() {
    let (echo, datagrams) = (TcpTarget::echo(), UdpTarget::echo());
    for method in METHODS_2017.into_iter().chain(["aes-192-gcm"]) {
        let scene = Scene::new(method, json!({}));
        for (number, bytes) in [(3, 1000), (USERS - 1, 3000), (3, 2000)] {
            let before = scene.moved(number);
            let local = scene.local(number);
            echoes(&local, &echo, &datagrams, bytes);
            let all = 2 * (bytes + bytes / 10) as u64;
            eventually("all of it is counted for this user", || {
                scene.moved(number) == before + all
            });
        }
        let others = (0..USERS).filter(|number| ![3, USERS - 1].contains(number));
        assert_eq!(others.map(|number| scene.moved(number)).sum::<u64>(), 0);
    }
}

#[test]
fn clients_of_another_implementation_are_users() {
    let scene = Scene::new(METHOD, json!({}));
    let (echo, datagrams) = (TcpTarget::echo(), UdpTarget::echo());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        for number in [0, 12, 0] {
            let kind = METHOD.parse().unwrap();
            let at = scene.server.address;
            let config = ServerConfig::new(at, password(number), kind).unwrap();
            let context = Context::new_shared(ServerType::Local);
            let target = Address::SocketAddress(v4(echo.port()));
            let stream = ProxyClientStream::connect(context.clone(), &config, target);
            let mut stream = stream.await.unwrap();
            stream.write_all(&pattern(3, 8000)).await.unwrap();
            let mut back = vec![0; 8000];
            let read = tokio::time::timeout(DEADLINE, stream.read_exact(&mut back));
            read.await.unwrap().unwrap();
            assert!(back == pattern(3, 8000));
            let socket = ProxySocket::connect(context, &config).await.unwrap();
            let control = UdpSocketControlData::default();
            let target = Address::SocketAddress(datagrams.address());
            let sent = socket.send_with_ctrl(&target, &control, b"a datagram");
            sent.await.unwrap();
            let mut back = vec![0; 2000];
            let read = tokio::time::timeout(ANSWER, socket.recv(&mut back));
            let (length, ..) = read.await.unwrap().unwrap();
            assert_eq!(&back[..length], b"a datagram");
        }
    });
    eventually("they are counted", || {
        scene.moved(0) == 2 * scene.moved(12) && scene.moved(12) == 16_020
    });
}

#[test]
fn datagrams_of_two_users_from_one_address_are_two_associations() {
    let scene = Scene::new(METHOD, json!({}));
    let datagrams = UdpTarget::echo();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(ANSWER)).unwrap();
    socket.connect(scene.server.address).unwrap();
    for number in [5, 6, 5, 6, 6, 5] {
        let sealing = scene.sealing(number);
        let text = format!("of {number}");
        let sent = sealing.seal_packet_2017(&datagrams.target(), text.as_bytes());
        socket.send(&sent).unwrap();
        let mut back = [0; 2000];
        let length = socket.recv(&mut back).unwrap();
        // It opens with this user's password only.
        let (_, data) = sealing.open_packet_2017(&back[..length]);
        assert_eq!(data, text.as_bytes());
        // A datagram that comes again is dropped.
        socket.send(&sent).unwrap();
    }
    for number in [5, 6] {
        let user = scene.user(&name(number));
        assert_eq!(user["udp_sessions"], 1, "{user}");
        assert_eq!(user["bytes_up"], 12, "{user}");
    }
    let sources: std::collections::HashSet<_> =
        datagrams.seen().into_iter().map(|(from, _)| from).collect();
    assert_eq!(sources.len(), 2, "each has a socket of its own");
}

#[test]
fn users_come_and_go_while_others_go_on() {
    let scene = Scene::new(METHOD, json!({}));
    let (echo, datagrams) = (TcpTarget::echo(), UdpTarget::echo());
    let other = scene.local(7);
    let mut kept = other.socks().connect(&echo.v4());
    kept.write_all(b"hello").unwrap();
    kept.read_exact(&mut [0; 5]).unwrap();
    let new = json!({"password": "any text: at all?"});
    let made = scene.api.put("/api/v1/users/carl?host=vpn.example", &new);
    assert_eq!(made.status, 200, "{made:?}");
    // chacha20-ietf-poly1305:any text: at all?
    let link = "ss://Y2hhY2hhMjAtaWV0Zi1wb2x5MTMwNTphbnkgdGV4dDogYXQgYWxsPw@vpn.example";
    let port = scene.server.address.port();
    assert_eq!(made.json()["link"], format!("{link}:{port}#carl"));
    let carl = scene.local_of(Ssr, "any text: at all?");
    echoes(&carl, &echo, &datagrams, 1000);
    let taken = json!({"password": password(4)});
    assert_eq!(scene.api.put("/api/v1/users/dora", &taken).status, 409);
    let empty = json!({"password": ""});
    assert_eq!(scene.api.put("/api/v1/users/dora", &empty).status, 400);
    // One without a password gets one.
    let made = scene.api.put("/api/v1/users/emil", &json!({})).json();
    let emil = scene.local_of(Ssr, made["password"].as_str().unwrap());
    assert!(works(&emil, &echo));
    let change = json!({"password": "another"});
    let mut open = carl.socks().connect(&echo.v4());
    open.write_all(b"hello").unwrap();
    open.read_exact(&mut [0; 5]).unwrap();
    assert_eq!(scene.api.put("/api/v1/users/carl", &change).status, 200);
    open.set_read_timeout(Some(DEADLINE)).unwrap();
    assert!(
        !matches!(open.read(&mut [0]), Ok(1..)),
        "the flow has ended"
    );
    assert!(!works(&carl, &echo));
    let carl = scene.local_of(Ssr, "another");
    echoes(&carl, &echo, &datagrams, 1000);
    assert_eq!(scene.api.delete("/api/v1/users/carl").status, 204);
    assert!(!works(&carl, &echo));
    let association = carl.socks().associate();
    association.send(&datagrams.target(), b"?");
    assert!(association.receive(SILENCE).is_none());
    kept.write_all(b"hello").unwrap();
    kept.read_exact(&mut [0; 5]).unwrap();
}

#[test]
fn limits_hold_for_each_user_by_itself() {
    let users = json!([
        {"name": "ann", "password": "anns", "quota_bytes": 1_000_000, "quota_period": "once"},
        {"name": "bob", "password": "bobs", "max_connections": 1},
    ]);
    let scene = Scene::new(METHOD, json!({"users": users}));
    let echo = TcpTarget::echo();
    let (ann, bob) = (scene.local_of(Ssr, "anns"), scene.local_of(Ssr, "bobs"));
    let mut held = bob.socks().connect(&echo.v4());
    held.write_all(b"hello").unwrap();
    held.read_exact(&mut [0; 5]).unwrap();
    assert!(!works(&bob, &echo), "it has one connection already");
    assert!(works(&ann, &echo));
    let mut stream = ann.socks().connect(&echo.v4());
    let _cut = stream.write_all(&pattern(1, 4_000_000));
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut room = vec![0; 64 << 10];
    while matches!(stream.read(&mut room), Ok(1..)) {}
    assert!(!works(&ann, &echo));
    assert_eq!(scene.user("ann")["refused"], "quota");
    held.write_all(b"hello").unwrap();
    held.read_exact(&mut [0; 5]).unwrap();
}

#[test]
fn strangers_get_what_a_server_with_one_key_gives_them() {
    let keys = json!({"timeouts": {"handshake": 1}});
    let scene = Scene::new(METHOD, keys.clone());
    let one_key = Start::server(Ssr, &Spec::new(METHOD)).with(keys).run();
    let (echo, datagrams) = (TcpTarget::echo(), UdpTarget::echo());
    let local = scene.local(2);
    assert!(works(&local, &echo));
    let known = scene.sealing(2);
    let wrong = Sealing::new(&scene.spec("none of the passwords"));
    let sealed = |sealing: &Sealing| sealing.seal(&sealing.request(&echo.v4(), b"hello"));
    // A recording of a user's request, which was served once.
    let recorded = sealed(&known);
    let mut first = scene.dial();
    first.write_all(&recorded).unwrap();
    assert!(first.read(&mut [0; 100]).unwrap() > 0);
    for sent in [
        Vec::new(),
        pattern(9, 20),
        pattern(9, 32 + 18),
        pattern(9, 5000),
        sealed(&wrong),
        recorded,
    ] {
        let times = [scene.server.address, one_key.address].map(|address| {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.set_read_timeout(Some(DEADLINE)).unwrap();
            let begun = Instant::now();
            stream.write_all(&sent).unwrap();
            let read = stream.read(&mut [0; 100]);
            assert!(matches!(read, Ok(0)), "{} bytes: {read:?}", sent.len());
            begun.elapsed()
        });
        let [several, one] = times;
        assert!(several > Duration::from_millis(700), "{several:?}");
        assert!(several.abs_diff(one) < Duration::from_secs(1), "{times:?}");
    }
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(SILENCE)).unwrap();
    socket.connect(scene.server.address).unwrap();
    for sent in [
        wrong.seal_packet_2017(&datagrams.target(), b"hello"),
        pattern(9, 1400),
        pattern(9, 40),
    ] {
        socket.send(&sent).unwrap();
        let error = socket.recv(&mut [0; 2000]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
    }
    assert!(datagrams.seen().is_empty());
    assert!(works(&local, &echo));
}

/// A client of another program for each of some users, on one port.
fn clients(program: Program, methods: &[&str]) {
    let (echo, datagrams) = (TcpTarget::echo(), UdpTarget::echo());
    for method in methods {
        let scene = Scene::new(method, json!({}));
        for number in [1, USERS - 2] {
            let local = scene.local_of(program, &password(number));
            echoes(&local, &echo, &datagrams, 5000);
            eventually("it is counted", || scene.moved(number) == 11_000);
        }
    }
}

#[test]
#[ignore = "needs peers: scripts/test"]
fn clients_of_shadowsocks_rust_are_users() {
    clients(Rust, &["aes-256-gcm", METHOD]);
}

#[test]
#[ignore = "needs peers: scripts/test"]
fn clients_of_shadowsocks_libev_are_users() {
    clients(Libev, &["aes-128-gcm", METHOD]);
}

#[test]
fn one_file_serves_both_sides_and_says_who_the_client_is() {
    let scene = Scene::new(METHOD, json!({}));
    let echo = TcpTarget::echo();
    let users = json!([{"name": name(0), "password": password(0)}, {"name": name(1), "password": password(1)}]);
    for (chosen, number) in [(Value::Null, 0), (json!(password(1)), 1)] {
        let local = Start::local(Ssr, &scene.spec(""), scene.server.address)
            .with(json!({"password": chosen, "users": users}))
            .run();
        assert!(works(&local, &echo));
        eventually("it is counted", || scene.moved(number) == 10);
        let said = local.process.log();
        assert_eq!(said.contains("connects as `user0`"), number == 0, "{said}");
    }
}
