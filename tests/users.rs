//! Users of `ssr server`: what they have used, and what they may use.

use std::{
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, TcpStream},
    thread,
    time::{Duration, Instant, SystemTime},
};

use serde_json::{Value, json};

use crate::common::{
    DEADLINE, SILENCE,
    bytes::pattern,
    eventually, is_open, matrix,
    peers::{Half, Program::Ssr, Spec, Start, password, ssr},
    targets::TcpTarget,
    udp::UdpTarget,
};

const METHOD: &str = "2022-blake3-aes-256-gcm";

/// A server with two users: ann, with these limits, and bob, with none.
struct Scene {
    server: Half,
}

impl Scene {
    fn new(limits: Value) -> Self {
        let mut ann = json!({"name": "ann", "password": password(METHOD, 2)});
        let keys = ann.as_object_mut().unwrap();
        keys.extend(limits.as_object().unwrap().clone());
        let bob = json!({"name": "bob", "password": password(METHOD, 3)});
        let server = Start::server(Ssr, &Spec::new(METHOD))
            .with(json!({"users": [ann, bob]}))
            .run();
        Self { server }
    }

    /// `ssr local` of a user, which connects from this address.
    fn local_from(&self, user: &str, from: IpAddr) -> Half {
        let seed = if user == "ann" { 2 } else { 3 };
        let server = Spec::new(METHOD).password;
        let spec = Spec {
            method: METHOD.to_owned(),
            password: format!("{server}:{}", password(METHOD, seed)),
        };
        Start::local(Ssr, &spec, self.server.address)
            .with(json!({"outbound_bind_addr": from}))
            .run()
    }

    fn local(&self, user: &str) -> Half {
        self.local_from(user, Ipv4Addr::LOCALHOST.into())
    }

    /// What `ssr status` says of a user.
    fn status(&self, user: &str) -> Value {
        self.one(json!(user))
    }

