//! The `dns` locals of `ssr local`, asked by `dig` and by hand.

use crate::common::{
    DEADLINE, bytes, eventually,
    name_server::{NameServer, TTL},
    peers::{Half, Pair, Program, Spec, Start},
    process::{free_port, v4},
};
use crate::failover::{FIRST, METHOD as STREAMS, SECOND, entry, good};
use hickory_resolver::proto::{
    op::{Message, MessageType, Query, ResponseCode},
    rr::{Name, RecordType},
};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream, UdpSocket},
    process::Command,
    thread,
    time::{Duration, Instant},
};

const METHOD: &str = "2022-blake3-aes-128-gcm";

/// A pair whose local side answers DNS.
fn pair(keys: &Value) -> Pair {
    let spec = Spec::new(METHOD);
    let mut local = json!({"local_address": "127.0.0.1", "protocol": "dns"});
    let all = local.as_object_mut().unwrap();
    all.extend(keys.as_object().unwrap().clone());
    Pair::with(Start::server(Program::Ssr, &spec), |at| {
        Start::local(Program::Ssr, &spec, at)
            .flags(&["-v"])
            .with(json!({"locals": [local], "workers": 2}))
    })
}

/// A pair that asks `server` through the Shadowsocks server.
fn remote(server: &NameServer) -> Pair {
    let (ip, port) = (server.address.ip().to_string(), server.address.port());
    pair(&json!({"remote_dns_address": ip, "remote_dns_port": port}))
}

/// A pair that asks `server` directly.
fn direct(server: &NameServer) -> Pair {
    let (ip, port) = (server.address.ip().to_string(), server.address.port());
    pair(&json!({"local_dns_address": ip, "local_dns_port": port}))
}

fn dig(local: &Half, arguments: &[&str]) -> String {
    let output = Command::new("dig")
        .args(["@127.0.0.1", "-p", &local.address.port().to_string()])
        .args(["+tries=1", "+time=10"])
        .args(arguments)
        .output()
        .expect("scripts/test installs dig");
    String::from_utf8(output.stdout).unwrap()
}

