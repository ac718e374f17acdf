//! The commands that print something, and what a terminal shows.

use crate::common::{
    peers::ssr,
    process::{Process, free_port},
};
use serde_json::Value;
use std::{
    fs,
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
};

const CONFIG: &str = r#"{"servers": [
    {"server": "vpn.example", "server_port": 8388, "method": "2022-blake3-aes-256-gcm",
     "password": "3SYJ/f8nmVuzKvKglykRQDSgg10e/ADilkdRWrrY9HU=", "remarks": "Zürich 1"},
    {"server": "192.0.2.1", "server_port": 443, "method": "aes-256-gcm", "password": "p@ss:word",
     "plugin": "builtin:v2ray-plugin", "plugin_opts": "tls;host=cdn.example;path=/x"}]}"#;

struct Ran {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

fn run(directory: &Path, arguments: &[&str], input: &str) -> Ran {
    let mut child = ssr(arguments)
        .current_dir(directory)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that reads no input may be gone.
    let _written = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    Ran {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// What a QR reader sees in half blocks.
fn read_qr(text: &str) -> String {
    let rows: Vec<Vec<char>> = text.lines().map(|line| line.chars().collect()).collect();
    let (scale, width) = (4, rows[0].len());
    let dark = |x: usize, y: usize| match (rows[y / 2][x], y % 2) {
        ('█', _) | ('▀', 0) | ('▄', 1) => 0,
        _ => 255,
    };
    let mut image = rqrr::PreparedImage::prepare_from_greyscale(
        width * scale,
        rows.len() * 2 * scale,
        |x, y| dark(x / scale, y / scale),
    );
    let grids = image.detect_grids();
    assert_eq!(grids.len(), 1, "one code in\n{text}");
    grids[0].decode().unwrap().1
}

#[test]
fn urls_come_back_as_they_went() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    fs::write(at.join("config.json"), CONFIG).unwrap();
    let encoded = run(at, &["url", "encode", "-c", "config.json"], "");
    assert_eq!(encoded.code, Some(0), "{}", encoded.stderr);
    let urls: Vec<&str> = encoded.stdout.lines().collect();
    assert_eq!(urls.len(), 2);
    assert!(
        urls[0].starts_with("ss://2022-blake3-aes-256-gcm:3SYJ%2Ff8nm"),
        "{}",
        urls[0]
    );
    assert!(
        urls[0].ends_with("@vpn.example:8388#Z%C3%BCrich%201"),
        "{}",
        urls[0]
    );

    let decoded = run(at, &["url", "decode", urls[0], urls[1]], "");
    let decoded: Value = serde_json::from_str(&decoded.stdout).unwrap();
    let mut written: Value = serde_json::from_str(CONFIG).unwrap();
    written["servers"][1]["plugin"] = "v2ray-plugin".into();
    assert_eq!(decoded, written);

    for url in &urls {
        let shown = run(at, &["url", "qr", url], "");
        assert_eq!(read_qr(&shown.stdout), *url);
    }
    let several = run(
        at,
        &["url", "qr", "-c", "config.json", "--svg", "x.svg"],
        "",
    );
    assert_eq!(several.code, Some(64), "{}", several.stderr);
    let drawn = run(at, &["url", "qr", urls[0], "--svg", "x.svg"], "");
    assert_eq!(drawn.code, Some(0), "{}", drawn.stderr);
    let well_formed = Command::new("python3")
        .args([
            "-c",
            "import xml.dom.minidom, sys; xml.dom.minidom.parse(sys.argv[1])",
        ])
        .arg(at.join("x.svg"))
        .status()
        .unwrap();
    assert!(well_formed.success());
}

#[test]
fn a_wrong_url_is_an_error_that_does_not_show_it() {
    let directory = tempfile::tempdir().unwrap();
    for arguments in [
        ["url", "decode", "ss://aes-256-gcm:hunter2@host:99999"],
        ["url", "qr", "ss://aes-256-gcm:hunter2@host:99999"],
        ["import", "ss://aes-256-gcm:hunter2@host:99999", "--"],
        ["url", "decode", "hunter2"],
    ] {
        let arguments: Vec<&str> = arguments.into_iter().filter(|word| *word != "--").collect();
        let ran = run(directory.path(), &arguments, "");
        assert_eq!(ran.code, Some(65), "{}", ran.stderr);
        assert!(!ran.stderr.contains("hunter2"), "{}", ran.stderr);
    }
}

/// Imports `text` and returns the config and what was left out. The config passes `ssr check`.
fn imported(text: &str) -> (Value, String) {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    let by_pipe = run(at, &["import", "-"], text);
    assert_eq!(by_pipe.code, Some(0), "{}", by_pipe.stderr);
    fs::write(at.join("source"), text).unwrap();
    let by_file = run(at, &["import", "source"], "");
    assert_eq!(by_file.stdout, by_pipe.stdout);
    fs::write(at.join("config.json"), &by_file.stdout).unwrap();
    let check = run(at, &["check", "--role", "local", "-c", "config.json"], "");
    assert_eq!(check.code, Some(0), "{}", check.stderr);
    (
        serde_json::from_str(&by_file.stdout).unwrap(),
        by_file.stderr,
    )
}

#[test]
fn files_of_other_programs_become_configs_that_run() {
    for (text, servers, left_out) in [
        (
            "ss://YWVzLTEyOC1nY206dGVzdA@192.0.2.1:8888#One\nvmess://x\n",
            1,
            "line 2: a link of `vmess`",
        ),
        (
            r#"{"version": 1, "servers": [{"server": "192.0.2.1", "server_port": 1, "password": "p", "method": "aes-256-gcm",
                "extra": 1}]}"#,
            1,
            "server 1: `extra`",
        ),
        (
            r#"{"configs": [{"server": "192.0.2.1", "server_port": 1, "password": "p", "method": "aes-256-gcm"}], "localPort": 1081,
                "shareOverLan": true}"#,
            1,
            "`shareOverLan`",
        ),
        (
            r#"[{"server": "192.0.2.1", "server_port": 1, "password": "p", "method": "aes-256-gcm", "route": "all"}]"#,
            1,
            "profile 1: `route`",
        ),
        (
            "proxies:\n- {name: a, type: ss, server: 192.0.2.1, port: 1, cipher: aes-256-gcm, password: p, udp: true}\nmode: rule\n",
            1,
            "`mode`",
        ),
        (
            r#"{"outbounds": [{"type": "shadowsocks", "server": "192.0.2.1", "server_port": 1, "method": "aes-256-gcm",
                "password": "p"}, {"type": "direct"}]}"#,
            1,
            "outbound 2: of type `direct`",
        ),
    ] {
        let (config, said) = imported(text);
        assert_eq!(
            config["servers"].as_array().unwrap().len(),
            servers,
            "{text}"
        );
        assert!(said.contains(&format!("left out: {left_out}")), "{said}");
    }
}

