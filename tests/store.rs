//! `store`: several servers share users, quotas and salts in a Redis, which may go away at any time.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::common::{
    DEADLINE,
    admin::Api,
    bytes::pattern,
    eventually, is_open,
    peers::{Half, Program::Ssr, Role, Spec, Start, password, ssr},
    probe::{Cut, Then, probe},
    redis::Redis,
    seal::Sealing,
    targets::TcpTarget,
};

const METHOD: &str = "2022-blake3-aes-256-gcm";
const ANSWERS: &str = "the store answers";
const SALTS: &str = "the store says whether salts are new";

/// The keys of a server with ann, who has these limits.
fn keys(url: &str, limits: &Value) -> Value {
    let mut ann = json!({"name": "ann", "password": password(METHOD, 2)});
    let keys = ann.as_object_mut().unwrap();
    keys.extend(limits.as_object().unwrap().clone());
    json!({"users": [ann], "store": url})
}

fn server(url: &str, limits: &Value) -> Half {
    started(keys(url, limits))
}

fn started(keys: Value) -> Half {
    Start::server(Ssr, &Spec::new(METHOD)).with(keys).run()
}

fn said(server: &Half, text: &str) -> usize {
    server.process.log().matches(text).count()
}

fn says(server: &Half, text: &str) {
    eventually(text, || said(server, text) > 0);
}

fn local_of(server: &Half, user: &str) -> Half {
    let own = Spec::new(METHOD).password;
    let spec = Spec {
        method: METHOD.to_owned(),
        password: format!("{own}:{user}"),
    };
    Start::local(Ssr, &spec, server.address).run()
}

fn local(server: &Half) -> Half {
    local_of(server, &password(METHOD, 2))
}

