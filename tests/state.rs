//! `admin.state`: what users have used survives a restart and a crash.

use std::{
    fs,
    io::{Read, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rusqlite::{Connection, OpenFlags};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::common::{
    DEADLINE,
    bytes::pattern,
    eventually,
    peers::{Half, Program::Ssr, Spec, Start, password, ssr},
    targets::TcpTarget,
};

const METHOD: &str = "2022-blake3-aes-256-gcm";
/// The most that a crash may lose.
const LOST: Duration = Duration::from_secs(10);

/// The keys of a server with ann, who has these limits, that keeps what users have used.
fn keys(state: &Path, limits: &Value) -> Value {
    let mut ann = json!({"name": "ann", "password": password(METHOD, 2)});
    let keys = ann.as_object_mut().unwrap();
    keys.extend(limits.as_object().unwrap().clone());
    json!({"remarks": "here", "users": [ann], "admin": {"state": state}})
}

fn server(state: &Path, limits: &Value) -> Half {
    let start = Start::server(Ssr, &Spec::new(METHOD));
    start.with(keys(state, limits)).run()
}

fn local(server: &Half) -> Half {
    let own = Spec::new(METHOD).password;
    let spec = Spec {
        method: METHOD.to_owned(),
        password: format!("{own}:{}", password(METHOD, 2)),
    };
    Start::local(Ssr, &spec, server.address).run()
}

/// What `ssr status` says of the only user.
fn status(server: &Half) -> Value {
    let pid = server.process.id().to_string();
    let output = ssr(&["status", "--pid", &pid, "--json"]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    answer["users"][0].clone()
}

/// Sends so many bytes through the server and back.
fn echo(server: &Half, count: usize) {
    let (local, target) = (local(server), TcpTarget::echo());
    let mut stream = local.socks().connect(&target.v4());
    stream.write_all(&pattern(1, count)).unwrap();
    stream.read_exact(&mut vec![0; count]).unwrap();
}

/// The bytes from clients that the file says of ann.
fn saved(directory: &Path) -> i64 {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY;
    let db = Connection::open_with_flags(directory.join("users.db"), flags).unwrap();
    let up = "SELECT up FROM usage WHERE server = 'here' AND name = 'ann'";
    db.query_row(up, [], |row| row.get(0)).unwrap()
}

fn end(mut server: Half, signal: Signal) {
    server.process.signal(signal);
    server.process.wait(DEADLINE * 2);
}

#[test]
fn crash_loses_at_most_ten_seconds_and_a_quota_goes_on_counting() {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("state");
    let limits = json!({"quota_bytes": 1_000_000, "quota_period": "once"});
    let first = server(&state, &limits);
    echo(&first, 300_000);
    let begun = Instant::now();
    eventually("it is saved", || saved(&state) == 300_000);
    assert!(begun.elapsed() < LOST);
    for (path, mode) in [(state.clone(), 0o700), (state.join("users.db"), 0o600)] {
        let found = fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(found & 0o777, mode);
    }
    end(first, Signal::KILL);
    let second = server(&state, &limits);
    let user = status(&second);
    assert_eq!(
        (&user["up_bytes"], &user["down_bytes"]),
        (&json!(300_000), &json!(300_000))
    );
    assert_eq!(user["period_bytes"], 600_000);
    assert!(user["last_seen_unix_s"].is_u64());
    // The rest of the quota is 400,000 bytes.
    echo(&second, 100_000);
    let (client, target) = (local(&second), TcpTarget::echo());
    let mut stream = client.socks().connect(&target.v4());
    let _cut = stream.write_all(&pattern(1, 2_000_000));
    eventually("the quota is used up", || {
        status(&second)["refused"] == "quota"
    });
    let used = status(&second)["period_bytes"].as_u64().unwrap();
    end(second, Signal::TERM);
    let third = server(&state, &limits);
    let user = status(&third);
    assert_eq!(user["refused"], "quota", "{user}");
    assert!(user["period_bytes"].as_u64().unwrap() >= used);
    assert!(user["period_bytes"].as_u64().unwrap() < 2_000_000);
}

#[test]
fn orderly_end_loses_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let first = server(directory.path(), &json!({}));
    echo(&first, 12_345);
    eventually("it is counted", || status(&first)["up_bytes"] == 12_345);
    end(first, Signal::TERM);
    assert_eq!(saved(directory.path()), 12_345);
    let second = server(directory.path(), &json!({}));
    assert_eq!(status(&second)["up_bytes"], 12_345);
}

#[test]
fn directory_that_cannot_be_used_is_named_at_the_start() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, "not a directory").unwrap();
    let config = directory.path().join("config.json");
    for (state, says) in [
        (file.join("state"), "admin.state: cannot use the directory"),
        (directory.path().join("garbage"), "file is not a database"),
    ] {
        if says.starts_with("file") {
            fs::create_dir(&state).unwrap();
            fs::write(state.join("users.db"), pattern(1, 10_000)).unwrap();
        }
        let mut keys = keys(&state, &json!({}));
        let server = json!({"server": "127.0.0.1", "server_port": 1, "method": METHOD, "password": Spec::new(METHOD).password});
        let all = keys.as_object_mut().unwrap();
        all.extend(server.as_object().unwrap().clone());
        all.insert(
            "server_port".to_owned(),
            json!(crate::common::process::free_port()),
        );
        fs::write(&config, keys.to_string()).unwrap();
        let output = ssr(&["server", "-c", config.to_str().unwrap()])
            .output()
            .unwrap();
        let log = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(69), "{log}");
        assert!(
            log.contains(says) && log.contains(state.to_str().unwrap()),
            "{log}"
        );
    }
}

