//! Rules and ACL files: what goes direct, through a server or nowhere, and who is let in.
//!
//! Every 127.0.0.x is an address of this machine. Servers here send from 127.0.0.9, so a target sees which way a
//! connection came.

use std::{
    collections::HashMap,
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex},
    thread,
};

use crate::common::{
    DEADLINE, SILENCE, eventually, is_open,
    peers::{Half, Program, Spec, Start},
    socks::{Association, CONNECT, Target},
};
use serde_json::{Value, json};

const METHOD: &str = "2022-blake3-aes-256-gcm";
/// Where servers send from.
const PROXIED: &str = "127.0.0.9";
/// Where direct connections come from.
const DIRECT: &str = "127.0.0.1";
const NOT_ALLOWED: u8 = 2;

fn ip(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 0, last)
}

/// A web server on all of 127.0.0.0/8 whose pages say who asks, and at which address: `127.0.0.1 > 127.0.0.2`.
fn web() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || {
                let mut head = [0; 4096];
                let _read = stream.read(&mut head);
                let (from, to) = (stream.peer_addr().unwrap(), stream.local_addr().unwrap());
                let page = format!("{} > {}", from.ip(), to.ip());
                let _gone = write!(
                    stream,
                    "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{page}",
                    page.len()
                );
            });
        }
    });
    port
}

/// Answers every datagram with the address that it came from.
fn echo(last: u8) -> SocketAddr {
    let socket = UdpSocket::bind((ip(last), 0)).unwrap();
    let address = socket.local_addr().unwrap();
    thread::spawn(move || {
        let mut room = [0; 2048];
        while let Ok((_, from)) = socket.recv_from(&mut room) {
            let _gone = socket.send_to(from.ip().to_string().as_bytes(), from);
        }
    });
    address
}

/// A name server with the addresses of each name; of several, the next at each query. A name without any gets no answer.
pub(crate) fn names(zone: &[(&str, &[u8])]) -> (SocketAddr, Arc<Mutex<HashMap<String, usize>>>) {
    let zone: HashMap<String, Vec<u8>> = zone
        .iter()
        .map(|(name, list)| ((*name).to_owned(), list.to_vec()))
        .collect();
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = socket.local_addr().unwrap();
    let asked: Arc<Mutex<HashMap<String, usize>>> = Arc::default();
    let counts = Arc::clone(&asked);
    thread::spawn(move || {
        let mut room = [0; 2048];
        while let Ok((len, from)) = socket.recv_from(&mut room) {
            let query = &room[..len];
            let (mut at, mut labels) = (12, Vec::new());
            while query[at] > 0 {
                let end = at + 1 + usize::from(query[at]);
                labels.push(String::from_utf8_lossy(&query[at + 1..end]).to_lowercase());
                at = end;
            }
            let (name, kind) = (labels.join("."), query[at + 2]);
            let question = &query[12..at + 5];
            let Some(list) = zone.get(&name) else {
                // NXDOMAIN
                let mut answer = vec![query[0], query[1], 0x81, 0x83, 0, 1, 0, 0, 0, 0, 0, 0];
                answer.extend(question);
                let _gone = socket.send_to(&answer, from);
                continue;
            };
            let mut answer = vec![query[0], query[1], 0x81, 0x80, 0, 1, 0, 0, 0, 0, 0, 0];
            answer.extend(question);
            if kind == 1 {
                let mut counts = counts.lock().unwrap();
                let count = counts.entry(name).or_default();
                if list.is_empty() {
                    continue;
                }
                let last = list[*count % list.len()];
                *count += 1;
                answer[7] = 1;
                answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 127, 0, 0, last]);
            }
            let _gone = socket.send_to(&answer, from);
        }
    });
    (address, asked)
}

/// The server of a test, which sends from 127.0.0.9.
fn server(spec: &Spec, keys: Value) -> Half {
    Start::server(Program::Ssr, spec)
        .with(json!({"outbound_bind_addr": PROXIED}))
        .with(keys)
        .run()
}

fn local(spec: &Spec, server: &Half, keys: Value) -> Half {
    Start::local(Program::Ssr, spec, server.address)
        .with(keys)
        .flags(&["-v"])
        .run()
}

/// What curl says of `host`; `None`: it failed.
fn curl(proxy: SocketAddr, host: &str, port: u16) -> Option<String> {
    let url = if host.contains(':') {
        format!("http://[{host}]:{port}/")
    } else {
        format!("http://{host}:{port}/")
    };
    let output = Command::new("curl")
        .args(["-s", "-S", "--max-time", "15", "--noproxy", ""])
        .args(["--socks5-hostname", &proxy.to_string(), &url])
        .output()
        .unwrap();
    output
        .status
        .success()
        .then(|| String::from_utf8(output.stdout).unwrap())
}

