//! Users of a server with `fair`: one with many bulk streams leaves another's pages as quick as they are alone.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common::{
    DEADLINE, eventually, matrix,
    peers::{self, Program, Spec, Start, password},
    process::{Process, make_private},
    socks::{Socks, Target},
    targets::TcpTarget,
    udp::UdpTarget,
};
use crate::emulated::{self, Link, Namespace, Shape};

const METHOD: &str = "2022-blake3-aes-256-gcm";
const PORT: u16 = 8388;
/// Bytes of a page, and of the request for it.
const PAGE: usize = 60_000;
const REQUEST: usize = 100;
const BULK_STREAMS: usize = 200;

/// The server at one end of a slow link, and `ssr local` of two users at the other.
struct Scene {
    _server: Process,
    _locals: [Process; 2],
    users: [Socks; 2],
    pages: TcpTarget,
    bulk: TcpTarget,
    _config: TempDir,
    // The last to go: it holds the namespaces.
    link: Link,
}

impl Scene {
    fn new(fair: bool, shape: Shape) -> Self {
        let link = Link::new(shape).expect("root, /dev/net/tun and `ip`");
        let config = tempfile::tempdir().unwrap();
        let own = Spec::new(METHOD).password;
        let keys = [1, 2].map(|user| password(METHOD, 40 + user));
        let users = json!([
            {"name": "bulk", "password": keys[0]},
            {"name": "reader", "password": keys[1]},
        ]);
        let start = |name: &str, role: &str, more: Value, place: &Namespace| {
            let mut written =
                json!({"server": emulated::B.to_string(), "server_port": PORT, "method": METHOD});
            let all = written.as_object_mut().unwrap();
            all.extend(more.as_object().unwrap().clone());
            let path = config.path().join(name);
            fs::write(&path, written.to_string()).unwrap();
            make_private(&path);
            let mut command = peers::ssr(&[role, "-c", path.to_str().unwrap()]);
            place.place(&mut command).unwrap();
            Process::spawn(name, &mut command).unwrap()
        };
        let more = json!({"password": own, "users": users, "fair": fair});
        let server = start("server", "server", more, &link.b);
        let local = |index: usize, port: u16| {
            let password = format!("{own}:{}", keys[index]);
            let more =
                json!({"password": password, "local_address": "127.0.0.1", "local_port": port});
            start(&format!("local{index}"), "local", more, &link.a)
        };
        let locals = [local(0, 1080), local(1, 1081)];
        let users = [1080, 1081].map(|port| Socks::new(([127, 0, 0, 1], port).into()));
        let accepts = |address: SocketAddr| TcpStream::connect(address).is_ok();
        let listens = |address| eventually("it listens", || accepts(address));
        let at = SocketAddr::from((emulated::B, PORT));
        link.b.run(|| listens(at)).unwrap();
        for user in &users {
            link.a.run(|| listens(user.proxy)).unwrap();
        }
        let serve_page = |mut stream: TcpStream| {
            if stream.read_exact(&mut [0; REQUEST]).is_ok() {
                let _gone = stream.write_all(&[7; PAGE]);
            }
        };
        let serve_bulk = |mut stream: TcpStream| while stream.write_all(&[7; 64 << 10]).is_ok() {};
        let pages = link.b.run(|| TcpTarget::serve(serve_page)).unwrap();
        let bulk = link.b.run(|| TcpTarget::serve(serve_bulk)).unwrap();
        Self {
            _server: server,
            _locals: locals,
            users,
            pages,
            bulk,
            _config: config,
            link,
        }
    }

    /// How long pages take, the shortest first.
    fn pages(&self, count: usize) -> Vec<Duration> {
        let page = || load(&self.users[1], &self.pages.v4());
        let load = || (0..count).map(|_| page()).collect::<Vec<_>>();
        let mut times = self.link.a.run(load).unwrap();
        times.sort_unstable();
        times
    }

    fn bulk(&self) -> Bulk {
        let start = || Bulk::start(&self.users[0], &self.bulk.v4());
        self.link.a.run(start).unwrap()
    }
}