/// Mounts a small file system at `state` for `ssr` alone.
const SMALL: &str = "mount -t tmpfs -o size=400k,mode=700 none \"$0\" && exec \"$@\"";

#[test]
#[ignore = "needs namespaces: scripts/test runs it"]
fn full_disk_loses_nothing_that_was_written_and_is_said_once() {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().to_str().unwrap();
    let wrapper = ["unshare", "-rm", "sh", "-c", SMALL, state];
    let start = Start::server(Ssr, &Spec::new(METHOD)).wrapped(&wrapper);
    let server_half = start.with(keys(directory.path(), &json!({}))).run();
    // The file system as the server sees it.
    let seen = PathBuf::from(format!("/proc/{}/root{state}", server_half.process.id()));
    echo(&server_half, 100_000);
    let copy = directory.path().join("copy");
    fs::create_dir(&copy).unwrap();
    let copied = || {
        for entry in fs::read_dir(&seen).unwrap() {
            let entry = entry.unwrap();
            if entry.file_name().to_str().unwrap().starts_with("users.db") {
                fs::copy(entry.path(), copy.join(entry.file_name())).unwrap();
            }
        }
        saved(&copy)
    };
    eventually("it is saved", || copied() == 100_000);
    let filler = seen.join("filler");
    let mut file = fs::File::create(&filler).unwrap();
    while file.write_all(&[0; 512]).is_ok() {}
    let failed = || {
        let log = server_half.process.log();
        log.matches("cannot be saved").count()
    };
    let mut sent = 100_000;
    eventually("it is said", || {
        if failed() == 0 {
            echo(&server_half, 1000);
            sent += 1000;
        }
        failed() == 1
    });
    let kept = copied();
    assert!((100_000..=sent).contains(&kept), "{kept}");
    echo(&server_half, 1000);
    sent += 1000;
    let before = Instant::now();
    eventually("it was tried again", || {
        before.elapsed() > Duration::from_secs(6)
    });
    assert_eq!((failed(), copied()), (1, kept));
    assert_eq!(status(&server_half)["up_bytes"], sent);
    drop(file);
    fs::remove_file(filler).unwrap();
    eventually("it is saved again", || copied() == sent);
    eventually("the log says so", || {
        server_half.process.log().contains("is saved again")
    });
}
