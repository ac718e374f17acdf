//! `congestion`: which sockets use the algorithm of the config, and what is said of one that cannot be used.

use std::fs;
use std::net::TcpStream;
use std::process::Command;

use serde_json::{Value, json};

use crate::common::changing::Changing;
use crate::common::line::Line;
use crate::common::peers::{Spec, ssr};
use crate::common::process::{Process, free_port, make_private, v4};
use crate::common::socks::{Socks, read_array};
use crate::common::targets::TcpTarget;
use crate::common::{DEADLINE, eventually};

const METHOD: &str = "2022-blake3-aes-256-gcm";
/// Every kernel has it, every user may choose it, and it is no system's default.
const OTHER: &str = "reno";

fn setting(name: &str) -> String {
    let text = fs::read_to_string(format!("/proc/sys/net/ipv4/{name}")).unwrap();
    text.trim().to_owned()
}

fn default() -> String {
    setting("tcp_congestion_control")
}

fn entry(port: u16) -> Value {
    let spec = Spec::new(METHOD);
    json!({
        "server": "127.0.0.1", "server_port": port, "method": METHOD, "password": spec.password,
        // One connection, the test's.
        "warm_connections": 0,
    })
}

/// A config with one server, and a listener at `local`. `top` and `server` are the keys of the two places.
fn config(port: u16, local: u16, top: Option<&str>, server: Option<&str>) -> Value {
    let mut entry = entry(port);
    if let Some(name) = server {
        entry["congestion"] = json!(name);
    }
    let mut config = json!({"servers": [entry], "local_address": "127.0.0.1", "local_port": local});
    if let Some(name) = top {
        config["congestion"] = json!(name);
    }
    config
}

/// The algorithm of the established sockets that `filter` of `ss` names.
fn algorithm(filter: &str) -> String {
    let mut found: Vec<String> = Vec::new();
    eventually("ss lists the sockets", || {
        let mut command = Command::new("ss");
        command.args(["-tinHO", "state", "established", filter]);
        let output = command.output().unwrap();
        let known = setting("tcp_available_congestion_control");
        let known: Vec<&str> = known.split(' ').collect();
        let text = String::from_utf8(output.stdout).unwrap();
        let of = |line: &str| {
            let mut words = line.split_whitespace();
            words.find(|word| known.contains(word)).unwrap().to_owned()
        };
        found = text.lines().map(of).collect();
        !found.is_empty()
    });
    found.dedup();
    assert_eq!(found.len(), 1, "{filter}: {found:?}");
    found.remove(0)
}

/// A flow through the proxy at `local`, on which the target has spoken.
fn flow(local: u16, target: &TcpTarget) -> TcpStream {
    let mut stream = Socks::new(v4(local)).connect(&target.v4());
    let [_] = read_array(&mut stream);
    stream
}

/// The algorithms of the sockets on the way: accepted and connecting by `ssr local`, accepted and outgoing by `ssr server`.
fn on_the_way(local: u16, server: u16, target: &TcpTarget) -> [String; 4] {
    let _flow = flow(local, target);
    [
        format!("sport = :{local}"),
        format!("dport = :{server}"),
        format!("sport = :{server}"),
        format!("dport = :{}", target.port()),
    ]
    .map(|filter| algorithm(&filter))
}

#[test]
#[ignore = "needs peers: scripts/test"]
fn congestion_is_that_of_every_socket_of_its_half_and_of_its_server() {
    let default = default();
    let both = |accepted: &str, connecting: &str| [accepted, connecting].map(str::to_owned);
    let plain = both(&default, &default);
    for (top, server, at_local, at_server) in [
        (None, None, plain.clone(), plain.clone()),
        (Some(OTHER), None, both(OTHER, OTHER), both(OTHER, OTHER)),
        // The listener of `ssr local` is not the server's.
        (None, Some(OTHER), both(&default, OTHER), both(OTHER, OTHER)),
        (
            Some(OTHER),
            Some(default.as_str()),
            both(OTHER, &default),
            both(&default, &default),
        ),
    ] {
        for is_at_server in [true, false] {
            let (port, at) = (free_port(), free_port());
            let set = config(port, at, top, server);
            let unset = config(port, at, None, None);
            let (of_server, of_local) = match is_at_server {
                true => (set, unset),
                false => (unset, set),
            };
            let _server = Changing::start("server", of_server);
            let _local = Changing::start("local", of_local);
            let target = TcpTarget::speaks_first();
            let expected = match is_at_server {
                true => [plain.clone(), at_server.clone()].concat(),
                false => [at_local.clone(), plain.clone()].concat(),
            };
            let found = on_the_way(at, port, &target);
            assert_eq!(
                found.to_vec(),
                expected,
                "{top:?} {server:?} {is_at_server}"
            );
        }
    }
}

