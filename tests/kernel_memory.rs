//! What flows hold in the buffers of the kernel.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::thread;
use std::time::Duration;

use serde_json::json;
use ssr::limits::FIRST_RECEIVE_BUFFER;

use crate::common::eventually;
use crate::common::peers::{Pair, Program::Ssr, Spec, Start};
use crate::common::socks::read_array;
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
    // Four sockets of a flow, two in each half. Without a limit they hold 8 to 10 MiB.
    let each = last / READERS;
    println!("{} KiB a flow in the kernel", each >> 10);
    assert!(each < 512 << 10, "{} KiB a flow", each >> 10);
}

/// The largest receive buffer of an established socket that `filter` of `ss` chooses, as the system has it now.
fn receive_buffer(filter: &str) -> usize {
    let mut command = Command::new("ss");
    let output = command.args(["-tmnHO", "state", "established", filter]);
    let text = String::from_utf8(output.output().unwrap().stdout).unwrap();
    let of = |line: &str| {
        let mut fields = line.split([',', '(']);
        fields.find_map(|field| field.strip_prefix("rb")?.parse().ok())
    };
    text.lines().filter_map(of).max().unwrap_or_default()
}

#[test]
#[ignore = "needs root: an emulated link"]
fn receive_buffers_grow_on_long_paths_on_either_side_of_the_server_over_link() {
    for is_target_far in [true, false] {
        let link = Link::new(Shape {
            // Long rather than fast, which a busy machine would not let it be.
            delay: Duration::from_millis(200),
            loss: 0.0,
            rate: 16e6,
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
        let mut stream = link
            .a
            .run(|| local.socks().connect(&target.into()))
            .unwrap();
        thread::spawn(move || while matches!(stream.read(&mut [0; 64 << 10]), Ok(1..)) {});
        let far = if is_target_far { target } else { reached };
        let filter = format!("dport = :{}", far.port());
        let mut size = 0;
        eventually("the receive buffer grows", || {
            size = link.a.run(|| receive_buffer(&filter)).unwrap();
            size > FIRST_RECEIVE_BUFFER
        });
        println!("far target: {is_target_far}, {} KiB", size >> 10);
    }
}