fn ttl(answer: &str) -> u32 {
    let line = answer.lines().find(|line| line.contains("\tA\t")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn query(name: &str, kind: RecordType) -> Message {
    let mut query = Message::query();
    query.metadata.recursion_desired = true;
    query.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    query
}

/// A socket that asks `at`.
fn client(at: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(at).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket
}

fn received(socket: &UdpSocket) -> Message {
    let mut buffer = [0; 4096];
    let len = socket.recv(&mut buffer).unwrap();
    Message::from_vec(&buffer[..len]).unwrap()
}

#[test]
fn records_come_through_the_server() {
    let server = NameServer::start();
    let pair = remote(&server);
    assert_eq!(dig(&pair.local, &["+short", "a.test", "A"]), "192.0.2.1\n");
    assert_eq!(
        dig(&pair.local, &["+short", "a.test", "AAAA"]),
        "2001:db8::1\n"
    );
    assert_eq!(
        dig(&pair.local, &["+short", "alias.test"]),
        "target.test.\n192.0.2.7\n"
    );
    assert_eq!(
        dig(&pair.local, &["+short", "+tcp", "b.test"]),
        "192.0.2.1\n"
    );
    assert_eq!(
        dig(&pair.local, &["+short", "+noedns", "c.test"]),
        "192.0.2.1\n"
    );
    let refused = dig(&pair.local, &["refused.test"]);
    assert!(refused.contains("status: REFUSED"), "{refused}");
    // All in one connection: it is kept.
    assert_eq!(server.asked_by_tcp(), server.asked_at_all());
    assert_eq!(server.accepted(), 1);
    assert!(server.has_seen_case());
}

#[test]
fn long_answer_is_fetched_by_tcp() {
    let server = NameServer::start();
    let pair = remote(&server);
    for arguments in [
        &["long.test", "TXT"][..],
        &["+bufsize=4096", "long.test", "TXT"],
        &["+noedns", "long.test", "TXT"],
    ] {
        let answer = dig(&pair.local, arguments);
        assert!(
            answer.contains("Truncated, retrying in TCP mode"),
            "{answer}"
        );
        assert!(answer.contains(&"p".repeat(250)), "{answer}");
    }
    let cut = dig(&pair.local, &["+ignore", "long.test", "TXT"]);
    assert!(cut.contains("flags: qr tc rd ra"), "{cut}");
    assert!(cut.contains("ANSWER: 0"), "{cut}");
    assert_eq!(server.asked("long.test"), 1);
    // The name server itself sends it by TCP alone.
    let server = NameServer::start();
    let pair = direct(&server);
    let answer = dig(&pair.local, &["+tcp", "long.test", "TXT"]);
    assert!(answer.contains(&"p".repeat(250)), "{answer}");
    assert_eq!((server.asked("long.test"), server.asked_by_tcp()), (2, 1));
}

#[test]
fn answers_and_denials_are_kept_for_their_time() {
    let server = NameServer::start();
    let pair = remote(&server);
    for _ in 0..2 {
        let missing = dig(&pair.local, &["missing.test"]);
        assert!(missing.contains("status: NXDOMAIN"), "{missing}");
        assert!(missing.contains("SOA"), "{missing}");
        let nothing = dig(&pair.local, &["a.test", "MX"]);
        assert!(nothing.contains("status: NOERROR"), "{nothing}");
        assert!(nothing.contains("ANSWER: 0"), "{nothing}");
    }
    assert_eq!(
        (server.asked("missing.test"), server.asked("a.test")),
        (1, 1)
    );
    assert_eq!(ttl(&dig(&pair.local, &["b.test"])), TTL);
    eventually("the time to live counts down", || {
        let answer = dig(&pair.local, &["B.TesT"]);
        assert!(answer.contains("\nB.TesT."), "{answer}");
        ttl(&answer) < TTL
    });
    assert_eq!(server.asked("b.test"), 1);
    // The client's network makes an answer its own.
    for _ in 0..2 {
        dig(&pair.local, &["+subnet=192.0.2.0/24", "b.test"]);
    }
    assert_eq!(server.asked("b.test"), 3);
    // DNSSEC records are another answer.
    dig(&pair.local, &["+dnssec", "b.test"]);
    assert_eq!(server.asked("b.test"), 4);
}

#[test]
fn equal_queries_are_asked_once() {
    let server = NameServer::start();
    let pair = remote(&server);
    let clients: Vec<_> = (0..10).map(|_| client(pair.local.address)).collect();
    let ask = query("held.test.", RecordType::A);
    for client in &clients {
        for _repeated in 0..2 {
            client.send(&ask.to_vec().unwrap()).unwrap();
        }
    }
    // Another name does not wait for it, though it goes by the same connection.
    assert_eq!(dig(&pair.local, &["+short", "a.test"]), "192.0.2.1\n");
    server.release();
    for client in &clients {
        let answer = received(client);
        assert_eq!(
            (answer.metadata.id, answer.answers.len()),
            (ask.metadata.id, 1)
        );
        client.set_nonblocking(true).unwrap();
        assert!(client.recv(&mut [0]).is_err(), "one answer for each client");
    }
    assert_eq!((server.asked("held.test"), server.accepted()), (1, 1));
}

#[test]
fn forged_answers_are_waited_out() {
    let server = NameServer::start();
    let pair = direct(&server);
    assert_eq!(dig(&pair.local, &["+short", "forged.test"]), "192.0.2.1\n");
    assert_eq!((server.asked("forged.test"), server.asked_by_tcp()), (1, 0));
    assert!(server.has_seen_case());
    // A storm of them, and a server that changes the case, are answered by TCP.
    assert_eq!(dig(&pair.local, &["+short", "stormed.test"]), "192.0.2.1\n");
    assert_eq!(
        (server.asked("stormed.test"), server.asked_by_tcp()),
        (2, 1)
    );
    assert_eq!(dig(&pair.local, &["+short", "lowered.test"]), "192.0.2.1\n");
    assert_eq!(
        (server.asked("lowered.test"), server.asked_by_tcp()),
        (2, 2)
    );
}

#[test]
fn old_name_server_is_asked_without_edns() {
    let server = NameServer::start();
    for pair in [direct(&server), remote(&server)] {
        let answer = dig(&pair.local, &["ancient.test"]);
        assert!(answer.contains("192.0.2.1"), "{answer}");
        assert!(answer.contains("OPT PSEUDOSECTION"), "{answer}");
    }
}

#[test]
fn flood_of_malformed_queries_gets_no_more_than_it_sent() {
    let server = NameServer::start();
    let pair = remote(&server);
    let socket = client(pair.local.address);
    let whole = query("a.test.", RecordType::A).to_vec().unwrap();
    let mut sent: Vec<Vec<u8>> = (0..whole.len()).map(|len| whole[..len].to_vec()).collect();
    for at in 2..whole.len() {
        for value in [0, 0x3f, 0x80, 0xc0, 0xff] {
            let mut changed = whole.clone();
            changed[at] = value;
            sent.push(changed);
        }
    }
    let mut response = query("a.test.", RecordType::A);
    response.metadata.message_type = MessageType::Response;
    sent.push(response.to_vec().unwrap());
    let seed = u64::from(std::process::id());
    let noise = (seed..).zip((1..300).cycle());
    sent.extend(
        noise
            .take(2000)
            .map(|(seed, len)| bytes::pattern(seed, len)),
    );
    socket
        .set_read_timeout(Some(Duration::from_millis(1)))
        .unwrap();
    let mut buffer = [0; 4096];
    for message in &sent {
        socket.send(message).unwrap();
        while let Ok(len) = socket.recv(&mut buffer) {
            let answer = Message::from_vec(&buffer[..len]).unwrap();
            let code = answer.metadata.response_code;
            // An answer that is longer than its query has records, and so is one that was asked for.
            assert!(
                len <= 300 && (!answer.answers.is_empty() || len <= message.len().max(100)),
                "{code}: {len} bytes for {message:?}"
            );
        }
    }
    let formerr = dig(&pair.local, &["+header-only"]);
    assert!(formerr.contains("status: FORMERR"), "{formerr}");
    let notimp = dig(&pair.local, &["+norecurse", "a.test"]);
    assert!(notimp.contains("status: NOTIMP"), "{notimp}");
    let version = dig(&pair.local, &["+edns=1", "+noednsnegotiation", "a.test"]);
    assert!(version.contains("status: BADVERS"), "{version}");
    assert_eq!(dig(&pair.local, &["+short", "a.test"]), "192.0.2.1\n");
}

#[test]
fn flood_of_names_fails_the_oldest_and_serves_others() {
    let server = NameServer::start();
    let pair = direct(&server);
    let socket = client(pair.local.address);
    let memory = pair.local.process.memory_kib("Pss");
    for number in 0..3000 {
        let query = query(&format!("flood{number}.test."), RecordType::A);
        socket.send(&query.to_vec().unwrap()).unwrap();
        if number % 50 == 0 {
            // As fast as the socket takes them, no faster.
            thread::sleep(Duration::from_millis(5));
        }
    }
    // Those that made room for others are told at once.
    let mut failed = 0;
    socket
        .set_read_timeout(Some(Duration::from_millis(500)))
        .unwrap();
    let mut buffer = [0; 512];
    while let Ok(len) = socket.recv(&mut buffer) {
        let answer = Message::from_vec(&buffer[..len]).unwrap();
        assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
        failed += 1;
    }
    assert!(failed > 0, "none made room");
    assert_eq!(dig(&pair.local, &["+short", "a.test"]), "192.0.2.1\n");
    assert!(pair.local.process.open_files() < 1200);
    let grown = pair.local.process.memory_kib("Pss").saturating_sub(memory);
    assert!(grown < 40_000, "{grown} KiB");
    eventually("its sockets are closed", || {
        pair.local.process.open_files() < 100
    });
}

#[test]
fn dead_name_server_is_said_in_time() {
    let server = NameServer::start();
    for (pair, name) in [
        (direct(&server), "silent.test"),
        (remote(&server), "silent.test"),
    ] {
        let begun = Instant::now();
        let failed = dig(&pair.local, &[name]);
        let took = begun.elapsed();
        assert!(failed.contains("status: SERVFAIL"), "{failed}");
        assert!(failed.contains("EDE: 22"), "{failed}");
        assert!((4..7).contains(&took.as_secs()), "{took:?}");
        // Others are answered meanwhile and afterwards.
        assert_eq!(dig(&pair.local, &["+short", "a.test"]), "192.0.2.1\n");
        assert!(
            pair.local
                .process
                .log()
                .contains("a name server does not answer")
        );
        assert!(
            pair.local
                .process
                .log()
                .contains("the name server answers again")
        );
    }
    let nobody = json!({"remote_dns_address": "127.0.0.1", "remote_dns_port": free_port()});
    let nobody = pair(&nobody);
    let begun = Instant::now();
    let failed = dig(&nobody.local, &["a.test"]);
    assert!(failed.contains("status: SERVFAIL"), "{failed}");
    assert!(begun.elapsed() < Duration::from_secs(7));
}

#[test]
fn connection_of_a_client_carries_many_queries() {
    let server = NameServer::start();
    let pair = remote(&server);
    let mut stream = TcpStream::connect(pair.local.address).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut all = Vec::new();
    for number in 0..100 {
        let label = if number == 0 { "held" } else { "n" };
        let query = query(&format!("{label}{number}.test."), RecordType::A)
            .to_vec()
            .unwrap();
        all.extend(u16::try_from(query.len()).unwrap().to_be_bytes());
        all.extend(query);
    }
    stream.write_all(&all).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut names = Vec::new();
    for number in 0..100 {
        let mut len = [0; 2];
        stream.read_exact(&mut len).unwrap();
        let mut answer = vec![0; u16::from_be_bytes(len).into()];
        stream.read_exact(&mut answer).unwrap();
        let answer = Message::from_vec(&answer).unwrap();
        assert_eq!(answer.answers.len(), 1);
        names.push(answer.queries[0].name().to_ascii());
        if number == 50 {
            server.release();
        }
    }
    // The answer that came late did not hold up the others.
    assert_ne!(names[0], "held0.test.");
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 100);
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
}

#[test]
fn mode_says_by_which_ways_clients_may_ask() {
    let server = NameServer::start();
    let (ip, port) = (server.address.ip().to_string(), server.address.port());
    let only = |mode: &str| {
        pair(&json!({"mode": mode, "remote_dns_address": ip, "remote_dns_port": port}))
    };
    let udp = only("udp_only");
    assert_eq!(dig(&udp.local, &["+short", "a.test"]), "192.0.2.1\n");
    assert!(TcpStream::connect(udp.local.address).is_err());
    let tcp = only("tcp_only");
    assert_eq!(
        dig(&tcp.local, &["+short", "+tcp", "a.test"]),
        "192.0.2.1\n"
    );
    assert!(UdpSocket::bind(v4(tcp.local.address.port())).is_ok());
}

/// A local that asks `names` through two servers, of which the first answers; without probes.
fn through_two(names: &NameServer) -> (Half, Half, Half) {
    let (first, second) = (good(FIRST), good(SECOND));
    let dns = json!({
        "local_address": "127.0.0.1", "protocol": "dns",
        "remote_dns_address": "127.0.0.1", "remote_dns_port": names.address.port(),
    });
    let servers = [entry(first.address), entry(second.address)];
    let local = Start::local(Program::Ssr, &Spec::new(STREAMS), first.address)
        .with(json!({"servers": servers, "locals": [dns]}))
        .run();
    assert_eq!(timed(&local, "before.test").0, "192.0.2.1\n");
    (first, second, local)
}

fn timed(local: &Half, name: &str) -> (String, Duration) {
    let begun = Instant::now();
    (dig(local, &["+short", name]), begun.elapsed())
}

/// Under load: new queries join those that are not answered.
#[test]
fn queries_go_to_the_next_server_when_the_first_is_silent() {
    let names = NameServer::start();
    let (first, _second, local) = through_two(&names);
    first.process.signal(Signal::STOP);
    let times: Vec<Duration> = thread::scope(|scope| {
        let asking: Vec<_> = (0..60)
            .map(|number| {
                thread::sleep(Duration::from_millis(100));
                let (local, name) = (&local, format!("name{number}.test"));
                scope.spawn(move || {
                    let (answer, time) = timed(local, &name);
                    assert_eq!(answer, "192.0.2.1\n", "{name} after {time:?}");
                    time
                })
            })
            .collect();
        asking.into_iter().map(|one| one.join().unwrap()).collect()
    });
    let longest = times.iter().max().unwrap();
    assert!(*longest < Duration::from_millis(4500), "{times:?}");
    let last = times[50..].iter().max().unwrap();
    assert!(*last < Duration::from_secs(1), "{times:?}");
    eventually("the log says so", || {
        local.process.log().contains("server did not answer")
    });
}

#[test]
fn name_that_gets_no_answer_holds_up_no_other_and_is_no_fault_of_a_server() {
    let names = NameServer::start();
    let (_first, _second, local) = through_two(&names);
    thread::scope(|scope| {
        let silent = scope.spawn(|| dig(&local, &["silent.test"]));
        // In the stream that is there, in a new one, and through the other server.
        eventually("it is asked by both servers", || {
            names.asked("silent.test") >= 3
        });
        let (answer, time) = timed(&local, "after.test");
        assert_eq!(answer, "192.0.2.1\n");
        assert!(time < Duration::from_secs(1), "{time:?}");
        let failed = silent.join().unwrap();
        assert!(failed.contains("status: SERVFAIL"), "{failed}");
    });
    let log = local.process.log();
    assert!(!log.contains("server did not answer"), "{log}");
}
