//! The protocol of ss-manager: ports are added and removed while the process runs, and their bytes are counted.

use crate::common::{
    changing::{Changing, READ},
    eventually, is_open,
    matrix::{self, Targets},
    process::{Process, free_port, v4},
    socks::Socks,
    targets::TcpTarget,
};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::{
    fs,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream, UdpSocket},
    os::unix::{fs::PermissionsExt as _, fs::symlink, net::UnixDatagram},
    path::Path,
    process::Command,
    time::Duration,
};

const METHOD: &str = "aes-256-gcm";
const WAIT: Duration = Duration::from_secs(30);

/// A program that manages ports.
enum Panel {
    Udp(UdpSocket),
    Unix(UnixDatagram),
}

impl Panel {
    fn udp(port: u16) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(v4(port)).unwrap();
        socket.set_read_timeout(Some(WAIT)).unwrap();
        Self::Udp(socket)
    }

    fn unix(own: &Path, server: &Path) -> Self {
        let socket = UnixDatagram::bind(own).unwrap();
        socket.connect(server).unwrap();
        socket.set_read_timeout(Some(WAIT)).unwrap();
        Self::Unix(socket)
    }

    fn ask(&self, command: impl AsRef<[u8]>) -> String {
        self.try_ask(command.as_ref()).expect("an answer")
    }

    /// `None`: no answer came in time.
    fn try_ask(&self, command: &[u8]) -> Option<String> {
        let mut answer = vec![0; 65_536];
        let length = match self {
            Self::Udp(socket) => {
                socket.send(command).unwrap();
                socket.recv(&mut answer)
            }
            Self::Unix(socket) => {
                socket.send(command).unwrap();
                socket.recv(&mut answer)
            }
        };
        answer.truncate(length.ok()?);
        Some(String::from_utf8(answer).unwrap())
    }

    fn add(&self, port: u16, password: &str) -> String {
        let entry = json!({"server_port": port, "password": password, "method": METHOD});
        self.ask(format!("add: {entry}"))
    }

    fn remove(&self, port: u16) -> String {
        self.ask(format!("remove: {}", json!({"server_port": port})))
    }

    fn bytes(&self) -> Value {
        let answer = self.ask("ping");
        let stat = answer.strip_prefix("stat: ");
        serde_json::from_str(stat.unwrap_or_else(|| panic!("{answer}"))).unwrap()
    }

    fn bytes_of(&self, port: u16) -> Option<u64> {
        self.bytes()[port.to_string()].as_u64()
    }
}

/// `ssr server` with a manager at a port of UDP, and no servers.
fn managed() -> (Changing, Panel) {
    let port = free_port();
    let keys = json!({"server": "127.0.0.1", "manager_address": "127.0.0.1", "manager_port": port});
    (Changing::start("server", keys), Panel::udp(port))
}

/// A client of one port.
fn client(port: u16, password: &str) -> (Changing, Socks) {
    let at = free_port();
    let server = json!({
        "server": "127.0.0.1", "server_port": port, "password": password, "method": METHOD,
    });
    let locals = json!([{"local_address": "127.0.0.1", "local_port": at}]);
    let keys = json!({"servers": [server], "locals": locals, "balancer": false});
    (Changing::start("local", keys), Socks::new(v4(at)))
}

fn echoes(stream: &mut TcpStream) -> bool {
    let mut back = [0; 5];
    stream.write_all(b"hello").is_ok() && stream.read_exact(&mut back).is_ok() && &back == b"hello"
}

fn is_closed(port: u16) -> bool {
    TcpStream::connect(v4(port)).is_err()
}

