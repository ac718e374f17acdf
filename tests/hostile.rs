//! What a stranger, a recorder and an impostor get from a running `ssr server` over TCP: silence, and the same silence.

use crate::common::{
    self, DEADLINE, SILENCE,
    bytes::pattern,
    eventually,
    peers::{Half, Program, Spec, Start},
    probe::{Cut, End, Then, assert_alike, assert_silent, probe, probe_all, watch, whole},
    seal::{Sealing, now},
    socks::{self, Target, read_array},
    targets::TcpTarget,
};
use serde_json::json;
use std::{
    io::{Read, Write},
    net::{Shutdown, TcpStream},
    thread,
    time::{Duration, Instant},
};

/// One method of each construction.
const METHODS: [&str; 3] = [
    "aes-256-gcm",
    "2022-blake3-aes-128-gcm",
    "2022-blake3-chacha20-poly1305",
];
const NEW_METHODS: [&str; 2] = ["2022-blake3-aes-256-gcm", "2022-blake3-chacha20-poly1305"];
/// Seconds until the server gives up on a handshake.
const HANDSHAKE: u64 = 2;

/// A server, the key to it, and a target behind it.
struct Scene {
    server: Half,
    sealing: Sealing,
    echo: TcpTarget,
}

impl Scene {
    fn new(method: &str) -> Self {
        eprintln!("{method}");
        let spec = Spec::new(method);
        let timeouts = json!({"timeouts": {"handshake": HANDSHAKE}});
        Self {
            server: Start::server(Program::Ssr, &spec).with(timeouts).run(),
            sealing: Sealing::new(&spec),
            echo: TcpTarget::echo(),
        }
    }

    /// A request that the echo target answers with `payload`.
    fn request(&self, payload: &[u8]) -> Vec<u8> {
        self.sealing
            .seal(&self.sealing.request(&self.echo.v4(), payload))
    }

    /// Sends `request` and returns the raw answer and its plain text, which must come to `len` bytes.
    fn served(&self, request: &[u8], len: usize) -> (Vec<u8>, Vec<u8>) {
        let salt = &request[..self.sealing.salt_len()];
        let mut stream = socks::dial(self.server.address);
        stream.write_all(request).unwrap();
        let mut raw = Vec::new();
        let mut buf = [0; 4096];
        loop {
            let n = stream.read(&mut buf).expect("an answer");
            assert_ne!(
                n,
                0,
                "the server closed after {} bytes of answer",
                raw.len()
            );
            raw.extend(&buf[..n]);
            let plain = self.sealing.open_response(salt, &raw);
            if plain.len() >= len {
                return (raw, plain);
            }
        }
    }

    /// Asserts that `bytes` are treated like garbage and do not reach the target.
    fn refuses(&self, what: &str, bytes: &[u8]) {
        let before = self.echo.accepted();
        for then in [Then::Finish, Then::Wait] {
            let outcome = probe(self.server.address, bytes, Cut::Whole, then);
            assert_eq!(
                (outcome.answered, outcome.end),
                (0, End::Closed),
                "{what}, {then:?}: {outcome:?}"
            );
        }
        assert_eq!(self.echo.accepted(), before, "{what} reached the target");
    }
}

#[test]
fn random_bytes_then_fin_get_an_end_and_nothing_else() {
    for method in METHODS {
        let scene = Scene::new(method);
        let probes = whole((0..=220).map(|len| pattern(len as u64, len)));
        let outcomes = probe_all(scene.server.address, &probes, Then::Finish);
        assert_silent(&probes, &outcomes);
    }
}

#[test]
fn probes_of_every_length_and_cut_end_alike() {
    for method in METHODS {
        let scene = Scene::new(method);
        let lengths = (0..=300)
            .step_by(11)
            .chain([15, 16, 31, 32, 42, 43, 44, 49, 50, 51, 58, 59, 60, 1500]);
        let probes: Vec<_> = lengths
            .flat_map(|len| [Cut::Whole, Cut::Bytes].map(|cut| (pattern(len as u64, len), cut)))
            .collect();
        assert_alike(scene.server.address, &probes);
    }
}

