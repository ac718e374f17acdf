//! What packages are made of: the service manager is told, the log as JSON, the filter of fail2ban, OpenWrt's UCI, the JSON Schema,
//! the Debian package, the release.

use crate::common::{
    DEADLINE, eventually,
    forward::connect,
    peers::{Half, Program::Ssr, Spec, Start, ssr},
    process::{Process, free_port, make_private, v4},
};
use regex::Regex;
use rustix::process::Signal;
use serde_json::{Value, json};
use std::{
    fs,
    io::Write as _,
    os::unix::{fs::PermissionsExt as _, net::UnixDatagram},
    path::Path,
    process::Command,
};

const METHOD: &str = "2022-blake3-aes-256-gcm";

fn printed(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {stderr}");
    String::from_utf8(output.stdout).unwrap()
}

fn tree(path: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// A config of a server in `directory`, at a free port.
fn config(directory: &Path, more: &Value) -> std::path::PathBuf {
    let mut keys = json!({
        "server": "127.0.0.1", "server_port": free_port(), "method": METHOD, "password": Spec::new(METHOD).password,
        "mode": "tcp_only",
    });
    for (key, value) in more.as_object().unwrap() {
        keys[key] = value.clone();
    }
    let file = directory.join("config.json");
    fs::write(&file, keys.to_string()).unwrap();
    make_private(&file);
    file
}

#[test]
fn service_manager_hears_that_ssr_serves_lives_and_ends() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path().join("notify");
    let manager = UnixDatagram::bind(&at).unwrap();
    manager.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut command = ssr(&["server", "-c"]);
    command
        .arg(config(directory.path(), &json!({})))
        .env("NOTIFY_SOCKET", &at)
        .env("WATCHDOG_USEC", "200000");
    let process = Process::spawn("ssr server", &mut command).unwrap();
    let hear = || {
        let mut buf = [0; 256];
        let len = manager.recv(&mut buf).unwrap();
        String::from_utf8_lossy(&buf[..len]).into_owned()
    };
    assert_eq!(hear(), "READY=1");
    eventually("it listens", || process.log().contains("listening"));
    assert_eq!([hear(), hear()], ["WATCHDOG=1", "WATCHDOG=1"]);
    process.signal(Signal::TERM);
    while hear() != "STOPPING=1" {}
}

#[test]
fn log_is_json_where_the_config_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let keys = json!({"log": {"format": {"json": true}}});
    let mut command = ssr(&["server", "-c"]);
    command.arg(config(directory.path(), &keys));
    let process = Process::spawn("ssr server", &mut command).unwrap();
    eventually("it runs", || process.log().contains("running"));
    eventually("whole lines are there", || process.log().ends_with('\n'));
    let log = process.log();
    let lines: Vec<Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}")))
        .collect();
    let running = lines.iter().find(|line| line["message"] == "running");
    let running = running.unwrap();
    assert_eq!(
        (&running["level"], &running["role"]),
        (&json!("INFO"), &json!("server"))
    );
    assert!(running["timestamp"].is_string(), "{running}");
}

/// The log of a server to which somebody without its key has come.
fn log_of_a_stranger() -> String {
    let server: Half = Start::server(Ssr, &Spec::new(METHOD))
        .with(json!({"mode": "tcp_only"}))
        .run();
    connect(server.address).write_all(&[7; 200]).unwrap();
    eventually("it is said", || {
        server.process.log().contains("was refused")
    });
    server.process.log()
}

#[test]
fn fail2ban_filter_finds_who_has_no_key() {
    let filter = fs::read_to_string(tree("packaging/fail2ban/ssr.conf")).unwrap();
    let rule = filter
        .lines()
        .find_map(|line| line.strip_prefix("failregex = "))
        .unwrap();
    let rule = Regex::new(&rule.replace("<HOST>", "(?P<host>[0-9a-fA-F:.]+)")).unwrap();
    let log = log_of_a_stranger();
    let found: Vec<_> = log.lines().filter_map(|line| rule.captures(line)).collect();
    assert_eq!(found.len(), 1, "{log}");
    assert_eq!(&found[0]["host"], "127.0.0.1");
    let line = |source: &str, rest: &str| {
        format!("2026-11-28T03:00:00Z  WARN a client was refused source={source} {rest}")
    };
    let six = line(
        "2001:db8:1::/64",
        r#"network="tcp" status="replayed" error=x"#,
    );
    assert_eq!(&rule.captures(&six).unwrap()["host"], "2001:db8:1::");
    // A wrong clock is a user's; a datagram can come from anybody; a message may quote what another has sent.
    for other in [
        line(
            "192.0.2.1",
            r#"network="tcp" user="ann" status="timestamp_skew" error=x"#,
        ),
        line(
            "192.0.2.1",
            r#"network="udp" status="unauthenticated" error=x"#,
        ),
        r#"INFO listening address=192.0.2.1:1"#.to_owned(),
    ] {
        assert!(!rule.is_match(&other), "{other}");
    }
}