    /// The same for a user, or for the only one, which has no name.
    fn one(&self, name: Value) -> Value {
        let pid = self.server.process.id().to_string();
        let output = ssr(&["status", "--pid", &pid, "--json"]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
        let users = answer["users"].as_array().unwrap();
        let user = users.iter().find(|one| one["name"] == name);
        user.unwrap().clone()
    }

    fn log(&self) -> String {
        self.server.process.log()
    }
}

/// Whether a request gets an answer.
fn works(local: &Half, echo: &TcpTarget) -> bool {
    let mut stream = local.socks().connect(&echo.v4());
    let _gone = stream.write_all(b"hello");
    stream.read_exact(&mut [0; 5]).is_ok()
}

/// Waits until a connection is ended.
fn ends(mut stream: TcpStream) -> Duration {
    let begun = Instant::now();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut room = vec![0; 64 << 10];
    loop {
        match stream.read(&mut room) {
            Ok(1..) => {}
            Ok(0) => return begun.elapsed(),
            Err(error) => {
                assert_ne!(error.kind(), std::io::ErrorKind::WouldBlock, "still open");
                return begun.elapsed();
            }
        }
    }
}

#[test]
fn what_a_user_uses_is_told_while_it_lasts() {
    let (scene, echo, datagrams) = (Scene::new(json!({})), TcpTarget::echo(), UdpTarget::echo());
    let (ann, bob) = (scene.local("ann"), scene.local("bob"));
    let before = scene.status("ann");
    assert_eq!(before["up_bytes"], 0);
    assert_eq!(before["last_seen_unix_s"], Value::Null);
    let mut open = ann.socks().connect(&echo.v4());
    open.write_all(&pattern(1, 100_000)).unwrap();
    open.read_exact(&mut vec![0; 100_000]).unwrap();
    let association = ann.socks().associate();
    let _back = association.exchange(&datagrams.target(), &[7; 500]);
    assert!(works(&bob, &echo));
    // The stream still runs.
    eventually("all is counted", || {
        let ann = scene.status("ann");
        (
            ann["up_bytes"].clone(),
            ann["down_bytes"].clone(),
            ann["tcp_now"].clone(),
        ) == (json!(100_500), json!(100_500), json!(1))
    });
    let now = scene.status("ann");
    assert_eq!((&now["udp_now"], &now["ips_now"]), (&json!(1), &json!(1)));
    let seen = Duration::from_secs(now["last_seen_unix_s"].as_u64().unwrap());
    let time = SystemTime::UNIX_EPOCH.elapsed().unwrap();
    assert!(time.checked_sub(seen).unwrap() < DEADLINE);
    eventually("bob's stream has ended", || {
        scene.status("bob")["tcp_now"] == 0
    });
    assert_eq!(scene.status("bob")["up_bytes"], 5);
    let pid = scene.server.process.id().to_string();
    let output = ssr(&["status", "--pid", &pid]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("ann") && text.contains("98.1 KiB"), "{text}");
    drop(open);
    eventually("ann's stream has ended", || {
        scene.status("ann")["tcp_now"] == 0
    });
}

#[test]
fn rate_holds_in_each_direction_and_connections_share_it() {
    const RATE: u64 = 1 << 20;
    let (scene, echo) = (Scene::new(json!({"rate_limit": RATE})), TcpTarget::echo());
    let source = TcpTarget::serve(
        |mut stream| {
            while stream.write_all(&[7; 16 << 10]).is_ok() {}
        },
    );
    let (ann, bob) = (scene.local("ann"), scene.local("bob"));
    let begun = Instant::now();
    let counts: Vec<u64> = thread::scope(|scope| {
        let flows: Vec<_> = (0..4)
            .map(|_| {
                let (ann, source) = (&ann, &source);
                scope.spawn(move || {
                    let mut stream = ann.socks().connect(&source.v4());
                    let (mut count, mut room) = (0, vec![0; 64 << 10]);
                    while begun.elapsed() < Duration::from_secs(3) {
                        count += stream.read(&mut room).unwrap() as u64;
                    }
                    count
                })
            })
            .collect();
        // Nobody else is held back.
        matrix::echoes(&bob.socks(), &echo.v4(), 20 << 20);
        flows.into_iter().map(|flow| flow.join().unwrap()).collect()
    });
    let sum: u64 = counts.iter().sum();
    assert!(sum >= RATE, "{counts:?}");
    let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
    assert!(*most <= 4 * *least + (512 << 10), "{counts:?}");
    let taken = scene.status("ann")["down_bytes"].as_u64().unwrap();
    let time = begun.elapsed().as_secs_f64() + 1.0; // a burst, and the rest of a turn of each
    assert!(taken as f64 <= RATE as f64 * time, "{taken} in {time} s");
}

#[test]
fn quota_that_is_used_up_ends_connections_and_refuses_new_ones() {
    let scene = Scene::new(json!({"quota_bytes": 1_000_000, "quota_period": "once"}));
    let echo = TcpTarget::echo();
    let (ann, bob) = (scene.local("ann"), scene.local("bob"));
    let idle = ann.socks().connect(&echo.v4());
    assert!(works(&ann, &echo));
    let mut stream = ann.socks().connect(&echo.v4());
    let _cut = stream.write_all(&pattern(1, 4_000_000));
    assert!(ends(stream) < DEADLINE / 2);
    assert!(ends(idle) < Duration::from_secs(2), "an idle one ends too");
    assert!(!works(&ann, &echo));
    assert!(works(&bob, &echo));
    let ann = scene.status("ann");
    assert_eq!(ann["refused"], "quota");
    let used = ann["period_bytes"].as_u64().unwrap();
    assert!((1_000_000..1_600_000).contains(&used), "{used}");
    assert!(
        scene
            .log()
            .contains("user=ann reason=the user's `quota_bytes` is used up")
    );
}

#[test]
fn time_that_is_over_ends_connections() {
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs() + 4;
    let end = time::OffsetDateTime::from_unix_timestamp(now.try_into().unwrap()).unwrap();
    let end = end
        .format(&time::format_description::well_known::Rfc3339)
        .unwrap();
    let (scene, echo) = (Scene::new(json!({"expires": end})), TcpTarget::echo());
    let ann = scene.local("ann");
    assert!(works(&ann, &echo));
    let idle = ann.socks().connect(&echo.v4());
    ends(idle);
    assert!(SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs() < now + 3);
    assert!(!works(&ann, &echo));
    assert_eq!(scene.status("ann")["refused"], "expired");
}

#[test]
fn connections_beyond_the_limit_are_refused_until_one_ends() {
    let (scene, echo) = (Scene::new(json!({"max_connections": 2})), TcpTarget::echo());
    let (ann, bob) = (scene.local("ann"), scene.local("bob"));
    let open = || {
        let mut stream = ann.socks().connect(&echo.v4());
        stream.write_all(b"hello").unwrap();
        stream.read_exact(&mut [0; 5]).unwrap();
        stream
    };
    let held = [open(), open()];
    assert!(!works(&ann, &echo));
    assert!(works(&bob, &echo));
    let association = ann.socks().associate();
    association.send(&UdpTarget::echo().target(), b"?");
    assert!(association.receive(SILENCE).is_none());
    for mut stream in held {
        assert!(is_open(&mut stream));
        drop(stream);
    }
    eventually("both have ended", || scene.status("ann")["tcp_now"] == 0);
    assert!(works(&ann, &echo));
}

#[test]
fn addresses_beyond_the_limit_are_refused_until_one_is_gone() {
    let (scene, echo) = (Scene::new(json!({"max_ips": 1})), TcpTarget::echo());
    let [first, second] = [1, 2].map(|last| scene.local_from("ann", [127, 0, 9, last].into()));
    let held = first.socks().connect(&echo.v4());
    eventually("it runs", || scene.status("ann")["tcp_now"] == 1);
    assert!(works(&first, &echo), "the same address");
    assert!(!works(&second, &echo));
    drop(held);
    eventually("it has ended", || scene.status("ann")["ips_now"] == 0);
    assert!(works(&second, &echo));
    assert!(scene.status("ann")["failures"].as_u64().unwrap() >= 1);
}

#[test]
fn datagrams_beyond_the_rate_are_dropped() {
    let (scene, echo) = (Scene::new(json!({"rate_limit": 20_000})), UdpTarget::echo());
    let (ann, bob) = (scene.local("ann"), scene.local("bob"));
    let passed = |local: &Half| {
        let association = local.socks().associate();
        association.warm_up(&echo.target());
        for _ in 0..100 {
            association.send(&echo.target(), &[7; 1000]);
            thread::sleep(Duration::from_millis(2)); // at a rate of its own, that sockets hold
        }
        std::iter::from_fn(|| association.receive(SILENCE)).count()
    };
    let some = passed(&ann);
    assert!((1..60).contains(&some), "{some}");
    assert!(passed(&bob) > 90);
}

#[test]
fn server_with_one_key_counts_a_user_without_a_name() {
    let (server, echo) = (
        Start::server(Ssr, &Spec::new(METHOD)).run(),
        TcpTarget::echo(),
    );
    let local = Start::local(Ssr, &Spec::new(METHOD), server.address).run();
    let scene = Scene { server };
    assert_eq!(scene.one(Value::Null)["up_bytes"], 0);
    let mut open = local.socks().connect(&echo.v4());
    open.write_all(&pattern(1, 100_000)).unwrap();
    open.read_exact(&mut vec![0; 100_000]).unwrap();
    let association = local.socks().associate();
    let _back = association.exchange(&UdpTarget::echo().target(), &[7; 500]);
    eventually("all is counted", || {
        let user = scene.one(Value::Null);
        let counts = ["up_bytes", "down_bytes", "tcp_now", "udp_now", "ips_now"];
        counts.map(|key| user[key].as_u64().unwrap()) == [100_500, 100_500, 1, 1, 1]
    });
    drop(open);
    eventually("the stream has ended", || {
        scene.one(Value::Null)["tcp_now"] == 0
    });
    assert!(works(&local, &echo));
}
