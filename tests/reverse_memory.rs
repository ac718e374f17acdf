//! What the visitors of a slow link make both sides hold, and that none of them waits for the others.

use crate::common::{
    DEADLINE, SILENCE, eventually,
    peers::{Half, Program, Spec, Start},
    process::{free_port, v4},
    reverse::*,
    targets::TcpTarget,
};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::{
    collections::HashMap,
    io::{ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

/// Visitors at once.
const VISITORS: usize = 600;
/// Bytes a second of the slow path.
const RATE: usize = 1 << 20;
/// What all of them may cost, in KiB of the whole process.
const MOST: u64 = 96 << 10;

/// A path that carries so many bytes a second in each direction; 0 closes it.
struct SlowPath {
    address: SocketAddr,
    rate: Arc<AtomicUsize>,
}

impl SlowPath {
    fn new(to: SocketAddr, rate: usize) -> Self {
        let listener = TcpListener::bind(v4(0)).unwrap();
        let address = listener.local_addr().unwrap();
        let rate = Arc::new(AtomicUsize::new(rate));
        let rates = Arc::clone(&rate);
        thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                let far = TcpStream::connect(to).unwrap();
                for (from, to) in [(&near, &far), (&far, &near)] {
                    // What the kernel holds here is not held by a side of the link.
                    let socket = socket2::SockRef::from(from);
                    socket.set_recv_buffer_size(256 << 10).unwrap();
                    let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    let rate = Arc::clone(&rates);
                    thread::spawn(move || carry(from, to, &rate));
                }
            }
        });
        Self { address, rate }
    }
}

impl Drop for SlowPath {
    fn drop(&mut self) {
        self.rate.store(0, Relaxed);
    }
}

