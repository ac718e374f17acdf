//! Visitors of reverse tunnels and clients of `forwards`, whom nobody has authenticated: what they can take, and from whom.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    sync::mpsc::{Receiver, channel},
    thread,
    time::Duration,
};

use crate::common::{
    DEADLINE, eventually, is_open, matrix,
    peers::{Half, Program::Ssr, Spec, Start},
    process::{free_port, v4},
    reverse::{self, METHOD, dial, exchange, published, service, services, with},
    seal::Sealing,
    targets::TcpTarget,
};
use serde_json::{Value, json};

/// A server that lets clients publish on loopback.
fn server(limits: Value) -> Half {
    let allow = json!({"heartbeat": 1, "allow": [{"bind": "127.0.0.1:1-65535", "host": "*"}]});
    Start::server(Ssr, &Spec::new(METHOD))
        .with(json!({"reverse": allow, "limits": limits}))
        .run()
}

/// A server, a client that publishes `target` on it, and where.
fn publish(limits: Value, target: &TcpTarget) -> (Half, Half, SocketAddr) {
    let server = server(limits);
    let entry = service("it", free_port(), target.port());
    let client = reverse::client(&server, services(vec![entry]));
    let bound = published(&client, "it");
    (server, client, bound)
}

/// A visitor's exchange, some time after others have come.
fn served(address: SocketAddr) {
    eventually("a visitor is served", || reverse::serves(address));
}

/// What a target has read until the end of each of its connections.
fn target_that_tells() -> (TcpTarget, Receiver<Result<usize, ErrorKind>>) {
    let (ended, ends) = channel();
    let target = TcpTarget::serve(move |mut stream| {
        let mut all = Vec::new();
        let read = stream.read_to_end(&mut all);
        let _told = ended.send(read.map_err(|error| error.kind()));
    });
    (target, ends)
}

#[test]
fn silent_visitors_of_a_tunnel_take_no_place_of_a_user() {
    let echo = TcpTarget::echo();
    let (_server, client, bound) = publish(json!({"connections": 8, "visitors": 8}), &echo);
    let mut silent: Vec<_> = (0..40).map(|_| dial(bound)).collect();
    for _ in 0..3 {
        matrix::echoes(&client.socks(), &echo.v4(), 1000);
        served(bound);
    }
    eventually("the oldest have made room", || {
        silent.retain_mut(is_open);
        silent.len() <= 8
    });
}

#[test]
fn silent_clients_of_a_forward_take_no_place_of_a_user() {
    let (spec, echo) = (Spec::new(METHOD), TcpTarget::echo());
    let far = Start::server(Ssr, &spec).run();
    let port = free_port();
    let forward = json!({"listen": format!("tcp://127.0.0.1:{port}"), "target": format!("tcp://127.0.0.1:{}", echo.port())});
    let local = Start::local(Ssr, &spec, far.address)
        .with(json!({"forwards": [forward], "limits": {"connections": 8, "visitors": 8}}))
        .run();
    let mut silent: Vec<_> = (0..40).map(|_| dial(v4(port))).collect();
    for _ in 0..3 {
        matrix::echoes(&local.socks(), &echo.v4(), 1000);
        served(v4(port));
    }
    eventually("the oldest have made room", || {
        silent.retain_mut(is_open);
        silent.len() <= 8
    });
    let log = local.process.log();
    let said = log.matches("`limits.visitors` is reached").count();
    assert_eq!(said, 1, "{log}");
}

#[test]
fn visitor_that_speaks_stays_among_silent_ones() {
    let echo = TcpTarget::echo();
    let (_server, _client, bound) = publish(json!({"visitors": 8}), &echo);
    let mut speaker = dial(bound);
    exchange(&mut speaker, b"before").unwrap();
    let _silent: Vec<_> = (0..100).map(|_| dial(bound)).collect();
    served(bound);
    exchange(&mut speaker, b"after").unwrap();
}