#[test]
fn a_valid_request_is_served() {
    for method in METHODS {
        let scene = Scene::new(method);
        let (_, plain) = scene.served(&scene.request(b"hello"), 5);
        assert_eq!(plain, b"hello");
        // A request without payload, whose first data follows as a chunk of its own, is the target's business.
        let quiet = scene.request(b"");
        let mut stream = socks::dial(scene.server.address);
        stream.write_all(&quiet).unwrap();
        eventually("a request without payload reaches the target", || {
            scene.echo.accepted() == 2
        });
    }
}

#[test]
fn a_request_of_2017_may_arrive_byte_by_byte() {
    let scene = Scene::new("aes-256-gcm");
    let request = scene.request(b"in pieces");
    let mut stream = socks::dial(scene.server.address);
    socks::write_byte_by_byte(&mut stream, &request).unwrap();
    let mut answer = [0; 32 + 2 + 16 + 9 + 16];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(
        scene.sealing.open_response(&request[..32], &answer),
        b"in pieces"
    );
}

#[test]
fn every_truncation_of_a_valid_request_is_silence() {
    for method in METHODS {
        let scene = Scene::new(method);
        let len = scene.request(b"payload").len();
        let probes = whole((0..len).map(|cut| scene.request(b"payload")[..cut].to_vec()));
        assert_silent(
            &probes,
            &probe_all(scene.server.address, &probes, Then::Finish),
        );
        assert_alike(scene.server.address, &probes);
        assert_eq!(
            scene.echo.accepted(),
            0,
            "a truncated request reached the target"
        );
    }
}

#[test]
fn every_flipped_byte_of_a_valid_request_is_silence() {
    for method in METHODS {
        let scene = Scene::new(method);
        let len = scene.request(b"payload").len();
        let flipped = |at: usize| {
            let mut request = scene.request(b"payload");
            request[at] ^= 1 << (at % 8);
            request
        };
        let probes = whole((0..len).map(flipped));
        assert_silent(
            &probes,
            &probe_all(scene.server.address, &probes, Then::Finish),
        );
        let probes = whole((0..len).map(flipped));
        assert_alike(scene.server.address, &probes);
        assert_eq!(
            scene.echo.accepted(),
            0,
            "a damaged request reached the target"
        );
    }
}

#[test]
fn a_replayed_request_is_refused_by_every_worker() {
    for method in METHODS {
        let scene = Scene::new(method);
        let request = scene.request(b"once");
        scene.served(&request, 4);
        let probes = whole(vec![request; 32]);
        assert_alike(scene.server.address, &probes);
        assert_eq!(scene.echo.accepted(), 1, "a replay reached the target");
    }
}

#[test]
fn concurrent_copies_of_one_request_are_served_once() {
    for method in METHODS {
        let scene = Scene::new(method);
        let probes = whole(vec![scene.request(b"one of us"); 32]);
        let outcomes = probe_all(scene.server.address, &probes, Then::Finish);
        assert_eq!(
            outcomes
                .iter()
                .filter(|outcome| outcome.answered > 0)
                .count(),
            1
        );
        assert_eq!(scene.echo.accepted(), 1);
    }
}

#[test]
fn garbage_with_a_salt_does_not_burn_it() {
    for method in METHODS {
        let scene = Scene::new(method);
        let request = scene.request(b"the real one");
        let salt = &request[..scene.sealing.salt_len()];
        let garbage = [salt, &pattern(3, request.len())].concat();
        probe(scene.server.address, &garbage, Cut::Whole, Then::Finish);
        let (_, plain) = scene.served(&request, 12);
        assert_eq!(plain, b"the real one");
    }
}

#[test]
fn a_clock_is_allowed_thirty_seconds() {
    let scenes = NEW_METHODS.map(Scene::new);
    // Before, a server refuses what is older than it is itself.
    thread::sleep(Duration::from_secs(26));
    for scene in scenes {
        let skewed = |by: i64| {
            // Early in a second, so that the server reads the same second.
            eventually("a second begins", || {
                let since = std::time::SystemTime::now()
                    .duration_since(std::time::UNIX_EPOCH)
                    .unwrap();
                since.subsec_millis() < 300
            });
            let mut request = scene.sealing.request(&scene.echo.v4(), b"what time is it");
            request.timestamp = now().checked_add_signed(by).unwrap();
            scene.sealing.seal(&request)
        };
        for by in [-25, 25, -29, 29] {
            scene.served(&skewed(by), 15);
        }
        let before = scene.echo.accepted();
        // One second more ahead: one that comes late is less so.
        for by in [-31, 32, -3600, 3600] {
            let outcome = probe(scene.server.address, &skewed(by), Cut::Whole, Then::Finish);
            assert_eq!(
                (outcome.answered, outcome.end),
                (0, End::Closed),
                "a clock {by} s off"
            );
        }
        assert_eq!(scene.echo.accepted(), before);
        scene.refuses("a stale timestamp", &skewed(-31));
    }
}