#[test]
fn what_cannot_be_imported_says_why() {
    let directory = tempfile::tempdir().unwrap();
    let ran = run(directory.path(), &["import", "-"], "nothing");
    assert_eq!(ran.code, Some(65));
    assert!(
        ran.stderr.contains("standard input: not recognised"),
        "{}",
        ran.stderr
    );
    let ran = run(directory.path(), &["import", "no-such-file"], "");
    assert_eq!(ran.code, Some(69));
    assert!(
        ran.stderr.contains("no-such-file: No such file"),
        "{}",
        ran.stderr
    );
}

#[test]
fn keys_of_other_clients_are_warnings_and_errors_only_if_strict() {
    let directory = tempfile::tempdir().unwrap();
    let config = r#"{"server": "192.0.2.1", "server_port": 1, "password": "p", "method": "aes-256-gcm", "proxy_apps": {}, "route": "all"}"#;
    fs::write(directory.path().join("config.json"), config).unwrap();
    let check = ["check", "-c", "config.json", "--role", "local"];
    let lenient = run(directory.path(), &check, "");
    assert_eq!(lenient.code, Some(0));
    assert!(
        lenient.stderr.contains("warning: config.json:1:")
            && lenient.stderr.contains("route: unknown key, ignored"),
        "{}",
        lenient.stderr
    );
    let strict = run(directory.path(), &[&check[..], &["--strict"]].concat(), "");
    assert_eq!(strict.code, Some(78));
    assert!(
        strict.stderr.contains("error: config.json:1:"),
        "{}",
        strict.stderr
    );
}

#[test]
fn packagers_get_completions_and_a_manual_page() {
    let directory = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish"] {
        let ran = run(directory.path(), &["completions", shell], "");
        assert!(
            ran.code == Some(0) && ran.stdout.contains("genkey"),
            "{shell}"
        );
    }
    let page = run(directory.path(), &["man"], "").stdout;
    assert!(
        page.starts_with(".ie") && page.contains("ssr\\-local"),
        "{page}"
    );
}

#[test]
fn a_terminal_says_where_to_point_a_browser_and_a_log_does_not() {
    let directory = tempfile::tempdir().unwrap();
    let port = free_port();
    let flags = format!("local -s 127.0.0.1:1 -m aes-256-gcm -k x -b 127.0.0.1:{port}");
    let line = format!("{} {flags}", env!("CARGO_BIN_EXE_ssr"));
    let mut terminal = Command::new("script");
    terminal
        .args(["-qefc", &line, "typescript"])
        .current_dir(directory.path());
    let mut terminal = Process::spawn("script", &mut terminal).unwrap();
    terminal.running().unwrap();
    crate::common::eventually("the terminal shows it", || {
        terminal.log().contains("curl --proxy")
    });
    let shown = terminal.log();
    for part in [
        format!("Browser:   SOCKS5 proxy, host 127.0.0.1, port {port}"),
        format!("chromium --proxy-server=socks5://127.0.0.1:{port}"),
        format!("curl --proxy socks5h://127.0.0.1:{port} https://example.com/"),
    ] {
        assert!(shown.contains(&part), "{shown}");
    }
    // `script` ends what runs in it, which SIGHUP would not end.
    terminal.signal(rustix::process::Signal::TERM);
    terminal.wait(crate::common::DEADLINE);

    let other = free_port().to_string();
    let mut piped = ssr(&["local", "-s", "127.0.0.1:1", "-m", "aes-256-gcm", "-k", "x"]);
    piped.args(["-b", &format!("127.0.0.1:{other}")]);
    let mut piped = Process::spawn("ssr local", &mut piped).unwrap();
    piped.running().unwrap();
    piped.signal(rustix::process::Signal::TERM);
    let (_, log) = piped.wait(crate::common::DEADLINE);
    assert!(!log.contains("Browser"), "{log}");
}
