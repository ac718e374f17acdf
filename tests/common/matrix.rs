//! The traffic that every pair of halves must carry.

use super::{
    ANSWER, SILENCE,
    bytes::{digest, pattern},
    socks::{Association, Socks, Target, read_array},
    targets::{BANNER, Order, TcpTarget, write_pattern},
    udp::UdpTarget,
};
use std::{
    collections::HashSet,
    io::{Read, Write},
    net::Shutdown,
    thread,
    time::{Duration, Instant},
};

const MIB: usize = 1 << 20;
/// The longest that a target's first word may take beyond the client's configured wait of 10 ms.
const SERVER_FIRST: Duration = Duration::from_millis(50 + 10);

/// One of each destination.
#[derive(Debug)]
pub struct Targets {
    /// Echo.
    pub echo: TcpTarget,
    /// Both ways at once.
    pub duplex: TcpTarget,
    /// Answers after the end of the upload.
    pub digest: TcpTarget,
    /// Speaks first.
    pub banner: TcpTarget,
    /// UDP echo.
    pub udp: UdpTarget,
    /// UDP echo on ::1.
    pub udp_v6: UdpTarget,
    /// UDP echo that answers from another port.
    pub cone: UdpTarget,
}

impl Targets {
    /// Starts all of them.
    pub fn start() -> Self {
        Self {
            echo: TcpTarget::echo(),
            duplex: TcpTarget::duplex(),
            digest: TcpTarget::digest_at_end(),
            banner: TcpTarget::speaks_first(),
            udp: UdpTarget::echo(),
            udp_v6: UdpTarget::echo_v6(),
            cone: UdpTarget::answers_from_elsewhere(),
        }
    }
}

/// One kind of traffic, named for what it shows.
#[derive(Clone, Copy)]
pub struct Check {
    /// The claim.
    pub name: &'static str,
    run: fn(&Socks, &Targets),
}

const fn check(name: &'static str, run: fn(&Socks, &Targets)) -> Check {
    Check { name, run }
}

/// Every kind of traffic.
pub const CHECKS: &[Check] = &[
    check("tcp: 1 byte", |socks, to| echoes(socks, &to.echo.v4(), 1)),
    check("tcp: 64 KiB", |socks, to| {
        echoes(socks, &to.echo.v4(), 64 << 10)
    }),
    check("tcp: IPv6 target", |socks, to| {
        echoes(socks, &to.echo.v6(), 1000)
    }),
    check("tcp: named target", |socks, to| {
        echoes(socks, &to.echo.name(), 1000)
    }),
    check("tcp: first write of 70 KiB", first_write_is_large),
    check("tcp: 20 MiB both ways at once", |socks, to| {
        both_ways(socks, to, 20 * MIB, 20 * MIB)
    }),
    check("tcp: server speaks first", server_speaks_first),
    check(
        "tcp: server speaks first, at once",
        server_speaks_first_at_once,
    ),
    check("tcp: 50 at once", fifty_at_once),
    check("tcp: upload, half-close, answer", |socks, to| {
        half_close(socks, to, 1 << 20)
    }),
    check("tcp: small upload, half-close, answer", |socks, to| {
        half_close(socks, to, 1)
    }),
    check("tcp: no upload, half-close, answer", |socks, to| {
        half_close(socks, to, 0)
    }),
    check("udp: 0 bytes", |socks, to| echoes_datagram(socks, to, 0)),
    check("udp: 1 byte", |socks, to| echoes_datagram(socks, to, 1)),
    check("udp: 1200 bytes", |socks, to| {
        echoes_datagram(socks, to, 1200)
    }),
    check("udp: 1400 bytes", |socks, to| {
        echoes_datagram(socks, to, 1400)
    }),
    check("udp: 4000 bytes", |socks, to| {
        echoes_datagram(socks, to, 4000)
    }),
    check("udp: 30000 bytes", |socks, to| {
        echoes_datagram(socks, to, 30_000)
    }),
    check("udp: sixty in a burst", burst),
    check("udp: first datagram of an association", first_datagram),
    check("udp: IPv6 target", echoes_datagram_over_ipv6),
    check("udp: named target", echoes_datagram_by_name),
    check("udp: two targets from one socket", two_targets),
    check("udp: full cone", full_cone),
];