/// What `ssr status` says of a user.
fn status(server: &Half, name: &str) -> Value {
    let pid = server.process.id().to_string();
    let output = ssr(&["status", "--pid", &pid, "--json"]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    let mut users = answer["users"].as_array().unwrap().iter();
    let user = users.find(|user| user["user"] == name || user["name"] == name);
    user.cloned().unwrap_or_default()
}

fn up(server: &Half) -> u64 {
    status(server, "ann")["up_bytes"].as_u64().unwrap()
}

/// Sends so many bytes through a local half and back.
fn echo(local: &Half, target: &TcpTarget, count: usize) {
    let mut stream = local.socks().connect(&target.v4());
    stream.write_all(&pattern(1, count)).unwrap();
    stream.read_exact(&mut vec![0; count]).unwrap();
}

fn works(local: &Half, target: &TcpTarget) -> bool {
    let mut stream = local.socks().connect(&target.v4());
    let _gone = stream.write_all(b"hello");
    stream.read_exact(&mut [0; 5]).is_ok()
}

fn end(mut server: Half, signal: Signal) {
    server.process.signal(signal);
    server.process.wait(DEADLINE * 2);
}

#[test]
#[ignore = "needs peers: scripts/test"]
fn two_servers_enforce_one_quota() {
    const RATE: u64 = 100_000;
    const QUOTA: u64 = 1_000_000;
    let redis = Redis::new();
    let limits = json!({"quota_bytes": QUOTA, "quota_period": "once", "rate_limit": RATE});
    let servers = [(); 2].map(|()| server(&redis.url(), &limits));
    let target = TcpTarget::echo();
    let locals = [&servers[0], &servers[1]].map(local);
    for server in &servers {
        says(server, ANSWERS);
    }
    thread::scope(|scope| {
        for local in &locals {
            scope.spawn(|| {
                let stream = local.socks().connect(&target.v4());
                let mut reader = stream.try_clone().unwrap();
                let mut writer = stream;
                thread::spawn(move || while writer.write_all(&[7; 4096]).is_ok() {});
                let mut bytes = [0; 4096];
                while matches!(reader.read(&mut bytes), Ok(1..)) {}
            });
        }
    });
    for server in &servers {
        eventually("the quota is used up", || {
            status(server, "ann")["refused"] == "quota"
        });
    }
    // What each says is what both have moved: in a second, two directions of two servers. Each for itself would come to twice
    // the quota.
    let used = |server| status(server, "ann")["period_bytes"].as_u64().unwrap();
    eventually("both know the same", || {
        used(&servers[0]) == used(&servers[1])
    });
    let used = used(&servers[0]);
    println!("{} bytes beyond the quota", used.saturating_sub(QUOTA));
    assert!((QUOTA..QUOTA + 6 * RATE).contains(&used), "{used}");
    assert!(!works(&locals[0], &target) && !works(&locals[1], &target));
}

#[test]
#[ignore = "needs peers: scripts/test"]
fn salt_spent_on_one_server_is_spent_on_the_other() {
    for method in [METHOD, "aes-256-gcm"] {
        let redis = Redis::new();
        let spec = Spec::new(method);
        let store = json!({"store": redis.url(), "timeouts": {"handshake": 2}});
        let servers = [(); 2].map(|()| Start::server(Ssr, &spec).with(store.clone()).run());
        servers.iter().for_each(|server| says(server, SALTS));
        let (sealing, target) = (Sealing::new(&spec), TcpTarget::echo());
        let request = || sealing.seal(&sealing.request(&target.v4(), b"once"));
        let answered = |server: &Half, bytes: &[u8]| {
            probe(server.address, bytes, Cut::Whole, Then::Finish).answered
        };
        // On a busy machine, an answer may come late, which is said.
        let refused = |one: usize, other: usize| {
            let late = || -> usize {
                servers
                    .iter()
                    .map(|server| said(server, "not say in time"))
                    .sum()
            };
            for _ in 0..20 {
                let before = late();
                let request = request();
                assert!(answered(&servers[one], &request) > 0, "{method}");
                if answered(&servers[other], &request) == 0 {
                    return true;
                }
                eventually("it is said that it was late", || late() > before);
                let back = || {
                    servers
                        .iter()
                        .all(|server| said(server, SALTS) > said(server, "not say in time"))
                };
                eventually("salts are asked for again", back);
            }
            false
        };
        assert!(refused(0, 1) && refused(1, 0), "{method}");
        // Who has no key cannot fill it.
        let count = ["EVAL", "return #redis.call('KEYS', 'ssr:1:*:salt:*')", "0"];
        let before = redis.ask(&count);
        let flood: Vec<_> = (0..200)
            .map(|seed| {
                let mut stranger = TcpStream::connect(servers[0].address).unwrap();
                stranger.write_all(&pattern(seed, 200)).unwrap();
                stranger
            })
            .collect();
        assert!(answered(&servers[0], &request()) > 0);
        drop(flood);
        let spent = |text: &str| text.trim().trim_start_matches("(integer) ").parse::<u64>();
        let after = redis.ask(&count);
        // Under the methods of 2017, the salt of the answer is spent too.
        let most = spent(&before).unwrap() + 2;
        assert!(spent(&after).unwrap() <= most, "{before} {after}");
    }
}

#[test]
#[ignore = "needs peers: scripts/test"]
fn user_added_on_one_server_works_on_the_other_until_it_is_removed_there() {
    let redis = Redis::new();
    let ((api, first), (other_api, second)) = (Api::new(), Api::new());
    let with = |api: Value| {
        let mut all = keys(&redis.url(), &json!({}));
        all["timeouts"] = json!({"handshake": 1});
        all.as_object_mut()
            .unwrap()
            .extend(api.as_object().unwrap().clone());
        started(all)
    };
    let (one, other) = (with(first), with(second));
    [&one, &other]
        .into_iter()
        .for_each(|server| says(server, ANSWERS));
    let target = TcpTarget::echo();
    let made = api.put("/api/v1/users/bob", &json!({"max_ips": 2}));
    assert_eq!(made.status, 200, "{made:?}");
    let key = made.json()["password"].as_str().unwrap().to_owned();
    let begun = Instant::now();
    eventually("bob is known", || {
        other_api.get("/api/v1/users/bob/link").status == 200
    });
    // It takes a quarter of a second at most on a machine that does nothing else.
    assert!(begun.elapsed() < Duration::from_secs(5), "{begun:?}");
    let bobs = [&one, &other].map(|server| local_of(server, &key));
    echo(&bobs[1], &target, 10_000);
    eventually("it is counted everywhere", || {
        status(&one, "bob")["up_bytes"] == 10_000
    });
    // A change on the other, and back.
    let change = json!({"max_ips": 7});
    assert_eq!(other_api.put("/api/v1/users/bob", &change).status, 200);
    let limits = |api: &Api| {
        let users = api.json("/api/v1/users");
        let mut users = users.as_array().unwrap().iter();
        let bob = users.find(|user| user["name"] == "bob");
        bob.map(|user| user["limits"]["max_ips"].clone())
    };
    eventually("the limit is changed", || limits(&api) == Some(json!(7)));
    let mut open = bobs[0].socks().connect(&target.v4());
    open.write_all(b"hello").unwrap();
    open.read_exact(&mut [0; 5]).unwrap();
    assert_eq!(other_api.delete("/api/v1/users/bob").status, 204);
    eventually("the flow has ended", || !is_open(&mut open));
    assert!(!works(&bobs[0], &target) && !works(&bobs[1], &target));
    // One of the same name is another one.
    assert_eq!(api.put("/api/v1/users/bob", &json!({})).status, 200);
    eventually("bob is known again", || {
        other_api.get("/api/v1/users/bob/link").status == 200
    });
    assert_eq!(status(&other, "bob")["up_bytes"], 0);
    // The config's own.
    assert_eq!(api.delete("/api/v1/users/ann").status, 204);
    eventually("ann is gone everywhere", || {
        other_api.get("/api/v1/users/ann/link").status == 404
    });
    for server in [&one, &other] {
        let log = server.process.log();
        assert!(
            !log.contains(&key) && !log.contains("cannot be used"),
            "{log}"
        );
    }
}

/// Without persistence it has lost everything when it is back; with it, the last moments.
#[test]
#[ignore = "needs peers: scripts/test"]
fn redis_that_is_killed_costs_neither_flows_nor_counts() {
    for persistence in ["no", "yes"] {
        let mut redis = Redis::with(&["--appendonly", persistence]);
        let servers = [(); 2].map(|()| server(&redis.url(), &json!({})));
        let (locals, target) = ([&servers[0], &servers[1]].map(local), TcpTarget::echo());
        servers.iter().for_each(|server| says(server, ANSWERS));
        echo(&locals[0], &target, 10_000);
        echo(&locals[1], &target, 20_000);
        for server in &servers {
            eventually("both are counted", || up(server) == 30_000);
        }
        let mut open = locals[0].socks().connect(&target.v4());
        redis.kill();
        echo(&locals[0], &target, 1_000);
        echo(&locals[1], &target, 2_000);
        for server in &servers {
            says(server, "the store gives no answer");
        }
        redis.start();
        for server in &servers {
            says(server, "the store answers again");
            eventually("what came meanwhile is counted", || up(server) == 33_000);
        }
        open.write_all(b"hello").unwrap();
        open.read_exact(&mut [0; 5]).unwrap();
        // A server that knows nothing learns all of it.
        let third = server(&redis.url(), &json!({}));
        eventually("it learns", || up(&third) == 33_005);
        for server in &servers {
            // Once each, in turn. A busy machine may be late another time.
            let [away, back] = ["the store gives no answer", "the store answers again"];
            let (away, back) = (said(server, away), said(server, back));
            let is_in_turn = away == back || away == back + 1;
            assert!(is_in_turn && away < 6, "{}", server.process.log());
        }
    }
}

#[test]
#[ignore = "needs peers: scripts/test"]
fn totals_are_what_was_moved_while_redis_is_killed_at_random() {
    let mut redis = Redis::with(&["--appendonly", "yes"]);
    let servers = [(); 2].map(|()| server(&redis.url(), &json!({})));
    let (locals, target) = ([&servers[0], &servers[1]].map(local), TcpTarget::echo());
    servers.iter().for_each(|server| says(server, ANSWERS));
    let (stop, moved) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        for local in &locals {
            let (stop, moved, target) = (&stop, &moved, &target);
            scope.spawn(move || {
                for round in 0.. {
                    if stop.load(SeqCst) {
                        return;
                    }
                    let count = 1 + round * 977 % 10_000;
                    echo(local, target, count);
                    moved.fetch_add(count as u64, SeqCst);
                }
            });
        }
        // Pauses of all lengths, from within an exchange to several of them.
        for pause in [10, 700, 130, 350, 60, 1100, 270, 90] {
            thread::sleep(Duration::from_millis(pause));
            redis.kill();
            thread::sleep(Duration::from_millis(pause / 2));
            redis.start();
        }
        stop.store(true, SeqCst);
    });
    let moved = moved.load(SeqCst);
    for server in &servers {
        eventually("all of it is counted", || up(server) >= moved);
    }
    thread::sleep(Duration::from_secs(1));
    for server in &servers {
        assert_eq!(up(server), moved, "{}", server.process.log());
    }
}

