//! QUIC over a link that changes: flows outlive a new address, an interface that is down, errors that others inject.

use crate::common::{
    identity::Identity,
    peers::Spec,
    process::{Process, v4},
    socks::{self, Socks, read_array},
    targets::write_pattern,
};
use crate::emulated::{self, Link, Namespace, Shape};
use crate::network_change::{TARGET, serve_target, start_both};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::{
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

const METHOD: &str = "2022-blake3-aes-256-gcm";

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
    serve_target(&link, |stream, bytes| match bytes {
        [b'g', ..] => write_pattern(stream, 7, MUCH),
        bytes => stream.write_all(bytes),
    });
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
        .set_read_timeout(Some(Duration::from_secs(120)))
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
        let writer = thread::spawn(move || write_pattern(&mut out, 7, MUCH));
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

/// Runs `disturb` in the middle of a download, beside a session that says little. Both go on: nothing arrives for `away` and a little
/// longer, at most.
fn outlives(scene: &Scene, name: &str, away: Duration, disturb: impl FnOnce() + Send) {
    let disturbed = || {
        let mut slow = flow();
        slow.write_all(b"1").unwrap();
        assert_eq!(&read_array::<1>(&mut slow), b"1");
        let running = flow();
        let download = thread::spawn(move || download(running));
        thread::sleep(Duration::from_millis(700)); // in the middle of the download
        disturb();
        let longest = download.join().expect("the download comes to its end");
        assert!(
            longest < away + Duration::from_secs(5),
            "{name}: {longest:?}\n{}",
            scene.local.log()
        );
        for byte in [b'2', b'3'] {
            slow.write_all(&[byte]).unwrap();
            assert_eq!(read_array(&mut slow), [byte], "a quiet flow goes on, too");
        }
    };
    scene.link.a.run(disturbed).unwrap();
}

#[test]
#[ignore = "needs root: namespaces and a link between them"]
fn flows_outlive_a_new_address_and_a_link_that_was_down_over_link() {
    let scene = scene(20, &json!({"type": "quic"}));
    let a = &scene.link.a;
    outlives(&scene, "a new address", Duration::ZERO, || {
        a.ip("link set link0 down").unwrap();
        a.ip("addr flush dev link0").unwrap();
        a.ip("addr add 10.99.0.5/24 dev link0").unwrap();
        a.ip("link set link0 up").unwrap();
        a.ip("route replace default dev link0").unwrap();
    });
    let away = Duration::from_secs(60);
    outlives(&scene, "no link for a minute", away, || {
        a.ip("link set link0 down").unwrap();
        thread::sleep(away); // how long it is down is the subject
        a.ip("link set link0 up").unwrap();
        a.ip("route replace default dev link0").unwrap();
    });
}

/// Has everything that comes to `place` over QUIC refused, in the words of `with`, until [`accept`].
fn refuse(place: &Namespace, with: &str) {
    let rules = format!(
        "add table inet refuse\n\
         add chain inet refuse input {{ type filter hook input priority 0; }}\n\
         add rule inet refuse input iifname \"link0\" meta l4proto udp reject with {with}\n"
    );
    nft(place, &rules);
}

fn accept(place: &Namespace) {
    nft(place, "delete table inet refuse\n");
}

fn nft(place: &Namespace, rules: &str) {
    let mut command = Command::new("nft");
    command.args(["-f", "-"]).stdin(Stdio::piped());
    place.place(&mut command).unwrap();
    let mut child = command.spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(rules.as_bytes()).unwrap();
    drop(input);
    assert!(child.wait().unwrap().success(), "{rules}");
}

#[test]
#[ignore = "needs root: namespaces, a link between them, and nft"]
fn errors_that_others_inject_end_no_flow_over_link() {
    let scene = scene(20, &json!({"type": "quic"}));
    // Each end is told that the other is not there, and by whom one may not reach it.
    let away = Duration::from_millis(300);
    for place in [&scene.link.a, &scene.link.b] {
        for with in [
            "icmp type port-unreachable",
            "icmp type host-unreachable",
            "icmp type admin-prohibited",
        ] {
            outlives(&scene, with, away, || {
                refuse(place, with);
                thread::sleep(away); // for many packets to be refused
                accept(place);
            });
        }
    }
}

#[test]
#[ignore = "needs root: namespaces and a link between them"]
fn flows_outlive_a_client_that_sleeps_over_link() {
    let scene = scene(20, &json!({"type": "quic"}));
    let away = Duration::from_secs(10);
    outlives(&scene, "a client that sleeps", away, || {
        scene.local.signal(Signal::STOP);
        thread::sleep(away); // how long it sleeps is the subject
        scene.local.signal(Signal::CONT);
    });
}

/// Milliseconds that the path takes in one direction: more than a debug build on a busy machine takes beside.
const ONE_WAY: u64 = 150;

/// How long the first byte of the echo takes in a new process, and then in two more flows.
fn first_bytes() -> [Duration; 3] {
    let scene = scene(ONE_WAY, &json!({"type": "quic"}));
    let flows = || {
        [(); 3].map(|()| {
            let begun = Instant::now();
            let mut one = flow();
            one.write_all(b"1").unwrap();
            assert_eq!(&read_array::<1>(&mut one), b"1");
            begun.elapsed()
        })
    };
    scene.link.a.run(flows).unwrap()
}

#[test]
#[ignore = "needs root: namespaces and a link between them"]
fn first_byte_takes_two_round_trips_and_then_one_over_link() {
    // Handshake and request; then the request alone.
    let round_trip = Duration::from_millis(2 * ONE_WAY);
    let round_trips = [2, 1, 1].map(|count| round_trip * count);
    let is_quick = (0..5).any(|_| {
        let taken = first_bytes();
        println!("first byte after {taken:?}");
        let mut pairs = taken.iter().zip(round_trips);
        assert!(
            pairs.clone().all(|(taken, least)| *taken >= least),
            "{taken:?}"
        );
        pairs.all(|(taken, least)| *taken < least + round_trip)
    });
    assert!(is_quick, "more round trips in each of five processes");
}