pub(crate) fn write(directory: &Path, name: &str, text: &str) -> PathBuf {
    let path = directory.join(name);
    fs::write(&path, text).unwrap();
    path
}

fn way(from: &str, last: u8) -> Option<String> {
    Some(format!("{from} > {}", ip(last)))
}

#[test]
fn acl_sends_each_target_its_way_in_both_modes() {
    let (directory, port, spec) = (tempfile::tempdir().unwrap(), web(), Spec::new(METHOD));
    let zone: &[(&str, &[u8])] = &[
        ("a.direct.test", &[3]),
        ("ads7.test", &[4]),
        ("far.test", &[5]),
        ("near.test", &[2]),
    ];
    let (dns, _) = names(zone);
    let server = server(&spec, json!({"dns": dns.to_string()}));
    let lists = "[bypass_list]\n127.0.0.2\n||direct.test\n^ads\\d+\\.\n[proxy_list]\n127.0.0.6\n|far.test\n";
    for (mode, ways) in [
        (
            "[proxy_all]",
            [
                ("127.0.0.2", way(DIRECT, 2)),
                ("127.0.0.6", way(PROXIED, 6)),
                ("127.0.0.7", way(PROXIED, 7)),
                ("a.direct.test", way(DIRECT, 3)),
                ("ads7.test", way(DIRECT, 4)),
                ("far.test", way(PROXIED, 5)),
                ("near.test", way(DIRECT, 2)),
                ("no-such.test", None),
            ],
        ),
        (
            "[bypass_all]",
            [
                ("127.0.0.2", way(DIRECT, 2)),
                ("127.0.0.6", way(PROXIED, 6)),
                ("127.0.0.7", way(DIRECT, 7)),
                ("a.direct.test", way(DIRECT, 3)),
                ("ads7.test", way(DIRECT, 4)),
                ("far.test", way(PROXIED, 5)),
                ("near.test", way(DIRECT, 2)),
                ("no-such.test", None),
            ],
        ),
    ] {
        let acl = write(directory.path(), "lan.acl", &format!("{mode}\n{lists}"));
        let local = local(&spec, &server, json!({"acl": acl, "dns": dns.to_string()}));
        for (host, expected) in ways {
            assert_eq!(curl(local.address, host, port), expected, "{mode} {host}");
        }
    }
}

#[test]
fn rules_send_direct_block_or_choose_a_server_by_name() {
    let (port, spec) = (web(), Spec::new(METHOD));
    let (first, second) = (
        server(&spec, json!({})),
        server(&spec, json!({"outbound_bind_addr": "127.0.0.10"})),
    );
    let entry = |half: &Half, name: &str| {
        json!({"server": "127.0.0.1", "server_port": half.address.port(), "method": spec.method,
               "password": spec.password, "remarks": name})
    };
    let local = local(
        &spec,
        &first,
        json!({
            "servers": [entry(&first, "first"), entry(&second, "second")],
            "rules": [
                {"ip": "127.0.0.2", "port": [1, "2-3"], "to": "block"},
                {"ip": ["127.0.0.2", "127.0.0.3"], "network": "tcp", "to": "direct"},
                {"ip": "127.0.0.4/32", "to": "block"},
                {"ip": "127.0.0.5", "to": "second"},
                {"domain_suffix": "blocked.test", "to": "block"},
                {"local": "127.0.0.1:1", "disabled": true, "to": "block"},
            ],
        }),
    );
    for (host, expected) in [
        ("127.0.0.2", way(DIRECT, 2)),
        ("127.0.0.4", None),
        ("127.0.0.5", way("127.0.0.10", 5)),
        ("127.0.0.6", way(PROXIED, 6)),
        ("www.blocked.test", None),
    ] {
        assert_eq!(curl(local.address, host, port), expected, "{host}");
    }
    for target in [
        Target::from(SocketAddr::from((ip(4), port))),
        Target::name("blocked.test", port),
        // Some programs send addresses as names.
        Target::name("127.0.0.4", port),
    ] {
        let (_, code, _) = local.socks().request(CONNECT, &target).unwrap();
        assert_eq!(code, NOT_ALLOWED);
    }
    eventually("the log says that a rule refused the targets", || {
        local.process.log().matches("status=\"blocked\"").count() >= 5
    });
    drop(first);
    drop(second);
    // Without a server, only what a rule sends direct arrives.
    assert_eq!(curl(local.address, "127.0.0.2", port), way(DIRECT, 2));
    for host in ["127.0.0.5", "127.0.0.6"] {
        assert_eq!(curl(local.address, host, port), None, "{host}");
    }
}