fn carry(mut from: TcpStream, mut to: TcpStream, rate: &AtomicUsize) {
    let mut bytes = vec![0; 16 << 10];
    let mut next = Instant::now();
    loop {
        let rate = rate.load(Relaxed);
        let count = from.read(&mut bytes).unwrap_or(0);
        if rate == 0 || count == 0 || to.write_all(&bytes[..count]).is_err() {
            break;
        }
        next = next.max(Instant::now())
            + Duration::from_secs(count as u64) / u32::try_from(rate).unwrap();
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    let _gone = to.shutdown(Shutdown::Both);
}

/// A server and a client that publishes `target` over a path of `rate` bytes a second.
struct Scene {
    server: Half,
    client: Half,
    bound: SocketAddr,
    path: SlowPath,
}

impl Scene {
    fn new(target: &TcpTarget, rate: usize, limits: &Value) -> Self {
        let allow = json!({ "heartbeat": 60, "allow": [{ "bind": "127.0.0.1:1-65535" }] });
        let server = Start::server(Program::Ssr, &Spec::new(METHOD))
            .with(json!({ "reverse": allow, "limits": limits }))
            .run();
        let path = SlowPath::new(server.address, rate);
        let list = vec![service("target", free_port(), target.port())];
        let client = Start::local(Program::Ssr, &Spec::new(METHOD), path.address)
            .with(json!({ "limits": limits, "reverse": { "heartbeat": 60, "services": list } }))
            .run();
        let bound = published(&client, "target");
        Self {
            server,
            client,
            bound,
            path,
        }
    }

    fn visitors(&self, count: usize) -> Vec<TcpStream> {
        let visitor = |number: usize| {
            let mut stream = dial(self.bound);
            let socket = socket2::SockRef::from(&stream);
            socket.set_send_buffer_size(16 << 10).unwrap();
            let number = u32::try_from(number).unwrap();
            stream.write_all(&number.to_be_bytes()).unwrap();
            stream
        };
        (0..count).map(visitor).collect()
    }
}

/// Writes whatever the streams take, until `enough`.
fn push(streams: &[TcpStream], mut enough: impl FnMut() -> bool) {
    let bytes = vec![7; 32 << 10];
    for stream in streams {
        stream.set_nonblocking(true).unwrap();
    }
    while !enough() {
        let mut taken = 0;
        for mut stream in streams {
            match stream.write(&bytes) {
                Ok(count) => taken += count,
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
        }
        if taken == 0 {
            thread::sleep(Duration::from_millis(10));
        }
    }
}

/// The visitors break off.
fn leave(visitors: Vec<TcpStream>) {
    for visitor in visitors {
        let socket = socket2::SockRef::from(&visitor);
        socket.set_linger(Some(Duration::ZERO)).unwrap();
    }
}

fn after(time: Duration) -> impl FnMut() -> bool {
    let begun = Instant::now();
    move || begun.elapsed() > time
}

/// A target that counts what each visitor has sent, who says first which one it is.
fn counting() -> (TcpTarget, Arc<Mutex<HashMap<u32, usize>>>) {
    let counts = Arc::new(Mutex::new(HashMap::new()));
    let counted = Arc::clone(&counts);
    let target = TcpTarget::serve(move |mut stream| {
        let (mut number, mut bytes) = ([0; 4], vec![0; 64 << 10]);
        if stream.read_exact(&mut number).is_err() {
            return;
        }
        while let Ok(count @ 1..) = stream.read(&mut bytes) {
            let number = u32::from_be_bytes(number);
            *counted.lock().unwrap().entry(number).or_default() += count;
        }
    });
    (target, counts)
}

#[test]
fn visitors_that_send_over_a_slow_link_cost_little_and_no_more_the_next_time() {
    let (target, _) = counting();
    let scene = Scene::new(&target, RATE, &json!({}));
    let mut cost = Vec::new();
    for _ in 0..4 {
        let visitors = scene.visitors(VISITORS);
        push(&visitors, after(Duration::from_secs(3)));
        cost.push(scene.server.process.memory_kib("VmRSS"));
        leave(visitors);
        scene.path.rate.store(1 << 30, Relaxed);
        eventually("the visitors have left", || {
            scene.server.process.open_files() < VISITORS / 2
        });
        scene.path.rate.store(RATE, Relaxed);
    }
    println!("KiB: {cost:?}");
    assert!(cost.iter().all(|cost| *cost < MOST), "{cost:?} KiB");
    assert!(cost[3] < cost[2] + (8 << 10), "{cost:?} KiB");
}

#[test]
fn memory_mib_holds_for_what_waits_for_a_slow_link() {
    let (target, _) = counting();
    let scene = Scene::new(&target, RATE, &json!({ "memory_mib": 16 }));
    let before = scene.server.process.memory_kib("VmRSS");
    let visitors = scene.visitors(VISITORS);
    push(&visitors, after(Duration::from_secs(3)));
    let grown = scene.server.process.memory_kib("VmRSS") - before;
    println!("{grown} KiB");
    // Beside the buffers, each visitor has a task and two sockets.
    assert!(grown < 40 << 10, "{grown} KiB");
}

#[test]
fn visitors_that_receive_over_a_slow_link_cost_little() {
    let target = TcpTarget::serve(|mut stream| {
        let bytes = vec![7; 32 << 10];
        while stream.write_all(&bytes).is_ok() {}
    });
    let scene = Scene::new(&target, RATE, &json!({}));
    let visitors = scene.visitors(VISITORS);
    let mut bytes = vec![0; 64 << 10];
    let mut received = vec![0; VISITORS];
    let begun = Instant::now();
    for stream in &visitors {
        stream.set_nonblocking(true).unwrap();
    }
    // Long enough for a turn of each.
    while begun.elapsed() < Duration::from_secs(4) || received.contains(&0) {
        assert!(begun.elapsed() < 2 * DEADLINE, "{received:?}");
        for (mut stream, received) in visitors.iter().zip(&mut received) {
            match stream.read(&mut bytes) {
                Ok(count @ 1..) => *received += count,
                Ok(0) => panic!("it has ended"),
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
        }
        thread::sleep(Duration::from_millis(10));
    }
    let sides = [&scene.server, &scene.client].map(|side| side.process.memory_kib("VmRSS"));
    println!("KiB: {sides:?}");
    assert!(sides.iter().all(|cost| *cost < MOST), "{sides:?} KiB");
}

#[test]
fn no_visitor_of_a_slow_link_waits_for_the_others() {
    const MANY: usize = 150;
    let (target, counts) = counting();
    let scene = Scene::new(&target, 4 * RATE, &json!({}));
    let mut visitors = scene.visitors(MANY);
    push(&visitors, after(Duration::from_secs(2)));
    // One who comes last has little to say.
    visitors.extend(scene.visitors(MANY + 1).drain(MANY..));
    visitors[MANY].write_all(b"last").unwrap();
    let all = |counts: &HashMap<u32, usize>| {
        (0..=u32::try_from(MANY).unwrap()).all(|number| counts.contains_key(&number))
    };
    let begun = Instant::now();
    push(&visitors[..MANY], || {
        assert!(begun.elapsed() < DEADLINE, "{counts:?}");
        all(&counts.lock().unwrap())
    });
}

#[test]
fn visitors_whose_target_does_not_read_keep_the_link_from_nobody() {
    /// More than all of them may have waiting for the link.
    const STALLED: usize = 300;
    let target = TcpTarget::serve(|mut stream| {
        let mut first = [0; 5];
        if stream.read_exact(&mut first).is_ok() && first[4] == b'?' {
            let _gone = stream.write_all(b"!");
        }
        // Whoever asks no question is not read.
        thread::sleep(3 * DEADLINE);
    });
    let scene = Scene::new(&target, 1 << 30, &json!({}));
    let stalled = scene.visitors(STALLED);
    push(&stalled, after(Duration::from_secs(3)));
    let mut other = scene.visitors(1).remove(0);
    other.write_all(b"?").unwrap();
    other.read_exact(&mut [0]).unwrap();
    let cost = scene.server.process.memory_kib("VmRSS");
    println!("{cost} KiB");
    assert!(cost < MOST, "{cost} KiB");
}

#[test]
fn visitors_that_have_read_everything_are_not_reset_for_others() {
    /// Less than what is worth a Window frame.
    const PAGE: usize = 60_000;
    let target = TcpTarget::serve(|mut stream| {
        let _gone = stream.write_all(&[7; PAGE]);
        let mut end = [0];
        while let Ok(1) = stream.read(&mut end) {
            let _gone = stream.write_all(&end);
        }
    });
    let scene = Scene::new(&target, 1 << 30, &json!({}));
    let mut page = vec![0; PAGE + 4];
    // Together they get more than the 64 MiB that may be unread.
    let mut visitors = scene.visitors(1200);
    for visitor in &mut visitors {
        visitor.read_exact(&mut page).unwrap();
    }
    for visitor in &mut visitors {
        exchange(visitor, b"x").unwrap();
    }
}

/// A client that does not read is not a reason to close its link, and what its visitors do meanwhile is bounded.
#[test]
fn datagrams_to_a_stopped_client_neither_pile_up_nor_end_the_link() {
    let target = UdpSocket::bind(v4(0)).unwrap();
    let port = target.local_addr().unwrap().port();
    let allow = json!({ "heartbeat": 60, "allow": [{ "bind": "127.0.0.1:1-65535" }] });
    let server = Start::server(Program::Ssr, &Spec::new(METHOD))
        .with(json!({ "reverse": allow, "mode": "tcp_and_udp" }))
        .run();
    let service = with(
        service("datagrams", free_port(), port),
        json!({ "protocol": "udp" }),
    );
    let client = client(&server, json!({ "heartbeat": 60, "services": [service] }));
    let bound = published(&client, "datagrams");
    client.process.signal(Signal::STOP);
    let before = server.process.memory_kib("VmRSS");
    for number in 0..120_000u32 {
        let visitor = UdpSocket::bind(v4(0)).unwrap();
        visitor.send_to(b"datagram", bound).unwrap();
        if number % 100 == 0 {
            thread::sleep(Duration::from_millis(2));
        }
    }
    let grown = server.process.memory_kib("VmRSS").saturating_sub(before);
    println!("{grown} KiB");
    client.process.signal(Signal::CONT);
    assert!(grown < 64 << 10, "{grown} KiB");
    let visitor = UdpSocket::bind(v4(0)).unwrap();
    target.set_read_timeout(Some(SILENCE)).unwrap();
    eventually("a visitor is served again", || {
        visitor.send_to(b"again", bound).unwrap();
        let mut bytes = [0; 100];
        while let Ok(count) = target.recv(&mut bytes) {
            if &bytes[..count] == b"again" {
                return true;
            }
        }
        false
    });
    assert_eq!(said(&server, &["link lost"]), 0);
    assert_eq!(said(&client, &["link lost"]), 0);
}
