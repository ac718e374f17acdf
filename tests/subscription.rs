//! Lists of servers on the web: `online_config` (SIP008), and `ssr import URL`.

use std::{
    collections::VecDeque,
    fs,
    io::{BufRead as _, BufReader, Read, Write},
    net::{SocketAddr, TcpListener},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::Command,
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use serde_json::{Value, json};

use crate::common::{
    DEADLINE, eventually,
    peers::{Half, Program, Spec, Start, password, ssr},
    process::{Process, free_port, v4},
    socks::Socks,
    targets::TcpTarget,
};
use crate::fake_dns::dig_at;

const METHOD: &str = "2022-blake3-aes-256-gcm";

/// A web server whose answers a test sets. Each request is noted by its path.
#[derive(Clone)]
struct Web {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// Whole answers, the next one first; the last one stays.
    answers: VecDeque<Vec<u8>>,
    asked: Vec<String>,
}

impl Web {
    fn new(tls: Option<Arc<rustls::ServerConfig>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let web = Self {
            address: listener.local_addr().unwrap(),
            state: Arc::default(),
        };
        let state = Arc::clone(&web.state);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (state, tls) = (Arc::clone(&state), tls.clone());
                thread::spawn(move || match tls {
                    None => answer(stream, &state),
                    Some(tls) => {
                        let session = rustls::ServerConnection::new(tls).unwrap();
                        answer(rustls::StreamOwned::new(session, stream), &state);
                    }
                });
            }
        });
        web
    }

    fn set(&self, answer: Vec<u8>) {
        self.state.lock().unwrap().answers = VecDeque::from([answer]);
    }

    fn asked(&self) -> usize {
        self.state.lock().unwrap().asked.len()
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }
}

fn answer(stream: impl Read + Write, state: &Mutex<State>) {
    let mut stream = BufReader::new(stream);
    let mut first = String::new();
    let mut line = String::new();
    while stream.read_line(&mut line).is_ok_and(|count| count > 2) {
        if first.is_empty() {
            first.clone_from(&line);
        }
        line.clear();
    }
    if first.is_empty() {
        return;
    }
    let path = first.split(' ').nth(1).unwrap().to_owned();
    let answer = {
        let mut state = state.lock().unwrap();
        state.asked.push(path);
        match state.answers.len() {
            0 => return,
            1 => state.answers[0].clone(),
            _ => state.answers.pop_front().unwrap(),
        }
    };
    let stream = stream.get_mut();
    let _gone = stream.write_all(&answer);
    let _gone = stream.flush();
}

fn page(status: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nContent-Type: application/json; charset=utf-8\r\n{headers}Connection: close\r\n\r\n"
    );
    [head.as_bytes(), body].concat()
}

/// A list with these servers.
fn list(servers: &[Value]) -> Vec<u8> {
    page("200 OK", "", document(servers).as_bytes())
}

fn document(servers: &[Value]) -> String {
    json!({"version": 1, "servers": servers, "bytes_used": 1}).to_string()
}

fn entry(server: &Half) -> Value {
    json!({"id": "27b8a625", "remarks": "from the list", "server": "127.0.0.1", "server_port": server.address.port(),
        "method": METHOD, "password": password(METHOD, 1)})
}

fn server() -> Half {
    Start::server(Program::Ssr, &Spec::new(METHOD)).run()
}

/// `ssr local` with the list at `url`, and its state in `state`.
struct Local {
    process: Process,
    socks: Socks,
    _config: tempfile::TempDir,
}

impl Local {
    fn start(state: &Path, more: Value) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let port = free_port();
        let mut config = json!({"local_address": "127.0.0.1", "local_port": port});
        config
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        let file = dir.path().join("config.json");
        fs::write(&file, config.to_string()).unwrap();
        let mut command = ssr(&["local", "-v", "-c", file.to_str().unwrap()]);
        command.env("XDG_STATE_HOME", state);
        let mut process = Process::spawn("ssr local", &mut command).unwrap();
        process.running().unwrap();
        Self {
            process,
            socks: Socks::new(v4(port)),
            _config: dir,
        }
    }

    fn says(&self, text: &str) {
        eventually(text, || self.process.log().contains(text));
    }

    /// Whether a request goes through.
    fn works(&self, target: &TcpTarget) -> bool {
        let Ok((mut stream, ..)) = self.socks.request(1, &target.v4()) else {
            return false;
        };
        stream
            .set_read_timeout(Some(Duration::from_secs(3)))
            .unwrap();
        let mut answer = [0; 5];
        stream.write_all(b"hello").is_ok()
            && stream.read_exact(&mut answer).is_ok()
            && &answer == b"hello"
    }
}

