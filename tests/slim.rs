//! The slim build (`--no-default-features`), for routers: what it has no part for is refused with a reason, not ignored. That it
//! works, and what memory it needs, is tried by `memory_idle`, which `scripts/test` builds with it, too.

#![cfg(not(any(feature = "admin", feature = "redis")))]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

use std::fs;
use std::process::{Command, Output};

use serde_json::{Value, json};

fn ssr(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ssr"));
    command.args(arguments).output().unwrap()
}

/// What `ssr check` says of a server with `key`.
fn checked(key: &str, value: Value) -> (bool, String) {
    let mut config = json!({
        "server": "127.0.0.1",
        "server_port": 8388,
        "method": "aes-256-gcm",
        "password": "a long password",
    });
    config[key] = value;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.json");
    fs::write(&path, config.to_string()).unwrap();
    let output = ssr(&["check", "--role", "server", "-c", path.to_str().unwrap()]);
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(said).unwrap())
}

#[test]
fn slim_build_refuses_keys_that_it_has_no_part_for() {
    for (key, value, reason) in [
        (
            "admin",
            json!({"address": "127.0.0.1:9090"}),
            "this build has no admin API",
        ),
        (
            "store",
            json!("redis://127.0.0.1:6379/0"),
            "this build has no Redis",
        ),
    ] {
        let (is_good, said) = checked(key, value);
        assert!(!is_good, "{key} was accepted: {said}");
        assert!(said.contains(reason), "{said}");
        assert!(said.contains("take the full build"), "{said}");
    }
}

#[test]
fn slim_build_keeps_the_state_of_users_without_an_api() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state.db");
    let (is_good, said) = checked("admin", json!({"state": state}));
    assert!(is_good, "{said}");
}

#[test]
fn slim_build_has_no_commands_that_call_the_api() {
    let help = String::from_utf8(ssr(&["--help"]).stdout).unwrap();
    assert!(help.contains("genkey"), "{help}");
    for command in ["top", "user"] {
        let listed = help
            .lines()
            .any(|line| line.split_whitespace().next() == Some(command));
        assert!(!listed, "{command} is listed: {help}");
        assert!(!ssr(&[command]).status.success(), "{command} ran");
    }
}
