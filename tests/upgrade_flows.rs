//! Open connections move to the new process: not one byte is lost, and the old process ends.

use crate::common::{
    DEADLINE,
    bytes::pattern,
    changing::Changing,
    eventually, is_open,
    line::Line,
    peers::{Spec, ssr},
    process::{Process, free_port, make_private, v4},
    socks::Socks,
    targets::TcpTarget,
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Shutdown, TcpStream},
    os::unix::{
        fs::{PermissionsExt as _, symlink},
        net::UnixDatagram,
    },
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

const METHODS: [&str; 3] = ["2022-blake3-aes-256-gcm", "chacha20-ietf-poly1305", "none"];

/// A server and a client that are replaced.
struct Pair {
    server: Line,
    local: Line,
    socks: Socks,
}

impl Pair {
    fn start(method: &str, of_server: &Value) -> Self {
        let (port, at) = (free_port(), free_port());
        let entry = json!({
            "server": "127.0.0.1", "server_port": port, "method": method,
            "password": Spec::new(method).password,
        });
        let with = |more: &Value| {
            let mut keys = entry.clone();
            for (key, value) in more.as_object().unwrap() {
                keys[key] = value.clone();
            }
            keys
        };
        let here = json!({"local_address": "127.0.0.1", "local_port": at});
        Self {
            server: Line::start("server", with(of_server)),
            local: Line::start("local", with(&here)),
            socks: Socks::new(v4(at)),
        }
    }

    /// Both ends, one after the other.
    fn upgrade(&mut self) {
        self.server.upgrade();
        self.local.upgrade();
    }

    /// Whether all processes but the newest have ended.
    fn has_moved(&mut self) -> bool {
        let mut lines = [&mut self.server, &mut self.local].into_iter();
        lines.all(|line| (0..line.pids.len() - 1).all(|place| line.has_ended(place)))
    }
}

/// Connections that send and compare what comes back, until they are told to stop.
struct Echoes {
    stop: Arc<AtomicBool>,
    all: Vec<JoinHandle<Result<Duration, String>>>,
}

impl Echoes {
    fn start(socks: &Socks, target: &TcpTarget, count: u64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let all = (0..count).map(|seed| {
            let mut stream = socks.connect(&target.v4());
            stream.set_read_timeout(Some(DEADLINE)).unwrap();
            let stop = Arc::clone(&stop);
            thread::spawn(move || echo(&mut stream, seed, &stop))
        });
        Self {
            all: all.collect(),
            stop,
        }
    }

    /// The longest time that a connection stood still.
    fn end(self) -> Duration {
        self.stop.store(true, Ordering::Release);
        let ended = self.all.into_iter().map(|one| one.join().unwrap());
        ended.map(|pause| pause.unwrap()).max().unwrap()
    }
}

/// Sends pieces of many sizes, and returns the longest time that one was on its way.
fn echo(stream: &mut TcpStream, seed: u64, stop: &AtomicBool) -> Result<Duration, String> {
    let (mut longest, mut round) = (Duration::ZERO, seed);
    while !stop.load(Ordering::Acquire) {
        round += 1;
        let len = [1, 1000, 20_000, 70_000][usize::try_from(round % 4).unwrap()];
        let sent = pattern(round, len);
        let (begun, mut back) = (Instant::now(), vec![0; len]);
        let moved = stream.write_all(&sent);
        let moved = moved.and_then(|()| stream.read_exact(&mut back));
        moved.map_err(|error| format!("connection {seed}, round {round}: {error}"))?;
        if back != sent {
            return Err(format!("connection {seed}, round {round}: other bytes"));
        }
        longest = longest.max(begun.elapsed());
        thread::sleep(Duration::from_millis(10));
    }
    Ok(longest)
}

#[test]
fn hundred_connections_survive_ten_upgrades_of_both_ends() {
    let mut pair = Pair::start(METHODS[0], &json!({}));
    let target = TcpTarget::echo();
    let echoes = Echoes::start(&pair.socks, &target, 100);
    for _ in 0..10 {
        pair.upgrade();
        eventually("the old processes end", || pair.has_moved());
    }
    println!("longest pause {:?}", echoes.end());
}

#[test]
fn connections_of_every_kind_of_method_move() {
    for method in METHODS {
        let mut pair = Pair::start(method, &json!({}));
        let target = TcpTarget::echo();
        let echoes = Echoes::start(&pair.socks, &target, 4);
        for _ in 0..2 {
            pair.upgrade();
            eventually("the old processes end", || pair.has_moved());
        }
        echoes.end();
    }
}

