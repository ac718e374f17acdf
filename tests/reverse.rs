//! Reverse tunnels through the binary: services near `ssr local` are reached at a port of `ssr server`.

use crate::common::{
    self, DEADLINE,
    bytes::{Pattern, digest},
    eventually,
    peers::{Program, Spec, Start},
    process::{free_port, v4},
    reverse::*,
    targets::{Order, TcpTarget, write_pattern},
    udp::UdpTarget,
};
use rustix::process::Signal;
use serde_json::json;
use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, TcpStream, UdpSocket},
    thread,
    time::{Duration, Instant},
};

#[test]
fn tcp_reaches_what_is_behind_local() {
    let (_server, client, target, bound) = echo();
    let mut stream = dial(bound);
    exchange(&mut stream, b"hello").unwrap();
    assert_eq!(target.accepted(), 1);
    // The client still is a SOCKS proxy.
    let mut other = client.socks().connect(&target.v4());
    exchange(&mut other, b"socks").unwrap();
}

#[test]
fn both_directions_carry_megabytes_at_once_and_end_by_halves() {
    let (duplex, sums) = (TcpTarget::duplex(), TcpTarget::digest_at_end());
    let server = open_server();
    let list = vec![
        service("duplex", free_port(), duplex.port()),
        service("sums", free_port(), sums.port()),
    ];
    let client = client(&server, services(list));
    let mut stream = dial(published(&client, "duplex"));
    let order = Order {
        seed: 7,
        up: 30 << 20,
        down: 20 << 20,
    };
    stream.write_all(&order.to_bytes()).unwrap();
    let mut reading = stream.try_clone().unwrap();
    let download = thread::spawn(move || {
        let mut bytes = vec![0; order.down];
        reading.read_exact(&mut bytes).unwrap();
        let mut sum = digest(&[]).to_vec();
        reading.read_exact(&mut sum).unwrap();
        (digest(&bytes), sum)
    });
    write_pattern(&mut stream, 9, order.up).unwrap();
    let pattern = |seed, len| {
        let mut bytes = vec![0; len];
        Pattern::new(seed).fill(&mut bytes);
        digest(&bytes)
    };
    let (down, up) = download.join().unwrap();
    assert_eq!(down, pattern(7, order.down));
    assert_eq!(up, pattern(9, order.up));
    // An upload that ends is answered afterwards.
    let mut stream = dial(published(&client, "sums"));
    write_pattern(&mut stream, 11, 3 << 20).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut sum = Vec::new();
    stream.read_to_end(&mut sum).unwrap();
    assert_eq!(sum, pattern(11, 3 << 20));
}

#[test]
fn thousand_streams_in_turn_and_a_hundred_at_once() {
    let (server, client, target, bound) = echo();
    for number in 0..1000u32 {
        exchange(&mut dial(bound), &number.to_be_bytes()).unwrap();
    }
    let mut streams: Vec<TcpStream> = (0..100).map(|_| dial(bound)).collect();
    for round in 0..3u8 {
        for stream in &mut streams {
            exchange(stream, &[round; 3000]).unwrap();
        }
    }
    assert_eq!(target.accepted(), 1100);
    drop(streams);
    // No sockets of visitors or targets are leaked.
    for half in [&server, &client] {
        eventually("all sockets are closed", || half.process.open_files() < 60);
    }
}

#[test]
fn udp_goes_to_the_target_and_back_to_its_visitor() {
    let target = UdpTarget::echo();
    let server = open_server();
    let port = free_port();
    let udp = json!({
        "name": "dns", "bind": format!("127.0.0.1:{port}"), "protocol": "udp",
        "target": target.answers_from().socket().unwrap().to_string(),
    });
    let client = client(&server, services(vec![udp]));
    let bound = published(&client, "dns");
    let visitors: Vec<UdpSocket> = (0..3)
        .map(|_| {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.connect(bound).unwrap();
            socket.set_read_timeout(Some(DEADLINE)).unwrap();
            socket
        })
        .collect();
    for len in [0, 1, 1200, 16_000] {
        for (number, socket) in visitors.iter().enumerate() {
            let sent = vec![u8::try_from(number).unwrap(); len];
            socket.send(&sent).unwrap();
            let mut back = vec![0; 20_000];
            let got = socket.recv(&mut back).unwrap();
            assert_eq!(&back[..got], &sent[..], "{len} bytes of visitor {number}");
        }
    }
}

