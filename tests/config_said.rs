//! What is wrong or risky in a config is said by `ssr check` and by the roles alike, with the file's name.

use crate::common::{
    DEADLINE,
    peers::{Spec, ssr},
    process::{Process, free_port},
};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

const METHOD: &str = "2022-blake3-aes-256-gcm";

/// A directory with one config, which only its owner can read.
struct Scene(tempfile::TempDir);

impl Scene {
    fn of(bytes: &[u8]) -> Self {
        let scene = Self(tempfile::tempdir().unwrap());
        fs::write(scene.file(), bytes).unwrap();
        scene.allow(0o600);
        scene
    }

    /// A config of `ssr local`, with `keys` over what it needs.
    fn with(keys: &Value) -> Self {
        let mut config = json!({
            "server": "192.0.2.1", "server_port": 8388, "local_port": free_port(),
            "method": METHOD, "password": Spec::new(METHOD).password,
        });
        for (key, value) in keys.as_object().unwrap() {
            config[key] = value.clone();
        }
        Self::of(config.to_string().as_bytes())
    }

    fn file(&self) -> PathBuf {
        self.0.path().join("config.json")
    }

    fn allow(&self, mode: u32) {
        fs::set_permissions(self.file(), fs::Permissions::from_mode(mode)).unwrap();
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = ssr(arguments);
        command
            .args(["-c", "config.json"])
            .current_dir(self.0.path());
        command
    }

    /// What a command prints, and its exit code.
    fn check(&self, more: &[&str]) -> (Option<i32>, String) {
        let arguments = [&["check", "--role", "local"], more].concat();
        let output = self.command(&arguments).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(text).unwrap())
    }

    /// What `ssr local` logs until it runs or ends, and its exit code in the end.
    fn local(&self, more: &[&str]) -> (Option<i32>, String) {
        let arguments = [&["local"], more].concat();
        let mut local = Process::spawn("ssr local", &mut self.command(&arguments)).unwrap();
        if local.running().is_ok() {
            local.signal(Signal::TERM);
        }
        let (status, log) = local.wait(DEADLINE);
        (status.code(), log)
    }

    /// Both say this of the config, and where; it is an error.
    fn is_refused(&self, said: &str) {
        for (code, log) in [self.check(&[]), self.local(&[])] {
            assert_eq!(code, Some(78), "{log}");
            let line = line_with(&log, said);
            assert!(line.starts_with("error: config.json:"), "{log}");
        }
    }

    /// Both say this of the config, and where; it is a warning, but with `--strict`.
    fn is_warned_of(&self, said: &str) {
        let (code, log) = self.check(&[]);
        assert_eq!(code, Some(0), "{log}");
        assert!(
            line_with(&log, said).starts_with("warning: config.json:"),
            "{log}"
        );
        let (code, log) = self.local(&[]);
        assert_eq!(code, Some(0), "{log}");
        assert!(
            line_with(&log, said).contains(" WARN config.json:"),
            "{log}"
        );
        for (code, log) in [self.check(&["--strict"]), self.local(&["--strict"])] {
            assert_eq!(code, Some(78), "{log}");
            assert!(
                line_with(&log, said).starts_with("error: config.json:"),
                "{log}"
            );
        }
    }
}

fn line_with<'a>(log: &'a str, said: &str) -> &'a str {
    let line = log.lines().find(|line| line.contains(said));
    line.unwrap_or_else(|| panic!("nothing says {said:?}:\n{log}"))
}

#[test]
fn what_is_right_is_not_warned_of() {
    let scene = Scene::with(&json!({}));
    for (code, log) in [scene.check(&["--strict"]), scene.local(&["--strict"])] {
        assert_eq!(code, Some(0), "{log}");
        assert!(!log.to_lowercase().contains("warn"), "{log}");
    }
}

#[test]
fn variable_that_is_not_set_is_an_error() {
    let scene = Scene::with(&json!({"password": "${SSR_TEST_NOT_SET}"}));
    scene.is_refused("there is no environment variable `SSR_TEST_NOT_SET`");
}