/// `uci` with the sections of the package's example, and some that are hard to write.
const UCI: &str = r#"#!/bin/sh
[ "$1" = -q ] && shift
delimiter=' '
[ "$1" = -d ] && { delimiter=$2; shift 2; }
case "$1 $2" in
"show ssr.main") printf "ssr.main=ssr\nssr.main.enabled='1'\nssr.main.role='local'\nssr.main.mode='tcp_and_udp'\nssr.main.fast_open='true'\n" ;;
"show ssr.@server[0]") printf "ssr.@server[0]=server\nssr.cfg1.server='vpn.example.com'\nssr.cfg1.server_port='8388'\nssr.cfg1.method='aes-256-gcm'\nssr.cfg1.password='it\"s'\n" ;;
"show ssr.@server[1]") printf "ssr.@server[1]=server\nssr.cfg2.server='2001:db8::1'\nssr.cfg2.server_port='443'\nssr.cfg2.method='aes-256-gcm'\nssr.cfg2.password='12345'\nssr.cfg2.plugin_args='-a' '-b c'\n" ;;
"show ssr.@local[0]") printf "ssr.@local[0]=local\nssr.cfg3.protocol='socks'\nssr.cfg3.local_address='0.0.0.0'\nssr.cfg3.local_port='1080'\n" ;;
"show ssr.@server[1].plugin_args") printf "ssr.cfg2.plugin_args='-a' '-b c'\n" ;;
"show "*) echo "$2='one'" ;;
"get ssr.main.mode") echo tcp_and_udp ;;
"get ssr.main.fast_open") echo true ;;
"get ssr.@server[0]"|"get ssr.@server[1]"|"get ssr.@local[0]") echo section ;;
"get ssr.@server[0].server") echo vpn.example.com ;;
"get ssr.@server[0].password") printf '%s\n' 'it"s\b' ;;
"get ssr.@server[1].server") echo 2001:db8::1 ;;
"get ssr.@server[1].password") echo 12345 ;;
"get ssr.@server[1].plugin_args") printf '%s%s%s\n' -a "$delimiter" '-b c' ;;
"get ssr.@server[0].server_port") echo 8388 ;;
"get ssr.@server[1].server_port") echo 443 ;;
"get ssr.@server["*"].method") echo aes-256-gcm ;;
"get ssr.@local[0].protocol") echo socks ;;
"get ssr.@local[0].local_address") echo 0.0.0.0 ;;
"get ssr.@local[0].local_port") echo 1080 ;;
*) exit 1 ;;
esac
"#;

/// Runs the converter of OpenWrt's package under a shell.
fn converted(shell: &[&str]) -> String {
    let directory = tempfile::tempdir().unwrap();
    let uci = directory.path().join("uci");
    fs::write(&uci, UCI).unwrap();
    fs::set_permissions(&uci, fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!(
        "{}:{}",
        directory.path().display(),
        std::env::var("PATH").unwrap()
    );
    let mut command = Command::new(shell[0]);
    command
        .args(&shell[1..])
        .arg(tree("packaging/openwrt/uci-to-json"));
    printed(command.env("PATH", path))
}

fn is_converted(shell: &[&str]) {
    let text = converted(shell);
    let config: Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}"));
    let expected = json!({
        "mode": "tcp_and_udp",
        "fast_open": true,
        "servers": [
            {"server": "vpn.example.com", "server_port": 8388, "method": "aes-256-gcm", "password": "it\"s\\b"},
            {"server": "2001:db8::1", "server_port": 443, "method": "aes-256-gcm", "password": "12345", "plugin_args": ["-a", "-b c"]},
        ],
        "locals": [{"protocol": "socks", "local_address": "0.0.0.0", "local_port": 1080}],
    });
    assert_eq!(config, expected);
}

#[test]
fn uci_becomes_the_config() {
    is_converted(&["sh"]);
}

#[test]
#[ignore = "needs peers: scripts/test"]
fn uci_becomes_the_config_under_ash() {
    is_converted(&["busybox", "ash"]);
}

#[test]
fn schema_has_every_key_with_its_types() {
    let schema: Value = serde_json::from_str(&printed(&mut ssr(&["schema"]))).unwrap();
    for (section, key) in ssr::config::documented_keys() {
        let properties = match section {
            "top" => &schema["properties"],
            _ => &schema["$defs"][section.replace(' ', "_")]["properties"],
        };
        assert!(properties[key].is_object(), "{section} {key}");
    }
    let top = &schema["properties"];
    assert_eq!(top["fast_open"]["type"], json!(["boolean", "null"]));
    assert_eq!(top["log"]["anyOf"][1]["$ref"], "#/$defs/log");
    assert_eq!(
        top["servers"]["anyOf"][1]["items"]["$ref"],
        "#/$defs/server"
    );
    assert!(
        top["local_port"]["type"]
            .as_array()
            .unwrap()
            .contains(&json!("integer"))
    );
    assert!(
        !top["local_port"]["type"]
            .as_array()
            .unwrap()
            .contains(&json!("boolean"))
    );
}

