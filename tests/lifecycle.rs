//! How the processes start, refuse to start, and end.

use crate::common::{
    self, DEADLINE,
    bytes::pattern,
    eventually, matrix,
    peers::{self, Pair, Program, Role, Spec, Start, ssr},
    process::{Process, free_port, v4},
    targets::TcpTarget,
    udp::UdpTarget,
};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream, UdpSocket},
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};
use tempfile::TempDir;

const METHOD: &str = "2022-blake3-aes-256-gcm";

fn file(text: &str) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.json");
    std::fs::write(&path, text).unwrap();
    (dir, path)
}

fn config(keys: &Value) -> String {
    let spec = Spec::new(METHOD);
    let mut config = json!({
        "server": "127.0.0.1", "server_port": 1, "local_address": "127.0.0.1", "local_port": 1,
        "method": spec.method, "password": spec.password,
    });
    config
        .as_object_mut()
        .unwrap()
        .extend(keys.as_object().unwrap().clone());
    config.to_string()
}

/// Runs a role that is expected to end by itself.
fn ends(role: &str, text: &str) -> (Option<i32>, String) {
    let (_dir, path) = file(text);
    let mut process = Process::spawn("ssr", ssr(&[role, "-c"]).arg(path)).unwrap();
    let (status, log) = process.wait(DEADLINE);
    (status.code(), log)
}

#[test]
fn a_taken_port_is_named_with_the_cause() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    for (role, key) in [("server", "server_port"), ("local", "local_port")] {
        let (code, log) = ends(role, &config(&json!({key: address.port()})));
        assert!(code.is_some_and(|code| code != 0), "{role}: {code:?}");
        assert!(
            log.contains(&address.to_string()),
            "{role} does not name {address}: {log}"
        );
        assert!(
            log.to_lowercase().contains("in use"),
            "{role} does not name the cause: {log}"
        );
    }
}

#[test]
fn a_second_process_on_the_same_port_fails() {
    let first = Start::server(Program::Ssr, &Spec::new(METHOD)).run();
    let (code, log) = ends(
        "server",
        &config(&json!({"server_port": first.address.port()})),
    );
    assert!(code.is_some_and(|code| code != 0), "{code:?}: {log}");
    assert!(log.contains(&first.address.to_string()), "{log}");
}

#[test]
fn a_taken_udp_port_is_named() {
    let port = free_port();
    let _taken = UdpSocket::bind(v4(port)).unwrap();
    let (code, log) = ends("server", &config(&json!({"server_port": port})));
    assert!(code.is_some_and(|code| code != 0), "{code:?}: {log}");
    assert!(
        log.contains(&v4(port).to_string()) && log.to_lowercase().contains("in use"),
        "{log}"
    );
}

#[test]
fn an_address_of_another_host_is_named() {
    let (code, log) = ends("server", &config(&json!({"server": "192.0.2.1"})));
    assert!(code.is_some_and(|code| code != 0), "{code:?}: {log}");
    assert!(log.contains("192.0.2.1"), "{log}");
}

#[test]
fn a_bad_config_exits_78_and_says_where() {
    let spec = Spec::new(METHOD);
    let cases = [
        ("not JSON", "{\"server\": ".to_owned(), "1:"),
        (
            "an unknown method",
            config(&json!({"method": "rot13"})),
            "method",
        ),
        (
            "a withdrawn method",
            config(&json!({"method": "rc4-md5", "password": "x"})),
            "rc4-md5",
        ),
        ("a short key", config(&json!({"password": "AAAA"})), "32"),
        (
            "a misspelt key",
            config(&json!({"server_prot": 1})),
            "server_port",
        ),
        (
            "a withdrawn feature",
            config(&json!({"auth": true})),
            "one-time authentication",
        ),
        (
            "no server",
            json!({"method": spec.method, "password": spec.password}).to_string(),
            "server",
        ),
    ];
    for role in ["server", "local"] {
        for (what, text, hint) in &cases {
            let (code, log) = ends(role, text);
            assert_eq!(code, Some(78), "{role} with {what}: {log}");
            assert!(
                log.contains(hint),
                "{role} with {what} does not say {hint:?}: {log}"
            );
            assert!(
                !log.contains(&spec.password),
                "{role} with {what} prints the password"
            );
        }
    }
}