#[test]
fn keys_of_the_documents_are_named_as_such() {
    for method in [METHOD, "aes-256-gcm"] {
        let scene = Scene::with(&json!({"method": method, "password": "PASTE-YOUR-KEY-HERE"}));
        scene.is_refused("this is the placeholder of the documents");
    }
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/config.example.json");
    let text = fs::read_to_string(example).unwrap();
    let text = text.replace("1080\n", &format!("{}\n", free_port()));
    Scene::of(text.as_bytes()).is_warned_of("this is the key of config.example.json");
}

#[test]
fn files_that_are_no_config_are_named() {
    for text in ["", " \n\n", "// nothing\n"] {
        Scene::of(text.as_bytes()).is_refused("the config is empty");
    }
    let units = |bytes: fn(u16) -> [u8; 2], mark: &str| -> Vec<u8> {
        let text = format!("{mark}{{}}");
        text.encode_utf16().flat_map(bytes).collect()
    };
    for bytes in [
        units(u16::to_le_bytes, "\u{feff}"),
        units(u16::to_be_bytes, "\u{feff}"),
        units(u16::to_le_bytes, ""),
        units(u16::to_be_bytes, ""),
    ] {
        Scene::of(&bytes).is_refused("the file is UTF-16 text");
    }
}

#[test]
fn second_port_of_a_server_is_named() {
    let scene = Scene::with(&json!({"server": "192.0.2.1:8389"}));
    scene.is_warned_of(
        "server: the address has port 8389 of its own, so `server_port` 8388 has no effect",
    );
}

#[test]
fn open_proxy_is_named() {
    for protocol in ["socks", "mixed", "http"] {
        let scene = Scene::with(&json!({"local_address": "0.0.0.0", "protocol": protocol}));
        scene.is_warned_of("local_address: anybody who reaches 0.0.0.0:");
    }
    // A login, or an address that only few can reach.
    let users = json!({"password": {"users": [{"user_name": "a", "password": "b"}]}});
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("users.json");
    fs::write(&file, users.to_string()).unwrap();
    for keys in [
        json!({"local_address": "0.0.0.0", "local_port": free_port(), "socks5_auth_config_path": file}),
        json!({"local_address": "127.0.0.2", "local_port": free_port()}),
    ] {
        let scene = Scene::with(&json!({"local_port": null, "locals": [keys]}));
        let (code, log) = scene.check(&["--strict"]);
        assert_eq!(code, Some(0), "{log}");
    }
}

#[test]
fn config_that_everybody_can_read_is_named() {
    let scene = Scene::with(&json!({}));
    scene.allow(0o644);
    scene.is_warned_of("everybody on this machine can read this file");
    scene.allow(0o640);
    assert_eq!(scene.check(&["--strict"]).0, Some(0));
}

#[test]
fn certificate_out_of_its_dates_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let write = |year| {
        let mut params = rcgen::CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(year, 1, 1);
        params.not_after = rcgen::date_time_ymd(year + 1, 1, 1);
        let key = rcgen::KeyPair::generate().unwrap();
        let cert = params.self_signed(&key).unwrap();
        let place = |name: &str| directory.path().join(format!("{year}.{name}"));
        fs::write(place("cert"), cert.pem()).unwrap();
        fs::write(place("key"), key.serialize_pem()).unwrap();
        (place("cert"), place("key"))
    };
    for (year, said) in [(2020, "has expired"), (2150, "is not valid yet")] {
        let (cert, key) = write(year);
        let said = format!("the certificate in {} {said}", cert.display());
        let tls = |tls: Value| json!({"transport": {"type": "tcp", "tls": tls}});
        Scene::with(&tls(json!({"server_name": "a.example", "ca": cert}))).is_warned_of(&said);
        // The server's own.
        let scene = Scene::with(&tls(json!({"cert": cert, "key": key})));
        let mut check = ssr(&["check", "--role", "server", "-c"]);
        let output = check.arg(scene.file()).output().unwrap();
        let log = String::from_utf8(output.stderr).unwrap();
        assert!(line_with(&log, &said).contains("tls.cert: "), "{log}");
        assert!(output.status.success(), "{log}");
    }
}