fn online(url: &str) -> Value {
    json!({"online_config": {"config_url": url, "update_interval": 1}})
}

#[test]
fn servers_of_a_list_are_used_at_the_first_start_and_changed_without_cutting_what_goes_on() {
    let (target, state) = (TcpTarget::echo(), tempfile::tempdir().unwrap());
    let (first, second) = (server(), server());
    let web = Web::new(None);
    web.set(list(&[entry(&first)]));
    let local = Local::start(state.path(), online(&web.url("/token-of-a-user")));
    local.says("the servers of the list have changed");
    assert!(local.works(&target));
    local.says("downloading the list of servers");
    let mut going_on = local.socks.connect(&target.v4());
    going_on.write_all(b"one").unwrap();
    going_on.read_exact(&mut [0; 3]).unwrap();

    // Another server takes the place of the first, which still serves what it has begun.
    web.set(list(&[entry(&second)]));
    local.says("servers=1 removed=1");
    going_on.write_all(b"two").unwrap();
    going_on.read_exact(&mut [0; 3]).unwrap();
    drop(going_on);
    drop(first);
    assert!(local.works(&target));

    // The URL is a secret, and so is what the list says.
    let log = local.process.log();
    assert!(
        !log.contains("token-of-a-user") && !log.contains(&password(METHOD, 1)),
        "{log}"
    );
    assert!(
        log.contains(&format!("url=\"http://{}/…\"", web.address)),
        "{log}"
    );
}

/// Its server would be behind the fake address.
#[test]
fn names_of_listed_servers_get_no_fake_addresses() {
    let state = tempfile::tempdir().unwrap();
    let named = |name: &str| {
        let mut entry = entry(&server());
        entry["server"] = json!(name);
        list(&[entry])
    };
    let web = Web::new(None);
    web.set(named("one.example"));
    let port = free_port();
    let mut keys = online(&web.url("/list"));
    keys["locals"] = json!([
        {"local_address": "127.0.0.1", "local_port": free_port()},
        {"local_address": "127.0.0.1", "local_port": port, "protocol": "fake-dns",
            "fake_dns_database_path": state.path().join("names")},
    ]);
    let local = Local::start(state.path(), keys);
    let is_refused = |name: &str| dig_at(port, &[name]).contains("status: REFUSED");
    eventually("the listed one is refused", || is_refused("one.example"));
    assert!(!is_refused("two.example"));
    web.set(named("three.example"));
    local.says("servers=1 removed=1");
    assert!(is_refused("three.example") && !is_refused("one.example"));
}