#[test]
fn a_missing_file_is_named() {
    for role in ["server", "local"] {
        let mut process =
            Process::spawn("ssr", ssr(&[role, "-c"]).arg("/nonexistent/ssr.json")).unwrap();
        let (status, log) = process.wait(DEADLINE);
        assert!(!status.success());
        assert!(log.contains("/nonexistent/ssr.json"), "{log}");
    }
}

#[test]
fn check_tells_a_good_file_from_a_bad_one() {
    for (text, good) in [
        (config(&json!({})), true),
        (config(&json!({"method": "rot13"})), false),
    ] {
        let (_dir, path) = file(&text);
        let mut process = Process::spawn("ssr", ssr(&["check", "-c"]).arg(path)).unwrap();
        let (status, log) = process.wait(DEADLINE);
        assert_eq!(status.success(), good, "{log}");
        assert!(
            !log.contains(&Spec::new(METHOD).password),
            "the password is printed"
        );
    }
}

#[test]
fn check_looks_at_the_roles_that_have_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let check = |arguments: &[&str]| {
        // The configs of whoever runs the tests, and that of an installed shadowsocks-libev, are none of this.
        let hide = "mount -t tmpfs none /etc/shadowsocks-libev 2>/dev/null; exec \"$@\"";
        let mut command = Command::new("unshare");
        command
            .args([
                "-rm",
                "sh",
                "-c",
                hide,
                "sh",
                env!("CARGO_BIN_EXE_ssr"),
                "check",
            ])
            .args(arguments)
            .current_dir(dir.path());
        for variable in ["XDG_CONFIG_HOME", "XDG_CONFIG_DIRS"] {
            command.env(variable, dir.path());
        }
        let (status, log) = Process::spawn("ssr", &mut command).unwrap().wait(DEADLINE);
        (status.code(), log)
    };
    let (code, log) = check(&[]);
    assert_eq!(code, Some(64), "{log}");
    for file in ["./server.json", "./local.json", "./forward.json"] {
        assert_eq!(log.matches(file).count(), 1, "{file}: {log}");
    }

    let path = dir.path().join("local.json");
    std::fs::write(&path, config(&json!({}))).unwrap();
    let (code, log) = check(&[]);
    assert_eq!(code, Some(0), "{log}");
    assert!(log.contains("ssr local"), "{log}");
    // A role that was named has to have one.
    assert_eq!(check(&["--role", "server"]).0, Some(64));

    std::fs::write(&path, config(&json!({"method": "rot13"}))).unwrap();
    let (code, log) = check(&[]);
    assert_eq!(code, Some(78), "{log}");
    assert!(log.contains("local.json:1:"), "{log}");
}

#[test]
fn genkey_makes_a_key_that_the_roles_take() {
    for (method, len) in [(METHOD, 44), ("2022-blake3-aes-128-gcm", 24)] {
        let output = ssr(&["genkey", "-m", method]).output().unwrap();
        let key = String::from_utf8(output.stdout).unwrap().trim().to_owned();
        assert_eq!(key.len(), len, "{key}");
        let spec = Spec {
            method: method.into(),
            password: key,
        };
        let pair = Pair::new(Program::Ssr, Program::Ssr, &spec);
        matrix::echoes(&pair.socks(), &TcpTarget::echo().v4(), 100);
    }
}

/// A connection through the pair on which something has already been echoed.
fn running(pair: &Pair, echo: &TcpTarget) -> TcpStream {
    let mut stream = pair.socks().connect(&echo.v4());
    speaks(&mut stream);
    stream
}

fn speaks(stream: &mut TcpStream) {
    let said = pattern(1, 20_000);
    stream.write_all(&said).expect("write");
    let mut back = vec![0; said.len()];
    stream.read_exact(&mut back).expect("the echo");
    assert!(back == said);
}

