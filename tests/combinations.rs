//! Several servers together with rules, plugins, DNS and transports: one that fails changes nothing but the way.
//!
//! Each server connects to targets from an address of its own, so that a target can tell through which one it was asked.

use crate::common::{
    DEADLINE, SILENCE, eventually,
    name_server::NameServer,
    peers::{Half, Program, Spec, Start, password, ssr},
    process::Process,
    targets::TcpTarget,
};
use crate::emulated::Namespace;
use crate::failover::{FIRST, METHOD, SECOND, ask, black_hole, entry, good, local, used, who};
use crate::plugins::{RELAY, children, program};
use hickory_resolver::proto::{
    op::{Message, Query, ResponseCode},
    rr::{Name, RecordType},
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, UdpSocket},
    process::Command,
    thread,
};
use tempfile::TempDir;

const THIRD: u8 = 4;

/// An entry of `servers` with more keys.
fn entry_with(address: SocketAddr, keys: Value) -> Value {
    let mut entry = entry(address);
    let all = entry.as_object_mut().unwrap();
    all.extend(keys.as_object().unwrap().clone());
    entry
}

/// Starts the server of this number again, where it was.
fn again(address: SocketAddr, number: u8, keys: Value) -> (Process, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.json");
    let mut config = json!({
        "server": address.ip().to_string(), "server_port": address.port(), "method": METHOD,
        "password": password(METHOD, 1), "mode": "tcp_only",
        "outbound_bind_addr": format!("127.0.0.{number}"),
    });
    let all = config.as_object_mut().unwrap();
    all.extend(keys.as_object().unwrap().clone());
    fs::write(&path, config.to_string()).unwrap();
    let mut command = ssr(&["server", "-c", path.to_str().unwrap()]);
    let mut process = Process::spawn("ssr server", &mut command).unwrap();
    process.running().unwrap();
    (process, dir)
}

#[test]
fn rule_that_names_a_server_is_not_balanced_and_others_are() {
    let (first, second, third) = (good(FIRST), good(SECOND), good(THIRD));
    let (named, free) = (who(), who());
    let entries: Vec<_> = [(&first, "first"), (&second, "second"), (&third, "third")]
        .iter()
        .map(|(half, name)| entry_with(half.address, json!({"remarks": name})))
        .collect();
    let local = local(
        &[first.address],
        json!({
            "servers": entries,
            "balancer": {"strategy": "round_robin", "probe": false},
            "rules": [{"port": named.port(), "to": "second"}],
        }),
    );
    let balanced = || {
        let mut all = used(local.address, &free.v4(), 12);
        all.sort_unstable();
        all.dedup();
        all
    };
    assert_eq!(used(local.address, &named.v4(), 6), [SECOND; 6]);
    assert_eq!(balanced(), [FIRST, SECOND, THIRD]);

    let at = second.address;
    drop(second);
    let before = named.accepted();
    // The first one was told yes before its data showed that the server is gone.
    assert!(ask(local.address, &named.v4()).is_err());
    for _ in 0..6 {
        let told = ask(local.address, &named.v4()).map(|(_, number)| number);
        assert_eq!(told, Err("reply code 5".to_owned()));
    }
    assert_eq!(named.accepted(), before, "no other server was asked");
    assert_eq!(balanced(), [FIRST, THIRD]);

    let _second = again(at, SECOND, json!({}));
    assert_eq!(used(local.address, &named.v4(), 3), [SECOND; 3]);
}

#[test]
fn rule_that_names_a_server_goes_through_its_plugin() {
    let dir = tempfile::tempdir().unwrap();
    let relay = program(dir.path(), "relay", RELAY);
    let first = good(FIRST);
    let second = Start::server(Program::Ssr, &Spec::new(METHOD))
        .with(json!({
            "outbound_bind_addr": format!("127.0.0.{SECOND}"), "mode": "tcp_only",
            "plugin": relay, "plugin_opts": "server;tcp",
        }))
        .run();
    let (named, free) = (who(), who());
    let plugged = entry_with(
        second.address,
        json!({"remarks": "plugged", "plugin": relay, "plugin_opts": "tcp"}),
    );
    let local = local(
        &[first.address],
        json!({
            "servers": [entry(first.address), plugged],
            "balancer": {"strategy": "fallback", "probe": false},
            "rules": [{"port": named.port(), "to": "plugged"}],
        }),
    );
    assert_eq!(used(local.address, &named.v4(), 4), [SECOND; 4]);
    assert_eq!(used(local.address, &free.v4(), 4), [FIRST; 4]);

    // While the plugin stands still, so does what goes through it, and nothing else.
    let plugin = children(local.process.id());
    assert_eq!(plugin.len(), 1);
    let signal = |signal| kill_process(Pid::from_raw(plugin[0]).unwrap(), signal).unwrap();
    let before = named.accepted();
    signal(Signal::STOP);
    thread::scope(|scope| {
        let waits = scope.spawn(|| ask(local.address, &named.v4()).map(|(_, number)| number));
        assert_eq!(used(local.address, &free.v4(), 4), [FIRST; 4]);
        thread::sleep(SILENCE);
        assert!(!waits.is_finished());
        assert_eq!(named.accepted(), before);
        signal(Signal::CONT);
        assert_eq!(waits.join().unwrap(), Ok(SECOND));
    });

    // Until a plugin that was killed runs again, nothing goes past it.
    signal(Signal::KILL);
    eventually("the plugin runs again", || {
        let told = ask(local.address, &named.v4()).map(|(_, number)| number);
        assert_ne!(told, Ok(FIRST));
        told.is_ok()
    });
    assert_ne!(children(local.process.id()), plugin);
}

