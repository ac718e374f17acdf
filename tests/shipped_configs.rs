//! The configs that shadowsocks-rust and shadowsocks-libev ship run unchanged, on both sides.

use crate::common::process::Process;
use std::{fs, process::Command, time::Duration};

/// Each with the ports of its listeners, `socks5h` first.
const SHIPPED: [(&str, &str, &[(&str, u16)]); 4] = [
    (
        "shadowsocks-rust/debian/config.json",
        r#"{
    "server": "0.0.0.0",
    "server_port": 8388,
    "local_address": "127.0.0.1",
    "local_port": 1080,
    "password": "barfoo",
    "timeout": 300,
    "method": "chacha20-ietf-poly1305"
}"#,
        &[("socks5h", 1080)],
    ),
    (
        "shadowsocks-rust/examples/config.json",
        r#"{
    "server": "127.0.0.1",
    "server_port": 8388,
    "local_port": 1080,
    "local_address": "127.0.0.1",
    "password": "password",
    "timeout": 300,
    "method": "aes-256-gcm"
}"#,
        &[("socks5h", 1080)],
    ),
    (
        "shadowsocks-rust/examples/config_ext.json",
        r#"{
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
        &[("socks5h", 1080), ("http", 3128)],
    ),
    (
        "shadowsocks-libev/config.json",
        r#"{
    "server":["::1", "127.0.0.1"],
    "mode":"tcp_and_udp",
    "server_port":8388,
    "local_port":1080,
    "password":"A1OyJ4TTbPqv",
    "timeout":86400,
    "method":"chacha20-ietf-poly1305"
}"#,
        &[("socks5h", 1080)],
    ),
];

/// In a network of its own, where the ports of the file are free: both sides, a web server, and what asks it.
const SCENE: &str = r#"
set -eu
ip link set lo up
ssr=$1 config=$2
shift 2
trap 'kill $(jobs -p) 2>/dev/null || true' EXIT
"$ssr" server -c "$config" &
"$ssr" local -c "$config" &
cd "$(dirname "$config")"
python3 -m http.server --bind 127.0.0.1 8000 >/dev/null 2>&1 &
for proxy in "$@"; do
    [ "$(curl -sS -m 20 --retry 50 --retry-delay 1 --retry-all-errors -x "$proxy" http://127.0.0.1:8000/page)" = "the page" ]
done
"#;

#[test]
#[ignore = "needs root: namespaces and their firewalls"]
fn configs_that_others_ship_run_unchanged_over_link() {
    let debian = fs::read_to_string("/etc/shadowsocks-libev/config.json").ok();
    let installed = debian.as_deref().map(|text| {
        let ports: &[(&str, u16)] = &[("socks5h", 1080)];
        ("/etc/shadowsocks-libev/config.json", text, ports)
    });
    for (name, text, listeners) in SHIPPED.into_iter().chain(installed) {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("config.json");
        fs::write(&config, text).unwrap();
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
            .arg(&config);
        for (scheme, port) in listeners {
            command.arg(format!("{scheme}://127.0.0.1:{port}"));
        }
        let mut scene = Process::spawn(name, &mut command).unwrap();
        let (status, log) = scene.wait(Duration::from_secs(100));
        assert!(status.success(), "{name}: {log}");
    }
}

#[test]
fn configs_that_others_ship_pass_the_check() {
    for (name, text, _) in SHIPPED {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("config.json");
        fs::write(&config, text).unwrap();
        for role in ["local", "server"] {
            let mut command = Command::new(env!("CARGO_BIN_EXE_ssr"));
            command.args(["check", "--strict", "--role", role, "-c"]);
            let output = command.arg(&config).output().unwrap();
            assert!(output.status.success(), "{name} {role}: {output:?}");
        }
    }
}
