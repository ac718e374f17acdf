//! The pair over a slow link: what a click costs in round trips, and that lost packets lose nothing.
//!
//! Client and local are at one end, server and target at the other; the link is the benchmark's.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

mod common;
#[path = "../benches/load/link.rs"]
#[allow(
    unsafe_code,
    dead_code,
    clippy::cast_possible_truncation,
    reason = "a tool of the benchmark: namespaces and tun devices have no safe interface"
)]
mod link;

use common::{
    eventually,
    matrix::{self, Targets},
    peers::{self, Spec},
    process::Process,
    socks::Socks,
};
use link::{Link, Shape};
use serde_json::json;
use std::{
    fs,
    io::Read,
    net::{SocketAddr, TcpStream},
    path::Path,
    time::{Duration, Instant},
};
use tempfile::TempDir;

const METHOD: &str = "2022-blake3-aes-256-gcm";
/// There and back; long, so that what the machine adds is small beside it.
const ROUND_TRIP: Duration = Duration::from_millis(300);
const PORT: u16 = 8388;

struct Scene {
    targets: Targets,
    socks: Socks,
    _processes: [Process; 2],
    _config: TempDir,
    // The last to go: it holds the namespaces.
    link: Link,
}

impl Scene {
    fn new(shape: Shape) -> Self {
        let link = Link::new(shape).expect("root, /dev/net/tun and `ip`");
        let config = tempfile::tempdir().unwrap();
        let path = config.path().join("config.json");
        let spec = Spec::new(METHOD);
        let keys = json!({
            "server": link::B.to_string(), "server_port": PORT, "method": spec.method, "password": spec.password,
            "local_address": "127.0.0.1", "local_port": 1080,
        });
        fs::write(&path, keys.to_string()).unwrap();
        let server = start("server", &path, &link.b);
        let local = start("local", &path, &link.a);
        let socks = Socks::new(([127, 0, 0, 1], 1080).into());
        let accepts = |address: SocketAddr| TcpStream::connect(address).is_ok();
        for (place, address) in [
            (&link.b, SocketAddr::from((link::B, PORT))),
            (&link.a, socks.proxy),
        ] {
            place
                .run(|| eventually("the proxy listens", || accepts(address)))
                .unwrap();
        }
        Self {
            targets: link.b.run(Targets::start).unwrap(),
            socks,
            _processes: [server, local],
            _config: config,
            link,
        }
    }

    /// Runs a client at the near end.
    fn client<T: Send>(&self, work: impl FnOnce(&Socks, &Targets) -> T + Send) -> T {
        let near = &self.link.a;
        near.run(|| work(&self.socks, &self.targets)).unwrap()
    }
}

fn start(role: &str, config: &Path, place: &link::Namespace) -> Process {
    let mut command = peers::ssr(&[role, "-c", config.to_str().unwrap()]);
    place.place(&mut command).unwrap();
    Process::spawn(&format!("ssr {role}"), &mut command).unwrap()
}

fn shape(loss: f64) -> Shape {
    Shape {
        delay: ROUND_TRIP / 2,
        loss,
        rate: 100e6,
        queue: ROUND_TRIP,
        seed: 1,
    }
}

/// Whole round trips of the link from the client's connect to the target's first byte.
fn round_trips(first_byte: impl FnOnce() -> u8) -> u128 {
    let begun = Instant::now();
    first_byte();
    begun.elapsed().as_millis() / ROUND_TRIP.as_millis()
}

#[test]
#[ignore = "needs root: an emulated link"]
fn a_first_byte_over_link_costs_two_round_trips_cold_and_one_warm() {
    let scene = Scene::new(shape(0.0));
    let echoed = |socks: &Socks, targets: &Targets| {
        matrix::echoes(socks, &targets.echo.v4(), 1);
        1
    };
    let greeted = |socks: &Socks, targets: &Targets| {
        let mut stream = socks.connect(&targets.banner.v4());
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        byte[0]
    };
    scene.client(|socks, targets| {
        assert_eq!(round_trips(|| echoed(socks, targets)), 2, "cold");
        // A spare connection was begun beside the first; it is there a round trip later, which the next requests show.
        eventually("one round trip when the client speaks first", || {
            round_trips(|| echoed(socks, targets)) == 1
        });
        eventually("one round trip when the target speaks first", || {
            round_trips(|| greeted(socks, targets)) == 1
        });
    });
}

#[test]
#[ignore = "needs root: an emulated link"]
fn nothing_is_lost_over_link_that_loses_packets() {
    let scene = Scene::new(Shape {
        delay: Duration::from_millis(20),
        ..shape(0.02)
    });
    scene.client(|socks, targets| {
        matrix::both_ways(socks, targets, 2 << 20, 2 << 20);
        matrix::half_close(socks, targets, 300_000);
    });
}
