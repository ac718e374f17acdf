//! A server and clients that publish something through it.

use super::{
    DEADLINE, eventually,
    peers::{Half, Program, Spec, Start},
    process::free_port,
    targets::TcpTarget,
};
use serde_json::{Value, json};
use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

pub const METHOD: &str = "2022-blake3-aes-256-gcm";

pub fn server(reverse: Value) -> Half {
    server_by(METHOD, reverse)
}

pub fn server_by(method: &str, reverse: Value) -> Half {
    let start = Start::server(Program::Ssr, &Spec::new(method));
    start.with(json!({ "reverse": reverse })).run()
}

pub fn client(server: &Half, reverse: Value) -> Half {
    client_by(METHOD, server, reverse)
}

fn client_by(method: &str, server: &Half, reverse: Value) -> Half {
    let start = Start::local(Program::Ssr, &Spec::new(method), server.address);
    start.with(json!({ "reverse": reverse })).run()
}

/// Everything on loopback, with a heartbeat that tests can wait for.
pub fn open_server() -> Half {
    server(everything())
}

fn everything() -> Value {
    json!({ "heartbeat": 1, "allow": [{ "bind": "127.0.0.1:1-65535", "host": "*" }] })
}

/// A service towards a target on 127.0.0.1.
pub fn service(name: &str, port: u16, target: u16) -> Value {
    json!({ "name": name, "bind": format!("127.0.0.1:{port}"), "target": format!("127.0.0.1:{target}") })
}

/// The same with other keys over it.
pub fn with(mut service: Value, keys: Value) -> Value {
    for (key, value) in keys.as_object().unwrap() {
        service[key] = value.clone();
    }
    service
}

pub fn services(list: Vec<Value>) -> Value {
    json!({ "heartbeat": 1, "services": list })
}

/// How often a line of the log has all of `words`.
pub fn said(half: &Half, words: &[&str]) -> usize {
    let log = half.process.log();
    let fits = |line: &&str| words.iter().all(|word| line.contains(word));
    log.lines().filter(fits).count()
}

/// Waits until the client has been told that `name` is published, and returns where.
pub fn published(client: &Half, name: &str) -> SocketAddr {
    let quoted = format!("name=\"{name}\"");
    let words = ["reverse: published", quoted.as_str(), "bound="];
    eventually("the service is published", || said(client, &words) > 0);
    let log = client.process.log();
    let mut lines = log.lines().rev();
    let line = lines
        .find(|line| words.iter().all(|word| line.contains(word)))
        .unwrap();
    let bound = line.split("bound=").nth(1).unwrap();
    bound.split_whitespace().next().unwrap().parse().unwrap()
}

pub fn dial(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect_timeout(&address, DEADLINE).expect("a visitor connects");
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.set_write_timeout(Some(DEADLINE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

pub fn exchange(stream: &mut TcpStream, bytes: &[u8]) -> std::io::Result<()> {
    stream.write_all(bytes)?;
    let mut back = vec![0; bytes.len()];
    stream.read_exact(&mut back)?;
    assert_eq!(back, bytes);
    Ok(())
}

/// Whether a visitor is served, for conditions that are waited for.
pub fn serves(address: SocketAddr) -> bool {
    let Ok(mut stream) = TcpStream::connect_timeout(&address, Duration::from_secs(1)) else {
        return false;
    };
    stream
        .set_read_timeout(Some(Duration::from_secs(1)))
        .unwrap();
    exchange(&mut stream, b"there?").is_ok()
}

pub fn refuses(address: SocketAddr) -> bool {
    TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_err()
}

/// A server, a client that publishes an echo at a public port, and that port.
pub fn echo() -> (Half, Half, TcpTarget, SocketAddr) {
    echo_by(METHOD)
}

/// The same under another method.
pub fn echo_by(method: &str) -> (Half, Half, TcpTarget, SocketAddr) {
    let target = TcpTarget::echo();
    let server = server_by(method, everything());
    let client = client_by(
        method,
        &server,
        services(vec![service("echo", free_port(), target.port())]),
    );
    let bound = published(&client, "echo");
    (server, client, target, bound)
}