/// Runs every check but those of `inability`, and reports all that fail together.
pub fn run(socks: &Socks, targets: &Targets, inability: &[&str]) {
    let failed = failures(socks, targets, |name| !inability.contains(&name));
    assert!(failed.is_empty(), "failed: {failed:#?}");
}

/// Runs every check that `wanted` picks and returns the names of those that fail.
pub fn failures(
    socks: &Socks,
    targets: &Targets,
    wanted: impl Fn(&str) -> bool,
) -> Vec<&'static str> {
    let fails = |check: &&Check| {
        let run = std::panic::AssertUnwindSafe(|| (check.run)(socks, targets));
        std::panic::catch_unwind(run).is_err()
    };
    let wanted = CHECKS.iter().filter(|check| wanted(check.name));
    wanted.filter(fails).map(|check| check.name).collect()
}

/// `len` bytes go there and come back.
pub fn echoes(socks: &Socks, target: &Target, len: usize) {
    let mut stream = socks.connect(target);
    let sent = pattern(len as u64, len);
    let mut writing = stream.try_clone().unwrap();
    let back = thread::scope(|scope| {
        scope.spawn(|| writing.write_all(&sent).expect("write to the proxy"));
        let mut back = vec![0; len];
        stream.read_exact(&mut back).map(|()| back)
    });
    let back = back.unwrap_or_else(|err| panic!("echo of {len} bytes from {target:?}: {err}"));
    assert!(back == sent, "the echo of {len} bytes is not what was sent");
}

/// The first write is larger than one chunk of any method.
pub fn first_write_is_large(socks: &Socks, targets: &Targets) {
    let len = 70 << 10;
    let order = Order {
        seed: 7,
        up: len,
        down: 0,
    };
    let upload = pattern(70, len);
    let mut stream = socks.connect(&targets.duplex.v4());
    stream
        .write_all(&[order.to_bytes(), upload.clone()].concat())
        .unwrap();
    assert_eq!(
        read_array::<32>(&mut stream),
        digest(&upload),
        "digest of a first write of 70 KiB"
    );
}

/// `up` and `down` bytes at the same time, with digests.
pub fn both_ways(socks: &Socks, targets: &Targets, up: usize, down: usize) {
    let order = Order { seed: 20, up, down };
    let mut stream = socks.connect(&targets.duplex.v4());
    let mut writing = stream.try_clone().unwrap();
    stream.write_all(&order.to_bytes()).unwrap();
    let mut received = vec![0; down];
    thread::scope(|scope| {
        scope.spawn(|| write_pattern(&mut writing, 21, up).expect("upload"));
        stream.read_exact(&mut received).expect("download");
    });
    assert!(received == pattern(20, down), "the download differs");
    assert_eq!(
        read_array::<32>(&mut stream),
        digest(&pattern(21, up)),
        "digest of the upload"
    );
}

/// The upload ends, and only then the target answers.
pub fn half_close(socks: &Socks, targets: &Targets, len: usize) {
    let mut stream = socks.connect(&targets.digest.v4());
    let upload = pattern(9, len);
    stream.write_all(&upload).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    stream
        .read_to_end(&mut answer)
        .expect("answer, then the end");
    assert_eq!(
        answer,
        digest(&upload),
        "answer after the end of an upload of {len} bytes"
    );
}

/// The target's greeting arrives although the client says nothing.
pub fn server_speaks_first(socks: &Socks, targets: &Targets) {
    time_to_banner(socks, targets);
}

/// The greeting is not held back by the wait for the client's first bytes.
pub fn server_speaks_first_at_once(socks: &Socks, targets: &Targets) {
    // One of many: a busy machine holds some back, a wait that is too long holds back all.
    let at_once = (0..30).any(|_| time_to_banner(socks, targets) < SERVER_FIRST);
    assert!(at_once, "no banner within {SERVER_FIRST:?}");
}