/// The time of the fastest of some connections. If each waited for the store, it would be 100 ms at least.
fn fastest(local: &Half, target: &TcpTarget) -> Duration {
    let times = (0..30).map(|_| {
        let begun = Instant::now();
        assert!(works(local, target));
        begun.elapsed()
    });
    times.min().unwrap()
}

#[test]
#[ignore = "needs peers: scripts/test"]
fn redis_that_does_not_answer_costs_flows_nothing() {
    // One that never did.
    let hole = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("redis://:secret-word@{}/0", hole.local_addr().unwrap());
    let (server_of_hole, target) = (server(&url, &json!({})), TcpTarget::echo());
    let anns = local(&server_of_hole);
    assert!(fastest(&anns, &target) < Duration::from_millis(100));
    says(&server_of_hole, "the store gives no answer");
    says(&server_of_hole, "does not say in time");
    let log = server_of_hole.process.log();
    assert!(!log.contains("secret-word"), "{log}");

    // One that did.
    let redis = Redis::new();
    let server_of_redis = server(&redis.url(), &json!({}));
    let anns = local(&server_of_redis);
    says(&server_of_redis, SALTS);
    redis.signal(Signal::STOP);
    assert!(fastest(&anns, &target) < Duration::from_millis(100));
    says(&server_of_redis, "does not say in time");
    says(&server_of_redis, "the store gives no answer");
    redis.signal(Signal::CONT);
    says(&server_of_redis, "the store answers again");
}

