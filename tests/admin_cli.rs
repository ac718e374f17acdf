//! `ssr user` and `ssr top`, which call the admin API.

use std::{
    fs,
    io::{Read, Write},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    admin::{METHOD, anns, server},
    common::{
        DEADLINE,
        admin::{Api, TOKEN},
        eventually,
        peers::{Program::Ssr, Spec, Start, ssr},
        process::make_private,
        targets::TcpTarget,
    },
};

/// What a command says, and whether it succeeds.
fn run(api: &Api, arguments: &[&str]) -> (bool, String) {
    let url = format!("http://{}", api.address);
    let mut command = ssr(arguments);
    command.args(["--api", &url]).env("SSR_ADMIN_TOKEN", TOKEN);
    let output = command.output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(text).unwrap())
}

#[test]
fn user_is_added_limited_shown_and_removed_by_command() {
    let (api, keys) = Api::new();
    let (server, echo) = (server(keys), TcpTarget::echo());
    let said = |arguments: &[&str]| {
        let (is_good, text) = run(&api, arguments);
        assert!(is_good, "{arguments:?}: {text}");
        text
    };
    let link = said(&["user", "add", "bob", "--quota", "5G", "--host", "127.0.0.1"]);
    assert!(link.starts_with("ss://"), "{link}");
    // The link is all that a client needs.
    let decoded = ssr(&["url", "decode", link.trim()]).output().unwrap();
    let config: Value = serde_json::from_slice(&decoded.stdout).unwrap();
    let config = config["servers"].get(0).cloned().unwrap_or(config);
    assert_eq!(config["server_port"], server.address.port());
    let spec = Spec {
        method: METHOD.to_owned(),
        password: config["password"].as_str().unwrap().to_owned(),
    };
    let bob = Start::local(Ssr, &spec, server.address).run();
    let mut stream = bob.socks().connect(&echo.v4());
    stream.write_all(b"hello").unwrap();
    stream.read_exact(&mut [0; 5]).unwrap();
    let text = said(&["user", "list"]);
    assert!(
        text.contains("bob") && text.contains("of 4.6 GiB"),
        "{text}"
    );
    said(&[
        "user",
        "limit",
        "bob",
        "--quota",
        "none",
        "--rate",
        "2.5M",
        "--expires",
        "2099-01-01",
    ]);
    let users: Value = serde_json::from_str(&said(&["user", "list", "--json"])).unwrap();
    let bob = users
        .as_array()
        .unwrap()
        .iter()
        .find(|user| user["name"] == "bob")
        .unwrap();
    assert_eq!(bob["limits"]["rate_limit"], 2_500_000);
    assert_eq!(bob["limits"]["quota_bytes"], Value::Null);
    assert_eq!(said(&["user", "link", "bob", "--host", "127.0.0.1"]), link);
    assert!(said(&["user", "qr", "bob"]).contains('█'));
    said(&["user", "del", "bob"]);
    for (arguments, why) in [
        (&["user", "add", "ann"][..], "already"),
        (
            &["user", "limit", "bob", "--ips", "1"],
            "no user of this name",
        ),
        (&["user", "del", "bob"], "no user of this name"),
        (&["user", "limit", "ann", "--ips", "some"], "not a number"),
        (
            &["user", "limit", "ann", "--expires", "soon"],
            "write a date",
        ),
    ] {
        let (is_good, text) = run(&api, arguments);
        assert!(!is_good && text.contains(why), "{arguments:?}: {text}");
    }
    let wrong = ssr(&["user", "list", "--token", "wrong", "--api"])
        .arg(format!("http://{}", api.address))
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("the token is wrong"));
}

