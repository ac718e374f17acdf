//! `ssr` through links with the names of other programs, by their own flags.

use crate::common::{
    eventually,
    matrix::{self, Targets},
    peers::ssr,
    process::{Process, free_port, v4},
    socks::{Socks, dial},
};
use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    os::unix::fs::symlink,
    path::Path,
    process::{Command, Output},
    time::Duration,
};

const PASSWORD: &str = "correct horse";

/// A directory of links to `ssr`.
struct Links(tempfile::TempDir);

impl Links {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn command(&self, name: &str, arguments: &str) -> Command {
        let link = self.0.path().join(name);
        let _exists = symlink(env!("CARGO_BIN_EXE_ssr"), &link);
        let mut command = Command::new(link);
        command
            .args(arguments.split_whitespace())
            .env_remove("RUST_LOG")
            .current_dir(self.0.path());
        command
    }

    fn output(&self, name: &str, arguments: &str) -> (Option<i32>, String, String) {
        let Output {
            status,
            stdout,
            stderr,
        } = self.command(name, arguments).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (status.code(), text(stdout), text(stderr))
    }

    fn run(&self, name: &str, arguments: &str) -> Process {
        let mut process = Process::spawn(name, &mut self.command(name, arguments)).unwrap();
        process
            .running()
            .unwrap_or_else(|log| panic!("{name} {arguments}: {log}"));
        process
    }
}

fn carries_both(local: SocketAddr) {
    let (socks, targets) = (Socks::new(local), Targets::start());
    matrix::echoes(&socks, &targets.echo.v4(), 100_000);
    matrix::echoes_datagram(&socks, &targets, 1200);
}

#[test]
fn sslocal_and_ssserver_relay_by_their_own_flags() {
    let (links, server, local) = (Links::new(), free_port(), free_port());
    let both = format!("-s 127.0.0.1:{server} -m aes-256-gcm -k correct --timeout 60 --no-delay");
    // In shadowsocks-rust, -U is TCP and UDP.
    let _server = links.run("ssserver", &format!("{both} -U"));
    let client = links.run("sslocal", &format!("{both} -U -b 127.0.0.1:{local}"));
    assert!(client.log().contains("tcp_and_udp"), "{}", client.log());
    carries_both(v4(local));
}

#[test]
fn ss_local_and_ss_server_relay_by_their_own_flags() {
    let (links, server, local) = (Links::new(), free_port(), free_port());
    // In shadowsocks-libev, -u is TCP and UDP.
    let both = format!("-s 127.0.0.1 -p {server} -m aes-192-gcm -k correct -t 60 -u --no-delay");
    let _server = links.run("ss-server", &format!("{both} -b 127.0.0.1"));
    let client = links.run(
        "ss-local",
        &format!("{both} -b 127.0.0.1 -l {local} --reuse-port"),
    );
    assert!(client.log().contains("tcp_and_udp"), "{}", client.log());
    carries_both(v4(local));
}

#[test]
fn without_a_flag_the_mode_is_that_of_the_other_program() {
    let links = Links::new();
    for (name, flags, mode) in [
        (
            "ss-local",
            "-s 127.0.0.1 -p 1 -m aes-256-gcm -k x -l",
            "tcp_only",
        ),
        (
            "ss-local",
            "-U -s 127.0.0.1 -p 1 -m aes-256-gcm -k x -l",
            "udp_only",
        ),
        (
            "sslocal",
            "-u -s 127.0.0.1:1 -m aes-256-gcm -k x -b 127.0.0.1:",
            "udp_only",
        ),
        (
            "sslocal",
            "-s 127.0.0.1:1 -m aes-256-gcm -k x -b 127.0.0.1:",
            "tcp_only",
        ),
    ] {
        let port = free_port();
        let separator = if flags.ends_with(':') { "" } else { " " };
        let process = links.run(name, &format!("{flags}{separator}{port}"));
        assert!(
            process.log().contains(&format!("\"{mode}\"")),
            "{}",
            process.log()
        );
    }
}

#[test]
fn flags_of_libev_replace_single_keys_of_the_file() {
    let (links, server, local) = (Links::new(), free_port(), free_port());
    let config = format!(
        r#"{{"server": ["127.0.0.1"], "server_port": 1, "local_port": {local}, "password": "{PASSWORD}",
            "method": "aes-256-gcm", "mode": "tcp_and_udp"}}"#
    );
    fs::write(links.0.path().join("config.json"), config).unwrap();
    let _server = links.run("ss-server", &format!("-c config.json -p {server}"));
    let _client = links.run("ss-local", &format!("-c config.json -p {server}"));
    carries_both(v4(local));
}