#[test]
#[ignore = "needs peers: scripts/test"]
fn what_others_write_into_redis_crashes_no_server() {
    let redis = Redis::new();
    let first = server(&redis.url(), &json!({}));
    let (anns, target) = (local(&first), TcpTarget::echo());
    says(&first, ANSWERS);
    echo(&anns, &target, 1000);
    eventually("it is told", || redis.ask(&["KEYS", "*"]).contains("data"));
    let (data, feed) = (redis.key("data"), redis.key("feed"));
    // Entries of no kind, with no number, too long, with no value, of a user that nobody may be.
    let huge = "9".repeat(100_000);
    let entries = [
        ("x", "1 1"),
        ("uann", "nonsense"),
        ("c0123456789abcdefann", "1 0 x"),
        ("ubob", "5 {\"password\": \"short\"}"),
        ("ueve", &*huge),
        (&*huge, "1 1"),
        ("u\n\u{1b}[31m", "5 {\"password\": \"short\"}"),
    ];
    for (place, (name, value)) in (1000..).zip(entries) {
        redis.ask(&["HSET", &data, name, value]);
        redis.ask(&["ZADD", &feed, &format!("{place}"), name]);
    }
    redis.ask(&["ZADD", &feed, "1100", "unobody"]);
    let second = server(&redis.url(), &json!({}));
    for server in [&first, &second] {
        says(server, "the store has something that is left out");
        says(server, "a user of the store cannot be used here");
        assert_eq!(said(server, "is left out"), 1);
        assert!(!server.process.log().contains('\u{1b}'));
        eventually("ann is known", || up(server) == 1000);
    }
    // Keys of other types.
    for kind in [["SET", "text"], ["LPUSH", "list"]] {
        for key in [&data, &feed, &redis.key("epoch"), &redis.key("seq")] {
            redis.ask(&["DEL", key]);
            redis.ask(&[kind[0], key, kind[1]]);
        }
        says(&first, "Redis refuses");
        echo(&anns, &target, 1000);
    }
    redis.ask(&["FLUSHALL"]);
    for server in [&first, &second] {
        eventually("what is known is told again", || up(server) == 3000);
    }
}

#[test]
#[ignore = "needs peers: scripts/test"]
fn processes_that_ended_long_ago_become_one_sum() {
    let redis = Redis::new();
    let first = server(&redis.url(), &json!({}));
    let target = TcpTarget::echo();
    says(&first, ANSWERS);
    echo(&local(&first), &target, 1000);
    eventually("it is told", || redis.ask(&["KEYS", "*"]).contains("data"));
    let (data, feed) = (redis.key("data"), redis.key("feed"));
    redis.ask(&["SET", &redis.key("seq"), "2000"]);
    for node in 1..=3 {
        let name = format!("c000000000000000{node}ann");
        redis.ask(&["HSET", &data, &name, "5 0 10 20 0 1700000000 0 0 0"]);
        redis.ask(&["ZADD", &feed, &format!("100{node}"), &name]);
    }
    eventually("they are counted", || up(&first) == 1030);
    // Each process looks for one when it begins.
    let more: Vec<_> = (1..=3)
        .map(|number| {
            let server = server(&redis.url(), &json!({}));
            says(&server, ANSWERS);
            eventually("another one is added", || {
                let left = redis.ask(&["--raw", "HKEYS", &data]);
                left.lines().filter(|name| name.starts_with('r')).count() >= number
            });
            server
        })
        .collect();
    let sum = redis.ask(&["--raw", "HGET", &data, "c0000000000000000ann"]);
    assert_eq!(sum.trim(), "7 0 30 60 0 1700000000 0 0 0");
    for server in more.iter().chain([&first]) {
        eventually("the sum is known", || up(server) == 1030);
    }
}