#[test]
fn commands_find_the_api_by_the_config_with_tls_too() {
    let made = rcgen::generate_simple_self_signed(vec!["vpn.example".to_owned()]).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    fs::write(path("cert.pem"), made.cert.pem()).unwrap();
    fs::write(path("key.pem"), made.signing_key.serialize_pem()).unwrap();
    let (_, mut keys) = Api::new();
    keys["admin"]["tls"] = json!({"cert": path("cert.pem"), "key": path("key.pem")});
    let running = server(keys.clone());
    let mut config = json!({"server": "127.0.0.1", "server_port": running.address.port(), "method": METHOD,
        "password": Spec::new(METHOD).password});
    config
        .as_object_mut()
        .unwrap()
        .extend(keys.as_object().unwrap().clone());
    let file = path("config.json");
    fs::write(&file, config.to_string()).unwrap();
    make_private(&file);
    let output = ssr(&["user", "list", "-c", file.to_str().unwrap()])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("ann"), "{output:?}");
    // Without `admin` there is nothing to ask.
    config.as_object_mut().unwrap().remove("admin");
    fs::write(&file, config.to_string()).unwrap();
    let output = ssr(&["user", "list", "-c", file.to_str().unwrap()])
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("there is no `admin` in it"));
}

#[test]
fn top_shows_what_runs_on_a_terminal_of_any_size() {
    let (api, keys) = Api::new();
    let server = server(keys);
    let (ann, echo) = (anns(&server), TcpTarget::echo());
    let mut open = ann.socks().connect(&echo.v4());
    open.write_all(&[7; 100_000]).unwrap();
    open.read_exact(&mut [0; 100_000]).unwrap();
    eventually("the stream is counted", || {
        api.json("/api/v1/users")[0]["connections"] == 1
    });
    let binary = env!("CARGO_BIN_EXE_ssr");
    for (size, expected) in [
        ("80x24", "ann"),
        ("40x12", "ssr server"),
        ("200x60", "97.6"),
        ("10x3", "ssr"),
        ("1x1", ""),
    ] {
        let (columns, rows) = size.split_once('x').unwrap();
        let line = format!(
            "stty cols {columns} rows {rows}; exec {binary} top --interval 1 --api http://{}",
            api.address
        );
        let mut top = Command::new("script")
            .args(["-qec", &line, "/dev/null"])
            .env("SSR_ADMIN_TOKEN", TOKEN)
            .env("TERM", "xterm")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = top.stdout.take().unwrap();
        let (sender, lines) = std::sync::mpsc::channel();
        let reader = std::thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(count @ 1..) = output.read(&mut piece) {
                let _gone = sender.send(piece[..count].to_vec());
            }
        });
        let (begun, mut shown) = (Instant::now(), Vec::new());
        let is_shown = |shown: &[u8]| {
            let text = plain(&String::from_utf8_lossy(shown));
            text.contains(expected) && !shown.is_empty()
        };
        while !is_shown(&shown) {
            assert!(
                begun.elapsed() < DEADLINE,
                "{size}: {}",
                plain(&String::from_utf8_lossy(&shown))
            );
            if let Ok(piece) = lines.recv_timeout(Duration::from_millis(200)) {
                shown.extend(piece);
            }
        }
        // Tab, and away.
        top.stdin.as_mut().unwrap().write_all(b"\t").unwrap();
        top.stdin.as_mut().unwrap().write_all(b"q").unwrap();
        let begun = Instant::now();
        while top.try_wait().unwrap().is_none() {
            assert!(begun.elapsed() < DEADLINE, "{size}: it does not end");
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(top.wait().unwrap().success(), "{size}");
        reader.join().unwrap();
    }
    // Without a terminal it says what to use.
    let (is_good, text) = run(&api, &["top"]);
    assert!(!is_good && text.contains("needs a terminal"), "{text}");
}

/// The characters that a terminal shows, without what moves and colours them.
fn plain(text: &str) -> String {
    let mut plain = String::new();
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        if letter != '\u{1b}' {
            plain.push(letter);
            continue;
        }
        if letters.next() == Some('[') {
            let _end = letters.find(|letter| letter.is_ascii_alphabetic());
        }
    }
    plain
}