fn load(user: &Socks, target: &Target) -> Duration {
    let begun = Instant::now();
    let mut stream = user.connect(target);
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(&[7; REQUEST]).unwrap();
    stream.read_exact(&mut [0; PAGE]).unwrap();
    begun.elapsed()
}

/// Downloads that do not end by themselves.
struct Bulk {
    streams: Vec<TcpStream>,
    moved: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl Bulk {
    fn start(user: &Socks, target: &Target) -> Self {
        let moved = Arc::<AtomicU64>::default();
        let streams: Vec<_> = (0..BULK_STREAMS).map(|_| user.connect(target)).collect();
        let read = |stream: &TcpStream| {
            let (mut stream, moved) = (stream.try_clone().unwrap(), Arc::clone(&moved));
            thread::spawn(move || {
                let mut room = vec![0; 64 << 10];
                while let Ok(count @ 1..) = stream.read(&mut room) {
                    moved.fetch_add(count as u64, Relaxed);
                }
            })
        };
        let threads = streams.iter().map(read).collect();
        Self {
            streams,
            moved,
            threads,
        }
    }

    fn moved(&self) -> u64 {
        self.moved.load(Relaxed)
    }

    fn end(self) {
        for stream in &self.streams {
            let _gone = stream.shutdown(std::net::Shutdown::Both);
        }
        self.threads.into_iter().for_each(|one| one.join().unwrap());
    }
}

/// What 19 of 20 are not longer than.
fn p95(sorted: &[Duration]) -> Duration {
    sorted[(sorted.len() - 1) * 19 / 20]
}

#[test]
#[ignore = "needs root: an emulated link"]
fn two_hundred_bulk_streams_leave_another_users_pages_quick_over_link() {
    let shape = Shape {
        delay: Duration::from_millis(20),
        loss: 0.0,
        rate: 40e6,
        queue: Duration::from_millis(150),
        seed: 1,
    };
    let run = |fair, pages| {
        let scene = Scene::new(fair, shape);
        scene.pages(3);
        let alone = scene.pages(20);
        let bulk = scene.bulk();
        eventually("bulk goes on", || bulk.moved() > 5_000_000);
        // What went to the sockets before anything was held takes a moment.
        scene.pages(if fair { 10 } else { 1 });
        let (before, at) = (bulk.moved(), Instant::now());
        let beside = scene.pages(pages);
        let rate = (bulk.moved() - before) as f64 / at.elapsed().as_secs_f64();
        bulk.end();
        (p95(&alone), p95(&beside), rate)
    };
    let (alone, fair, rate) = run(true, 60);
    let (_, unfair, _) = run(false, 4);
    let figures =
        format!("alone {alone:?}, beside {fair:?}, not fair {unfair:?}, bulk {rate:.0} B/s");
    // Alone 140 ms, fair 147 ms, not fair 4000 ms where little else runs; benchmarks hold figures, this holds the claim.
    assert!(fair < alone * 8 && fair < unfair / 2, "{figures}");
    assert!(rate > 300_000.0, "{figures}");
}

#[test]
fn users_that_share_fairly_get_all_that_they_ask_for() {
    const MUCH: usize = 20 << 20;
    let keys = [1, 2].map(|user| password(METHOD, 40 + user));
    let users =
        json!([{"name": "one", "password": keys[0]}, {"name": "other", "password": keys[1]}]);
    let spec = Spec::new(METHOD);
    let server = Start::server(Program::Ssr, &spec)
        .with(json!({"users": users, "fair": true}))
        .run();
    let (echo, datagrams) = (TcpTarget::echo(), UdpTarget::echo());
    let locals = keys.map(|key| {
        let spec = Spec {
            method: METHOD.to_owned(),
            password: format!("{}:{key}", spec.password),
        };
        Start::local(Program::Ssr, &spec, server.address).run()
    });
    thread::scope(|scope| {
        for local in &locals {
            for _ in 0..4 {
                scope.spawn(|| matrix::echoes(&local.socks(), &echo.v4(), MUCH / 4));
            }
        }
    });
    for local in &locals {
        let association = local.socks().associate();
        let (_, back) = association.exchange(&datagrams.target(), b"a datagram");
        assert_eq!(back, b"a datagram");
    }
}
