//! The whole config is read again by difference: what is the same goes on, and a bad file changes nothing.

use crate::common::{
    changing::{Changing, READ},
    eventually, is_open,
    load::Load,
    peers::{Half, Program, Spec, Start, password},
    process::{free_port, v4},
    socks::Socks,
    targets::TcpTarget,
    udp::UdpTarget,
};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::net::UnixDatagram,
    time::{Duration, Instant},
};

const METHOD: &str = "2022-blake3-aes-256-gcm";

fn entry(port: u16) -> Value {
    let spec = Spec::new(METHOD);
    json!({"server": "127.0.0.1", "server_port": port, "method": METHOD, "password": spec.password})
}

fn with(mut entry: Value, keys: Value) -> Value {
    let keys = keys.as_object().unwrap().clone();
    entry.as_object_mut().unwrap().extend(keys);
    entry
}

fn listener(port: u16) -> Value {
    json!({"local_address": "127.0.0.1", "local_port": port})
}

/// A server and a client, each with one port.
fn pair() -> (Changing, Changing, u16, u16) {
    let (server, local) = (free_port(), free_port());
    let at = Changing::start("server", json!({"servers": [entry(server)]}));
    let keys = json!({"servers": [entry(server)], "locals": [listener(local)]});
    (at, Changing::start("local", keys), server, local)
}

fn echoes(stream: &mut TcpStream) -> bool {
    let mut back = [0; 5];
    stream.write_all(b"hello").is_ok() && stream.read_exact(&mut back).is_ok() && &back == b"hello"
}

fn works(port: u16, target: &TcpTarget) -> bool {
    let asked = Socks::new(v4(port)).request(1, &target.v4());
    asked.is_ok_and(|(mut stream, code, _)| code == 0 && echoes(&mut stream))
}

fn is_closed(port: u16) -> bool {
    TcpStream::connect(v4(port)).is_err()
}

#[test]
fn reloads_under_load_break_no_flow() {
    let (mut server, mut local, port, at) = pair();
    let (second, third) = (free_port(), free_port());
    let load = Load::start(&Socks::new(v4(at)), 4, 8);
    for round in 0..8 {
        // Beside what is in use, and in it: rules, timeouts, the server's own settings.
        server.change("servers", json!([entry(port), entry(second)]));
        local.change("locals", json!([listener(at), listener(third)]));
        local.change(
            "servers",
            json!([with(entry(port), json!({"remarks": format!("r{round}")}))]),
        );
        local.change("rules", json!([{"port": 1 + round, "to": "block"}]));
        server.change(
            "servers",
            json!([with(entry(port), json!({"timeout": 200 + round}))]),
        );
        local.change("timeouts", json!({"idle": 200 + round}));
        server.change("timeouts", json!({"idle": 200 + round}));
        local.change("locals", json!([listener(at)]));
        server.change(
            "servers",
            json!([
                entry(port),
                with(entry(second), json!({"users": [user("a", 7 + round)]}))
            ]),
        );
        server.change("servers", json!([entry(port)]));
    }
    let done = load.done();
    eventually("downloads go on", || load.done() > done + 4);
    let outcome = load.end();
    assert_eq!(outcome.broken, Vec::<String>::new());
    assert!(outcome.done > 8 + 8, "{outcome:?}");
}

#[test]
fn removed_listener_is_closed_and_its_flows_go_on() {
    let (mut server, mut local, port, at) = pair();
    let (other, target) = (free_port(), TcpTarget::echo());
    local.change("locals", json!([listener(at), listener(other)]));
    let mut open = Socks::new(v4(other)).connect(&target.v4());
    assert!(echoes(&mut open) && works(at, &target));
    local.change("locals", json!([listener(at)]));
    eventually("the port is closed", || is_closed(other));
    assert!(echoes(&mut open), "what is open goes on");
    assert!(works(at, &target));
    // The same on the server, by a listener that goes to another port.
    let moved = free_port();
    server.change("servers", json!([entry(moved)]));
    eventually("the port is closed", || is_closed(port));
    assert!(echoes(&mut open), "what is open goes on");
    local.change("servers", json!([entry(moved)]));
    assert!(works(at, &target) && echoes(&mut open));
}