#[test]
fn visitors_that_have_spoken_make_room_when_they_are_silent() {
    let echo = TcpTarget::echo();
    let (_server, _client, bound) = publish(json!({"visitors": 4}), &echo);
    let mut visitors: Vec<_> = (0..4).map(|_| dial(bound)).collect();
    for visitor in &mut visitors {
        exchange(visitor, b"here").unwrap();
    }
    let begun = std::time::Instant::now();
    let mut last = TcpStream::connect(bound).unwrap();
    last.set_read_timeout(Some(DEADLINE)).unwrap();
    exchange(&mut last, b"and here").unwrap();
    assert!(
        begun.elapsed() > Duration::from_secs(7),
        "who has just spoken is not silent"
    );
    visitors.retain_mut(is_open);
    assert_eq!(visitors.len(), 3);
}

#[test]
fn target_of_a_visitor_that_makes_room_is_closed_at_once() {
    let (target, ends) = target_that_tells();
    let (_server, _client, bound) = publish(json!({"visitors": 2}), &target);
    let first = dial(bound);
    eventually("it has come through", || target.accepted() == 1);
    let _others = [dial(bound), dial(bound)];
    let end = ends.recv_timeout(DEADLINE / 4).unwrap();
    assert_eq!(end, Err(ErrorKind::ConnectionReset));
    drop(first);
}

/// A target that does not care for the end of what it is sent, and waits for bytes to come from `tell`.
fn deaf() -> TcpTarget {
    TcpTarget::serve(|mut stream| {
        let _end = stream.read(&mut [0]);
        thread::park_timeout(DEADLINE * 2);
        drop(stream);
    })
}

#[test]
fn target_of_a_visitor_that_has_left_is_closed_soon() {
    let deaf = deaf();
    let (server, client, bound) = publish(json!({}), &deaf);
    let forward = crate::common::forward::Forwarder::tcp(deaf.port());
    let halves = [&server.process, &client.process, &forward.process];
    let before = halves.map(crate::common::process::Process::files_at_rest);
    let visitors: Vec<_> = (0..20)
        .flat_map(|_| [dial(bound), dial(forward.address)])
        .collect();
    eventually("all have come through", || deaf.accepted() == 40);
    drop(visitors);
    for (half, before) in halves.into_iter().zip(before) {
        eventually("the connections are closed", || half.open_files() <= before);
    }
}

#[test]
fn visitor_that_only_listens_gets_the_whole_answer() {
    let slow = TcpTarget::serve(|mut stream| {
        stream.write_all(b"first").unwrap();
        // Longer than a silent visitor that has ended is waited for.
        thread::sleep(Duration::from_secs(5));
        stream.write_all(b", second").unwrap();
    });
    let (_server, _client, bound) = publish(json!({}), &slow);
    let forward = crate::common::forward::Forwarder::tcp(slow.port());
    let listeners = [bound, forward.address].map(|address| {
        let stream = dial(address);
        stream.shutdown(Shutdown::Write).unwrap();
        stream
    });
    for mut listener in listeners {
        let mut all = String::new();
        listener.read_to_string(&mut all).unwrap();
        assert_eq!(all, "first, second");
    }
}

#[test]
fn visitors_in_their_handshake_push_out_no_user() {
    let spec = Spec::new("aes-256-gcm");
    let allow = json!({"heartbeat": 1, "allow": [{"bind": "127.0.0.1:1-65535", "host": "*"}]});
    let server = Start::server(Ssr, &spec)
        .with(json!({"reverse": allow, "limits": {"handshakes": 4}}))
        .run();
    let echo = TcpTarget::echo();
    let http = with(
        service("web", free_port(), echo.port()),
        json!({"protocol": "http", "host": "web.example"}),
    );
    let client = Start::local(Ssr, &spec, server.address)
        .with(json!({"reverse": services(vec![http]), "warm_connections": 0}))
        .run();
    let bound = published(&client, "web");
    let sealing = Sealing::new(&spec);
    let request = sealing.seal(&sealing.request(&echo.v4(), b"slowly"));
    let (start, rest) = request.split_at(request.len() / 2);
    let mut user = dial(server.address);
    user.write_all(start).unwrap();
    let mut silent: Vec<_> = (0..40).map(|_| dial(bound)).collect();
    eventually("most of them are pushed out", || {
        silent.retain_mut(is_open);
        silent.len() <= 4
    });
    user.write_all(rest).unwrap();
    let mut answer = [0; 32 + 2 + 16 + 6 + 16];
    user.read_exact(&mut answer).unwrap();
    assert_eq!(sealing.open_response(&request[..32], &answer), b"slowly");
}