#[test]
fn added_ports_relay_and_are_counted_and_a_removed_one_ends_with_its_flows() {
    let (mut server, panel) = managed();
    assert_eq!(panel.ask("ping"), "stat: {}");
    assert_eq!(panel.ask("list"), "[]");
    let (one, other) = (free_port(), free_port());
    assert_eq!(
        (panel.add(one, "one"), panel.add(other, "two")),
        ("ok".into(), "ok".into())
    );
    let ((_first, first), (_second, second)) = (client(one, "one"), client(other, "two"));
    let targets = Targets::start();
    matrix::echoes(&first, &targets.echo.v4(), 100_000);
    matrix::echoes_datagram(&first, &targets, 1200);
    matrix::echoes(&second, &targets.echo.v4(), 10_000);
    eventually("the bytes are counted", || {
        let (one, other) = (panel.bytes_of(one), panel.bytes_of(other));
        one >= Some(202_400) && other >= Some(20_000) && other < Some(100_000)
    });
    let list: Value = serde_json::from_str(&panel.ask("list\n")).unwrap();
    let mut ports: Vec<_> = list.as_array().unwrap().iter().collect();
    ports.sort_unstable_by_key(|entry| entry["server_port"] != one);
    assert_eq!(ports.len(), 2, "{list}");
    assert_eq!(
        (&ports[0]["server_port"], &ports[0]["method"]),
        (&json!(one), &json!(METHOD))
    );
    assert_eq!(ports[0]["password"], "", "passwords are not told");

    let mut ends = first.connect(&targets.echo.v4());
    let mut stays = second.connect(&targets.echo.v4());
    assert!(echoes(&mut ends) && echoes(&mut stays));
    assert_eq!(panel.remove(one), "ok");
    eventually("the port is closed", || is_closed(one));
    eventually("its flows have ended", || !is_open(&mut ends));
    assert!(echoes(&mut stays), "the other port goes on");
    assert!(panel.bytes_of(one).is_none() && panel.bytes_of(other).is_some());
    assert!(server.process.exited().is_none());
}

#[test]
fn what_cannot_be_done_is_answered_with_err_and_changes_nothing() {
    let (mut server, panel) = managed();
    let port = free_port();
    assert_eq!(panel.add(port, "one"), "ok");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let in_use = taken.local_addr().unwrap().port();
    let deep = format!("add: {}", "[".repeat(50_000));
    for command in [
        b"".as_slice(),
        b"add: {\"server_port\":",
        b"add: {\"server_port\":1}",
        b"add: []",
        b"remove: {}",
        b"\xff\xfe\0",
        b"hunter2",
        b"stat: {\"1\":2}",
        deep.as_bytes(),
        format!("add: {{\"server_port\":{in_use},\"password\":\"hunter2\"}}").as_bytes(),
        format!("add: {{\"server_port\":{port},\"password\":\"hunter2\",\"method\":\"rot13\"}}")
            .as_bytes(),
        format!("add: {{\"server_port\":{port},\"password\":\"\"}}").as_bytes(),
        format!("remove: {{\"server_port\":{in_use}}}").as_bytes(),
    ] {
        let shown = String::from_utf8_lossy(command);
        assert_eq!(
            panel.ask(command),
            "err",
            "{}",
            &shown[..shown.len().min(80)]
        );
    }
    // The first reason of these lines is logged at once.
    eventually("it is logged", || {
        server
            .process
            .log()
            .contains("manager: a command was refused")
    });
    assert!(
        !server.process.log().contains("hunter2"),
        "{}",
        server.process.log()
    );
    let (_client, socks) = client(port, "one");
    let target = TcpTarget::echo();
    assert!(
        echoes(&mut socks.connect(&target.v4())),
        "the port goes on as it was"
    );
    // The same port again: with the password that came last.
    assert_eq!(panel.add(port, "two"), "ok");
    let (_client, socks) = client(port, "two");
    assert!(echoes(&mut socks.connect(&target.v4())));
    assert_eq!(panel.bytes().as_object().unwrap().len(), 1);
    assert!(server.process.exited().is_none());
}

#[test]
fn added_ports_survive_a_reload_of_the_file_and_removed_ones_do_not_come_back() {
    let (mut server, panel) = managed();
    let (kept, gone, of_file) = (free_port(), free_port(), free_port());
    assert_eq!(
        (panel.add(kept, "one"), panel.add(gone, "two")),
        ("ok".into(), "ok".into())
    );
    assert_eq!(panel.remove(gone), "ok");
    let (_client, socks) = client(kept, "one");
    let target = TcpTarget::echo();
    let mut open = socks.connect(&target.v4());
    assert!(echoes(&mut open));
    let entry = json!({
        "server": "127.0.0.1", "server_port": of_file, "password": "p", "method": METHOD,
    });
    server.change("servers", json!([entry]));
    assert!(echoes(&mut open) && echoes(&mut socks.connect(&target.v4())));
    eventually("the port of the file is open", || !is_closed(of_file));
    let ports = panel.bytes();
    let ports: Vec<_> = ports.as_object().unwrap().keys().collect();
    assert_eq!(ports.len(), 2, "{ports:?}");
    assert!(is_closed(gone));
    assert!(server.process.log().contains(READ));
    // Another process would not know them.
    server.process.signal(Signal::USR2);
    eventually("the upgrade is refused", || {
        server.process.log().contains("a manager has added ports")
    });
    assert!(echoes(&mut open));
}

