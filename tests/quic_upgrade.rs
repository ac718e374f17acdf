//! A new process, or a new part of the same one, serves a QUIC port: connections go on with who has begun them.

use crate::common::{
    DEADLINE,
    bytes::pattern,
    changing::{Changing, READ},
    eventually,
    identity::Identity,
    line::Line,
    peers::Spec,
    process::{free_port, memory_kib, v4},
    socks::Socks,
    targets::TcpTarget,
};
use serde_json::{Value, json};
use std::{
    collections::HashMap,
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

const METHOD: &str = "2022-blake3-aes-256-gcm";

fn server_keys(identity: &Identity, port: u16) -> Value {
    json!({
        "server": "127.0.0.1", "server_port": port, "method": METHOD,
        "password": Spec::new(METHOD).password,
        "transport": {"type": "quic", "tls": identity.own()},
    })
}

/// `ssr local`, and the way in.
fn local(identity: &Identity, server: u16) -> (Changing, Socks) {
    let at = free_port();
    let keys = json!({
        "server": "127.0.0.1", "server_port": server, "method": METHOD,
        "password": Spec::new(METHOD).password,
        "local_address": "127.0.0.1", "local_port": at,
        "transport": {"type": "quic", "tls": identity.trusted()},
    });
    (Changing::start("local", keys), Socks::new(v4(at)))
}

/// A connection to what sends back.
fn open(socks: &Socks, target: &TcpTarget) -> TcpStream {
    let mut stream = socks.connect(&target.v4());
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    exchange(&mut stream, 100);
    stream
}

/// Sends `len` bytes and reads them back.
fn exchange(stream: &mut TcpStream, len: usize) {
    let sent = pattern(7, len);
    let mut back = vec![0; len];
    stream.write_all(&sent).unwrap();
    stream.read_exact(&mut back).unwrap();
    assert!(back == sent, "other bytes");
}

/// How many TCP connections a process has to this port of this machine.
fn streams_of(pid: u32, port: u16) -> usize {
    let remote = format!(" 0100007F:{port:04X} 01 ");
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    let open = table.lines().filter(|line| line.contains(&remote));
    let inodes = open.filter_map(|line| line.split_whitespace().nth(9));
    let sockets: Vec<String> = inodes.map(|inode| format!("socket:[{inode}]")).collect();
    let files = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let links = files.filter_map(|file| fs::read_link(file.ok()?.path()).ok());
    links
        .filter(|link| sockets.iter().any(|socket| *link.as_os_str() == **socket))
        .count()
}

/// Sends and reads back until it is told to stop.
struct Echo {
    stop: Arc<AtomicBool>,
    rounds: Arc<AtomicUsize>,
    thread: JoinHandle<Result<(), String>>,
}

impl Echo {
    fn start(socks: &Socks, target: &TcpTarget, seed: u64) -> Self {
        let mut stream = open(socks, target);
        let stop = Arc::new(AtomicBool::new(false));
        let rounds = Arc::new(AtomicUsize::new(0));
        let (told, counted) = (Arc::clone(&stop), Arc::clone(&rounds));
        let thread = thread::spawn(move || {
            while !told.load(Ordering::Acquire) {
                let round = counted.fetch_add(1, Ordering::AcqRel);
                let len = [1, 1000, 20_000, 300_000][round % 4];
                let (sent, mut back) = (pattern(seed, len), vec![0; len]);
                let moved = stream.write_all(&sent);
                let moved = moved.and_then(|()| stream.read_exact(&mut back));
                moved.map_err(|error| format!("connection {seed}, round {round}: {error}"))?;
                if back != sent {
                    return Err(format!("connection {seed}, round {round}: other bytes"));
                }
                thread::sleep(Duration::from_millis(5)); // a pace
            }
            Ok(())
        });
        Self {
            stop,
            rounds,
            thread,
        }
    }

    /// One that the process `pid` serves: the client may hear a little later that new ones are to go there.
    fn start_at(pid: u32, socks: &Socks, target: &TcpTarget, seed: u64) -> Self {
        let begun = Instant::now();
        loop {
            let before = streams_of(pid, target.port());
            let this = Self::start(socks, target, seed);
            if streams_of(pid, target.port()) > before {
                return this;
            }
            this.end();
            assert!(
                begun.elapsed() < DEADLINE,
                "new connections go to the new process"
            );
        }
    }

    fn goes_on(&self) {
        let before = self.rounds.load(Ordering::Acquire);
        eventually("the connection moves bytes", || {
            assert!(!self.thread.is_finished(), "the connection has ended");
            self.rounds.load(Ordering::Acquire) > before + 4
        });
    }

    fn end(self) {
        self.stop.store(true, Ordering::Release);
        self.thread.join().unwrap().unwrap();
    }
}

#[test]
fn connections_go_on_with_their_process_through_three_upgrades() {
    let (identity, target, port) = (Identity::new(), TcpTarget::echo(), free_port());
    let mut server = Line::start("server", server_keys(&identity, port));
    let (_local, socks) = local(&identity, port);
    let mut all = vec![Echo::start(&socks, &target, 0)];
    for seed in 1..4 {
        server.upgrade();
        let newest = server.pid();
        all.push(Echo::start_at(newest, &socks, &target, seed));
        all.iter().for_each(Echo::goes_on);
    }
    // One after the other, the processes end with their last connection, and the others go on.
    for place in 0..3 {
        assert!(!server.has_ended(place));
        all.remove(0).end();
        eventually("its process ends", || server.has_ended(place));
        all.iter().for_each(Echo::goes_on);
    }
    assert!(!server.has_ended(3));
    all.remove(0).end();
}

#[test]
fn connections_go_on_through_reloads_that_rebuild_their_listener() {
    let (identity, target, port) = (Identity::new(), TcpTarget::echo(), free_port());
    let mut server = Changing::start("server", server_keys(&identity, port));
    let (_local, socks) = local(&identity, port);
    let files = server.process.files_at_rest();
    let mut all = vec![Echo::start(&socks, &target, 0)];
    for seed in 1..4 {
        let built = server.said(" listening address=");
        server.change("timeouts", json!({"idle": 300 + seed}));
        assert_eq!(server.said(" listening address="), built + 1);
        all.push(Echo::start(&socks, &target, seed));
        all.iter().for_each(Echo::goes_on);
    }
    // A config that cannot be used leaves all as it was.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut other = server_keys(&identity, taken.local_addr().unwrap().port());
    other.as_object_mut().unwrap().remove("transport");
    let mut first = server_keys(&identity, port);
    first["mode"] = json!("tcp_only");
    let whole = server.keys.clone();
    let (read, path) = (server.said(READ), server.path());
    fs::write(&path, json!({"servers": [first, other]}).to_string()).unwrap();
    crate::common::process::make_private(&path);
    server.process.signal(rustix::process::Signal::HUP);
    eventually("it is refused", || {
        server.said("already in use") > 0 && server.said(READ) == read
    });
    server.keys = whole;
    all.iter().for_each(Echo::goes_on);
    // Users change without that.
    let last = all.pop().unwrap();
    all.into_iter().for_each(Echo::end);
    last.goes_on();
    server.change("timeouts", json!({"idle": 400}));
    last.goes_on();
    last.end();
    // All that is left is the last listener, and at most its connection.
    eventually("what was replaced is gone", || {
        server.process.open_files() <= files + 2
    });
    exchange(&mut open(&socks, &target), 100_000);
}

#[test]
fn server_that_is_restarted_after_upgrades_answers_that_it_knows_no_connection() {
    let (identity, target, port) = (Identity::new(), TcpTarget::echo(), free_port());
    let mut server = Line::start("server", server_keys(&identity, port));
    let (_local, socks) = local(&identity, port);
    let mut old = open(&socks, &target);
    server.upgrade();
    let mut new = open(&socks, &target);
    exchange(&mut old, 1000);
    drop(server); // by SIGKILL: nobody says anything
    let _server = Line::start("server", server_keys(&identity, port));
    for stream in [&mut old, &mut new] {
        let begun = Instant::now();
        // A stateless reset needs a packet that is longer.
        stream.write_all(&[7; 500]).unwrap();
        let ended = stream.read(&mut [0; 5]);
        assert!(!matches!(ended, Ok(1..)), "{ended:?}");
        let taken = begun.elapsed();
        assert!(taken < Duration::from_secs(10), "{taken:?}");
    }
    exchange(&mut open(&socks, &target), 100_000);
}

/// What happens to datagrams of the server.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Back {
    Pass,
    Hold,
    Drop,
}

