//! The configs that shadowsocks-rust and shadowsocks-libev ship run unchanged, on both sides.

use crate::common::process::Process;
use std::{fs, os::unix::fs::PermissionsExt as _, process::Command, time::Duration};

/// A config: where it is from, its text, and what curl calls its listeners.
struct Shipped {
    name: &'static str,
    text: &'static str,
    listeners: &'static [&'static str],
    /// Flags of `ssr local`, where the file is for the server only: it listens on all addresses.
    local: &'static str,
}

const SHIPPED: [Shipped; 4] = [
    Shipped {
        name: "shadowsocks-rust/debian/config.json",
        text: r#"{
    "server": "0.0.0.0",
    "server_port": 8388,
    "local_address": "127.0.0.1",
    "local_port": 1080,
    "password": "barfoo",
    "timeout": 300,
    "method": "chacha20-ietf-poly1305"
}"#,
        listeners: &["socks5h://127.0.0.1:1080"],
        local: "-s 127.0.0.1:8388 -m chacha20-ietf-poly1305 -k barfoo",
    },
    Shipped {
        name: "shadowsocks-rust/examples/config.json",
        text: r#"{
    "server": "127.0.0.1",
    "server_port": 8388,
    "local_port": 1080,
    "local_address": "127.0.0.1",
    "password": "password",
    "timeout": 300,
    "method": "aes-256-gcm"
}"#,
        listeners: &["socks5h://127.0.0.1:1080"],
        local: "",
    },
    Shipped {
        name: "shadowsocks-rust/examples/config_ext.json",
        text: r#"{
    "locals": [
        {"local_address": "127.0.0.1", "local_port": 1080},
        {"local_address": "127.0.0.1", "local_port": 3128, "protocol": "http"},
        {
            "local_address": "127.0.0.1", "local_port": 53, "protocol": "tunnel",
            "forward_address": "8.8.8.8", "forward_port": 53
        }
    ],
    "servers": [
        {"server": "127.0.0.1", "server_port": 8384, "password": "password-svr2", "method": "chacha20-ietf-poly1305"},
        {"server": "127.0.0.1", "server_port": 8385, "password": "password-svr3", "method": "aes-128-gcm"}
    ]
}"#,
        listeners: &["socks5h://127.0.0.1:1080", "http://127.0.0.1:3128"],
        local: "",
    },
    Shipped {
        name: "shadowsocks-libev/config.json",
        text: r#"{
    "server":["::1", "127.0.0.1"],
    "mode":"tcp_and_udp",
    "server_port":8388,
    "local_port":1080,
    "password":"A1OyJ4TTbPqv",
    "timeout":86400,
    "method":"chacha20-ietf-poly1305"
}"#,
        listeners: &["socks5h://127.0.0.1:1080"],
        local: "",
    },
];

/// In a network of its own, where the ports of the file are free: both sides, a web server, and what asks it.
const SCENE: &str = r#"
set -eu
ip link set lo up
ssr=$1 config=$2 flags=$3
shift 3
pids=
trap 'kill $pids' EXIT
"$ssr" server -c "$config" &
pids="$pids $!"
"$ssr" local -c "$config" $flags &
pids="$pids $!"
cd "$(dirname "$config")"
python3 -m http.server --bind 127.0.0.1 8000 >/dev/null 2>&1 &
pids="$pids $!"
for proxy in "$@"; do
    [ "$(curl -sS -m 20 --retry 30 --retry-delay 1 --retry-all-errors -x "$proxy" http://127.0.0.1:8000/page)" = "the page" ]
done
"#;

#[test]
#[ignore = "needs root: namespaces and their firewalls"]
fn configs_that_others_ship_run_unchanged_over_link() {
    for Shipped {
        name,
        text,
        listeners,
        local,
    } in SHIPPED
    {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("config.json");
        fs::write(&config, text).unwrap();
        fs::set_permissions(&config, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(dir.path().join("page"), "the page").unwrap();
        let mut command = Command::new("unshare");
        command
            .args([
                "--net",
                "sh",
                "-c",
                SCENE,
                "scene",
                env!("CARGO_BIN_EXE_ssr"),
            ])
            .arg(&config)
            .arg(local)
            .args(listeners);
        let mut scene = Process::spawn(name, &mut command).unwrap();
        let (status, log) = scene.wait(Duration::from_secs(60));
        assert!(status.success(), "{name}: {log}");
    }
}

/// Debian's copy, with its password.
#[test]
#[ignore = "needs peers: scripts/test"]
fn config_that_debian_installs_is_the_one_that_we_try() {
    let installed = fs::read_to_string("/etc/shadowsocks-libev/config.json").unwrap();
    let keys = |text: &str| {
        let value: serde_json::Value = serde_json::from_str(text).unwrap();
        let mut keys = value.as_object().unwrap().clone();
        keys.remove("password").unwrap();
        keys
    };
    let tried = SHIPPED.iter().find(|one| one.name.contains("libev"));
    assert_eq!(keys(&installed), keys(tried.unwrap().text));
}

#[test]
fn configs_that_others_ship_pass_the_check() {
    for Shipped {
        name, text, local, ..
    } in SHIPPED
    {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("config.json");
        fs::write(&config, text).unwrap();
        fs::set_permissions(&config, fs::Permissions::from_mode(0o600)).unwrap();
        for role in ["local", "server"] {
            if role == "local" && !local.is_empty() {
                continue;
            }
            let mut command = Command::new(env!("CARGO_BIN_EXE_ssr"));
            command.args(["check", "--strict", "--role", role, "-c"]);
            let output = command.arg(&config).output().unwrap();
            assert!(output.status.success(), "{name} {role}: {output:?}");
        }
    }
}
