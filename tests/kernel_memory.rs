//! What flows hold in the buffers of the kernel.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::common::eventually;
use crate::common::peers::{Pair, Program::Ssr, Spec, Start};
use crate::common::socks::{Socks, read_array};
use crate::emulated::{self, Link, Namespace, Shape};

const METHOD: &str = "2022-blake3-aes-256-gcm";
/// Enough for an average, and few enough for the files of a process.
const READERS: usize = 120;

/// A port that sends to everybody without an end.
fn fountain(ip: Ipv4Addr) -> SocketAddr {
    let listener = TcpListener::bind((ip, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || while stream.write_all(&[7; 64 << 10]).is_ok() {});
        }
    });
    address
}

/// Bytes that wait in the buffers of established sockets, in and out, as `filter` of `ss` chooses the sockets.
fn waiting(filter: &str) -> usize {
    let mut command = Command::new("ss");
    let output = command.args(["-tmnHO", "state", "established", filter]);
    let text = String::from_utf8(output.output().unwrap().stdout).unwrap();
    let of = |line: &str| {
        let memory = line.split_once("skmem:(").unwrap().1;
        let fields = memory.split([',', ')']).take(6);
        let number = |letter: &str| {
            let mut fields = fields.clone();
            let found = fields.find_map(|field| field.strip_prefix(letter)?.parse::<usize>().ok());
            found.unwrap()
        };
        // What was received and not read, and what was written and not acknowledged.
        number("r") + number("w")
    };
    text.lines().map(of).sum()
}

#[test]
#[ignore = "needs peers: scripts/test"]
fn slow_readers_of_a_fast_target_hold_little_in_the_kernel() {
    let spec = Spec::new(METHOD);
    let pair = Pair::with(Start::server(Ssr, &spec), |at| Start::local(Ssr, &spec, at));
    let target = fountain(Ipv4Addr::LOCALHOST);
    let mut readers: Vec<TcpStream> = (0..READERS)
        .map(|_| pair.socks().connect(&target.into()))
        .collect();
    // Each reads a little at a time, which is when buffers grow.
    for _ in 0..10 {
        for reader in &mut readers {
            let [_] = read_array(reader);
            reader.read_exact(&mut [0; 16 << 10]).unwrap();
        }
        thread::sleep(Duration::from_millis(100));
    }
    let (local, server) = (pair.local.address.port(), pair.server.address.port());
    let ours = format!(
        "( sport = :{local} or sport = :{server} or dport = :{server} or dport = :{} )",
        target.port()
    );
    let mut last = 0;
    eventually("the buffers are full", || {
        let before = std::mem::replace(&mut last, waiting(&ours));
        thread::sleep(Duration::from_millis(200));
        last > 0 && last.abs_diff(before) < last / 20
    });
    // Four sockets of a flow, in both halves. Without a limit they hold 8 to 10 MiB.
    let each = last / READERS;
    println!("{} KiB a flow in the kernel", each >> 10);
    assert!(each < 1280 << 10, "{} KiB a flow", each >> 10);
}

/// How long a download of 10 MB takes, at 40 Mbit/s and 100 ms there and back.
fn download(socks: &Socks, target: SocketAddr) -> Duration {
    let begun = Instant::now();
    let mut stream = socks.connect(&target.into());
    let mut left = 10_000_000;
    let mut buffer = vec![0; 256 << 10];
    while left > 0 {
        let read = stream.read(&mut buffer).unwrap();
        assert_ne!(read, 0, "the download ends early");
        left -= read.min(left);
    }
    begun.elapsed()
}

#[test]
#[ignore = "needs root: an emulated link"]
fn long_paths_on_either_side_of_the_server_over_link_are_filled() {
    for is_target_far in [true, false] {
        let link = Link::new(Shape {
            delay: Duration::from_millis(50),
            loss: 0.0,
            rate: 40e6,
            queue: Duration::from_millis(200),
            seed: 1,
        });
        let link = link.expect("root, /dev/net/tun and `ip`");
        let spec = Spec::new(METHOD);
        let at = |place: &Namespace, ip: Ipv4Addr| {
            let keys = json!({"server": ip.to_string(), "warm_connections": 0});
            place.run(|| Start::server(Ssr, &spec).with(keys).run())
        };
        let (ip, place) = match is_target_far {
            true => (emulated::A, &link.a),
            false => (emulated::B, &link.b),
        };
        let server = at(place, ip).unwrap();
        let reached = SocketAddr::from((ip, server.address.port()));
        let local = link.a.run(|| Start::local(Ssr, &spec, reached).run());
        let local = local.unwrap();
        let target = link.b.run(|| fountain(emulated::B)).unwrap();
        let took = link.a.run(|| download(&local.socks(), target)).unwrap();
        println!("far target: {is_target_far}, {took:?}");
        // 2 s and the start. With the buffer that a socket begins with, 16 s.
        assert!(took < Duration::from_secs(8), "{took:?}, {is_target_far}");
    }
}