/// A router between a client and a server, with a port of its own for each of the client's.
struct Router {
    at: u16,
    server: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    front: UdpSocket,
    /// The port outside for each of the client's.
    outside: Mutex<HashMap<SocketAddr, UdpSocket>>,
    back: Mutex<Back>,
    /// What was held, and for which port of the client.
    held: Mutex<Vec<(SocketAddr, Vec<u8>)>>,
    /// What the client has sent last.
    last: Mutex<Vec<u8>>,
    seen: AtomicUsize,
    stop: AtomicBool,
}

impl Router {
    fn start(server: u16) -> Self {
        let front = bind();
        let shared = Arc::new(Shared {
            outside: Mutex::default(),
            back: Mutex::new(Back::Pass),
            held: Mutex::default(),
            last: Mutex::default(),
            seen: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            front,
        });
        let this = Self {
            at: shared.front.local_addr().unwrap().port(),
            server: v4(server),
            shared,
        };
        let (shared, server) = (Arc::clone(&this.shared), this.server);
        thread::spawn(move || {
            let mut room = [0; 2048];
            while !shared.stop.load(Ordering::Acquire) {
                if let Ok((len, from)) = shared.front.recv_from(&mut room) {
                    *shared.last.lock().unwrap() = room[..len].to_vec();
                    let mut ports = shared.outside.lock().unwrap();
                    let outside = ports.entry(from).or_insert_with(|| receive(&shared, from));
                    let _full = outside.send_to(&room[..len], server);
                }
            }
        });
        this
    }

