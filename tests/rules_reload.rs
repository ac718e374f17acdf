//! The rules of a config that runs are read again when its file changes and on SIGHUP; a bad file changes nothing.

use crate::common::{
    eventually,
    peers::{self, Half, Program, Spec, Start},
    process::{Process, free_port, v4},
    socks::{CONNECT, Socks},
    targets::TcpTarget,
};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::PathBuf,
};
use tempfile::TempDir;

const METHOD: &str = "2022-blake3-aes-256-gcm";
const NOT_ALLOWED: u8 = 2;

/// A half whose config file the test changes.
struct Running {
    process: Process,
    address: SocketAddr,
    keys: Value,

    directory: TempDir,
}

impl Running {
    /// `ssr local` for a server, with these rules.
    fn local(server: &Half, rules: Value) -> Self {
        let (spec, port) = (Spec::new(METHOD), free_port());
        let keys = json!({
            "server": "127.0.0.1", "server_port": server.address.port(), "method": METHOD,
            "password": spec.password, "remarks": "home", "local_address": "127.0.0.1", "local_port": port,
            "rules": rules,
        });
        Self::start("local", keys, port)
    }

    fn start(role: &'static str, keys: Value, port: u16) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.json");
        fs::write(&path, serde_json::to_vec_pretty(&keys).unwrap()).unwrap();
        let mut command = peers::ssr(&[role, "-v", "-c", path.to_str().unwrap()]);
        let mut process = Process::spawn(&format!("ssr {role}"), &mut command).unwrap();
        process.running().unwrap();
        Self {
            process,
            address: v4(port),
            keys,

            directory,
        }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("config.json")
    }

    /// Writes the config with one key changed.
    fn change(&mut self, key: &str, value: Value) {
        self.keys[key] = value;
        // As an editor does: a complete file in place of the old one.
        let new = self.directory.path().join("new");
        fs::write(&new, serde_json::to_vec_pretty(&self.keys).unwrap()).unwrap();
        fs::rename(new, self.path()).unwrap();
    }

    fn hang_up(&self) {
        self.process.signal(Signal::HUP);
    }

    fn said(&self, words: &str) -> usize {
        self.process.log().matches(words).count()
    }

    /// The code of a reply to CONNECT.
    fn code(&self, target: &TcpTarget) -> u8 {
        let socks = Socks::new(self.address);
        socks.request(CONNECT, &target.v4()).unwrap().1
    }
}

fn server() -> Half {
    Start::server(Program::Ssr, &Spec::new(METHOD)).run()
}

fn echoes(stream: &mut TcpStream) -> bool {
    let mut back = [0; 5];
    stream.write_all(b"hello").is_ok() && stream.read_exact(&mut back).is_ok()
}

const READ: &str = "config read again; ";
const RULES_READ: &str = "rules of the config read again";
const REFUSED: &str = "the changed config cannot be used; nothing has changed";

#[test]
fn changed_rules_count_for_new_requests_and_flows_live_on() {
    let (server, target) = (server(), TcpTarget::echo());
    let block = json!([{"ip": "127.0.0.1", "port": target.port(), "to": "block"}]);
    let mut local = Running::local(&server, json!([{"domain": "a.test", "to": "block"}]));
    let mut open = Socks::new(local.address).connect(&target.v4());
    assert!(echoes(&mut open));

    // By itself, when the file has changed.
    local.change("rules", block.clone());
    eventually("the file is read", || local.said(RULES_READ) == 1);
    assert_eq!(local.code(&target), NOT_ALLOWED);
    assert!(echoes(&mut open), "what is open goes on");

    // At once, by SIGHUP: no rule is left.
    local.change("rules", json!([]));
    local.hang_up();
    eventually("the file is read again", || local.said(READ) >= 1);
    assert_eq!(local.code(&target), 0);
    local.change("rules", block);
    local.hang_up();
    eventually("and again", || local.code(&target) == NOT_ALLOWED);
    assert!(echoes(&mut open), "what is open goes on");
    assert_eq!(local.said(REFUSED), 0);
}

