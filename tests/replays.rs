//! What somebody gets who records traffic and sends it again: to a server that has restarted, to one that has ended the
//! session, to one whose clock is set back, and to `ssr local`.

use crate::common::{
    ANSWER, DEADLINE, SILENCE, eventually,
    impostor::{Impostor, udp_target},
    peers::{Half, Program, Spec, Start},
    probe::{Cut, End, Then, probe},
    seal::{Packet, Sealing, now},
    targets::TcpTarget,
    udp::UdpTarget,
};
use serde_json::{Value, json};
use std::{
    fs,
    net::UdpSocket,
    thread,
    time::{Duration, Instant},
};
use tempfile::TempDir;

const NEW_METHODS: [&str; 2] = ["2022-blake3-aes-128-gcm", "2022-blake3-chacha20-poly1305"];
const OLD: &str = "aes-256-gcm";
/// What may have been on its way while a server started, in seconds: `IN_FLIGHT` of `src/limits.rs`.
const IN_FLIGHT: u64 = 5;
/// How long a salt is remembered at least: the same there, and a second more.
const SALT_LIFETIME: Duration = Duration::from_secs(62);

/// What is behind a server, and the key to it.
struct Behind {
    spec: Spec,
    sealing: Sealing,
    echo: TcpTarget,
    udp: UdpTarget,
}

impl Behind {
    fn new(method: &str) -> Self {
        eprintln!("{method}");
        let spec = Spec::new(method);
        Self {
            sealing: Sealing::new(&spec),
            spec,
            echo: TcpTarget::echo(),
            udp: UdpTarget::echo(),
        }
    }

    fn server(&self, keys: Value) -> Half {
        Start::server(Program::Ssr, &self.spec)
            .with(json!({"timeouts": {"handshake": 2}}))
            .with(keys)
            .run()
    }

    /// A request that was sealed so many seconds from now.
    fn request(&self, by: i64) -> Vec<u8> {
        let mut request = self.sealing.request(&self.echo.v4(), b"once");
        request.timestamp = now().checked_add_signed(by).unwrap();
        self.sealing.seal(&request)
    }

    fn packet(&self, session: u64, id: u64, data: &[u8]) -> Vec<u8> {
        self.packet_at(0, session, id, data)
    }

    /// A packet that was sealed so many seconds from now.
    fn packet_at(&self, by: i64, session: u64, id: u64, data: &[u8]) -> Vec<u8> {
        let mut packet = Packet::new(session, id);
        packet.timestamp = now().checked_add_signed(by).unwrap();
        self.sealing.seal_packet(&packet, &self.udp.target(), data)
    }

    /// Whether `request` is answered.
    fn is_served(server: &Half, request: &[u8]) -> bool {
        let outcome = probe(server.address, request, Cut::Whole, Then::Finish);
        assert_eq!(outcome.end, End::Closed);
        outcome.answered > 0
    }

    /// Whether `packet`, which carries `data`, reaches the target before the next packet, of a session `other`, does.
    fn reaches(&self, server: &Half, packet: &[u8], data: &[u8], other: u64) -> bool {
        self.reaches_at(0, server, packet, data, other)
    }

    /// The same, where the server's clock is set so many seconds from now.
    fn reaches_at(&self, by: i64, server: &Half, packet: &[u8], data: &[u8], other: u64) -> bool {
        let before = self.udp.count(data);
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.send_to(packet, server.address).unwrap();
        let next = format!("after {other}");
        let following = self.packet_at(by, other, 0, next.as_bytes());
        socket.send_to(&following, server.address).unwrap();
        eventually("the next packet reaches the target", || {
            self.udp.count(next.as_bytes()) > 0
        });
        self.udp.count(data) > before
    }
}

/// Waits until what was sealed at `timestamp` is no longer in flight.
fn no_longer_in_flight(timestamp: u64) {
    eventually("what was in flight is not any more", || {
        now() > timestamp + IN_FLIGHT
    });
}

