//! A server whose control group has 64 MiB: ten thousand flows are asked for, readers that do not read, datagrams from new
//! sources. It serves as many as the memory is enough for, and the kernel never has to end it.

use std::collections::HashSet;
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::sync::PoisonError;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;
use socket2::{Domain, Socket, Type};

use crate::common::eventually;
use crate::common::peers::{Program, Spec, Start};
use crate::{ALONE, affordable};

const LIMIT: u64 = 64 << 20;
/// Flows that are asked for.
const ASKED: usize = 10_000;
/// Readers who ask for much and read nothing.
const SLOW: usize = 400;
const DATAGRAMS: usize = 40_000;
/// What these readers ask for, each.
const MUCH: usize = 4 << 20;

/// When nobody was served for so long, nobody will be.
const PATIENCE: Duration = Duration::from_secs(3);

/// A control group with a limit of its memory, removed when it is dropped.
struct Group(PathBuf);

impl Group {
    fn new(name: &str) -> Self {
        let name = format!("{name}-{}", std::process::id());
        // Version 1, and version 2 where its memory controller is there.
        let version_1 = PathBuf::from("/sys/fs/cgroup/memory");
        let (parent, file) = if version_1.is_dir() {
            (version_1, "memory.limit_in_bytes")
        } else {
            (PathBuf::from("/sys/fs/cgroup"), "memory.max")
        };
        let group = Self(parent.join(name));
        fs::create_dir(&group.0).expect("a control group: root is needed");
        fs::write(group.0.join(file), LIMIT.to_string()).expect("a limit of memory");
        group
    }

    /// A command of a shell that becomes the program behind it, in this group.
    fn enter(&self) -> String {
        let procs = self.0.join("cgroup.procs");
        format!("echo $$ > {} && exec \"$0\" \"$@\"", procs.display())
    }

    /// The most bytes that it had, with what it had read from files.
    fn most(&self) -> u64 {
        let files = ["memory.max_usage_in_bytes", "memory.peak"];
        let text = files.map(|file| fs::read_to_string(self.0.join(file)).unwrap_or_default());
        text.concat().trim().parse().unwrap_or_default()
    }

    /// How often the kernel ended a process of the group.
    fn kills(&self) -> u64 {
        let events = ["memory.oom_control", "memory.events"];
        let text = events.map(|file| fs::read_to_string(self.0.join(file)).unwrap_or_default());
        let line = text.iter().flat_map(|text| text.lines());
        let kills = line.filter_map(|line| line.strip_prefix("oom_kill "));
        kills.map(|count| count.parse::<u64>().unwrap()).sum()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Only an empty group can be removed, and its last process may still be ending.
        for _ in 0..100 {
            if fs::remove_dir(&self.0).is_ok() {
                return;
            }
            thread::sleep(Duration::from_millis(50));
        }
    }
}

/// A connection that may still wait for a place in the queue of the listener.
fn connect(server: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_nonblocking(true).unwrap();
    let _ = socket.connect(&server.into());
    TcpStream::from(socket)
}

/// A flow by method `none`: to `target`, with one byte that says what it wants.
fn ask(server: SocketAddr, target: u16, wish: u8) -> TcpStream {
    let mut client = connect(server);
    let mut request = vec![1, 127, 0, 0, 1];
    request.extend(target.to_be_bytes());
    request.push(wish);
    eventually("the kernel takes a request", || {
        client.write_all(&request).is_ok()
    });
    client
}

/// Answers each flow with a byte; with many, if it asks for that.
fn serve_target() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        let mut held = Vec::new();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut wish = [0];
            if stream.read_exact(&mut wish).is_err() {
                continue;
            }
            let _ = stream.write_all(b"!");
            if wish == *b"m" {
                // A task of its own that ends with the connection: nobody reads what it writes.
                thread::Builder::new()
                    .stack_size(64 << 10)
                    .spawn(move || drop(stream.write_all(&vec![0; MUCH])))
                    .unwrap();
            } else {
                held.push(stream);
            }
        }
    });
    port
}

fn is_answered(client: &mut TcpStream) -> bool {
    let mut byte = [0];
    matches!(client.read(&mut byte), Ok(1))
}

/// The same server, from ten thousand flows to a single new one.
#[test]
fn a_small_control_group_means_fewer_flows_and_no_end() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let files = affordable();
    // Each flow that is served has a file at this client and one at its target.
    let asked = ASKED.min(files * 2 - 6_000);
    let group = Group::new("ssr-flows");
    let enter = group.enter();
    let wrapper = ["sh", "-c", enter.as_str()];
    let start = Start::server(Program::Ssr, &Spec::new("none")).wrapped(&wrapper);
    let mut server = start
        .with(json!({"mode": "tcp_and_udp", "timeouts": {"half_close": 1}}))
        .run();
    let target = serve_target();
    let mut held: Vec<_> = (0..SLOW)
        .map(|_| ask(server.address, target, b'm'))
        .collect();
    let mut served = HashSet::new();
    let mut last = 0;
    for _ in SLOW..asked {
        held.push(ask(server.address, target, b'i'));
        if held.len() % 500 == 0 {
            // As fast as it takes them, so that the queue of its listener does not overflow.
            let idle = &mut held[SLOW..];
            let mut moved = Instant::now();
            while served.len() < idle.len() && moved.elapsed() < PATIENCE {
                let before = served.len();
                for (index, client) in idle.iter_mut().enumerate() {
                    if !served.contains(&index) && is_answered(client) {
                        served.insert(index);
                    }
                }
                if served.len() > before {
                    moved = Instant::now();
                }
                thread::sleep(Duration::from_millis(20)); // the server's time to take them
            }
            if served.len() == last {
                break;
            }
            last = served.len();
        }
    }
    // Nobody is served any more; others knock all the same.
    held.extend((held.len()..asked).map(|_| connect(server.address)));
    let sink = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let mut datagram = vec![1, 127, 0, 0, 1];
    datagram.extend(sink.local_addr().unwrap().port().to_be_bytes());
    datagram.extend([7; 1200]);
    for _ in 0..DATAGRAMS / 10 {
        let source = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        for _ in 0..10 {
            let _ = source.send_to(&datagram, server.address);
        }
    }
    println!(
        "of {} flows, {} idle ones are served, with at most {} of {} KiB",
        held.len(),
        served.len(),
        group.most() >> 10,
        LIMIT >> 10
    );
    assert!(served.len() > 2_000, "{} of {asked}", served.len());
    assert_eq!(group.kills(), 0, "{}", server.process.log());
    assert!(
        server.process.exited().is_none(),
        "{}",
        server.process.log()
    );
    // Those who have a place keep it, and others come as soon as they go.
    let first = held.len() / 2;
    drop(held.split_off(first));
    drop(held);
    eventually("a new flow is served", || {
        let mut client = ask(server.address, target, b'i');
        client.set_nonblocking(false).unwrap();
        client
            .set_read_timeout(Some(Duration::from_secs(2)))
            .unwrap();
        is_answered(&mut client)
    });
    assert_eq!(group.kills(), 0);
    drop(server);
}
