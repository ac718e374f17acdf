//! What docs/deploy.md says: how strict the systemd unit is, that the server works as it runs it, and what users cannot reach.

use crate::common::{DEADLINE, peers::Spec, process::Process};
use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::{PermissionsExt as _, chown},
    path::Path,
    process::Command,
};

const DEPLOY: &str = include_str!("../docs/deploy.md");
/// The user `nobody`.
const NOBODY: u32 = 65534;

/// The unit of the server.
fn unit() -> String {
    let blocks = crate::docs::texts(DEPLOY, "ini");
    let unit = blocks
        .into_iter()
        .find(|block| block.contains("ExecStart="));
    unit.unwrap()
}

/// The values of a key of the unit.
fn values<'a>(unit: &'a str, key: &str) -> Vec<&'a str> {
    let lines = unit.lines();
    lines
        .filter_map(|line| line.strip_prefix(key)?.strip_prefix('='))
        .collect()
}

fn printed(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
#[ignore = "needs peers: scripts/test"]
fn unit_is_as_strict_as_systemd_measures() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("ssr.service");
    // What it runs need not be installed.
    fs::write(&file, unit().replace("/usr/local/bin/ssr", "/bin/true")).unwrap();
    let arguments = [
        "security",
        "--offline=yes",
        "--no-pager",
        file.to_str().unwrap(),
    ];
    let text = printed("systemd-analyze", &arguments);
    let level = text.split("ssr.service: ").nth(1).unwrap();
    let level: f32 = level.split_whitespace().next().unwrap().parse().unwrap();
    assert!(level <= 2.0, "{level}:\n{text}");
    let said = format!("its exposure is {level}");
    assert!(
        DEPLOY.contains(&said),
        "docs/deploy.md does not say: {said}"
    );
}

/// The system calls of a set of systemd, with those of the sets in it.
fn system_calls(set: &str, found: &mut BTreeSet<String>) {
    if !set.starts_with('@') {
        found.insert(set.to_owned());
        return;
    }
    for line in printed("systemd-analyze", &["syscall-filter", "--no-pager", set])
        .lines()
        .skip(1)
    {
        match line.trim() {
            "" => {}
            comment if comment.starts_with('#') => {}
            inner if inner.starts_with('@') => system_calls(inner, found),
            name => {
                found.insert(name.to_owned());
            }
        }
    }
}

/// What the unit lets the server call.
fn allowed(unit: &str) -> BTreeSet<String> {
    let mut allowed = BTreeSet::new();
    for list in values(unit, "SystemCallFilter") {
        let mut named = BTreeSet::new();
        for set in list.trim_start_matches('~').split(' ') {
            system_calls(set, &mut named);
        }
        match list.starts_with('~') {
            true => allowed.retain(|name| !named.contains(name)),
            false => allowed.extend(named),
        }
    }
    // systemd allows these in every list.
    system_calls("@default", &mut allowed);
    allowed
}

/// In a network of its own: the server as the unit runs it, a client, a page, and what asks for it through both.
const SCENE: &str = r#"
set -eu
cd "$1"
command=$2 capabilities=$3
ip link set lo up
pids=
trap 'kill $pids 2>/dev/null; wait' EXIT
python3 -m http.server --bind 127.0.0.1 8000 >/dev/null 2>&1 &
pids="$pids $!"
CREDENTIALS_DIRECTORY=$1/credentials strace -f -qq -o calls setpriv --reuid 65534 --regid 65534 --clear-groups \
    --no-new-privs --inh-caps "-all,$capabilities" --ambient-caps "-all,$capabilities" --bounding-set "-all,$capabilities" \
    sh -c 'echo $$ >server.pid; exec '"$command" &
pids="$pids $!"
./ssr local -c local.json &
pids="$pids $!"
[ "$(curl -sS -m 20 --retry 30 --retry-delay 1 --retry-all-errors -x socks5h://127.0.0.1:1080 http://127.0.0.1:8000/page)" = "the page" ]
kill "$(cat server.pid)"
"#;