#[test]
fn a_request_and_a_packet_from_before_a_restart_are_refused() {
    let scenes = NEW_METHODS.map(Behind::new);
    let recorded = scenes.each_ref().map(|scene| {
        let first = scene.server(json!({}));
        let (request, packet) = (scene.request(0), scene.packet(1, 0, b"recorded"));
        assert!(Behind::is_served(&first, &request));
        assert!(scene.reaches(&first, &packet, b"recorded", 2));
        (request, packet)
    });
    no_longer_in_flight(now());
    for (scene, (request, packet)) in scenes.iter().zip(recorded) {
        let second = scene.server(json!({}));
        assert!(
            !Behind::is_served(&second, &request),
            "a replay after a restart was served"
        );
        assert!(
            !scene.reaches(&second, &packet, b"recorded", 77),
            "a replay after a restart reached the target"
        );
        assert_eq!(scene.echo.accepted(), 1);
        assert!(
            Behind::is_served(&second, &scene.request(0)),
            "a new request"
        );
        assert!(
            Behind::is_served(&second, &scene.request(-2)),
            "what was in flight"
        );
    }
}

#[test]
fn a_clock_that_is_behind_is_refused_until_the_server_is_as_old() {
    let scene = Behind::new(NEW_METHODS[0]);
    let start = Instant::now();
    let server = scene.server(json!({}));
    assert!(!Behind::is_served(&server, &scene.request(-15)));
    while !Behind::is_served(&server, &scene.request(-15)) {
        assert!(start.elapsed() < DEADLINE, "still refused");
        thread::sleep(Duration::from_millis(100));
    }
    assert!(start.elapsed() > Duration::from_secs(15 - IN_FLIGHT - 1));
}

#[test]
fn a_request_is_remembered_behind_many_others() {
    let scene = Behind::new(NEW_METHODS[0]);
    let server = scene.server(json!({}));
    let recorded = scene.request(0);
    assert!(Behind::is_served(&server, &recorded));
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..100 {
                    assert!(Behind::is_served(&server, &scene.request(0)));
                }
            });
        }
    });
    assert!(!Behind::is_served(&server, &recorded));
}

#[test]
fn a_packet_of_a_session_that_made_room_is_refused_and_the_session_goes_on() {
    for method in NEW_METHODS {
        let scene = Behind::new(method);
        let server = scene.server(json!({"limits": {"udp_associations": 4}}));
        let recorded = [0, 7].map(|id| scene.packet(1, id, b"recorded"));
        for (packet, other) in recorded.iter().zip(100..) {
            assert!(scene.reaches(&server, packet, b"recorded", other));
        }
        for other in 200..210 {
            scene.reaches(&server, &[], b"", other);
        }
        for (packet, other) in recorded.iter().zip(300..) {
            assert!(
                !scene.reaches(&server, packet, b"recorded", other),
                "a replay began the session anew"
            );
        }
        let late = scene.packet(1, 5, b"late");
        assert!(!scene.reaches(&server, &late, b"late", 400));
        let next = scene.packet(1, 8, b"goes on");
        assert!(scene.reaches(&server, &next, b"goes on", 401));
        assert!(!scene.reaches(&server, &next, b"goes on", 402));
    }
}

/// A server whose clock the test sets.
fn with_clock(scene: &Behind, file: &std::path::Path) -> Half {
    let file = format!("FAKETIME_TIMESTAMP_FILE={}", file.display());
    let wrapper = [
        "faketime",
        "-f",
        "+0",
        "env",
        "-u",
        "FAKETIME",
        "FAKETIME_NO_CACHE=1",
        "FAKETIME_DONT_FAKE_MONOTONIC=1",
        &file,
    ];
    Start::server(Program::Ssr, &scene.spec)
        // faketime reads its file within the process.
        .with(json!({"limits": {"udp_associations": 4}, "sandbox": false}))
        .wrapped(&wrapper)
        .run()
}

#[test]
#[ignore = "needs faketime, and two minutes until salts are forgotten"]
fn a_clock_that_is_set_back_makes_no_replay_fresh() {
    let scene = Behind::new(NEW_METHODS[0]);
    let directory = TempDir::new().unwrap();
    let clock = directory.path().join("clock");
    let set = |seconds: i64| fs::write(&clock, format!("{seconds:+}")).unwrap();
    set(0);
    let server = with_clock(&scene, &clock);
    let recorded = scene.request(0);
    let packet = scene.packet(1, 0, b"recorded");
    assert!(Behind::is_served(&server, &recorded));
    assert!(scene.reaches(&server, &packet, b"recorded", 2));
    let ends = |first| {
        for other in first..first + 8 {
            scene.reaches(&server, &[], b"", other);
        }
    };
    ends(100);
    thread::sleep(2 * SALT_LIFETIME);
    assert!(Behind::is_served(&server, &scene.request(0)));
    ends(200);
    set(-(2 * SALT_LIFETIME.as_secs().cast_signed()));
    assert!(
        !Behind::is_served(&server, &recorded),
        "a replay was served when its time came again"
    );
    let by = 2 - 2 * SALT_LIFETIME.as_secs().cast_signed();
    assert!(!scene.reaches_at(by, &server, &packet, b"recorded", 3));
    eventually(
        "what is later than all that was forgotten is served",
        || Behind::is_served(&server, &scene.request(by)),
    );
}