#[test]
fn a_wellsealed_but_wrong_header_is_refused() {
    for method in METHODS {
        let scene = Scene::new(method);
        let valid = scene.sealing.request(&scene.echo.v4(), b"x");
        for address in [
            vec![9, 1, 2, 3, 4, 0, 80],
            vec![3, 0, 0, 80],
            vec![1, 127, 0],
            vec![3, 255, b'a'],
        ] {
            let mut request = valid.clone();
            request.salt = scene.sealing.fresh_salt();
            request.address = address.clone();
            request.payload = Vec::new();
            request.padding = 0;
            let before = scene.echo.accepted();
            let outcome = probe(
                scene.server.address,
                &scene.sealing.seal(&request),
                Cut::Whole,
                Then::Wait,
            );
            assert_eq!(
                (outcome.answered, outcome.end),
                (0, End::Closed),
                "address {address:?}"
            );
            assert_eq!(scene.echo.accepted(), before);
        }
    }
}

#[test]
fn the_rules_of_the_2022_header_are_enforced() {
    for method in NEW_METHODS {
        let scene = Scene::new(method);
        let request = || scene.sealing.request(&scene.echo.v4(), b"x");
        let mut wrong_type = request();
        wrong_type.kind = 1;
        scene.refuses("a response header", &scene.sealing.seal(&wrong_type));
        let mut bare = request();
        bare.payload = Vec::new();
        bare.padding = 0;
        scene.refuses("neither payload nor padding", &scene.sealing.seal(&bare));
        let mut lying = request();
        lying.address.extend([0x03, 0x84]); // claims 900 bytes of padding that are not there
        lying.padding = 0;
        scene.refuses("padding beyond the header", &scene.sealing.seal(&lying));
    }
}

#[test]
fn an_answer_sent_back_as_a_request_is_refused() {
    for method in METHODS {
        let scene = Scene::new(method);
        let second = TcpTarget::echo();
        // The target's answer is itself a well-formed request body, so that only the salt gives it away.
        let body = [second.v4().0.as_slice(), b"reflected"].concat();
        let (answer, _) = scene.served(&scene.request(&body), body.len());
        scene.refuses("a reflected answer", &answer);
        assert_eq!(
            second.accepted(),
            0,
            "a reflected answer was taken for a request"
        );
    }
}

#[test]
fn a_damaged_chunk_after_the_header_ends_the_connection() {
    for method in METHODS {
        let scene = Scene::new(method);
        let target = TcpTarget::digest_at_end();
        let request = scene
            .sealing
            .seal(&scene.sealing.request(&target.v4(), b"first"));
        let mut stream = socks::dial(scene.server.address);
        stream.write_all(&request).unwrap();
        eventually("the target is reached", || target.accepted() == 1);
        stream.write_all(&pattern(5, 500)).unwrap();
        let (_, end) = watch(&mut stream);
        assert_ne!(end, End::Never);
    }
}

#[test]
fn ten_thousand_probes_leave_memory_flat() {
    let scene = Scene::new("2022-blake3-aes-256-gcm");
    let idle_files = scene.server.process.open_files();
    let storm = |count: u64| {
        thread::scope(|scope| {
            for worker in 0..10 {
                let address = scene.server.address;
                scope.spawn(move || {
                    for i in 0..count / 10 {
                        let mut stream = socks::dial(address);
                        let len = 1 + (i % 300) as usize;
                        stream.write_all(&pattern(worker << 32 | i, len)).unwrap();
                        let _gone = stream.shutdown(Shutdown::Write);
                    }
                });
            }
        });
        eventually("every probe is closed", || {
            scene.server.process.open_files() <= idle_files + 1
        });
        scene.server.process.memory_kib("Anonymous")
    };
    let before = storm(2_000);
    let after = storm(10_000);
    eprintln!("anonymous memory: {before} KiB, after 10,000 probes {after} KiB");
    assert!(
        after < before + 4 * 1024,
        "{before} KiB grew to {after} KiB"
    );
    scene.served(&scene.request(b"still here"), 10);
}