/// Validates the files that follow with the JSON Schema of the first argument; prints what is wrong.
const VALIDATE: &str = r#"
import json, re, sys
from jsonschema import Draft202012Validator
schema = json.load(open(sys.argv[1]))
Draft202012Validator.check_schema(schema)
for name in sys.argv[2:]:
    # Comments stand on lines of their own, or behind a value.
    text = "\n".join(re.sub(r"(^|[\s,])//.*", r"\1", line) for line in open(name).read().splitlines())
    for error in Draft202012Validator(schema).iter_errors(json.loads(text)):
        print(name, error.json_path, error.message)
"#;

#[test]
#[ignore = "needs peers: scripts/test"]
fn configs_of_the_documents_are_valid_by_the_schema() {
    let directory = tempfile::tempdir().unwrap();
    let schema = directory.path().join("schema.json");
    fs::write(&schema, printed(&mut ssr(&["schema"]))).unwrap();
    let key = crate::docs::genkey();
    let mut files = Vec::new();
    for document in [
        "README.md",
        "docs/transports.md",
        "docs/operate.md",
        "docs/forward.md",
        "docs/reverse.md",
        "docs/rules.md",
    ] {
        let text = fs::read_to_string(tree(document)).unwrap();
        for (index, config) in crate::docs::configs(&text, &key).iter().enumerate() {
            let file = directory
                .path()
                .join(format!("{}-{index}.json", document.replace('/', "-")));
            fs::write(&file, config).unwrap();
            files.push(file);
        }
    }
    assert!(files.len() > 10);
    files.push(tree("config.example.json"));
    let wrong = directory.path().join("wrong.json");
    fs::write(&wrong, r#"{"sever_port": 1, "fast_open": "yes"}"#).unwrap();
    let python = std::env::var("SSR_PEER_PYTHON").unwrap();
    let run = |files: &[std::path::PathBuf]| {
        printed(
            Command::new(&python)
                .args(["-c", VALIDATE])
                .arg(&schema)
                .args(files),
        )
    };
    assert_eq!(run(&files), "");
    let complaints = run(&[wrong]);
    assert!(
        complaints.contains("sever_port") && complaints.contains("$.fast_open"),
        "{complaints}"
    );
}

#[test]
#[ignore = "needs peers: scripts/test"]
fn packaged_units_are_strict() {
    let directory = tempfile::tempdir().unwrap();
    for name in ["ssr-server.service", "ssr-local.service"] {
        let unit = fs::read_to_string(tree("packaging/systemd").join(name)).unwrap();
        assert!(unit.contains("Type=notify") && unit.contains("WatchdogSec="));
        let file = directory.path().join(name);
        fs::write(&file, unit.replace("/usr/bin/ssr", "/bin/true")).unwrap();
        let mut command = Command::new("systemd-analyze");
        command
            .args(["security", "--offline=yes", "--no-pager"])
            .arg(&file);
        let text = printed(&mut command);
        let level = text.split(&format!("{name}: ")).nth(1).unwrap();
        let level: f32 = level.split_whitespace().next().unwrap().parse().unwrap();
        assert!(level <= 1.6, "{name}: {level}\n{text}");
    }
}

/// Installs, upgrades and purges a package in a directory: dpkg with a database of its own.
const DPKG: &str = r#"
set -eu
cd "$1"
root=$1/root
mkdir -p "$root/var/lib/dpkg/updates" "$root/var/lib/dpkg/info" "$root/var/log"
touch "$root/var/lib/dpkg/status"
run() { dpkg --root="$root" --log=/dev/null --force-script-chrootless --force-not-root --force-depends "$@" >>log 2>&1; }
run -i first.deb
"$root/usr/bin/ssr" check --role server -c "$root/etc/ssr/config.json"
[ "$(stat -c %a "$root/etc/ssr/config.json")" = 600 ]
cp "$root/etc/ssr/config.json" before.json
"$root/usr/bin/ssr" server -c "$root/etc/ssr/config.json" >server.log 2>&1 &
server=$!
trap 'kill $server 2>/dev/null' EXIT
for _ in $(seq 100); do ! grep -q running server.log || break; sleep 0.1; done
run -i second.deb
cmp before.json "$root/etc/ssr/config.json"
[ "$(dpkg-query --admindir="$root/var/lib/dpkg" -W -f '${Version} ${Status}' ssr)" = "0.2.0 install ok installed" ]
kill -0 $server
run --remove ssr
[ -e "$root/etc/ssr/config.json" ] && ! [ -e "$root/usr/bin/ssr" ]
run --purge ssr
find "$root" -path "$root/var/lib/dpkg" -prune -o -type f -print
"#;

/// The program without its symbols, which packages do not need.
fn stripped(directory: &Path) -> std::path::PathBuf {
    let binary = directory.join("ssr");
    let mut strip = Command::new("strip");
    strip.arg("-o").arg(&binary).arg(env!("CARGO_BIN_EXE_ssr"));
    printed(&mut strip);
    binary
}

#[test]
#[ignore = "needs root: dpkg"]
fn debian_package_installs_upgrades_and_is_purged() {
    let directory = tempfile::tempdir().unwrap();
    let binary = stripped(directory.path());
    let architecture = printed(Command::new("dpkg").arg("--print-architecture"));
    for (name, version) in [("first.deb", "0.1.0"), ("second.deb", "0.2.0")] {
        let mut build = Command::new(tree("packaging/deb/build"));
        build.arg(&binary).args([version, architecture.trim()]);
        build
            .arg(directory.path().join(name))
            .env("SSR_DEB_COMPRESSION", "none");
        printed(&mut build);
    }
    // In a network of its own: the port of the config is free there.
    let mut scene = Command::new("unshare");
    scene
        .args(["--net", "sh", "-c", DPKG, "dpkg"])
        .arg(directory.path());
    let output = scene.output().unwrap();
    let log = fs::read_to_string(directory.path().join("log")).unwrap_or_default();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{log}{stderr}");
    let left = String::from_utf8(output.stdout).unwrap();
    let left: Vec<_> = left.lines().filter(|line| line.starts_with('/')).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
#[ignore = "needs peers: scripts/test"]
fn release_has_everything_with_checksums() {
    let directory = tempfile::tempdir().unwrap();
    let binary = stripped(directory.path());
    let dist = directory.path().join("dist");
    let mut release = Command::new(tree("scripts/release"));
    release
        .env("SSR_BINARY", &binary)
        .env("SSR_DIST", &dist)
        .env("SSR_DEB_COMPRESSION", "none");
    printed(&mut release);
    let sums = fs::read_to_string(dist.join("SHA256SUMS")).unwrap();
    assert_eq!(sums.lines().count(), 3, "{sums}");
    printed(
        Command::new("sha256sum")
            .args(["--check", "--strict", "SHA256SUMS"])
            .current_dir(&dist),
    );
    let file = |end: &str| {
        let mut names = fs::read_dir(&dist)
            .unwrap()
            .map(|entry| entry.unwrap().path());
        names
            .find(|path| path.to_str().unwrap().ends_with(end))
            .unwrap()
    };
    let bom: Value = serde_json::from_slice(&fs::read(file(".cdx.json")).unwrap()).unwrap();
    assert_eq!(
        (&bom["bomFormat"], &bom["metadata"]["component"]["name"]),
        (&json!("CycloneDX"), &json!("ssr"))
    );
    let names: Vec<_> = bom["components"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["name"].as_str().unwrap())
        .collect();
    assert!(names.contains(&"tokio") && names.contains(&"rustls") && !names.contains(&"proptest"));
    let listed = printed(Command::new("tar").arg("-tzf").arg(file(".tar.gz")));
    for name in [
        "/ssr",
        "/ssr.1",
        "/ssr.schema.json",
        "/completions/ssr.zsh",
        "/packaging/docker/Dockerfile",
        "/LICENSE",
    ] {
        assert!(
            listed.lines().any(|line| line.ends_with(name)),
            "{name}: {listed}"
        );
    }
}

#[test]
fn container_needs_the_binary_alone() {
    // Its steps by hand: each file that it copies is in a release, and the command is one that ssr has.
    let steps = fs::read_to_string(tree("packaging/docker/Dockerfile")).unwrap();
    let steps: Vec<_> = steps
        .lines()
        .filter(|line| !line.starts_with('#'))
        .collect();
    assert_eq!(
        steps,
        [
            "FROM scratch",
            "COPY ssr /ssr",
            "USER 65534:65534",
            r#"ENTRYPOINT ["/ssr"]"#,
            r#"CMD ["server", "-c", "/config.json"]"#,
        ]
    );
    let at = v4(free_port());
    let directory = tempfile::tempdir().unwrap();
    let file = config(directory.path(), &json!({"server_port": at.port()}));
    let mut command = ssr(&["server", "-c"]);
    let mut process =
        Process::spawn("ssr server", command.arg(file).env_clear().current_dir("/")).unwrap();
    process.running().unwrap();
}