fn time_to_banner(socks: &Socks, targets: &Targets) -> Duration {
    let start = Instant::now();
    let mut stream = socks.connect(&targets.banner.v4());
    let mut banner = [0; BANNER.len()];
    stream.read_exact(&mut banner).expect("the banner");
    assert_eq!(banner, BANNER);
    start.elapsed()
}

/// Fifty connections, all open at the same time.
pub fn fifty_at_once(socks: &Socks, targets: &Targets) {
    let mut streams: Vec<_> = (0..50).map(|_| socks.connect(&targets.echo.v4())).collect();
    for (i, stream) in streams.iter_mut().enumerate() {
        stream.write_all(&pattern(i as u64, 3000)).unwrap();
    }
    for (i, stream) in streams.iter_mut().enumerate() {
        let back: [u8; 3000] = read_array(stream);
        assert!(
            back[..] == pattern(i as u64, 3000),
            "connection {i} of 50 got other bytes"
        );
    }
}

/// A datagram of `size` bytes comes back.
pub fn echoes_datagram(socks: &Socks, targets: &Targets, size: usize) {
    let target = targets.udp.target();
    comes_back(&warm(socks, targets), &target, &target, size);
}

/// Datagrams that come faster than they are dealt with, and so in batches, each come back as they were. What a socket
/// had no room for is sent again, a few times.
pub fn burst(socks: &Socks, targets: &Targets) {
    let association = warm(socks, targets);
    let target = targets.udp.target();
    let mut missing: HashSet<Vec<u8>> = (0..60).map(|number| pattern(number, 500)).collect();
    let all = missing.clone();
    for _ in 0..5 {
        for data in &missing {
            association.send(&target, data);
        }
        while !missing.is_empty()
            && let Some((from, data)) = association.receive(SILENCE)
        {
            assert!(from == target && all.contains(&data), "a foreign answer");
            missing.remove(&data);
        }
    }
    assert!(missing.is_empty(), "{} of 60 never came", missing.len());
}

/// Not one datagram of a new association is lost, the first included.
pub fn first_datagram(socks: &Socks, targets: &Targets) {
    drop(warm(socks, targets)); // the relay is up
    let target = targets.udp.target();
    for _ in 0..3 {
        comes_back(&socks.associate(), &target, &target, 50);
    }
}

/// A datagram to ::1 comes back.
pub fn echoes_datagram_over_ipv6(socks: &Socks, targets: &Targets) {
    let target = targets.udp_v6.target();
    comes_back(&warm(socks, targets), &target, &target, 700);
}

/// A datagram to a name comes back.
pub fn echoes_datagram_by_name(socks: &Socks, targets: &Targets) {
    let (_, data) = warm(socks, targets).exchange(&targets.udp.name(), b"by name");
    assert_eq!(data, b"by name");
}

/// Two targets asked from one client socket, answers told apart.
pub fn two_targets(socks: &Socks, targets: &Targets) {
    let association = warm(socks, targets);
    let (one, two) = (targets.udp.target(), targets.udp_v6.target());
    association.send(&one, b"to one");
    association.send(&two, b"to two");
    let mut answers = [association.receive(ANSWER), association.receive(ANSWER)]
        .map(|answer| answer.expect("two answers"));
    answers.sort_by(|a, b| a.1.cmp(&b.1));
    assert_eq!(
        answers,
        [(one, b"to one".to_vec()), (two, b"to two".to_vec())]
    );
    assert!(
        association.receive(SILENCE / 8).is_none(),
        "no third answer"
    );
}

/// An answer from an address that was never asked arrives, with that address on it.
pub fn full_cone(socks: &Socks, targets: &Targets) {
    comes_back(
        &warm(socks, targets),
        &targets.cone.target(),
        &targets.cone.answers_from(),
        100,
    );
}

fn warm(socks: &Socks, targets: &Targets) -> Association {
    let association = socks.associate();
    association.warm_up(&targets.udp.target());
    association
}

fn comes_back(association: &Association, target: &Target, from: &Target, size: usize) {
    let data = pattern(size as u64, size);
    let (source, back) = association.exchange(target, &data);
    assert_eq!(&source, from, "source of a datagram of {size} bytes");
    assert!(
        back == data,
        "a datagram of {size} bytes came back as {} bytes",
        back.len()
    );
}