/// A `dns` local that asks `names` through these servers.
fn dns(servers: &[SocketAddr], names: &NameServer) -> Half {
    local(
        servers,
        json!({
            "mode": "tcp_and_udp",
            "locals": [{
                "local_address": "127.0.0.1", "protocol": "dns",
                "remote_dns_address": names.address.ip().to_string(),
                "remote_dns_port": names.address.port(),
            }],
        }),
    )
}

/// Asks for the address of a name. Its answer comes to the socket that is returned.
fn query(at: SocketAddr, name: &str) -> UdpSocket {
    let mut query = Message::query();
    query.metadata.recursion_desired = true;
    query.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(at).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket.send(&query.to_vec().unwrap()).unwrap();
    socket
}

/// The code of the answer, and how many records it has.
fn answer(socket: &UdpSocket) -> (ResponseCode, usize) {
    let mut room = [0; 4096];
    let len = socket.recv(&mut room).unwrap();
    let answer = Message::from_vec(&room[..len]).unwrap();
    (answer.metadata.response_code, answer.answers.len())
}

const FOUND: (ResponseCode, usize) = (ResponseCode::NoError, 1);

/// Asks names, one of which is held while `fail` ends the first server. All of them get their answer.
fn names_are_answered_when(names: &NameServer, local: &Half, fail: impl FnOnce()) {
    assert_eq!(answer(&query(local.address, "before.test.")), FOUND);
    let held: Vec<_> = (0..5)
        .map(|number| query(local.address, &format!("held{number}.test.")))
        .collect();
    let asked =
        |times: usize| (0..5).all(|number| names.asked(&format!("held{number}.test")) >= times);
    eventually("they are in flight", || asked(1));
    fail();
    let after = query(local.address, "after.test.");
    eventually("they are asked through the second server", || asked(2));
    names.release();
    for socket in held.iter().chain([&after]) {
        assert_eq!(answer(socket), FOUND);
    }
    for number in 0..5 {
        let name = format!("later{number}.test.");
        assert_eq!(answer(&query(local.address, &name)), FOUND, "{name}");
    }
}

#[test]
fn names_are_answered_when_the_first_server_is_killed() {
    let (names, first, second) = (NameServer::start(), good(FIRST), good(SECOND));
    let local = dns(&[first.address, second.address], &names);
    names_are_answered_when(&names, &local, || drop(first));
}

#[test]
fn names_are_answered_though_the_first_server_is_a_black_hole() {
    let (names, second) = (NameServer::start(), good(SECOND));
    let (_hole, address, _fill) = black_hole();
    let local = dns(&[address, second.address], &names);
    for number in 0..5 {
        let name = format!("n{number}.test.");
        assert_eq!(answer(&query(local.address, &name)), FOUND, "{name}");
    }
}

#[test]
#[ignore = "needs root: a network namespace, and nft"]
fn names_are_answered_when_the_first_server_becomes_a_black_hole() {
    let place = Namespace::loopback().expect("root");
    place
        .run(|| {
            let (names, first, second) = (NameServer::start(), good(FIRST), good(SECOND));
            let local = dns(&[first.address, second.address], &names);
            names_are_answered_when(&names, &local, || {
                let port = first.address.port();
                let rules = format!(
                    "add table ip t; add chain ip t i {{ type filter hook input priority 0; }}; \
                     add rule ip t i tcp dport {port} drop"
                );
                assert!(Command::new("nft").arg(rules).status().unwrap().success());
            });
        })
        .unwrap();
}

#[test]
fn servers_over_websocket_are_left_when_killed_and_used_again() {
    let portal = TcpTarget::serve(|mut stream| {
        let _read = stream.read(&mut [0; 1024]);
        let _gone = stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n");
    });
    let target = who();
    let far = json!({"transport": {"type": "ws", "path": "/chat"}});
    let over_ws = |number: u8| {
        Start::server(Program::Ssr, &Spec::new(METHOD))
            .with(json!({"outbound_bind_addr": format!("127.0.0.{number}"), "mode": "tcp_only"}))
            .with(far.clone())
            .run()
    };
    for mux in [0, 1] {
        let (first, second) = (over_ws(FIRST), over_ws(SECOND));
        let near =
            json!({"transport": {"type": "ws", "path": "/chat", "host": "localhost", "mux": mux}});
        let entries = [&first, &second].map(|half| entry_with(half.address, near.clone()));
        let local = local(
            &[first.address],
            json!({
                "servers": entries,
                "balancer": {
                    "strategy": "fallback", "check_interval": 1, "max_server_rtt": 1,
                    "probe": format!("127.0.0.1:{}", portal.port()),
                },
            }),
        );
        assert_eq!(
            used(local.address, &target.v4(), 3),
            [FIRST; 3],
            "mux {mux}"
        );
        let at = first.address;
        drop(first);
        assert_eq!(
            used(local.address, &target.v4(), 5),
            [SECOND; 5],
            "mux {mux}"
        );
        let _first = again(at, FIRST, far.clone());
        eventually("the first server is used again", || {
            ask(local.address, &target.v4()).unwrap().1 == FIRST
        });
        drop(second);
        assert_eq!(
            used(local.address, &target.v4(), 3),
            [FIRST; 3],
            "mux {mux}"
        );
    }
}