/// Bytes that fill all buffers on the way.
const MUCH: usize = 12 << 20;

#[test]
fn what_waits_in_full_buffers_moves_in_its_order() {
    for method in METHODS {
        let mut pair = Pair::start(method, &json!({}));
        let target = TcpTarget::serve(|mut stream| {
            let _gone = stream.write_all(&pattern(7, MUCH));
        });
        let mut paused = pair.socks.connect(&target.v4());
        paused.set_read_timeout(Some(DEADLINE)).unwrap();
        // Some of it is read, so that it flows.
        let mut first = vec![0; 100_000];
        paused.read_exact(&mut first).unwrap();
        for _ in 0..2 {
            pair.upgrade();
            eventually("the old processes end", || pair.has_moved());
        }
        let mut rest = Vec::new();
        paused.read_to_end(&mut rest).unwrap();
        assert!(
            [first, rest].concat() == pattern(7, MUCH),
            "{method}: other bytes"
        );
    }
}

#[test]
fn half_closed_connections_move_and_end() {
    let mut pair = Pair::start(METHODS[0], &json!({}));
    // Greets, and answers with what it was sent once the client has ended and it is told to.
    let go = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&go);
    let target = TcpTarget::serve(move |mut stream| {
        let mut all = Vec::new();
        stream.write_all(b"hello").unwrap();
        stream.read_to_end(&mut all).unwrap();
        eventually("it is told to answer", || told.load(Ordering::Acquire));
        stream.write_all(&all).unwrap();
    });
    let mut stream = pair.socks.connect(&target.v4());
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.read_exact(&mut [0; 5]).unwrap();
    let sent = pattern(3, 300_000);
    stream.write_all(&sent).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    for _ in 0..2 {
        pair.upgrade();
        eventually("the old processes end", || pair.has_moved());
    }
    go.store(true, Ordering::Release);
    let mut back = Vec::new();
    stream.read_to_end(&mut back).unwrap();
    assert!(back == sent, "{} bytes", back.len());
}

#[test]
fn a_user_whose_connections_have_moved_is_known_and_can_be_removed() {
    let key = |seed: u8| {
        use base64::{Engine as _, prelude::BASE64_STANDARD};
        BASE64_STANDARD.encode([seed; 32])
    };
    let user = |name: &str, seed| json!({"name": name, "password": key(seed)});
    let (port, at, admin) = (free_port(), free_port(), free_port());
    let mut keys = json!({
        "server": "127.0.0.1", "server_port": port, "method": METHODS[0], "password": key(1),
        "users": [user("ann", 2), user("bob", 3)], "admin": {"address": format!("127.0.0.1:{admin}")},
    });
    let mut server = Line::start("server", keys.clone());
    let local = json!({
        "server": "127.0.0.1", "server_port": port, "method": METHODS[0],
        "password": format!("{}:{}", key(1), key(2)), "local_address": "127.0.0.1", "local_port": at,
    });
    let _local = Line::start("local", local);
    let target = TcpTarget::echo();
    let mut stream = Socks::new(v4(at)).connect(&target.v4());
    let mut back = [0; 5];
    stream.write_all(b"hello").unwrap();
    stream.read_exact(&mut back).unwrap();
    server.upgrade();
    eventually("the old process ends", || server.has_ended(0));
    let sessions = || {
        let mut api = TcpStream::connect(v4(admin)).unwrap();
        let request = format!(
            "GET /api/v1/sessions HTTP/1.1\r\nHost: 127.0.0.1:{admin}\r\nConnection: close\r\n\r\n"
        );
        api.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        api.read_to_string(&mut answer).unwrap();
        answer
    };
    eventually("the new process knows whose it is", || {
        let answer = sessions();
        answer.contains("\"user\":\"ann\"")
            && answer.contains(&format!("127.0.0.1:{}", target.port()))
    });
    stream.write_all(b"hello").unwrap();
    stream.read_exact(&mut back).unwrap();
    // Who is removed later loses what has moved, too.
    keys["users"] = json!([user("bob", 3)]);
    server.first.write("users", keys["users"].clone());
    let pid = Pid::from_raw(server.pid().cast_signed()).unwrap();
    kill_process(pid, Signal::HUP).unwrap();
    eventually("the connection ends", || !is_open(&mut stream));
}