    /// What becomes of what the server sends.
    fn set(&self, back: Back) {
        let mut held = self.shared.held.lock().unwrap();
        *self.shared.back.lock().unwrap() = back;
        if back == Back::Pass {
            for (client, datagram) in held.drain(..) {
                self.shared.to_client(client, &datagram);
            }
        }
    }
}

/// A new port outside. What it receives is for this port of the client.
fn receive(shared: &Arc<Shared>, client: SocketAddr) -> UdpSocket {
    let shared = Arc::clone(shared);
    let port = bind();
    let outside = port.try_clone().unwrap();
    thread::spawn(move || {
        let mut room = [0; 2048];
        while !shared.stop.load(Ordering::Acquire) {
            let Ok(len) = outside.recv(&mut room) else {
                continue;
            };
            shared.seen.fetch_add(1, Ordering::AcqRel);
            let mut held = shared.held.lock().unwrap();
            match *shared.back.lock().unwrap() {
                Back::Pass => shared.to_client(client, &room[..len]),
                Back::Hold => held.push((client, room[..len].to_vec())),
                Back::Drop => {}
            }
        }
    });
    port
}

impl Shared {
    fn to_client(&self, client: SocketAddr, datagram: &[u8]) {
        let _full = self.front.send_to(datagram, client);
    }

    /// Sends from other ports from now on.
    fn move_outside(&self) {
        self.outside.lock().unwrap().clear();
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
    }
}

/// A server, a router before it, and `ssr local` with the way in: it reaches the server through the router.
fn behind_router(identity: &Identity) -> (Line, Router, Changing, Socks) {
    let port = free_port();
    let server = Line::start("server", server_keys(identity, port));
    let router = Router::start(port);
    let (local, socks) = local(identity, router.at);
    (server, router, local, socks)
}

fn bind() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let wait = Some(Duration::from_millis(50));
    socket.set_read_timeout(wait).unwrap();
    socket
}

#[test]
fn client_that_moves_after_an_upgrade_stays_with_its_process() {
    let (identity, target) = (Identity::new(), TcpTarget::echo());
    let (mut server, router, _local, socks) = behind_router(&identity);
    let mut old = open(&socks, &target);
    server.upgrade();
    for _ in 0..2 {
        router.shared.move_outside();
        exchange(&mut old, 200_000);
    }
    assert!(!server.has_ended(0));
    let mut new = open(&socks, &target);
    drop(old);
    eventually("the old process ends", || server.has_ended(0));
    exchange(&mut new, 200_000);
}