/// Starts a server that keeps what it knows in `state`.
fn keeping(state: &Path, url: &str, api: &Value) -> Half {
    let mut all = keys(url, &json!({}));
    let all_keys = all.as_object_mut().unwrap();
    all_keys.extend(api.as_object().unwrap().clone());
    all_keys["admin"]["state"] = json!(state);
    started(all)
}

#[test]
#[ignore = "needs peers: scripts/test"]
fn server_that_starts_without_redis_goes_on_with_what_it_knew() {
    let mut redis = Redis::new();
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("state");
    let (target, other) = (TcpTarget::echo(), server(&redis.url(), &json!({})));
    let others = local(&other);
    let (api, api_keys) = Api::new();
    let first = keeping(&state, &redis.url(), &api_keys);
    [&first, &other]
        .into_iter()
        .for_each(|server| says(server, ANSWERS));
    let made = api.put("/api/v1/users/bob", &json!({})).json();
    let key = made["password"].as_str().unwrap();
    echo(&local(&first), &target, 10_000);
    echo(&others, &target, 20_000);
    eventually("both are counted", || up(&first) == 30_000);
    redis.kill();
    // Nobody else knows of these.
    echo(&local(&first), &target, 1_000);
    end(first, Signal::TERM);
    let second = keeping(&state, &redis.url(), &api_keys);
    assert_eq!(up(&second), 31_000);
    assert!(works(&local_of(&second, key), &target));
    echo(&local(&second), &target, 100);
    echo(&others, &target, 10);
    redis.start();
    for server in [&second, &other] {
        eventually("all of it is counted", || up(server) == 31_110);
    }
    // Killed, it has lost nothing that the store was told.
    end(second, Signal::KILL);
    let third = keeping(&state, &redis.url(), &api_keys);
    eventually("all of it is known", || up(&third) == 31_110);
    says(&third, ANSWERS);
    thread::sleep(Duration::from_secs(1));
    for server in [&third, &other] {
        assert_eq!(up(server), 31_110);
    }
    assert_eq!(up(&other), 31_110);
}

#[test]
#[ignore = "needs peers: scripts/test"]
fn password_of_redis_is_used_and_not_shown() {
    let redis = Redis::with(&["--requirepass", "right-word"]);
    let with = |password: &str| {
        let url = format!("{}?pass={password}", redis.url());
        server(&url, &json!({}))
    };
    let (right, wrong) = (with("right-word"), with("wrong-word"));
    says(&right, ANSWERS);
    says(&wrong, "the store gives no answer");
    for server in [&right, &wrong] {
        let log = server.process.log();
        assert!(!log.contains("-word"), "{log}");
    }
}

#[test]
fn store_that_cannot_be_used_is_refused_without_its_password() {
    for (url, reason) in [
        (
            "rediss://:a-secret@localhost",
            "TLS to Redis is not supported",
        ),
        (
            "http://:a-secret@localhost",
            "a store is the URL of a Redis",
        ),
        ("redis://:a-secret@", "this URL of a store cannot be used"),
        ("${NO_SUCH_VARIABLE}", "no environment variable"),
    ] {
        let spec = Spec::new(METHOD);
        let directory = tempfile::tempdir().unwrap();
        let config = directory.path().join("config.json");
        let text = json!({"server": "127.0.0.1", "server_port": 1, "method": spec.method,
            "password": spec.password, "store": url});
        std::fs::write(&config, text.to_string()).unwrap();
        let output = Ssr.command(Role::Server, &config).output().unwrap();
        assert!(!output.status.success());
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("store") && said.contains(reason), "{said}");
        assert!(!said.contains("a-secret"), "{said}");
    }
}