/// A new program that says it serves, and is gone as soon as it gets a connection.
const GOES: &str = r#"#!/usr/bin/python3
import array, json, os, socket, struct, sys
channel = socket.socket(fileno=0)
def record():
    header, rest, _, _ = channel.recvmsg(16, socket.CMSG_SPACE(8), socket.MSG_WAITALL)
    if not header:
        sys.exit(0)
    _, _, _, head, blob = struct.unpack(">4sHHII", header)
    said = channel.recv(head, socket.MSG_WAITALL) if head else b""
    if blob:
        channel.recv(blob, socket.MSG_WAITALL)
    return json.loads(said)
def say(what):
    head = json.dumps(what).encode()
    channel.sendall(struct.pack(">4sHHII", b"SSRU", 1, 0, len(head), 0) + head)
while record() != "begin":
    pass
say({"ready": {"flows": VERSION}})
while record() != "go":
    pass
record()
os._exit(1)
"#;

/// Runs `ssr server` through a link, and puts a program in place of the link which goes with the flows of this version.
fn left_to_one_that_goes(version: u16) -> (Process, TcpStream, tempfile::TempDir, Changing) {
    let directory = tempfile::tempdir().unwrap();
    let (link, config) = (
        directory.path().join("ssr"),
        directory.path().join("c.json"),
    );
    symlink(env!("CARGO_BIN_EXE_ssr"), &link).unwrap();
    let (port, at) = (free_port(), free_port());
    let entry =
        json!({"server": "127.0.0.1", "server_port": port, "method": METHODS[1], "password": "x"});
    let mut keys = entry.clone();
    // It starts another program than this one.
    keys["sandbox"] = json!(false);
    fs::write(&config, keys.to_string()).unwrap();
    make_private(&config);
    let mut command = Command::new(&link);
    let mut old =
        Process::spawn("ssr server", command.arg("server").arg("-c").arg(&config)).unwrap();
    old.running().unwrap();
    let mut keys = entry;
    keys["local_address"] = json!("127.0.0.1");
    keys["local_port"] = json!(at);
    let local = Changing::start("local", keys);
    let target = TcpTarget::echo();
    let mut stream = Socks::new(v4(at)).connect(&target.v4());
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(b"hello").unwrap();
    stream.read_exact(&mut [0; 5]).unwrap();
    fs::remove_file(&link).unwrap();
    fs::write(&link, GOES.replace("VERSION", &version.to_string())).unwrap();
    fs::set_permissions(&link, fs::Permissions::from_mode(0o700)).unwrap();
    old.signal(Signal::USR2);
    eventually("the new one serves", || {
        old.log().contains("the new process serves")
    });
    stream.write_all(b"hello").unwrap();
    stream.read_exact(&mut [0; 5]).unwrap();
    (old, stream, directory, local)
}

#[test]
fn connections_go_on_in_the_old_process_if_the_new_one_does_not_take_them() {
    let (mut old, stream, _directory, _local) = left_to_one_that_goes(1);
    assert!(
        old.log()
            .contains("the new process does not take connections"),
        "{}",
        old.log()
    );
    drop(stream);
    assert!(old.wait(DEADLINE).0.success());
    // Of another version, it is not asked to.
    let (old, _stream, _directory, _local) = left_to_one_that_goes(9);
    assert!(
        !old.log().contains("does not take connections"),
        "{}",
        old.log()
    );
}

#[test]
fn service_manager_hears_which_process_is_the_main_one() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path().join("notify");
    let manager = UnixDatagram::bind(&at).unwrap();
    manager.set_read_timeout(Some(DEADLINE)).unwrap();
    let config = directory.path().join("config.json");
    let keys = json!({
        "server": "127.0.0.1", "server_port": free_port(), "method": METHODS[1], "password": "x",
    });
    fs::write(&config, keys.to_string()).unwrap();
    make_private(&config);
    let mut command = ssr(&["server", "-c"]);
    command.arg(&config).env("NOTIFY_SOCKET", &at);
    let old = Process::spawn("ssr server", &mut command).unwrap();
    let hear = || {
        let mut buf = [0; 256];
        let len = manager.recv(&mut buf).unwrap();
        String::from_utf8_lossy(&buf[..len]).into_owned()
    };
    assert_eq!(hear(), "READY=1");
    let pid = old.id().to_string();
    let output = ssr(&["upgrade", "--pid", &pid]);
    let output = { output }.output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let new: u32 = said.split_whitespace().nth(1).unwrap().parse().unwrap();
    let mut heard = Vec::new();
    let main = format!("MAINPID={new}");
    while !heard.contains(&main) {
        heard.push(hear());
    }
    let pid = Pid::from_raw(new.cast_signed()).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
}