#[test]
fn changed_listener_keeps_its_socket_and_its_clients_that_wait() {
    let (_server, mut local, _, at) = pair();
    let target = TcpTarget::echo();
    // One client in its handshake, and one that is served.
    let mut early = TcpStream::connect(v4(at)).unwrap();
    early.write_all(&[5, 1, 0]).unwrap();
    let mut chosen = [0; 2];
    early.read_exact(&mut chosen).unwrap();
    let mut open = Socks::new(v4(at)).connect(&target.v4());
    local.change(
        "locals",
        json!([with(listener(at), json!({"mode": "tcp_only"}))]),
    );
    assert!(works(at, &target) && echoes(&mut open));
    assert!(is_open(&mut early), "a handshake goes on");
    early.set_nonblocking(false).unwrap();
    early.write_all(&[5, 1, 0]).unwrap();
    early.write_all(&target.v4().0).unwrap();
    let mut reply = [0; 10];
    early.read_exact(&mut reply).unwrap();
    assert_eq!(reply[1], 0);
    assert!(echoes(&mut early));
}

#[test]
fn datagrams_go_on_beside_what_changes() {
    let (mut server, mut local, port, at) = pair();
    let target = UdpTarget::echo();
    let association = Socks::new(v4(at)).associate();
    association.warm_up(&target.target());
    local.change("locals", json!([listener(at), listener(free_port())]));
    server.change("servers", json!([entry(port), entry(free_port())]));
    local.change("rules", json!([]));
    association.exchange(&target.target(), b"the same association");
    let seen = target.seen();
    let from = |data: &[u8]| {
        seen.iter()
            .find(|(_, is)| is == data)
            .map(|(from, _)| *from)
    };
    let first = seen.first().map(|(from, _)| *from);
    assert_eq!(
        from(b"the same association"),
        first,
        "the server's socket is the same"
    );
}

#[test]
fn bad_config_changes_nothing_and_says_where() {
    let (_server, mut local, _, at) = pair();
    let target = TcpTarget::echo();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let other = free_port();
    for (locals, complaint) in [
        (
            json!([listener(other), {"local_port": "x"}]),
            "locals[1].local_port",
        ),
        (
            json!([listener(other), {"local_port": 1, "protocoll": "socks"}]),
            "locals[1].protocoll",
        ),
        (
            json!([listener(other), listener(port)]),
            &*format!("127.0.0.1:{port}"),
        ),
    ] {
        let line = local.spoil("locals", locals);
        assert!(line.contains(complaint), "{line}");
        let names_file = line.contains(&format!("{}:", local.path().display()));
        assert!(names_file || complaint.starts_with("127"), "{line}");
        assert!(is_closed(other) && works(at, &target));
    }
    drop(taken);
    local.change("locals", json!([listener(at), listener(other)]));
    assert!(works(other, &target));
}

/// A server with this user and a client of it.
fn local_of(server: u16, user: (&str, u64)) -> Half {
    let spec = Spec::new(METHOD);
    let key = password(METHOD, user.1);
    let spec = Spec {
        password: format!("{}:{key}", spec.password),
        ..spec
    };
    Start::local(Program::Ssr, &spec, v4(server)).run()
}

fn user(name: &str, seed: u64) -> Value {
    json!({"name": name, "password": password(METHOD, seed)})
}