#[test]
#[ignore = "needs peers: scripts/test"]
fn congestion_changes_with_a_reload_and_back() {
    let (port, at) = (free_port(), free_port());
    let mut server = Changing::start("server", config(port, at, None, None));
    let _local = Changing::start("local", config(port, at, None, None));
    let (target, default) = (TcpTarget::speaks_first(), default());
    let both = |name: &str| [default.as_str(), &default, name, name].map(str::to_owned);
    assert_eq!(on_the_way(at, port, &target), both(&default));
    let before = flow(at, &target);
    let mut with_key = entry(port);
    with_key["congestion"] = json!(OTHER);
    server.change("servers", json!([with_key]));
    drop(before);
    flows_end(port, &target);
    assert_eq!(on_the_way(at, port, &target), both(OTHER));
    let refused = server.spoil("congestion", json!("no-such-one"));
    assert!(refused.contains("allowed are"), "{refused}");
    server.change("servers", json!([entry(port)]));
    flows_end(port, &target);
    assert_eq!(on_the_way(at, port, &target), both(&default));
}

/// Waits until no flow of the server is left.
fn flows_end(port: u16, target: &TcpTarget) {
    let filter = format!("( sport = :{port} or dport = :{} )", target.port());
    eventually("the flows end", || {
        let mut command = Command::new("ss");
        let output = command.args(["-tnH", "state", "established", &filter]);
        output.output().unwrap().stdout.is_empty()
    });
}

#[test]
#[ignore = "needs peers: scripts/test"]
fn congestion_outlives_an_upgrade_and_ends_with_its_key() {
    let (port, at) = (free_port(), free_port());
    let mut server = Line::start("server", config(port, at, Some(OTHER), None));
    let _local = Changing::start("local", config(port, at, None, None));
    let (target, default) = (TcpTarget::speaks_first(), default());
    let both = |name: &str| [default.as_str(), &default, name, name].map(str::to_owned);
    assert_eq!(on_the_way(at, port, &target), both(OTHER));
    server.upgrade();
    flows_end(port, &target);
    assert_eq!(on_the_way(at, port, &target), both(OTHER));
    server
        .first
        .keys
        .as_object_mut()
        .unwrap()
        .remove("congestion");
    server.first.write("workers", json!(1));
    server.upgrade();
    flows_end(port, &target);
    assert_eq!(on_the_way(at, port, &target), both(&default));
}

/// What `ssr check` and `ssr server` say of a config, and their exit codes.
fn said_of(config: &Value) -> [(Option<i32>, String); 2] {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.json");
    fs::write(&path, config.to_string()).unwrap();
    make_private(&path);
    let path = path.to_str().unwrap();
    let output = ssr(&["check", "--role", "server", "-c", path])
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    let checked = (output.status.code(), String::from_utf8(text).unwrap());
    let mut server = Process::spawn("ssr server", &mut ssr(&["server", "-c", path])).unwrap();
    if server.running().is_ok() {
        server.signal(rustix::process::Signal::TERM);
    }
    let (status, log) = server.wait(DEADLINE);
    [checked, (status.code(), log)]
}

#[test]
fn congestion_control_that_the_system_lacks_is_refused_with_those_it_has() {
    let (port, at) = (free_port(), free_port());
    let allowed = setting("tcp_allowed_congestion_control");
    for (key, config) in [
        ("congestion", config(port, at, Some("no-such-one"), None)),
        (
            "servers[0].congestion",
            config(port, at, None, Some("no-such-one")),
        ),
    ] {
        for (code, said) in said_of(&config) {
            assert_eq!(code, Some(78), "{said}");
            let line = said.lines().find(|line| line.contains(key)).unwrap();
            for words in [
                "`no-such-one`: not a congestion control that the system has",
                &format!("allowed are `{allowed}`"),
            ] {
                assert!(line.contains(words), "{said}");
            }
            assert!(said.contains("modprobe tcp_no-such-one"), "{said}");
        }
    }
    for name in ["", "a name of 16 b.", "sixteen-letters-", "réno"] {
        for (code, said) in said_of(&config(port, at, Some(name), None)) {
            assert_eq!(code, Some(78), "{said}");
            assert!(said.contains("must have 1 to 15 characters"), "{said}");
        }
    }
    let [(code, said), (run, log)] = said_of(&config(port, at, Some(OTHER), None));
    assert_eq!((code, run), (Some(0), Some(0)), "{said}{log}");
    assert!(said.contains("congestion  reno"), "{said}");
}

#[test]
#[ignore = "needs root: another user"]
fn congestion_control_that_only_root_may_choose_is_refused_for_another_user() {
    let is_allowed = |name: &str| {
        let allowed = setting("tcp_allowed_congestion_control");
        allowed.split(' ').any(|one| one == name)
    };
    let available = setting("tcp_available_congestion_control");
    for name in available.split(' ') {
        let mut keys = config(free_port(), free_port(), Some(name), None);
        for (code, said) in said_of(&keys) {
            assert_eq!(code, Some(0), "root may choose {name}: {said}");
        }
        keys["user"] = json!("nobody");
        let [(code, said), (run, log)] = said_of(&keys);
        let expected = if is_allowed(name) { 0 } else { 78 };
        assert_eq!((code, run), (Some(expected), Some(expected)), "{said}{log}");
        let is_said = said.contains("sysctl -w net.ipv4.tcp_allowed_congestion_control");
        assert_eq!(is_said, !is_allowed(name), "{said}");
    }
}