#[test]
fn flood_of_datagrams_for_an_old_process_is_bounded() {
    let (identity, target) = (Identity::new(), TcpTarget::echo());
    let (mut server, router, _local, socks) = behind_router(&identity);
    let mut old = open(&socks, &target);
    server.upgrade();
    exchange(&mut old, 1000);
    let mut last = router.shared.last.lock().unwrap().clone();
    assert_eq!(last[0] & 0x80, 0, "a packet of an open connection");
    last.resize(1200, 7);
    let mut new = open(&socks, &target);
    let memory = |pid| memory_kib(pid, "VmRSS");
    let pids = server.pids.clone();
    let before: Vec<u64> = pids.iter().map(|pid| memory(*pid)).collect();
    let flood = bind();
    for _ in 0..100_000 {
        let _full = flood.send_to(&last, router.server);
    }
    exchange(&mut old, 100_000);
    exchange(&mut new, 100_000);
    for (pid, before) in pids.into_iter().zip(before) {
        let grown = memory(pid).saturating_sub(before);
        assert!(grown < 48 << 10, "{grown} KiB more in {pid}");
    }
}

#[test]
fn handshakes_go_on_with_the_process_that_has_answered() {
    let (identity, target) = (Identity::new(), Arc::new(TcpTarget::echo()));
    // What the old process has answered comes late, or never.
    for back in [Back::Hold, Back::Drop] {
        let (mut server, router, _local, socks) = behind_router(&identity);
        router.set(back);
        let to = Arc::clone(&target);
        let flow = thread::spawn(move || (open(&socks, &to), socks));
        eventually("the old process answers", || {
            router.shared.seen.load(Ordering::Acquire) > 0
        });
        server.upgrade();
        let seen = router.shared.seen.load(Ordering::Acquire);
        if back == Back::Hold {
            eventually("the old process answers again", || {
                router.shared.seen.load(Ordering::Acquire) > seen + 1
            });
        }
        router.set(Back::Pass);
        let (mut stream, socks) = flow.join().unwrap();
        exchange(&mut stream, 200_000);
        exchange(&mut open(&socks, &target), 1000);
        exchange(&mut stream, 1000);
        drop(stream);
        eventually("the old process ends", || server.has_ended(0));
    }
}

#[test]
fn what_is_on_its_way_to_a_client_arrives_before_the_server_ends() {
    const LEN: usize = 600_000;
    let (identity, port) = (Identity::new(), free_port());
    let sent = Arc::new(AtomicBool::new(false));
    let done = Arc::clone(&sent);
    let target = TcpTarget::serve(move |mut stream| {
        stream.read_exact(&mut [0]).unwrap();
        stream.write_all(b"!").unwrap();
        stream.read_exact(&mut [0]).unwrap();
        stream.write_all(&pattern(3, LEN)).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        // Closed by the server once it has taken all, and has heard of the client's end.
        let _end = stream.read(&mut [0; 1]);
        done.store(true, Ordering::Release);
    });
    let server = Changing::start("server", server_keys(&identity, port));
    let router = Router::start(port);
    let (_local, socks) = local(&identity, router.at);
    let mut stream = socks.connect(&target.v4());
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(b"g").unwrap();
    stream.read_exact(&mut [0]).unwrap();
    router.set(Back::Drop);
    stream.write_all(b"o").unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    eventually("the server has taken all", || sent.load(Ordering::Acquire));
    server.process.signal(rustix::process::Signal::TERM);
    eventually("it ends when it has delivered it", || {
        server.said("stopping: no new connections") > 0
    });
    router.set(Back::Pass);
    let mut received = Vec::new();
    stream.read_to_end(&mut received).unwrap();
    assert!(
        received == pattern(3, LEN),
        "{} of {LEN} bytes",
        received.len()
    );
    let mut process = server.process;
    assert!(process.wait(DEADLINE).0.success());
}

#[test]
fn client_that_waits_for_its_handshake_does_not_move() {
    let (identity, target) = (Identity::new(), TcpTarget::echo());
    let (mut server, router, _local, socks) = behind_router(&identity);
    // Has a ticket, by which it sends at once to the next server.
    let mut old = open(&socks, &target);
    drop(server);
    server = Line::start("server", server_keys(&identity, router.server.port()));
    old.write_all(&[7; 500]).unwrap();
    assert!(!matches!(old.read(&mut [0; 5]), Ok(1..)));
    router.set(Back::Drop);
    let begun = Instant::now();
    let mut new = socks.connect(&target.v4());
    new.set_read_timeout(Some(DEADLINE)).unwrap();
    new.write_all(b"hello").unwrap();
    while begun.elapsed() < Duration::from_millis(2500) {
        thread::sleep(Duration::from_millis(50)); // how long nothing is heard is the subject
    }
    router.set(Back::Pass);
    let mut back = [0; 5];
    new.read_exact(&mut back).unwrap();
    assert_eq!(&back, b"hello");
    drop(server);
}