/// Reads a head and nothing behind it.
fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        match stream.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            _ => break,
        }
    }
    String::from_utf8(head).unwrap()
}

/// An HTTP server that answers with its name and the request's head, and accepts upgrades.
pub(crate) fn http_target(name: &'static str) -> TcpTarget {
    TcpTarget::serve(move |mut stream| {
        loop {
            let head = read_head(&mut stream);
            if head.is_empty() {
                return;
            }
            if head.contains("Upgrade: websocket") {
                let answer = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";
                stream.write_all(answer).unwrap();
                let mut buf = [0; 1024];
                while let Ok(n @ 1..) = stream.read(&mut buf) {
                    stream.write_all(&buf[..n]).unwrap();
                }
                return;
            }
            let body = format!("{name}\n{head}");
            let answer = format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            );
            if stream.write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
    })
}

/// Requests a page and returns the status line and the body.
pub(crate) fn get(stream: &mut TcpStream, host: &str, more: &str) -> (String, String) {
    let request = format!("GET /x HTTP/1.1\r\nHost: {host}\r\n{more}\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let head = read_head(stream);
    let len = head
        .lines()
        .find_map(|line| line.strip_prefix("Content-Length: "))
        .unwrap_or_else(|| panic!("no length in {head:?}"));
    let mut body = vec![0; len.trim().parse().unwrap()];
    stream.read_exact(&mut body).unwrap();
    let status = head.lines().next().unwrap_or_default().to_owned();
    (status, String::from_utf8(body).unwrap())
}

#[test]
fn http_services_share_a_port_by_host() {
    let (first, second) = (http_target("first"), http_target("second"));
    let server = open_server();
    let port = free_port();
    let http = |name: &str, target: u16, host: &str| {
        let keys = json!({ "protocol": "http", "host": host });
        with(service(name, port, target), keys)
    };
    let one = client(
        &server,
        services(vec![http("a", first.port(), "a.example")]),
    );
    let two = client(
        &server,
        services(vec![http("b", second.port(), "b.example")]),
    );
    let bound = published(&one, "a");
    assert_eq!(published(&two, "b"), bound);
    for (host, name) in [("a.example", "first"), ("B.example:80", "second")] {
        let mut stream = dial(bound);
        // Each request of a persistent connection names the visitor, whatever the visitor claims.
        for _ in 0..3 {
            let (status, body) = get(&mut stream, host, "X-Forwarded-For: 10.9.8.7\r\n");
            assert_eq!(status, "HTTP/1.1 200 OK");
            assert!(body.starts_with(name), "{body}");
            assert!(body.contains("X-Forwarded-For: 127.0.0.1\r\n"), "{body}");
            assert!(body.contains("X-Forwarded-Proto: http\r\n"), "{body}");
            assert!(!body.contains("10.9.8.7"), "{body}");
        }
    }
    assert_eq!(
        get(&mut dial(bound), "c.example", "").0,
        "HTTP/1.1 404 Not Found"
    );
    let mut garbage = dial(bound);
    garbage.write_all(b"SSH-2.0-x\r\n\r\n").unwrap();
    assert!(read_head(&mut garbage).starts_with("HTTP/1.1 400 "));
    // A WebSocket works.
    let mut socket = dial(bound);
    let upgrade = b"GET /chat HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    socket.write_all(upgrade).unwrap();
    assert!(read_head(&mut socket).starts_with("HTTP/1.1 101 "));
    exchange(&mut socket, b"\x81\x05hello").unwrap();
    // When a client has left, its Host is unknown; the other's is not.
    drop(one);
    eventually("the host of a client that is gone is unknown", || {
        // A request before the server has noticed gets no answer.
        let mut stream = dial(bound);
        let sent = stream.write_all(b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n");
        sent.is_ok() && read_head(&mut stream).starts_with("HTTP/1.1 404 ")
    });
    assert_eq!(get(&mut dial(bound), "b.example", "").0, "HTTP/1.1 200 OK");
}

#[test]
fn target_is_told_who_the_visitor_is() {
    let target = TcpTarget::echo();
    let server = open_server();
    let list = vec![
        with(
            service("one", free_port(), target.port()),
            json!({ "proxy_protocol": "v1" }),
        ),
        with(
            service("two", free_port(), target.port()),
            json!({ "proxy_protocol": "v2" }),
        ),
    ];
    let client = client(&server, services(list));
    let bound = published(&client, "one");
    let mut stream = dial(bound);
    stream.write_all(b"hello").unwrap();
    let port = stream.local_addr().unwrap().port();
    let expected = format!(
        "PROXY TCP4 127.0.0.1 127.0.0.1 {port} {}\r\nhello",
        bound.port()
    );
    let mut back = vec![0; expected.len()];
    stream.read_exact(&mut back).unwrap();
    assert_eq!(String::from_utf8(back).unwrap(), expected);
    let mut stream = dial(published(&client, "two"));
    let mut back = [0; 16 + 12];
    stream.read_exact(&mut back).unwrap();
    assert_eq!(&back[..16], b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c");
    let port = stream.local_addr().unwrap().port().to_be_bytes();
    assert_eq!(back[24..26], port);
}

#[test]
fn nothing_is_published_unless_it_is_granted() {
    let target = TcpTarget::echo();
    let port = free_port();
    for (allow, reason) in [
        (json!({}), "publishes nothing"),
        (
            json!({ "allow": [{ "bind": format!("127.0.0.1:{}", port - 1) }] }),
            "does not grant",
        ),
        (
            json!({ "allow": [{ "user": "ann", "bind": "127.0.0.1:1-65535" }] }),
            "does not grant",
        ),
        (
            json!({ "allow": [{ "bind": "127.0.0.1:1-65535", "protocol": "udp" }] }),
            "does not grant",
        ),
    ] {
        let server = server(allow);
        let client = client(
            &server,
            services(vec![service("echo", port, target.port())]),
        );
        eventually("the client learns why", || {
            said(&client, &["reverse: the server refused", reason]) > 0
        });
        assert!(refuses(v4(port)));
    }
}

#[test]
fn port_in_use_is_said_with_its_reason() {
    let target = TcpTarget::echo();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let server = open_server();
    let port = taken.local_addr().unwrap().port();
    let client = client(
        &server,
        services(vec![service("echo", port, target.port())]),
    );
    eventually("the client learns why", || {
        said(&client, &["reverse: the server refused", "already in use"]) > 0
    });
    // When the port is free, the client gets it without a restart.
    drop(taken);
    assert_eq!(published(&client, "echo"), v4(port));
    exchange(&mut dial(v4(port)), b"now").unwrap();
}

#[test]
fn users_have_what_they_are_granted() {
    let (ann, bob) = (Spec::new(METHOD), common::peers::password(METHOD, 2));
    let key = common::peers::password(METHOD, 3);
    let port = free_port();
    let start = Start::server(Program::Ssr, &ann).with(json!({
        "users": [{ "name": "ann", "password": key }, { "name": "bob", "password": bob }],
        "reverse": { "allow": [{ "user": "ann", "bind": "127.0.0.1:1-65535" }] },
    }));
    let server = start.run();
    let target = TcpTarget::echo();
    let of = |user: &str| {
        let spec = Spec {
            method: METHOD.to_owned(),
            password: format!("{}:{user}", ann.password),
        };
        let reverse = services(vec![service("echo", port, target.port())]);
        let start = Start::local(Program::Ssr, &spec, server.address);
        start.with(json!({ "reverse": reverse })).run()
    };
    let refused = of(&bob);
    eventually("bob learns why", || {
        said(&refused, &["the server refused", "to user `bob`"]) > 0
    });
    let granted = of(&key);
    exchange(&mut dial(published(&granted, "echo")), b"ann").unwrap();
}

#[test]
fn port_0_is_any_of_those_granted() {
    let target = TcpTarget::echo();
    let (first, last) = {
        let port = free_port();
        (port, port + 20)
    };
    let server = server(json!({ "allow": [{ "bind": format!("127.0.0.1:{first}-{last}") }] }));
    let list = vec![
        service("a", 0, target.port()),
        service("b", 0, target.port()),
    ];
    let client = client(&server, services(list));
    let (a, b) = (published(&client, "a"), published(&client, "b"));
    assert_ne!(a, b);
    for bound in [a, b] {
        assert!((first..=last).contains(&bound.port()), "{bound}");
        exchange(&mut dial(bound), b"any").unwrap();
    }
}

#[test]
fn target_that_refuses_closes_its_visitor_alone() {
    let target = TcpTarget::echo();
    let server = open_server();
    let list = vec![
        service("nobody", free_port(), free_port()),
        service("echo", free_port(), target.port()),
    ];
    let client = client(&server, services(list));
    let mut stream = dial(published(&client, "nobody"));
    let mut byte = [0];
    let ended = stream.read(&mut byte);
    assert!(matches!(ended, Err(error) if error.kind() == ErrorKind::ConnectionReset));
    eventually("one line says so", || {
        said(&client, &["cannot reach the target"]) == 1
    });
    exchange(&mut dial(published(&client, "echo")), b"fine").unwrap();
}

#[test]
fn second_client_of_a_name_is_refused_unless_both_are_a_group() {
    let (first, second) = (TcpTarget::echo(), TcpTarget::echo());
    let server = open_server();
    let port = free_port();
    let one = client(&server, services(vec![service("echo", port, first.port())]));
    let bound = published(&one, "echo");
    let two = client(
        &server,
        services(vec![service("echo", port, second.port())]),
    );
    eventually("the second is refused", || {
        said(&two, &["the server refused", "another client publishes"]) > 1
    });
    exchange(&mut dial(bound), b"first").unwrap();
    assert_eq!((first.accepted(), second.accepted()), (1, 0));
    // When the first has left, the second takes its place.
    drop(one);
    assert_eq!(published(&two, "echo"), bound);
    exchange(&mut dial(bound), b"second").unwrap();

    let shared = free_port();
    let group = |target: &TcpTarget| {
        let service = with(
            service("pool", shared, target.port()),
            json!({ "group": true }),
        );
        client(&server, services(vec![service]))
    };
    let (three, four) = (group(&first), group(&second));
    let bound = published(&three, "pool");
    assert_eq!(published(&four, "pool"), bound);
    let before = (first.accepted(), second.accepted());
    eventually("both have visitors", || {
        exchange(&mut dial(bound), b"any").unwrap();
        first.accepted() > before.0 && second.accepted() > before.1
    });
    drop(three);
    eventually("the other has all of them", || {
        (0..5).all(|_| serves(bound))
    });
}

#[test]
fn several_links_carry_one_service() {
    let target = TcpTarget::echo();
    let server = open_server();
    let reverse = json!({ "links": 3, "services": [service("echo", free_port(), target.port())] });
    let client = client(&server, reverse);
    let bound = published(&client, "echo");
    eventually("three links", || {
        said(&client, &["reverse: published"]) == 3
    });
    let mut streams: Vec<TcpStream> = (0..30).map(|_| dial(bound)).collect();
    for stream in &mut streams {
        exchange(stream, b"one of three").unwrap();
    }
}

#[test]
fn killed_server_and_killed_client_come_back() {
    let target = TcpTarget::echo();
    let first = open_server();
    let port = free_port();
    let reverse = services(vec![service("echo", port, target.port())]);
    let local = client(&first, reverse.clone());
    let bound = published(&local, "echo");
    let mut visitor = dial(bound);
    exchange(&mut visitor, b"hello").unwrap();
    // A new server at the same address.
    let address = first.address;
    drop(first);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.json");
    let spec = Spec::new(METHOD);
    let config = json!({
        "server": "127.0.0.1", "server_port": address.port(), "method": METHOD, "password": spec.password,
        "reverse": { "heartbeat": 1, "allow": [{ "bind": "127.0.0.1:1-65535" }] },
    });
    std::fs::write(&path, config.to_string()).unwrap();
    let mut command = common::peers::ssr(&["server", "-c", path.to_str().unwrap()]);
    let server = common::process::Process::spawn("server", &mut command).unwrap();
    eventually("the client comes back", || serves(bound));
    assert!(
        visitor.read(&mut [0]).map_or(true, |count| count == 0),
        "the old visitor is gone"
    );
    // The port closes with its client and is back with the next one.
    drop(local);
    eventually("the port closes", || refuses(bound));
    let start = Start::local(Program::Ssr, &spec, address);
    let local = start.with(json!({ "reverse": reverse })).run();
    assert_eq!(published(&local, "echo"), bound);
    exchange(&mut dial(bound), b"again").unwrap();
    drop(server);
}

#[test]
fn silent_client_is_noticed_within_three_heartbeats_and_comes_back() {
    let (server, client, _target, bound) = echo();
    exchange(&mut dial(bound), b"hello").unwrap();
    client.process.signal(Signal::STOP);
    let begun = Instant::now();
    eventually("the port closes", || refuses(bound));
    let took = begun.elapsed();
    assert!(
        took < DEADLINE / 2,
        "three heartbeats of 1 s, noticed after {took:?}"
    );
    eventually("the server says why", || {
        said(&server, &["link lost", "no reply from the client within"]) == 1
    });
    client.process.signal(Signal::CONT);
    eventually("it comes back", || serves(bound));
}

#[test]
fn silent_server_is_noticed_within_three_heartbeats() {
    let (server, client, _target, bound) = echo();
    server.process.signal(Signal::STOP);
    let begun = Instant::now();
    eventually("the client notices", || {
        said(&client, &["link lost", "no reply from the upstream within"]) > 0
    });
    let took = begun.elapsed();
    assert!(
        took < DEADLINE / 2,
        "three heartbeats of 1 s, noticed after {took:?}"
    );
    server.process.signal(Signal::CONT);
    eventually("it comes back", || serves(bound));
}

#[test]
fn stopped_client_lets_http_visitors_finish() {
    let target = TcpTarget::serve(|mut stream| {
        read_head(&mut stream);
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n")
            .unwrap();
        // The rest follows when the visitor has sent more.
        let mut more = [0; 4];
        stream.read_exact(&mut more).unwrap();
        stream.write_all(b"the rest").unwrap();
    });
    let server = open_server();
    let web = json!({
        "name": "web", "bind": format!("127.0.0.1:{}", free_port()), "protocol": "http",
        "host": "a.example", "target": format!("127.0.0.1:{}", target.port()),
    });
    let mut client = client(&server, services(vec![web]));
    let bound = published(&client, "web");
    let mut visitor = dial(bound);
    visitor
        .write_all(b"POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 4\r\n\r\n")
        .unwrap();
    read_head(&mut visitor);
    let mut elsewhere = dial(server.address);
    client.process.signal(Signal::TERM);
    eventually("no new visitors", || refuses(bound));
    // Only this port closes: a handshake at another continues.
    elsewhere
        .set_read_timeout(Some(Duration::from_millis(1500)))
        .unwrap();
    let waits = elsewhere.read(&mut [0]).unwrap_err();
    assert_eq!(waits.kind(), ErrorKind::WouldBlock);
    visitor.write_all(b"more").unwrap();
    let mut rest = [0; 8];
    visitor.read_exact(&mut rest).unwrap();
    assert_eq!(&rest, b"the rest");
    drop(visitor);
    let (status, _) = client.process.wait(Duration::from_secs(5));
    assert!(status.success());
}

#[test]
fn stopped_server_and_client_let_visitors_finish() {
    let (mut server, client, _target, bound) = echo();
    let mut visitor = dial(bound);
    exchange(&mut visitor, b"hello").unwrap();
    server.process.signal(Signal::TERM);
    eventually("no new visitors", || refuses(bound));
    exchange(&mut visitor, b"still here").unwrap();
    drop(visitor);
    let (status, _) = server.process.wait(Duration::from_secs(5));
    assert!(status.success());
    eventually("the client has been told", || {
        said(&client, &["the server is closing the link"]) > 0
    });
}