#[test]
fn bad_config_changes_nothing_and_says_where() {
    let (server, target) = (server(), TcpTarget::echo());
    let block = json!([{"port": target.port(), "to": "block"}]);
    let mut local = Running::local(&server, block);
    assert_eq!(local.code(&target), NOT_ALLOWED);
    for (number, (rules, complaint)) in [
        (json!([{"port": 1, "to": "nowhere"}]), "rules[0].to: "),
        (
            json!([{"ip": "10.0.0.0/99", "to": "direct"}]),
            "rules[0].ip: ",
        ),
        (
            json!([{"list": "/missing/list.txt", "to": "direct"}]),
            "rules[0].list: ",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        local.change("rules", rules);
        local.hang_up();
        eventually("the bad file is reported", || local.said(REFUSED) > number);
        let log = local.process.log();
        let line = log.lines().rfind(|line| line.contains(REFUSED)).unwrap();
        let place = format!("{}:", local.path().display());
        let (_, rest) = line
            .split_once(&place)
            .unwrap_or_else(|| panic!("no file and line: {line}"));
        assert!(
            rest.starts_with(|first: char| first.is_ascii_digit()),
            "{line}"
        );
        assert!(line.contains(complaint), "{line}");
        assert_eq!(local.code(&target), NOT_ALLOWED);
    }
    // What cannot be JSON, and a file that is gone.
    fs::write(local.path(), "{").unwrap();
    local.hang_up();
    eventually("the broken file is reported", || local.said(REFUSED) == 4);
    fs::remove_file(local.path()).unwrap();
    local.hang_up();
    eventually("the missing file is reported", || local.said(REFUSED) >= 5);
    assert_eq!(local.code(&target), NOT_ALLOWED);
    // A good one is used then.
    local.change("rules", json!([{"port": 1, "to": "block"}]));
    eventually("the good file is read", || local.said(RULES_READ) >= 1);
    assert_eq!(local.code(&target), 0);
}

#[test]
fn changed_file_waits_for_sighup_if_more_than_rules_has_changed() {
    let (server, target) = (server(), TcpTarget::echo());
    let mut local = Running::local(&server, json!([{"port": target.port(), "to": "home"}]));
    assert_eq!(local.code(&target), 0);
    let (password, port) = (local.keys["password"].clone(), free_port());
    local.keys["servers"] = json!([
        {"server": "127.0.0.1", "server_port": server.address.port(), "method": METHOD, "password": password, "remarks": "new"},
    ]);
    for key in ["server", "server_port", "method", "password", "remarks"] {
        local.keys.as_object_mut().unwrap().remove(key);
    }
    local.keys["local_port"] = json!(port);
    local.change("rules", json!([{"port": target.port(), "to": "new"}]));
    eventually("the log says so", || {
        local.said("has changed in more than its rules, and waits for SIGHUP") >= 1
    });
    assert_eq!((local.code(&target), local.said(READ)), (0, 0));
    local.hang_up();
    eventually("all of it is read", || local.said(READ) == 1);
    local.address = v4(port);
    assert_eq!(local.code(&target), 0, "by a server that is new");
}

#[test]
fn rules_of_the_server_are_read_again() {
    let (spec, port, target) = (Spec::new(METHOD), free_port(), TcpTarget::echo());
    let keys = json!({
        "server": "127.0.0.1", "server_port": port, "method": METHOD, "password": spec.password,
        "rules": [{"port": 1, "to": "block"}],
    });
    let mut server = Running::start("server", keys, port);
    let local = Start::local(Program::Ssr, &spec, server.address).run();
    assert!(echoes(&mut local.socks().connect(&target.v4())));
    server.change("rules", json!([{"port": target.port(), "to": "block"}]));
    eventually("the file is read", || server.said(RULES_READ) == 1);
    let before = target.accepted();
    assert!(!echoes(&mut local.socks().connect(&target.v4())));
    assert_eq!(target.accepted(), before);
}
