//! What a stranger, a recorder and an impostor get from a running `ssr server` over UDP.

use crate::common::{
    ANSWER, SILENCE,
    bytes::pattern,
    eventually,
    peers::{Half, Program, Spec, Start},
    seal::{Answer, Packet, Sealing, now},
    socks::Target,
    udp::UdpTarget,
};
use std::{
    collections::HashSet,
    net::{SocketAddr, UdpSocket},
    time::Duration,
};

const METHODS: [&str; 3] = [
    "2022-blake3-aes-128-gcm",
    "2022-blake3-aes-256-gcm",
    "2022-blake3-chacha20-poly1305",
];

/// A server, the key to it, a client socket and a target.
struct Scene {
    server: Half,
    sealing: Sealing,
    client: UdpSocket,
    echo: UdpTarget,
}

impl Scene {
    fn new(method: &str) -> Self {
        eprintln!("{method}");
        let spec = Spec::new(method);
        let scene = Self {
            server: Start::server(Program::Ssr, &spec).run(),
            sealing: Sealing::new(&spec),
            client: client(),
            echo: UdpTarget::echo(),
        };
        // From a socket of its own: answers may come late.
        let first = client();
        eventually("the server answers datagrams", || {
            let packet = if scene.sealing.is_2022() {
                scene.sealing.seal_packet(
                    &Packet::new(u64::MAX, next_id()),
                    &scene.echo.target(),
                    b"warm-up",
                )
            } else {
                scene
                    .sealing
                    .seal_packet_2017(&scene.echo.target(), b"warm-up")
            };
            first.send_to(&packet, scene.server.address).unwrap();
            receive(&first, SILENCE).is_some()
        });
        scene
    }

    fn send(&self, packet: &[u8]) {
        self.client.send_to(packet, self.server.address).unwrap();
    }

    fn seal(&self, packet: &Packet, data: &[u8]) -> Vec<u8> {
        self.sealing.seal_packet(packet, &self.echo.target(), data)
    }

    fn answer(&self, on: &UdpSocket) -> Answer {
        self.sealing
            .open_packet(&receive(on, ANSWER).expect("an answer"))
    }

    /// Sends a packet that must be served.
    fn exchange(&self, packet: &Packet, data: &[u8]) -> Answer {
        self.send(&self.seal(packet, data));
        let answer = self.answer(&self.client);
        assert_eq!(
            (answer.data.as_slice(), answer.client_session),
            (data, packet.session)
        );
        assert_eq!(answer.target, self.echo.target());
        answer
    }

    /// Asserts that `packet` reaches nobody: a later, valid packet is answered first and alone.
    fn refuses(&self, what: &str, packet: &[u8], data: &[u8]) {
        let before = self.echo.count(data);
        self.send(packet);
        self.exchange(&Packet::new(0xbeef, next_id()), b"the next one");
        assert!(
            receive(&self.client, SILENCE / 8).is_none(),
            "{what} was answered"
        );
        assert_eq!(self.echo.count(data), before, "{what} reached the target");
    }
}

fn client() -> UdpSocket {
    UdpSocket::bind("127.0.0.1:0").unwrap()
}

