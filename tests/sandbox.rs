//! The sandbox: what the process can do is limited from its start on.

use crate::common::{
    changing::Changing,
    eventually,
    peers::ssr,
    process::{Process, free_port, make_private, v4},
    socks::Socks,
    targets::TcpTarget,
};
use serde_json::{Value, json};
use std::{
    fs,
    io::{Read as _, Write as _},
};

const METHOD: &str = "aes-256-gcm";
const LIMITED: &str = "sandbox: files limited, system calls limited";

fn server_keys() -> Value {
    json!({
        "server": "127.0.0.1", "server_port": free_port(), "method": METHOD, "password": "x",
    })
}

/// What the system says of each thread: whether it can gain rights, and how its calls are filtered.
fn threads(process: &Process) -> Vec<(String, String)> {
    let tasks = fs::read_dir(format!("/proc/{}/task", process.id())).unwrap();
    let status = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("status")).ok());
    let found = status.map(|status| {
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap_or_default().trim().to_owned()
        };
        (field("NoNewPrivs:"), field("Seccomp:"))
    });
    found.collect()
}

#[test]
fn every_thread_of_both_halves_is_limited_unless_the_config_says_no() {
    let target = TcpTarget::echo();
    for (sandbox, expected) in [(None, ("1", "2")), (Some(false), ("0", "0"))] {
        let mut keys = server_keys();
        if let Some(sandbox) = sandbox {
            keys["sandbox"] = json!(sandbox);
        }
        let server = Changing::start("server", keys.clone());
        let port = free_port();
        keys["local_address"] = json!("127.0.0.1");
        keys["local_port"] = json!(port);
        let local = Changing::start("local", keys);
        let mut stream = Socks::new(v4(port)).connect(&target.v4());
        stream.write_all(b"hello").unwrap();
        stream.read_exact(&mut [0; 5]).unwrap();
        for half in [&server, &local] {
            let all = threads(&half.process);
            assert!(all.len() > 1, "the log and the workers have threads");
            for one in &all {
                assert_eq!((one.0.as_str(), one.1.as_str()), expected, "{all:?}");
            }
            let said = match sandbox {
                None => LIMITED,
                Some(_) => "sandbox: off, as the config says",
            };
            assert_eq!(half.said(said), 1, "{}", half.process.log());
        }
    }
}

#[test]
fn a_file_elsewhere_is_not_read_by_a_reload_which_says_why() {
    let elsewhere = tempfile::tempdir().unwrap();
    let list = elsewhere.path().join("list.txt");
    fs::write(&list, "a.test\n").unwrap();
    let mut keys = server_keys();
    keys["rules"] = json!([]);
    let mut server = Changing::start("server", keys.clone());
    let rule = json!([{"list": list, "to": "block"}]);
    server.spoil("rules", rule.clone());
    eventually("the log says what may be behind it", || {
        server.said("list.txt: cannot be read: Permission denied") >= 1
            && server.said("the sandbox of this process allows the files of the config") >= 1
    });
    // Beside the config, it may be anywhere.
    let near = server.path().with_file_name("list.txt");
    fs::write(&near, "a.test\n").unwrap();
    server.change("rules", json!([{"list": near, "to": "block"}]));
    let plugin = server.spoil("plugin", json!("obfs-server"));
    assert!(plugin.contains("plugins: programs"), "{plugin}");
    // What refuses above is the sandbox.
    keys["sandbox"] = json!(false);
    keys["server_port"] = json!(free_port());
    Changing::start("server", keys).change("rules", rule);
}

#[test]
fn a_sandbox_that_is_required_and_cannot_be_had_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("config.json");
    let mut keys = server_keys();
    keys["sandbox"] = json!(true);
    keys["plugin"] = json!("obfs-server");
    fs::write(&config, keys.to_string()).unwrap();
    make_private(&config);
    let output = ssr(&["server", "-c"]).arg(&config).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(69), "{said}");
    assert!(
        said.contains("sandbox: plugins are programs of their own"),
        "{said}"
    );
}
