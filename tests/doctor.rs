//! `ssr doctor` on one machine: what it says of a setup that works, of a few that do not, and how it says it.

use crate::common::{
    DEADLINE,
    name_server::NameServer,
    peers::{self, Program, Spec, Start, password},
    process::{Process, free_port},
    targets::TcpTarget,
};
use serde_json::{Value, json};
use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::{Command, Output},
    time::{Duration, Instant},
};
use tempfile::TempDir;

pub(crate) const METHOD: &str = "2022-blake3-aes-256-gcm";
/// Bytes of the file of [`web_server`].
const FILE: usize = 4 << 20;
/// The longest that `ssr doctor` may take, and what a busy machine adds.
const LONGEST: Duration = Duration::from_secs(75);

/// Answers HEAD, GET and POST as a web server with one file does.
pub(crate) fn serve_file(stream: TcpStream) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let (mut line, mut method, mut length) = (String::new(), String::new(), 0);
    loop {
        line.clear();
        if reader.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        if method.is_empty() {
            method = line.split(' ').next().unwrap().to_owned();
        }
        let lower = line.to_ascii_lowercase();
        if let Some(value) = lower.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        if line == "\r\n" {
            break;
        }
    }
    let mut stream = stream;
    if method == "POST" {
        let _cut = std::io::copy(&mut reader.take(length), &mut std::io::sink());
    }
    let body = if method == "GET" { FILE } else { 0 };
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {FILE}\r\nConnection: close\r\n\r\n");
    if stream.write_all(head.as_bytes()).is_ok() {
        let piece = vec![b'x'; 64 * 1024];
        for _ in 0..body / piece.len() {
            if stream.write_all(&piece).is_err() {
                return;
            }
        }
    }
}

fn web_server() -> TcpTarget {
    TcpTarget::serve(serve_file)
}

/// What `ssr doctor` is run with.
struct Scene {
    directory: TempDir,
    web: TcpTarget,
    names: NameServer,
}

impl Scene {
    fn new() -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
            web: web_server(),
            names: NameServer::start(),
        }
    }

    fn config(&self, server: SocketAddr, method: &str, password: &str, more: &Value) -> PathBuf {
        let mut config = json!({
            "server": server.ip().to_string(), "server_port": server.port(), "method": method,
            "password": password, "local_address": "127.0.0.1", "local_port": free_port(),
            "dns": self.names.address.to_string(),
        });
        for (key, value) in more.as_object().unwrap() {
            config[key] = value.clone();
        }
        let path = self.directory.path().join("config.json");
        fs::write(&path, config.to_string()).unwrap();
        crate::common::process::make_private(&path);
        path
    }

    fn run(&self, config: &std::path::Path, flags: &[&str]) -> Output {
        let url = format!("http://127.0.0.1:{}/file", self.web.port());
        let name_server = self.names.address.to_string();
        let mut command = peers::ssr(&["doctor", "-c", config.to_str().unwrap()]);
        command.args(["--url", &url, "--name-server", &name_server]);
        let begun = Instant::now();
        let output = command.args(flags).output().unwrap();
        assert!(begun.elapsed() < LONGEST);
        output
    }

    /// The findings, and whether nothing is wrong.
    fn findings(&self, config: &std::path::Path) -> Findings {
        Findings::of(&self.run(config, &["--json"]))
    }
}

/// What `ssr doctor --json` has printed.
pub(crate) struct Findings {
    pub(crate) ok: bool,
    all: Vec<Value>,
}

impl Findings {
    pub(crate) fn of(output: &Output) -> Self {
        let text = String::from_utf8_lossy(&output.stdout);
        let errors = String::from_utf8_lossy(&output.stderr);
        let json: Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}{errors}"));
        let ok = json["ok"].as_bool().unwrap();
        assert_eq!(output.status.success(), ok, "{text}");
        Self {
            ok,
            all: json["findings"].as_array().unwrap().clone(),
        }
    }

    /// The codes of faults and warnings.
    pub(crate) fn codes(&self) -> Vec<&str> {
        let codes = self.all.iter().filter_map(|one| one["code"].as_str());
        codes.collect()
    }

    pub(crate) fn all(&self) -> &[Value] {
        &self.all
    }

    pub(crate) fn result(&self, step: &str) -> &str {
        let found = self.all.iter().find(|one| one["step"] == step);
        found.map_or("", |one| one["result"].as_str().unwrap())
    }

    /// The whole finding of this code.
    pub(crate) fn with(&self, code: &str) -> &Value {
        let found = self.all.iter().find(|one| one["code"] == code);
        found.unwrap_or_else(|| panic!("{code} was not named: {self}"))
    }
}

impl std::fmt::Display for Findings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{:#}", Value::from(self.all.clone()))
    }
}

#[test]
fn setup_that_works_has_no_fault() {
    let scene = Scene::new();
    for method in [METHOD, "chacha20-ietf-poly1305"] {
        let spec = Spec::new(method);
        let server = Start::server(Program::Ssr, &spec).run();
        let config = scene.config(server.address, method, &spec.password, &json!({}));
        let found = scene.findings(&config);
        assert!(found.ok && found.codes().is_empty(), "{found}");
        for step in [
            "files", "ports", "route", "tcp", "key", "dns", "udp", "mtu", "loss", "speed",
        ] {
            assert_eq!(found.result(step), "ok", "{step}: {found}");
        }
    }
}