/// Answers a request of the local half. Returns the request, and what the client gets.
fn asked(scene: &Impostor, answer: &[u8]) -> (Vec<u8>, Vec<u8>) {
    // The client's connection may end before it has sent its data.
    let exchange = scene.exchange(|_| answer.to_vec());
    assert_ne!(exchange.end, End::Never);
    (exchange.request, exchange.got)
}

fn answer(scene: &Impostor, data: &[u8]) -> Vec<u8> {
    scene.sealing.seal_response(1, now(), &[], data)
}

#[test]
fn a_local_takes_no_recorded_answer_for_the_answer_to_another_request() {
    let scene = Impostor::new(OLD, json!({}));
    let recorded = answer(&scene, b"transfer 5");
    assert_eq!(asked(&scene, &recorded).1, b"transfer 5");
    assert_eq!(
        asked(&scene, &answer(&scene, b"transfer 6")).1,
        b"transfer 6"
    );
    assert_eq!(asked(&scene, &recorded).1, b"", "a recorded answer");
    assert_eq!(
        asked(&scene, &answer(&scene, b"transfer 7")).1,
        b"transfer 7"
    );
}

#[test]
fn a_local_takes_no_request_of_its_own_for_an_answer() {
    let scene = Impostor::new(OLD, json!({}));
    let (request, _) = asked(&scene, &answer(&scene, b"answer"));
    assert_eq!(asked(&scene, &request).1, b"", "an earlier request");
}

#[test]
fn a_local_that_ignores_replays_remembers_nothing() {
    let scene = Impostor::new(
        OLD,
        json!({"security": {"replay_attack": {"policy": "ignore"}}}),
    );
    let recorded = answer(&scene, b"again");
    for _ in 0..2 {
        assert_eq!(asked(&scene, &recorded).1, b"again");
    }
}

#[test]
fn a_local_takes_a_datagram_once_and_none_of_its_own() {
    let scene = Impostor::new(OLD, json!({}));
    let (association, question, from) = scene.associated();
    let answer = scene.sealing.seal_packet_2017(&udp_target(), b"answer");
    let say = |datagram: &[u8], to| scene.udp.send_to(datagram, to).unwrap();
    say(&answer, from);
    assert_eq!(association.receive(ANSWER).expect("an answer").1, b"answer");
    say(&answer, from);
    say(&question, from);
    assert!(
        association.receive(SILENCE).is_none(),
        "a recorded answer or its own datagram came through"
    );
    let (other, later, to) = scene.associated();
    for datagram in [&answer, &question, &later] {
        say(datagram, to);
    }
    assert!(other.receive(SILENCE).is_none(), "in another association");
    say(&scene.sealing.seal_packet_2017(&udp_target(), b"fresh"), to);
    assert_eq!(other.receive(ANSWER).expect("an answer").1, b"fresh");
}

#[test]
fn a_server_takes_no_datagram_of_its_own() {
    let scene = Behind::new(OLD);
    let server = scene.server(json!({}));
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.set_read_timeout(Some(ANSWER)).unwrap();
    let packet = |data| scene.sealing.seal_packet_2017(&scene.udp.target(), data);
    let mut room = [0; 4096];
    let (len, _) = (0..20)
        .find_map(|_| {
            client.send_to(&packet(b"reflect"), server.address).unwrap();
            client.recv_from(&mut room).ok()
        })
        .expect("an answer");
    let before = scene.udp.count(b"reflect");
    client.send_to(&room[..len], server.address).unwrap();
    client.send_to(&packet(b"next"), server.address).unwrap();
    eventually("the next packet reaches the target", || {
        scene.udp.count(b"next") > 0
    });
    assert_eq!(scene.udp.count(b"reflect"), before);
}