/// Packet ids of a session that lasts the whole test.
fn next_id() -> u64 {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

fn receive(socket: &UdpSocket, wait: Duration) -> Option<Vec<u8>> {
    socket.set_read_timeout(Some(wait)).unwrap();
    let mut buf = vec![0; 65536];
    let (len, _) = socket.recv_from(&mut buf).ok()?;
    buf.truncate(len);
    Some(buf)
}

#[test]
fn garbage_is_not_answered_and_does_no_harm() {
    for method in METHODS
        .iter()
        .chain(&["aes-256-gcm", "chacha20-ietf-poly1305"])
    {
        let scene = Scene::new(method);
        for len in 0..300 {
            scene.send(&pattern(len as u64, len));
        }
        assert!(
            receive(&scene.client, SILENCE).is_none(),
            "garbage was answered"
        );
        if scene.sealing.is_2022() {
            scene.exchange(&Packet::new(1, 0), b"served");
        } else {
            scene.send(
                &scene
                    .sealing
                    .seal_packet_2017(&scene.echo.target(), b"served"),
            );
            let answer = receive(&scene.client, ANSWER).expect("an answer");
            assert_eq!(
                scene.sealing.open_packet_2017(&answer),
                (scene.echo.target(), b"served".to_vec())
            );
        }
    }
}

#[test]
fn every_truncated_or_damaged_packet_is_dropped() {
    for method in METHODS {
        let scene = Scene::new(method);
        let valid = |id| scene.seal(&Packet::new(7, id), b"damaged");
        let len = valid(0).len();
        for at in 0..len {
            scene.send(&valid(at as u64)[..at]);
            let mut flipped = valid(1000 + at as u64);
            flipped[at] ^= 1 << (at % 8);
            scene.send(&flipped);
        }
        scene.refuses("a damaged packet", &pattern(1, 10), b"damaged");
        assert_eq!(scene.echo.count(b"damaged"), 0);
        // None of them has moved the window: the ids they carried are still good.
        scene.exchange(&Packet::new(7, 0), b"the first of its session");
    }
}

#[test]
fn a_replayed_packet_is_dropped() {
    for method in METHODS {
        let scene = Scene::new(method);
        let packet = scene.seal(&Packet::new(5, 0), b"once");
        scene.send(&packet);
        assert_eq!(scene.answer(&scene.client).data, b"once");
        scene.refuses("a replay", &packet, b"once");
        scene.exchange(&Packet::new(5, 1), b"twice");
        scene.refuses("a replay of an older packet", &packet, b"once");
    }
}

#[test]
fn packets_out_of_order_pass_once_each_and_ancient_ones_not_at_all() {
    for method in METHODS {
        let scene = Scene::new(method);
        for id in [10, 12, 11, 3, 200, 150] {
            scene.exchange(&Packet::new(6, id), format!("packet {id}").as_bytes());
        }
        for id in [11, 150] {
            scene.refuses(
                "an id used before",
                &scene.seal(&Packet::new(6, id), b"again"),
                b"again",
            );
        }
        scene.exchange(&Packet::new(6, 1_000_000), b"far ahead");
        scene.refuses(
            "an id far behind",
            &scene.seal(&Packet::new(6, 201), b"ancient"),
            b"ancient",
        );
    }
}

#[test]
fn a_stale_or_foreign_packet_is_dropped() {
    for method in METHODS {
        let scene = Scene::new(method);
        for (i, by) in [-3600, -31, 32, 3600].into_iter().enumerate() {
            let mut packet = Packet::new(8, i as u64);
            packet.timestamp = now().checked_add_signed(by).unwrap();
            scene.refuses("a wrong clock", &scene.seal(&packet, b"stale"), b"stale");
        }
        for (i, by) in [-4, 25].into_iter().enumerate() {
            let mut packet = Packet::new(8, 10 + i as u64);
            packet.timestamp = now().checked_add_signed(by).unwrap();
            scene.exchange(&packet, b"a little off");
        }
        let mut packet = Packet::new(8, 20);
        packet.kind = 1;
        scene.refuses(
            "a server's packet",
            &scene.seal(&packet, b"type 1"),
            b"type 1",
        );
    }
}

#[test]
fn an_answer_sent_back_as_a_request_is_dropped() {
    for method in METHODS {
        let scene = Scene::new(method);
        scene.send(&scene.seal(&Packet::new(9, 0), b"reflect me"));
        let raw = receive(&scene.client, ANSWER).expect("an answer");
        scene.refuses("a reflected answer", &raw, b"reflect me");
    }
}

#[test]
fn a_packet_with_a_bad_address_is_dropped() {
    for method in METHODS {
        let scene = Scene::new(method);
        for (id, address) in [
            vec![9, 1, 2],
            vec![1, 127],
            vec![3, 0, 0, 53],
            vec![3, 200, b'a'],
            vec![],
        ]
        .into_iter()
        .enumerate()
        {
            let packet =
                scene
                    .sealing
                    .seal_packet(&Packet::new(10, id as u64), &Target(address), b"");
            scene.refuses("a bad address", &packet, b"");
        }
    }
}

/// Where the server's answers go, seen from a target that speaks when it likes.
struct LateTarget {
    socket: UdpSocket,
    server: SocketAddr,
}

impl LateTarget {
    /// A target that `packet` has reached.
    fn reached(scene: &Scene, packet: &Packet) -> (Self, Vec<u8>) {
        let socket = client();
        let target = socket.local_addr().unwrap().into();
        let sealed = scene.sealing.seal_packet(packet, &target, b"hello target");
        scene.send(&sealed);
        socket.set_read_timeout(Some(ANSWER)).unwrap();
        let mut buf = [0; 100];
        let (len, server) = socket.recv_from(&mut buf).expect("the target is reached");
        assert_eq!(&buf[..len], b"hello target");
        (Self { socket, server }, sealed)
    }

    fn says(&self, data: &[u8]) {
        self.socket.send_to(data, self.server).unwrap();
    }

    fn target(&self) -> Target {
        self.socket.local_addr().unwrap().into()
    }
}

#[test]
fn a_replay_from_elsewhere_does_not_redirect_the_answers() {
    for method in METHODS {
        let scene = Scene::new(method);
        let (target, recorded) = LateTarget::reached(&scene, &Packet::new(11, 0));
        let thief = client();
        for _ in 0..3 {
            thief.send_to(&recorded, scene.server.address).unwrap();
        }
        let mut stale = Packet::new(11, 5);
        stale.timestamp -= 60;
        thief
            .send_to(
                &scene.sealing.seal_packet(&stale, &target.target(), b""),
                scene.server.address,
            )
            .unwrap();
        scene.refuses("garbage", &pattern(2, 60), b"never");
        target.says(b"late answer");
        assert_eq!(scene.answer(&scene.client).data, b"late answer");
        assert!(
            receive(&thief, SILENCE / 4).is_none(),
            "the thief got an answer"
        );
    }
}

#[test]
fn a_client_that_moves_is_answered_at_its_new_address() {
    for method in METHODS {
        let scene = Scene::new(method);
        let (target, _) = LateTarget::reached(&scene, &Packet::new(12, 0));
        let moved = client();
        let packet =
            scene
                .sealing
                .seal_packet(&Packet::new(12, 1), &target.target(), b"I have moved");
        moved.send_to(&packet, scene.server.address).unwrap();
        let mut buf = [0; 100];
        let (len, from) = target
            .socket
            .recv_from(&mut buf)
            .expect("the target is reached");
        assert_eq!(
            (&buf[..len], from),
            (b"I have moved".as_slice(), target.server),
            "one session, one NAT binding"
        );
        target.says(b"found you");
        assert_eq!(scene.answer(&moved).data, b"found you");
        assert!(
            receive(&scene.client, SILENCE / 4).is_none(),
            "the old address is still answered"
        );
    }
}

#[test]
fn a_client_that_moves_back_and_forth_keeps_its_session() {
    // With a socket for every worker the kernel spreads these over all of them.
    let scene = Scene::new("2022-blake3-aes-256-gcm");
    let (target, _) = LateTarget::reached(&scene, &Packet::new(13, 0));
    for id in 1..=32 {
        let place = client();
        let packet = scene
            .sealing
            .seal_packet(&Packet::new(13, id), &target.target(), b"here");
        place.send_to(&packet, scene.server.address).unwrap();
        let mut buf = [0; 100];
        let (_, from) = target
            .socket
            .recv_from(&mut buf)
            .expect("the target is reached");
        assert_eq!(
            from, target.server,
            "the session has another binding from place {id}"
        );
        target.says(b"got it");
        assert_eq!(scene.answer(&place).data, b"got it");
    }
}

#[test]
fn sessions_are_told_apart_by_id_and_not_by_address() {
    for method in METHODS {
        let scene = Scene::new(method);
        let mut servers = HashSet::new();
        for session in 20..24 {
            let answers: Vec<_> = (0..4)
                .map(|id| {
                    scene.exchange(
                        &Packet::new(session, id),
                        format!("{session} {id}").as_bytes(),
                    )
                })
                .collect();
            let first = &answers[0];
            assert!(
                answers
                    .iter()
                    .all(|answer| answer.server_session == first.server_session),
                "one server session"
            );
            let ids: Vec<_> = answers.iter().map(|answer| answer.id).collect();
            assert!(
                ids.is_sorted_by(|a, b| a < b),
                "packet ids of answers rise: {ids:?}"
            );
            assert!(
                servers.insert(first.server_session),
                "another session, another server session id"
            );
        }
        let seen = scene.echo.seen();
        let sources: HashSet<_> = seen
            .iter()
            .filter(|(_, data)| data.starts_with(b"2"))
            .map(|(from, _)| *from)
            .collect();
        assert_eq!(sources.len(), 4, "a NAT binding for each session");
    }
}

#[test]
fn a_flood_of_sessions_is_bounded_and_the_newest_are_served() {
    let spec = Spec::new("2022-blake3-aes-256-gcm");
    let limit = serde_json::json!({"limits": {"udp_associations": 64}});
    let server = Start::server(Program::Ssr, &spec).with(limit).run();
    let scene = Scene {
        server,
        sealing: Sealing::new(&spec),
        client: client(),
        echo: UdpTarget::echo(),
    };
    scene.exchange(&Packet::new(1, 0), b"ready");
    let idle = scene.server.process.open_files();
    for session in 1000..1500 {
        scene.exchange(
            &Packet::new(session, 0),
            format!("session {session}").as_bytes(),
        );
    }
    let open = scene.server.process.open_files();
    assert!(
        open <= idle + 64 + 8,
        "{open} files open, {idle} at the start"
    );
}