#[test]
fn fault_is_printed_with_place_and_cure_and_without_secrets() {
    let scene = Scene::new();
    let server = Start::server(Program::Ssr, &Spec::new(METHOD)).run();
    let wrong = password(METHOD, 2);
    let config = scene.config(server.address, METHOD, &wrong, &json!({}));
    let output = scene.run(&config, &[]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    let fault = text.split("fault    key").nth(1).unwrap();
    let mut lines = fault.lines();
    assert!(lines.next().unwrap().contains("as to a stranger"), "{text}");
    assert!(
        lines
            .next()
            .unwrap()
            .contains(&format!("where: server {}", server.address)),
        "{text}"
    );
    assert!(
        lines
            .next()
            .unwrap()
            .contains("do:    copy `method` and `password`"),
        "{text}"
    );
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(
        !text.contains(&wrong) && !errors.contains(&wrong),
        "{text}{errors}"
    );
    assert!(
        errors.is_empty(),
        "no progress without a terminal: {errors}"
    );
}

#[test]
fn method_is_found_among_those_of_the_same_password() {
    let scene = Scene::new();
    let shared = password("2022-blake3-chacha20-poly1305", 1);
    for (right, wrong) in [
        ("aes-128-gcm", "aes-256-gcm"),
        ("2022-blake3-chacha20-poly1305", "chacha20-ietf-poly1305"),
    ] {
        let spec = Spec {
            method: right.to_owned(),
            password: shared.clone(),
        };
        let server = Start::server(Program::Ssr, &spec).run();
        let config = scene.config(server.address, wrong, &shared, &json!({}));
        let found = scene.findings(&config);
        let what = found.with("wrong_method")["what"].as_str().unwrap();
        assert!(what.contains(&format!("uses {right}")), "{found}");
    }
}

#[test]
fn target_that_the_server_does_not_reach_is_not_taken_for_a_wrong_key() {
    let scene = Scene::new();
    let spec = Spec::new(METHOD);
    let server = Start::server(Program::Ssr, &spec).run();
    let config = scene.config(server.address, METHOD, &spec.password, &json!({}));
    let nobody = format!("127.0.0.1:{}", free_port());
    let flags = ["--json", "--url", &nobody, "--name-server", &nobody];
    let mut command = peers::ssr(&["doctor", "-c", config.to_str().unwrap()]);
    let found = Findings::of(&command.args(flags).output().unwrap());
    found.with("target_unreachable");
    assert!(!found.codes().contains(&"wrong_key"), "{found}");
}

#[test]
fn port_that_another_program_has_is_named_with_the_program() {
    let scene = Scene::new();
    let spec = Spec::new(METHOD);
    let server = Start::server(Program::Ssr, &spec).run();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let config = scene.config(
        server.address,
        METHOD,
        &spec.password,
        &json!({"local_port": port}),
    );
    let found = scene.findings(&config);
    let what = found.with("port_taken")["what"].as_str().unwrap();
    assert!(
        what.contains(&format!("process {}", std::process::id())),
        "{found}"
    );
}

#[test]
fn name_servers_that_answer_everything_are_named() {
    let scene = Scene::new();
    let spec = Spec::new(METHOD);
    let server = Start::server(Program::Ssr, &spec).run();
    let more = json!({"server": "proxy.test"});
    let config = scene.config(server.address, METHOD, &spec.password, &more);
    let found = scene.findings(&config);
    assert_eq!(found.with("lying_dns")["step"], "name_servers", "{found}");
}

#[test]
fn server_looks_at_its_own_side() {
    let scene = Scene::new();
    let spec = Spec::new(METHOD);
    let taken = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = taken.local_addr().unwrap();
    let config = scene.config(address, METHOD, &spec.password, &json!({}));
    let output = scene.run(&config, &["--json", "--role", "server"]);
    let found = Findings::of(&output);
    found.with("port_taken");
    for step in ["files", "targets"] {
        assert_eq!(found.result(step), "ok", "{found}");
    }
}

#[test]
fn terminal_shows_what_is_being_tried() {
    let scene = Scene::new();
    let nobody = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
    let config = scene.config(nobody, METHOD, &password(METHOD, 1), &json!({}));
    let line = format!(
        "{} doctor -c {}",
        env!("CARGO_BIN_EXE_ssr"),
        config.display()
    );
    let mut terminal = Command::new("script");
    terminal.args(["-qefc", &line, "/dev/null"]);
    let mut terminal = Process::spawn("script", &mut terminal).unwrap();
    let (status, shown) = terminal.wait(DEADLINE);
    assert_eq!(status.code(), Some(1), "{shown}");
    assert!(shown.contains("\u{1b}[K… tcp of 127.0.0.1"), "{shown}");
    assert!(shown.contains("do:    start the server"), "{shown}");
}

#[test]
#[ignore = "needs peers: scripts/test"]
fn servers_of_others_are_judged_as_well() {
    let scene = Scene::new();
    let spec = Spec::new("aes-256-gcm");
    let server = Start::server(Program::Libev, &spec).run();
    let judge = |method: &str, password: &str| {
        let config = scene.config(server.address, method, password, &json!({}));
        scene.findings(&config)
    };
    let found = judge(&spec.method, &spec.password);
    assert!(found.ok && found.codes().is_empty(), "{found}");
    assert_eq!(judge(&spec.method, "another").codes(), ["wrong_key"]);
    assert_eq!(
        judge("aes-128-gcm", &spec.password).codes(),
        ["wrong_method"]
    );
}

#[test]
fn config_with_errors_is_not_tried() {
    let scene = Scene::new();
    let path = scene.directory.path().join("bad.json");
    fs::write(&path, r#"{"server": "192.0.2.1", "methd": "none"}"#).unwrap();
    let output = scene.run(&path, &[]);
    assert_eq!(output.status.code(), Some(78));
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(errors.contains("methd"), "{errors}");
}
