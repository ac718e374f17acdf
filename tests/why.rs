//! `ssr why` and SIGUSR1: what failed in a running process.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    os::unix::{fs::PermissionsExt as _, net::UnixStream},
    path::PathBuf,
};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::common::{
    eventually,
    peers::{Half, Pair, Program, Spec, Start, password, ssr},
    process::{free_port, v4},
    socks::{CONNECT, Target},
    targets::TcpTarget,
};

const METHOD: &str = "2022-blake3-aes-256-gcm";

/// What `ssr why` prints about a process, as JSON.
fn asked(half: &Half) -> Value {
    let pid = half.process.id().to_string();
    let output = ssr(&["why", "--pid", &pid, "--json"]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The failures of one kind and status.
fn of(answer: &Value, kind: &str, status: &str) -> Vec<Value> {
    let all = answer["failed"].as_array().unwrap().iter();
    all.filter(|one| one["kind"] == kind && one["status"] == status)
        .cloned()
        .collect()
}

/// Waits for a failure, and returns it.
fn failure(half: &Half, kind: &str, status: &str) -> Value {
    let mut found = None;
    eventually(&format!("{kind} {status}"), || {
        found = of(&asked(half), kind, status).first().cloned();
        found.is_some()
    });
    found.unwrap()
}

fn text(half: &Half) -> String {
    let pid = half.process.id().to_string();
    let output = ssr(&["why", "--pid", &pid]).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// The socket of a process.
fn socket(half: &Half) -> PathBuf {
    let name = format!("{}.sock", half.process.id());
    let uid = rustix::process::getuid().as_raw();
    let session = std::env::var("XDG_RUNTIME_DIR").unwrap_or_default();
    let places = [
        "/run/ssr".to_owned(),
        format!("{session}/ssr"),
        format!("/run/user/{uid}/ssr"),
        format!("/tmp/ssr-{uid}"),
    ];
    let mut paths = places.iter().map(|place| PathBuf::from(place).join(&name));
    paths.find(|path| path.exists()).expect("a socket")
}

/// Sends a request through a local half and waits until it has ended.
fn request(half: &Half, target: &Target) {
    let Ok((mut stream, ..)) = half.socks().request(CONNECT, target) else {
        return;
    };
    let _gone = stream.write_all(b"hello");
    let _gone = stream.read(&mut [0; 64]);
}

#[test]
fn a_request_that_failed_is_told_with_phase_rule_server_and_times() {
    let nowhere = v4(free_port());
    let dir = tempfile::tempdir().unwrap();
    let acl = dir.path().join("rules.acl");
    fs::write(
        &acl,
        "[proxy_all]\n[bypass_list]\ndirect.invalid\n[outbound_block_list]\nblocked.example\n",
    )
    .unwrap();
    let rules = json!({"rules": [
        {"domain": ["blocked.example"], "to": "block"}, {"domain": ["direct.invalid"], "to": "direct"}]});
    let half = Start::local(Program::Ssr, &Spec::new(METHOD), nowhere)
        .with(rules)
        .run();
    request(&half, &Target::name("blocked.example", 443));
    request(&half, &Target::name("direct.invalid", 80));
    for _ in 0..3 {
        request(&half, &Target::name("proxied.example", 443));
    }
    let blocked = failure(&half, "client", "blocked");
    assert_eq!(blocked["phase"], "rule");
    assert_eq!(blocked["target"], "blocked.example:443");
    let rule = blocked["rule"].as_str().unwrap();
    assert!(
        rule.contains("config.json:") && rule.ends_with("(block)"),
        "{rule}"
    );
    assert_eq!(blocked["server"], Value::Null);

    let resolve = failure(&half, "client", "resolve");
    assert_eq!(
        (&resolve["phase"], &resolve["network"]),
        (&json!("resolve"), &json!("tcp"))
    );
    assert!(resolve["rule"].as_str().unwrap().ends_with("(direct)"));
    assert!(
        resolve["error"]
            .as_str()
            .unwrap()
            .contains("direct.invalid")
    );

    let connect = failure(&half, "client", "connect");
    assert_eq!(connect["phase"], "connect");
    assert_eq!(connect["server"], nowhere.to_string());
    assert_eq!(connect["rule"], "no rule matches (proxy)");
    assert_eq!(
        connect["count"], 3,
        "the same failure is kept once: {connect}"
    );
    assert!(
        connect["error"].as_str().unwrap().contains("refused"),
        "{connect}"
    );
    assert!(connect["handshake_ms"].is_u64() && connect["connect_ms"].is_u64());
    assert_eq!(connect["relay_ms"], Value::Null);

    let text = text(&half);
    for line in [
        "ago, 3 times",
        "proxied.example:443 (tcp) from 127.0.0.1:",
        "failed at: connecting",
        "failed at: asking the rules",
        &format!("server:    {nowhere}"),
        "times:     handshake ",
    ] {
        assert!(text.contains(line), "`{line}` is not in\n{text}");
    }
}

#[test]
fn a_wrong_key_is_a_missing_answer_here_and_a_stranger_there() {
    let target = TcpTarget::echo();
    let other = Spec {
        password: password(METHOD, 2),
        ..Spec::new(METHOD)
    };
    let server = Start::server(Program::Ssr, &Spec::new(METHOD));
    let pair = Pair::with(server.with(json!({"timeouts": {"handshake": 1}})), |at| {
        Start::local(Program::Ssr, &other, at)
    });
    let (local, server) = (&pair.local, &pair.server);
    let mut stream = local.socks().connect(&target.v4());
    stream.write_all(&[7; 100]).unwrap();
    let stranger = failure(server, "stranger", "unauthenticated");
    assert_eq!(stranger["phase"], "handshake");
    assert_eq!(stranger["target"], Value::Null);
    let _end = stream.read(&mut [0; 1]);
    drop(stream);
    let answer = failure(local, "client", "no_answer");
    assert_eq!(answer["phase"], "reply");
    assert_eq!(answer["target"], target.v4().socket().unwrap().to_string());
    assert_eq!(
        (&answer["up_bytes"], &answer["down_bytes"]),
        (&json!(100), &json!(0))
    );
    let error = answer["error"].as_str().unwrap();
    assert!(error.contains("key"), "{error}");
    let secrets = [password(METHOD, 1), password(METHOD, 2)];
    for half in [local, server] {
        let told = format!("{}{}", asked(half), text(half));
        assert!(secrets.iter().all(|secret| !told.contains(secret)));
    }
}

#[test]
fn a_server_tells_targets_that_cannot_be_reached_with_their_user_and_a_connection_that_broke() {
    let nowhere = free_port();
    let user = json!({"server": "127.0.0.1", "method": METHOD, "password": password(METHOD, 1),
        "users": [{"name": "alice", "password": password(METHOD, 3)}]});
    let keys = format!("{}:{}", password(METHOD, 1), password(METHOD, 3));
    let spec = Spec {
        password: keys,
        ..Spec::new(METHOD)
    };
    let pair = Pair::with(
        Start::server(Program::Ssr, &Spec::new(METHOD)).with(json!({"servers": [user]})),
        |at| Start::local(Program::Ssr, &spec, at),
    );
    request(&pair.local, &Target::from(v4(nowhere)));
    let connect = failure(&pair.server, "client", "connect");
    assert_eq!(connect["user"], "alice");
    assert_eq!(connect["target"], v4(nowhere).to_string());

    // It answers, and then resets the connection.
    let target = TcpTarget::serve(|mut stream| {
        let _request = stream.read(&mut [0; 64]);
        let _sent = stream.write_all(b"answer");
        let _gone = stream.read(&mut [0; 64]);
        let linger = socket2::SockRef::from(&stream);
        linger.set_linger(Some(std::time::Duration::ZERO)).unwrap();
    });
    let mut stream = pair.socks().connect(&target.v4());
    stream.write_all(b"hello").unwrap();
    stream.read_exact(&mut [0; 6]).unwrap();
    stream.write_all(b"again").unwrap();
    let _end = stream.read(&mut [0; 1]);
    let broken = failure(&pair.server, "broken", "upstream_io");
    assert_eq!(broken["phase"], "relay");
    assert_eq!(broken["down_bytes"], 6);
    assert!(broken["relay_ms"].is_u64());
}

#[test]
fn a_flood_of_strangers_pushes_out_no_failure_of_a_user() {
    let pair = Pair::ssr(METHOD);
    let nowhere = v4(free_port());
    request(&pair.local, &Target::from(nowhere));
    failure(&pair.server, "client", "connect");
    let all: Vec<_> = (1..=100)
        .map(|last| {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
            let socket = socket.unwrap();
            let from: SocketAddr = (Ipv4Addr::new(127, 0, 1, last), 0).into();
            socket.bind(&from.into()).unwrap();
            socket.connect(&pair.server.address.into()).unwrap();
            TcpStream::from(socket)
        })
        .collect();
    drop(all);
    eventually("the strangers' places are full", || {
        asked(&pair.server)["given_up"]["stranger"].as_u64() >= Some(36)
    });
    let answer = asked(&pair.server);
    let strangers = of(&answer, "stranger", "handshake_end");
    assert_eq!(strangers.len(), 64, "FAILED_KEPT");
    assert_eq!(of(&answer, "client", "connect").len(), 1);
    let pid = pair.server.process.id().to_string();
    let all = ssr(&["why", "--all", "--pid", &pid]).output().unwrap();
    let all = String::from_utf8(all.stdout).unwrap();
    assert_eq!(all.matches("no request").count(), 64);
    let short = text(&pair.server);
    assert_eq!(short.matches("no request").count(), 10);
    assert!(short.contains("and 54 more"), "{short}");
}

#[test]
fn sigusr1_writes_failures_to_the_log() {
    let nowhere = v4(free_port());
    let half = Start::local(Program::Ssr, &Spec::new(METHOD), nowhere).run();
    request(&half, &Target::name("proxied.example", 443));
    failure(&half, "client", "connect");
    half.process.signal(Signal::USR1);
    eventually("the failure is in the log", || {
        let log = half.process.log();
        let mut lines = log.lines().filter(|line| line.contains(" failed kind="));
        lines.any(|line| {
            line.contains("phase=\"connect\"")
                && line.contains("target=\"proxied.example:443\"")
                && line.contains(&format!("server=\"{nowhere}\""))
        })
    });
    eventually("the log says so", || {
        half.process.log().contains("counters: streams=1")
    });
}

#[test]
fn only_its_user_may_ask_a_process_and_its_socket_goes_with_it() {
    let mut half = Start::server(Program::Ssr, &Spec::new(METHOD)).run();
    let path = socket(&half);
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    // What is no question gets no facts.
    for line in ["\n", "{\"ask\": \"password\"}\n", "x".repeat(5000).as_str()] {
        let mut stream = UnixStream::connect(&path).unwrap();
        let _full = stream.write_all(line.as_bytes());
        let mut answer = String::new();
        let _reset = stream.read_to_string(&mut answer);
        assert!(
            answer.is_empty() || answer.contains("unknown question"),
            "{answer}"
        );
    }
    half.process.signal(Signal::TERM);
    half.process.wait(crate::common::DEADLINE);
    assert!(!path.exists());

    // One that is killed leaves its socket, and the next start removes it.
    let mut killed = Start::server(Program::Ssr, &Spec::new(METHOD)).run();
    let left = socket(&killed);
    killed.process.signal(Signal::KILL);
    killed.process.wait(crate::common::DEADLINE);
    assert!(left.exists());
    let pid = killed.process.id().to_string();
    let output = ssr(&["why", "--pid", &pid]).output().unwrap();
    assert_eq!(output.status.code(), Some(69), "{output:?}");
    let _next = Start::server(Program::Ssr, &Spec::new(METHOD)).run();
    eventually("it is removed", || !left.exists());
}

#[test]
fn who_asks_nothing_keeps_nobody_from_asking() {
    let half = Start::server(Program::Ssr, &Spec::new(METHOD)).run();
    let path = socket(&half);
    let before = half.process.open_files();
    let silent: Vec<_> = (0..20)
        .map(|_| UnixStream::connect(&path).unwrap())
        .collect();
    // MAX_ASKING are taken, and a file or two may come and go beside them.
    assert!(half.process.open_files() <= before + 10);
    assert_eq!(asked(&half)["process"]["role"], "server");
    drop(silent);
}

#[test]
fn of_several_processes_one_is_chosen_by_its_config() {
    let dir = tempfile::tempdir().unwrap();
    let start = |name: &str| {
        let file = dir.path().join(name);
        let config = json!({"server": "127.0.0.1", "server_port": free_port(), "method": METHOD,
            "password": password(METHOD, 1)});
        fs::write(&file, config.to_string()).unwrap();
        let file = file.to_str().unwrap().to_owned();
        let mut process =
            crate::common::process::Process::spawn("server", &mut ssr(&["server", "-c", &file]))
                .unwrap();
        process.running().unwrap();
        (file, process)
    };
    let (first, second) = (start("first.json"), start("second.json"));
    let output = ssr(&["why"]).output().unwrap();
    assert_eq!(output.status.code(), Some(64), "{output:?}");
    let listed = String::from_utf8(output.stderr).unwrap();
    for (file, process) in [&first, &second] {
        let line = format!("ssr server, process {}, {file}, running for", process.id());
        assert!(listed.contains(&line), "{listed}");
        let output = ssr(&["why", "-c", file]).output().unwrap();
        let told = String::from_utf8(output.stdout).unwrap();
        assert!(told.starts_with(&line), "{told}");
        assert!(told.contains("nothing has failed"), "{told}");
    }
    let other = dir.path().join("other.json");
    fs::write(&other, "{}").unwrap();
    let output = ssr(&["why", "-c", other.to_str().unwrap()])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(69), "{output:?}");
}

#[test]
fn udp_that_nobody_answers_and_a_name_that_is_blocked_are_told() {
    let nobody = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let half = Start::local(Program::Ssr, &Spec::new(METHOD), nobody.local_addr().unwrap())
        .with(json!({"udp_timeout": 1, "method": "aes-256-gcm", "rules": [{"domain": ["blocked.example"], "to": "block"}]}))
        .run();
    let association = half.socks().associate();
    association.send(&Target::name("blocked.example", 53), b"query");
    association.send(&Target::name("open.example", 53), b"query");
    let blocked = failure(&half, "client", "blocked");
    assert_eq!(
        (&blocked["network"], &blocked["phase"]),
        (&json!("udp"), &json!("rule"))
    );
    assert_eq!(blocked["target"], "blocked.example:53");
    let silent = failure(&half, "client", "no_answer");
    assert_eq!(silent["network"], "udp");
    assert_eq!(silent["server"], nobody.local_addr().unwrap().to_string());
}

#[test]
fn a_client_that_gave_up_on_a_silent_target_is_told_and_one_that_left_at_once_is_not() {
    let target = TcpTarget::silent();
    let pair = Pair::ssr(METHOD);
    let mut at_once = pair.socks().connect(&target.v4());
    at_once.write_all(b"hello").unwrap();
    eventually("the target has the request", || target.accepted() == 1);
    drop(at_once);
    let mut patient = pair.socks().connect(&target.v4());
    patient.write_all(b"hello").unwrap();
    patient
        .set_read_timeout(Some(std::time::Duration::from_millis(3500)))
        .unwrap();
    let _nothing = patient.read(&mut [0; 1]);
    drop(patient);
    let silent = failure(&pair.local, "client", "no_answer");
    assert!(
        silent["error"].as_str().unwrap().contains("did not wait"),
        "{silent}"
    );
    assert_eq!(silent["count"], 1, "{silent}");
}
