//! What `ssr local` believes of a server: only answers to its own request, sealed now, once.

use crate::common::{
    self, ANSWER, DEADLINE, SILENCE,
    bytes::pattern,
    peers::{Half, Program, Spec, Start},
    probe::{End, watch},
    seal::{Packet, Sealing, now},
    socks::{Association, Target},
};
use serde_json::json;
use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, UdpSocket},
    thread,
};

const METHODS: [&str; 3] = [
    "aes-256-gcm",
    "2022-blake3-aes-256-gcm",
    "2022-blake3-chacha20-poly1305",
];

/// A local half whose server is this test.
struct Scene {
    local: Half,
    sealing: Sealing,
    tcp: TcpListener,
    udp: UdpSocket,
}

impl Scene {
    fn new(method: &str) -> Self {
        eprintln!("{method}");
        let spec = Spec::new(method);
        let (tcp, udp) = (0..100)
            .find_map(|_| {
                let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
                let udp = UdpSocket::bind(tcp.local_addr().unwrap()).ok()?;
                Some((tcp, udp))
            })
            .expect("a port free for TCP and UDP");
        udp.set_read_timeout(Some(ANSWER)).unwrap();
        Self {
            // A spare connection would be taken for the one that asks.
            local: Start::local(Program::Ssr, &spec, tcp.local_addr().unwrap())
                .with(json!({"warm_connections": 0}))
                .run(),
            sealing: Sealing::new(&spec),
            tcp,
            udp,
        }
    }

    /// Connects through the local half, answers its request with what `answer` makes of the salt and the whole
    /// request, and returns what the client gets.
    fn client_gets(&self, answer: impl Fn(&[u8], &[u8]) -> Vec<u8> + Sync) -> (Vec<u8>, End) {
        thread::scope(|scope| {
            scope.spawn(|| {
                let (mut stream, _) = self.tcp.accept().unwrap();
                stream.set_read_timeout(Some(DEADLINE)).unwrap();
                let mut request = vec![0; 4096];
                let len = stream.read(&mut request).unwrap();
                let bytes = answer(&request[..self.sealing.salt_len()], &request[..len]);
                let _gone = stream.write_all(&bytes);
                let _gone = stream.shutdown(std::net::Shutdown::Write);
                let mut rest = Vec::new();
                let _end = stream.read_to_end(&mut rest);
            });
            let mut client = self.local.socks().connect(&Target::name("localhost", 80));
            client.write_all(b"question").unwrap();
            watch(&mut client)
        })
    }

    fn believes_nothing(&self, what: &str, answer: impl Fn(&[u8], &[u8]) -> Vec<u8> + Sync) {
        let (got, end) = self.client_gets(answer);
        assert!(got.is_empty(), "{what}: the client got {} bytes", got.len());
        assert_ne!(end, End::Never, "{what}: the connection stays open");
    }

    /// The client's association and its first packet, as the server sees it.
    fn asked(&self) -> (Association, SocketAddr, u64) {
        let association = self.local.socks().associate();
        let mut buf = [0; 4096];
        let (len, from) = (0..20)
            .find_map(|_| {
                association.send(&target(), b"question");
                self.udp.recv_from(&mut buf).ok()
            })
            .expect("a packet from the local half");
        let session = self.sealing.client_session(&buf[..len]);
        (association, from, session)
    }

    fn answers(&self, to: SocketAddr, packet: &Packet, session: u64, data: &[u8]) -> Vec<u8> {
        let sealed = self.sealing.seal_answer(packet, session, &target(), data);
        self.udp.send_to(&sealed, to).unwrap();
        sealed
    }
}

fn target() -> Target {
    common::process::v4(53).into()
}

/// A server's packet that a client must take.
fn packet(session: u64, id: u64) -> Packet {
    Packet {
        kind: 1,
        ..Packet::new(session, id)
    }
}