/// A link to the program, with this name.
fn run(directory: &Path, name: &str, arguments: &str) -> Process {
    let link = directory.join(name);
    symlink(env!("CARGO_BIN_EXE_ssr"), &link).unwrap();
    let mut command = Command::new(link);
    command
        .args(arguments.split_whitespace())
        .env_remove("RUST_LOG")
        .current_dir(directory);
    let mut process = Process::spawn(name, &mut command).unwrap();
    process
        .running()
        .unwrap_or_else(|log| panic!("{name} {arguments}: {log}"));
    process
}

#[test]
fn ss_manager_and_ssmanager_are_known_by_name_and_their_socket_is_private() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    for (name, flags) in [
        (
            "ss-manager",
            "-s 127.0.0.1 -m aes-128-gcm -u --manager-address",
        ),
        ("ssmanager", "-s 127.0.0.1 -m aes-128-gcm -U --manager-addr"),
    ] {
        let socket = at("manager.sock");
        let mut process = run(
            directory.path(),
            name,
            &format!("{flags} {}", socket.display()),
        );
        let mode = fs::metadata(&socket).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
        let panel = Panel::unix(&at(&format!("{name}.own")), &socket);
        let port = free_port();
        // In quotes, and without a method: that of the flag.
        let entry = format!("add: {{\"server_port\":\"{port}\", \"password\":\"x\"}}");
        assert_eq!(panel.ask(entry), "ok", "{name}");
        let list: Value = serde_json::from_str(&panel.ask("list")).unwrap();
        let expected = json!({
            "server_port": port, "password": "", "method": "aes-128-gcm", "mode": "tcp_and_udp",
        });
        assert_eq!(list, json!([expected]), "{name}");
        assert!(!is_closed(port));
        assert_eq!(panel.remove(port), "ok");
        // Whoever has no address gets no answer, and holds up nobody.
        let nobody = UnixDatagram::unbound().unwrap();
        nobody.send_to(b"ping", &socket).unwrap();
        assert_eq!(panel.ask("ping"), "stat: {}");
        process.signal(Signal::TERM);
        let (status, log) = process.wait(WAIT);
        assert!(status.success(), "{log}");
        assert!(!socket.exists(), "the socket is removed at the end");
    }
    let config = at("empty.json");
    fs::write(&config, "{}").unwrap();
    for name in ["ss-manager", "ssmanager"] {
        let mut command = Command::new(at(name));
        let output = command.arg("-c").arg(&config).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains("manager_address: missing"), "{name}: {said}");
    }
}

#[test]
fn commands_without_end_take_no_memory_and_later_ones_are_answered() {
    let (mut server, panel) = managed();
    let port = free_port();
    assert_eq!(panel.add(port, "one"), "ok");
    let at = u16::try_from(server.keys["manager_port"].as_u64().unwrap()).unwrap();
    let flood = UdpSocket::bind("127.0.0.1:0").unwrap();
    flood.connect(v4(at)).unwrap();
    let before = server.process.memory_kib("VmRSS");
    let long = vec![b'['; 60_000];
    for _ in 0..2000 {
        // What does not fit into the queue of the socket is lost.
        let _ = flood.send(&long);
    }
    // While the queue is full, a question is lost too.
    let asker = Panel::udp(at);
    let Panel::Udp(socket) = &asker else {
        unreachable!("it asks by UDP");
    };
    let patience = Duration::from_millis(200);
    socket.set_read_timeout(Some(patience)).unwrap();
    eventually("it answers still", || asker.try_ask(b"ping").is_some());
    assert!(panel.bytes_of(port).is_some());
    let grown = server.process.memory_kib("VmRSS").saturating_sub(before);
    assert!(grown < 16 * 1024, "{grown} KiB");
    assert!(server.process.exited().is_none());
}