#[test]
fn removed_user_loses_its_flows_and_the_others_keep_theirs() {
    let port = free_port();
    let users = |list: Value| json!([with(entry(port), json!({"users": list}))]);
    let (a, b) = (user("a", 11), user("b", 12));
    let mut server = Changing::start("server", json!({"servers": users(json!([a, b]))}));
    let target = TcpTarget::echo();
    let locals = [local_of(port, ("a", 11)), local_of(port, ("b", 12))];
    let [mut of_a, mut of_b] = [0, 1].map(|at| locals[at].socks().connect(&target.v4()));
    assert!(echoes(&mut of_a) && echoes(&mut of_b));
    server.change("servers", users(json!([a, user("c", 13)])));
    let mut rest = Vec::new();
    assert!(
        !matches!(of_b.read_to_end(&mut rest), Ok(1..)),
        "the flows of b end"
    );
    assert!(echoes(&mut of_a), "those of a go on");
    assert!(echoes(
        &mut local_of(port, ("c", 13)).socks().connect(&target.v4())
    ));
    assert_eq!(
        server.said("users of server"),
        1,
        "{}",
        server.process.log()
    );
}

#[test]
fn thousand_users_come_and_go_under_load() {
    let port = free_port();
    let users = |count: u64| {
        let list: Vec<Value> = (0..count)
            .map(|number| user(&format!("u{number}"), 100 + number))
            .collect();
        json!([with(entry(port), json!({"users": list}))])
    };
    let mut server = Changing::start("server", json!({"servers": users(1)}));
    let local = local_of(port, ("u0", 100));
    let load = Load::start(&local.socks(), 2, 4);
    let began = Instant::now();
    let counts = (1..=20).map(|step| step * 50);
    for count in counts.clone().chain(counts.rev()).chain([1]) {
        server.change("servers", users(count));
    }
    assert!(
        began.elapsed() < Duration::from_secs(40),
        "50 a second: {:?}",
        began.elapsed()
    );
    let done = load.done();
    eventually("downloads go on", || load.done() > done + 2);
    assert_eq!(load.end().broken, Vec::<String>::new());
}

#[test]
fn keys_that_need_a_restart_are_named_and_left() {
    let (_server, mut local, _, at) = pair();
    let (target, other) = (TcpTarget::echo(), free_port());
    local.keys["workers"] = json!(3);
    local.keys["dns"] = json!("127.0.0.1:1");
    local.keys["reverse"] = json!([{"name": "a", "bind": "127.0.0.1:1", "target": "127.0.0.1:1"}]);
    local.change("locals", json!([listener(at), listener(other)]));
    for key in ["workers", "dns", "reverse"] {
        let words = format!("needs a restart key=\"{key}\"");
        assert_eq!(local.said(&words), 1, "{key}: {}", local.process.log());
    }
    assert!(works(at, &target) && works(other, &target));
}

#[test]
fn file_is_watched_if_the_config_says_so() {
    let (_server, mut local, _, at) = pair();
    let (target, other) = (TcpTarget::echo(), free_port());
    local.change("watch", json!(true));
    local.write("locals", json!([listener(at), listener(other)]));
    eventually("the new listener is there", || !is_closed(other));
    assert!(works(other, &target));
    local.write("watch", json!(false));
    eventually("it is read once more", || local.said(READ) == 3);
}

#[test]
fn limits_change_while_they_are_in_use() {
    let (_server, mut local, _, at) = pair();
    let target = TcpTarget::echo();
    local.change("limits", json!({"connections": 1}));
    let mut first = Socks::new(v4(at)).connect(&target.v4());
    assert!(echoes(&mut first));
    let mut second = TcpStream::connect(v4(at)).unwrap();
    second.write_all(&[5, 1, 0]).unwrap();
    second
        .set_read_timeout(Some(crate::common::SILENCE))
        .unwrap();
    let mut chosen = [0; 2];
    assert!(
        second.read_exact(&mut chosen).is_err(),
        "there is no place for it"
    );
    local.change("limits", json!({"connections": 2}));
    second
        .set_read_timeout(Some(crate::common::DEADLINE))
        .unwrap();
    second.read_exact(&mut chosen).unwrap();
    assert!(echoes(&mut first));
}

#[test]
fn log_level_changes_at_once() {
    let (_server, mut local, _, at) = pair();
    let target = TcpTarget::echo();
    assert!(works(at, &target));
    assert_eq!(local.said("DEBUG"), 0);
    local.change("log", json!({"level": 1}));
    eventually("a stream is logged", || {
        works(at, &target) && local.said("DEBUG") > 0
    });
    local.change("log", json!({"level": 0}));
}