#[test]
fn silent_connections_are_closed_in_time_and_hold_up_nobody() {
    for method in ["aes-256-gcm", "2022-blake3-aes-256-gcm"] {
        let scene = Scene::new(method);
        let start = Instant::now();
        let silent: Vec<_> = (0..500)
            .map(|_| socks::dial(scene.server.address))
            .collect();
        scene.served(&scene.request(b"excuse me"), 9);
        let last = silent.last().unwrap();
        last.set_nonblocking(true).unwrap();
        let waits = last.peek(&mut [0]).expect_err("the silent ones still wait");
        assert_eq!(waits.kind(), std::io::ErrorKind::WouldBlock);
        last.set_nonblocking(false).unwrap();
        for mut stream in silent {
            let (answered, end) = watch(&mut stream);
            assert_eq!((answered.len(), end), (0, End::Closed));
        }
        let took = start.elapsed();
        assert!(
            took < Duration::from_secs(HANDSHAKE) + DEADLINE / 4,
            "closed after {took:?}"
        );
        assert!(
            took > Duration::from_millis(HANDSHAKE * 900),
            "closed after {took:?}"
        );
    }
}

#[test]
fn endless_garbage_is_cut_off() {
    for method in METHODS {
        let scene = Scene::new(method);
        let mut stream = socks::dial(scene.server.address);
        let start = Instant::now();
        let garbage = pattern(1, 16 << 10);
        while stream.write_all(&garbage).is_ok() {
            assert!(
                start.elapsed() < DEADLINE,
                "the server still reads after {:?}",
                start.elapsed()
            );
        }
    }
}

#[test]
fn a_refused_target_ends_the_connection_without_a_byte() {
    for method in METHODS {
        let scene = Scene::new(method);
        let closed = Target::from(common::process::v4(common::process::free_port()));
        let request = scene
            .sealing
            .seal(&scene.sealing.request(&closed, b"anyone?"));
        let mut stream = socks::dial(scene.server.address);
        stream.write_all(&request).unwrap();
        let (answered, end) = watch(&mut stream);
        assert_eq!(answered.len(), 0);
        assert_ne!(end, End::Never);
    }
}

#[test]
fn an_unencrypted_socks_greeting_is_silence() {
    for method in METHODS {
        let scene = Scene::new(method);
        scene.refuses("a SOCKS5 greeting", &[5, 1, 0]);
        scene.refuses(
            "an HTTP request",
            b"GET / HTTP/1.1\r\nHost: example.com\r\n\r\n",
        );
    }
}

#[test]
fn a_refused_request_is_named_in_the_log_without_its_secrets() {
    let spec = Spec::new("2022-blake3-aes-256-gcm");
    let server = Start::server(Program::Ssr, &spec).flags(&["-vv"]).run();
    let request = Sealing::new(&spec);
    let echo = TcpTarget::echo();
    let mut wrong = request.request(&echo.v4(), b"x");
    wrong.timestamp -= 100;
    probe(
        server.address,
        &request.seal(&wrong),
        Cut::Whole,
        Then::Finish,
    );
    probe(server.address, &pattern(1, 100), Cut::Whole, Then::Finish);
    eventually("the log names the skewed clock", || {
        let log = server.process.log().to_lowercase();
        log.contains("timestamp") || log.contains("clock") || log.contains("skew")
    });
    assert!(!server.process.log().contains(&spec.password));
}

/// A connection that is held open must not be mistaken for one that ended.
#[test]
fn a_served_connection_stays_open_past_the_handshake_timeout() {
    let scene = Scene::new("2022-blake3-aes-128-gcm");
    let request = scene.request(b"stay");
    let mut stream: TcpStream = socks::dial(scene.server.address);
    stream.write_all(&request).unwrap();
    let _first: [u8; 16] = read_array(&mut stream);
    stream
        .set_read_timeout(Some(Duration::from_secs(HANDSHAKE) + SILENCE))
        .unwrap();
    let mut rest = Vec::new();
    let err = stream.read_to_end(&mut rest).expect_err("still open");
    assert_eq!(err.kind(), std::io::ErrorKind::WouldBlock);
}