#[test]
fn the_last_good_list_is_used_after_a_restart_without_the_network() {
    let (target, state) = (TcpTarget::echo(), tempfile::tempdir().unwrap());
    let server = server();
    let web = Web::new(None);
    web.set(list(&[entry(&server)]));
    let local = Local::start(state.path(), online(&web.url("/list")));
    let kept = || {
        let files = fs::read_dir(state.path().join("ssr"))
            .into_iter()
            .flatten()
            .flatten();
        let mut files = files.map(|file| file.path());
        files.find(|path| path.extension().is_some_and(|ending| ending == "json"))
    };
    eventually("the list is kept", || kept().is_some());
    let mode = fs::metadata(kept().unwrap()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    drop(local);

    web.set(Vec::new());
    let asked = web.asked();
    let local = Local::start(state.path(), online(&web.url("/list")));
    assert!(local.works(&target), "at once, before any download");
    local.says("the list of servers cannot be updated");
    assert!(web.asked() > asked && local.works(&target));
    drop(local);

    // One that is broken on disk is told, and replaced by the next download.
    fs::write(kept().unwrap(), "{").unwrap();
    web.set(list(&[entry(&server)]));
    let local = Local::start(state.path(), online(&web.url("/list")));
    local.says("the kept list of servers cannot be used");
    local.says("the servers of the list have changed");
    assert!(local.works(&target));
}

#[test]
fn a_list_that_is_wrong_changes_nothing_and_the_log_says_what_is_wrong() {
    let (target, state) = (TcpTarget::echo(), tempfile::tempdir().unwrap());
    let server = server();
    let web = Web::new(None);
    web.set(list(&[entry(&server)]));
    let local = Local::start(state.path(), online(&web.url("/list")));
    local.says("the servers of the list have changed");
    let mut bad_method = entry(&server);
    bad_method["method"] = json!("rc4-md5");
    let mut plugin = entry(&server);
    plugin["plugin"] = json!("sh");
    let long = format!("{{\"servers\": [], \"x\": \"{}\"}}", "x".repeat(10 << 20));
    let endless = [
        &b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"[..],
        long.as_bytes(),
    ]
    .concat();
    let cut = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"servers\"".to_vec();
    let moved = |to: &str| page("302 Found", &format!("Location: {to}\r\n"), b"");
    for (answer, reason) in [
        (
            page("200 OK", "", b"<html>garbage"),
            "not a list of servers of SIP008: it is not JSON",
        ),
        (list(&[]), "the list has no servers"),
        (
            list(&[entry(&server), bad_method]),
            "server 2 of the list: method: ",
        ),
        (
            list(&[plugin]),
            "the plugin `sh`, which `online_config.allowed_plugins` does not allow",
        ),
        (
            page("200 OK", "", long.as_bytes()),
            "the document is longer than 4194304 bytes",
        ),
        (endless, "the document is longer than 4194304 bytes"),
        (
            page("404 Not Found", "", b"{}"),
            "HTTP status 404: there is no such document any more",
        ),
        (cut, "error="),
        (b"no HTTP\r\n\r\n".to_vec(), "error="),
        (moved(&web.url("/list")), "the server redirects too often"),
    ] {
        let before = local.process.log().len();
        web.set(answer);
        eventually(reason, || {
            let log = local.process.log();
            let mut lines = log[before..].lines();
            lines.any(|line| line.contains("cannot be updated") && line.contains(reason))
        });
        assert!(local.works(&target), "{reason}");
    }
    assert!(!local.process.log().contains(&password(METHOD, 1)));
    web.set(list(&[entry(&server), entry(&server)]));
    local.says("servers=2 removed=0");
}

#[test]
fn a_redirect_is_followed_and_servers_of_the_config_stay_beside_those_of_the_list() {
    let (target, state) = (TcpTarget::echo(), tempfile::tempdir().unwrap());
    let (own, listed) = (server(), server());
    let (web, elsewhere) = (Web::new(None), Web::new(None));
    elsewhere.set(list(&[entry(&listed)]));
    web.set(page(
        "301 Moved",
        &format!("Location: {}\r\n", elsewhere.url("/new")),
        b"",
    ));
    let mut config = online(&web.url("/old"));
    let mut own_entry = entry(&own);
    own_entry["remarks"] = json!("own");
    config["servers"] = json!([own_entry]);
    let local = Local::start(state.path(), config);
    assert!(
        local.works(&target),
        "the server of the config needs no list"
    );
    local.says("the servers of the list have changed");
    drop(own);
    assert!(local.works(&target), "the server of the list takes over");
    assert!(web.asked() > 0 && elsewhere.asked() > 0);
}

#[test]
fn a_plugin_of_a_list_runs_if_it_is_allowed_and_ends_with_ssr() {
    let (target, state) = (TcpTarget::echo(), tempfile::tempdir().unwrap());
    let server = server();
    let dir = tempfile::tempdir().unwrap();
    let plugin = dir.path().join("relay.py");
    fs::write(&plugin, RELAY).unwrap();
    fs::set_permissions(&plugin, fs::Permissions::from_mode(0o755)).unwrap();
    let plugin = plugin.to_str().unwrap();
    let mut with_plugin = entry(&server);
    with_plugin["plugin"] = json!(plugin);
    let web = Web::new(None);
    web.set(list(&[with_plugin.clone()]));
    let mut config = online(&web.url("/list"));
    config["online_config"]["allowed_plugins"] = json!([plugin]);
    let mut local = Local::start(state.path(), config);
    local.says("the servers of the list have changed");
    assert!(local.works(&target));
    let runs = || {
        let found = Command::new("pgrep").args(["-f", plugin]).output().unwrap();
        String::from_utf8(found.stdout).unwrap().lines().count()
    };
    assert_eq!(runs(), 1);
    // The same server again is the same plugin.
    let mut other = entry(&server);
    other["remarks"] = json!("other");
    web.set(list(&[with_plugin, other]));
    local.says("servers=2 removed=0");
    assert_eq!(runs(), 1);
    local.process.signal(rustix::process::Signal::TERM);
    local.process.wait(DEADLINE);
    eventually("the plugin ends", || runs() == 0);
}

/// A plugin that passes bytes on.
const RELAY: &str = r#"#!/usr/bin/env python3
import os, socket, threading
def pump(a, b):
    while True:
        data = a.recv(65536)
        if not data:
            break
        b.sendall(data)
    b.shutdown(socket.SHUT_WR)
there = (os.environ["SS_REMOTE_HOST"], int(os.environ["SS_REMOTE_PORT"]))
here = socket.create_server((os.environ["SS_LOCAL_HOST"], int(os.environ["SS_LOCAL_PORT"])))
while True:
    a, _ = here.accept()
    b = socket.create_connection(there)
    for pair in ((a, b), (b, a)):
        threading.Thread(target=pump, args=pair, daemon=True).start()
"#;

/// A certificate for 127.0.0.1, and the server that has it.
fn tls(directory: &Path) -> (Arc<rustls::ServerConfig>, String) {
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    let file = directory.join("ca.pem");
    fs::write(&file, made.cert.pem()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    (Arc::new(config), file.to_str().unwrap().to_owned())
}

#[test]
fn import_downloads_by_https_and_trusts_no_unknown_certificate() {
    let dir = tempfile::tempdir().unwrap();
    let (config, authorities) = tls(dir.path());
    let web = Web::new(Some(config));
    let server = json!({"server": "a.example", "server_port": 8388, "method": METHOD, "password": password(METHOD, 1)});
    web.set(list(&[server]));
    let url = format!("https://{}/token", web.address);
    let refused = ssr(&["import", &url]).output().unwrap();
    assert_eq!(refused.status.code(), Some(69), "{refused:?}");
    let error = String::from_utf8(refused.stderr).unwrap();
    assert!(
        error.contains("TLS: ") && !error.contains("token"),
        "{error}"
    );

    let mut import = ssr(&["import", &url]);
    import.env("SSL_CERT_FILE", &authorities);
    let imported = import.output().unwrap();
    assert!(imported.status.success(), "{imported:?}");
    let config: Value = serde_json::from_slice(&imported.stdout).unwrap();
    assert_eq!(config["servers"][0]["server"], "a.example");
    let told = String::from_utf8(imported.stderr).unwrap();
    assert_eq!(
        told, "read as SIP008: 1 servers\n",
        "no progress beside a terminal"
    );

    // From https, nothing leads to http.
    let plain = Web::new(None);
    plain.set(list(&[]));
    web.set(page(
        "302 Found",
        &format!("Location: {}\r\n", plain.url("/x")),
        b"",
    ));
    let output = ssr(&["import", &url])
        .env("SSL_CERT_FILE", &authorities)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(69), "{output:?}");
    assert_eq!(plain.asked(), 0);
}

#[test]
fn import_shows_on_a_terminal_how_far_it_is_and_refuses_what_is_too_long() {
    let dir = tempfile::tempdir().unwrap();
    let web = Web::new(None);
    let server = json!({"server": "a.example", "server_port": 8388, "method": METHOD, "password": password(METHOD, 1)});
    web.set(list(&[server]));
    let line = format!("{} import {}", env!("CARGO_BIN_EXE_ssr"), web.url("/token"));
    let mut terminal = Command::new("script");
    terminal
        .args(["-qefc", &line, "typescript"])
        .current_dir(dir.path());
    let mut terminal = Process::spawn("script", &mut terminal).unwrap();
    let (status, shown) = terminal.wait(DEADLINE);
    assert!(status.success(), "{shown}");
    let at = format!("downloading http://{}/…", web.address);
    assert!(shown.contains(&at) && !shown.contains("token"), "{shown}");

    let huge = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", 1_u64 << 40);
    web.set(huge.into_bytes());
    let output = ssr(&["import", &web.url("/x")]).output().unwrap();
    assert_eq!(output.status.code(), Some(69));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("longer than 16777216 bytes"), "{error}");
    assert!(error.contains("is not https"), "{error}");
}