#[test]
fn unix_listener_is_handed_on_with_its_file() {
    let (directory, at) = (tempfile::tempdir().unwrap(), free_port());
    let listens =
        |name: &str| json!({"local_address": directory.path().join(name), "mode": "tcp_only"});
    // A process makes sockets where the config that it began with has one.
    let locals = json!([listener(at), listens("first")]);
    let keys = json!({"servers": [entry(free_port())], "locals": locals});
    let mut local = Changing::start("local", keys);
    let (path, at_path) = (directory.path().join("s"), listens("s"));
    local.change("locals", json!([listener(at), at_path]));
    local.change("timeouts", json!({"idle": 77}));
    let connect = || std::os::unix::net::UnixStream::connect(&path);
    let mut stream = connect().unwrap();
    stream.write_all(&[5, 1, 0]).unwrap();
    let mut chosen = [0; 2];
    stream.read_exact(&mut chosen).unwrap();
    assert_eq!(chosen, [5, 0]);
    local.change("locals", json!([listener(at)]));
    eventually("its file is gone", || !path.exists());
}

#[test]
fn hundred_reloads_leave_nothing_behind() {
    let (mut server, mut local, port, at) = pair();
    let (second, target) = (free_port(), TcpTarget::echo());
    let mut round = |round: usize| {
        server.change("servers", json!([entry(port), entry(second)]));
        server.change("timeouts", json!({"idle": 100 + round}));
        server.change("servers", json!([entry(port)]));
        local.change("rules", json!([{"port": 1 + round, "to": "block"}]));
        local.change("timeouts", json!({"idle": 100 + round}));
        assert!(works(at, &target));
        [&server, &local].map(|one| (one.process.open_files(), one.process.memory_kib("Rss")))
    };
    for warm_up in 0..3 {
        round(warm_up);
    }
    let before = round(3);
    for number in 4..24 {
        round(number);
    }
    // What a connection has open may still be closing.
    let mut number = 24;
    eventually("as many files are open as before", || {
        number += 1;
        let after = round(number);
        let mut both = before.iter().zip(&after);
        both.all(|((files, memory), (now, then))| now <= files && *then < memory + (8 << 10))
    });
}

#[test]
fn process_without_a_file_says_that_there_is_nothing_to_read() {
    let (key, port) = (password(METHOD, 1), free_port());
    let at = format!("127.0.0.1:{port}");
    let flags = ["server", "-s", &at, "-m", METHOD, "-k", &key];
    let mut command = crate::common::peers::ssr(&flags);
    let mut process = crate::common::process::Process::spawn("ssr server", &mut command).unwrap();
    process.running().unwrap();
    process.signal(Signal::HUP);
    eventually("the log says so", || {
        process
            .log()
            .contains("there is no config file to read again")
    });
    assert!(!is_closed(port));
}

#[test]
fn systemd_is_told_when_a_reload_begins_and_ends() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.json");
    let port = free_port();
    let keys = json!({"servers": [entry(port)]});
    std::fs::write(&path, keys.to_string()).unwrap();
    crate::common::process::make_private(&path);
    let manager = UnixDatagram::bind(directory.path().join("notify")).unwrap();
    manager
        .set_read_timeout(Some(crate::common::DEADLINE))
        .unwrap();
    let mut command = crate::common::peers::ssr(&["server", "-c", path.to_str().unwrap()]);
    command.env("NOTIFY_SOCKET", directory.path().join("notify"));
    let mut process = crate::common::process::Process::spawn("ssr server", &mut command).unwrap();
    process.running().unwrap();
    process.signal(Signal::HUP);
    let mut said = Vec::new();
    while !said.ends_with(&["RELOADING=1".to_owned(), "READY=1".to_owned()]) {
        let mut room = [0; 256];
        let len = manager.recv(&mut room).unwrap();
        said.push(String::from_utf8(room[..len].to_vec()).unwrap());
    }
}