#[test]
fn only_a_true_answer_reaches_the_client() {
    for method in METHODS {
        let scene = Scene::new(method);
        let (got, _) =
            scene.client_gets(|salt, _| scene.sealing.seal_response(1, now(), salt, b"answer"));
        assert_eq!(got, b"answer");
        scene.believes_nothing("garbage", |_, _| pattern(1, 300));
        scene.believes_nothing("nothing", |_, _| Vec::new());
        let len = scene
            .sealing
            .seal_response(1, now(), &scene.sealing.fresh_salt(), b"answer")
            .len();
        for at in (0..len).step_by(5) {
            scene.believes_nothing("a damaged answer", |salt, _| {
                let mut answer = scene.sealing.seal_response(1, now(), salt, b"answer");
                answer[at] ^= 1;
                answer
            });
            scene.believes_nothing("a truncated answer", |salt, _| {
                scene.sealing.seal_response(1, now(), salt, b"answer")[..at].to_vec()
            });
        }
    }
}

#[test]
fn an_answer_to_another_request_is_not_believed() {
    for method in &METHODS[1..] {
        let scene = Scene::new(method);
        let other = scene.sealing.fresh_salt();
        scene.believes_nothing("another request's answer", |_, _| {
            scene.sealing.seal_response(1, now(), &other, b"answer")
        });
        scene.believes_nothing("a request header", |salt, _| {
            scene.sealing.seal_response(0, now(), salt, b"answer")
        });
        for skew in [-40, 40] {
            let then = now().checked_add_signed(skew).unwrap();
            scene.believes_nothing("a stale answer", |salt, _| {
                scene.sealing.seal_response(1, then, salt, b"answer")
            });
        }
    }
}

#[test]
fn the_clients_own_request_is_not_an_answer() {
    for method in METHODS {
        let scene = Scene::new(method);
        scene.believes_nothing("the reflected request", |_, request| request.to_vec());
    }
}

#[test]
fn only_true_datagrams_reach_the_client() {
    for method in &METHODS[1..] {
        let scene = Scene::new(method);
        let (association, from, session) = scene.asked();
        while association.receive(SILENCE / 8).is_some() {}
        let mut stale = packet(1, 0);
        stale.timestamp -= 40;
        scene.answers(from, &stale, session, b"stale");
        scene.answers(from, &packet(1, 1), session ^ 1, b"another session's");
        scene.answers(from, &Packet::new(1, 2), session, b"a request");
        for len in 0..100 {
            scene.udp.send_to(&pattern(len as u64, len), from).unwrap();
        }
        let sealed = scene.answers(from, &packet(1, 4), session, b"answer");
        let (source, data) = association.receive(ANSWER).expect("the true answer");
        assert_eq!((source, data.as_slice()), (target(), b"answer".as_slice()));
        scene.udp.send_to(&sealed, from).unwrap();
        let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
        stranger.send_to(&sealed, from).unwrap();
        assert!(
            association.receive(SILENCE).is_none(),
            "a replayed or forged answer came through"
        );
    }
}

#[test]
fn a_server_that_restarts_is_still_heard() {
    for method in &METHODS[1..] {
        let scene = Scene::new(method);
        let (association, from, session) = scene.asked();
        for server_session in [1, 2] {
            for id in [0, 1, 2] {
                scene.answers(from, &packet(server_session, id), session, b"here");
                assert!(
                    association.receive(ANSWER).is_some(),
                    "server session {server_session}, packet {id}"
                );
            }
        }
        scene.answers(from, &packet(1, 3), session, b"late, from the old one");
        assert!(
            association.receive(ANSWER).is_some(),
            "the old session's last packets"
        );
        scene.answers(from, &packet(1, 3), session, b"late, from the old one");
        assert!(
            association.receive(SILENCE).is_none(),
            "a replay of the old session"
        );
    }
}

#[test]
fn garbage_from_the_servers_address_does_not_break_the_association() {
    for method in &METHODS[1..] {
        let scene = Scene::new(method);
        let (association, from, session) = scene.asked();
        scene.udp.send_to(&pattern(1, 1000), from).unwrap();
        association.send(&target(), b"again");
        let mut buf = [0; 4096];
        let (len, again) = scene.udp.recv_from(&mut buf).expect("the next packet");
        assert_eq!(again, from, "the client's socket was replaced");
        assert_eq!(
            scene.sealing.client_session(&buf[..len]),
            session,
            "the session was replaced"
        );
        scene.answers(from, &packet(9, 0), session, b"fine");
        assert_eq!(association.receive(ANSWER).expect("an answer").1, b"fine");
    }
}