#[test]
fn name_is_resolved_once_for_rule_and_dial() {
    let (port, spec) = (web(), Spec::new(METHOD));
    // Each query gets another address: a second one would lead past the rule.
    let (dns, asked) = names(&[("turns.test", &[2, 3]), ("silent.test", &[])]);
    let server = server(&spec, json!({}));
    let local = local(
        &spec,
        &server,
        json!({"dns": dns.to_string(), "dns_cache_size": 0, "rules": [{"ip": "127.0.0.2", "to": "direct"}]}),
    );
    assert_eq!(curl(local.address, "turns.test", port), way(DIRECT, 2));
    assert_eq!(asked.lock().unwrap()["turns.test"], 1);
}

fn answer(association: &Association, target: &Target) -> String {
    String::from_utf8(association.exchange(target, b"?").1).unwrap()
}

#[test]
fn datagrams_of_one_association_go_each_their_way() {
    let spec = Spec::new(METHOD);
    let (two, three, four) = (echo(2), echo(3), echo(4));
    let (dns, _) = names(&[("near.test", &[2]), ("far.test", &[3])]);
    let server = server(&spec, json!({"dns": dns.to_string()}));
    let local = local(
        &spec,
        &server,
        json!({"dns": dns.to_string(), "rules": [
            {"ip": "127.0.0.4", "network": "udp", "to": "block"},
            {"ip": "127.0.0.2", "to": "direct"},
        ]}),
    );
    let association = local.socks().associate();
    association.warm_up(&three.into());
    for _ in 0..3 {
        assert_eq!(answer(&association, &two.into()), DIRECT);
        assert_eq!(answer(&association, &three.into()), PROXIED);
        let near = Target::name("near.test", two.port());
        assert_eq!(answer(&association, &near), DIRECT);
        let far = Target::name("far.test", three.port());
        assert_eq!(answer(&association, &far), PROXIED);
    }
    association.send(&four.into(), b"?");
    assert!(association.receive(SILENCE).is_none());
    eventually("the log says so", || {
        local.process.log().contains("status=\"blocked\"")
    });
    // A dead server takes only its own datagrams with it.
    drop(server);
    assert_eq!(answer(&association, &two.into()), DIRECT);
    association.send(&three.into(), b"?");
    assert!(association.receive(SILENCE).is_none());
    // Both ways end with the association.
    drop(association);
    eventually("both associations have ended", || {
        local.process.signal(rustix::process::Signal::USR1);
        let log = local.process.log();
        log.contains("associations=2 associations_now=0 ")
    });
}

#[test]
fn flood_of_names_that_wait_for_their_addresses_is_bounded() {
    let spec = Spec::new(METHOD);
    let two = echo(2);
    // Binds a port and never answers.
    let silent = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let dns = silent.local_addr().unwrap();
    let server = server(&spec, json!({}));
    let local = local(
        &spec,
        &server,
        json!({"dns": dns.to_string(), "rules": [{"ip": "127.0.0.2", "to": "direct"}]}),
    );
    let association = local.socks().associate();
    association.warm_up(&two.into());
    for number in 0..600 {
        association.send(&Target::name(&format!("n{number}.test"), 53), b"?");
    }
    eventually("the rest is dropped", || {
        local.process.log().contains("status=\"no_resources\"") || {
            local.process.signal(rustix::process::Signal::USR1);
            local.process.log().contains("failed.no_resources")
        }
    });
    assert_eq!(answer(&association, &two.into()), DIRECT);
}

#[test]
fn server_refuses_targets_of_its_outbound_lists() {
    let (directory, port, spec) = (tempfile::tempdir().unwrap(), web(), Spec::new(METHOD));
    let (two, three) = (echo(2), echo(3));
    let (dns, _) = names(&[
        ("evil.test", &[3]),
        ("rebind.test", &[2]),
        ("good.test", &[3]),
    ]);
    let acl = write(
        directory.path(),
        "server.acl",
        "[outbound_block_list]\n127.0.0.2\n||evil.test\n",
    );
    let server = server(&spec, json!({"acl": acl, "dns": dns.to_string()}));
    let local = local(&spec, &server, json!({}));
    for (host, expected) in [
        ("127.0.0.2", None),
        ("rebind.test", None),
        ("www.evil.test", None),
        ("evil.test", None),
        ("127.0.0.3", way(PROXIED, 3)),
        ("good.test", way(PROXIED, 3)),
    ] {
        assert_eq!(curl(local.address, host, port), expected, "{host}");
    }
    let association = local.socks().associate();
    association.warm_up(&three.into());
    for target in [
        Target::from(two),
        Target::name("rebind.test", two.port()),
        Target::name("evil.test", three.port()),
    ] {
        association.send(&target, b"?");
    }
    assert_eq!(association.receive(SILENCE), None);
    assert_eq!(answer(&association, &three.into()), PROXIED);
}