#[test]
#[ignore = "needs root: namespaces and their firewalls"]
fn unit_serves_tls_on_port_443_over_link() {
    let unit = unit();
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o777)).unwrap();
    fs::copy(env!("CARGO_BIN_EXE_ssr"), at("ssr")).unwrap();
    fs::write(at("page"), "the page").unwrap();
    let password = Spec::new("2022-blake3-aes-256-gcm").password;
    let configs = crate::docs::configs(DEPLOY, &password);
    let config = configs
        .iter()
        .find(|config| config.contains("/run/credentials/"))
        .unwrap();
    // systemd copies the files to where only the service can read them.
    let credentials = at("credentials");
    fs::create_dir(&credentials).unwrap();
    let made = rcgen::generate_simple_self_signed(vec!["vpn.example.com".to_owned()]).unwrap();
    let here = format!("{}/", credentials.display());
    for (name, text) in [
        (
            "config.json",
            config.replace("/run/credentials/ssr.service/", &here),
        ),
        ("cert.pem", made.cert.pem()),
        ("key.pem", made.signing_key.serialize_pem()),
    ] {
        let loaded = format!("LoadCredential={name}:");
        assert!(DEPLOY.contains(&loaded), "no {loaded}");
        secret(&credentials.join(name), &text, 0o400);
    }
    fs::write(at("ca.pem"), made.cert.pem()).unwrap();
    let local = serde_json::json!({
        "server": "127.0.0.1", "server_port": 443, "local_port": 1080, "method": "2022-blake3-aes-256-gcm",
        "password": password,
        "transport": {"type": "tcp", "tls": {"ca": at("ca.pem"), "server_name": "vpn.example.com"}},
    });
    fs::write(at("local.json"), local.to_string()).unwrap();
    let binary = at("ssr").display().to_string();
    let command = values(&unit, "ExecStart")[0].replace("/usr/local/bin/ssr", &binary);
    let capability = |key: &str| {
        values(&unit, key)
            .join(",")
            .to_lowercase()
            .replace("cap_", "+")
    };
    assert_eq!(
        capability("AmbientCapabilities"),
        capability("CapabilityBoundingSet")
    );
    let mut scene = Command::new("unshare");
    scene
        .args(["--net", "sh", "-c", SCENE, "scene"])
        .arg(directory.path())
        .args([&command, &capability("AmbientCapabilities")]);
    let mut scene = Process::spawn("the unit", &mut scene).unwrap();
    let (status, log) = scene.wait(DEADLINE * 3);
    assert!(status.success(), "{log}");
    assert!(log.contains("listening address=0.0.0.0:443"), "{log}");
    let calls = fs::read_to_string(at("calls")).unwrap();
    let server = calls
        .lines()
        .skip_while(|line| !line.contains(&format!("execve(\"{binary}\"")));
    let made: BTreeSet<String> = server
        .filter_map(|line| line.split_whitespace().nth(1)?.split_once('('))
        .map(|(name, _)| name.to_owned())
        .collect();
    assert!(made.contains("accept4") && made.len() > 20, "{made:?}");
    let refused: Vec<_> = made.difference(&allowed(&unit)).cloned().collect();
    assert!(refused.is_empty(), "the unit's filter refuses {refused:?}");
}

fn secret(file: &Path, text: &str, mode: u32) {
    fs::write(file, text).unwrap();
    fs::set_permissions(file, fs::Permissions::from_mode(mode)).unwrap();
    chown(file, Some(NOBODY), Some(NOBODY)).unwrap();
}

/// Addresses that would answer, each asked for through the server, which counts what it has denied.
const DENIED: &str = r#"
set -eu
ssr=$1 dir=$2
ip link set lo up
ip addr add 203.0.113.7/32 dev lo
ip -6 addr add 2001:db8:7::1/128 dev lo nodad
for network in 198.18.0.0/15 192.0.0.0/24; do ip route add local "$network" dev lo; done
for network in 64:ff9b::/32 2002::/16; do ip -6 route add local "$network" dev lo; done
pids=
trap 'kill $pids 2>/dev/null; wait' EXIT
cd "$dir"
python3 -m http.server --bind :: 8000 >/dev/null 2>&1 &
pids="$pids $!"
"$ssr" server -c config.json -v >server.log 2>&1 &
pids="$pids $!"
"$ssr" local -c config.json >local.log 2>&1 &
pids="$pids $!"
fetch() { curl -sS -o /dev/null -m 5 "$@"; }
for host in 203.0.113.7 '[2001:db8:7::1]' 198.18.0.1 192.0.0.8 '[64:ff9b:1::1]' '[2002:cb00:7107::1]' '[64:ff9b::cb00:7107]' \
    '[::ffff:203.0.113.7]'; do
    # It would answer.
    case $host in *ffff*) ;; *) fetch --retry 30 --retry-delay 1 --retry-all-errors "http://$host:8000/" 2>/dev/null || echo "unreachable: $host" ;; esac
    if fetch --retry 5 --retry-connrefused -x socks5h://127.0.0.1:1080 "http://$host:8000/" 2>/dev/null; then
        echo "reached: $host"
    fi
done
denied() { grep -c 'stream ended.*status="denied"' server.log || true; }
# The log is written a moment later.
for _ in $(seq 100); do [ "$(denied)" -lt 8 ] || break; sleep 0.1; done
denied
"#;

#[test]
#[ignore = "needs root: namespaces and their firewalls"]
fn deny_private_keeps_users_from_this_machine_over_link() {
    let directory = tempfile::tempdir().unwrap();
    let config = serde_json::json!({
        "server": "127.0.0.1", "server_port": 8388, "local_port": 1080, "method": "2022-blake3-aes-256-gcm",
        "password": Spec::new("2022-blake3-aes-256-gcm").password, "deny_private": true,
    });
    fs::write(directory.path().join("config.json"), config.to_string()).unwrap();
    let mut scene = Command::new("unshare");
    scene
        .args([
            "--net",
            "sh",
            "-c",
            DENIED,
            "scene",
            env!("CARGO_BIN_EXE_ssr"),
        ])
        .arg(directory.path());
    let (status, log) = Process::spawn("deny_private", &mut scene)
        .unwrap()
        .wait(DEADLINE * 3);
    let server = fs::read_to_string(directory.path().join("server.log")).unwrap();
    assert!(status.success(), "{log}{server}");
    assert_eq!(log.trim(), "8", "{log}{server}");
}