#[test]
fn a_terminated_process_lets_a_transfer_end_and_takes_no_more() {
    for role in [Role::Local, Role::Server] {
        for signal in [Signal::TERM, Signal::INT] {
            let mut pair = Pair::ssr(METHOD);
            let echo = TcpTarget::echo();
            let mut stream = running(&pair, &echo);
            let half = pair.half(role);
            let address = half.address;
            half.process.signal(signal);
            eventually("new connections are refused", || {
                TcpStream::connect(address).is_err()
            });
            speaks(&mut stream);
            assert!(
                half.process.exited().is_none(),
                "{role:?} ended under a running transfer"
            );
            drop(stream);
            let (status, log) = half.process.wait(DEADLINE / 4);
            assert_eq!(status.code(), Some(0), "{role:?}: {log}");
        }
    }
}

#[test]
fn an_idle_process_ends_at_once() {
    let mut pair = Pair::ssr(METHOD);
    for half in [&mut pair.local, &mut pair.server] {
        half.process.signal(Signal::TERM);
        let (status, _) = half.process.wait(DEADLINE / 4);
        assert_eq!(status.code(), Some(0));
    }
}

#[test]
fn a_second_signal_ends_at_once() {
    let mut pair = Pair::ssr(METHOD);
    let echo = TcpTarget::echo();
    let _stream = running(&pair, &echo);
    for half in [&mut pair.local, &mut pair.server] {
        half.process.signal(Signal::TERM);
        let address = half.address;
        eventually("the first signal is taken", || {
            TcpStream::connect(address).is_err()
        });
        half.process.signal(Signal::TERM);
        half.process.wait(DEADLINE / 4);
    }
}

#[test]
fn the_wait_for_transfers_ends_after_ten_seconds() {
    let mut pair = Pair::ssr(METHOD);
    let echo = TcpTarget::echo();
    let mut stream = running(&pair, &echo);
    let start = Instant::now();
    pair.server.process.signal(Signal::TERM);
    pair.server.process.wait(DEADLINE);
    let took = start.elapsed();
    assert!(took > Duration::from_secs(8), "ended after {took:?}");
    let mut rest = [0];
    assert!(
        !matches!(stream.read(&mut rest), Ok(1)),
        "the connection ends with the server"
    );
}

#[test]
fn the_verbose_log_has_connections_and_no_secrets() {
    let spec = Spec::new(METHOD);
    let (echo, udp) = (TcpTarget::echo(), UdpTarget::echo());
    let verbose = &["-vvv"];
    let pair = Pair::with(Start::server(Program::Ssr, &spec).flags(verbose), |at| {
        Start::local(Program::Ssr, &spec, at).flags(verbose)
    });
    matrix::echoes(&pair.socks(), &echo.v4(), 5000);
    pair.socks().associate().warm_up(&udp.target());
    for half in [&pair.local, &pair.server] {
        let target = v4(echo.port()).to_string();
        eventually("the connection is logged with its target", || {
            half.process.log().contains(&target)
        });
        let log = half.process.log();
        assert!(!log.contains(&spec.password), "the password is in the log");
        let key = &spec.password[..20];
        assert!(!log.contains(key), "a part of the key is in the log");
    }
}

#[test]
fn the_log_is_quiet_by_default() {
    let pair = Pair::ssr(METHOD);
    let echo = TcpTarget::echo();
    for _ in 0..50 {
        matrix::echoes(&pair.socks(), &echo.v4(), 10);
    }
    for half in [&pair.local, &pair.server] {
        eventually("the listener is named", || {
            half.process.log().contains(&half.address.to_string())
        });
        let log = half.process.log();
        assert!(log.lines().count() < 20, "{log}");
    }
}

#[test]
fn a_password_may_come_from_the_environment() {
    let spec = Spec::new(METHOD);
    let (_dir, path) = file(&config(
        &json!({"password": "${SSR_TEST_KEY}", "server_port": free_port()}),
    ));
    let mut command = Program::Ssr.command(Role::Server, &path);
    let mut server =
        Process::spawn("ssr server", command.env("SSR_TEST_KEY", &spec.password)).unwrap();
    let text: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let address = v4(u16::try_from(text["server_port"].as_u64().unwrap()).unwrap());
    server.running().unwrap();
    let local = Start::local(Program::Ssr, &spec, address).run();
    matrix::echoes(&local.socks(), &TcpTarget::echo().v4(), 100);
}