#[test]
fn server_is_silent_to_clients_that_its_lists_refuse() {
    let (directory, port, spec) = (tempfile::tempdir().unwrap(), web(), Spec::new(METHOD));
    let three = echo(3);
    for text in ["[black_list]\n127.0.0.1\n", "[reject_all]\n"] {
        let acl = write(directory.path(), "server.acl", text);
        let refusing = Start::server(Program::Ssr, &spec)
            .with(json!({"acl": acl, "timeouts": {"handshake": 2}, "outbound_bind_addr": PROXIED}))
            .flags(&["-v"])
            .run();
        let local = local(&spec, &refusing, json!({}));
        assert_eq!(curl(local.address, "127.0.0.3", port), None, "{text}");
        // Nothing distinguishes it from a stranger: no byte, no reset, and the end when the handshake's time is over.
        let mut client = TcpStream::connect(refusing.address).unwrap();
        client.write_all(&[7; 100]).unwrap();
        thread::sleep(SILENCE);
        assert!(is_open(&mut client));
        client.set_nonblocking(false).unwrap();
        client.set_read_timeout(Some(DEADLINE)).unwrap();
        assert_eq!(client.read(&mut [0]).unwrap(), 0);
        let association = local.socks().associate();
        association.send(&three.into(), b"?");
        assert!(association.receive(SILENCE).is_none());
        eventually("the log says why", || {
            refusing.process.log().matches("status=\"blocked\"").count() >= 3
        });
    }
    let acl = write(
        directory.path(),
        "server.acl",
        "[reject_all]\n[white_list]\n127.0.0.0/24\n",
    );
    let admitting = server(&spec, json!({"acl": acl}));
    let local = local(&spec, &admitting, json!({}));
    assert_eq!(curl(local.address, "127.0.0.3", port), way(PROXIED, 3));
}

#[test]
fn changed_list_is_read_again_and_a_bad_one_changes_nothing() {
    let (directory, port, spec) = (tempfile::tempdir().unwrap(), web(), Spec::new(METHOD));
    let list = write(directory.path(), "list.txt", "127.0.0.2\n");
    let acl = write(directory.path(), "lan.acl", "[bypass_list]\n127.0.0.4\n");
    let server = server(&spec, json!({}));
    let local = local(
        &spec,
        &server,
        json!({"acl": acl, "rules": [{"list": list, "to": "direct"}]}),
    );
    let goes = |last: u8| curl(local.address, &ip(last).to_string(), port);
    assert_eq!((goes(2), goes(3)), (way(DIRECT, 2), way(PROXIED, 3)));
    fs::write(&list, "127.0.0.3\n").unwrap();
    eventually("the new list counts", || goes(3) == way(DIRECT, 3));
    assert_eq!((goes(2), goes(4)), (way(PROXIED, 2), way(DIRECT, 4)));
    fs::write(&list, "127.0.0.2\nfull:\n").unwrap();
    eventually("the bad list is reported", || {
        local
            .process
            .log()
            .contains("the changed rules cannot be used")
    });
    eventually("the log says so", || {
        local.process.log().contains("list.txt:2: ")
    });
    assert_eq!((goes(2), goes(3)), (way(PROXIED, 2), way(DIRECT, 3)));
    fs::write(&acl, "[bypass_list]\n127.0.0.5\n").unwrap();
    // Both files are read together, so the bad one holds up the other.
    fs::write(&list, "127.0.0.2\n").unwrap();
    eventually("both new files count", || {
        goes(5) == way(DIRECT, 5) && goes(2) == way(DIRECT, 2)
    });
    assert_eq!(goes(4), way(PROXIED, 4));
    let log = local.process.log();
    assert_eq!(log.matches("the changed rules cannot be used").count(), 1);
}

#[test]
fn a_listener_may_have_an_acl_of_its_own() {
    let (directory, port, spec) = (tempfile::tempdir().unwrap(), web(), Spec::new(METHOD));
    let common = write(directory.path(), "common.acl", "[bypass_list]\n127.0.0.2\n");
    let own = write(directory.path(), "own.acl", "[bypass_list]\n127.0.0.3\n");
    let server = server(&spec, json!({}));
    let other = crate::common::process::free_port();
    let local = local(
        &spec,
        &server,
        json!({"acl": common, "locals": [
            {"local_address": "127.0.0.1"},
            {"local_address": "127.0.0.1", "local_port": other, "acl": own},
        ]}),
    );
    let second = SocketAddr::from((Ipv4Addr::LOCALHOST, other));
    for (proxy, direct, proxied) in [(local.address, 2, 3), (second, 3, 2)] {
        let goes = |last: u8| curl(proxy, &ip(last).to_string(), port);
        assert_eq!(goes(direct), way(DIRECT, direct));
        assert_eq!(goes(proxied), way(PROXIED, proxied));
    }
}