#[test]
fn ss_local_without_flags_finds_the_config_of_libev() {
    let (links, local) = (Links::new(), free_port());
    let directory = links.0.path().join("shadowsocks-libev");
    fs::create_dir(&directory).unwrap();
    let config = format!(
        r#"{{"server": "127.0.0.1", "server_port": 1, "local_port": {local}, "password": "x", "method": "aes-256-gcm"}}"#
    );
    fs::write(directory.join("config.json"), config).unwrap();
    for (name, arguments) in [("ss-local", ""), ("ssr", "local")] {
        let mut command = links.command(name, arguments);
        command
            .env("XDG_CONFIG_HOME", links.0.path())
            .env("XDG_CONFIG_DIRS", "/nowhere");
        let mut process = Process::spawn(name, &mut command).unwrap();
        process.running().unwrap();
    }
}

#[test]
fn ss_tunnel_leads_to_its_target() {
    let (links, server, local) = (Links::new(), free_port(), free_port());
    let target = Targets::start().echo;
    let both = format!("-s 127.0.0.1 -p {server} -m aes-256-gcm -k correct");
    let _server = links.run("ss-server", &both);
    let flags = format!("{both} -l {local} -L 127.0.0.1:{}", target.port());
    let _tunnel = links.run("ss-tunnel", &flags);
    let mut stream = dial(v4(local));
    stream.write_all(b"through").unwrap();
    let mut answer = [0; 7];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"through");
}

#[test]
fn method_of_libev_needs_no_name() {
    let (links, server, local) = (Links::new(), free_port(), free_port());
    let both = format!("-s 127.0.0.1 -p {server} -k correct -u");
    let _server = links.run("ss-server", &both);
    let named = format!("{both} -l {local} -m chacha20-ietf-poly1305");
    let _local = links.run("ss-local", &named);
    carries_both(v4(local));
}

/// The flags in what `program --help` of shadowsocks-libev prints: `-s` and `--fast-open`.
fn flags_of(help: &str) -> Vec<String> {
    let lines = help.lines().map(str::trim_start);
    let starts = lines.filter(|line| line.starts_with('-') || line.starts_with("[-"));
    let words = starts.flat_map(|line| line.split([' ', '[', ']', ',', '<']));
    let flags = words.map(|word| word.trim_end_matches('.'));
    let flags = flags.filter(|word| word.starts_with('-') && word.len() > 1);
    flags.map(str::to_owned).collect()
}

#[test]
#[ignore = "needs peers: scripts/test"]
fn every_flag_that_libev_names_is_in_our_help() {
    let links = Links::new();
    for name in ["ss-local", "ss-server", "ss-tunnel", "ss-redir"] {
        let theirs = Command::new(name).arg("-h").output().unwrap();
        let flags = flags_of(&String::from_utf8_lossy(&theirs.stdout));
        assert!(flags.len() > 20, "{name}: {theirs:?}");
        let (_, ours, _) = links.output(name, "--help");
        let ours = flags_of(&ours);
        for flag in flags {
            assert!(ours.contains(&flag), "{name} {flag}: {ours:?}");
        }
    }
}

#[test]
fn ssurl_encodes_and_decodes() {
    let links = Links::new();
    let config = r#"{"server": "192.0.2.1", "server_port": 8388, "password": "test", "method": "aes-128-gcm"}"#;
    fs::write(links.0.path().join("config.json"), config).unwrap();
    let (code, url, _) = links.output("ssurl", "-e config.json");
    assert_eq!(
        (code, url.trim()),
        (Some(0), "ss://YWVzLTEyOC1nY206dGVzdA@192.0.2.1:8388")
    );
    let (code, decoded, _) = links.output("ssurl", &format!("-d {url}"));
    let decoded: serde_json::Value = serde_json::from_str(&decoded).unwrap();
    assert_eq!(code, Some(0));
    assert_eq!(decoded["servers"][0]["password"], "test");
    let (code, with_picture, _) = links.output("ssurl", "-c -e config.json");
    assert_eq!(code, Some(0));
    assert!(with_picture.contains('█'), "{with_picture}");
}

#[test]
fn each_name_has_its_own_help_and_version() {
    let links = Links::new();
    for name in [
        "sslocal",
        "ssserver",
        "ssurl",
        "ss-local",
        "ss-server",
        "ss-tunnel",
        "ss-redir",
        "ssmanager",
        "ss-manager",
        "ssr",
    ] {
        let (code, version, _) = links.output(name, "-V");
        assert_eq!(code, Some(0), "{name}");
        assert!(version.starts_with(&format!("{name} ")), "{version}");
        let (code, help, _) = links.output(name, "--help");
        assert!(code == Some(0) && help.contains("Usage:"), "{help}");
    }
    let (code, _, error) = links.output("ss-nat", "-c x");
    assert_eq!(code, Some(64));
    assert!(error.contains("ssr has no ss-nat"), "{error}");
    for command in ["local", "server", "url", "import"] {
        assert_eq!(links.output("ssr", &format!("{command} -V")).0, Some(0));
    }
}

