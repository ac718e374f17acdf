//! Listeners at a path, and on sockets that systemd passes.

use crate::common::{
    DEADLINE,
    bytes::pattern,
    eventually,
    http::origin,
    peers::{Half, Program, Spec, Start, ssr},
    process::{Process, free_port, v4},
    socks::{ASSOCIATE, CONNECT, Socks, Target, datagram, request_bytes},
    targets::TcpTarget,
    udp::UdpTarget,
};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::{
    io::{Read, Write},
    net::{Shutdown, UdpSocket},
    os::unix::{fs::PermissionsExt as _, net::UnixStream},
    path::{Path, PathBuf},
    process::Command,
    thread,
};
use tempfile::TempDir;

const METHOD: &str = "2022-blake3-aes-128-gcm";

/// A server, and `ssr local` that is to use it.
struct Scene {
    dir: TempDir,
    server: Half,
    spec: Spec,
}

impl Scene {
    fn new() -> Self {
        let spec = Spec::new(METHOD);
        Self {
            dir: tempfile::tempdir().unwrap(),
            server: Start::server(Program::Ssr, &spec).run(),
            spec,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The config of `ssr local` with these listeners.
    fn config(&self, locals: &Value) -> PathBuf {
        let config = json!({
            "server": "127.0.0.1", "server_port": self.server.address.port(), "method": self.spec.method,
            "password": self.spec.password, "locals": locals,
        });
        let path = self.path("local.json");
        std::fs::write(&path, config.to_string()).unwrap();
        path
    }

    fn local(&self, locals: &Value) -> Process {
        let mut local = self.spawn(locals);
        local.running().unwrap();
        local
    }

    fn spawn(&self, locals: &Value) -> Process {
        let config = self.config(locals);
        let mut command = ssr(&["local", "-c"]);
        Process::spawn("local", command.arg(config)).unwrap()
    }
}

fn connect(path: &Path) -> UnixStream {
    let stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.set_write_timeout(Some(DEADLINE)).unwrap();
    stream
}

/// A SOCKS5 request without login; returns the stream after the reply, and the address in it.
fn socks(path: &Path, command: u8, target: &Target) -> (UnixStream, Target) {
    let mut stream = connect(path);
    stream.write_all(&[5, 1, 0]).unwrap();
    stream.write_all(&request_bytes(command, target)).unwrap();
    let mut reply = [0; 2 + 4 + 6];
    stream.read_exact(&mut reply).unwrap();
    assert_eq!(reply[..6], [5, 0, 5, 0, 0, 1], "{reply:?}");
    (stream, Target::parse(&reply[5..]).0)
}

/// Sends to an echo, ends, and gets all of it back.
fn echoes(mut stream: UnixStream, len: usize) {
    let sent = pattern(7, len);
    let mut writing = stream.try_clone().unwrap();
    let expected = sent.clone();
    let writer = thread::spawn(move || {
        writing.write_all(&sent).unwrap();
        writing.shutdown(Shutdown::Write).unwrap();
    });
    let mut echoed = Vec::new();
    stream.read_to_end(&mut echoed).unwrap();
    writer.join().unwrap();
    assert!(echoed == expected, "{} of {len} bytes", echoed.len());
}

fn curl(arguments: &[&str]) -> Vec<u8> {
    let output = Command::new("curl")
        .args(["-sS", "-m", "20"])
        .args(arguments)
        .env_clear()
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {error}");
    output.stdout
}

#[test]
fn programs_use_locals_at_paths() {
    let scene = Scene::new();
    let (origin, echo) = (origin(), TcpTarget::echo());
    let [mixed, http, tunnel] = ["mixed", "http", "tunnel"].map(|name| scene.path(name));
    let local = scene.local(&json!([
        {"local_address": mixed},
        {"local_address": format!("unix://{}", http.display()), "protocol": "http"},
        {"local_address": tunnel, "protocol": "tunnel", "forward_address": "127.0.0.1", "forward_port": echo.port()},
    ]));
    let log = local.log();
    assert!(
        log.contains(&format!("address={}", mixed.display())),
        "{log}"
    );
    let url = format!("http://localhost:{}/hello", origin.port());
    for scheme in ["socks5h", "socks4a"] {
        let proxy = format!("{scheme}://localhost{}", mixed.display());
        assert_eq!(curl(&["-x", &proxy, &url]), b"hello");
    }
    for path in [&mixed, &http] {
        let at = path.display().to_string();
        let asked = ["--unix-socket", &at, "--request-target", &url, &url];
        assert_eq!(curl(&asked), b"hello");
    }
    let (stream, _) = socks(&mixed, CONNECT, &echo.v4());
    echoes(stream, 3 << 20);
    echoes(connect(&tunnel), 1 << 20);
}

#[test]
fn python_talks_http_at_a_path() {
    let scene = Scene::new();
    let origin = origin();
    let path = scene.path("s");
    let _local = scene.local(&json!([{"local_address": path, "protocol": "http"}]));
    let script = "import http.client, socket, sys\n\
        class Connection(http.client.HTTPConnection):\n    \
            def connect(self):\n        \
                self.sock = socket.socket(socket.AF_UNIX)\n        \
                self.sock.connect(sys.argv[1])\n\
        c = Connection('127.0.0.1')\n\
        for _ in range(3):\n    \
            c.request('GET', sys.argv[2])\n    \
            assert c.getresponse().read() == b'hello'\n";
    let url = format!("http://127.0.0.1:{}/hello", origin.port());
    let output = Command::new("python3")
        .args(["-c", script])
        .arg(&path)
        .arg(url)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn socket_file_has_its_mode_and_lasts_as_long_as_the_process() {
    let scene = Scene::new();
    let echo = TcpTarget::echo();
    let path = scene.path("s");
    let locals = json!([{"local_address": path, "local_socket_mode": "620"}]);
    let mut local = scene.local(&locals);
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o620);

    let (status, log) = scene.spawn(&locals).wait(DEADLINE);
    assert_eq!(status.code(), Some(69), "{log}");
    assert!(log.contains("another program listens there"), "{log}");
    echoes(socks(&path, CONNECT, &echo.v4()).0, 1000);

    local.signal(Signal::KILL);
    local.wait(DEADLINE);
    assert!(path.exists());
    let mut local = scene.local(&locals);
    echoes(socks(&path, CONNECT, &echo.v4()).0, 1000);
    local.signal(Signal::TERM);
    let (status, log) = local.wait(DEADLINE);
    assert!(status.success(), "{log}");
    assert!(!path.exists(), "the socket is still there");
}

#[test]
fn clients_at_a_path_send_datagrams_to_the_udp_port() {
    let scene = Scene::new();
    let (path, port, echo) = (scene.path("s"), free_port(), UdpTarget::echo());
    let _local = scene.local(&json!([{"local_address": path, "local_udp_port": port}]));
    let (_held, bound) = socks(&path, ASSOCIATE, &v4(0).into());
    assert_eq!(bound.socket(), Some(v4(port)));
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    let sent = datagram(0, &echo.target(), b"ping");
    socket.send_to(&sent, v4(port)).unwrap();
    let mut room = [0; 100];
    let len = socket.recv(&mut room).unwrap();
    assert!(room[..len].ends_with(b"ping"));
}

/// Makes these sockets, and becomes `ssr` with them as systemd does.
const LAUNCHER: &str = "import json, os, socket, sys\n\
    sockets = []\n\
    for kind, name, place in json.loads(sys.argv[1]):\n    \
        s = socket.socket(socket.AF_UNIX if kind == 'unix' else socket.AF_INET,\n        \
            socket.SOCK_DGRAM if kind == 'udp' else socket.SOCK_STREAM)\n    \
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)\n    \
        s.bind(place if kind == 'unix' else ('127.0.0.1', place))\n    \
        if kind != 'udp': s.listen()\n    \
        sockets.append(os.dup2(s.fileno(), 100 + len(sockets)))\n\
    for i, s in enumerate(sockets): os.dup2(s, 3 + i)\n\
    for s in sockets: os.close(s)\n\
    os.environ['LISTEN_PID'] = str(os.getpid() + int(sys.argv[2]))\n\
    os.environ['LISTEN_FDS'] = str(len(sockets))\n\
    os.environ['LISTEN_FDNAMES'] = ':'.join(name for _, name, _ in json.loads(sys.argv[1]))\n\
    os.execv(sys.argv[3], sys.argv[3:])\n";

fn launched(sockets: &Value, pid_error: u32, role: &str, config: &Path) -> Process {
    let mut command = Command::new("python3");
    command
        .args(["-c", LAUNCHER, &sockets.to_string(), &pid_error.to_string()])
        .args([env!("CARGO_BIN_EXE_ssr"), role, "-c"])
        .arg(config);
    Process::spawn("launcher", &mut command).unwrap()
}

#[test]
fn sockets_that_systemd_passes_are_used_by_address_and_by_name() {
    let scene = Scene::new();
    let (echo, udp_echo) = (TcpTarget::echo(), UdpTarget::echo());
    let (by_address, by_name) = (free_port(), free_port());
    let (by_path, by_path_name) = (scene.path("a"), scene.path("b"));
    let config = scene.config(&json!([
        {"local_address": "127.0.0.1", "local_port": by_address},
        {"systemd_tcp_socket_name": "socks", "systemd_udp_socket_name": "socks"},
        {"local_address": by_path},
        {"systemd_tcp_socket_name": "unix", "mode": "tcp_only"},
    ]));
    let sockets = json!([
        ["tcp", "x", by_address],
        ["udp", "x", by_address],
        ["tcp", "socks", by_name],
        ["udp", "socks", by_name],
        ["unix", "x", by_path],
        ["unix", "unix", by_path_name],
        ["tcp", "spare", free_port()],
    ]);
    let mut local = launched(&sockets, 0, "local", &config);
    local.running().unwrap();
    for port in [by_address, by_name] {
        let socks = Socks::new(v4(port));
        let mut stream = socks.connect(&echo.v4());
        stream.write_all(b"ping").unwrap();
        let mut back = [0; 4];
        stream.read_exact(&mut back).unwrap();
        let association = socks.associate();
        association.exchange(&udp_echo.target(), b"datagram");
    }
    for path in [&by_path, &by_path_name] {
        echoes(socks(path, CONNECT, &echo.v4()).0, 100_000);
    }
    let log = local.log();
    let spare = "systemd passed a socket that the config has no use for socket=`spare`, TCP";
    assert!(log.contains(spare), "{log}");
    assert_eq!(log.matches("no use for").count(), 1, "{log}");
    local.signal(Signal::TERM);
    local.wait(DEADLINE);
    assert!(by_path.exists(), "systemd's own file was removed");
}

#[test]
fn sockets_of_another_process_are_left_alone() {
    let scene = Scene::new();
    let port = free_port();
    let config = scene.config(&json!([{"local_address": "127.0.0.1", "local_port": port}]));
    // Its port is taken by the socket that is not ours.
    let (status, log) = launched(&json!([["tcp", "x", port]]), 1, "local", &config).wait(DEADLINE);
    assert!(!status.success() && log.contains("in use"), "{log}");

    let config = scene.config(&json!([{"systemd_tcp_socket_name": "absent"}]));
    let (status, log) = launched(&json!([]), 0, "local", &config).wait(DEADLINE);
    assert!(!status.success(), "{log}");
    let error = "systemd_tcp_socket_name: systemd passed no stream socket named `absent`";
    assert!(log.contains(error), "{log}");
}

#[test]
fn server_uses_the_sockets_that_systemd_passes() {
    let (spec, port, echo) = (Spec::new(METHOD), free_port(), TcpTarget::echo());
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("server.json");
    let text = json!({"server": "127.0.0.1", "server_port": port, "method": METHOD, "password": spec.password});
    std::fs::write(&config, text.to_string()).unwrap();
    let sockets = json!([["tcp", "ss", port], ["udp", "ss", port]]);
    let mut server = launched(&sockets, 0, "server", &config);
    server.running().unwrap();
    let local = Start::local(Program::Ssr, &spec, v4(port)).run();
    let mut stream = local.socks().connect(&echo.v4());
    stream.write_all(b"ping").unwrap();
    let mut back = [0; 4];
    stream.read_exact(&mut back).unwrap();
    let udp = UdpTarget::echo();
    local
        .socks()
        .associate()
        .exchange(&udp.target(), b"datagram");
}

#[test]
#[ignore = "needs peers: scripts/test"]
fn systemd_socket_activate_starts_us_with_its_sockets() {
    let scene = Scene::new();
    let (port, echo) = (free_port(), TcpTarget::echo());
    let config = scene.config(&json!([{"systemd_tcp_socket_name": "socks", "mode": "tcp_only"}]));
    let mut command = Command::new("systemd-socket-activate");
    command
        .args(["--fdname=socks", "-l", &format!("127.0.0.1:{port}")])
        .args([env!("CARGO_BIN_EXE_ssr"), "local", "-c"])
        .arg(config);
    let activator = Process::spawn("systemd-socket-activate", &mut command).unwrap();
    eventually("it listens", || activator.log().contains("Listening on"));
    let mut stream = Socks::new(v4(port)).connect(&echo.v4());
    stream.write_all(b"ping").unwrap();
    let mut back = [0; 4];
    stream.read_exact(&mut back).unwrap();
}