#[test]
fn a_libev_config_runs_unchanged() {
    let echo = TcpTarget::echo();
    let [server_port, local_port] = [free_port(), free_port()];
    let text = json!({
        "server": ["127.0.0.1"], "server_port": server_port.to_string(), "local_port": local_port.to_string(),
        "password": "barfoo!", "timeout": 86400, "method": "chacha20-ietf-poly1305", "mode": "tcp_and_udp",
        "fast_open": false, "no_delay": true, "reuse_port": true,
    });
    let (_dir, path) = file(&text.to_string());
    let mut server =
        Process::spawn("ssr server", &mut Program::Ssr.command(Role::Server, &path)).unwrap();
    let mut local =
        Process::spawn("ssr local", &mut Program::Ssr.command(Role::Local, &path)).unwrap();
    server.running().unwrap();
    local.running().unwrap();
    matrix::echoes(&common::socks::Socks::new(v4(local_port)), &echo.v4(), 1000);
}

#[test]
fn port_password_serves_every_port() {
    let echo = TcpTarget::echo();
    let method = "aes-256-gcm";
    let ports = [free_port(), free_port()];
    let text = json!({
        "server": "127.0.0.1", "method": method,
        "port_password": {ports[0].to_string(): "one", ports[1].to_string(): "two"},
    });
    let (_dir, path) = file(&text.to_string());
    let mut server =
        Process::spawn("ssr server", &mut Program::Ssr.command(Role::Server, &path)).unwrap();
    server.running().unwrap();
    for (port, password) in ports.into_iter().zip(["one", "two"]) {
        let spec = Spec {
            method: method.into(),
            password: password.into(),
        };
        let local = Start::local(Program::Ssr, &spec, v4(port)).run();
        matrix::echoes(&local.socks(), &echo.v4(), 100);
    }
}

#[test]
fn an_insecure_method_is_refused_by_name_with_an_alternative() {
    for method in [
        "rc4-md5",
        "aes-256-cfb",
        "chacha20-ietf",
        "table",
        "salsa20",
    ] {
        let (code, log) = ends(
            "server",
            &config(&json!({"method": method, "password": "x"})),
        );
        assert_eq!(code, Some(78), "{method}: {log}");
        assert!(
            log.contains(method) && log.contains("2022-blake3"),
            "{method}: {log}"
        );
    }
}

#[test]
fn none_is_run_with_a_warning() {
    let server = Start::server(Program::Ssr, &Spec::new("none")).run();
    eventually("a warning", || server.process.log().contains("WARN"));
}

#[test]
fn a_connection_without_traffic_ends_at_the_idle_timeout() {
    let spec = Spec::new(METHOD);
    let echo = TcpTarget::echo();
    let idle = json!({"timeouts": {"idle": 3}});
    let pair = Pair::with(Start::server(Program::Ssr, &spec).with(idle), |at| {
        Start::local(Program::Ssr, &spec, at)
    });
    let mut stream = running(&pair, &echo);
    let start = Instant::now();
    let mut rest = [0];
    let end = stream.read(&mut rest);
    assert!(!matches!(end, Ok(1..)));
    assert!(
        start.elapsed() < DEADLINE,
        "ended after {:?}",
        start.elapsed()
    );
}

#[test]
fn a_half_closed_connection_ends_at_its_timeout() {
    let spec = Spec::new(METHOD);
    let silent = TcpTarget::serve(|mut stream| {
        let mut buf = [0; 100];
        while let Ok(1..) = stream.read(&mut buf) {}
        std::thread::sleep(DEADLINE); // never closes its own half
    });
    let short = json!({"timeouts": {"half_close": 1}});
    let pair = Pair::with(
        Start::server(Program::Ssr, &spec).with(short.clone()),
        |at| Start::local(Program::Ssr, &spec, at).with(short),
    );
    let mut stream = pair.socks().connect(&silent.v4());
    stream.write_all(b"bye").unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let start = Instant::now();
    let mut rest = Vec::new();
    let _end = stream.read_to_end(&mut rest);
    assert!(
        start.elapsed() < DEADLINE,
        "ended after {:?}",
        start.elapsed()
    );
}

#[test]
fn another_key_for_each_seed() {
    assert_ne!(peers::password(METHOD, 1), peers::password(METHOD, 2));
    assert_eq!(
        peers::base64(b"any carnal pleas"),
        "YW55IGNhcm5hbCBwbGVhcw=="
    );
}