#[test]
fn flags_of_what_does_not_exist_yet_are_refused_plainly() {
    let links = Links::new();
    let server = "-s 127.0.0.1:1 -m aes-256-gcm -k x";
    for (name, flags, message) in [
        (
            "ssserver",
            "--manager-addr 127.0.0.1:1",
            "--manager-addr: ssr reports to no manager",
        ),
        (
            "sslocal",
            "--online-config-url x",
            "--online-config-url: not a URL that can be downloaded",
        ),
        ("sslocal", "--vpn", "--vpn: only the Android app"),
        (
            "ssurl",
            "-o ssconf://a.example/key",
            "--outline: ssr does not fetch keys",
        ),
        ("sslocal", "--log-config x", "--log-config: log4rs"),
    ] {
        let line = match name {
            "ssurl" => flags.to_owned(),
            _ => format!("{server} {flags}"),
        };
        let (code, _, error) = links.output(name, &line);
        assert!(matches!(code, Some(64 | 78)), "{name} {flags}: {error}");
        assert!(error.contains(message), "{error}");
    }
}

/// Ends the process in the background that wrote this file.
fn stop(pid_file: &Path) {
    let pid: i32 = fs::read_to_string(pid_file)
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    eventually("the process in the background ends", || {
        let state = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
        state.is_err() || state.is_ok_and(|state| state.contains(") Z "))
    });
}

#[test]
fn in_the_background_it_serves_before_the_command_returns() {
    let links = Links::new();
    let pid_file = links.0.path().join("pid");
    for (name, flags) in [
        ("ss-server", "-s 127.0.0.1 -m aes-256-gcm -k x -f pid -p "),
        (
            "ssserver",
            "-m aes-256-gcm -k x -d --daemonize-pid pid -s 127.0.0.1:",
        ),
    ] {
        let port = free_port();
        let (code, _, error) = links.output(name, &format!("{flags}{port}"));
        assert_eq!(code, Some(0), "{error}");
        drop(TcpStream::connect_timeout(&v4(port), Duration::from_secs(1)).unwrap());
        // A second one cannot listen there, and says so.
        let (code, _, error) =
            links.output(name, &format!("{}{port}", flags.replace(" pid ", " pid2 ")));
        assert_eq!(code, Some(69), "{error}");
        assert!(error.contains("in use"), "{error}");
        // The file names whoever serves.
        let named = || fs::read_to_string(&pid_file).unwrap().trim().to_owned();
        let first = named();
        let upgrade = ssr(&["upgrade", "--pid", &first]).output().unwrap();
        assert!(upgrade.status.success(), "{upgrade:?}");
        eventually("another process is named", || {
            !named().is_empty() && named() != first
        });
        let told = String::from_utf8_lossy(&upgrade.stdout).into_owned();
        assert!(told.contains(&named()), "{told}");
        stop(&pid_file);
    }
}

#[test]
fn it_becomes_the_user_after_it_has_bound() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let (links, port) = (Links::new(), free_port());
    let server = links.run(
        "ss-server",
        &format!("-s 127.0.0.1 -p {port} -m aes-256-gcm -k x -a nobody"),
    );
    for task in fs::read_dir(format!("/proc/{}/task", server.id())).unwrap() {
        let status = fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        let uids = status
            .lines()
            .find(|line| line.starts_with("Uid:"))
            .unwrap();
        assert!(!uids.split_whitespace().any(|uid| uid == "0"), "{status}");
        let caps = status
            .lines()
            .find(|line| line.starts_with("CapEff:"))
            .unwrap();
        assert!(caps.ends_with(&"0".repeat(16)), "{caps}");
    }
    let (code, _, error) = links.output(
        "ss-server",
        &format!("-s 127.0.0.1 -p {port} -m aes-256-gcm -k x -a nobody-of-this-name"),
    );
    assert_eq!(code, Some(69));
    assert!(error.contains("there is no user"), "{error}");
}

#[test]
#[ignore = "needs peers: scripts/test"]
fn the_same_command_line_runs_libev_and_us() {
    let links = Links::new();
    for (ours, theirs) in [("ss-local", "ss-server"), ("ss-server", "ss-local")] {
        for method in ["aes-192-gcm", "chacha20-ietf-poly1305"] {
            let (server, local) = (free_port(), free_port());
            let both = format!(
                "-s 127.0.0.1 -p {server} -l {local} -b 127.0.0.1 -m {method} -k correct -u -t 60"
            );
            let _ours = links.run(ours, &both);
            let mut command = Command::new(theirs);
            command.args(both.split_whitespace());
            let mut theirs = Process::spawn(theirs, &mut command).unwrap();
            let port = if ours == "ss-local" { server } else { local };
            theirs.listening(&[v4(port)]).unwrap();
            carries_both(v4(local));
        }
    }
}