#[test]
fn files_of_ss_redir_and_ss_tunnel_are_not_served_by_a_socks_listener() {
    for (key, value, program) in [
        ("tcp_tproxy", json!(true), "ss-redir"),
        ("tunnel_address", json!("192.0.2.1:53"), "ss-tunnel"),
    ] {
        let scene = Scene::with(&json!({ key: value }));
        scene.is_refused(&format!("{key}: it is for {program}"));
        // By its name, it runs as there.
        let link = scene.0.path().join(program);
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_ssr"), &link).unwrap();
        let mut command = Command::new(&link);
        command
            .args(["-c", "config.json"])
            .current_dir(scene.0.path());
        let mut process = Process::spawn(program, &mut command).unwrap();
        let _running = process.running();
        let protocol = program.trim_start_matches("ss-");
        let log = process.log();
        // TPROXY needs rights that the test may not have.
        let served = log.contains(&format!("protocol=\"{protocol}\""));
        assert!(
            served || log.contains("transparent") || log.contains("permitted"),
            "{log}"
        );
        assert!(!log.contains("protocol=\"socks\""), "{log}");
    }
}

#[test]
fn check_and_local_agree_on_keys_of_other_programs() {
    Scene::with(&json!({"proxy_apps": {}})).is_warned_of("proxy_apps: unknown key, ignored");
    Scene::with(&json!({"methd": METHOD})).is_refused("did you mean");
}

#[test]
fn no_control_character_of_a_file_reaches_the_terminal() {
    let evil = "\u{1b}]0;evil\u{7}\u{9b}31m\u{202e}\r";
    let users = json!([{"name": evil, "password": Spec::new(METHOD).password}]);
    for keys in [
        json!({ evil: 1 }),
        json!({ "mode": evil }),
        json!({ "remarks": evil, "user": evil, "users": users }),
        json!({ "server": evil }),
        json!({ "transport": {"type": "ws", "path": evil, "host": evil} }),
        json!({ "acl": format!("/nowhere/{evil}") }),
        json!({ "servers": [{"server": "192.0.2.1", "server_port": 1, "method": "aes-256-gcm", "password": "p", "remarks": evil}] }),
    ] {
        let scene = Scene::with(&keys);
        for command in [
            &["check"][..],
            &["check", "--role", "server"],
            &["local"],
            &["acl", "test"],
            &["redir-rules"],
        ] {
            let mut process = scene.command(command);
            if command[0] == "acl" {
                process.arg("a.example:443");
            }
            let mut process = Process::spawn("ssr", &mut process).unwrap();
            if command[0] == "local" && process.running().is_ok() {
                process.signal(Signal::TERM);
            }
            let (_, log) = process.wait(DEADLINE);
            let wrong =
                |letter: char| (letter.is_control() && letter != '\n') || letter == '\u{202e}';
            assert!(!log.contains(wrong), "{command:?} with {keys}: {log:?}");
        }
    }
}

/// A directory with programs of ours before all others.
fn path_with(directory: &Path) -> String {
    format!("{}:{}", directory.display(), std::env::var("PATH").unwrap())
}

#[test]
fn scripts_take_the_binary_from_where_cargo_puts_it() {
    let root = env!("CARGO_MANIFEST_DIR");
    let directory = tempfile::tempdir().unwrap();
    // What cargo says of a build, wherever its target directory is.
    let built = directory.path().join("elsewhere/x86_64-any/release/ssr");
    fs::create_dir_all(built.parent().unwrap()).unwrap();
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_ssr"), &built).unwrap();
    let line = json!({
        "reason": "compiler-artifact", "target": {"name": "ssr", "kind": ["bin"]}, "executable": built,
    });
    let cargo = directory.path().join("cargo");
    fs::write(&cargo, format!("#!/bin/sh\ncat <<'END'\n{line}\n{{\"reason\":\"build-finished\",\"success\":true}}\nEND\n")).unwrap();
    fs::set_permissions(&cargo, fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = Command::new(format!("{root}/scripts/quickstart"));
    command
        .arg("--once")
        .env("PATH", path_with(directory.path()));
    let (status, log) = Process::spawn("quickstart", &mut command)
        .unwrap()
        .wait(DEADLINE);
    assert!(
        status.success() && log.contains("fetched http://localhost:"),
        "{log}"
    );
    // None of them knows a place where the binary would be.
    for script in fs::read_dir(format!("{root}/scripts")).unwrap() {
        let script = script.unwrap().path();
        if !script.is_file() {
            continue;
        }
        let text = fs::read_to_string(&script).unwrap();
        assert!(
            !text.contains("target/release/ssr\n"),
            "{}",
            script.display()
        );
    }
}
