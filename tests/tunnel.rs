//! `protocol: tunnel`: a port whose clients all reach one target through the server.

use crate::common::{
    ANSWER, DEADLINE, SILENCE,
    bytes::pattern,
    peers::{Half, Pair, Program, Role, Spec, Start, ssr},
    process::{Process, free_port},
    targets::TcpTarget,
    udp::UdpTarget,
};
use serde_json::{Value, json};
use std::{
    io::{Read, Write},
    net::{Shutdown, TcpStream, UdpSocket},
    process::Command,
};

const METHOD: &str = "2022-blake3-aes-256-gcm";

/// A server of `program`, and a tunnel through it to `host` and `port`.
fn tunnel(program: Program, spec: &Spec, host: &str, port: u16) -> Pair {
    let local = json!({"locals": [{
        "protocol": "tunnel", "local_address": "127.0.0.1", "forward_address": host, "forward_port": port,
    }]});
    Pair::with(Start::server(program, spec), |at| {
        Start::local(Program::Ssr, spec, at).with(local)
    })
}

fn client(of: &Half) -> UdpSocket {
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.connect(of.address).unwrap();
    client.set_read_timeout(Some(ANSWER)).unwrap();
    client
}

fn echoes_stream(local: &Half, len: usize) {
    let mut stream = TcpStream::connect(local.address).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let sent = pattern(7, len);
    stream.write_all(&sent).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut back = Vec::new();
    stream.read_to_end(&mut back).unwrap();
    assert!(back == sent, "{} of {len} bytes came back", back.len());
}

fn echoes_datagrams(local: &Half, lengths: &[usize]) {
    let client = client(local);
    for &len in lengths {
        let sent = pattern(len as u64, len);
        client.send(&sent).unwrap();
        let mut back = vec![0; 65_536];
        let got = client.recv(&mut back).unwrap();
        assert!(back[..got] == sent, "{got} of {len} bytes came back");
    }
}

#[test]
fn tcp_reaches_the_target_by_address_and_by_name() {
    let (target, spec) = (TcpTarget::echo(), Spec::new(METHOD));
    for host in ["127.0.0.1", "::1", "localhost"] {
        let pair = tunnel(Program::Ssr, &spec, host, target.port());
        echoes_stream(&pair.local, 1);
        echoes_stream(&pair.local, 1 << 20);
    }
    assert_eq!(target.accepted(), 6);
}

#[test]
fn udp_reaches_the_target_through_every_kind_of_server() {
    for (program, method) in [
        (Program::Ssr, METHOD),
        (Program::Ssr, "aes-128-gcm"),
        (Program::Ssr, "none"),
        (Program::Libev, "aes-256-gcm"),
    ] {
        let target = UdpTarget::echo();
        let spec = Spec::new(method);
        // shadowsocks-libev drops what is longer than an Ethernet frame.
        let lengths: &[usize] = match program {
            Program::Libev => &[1, 1200],
            _ => &[1, 0, 1200, 1400, 30_000],
        };
        for host in ["127.0.0.1", "localhost"] {
            let pair = tunnel(program, &spec, host, target.address().port());
            echoes_datagrams(&pair.local, lengths);
        }
        // Whoever looks at the server alone: nothing went to the target from elsewhere.
        assert!(!target.seen().is_empty());
    }
}

#[test]
fn clients_of_a_udp_tunnel_do_not_get_each_others_answers() {
    let target = UdpTarget::echo();
    let pair = tunnel(
        Program::Ssr,
        &Spec::new(METHOD),
        "127.0.0.1",
        target.address().port(),
    );
    let clients: Vec<UdpSocket> = (0..20).map(|_| client(&pair.local)).collect();
    for (number, client) in (0_u8..).zip(&clients) {
        client.send(&[number; 9]).unwrap();
    }
    for (number, client) in (0_u8..).zip(&clients) {
        let mut back = [0; 16];
        assert_eq!(client.recv(&mut back).unwrap(), 9);
        assert_eq!(back[..9], [number; 9]);
        client.set_read_timeout(Some(SILENCE)).unwrap();
        assert!(client.recv(&mut back).is_err());
    }
}

#[test]
fn dig_asks_a_name_server_through_the_tunnel() {
    // A name server that knows one answer: the question, with the answer bit and a refusal, is enough for dig.
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = socket.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let mut buf = [0; 512];
        while let Ok((len, from)) = socket.recv_from(&mut buf) {
            buf[2] |= 0x80;
            buf[3] = 5;
            let _gone = socket.send_to(&buf[..len], from);
        }
    });
    let pair = tunnel(Program::Ssr, &Spec::new(METHOD), "127.0.0.1", port);
    let at = pair.local.address.port().to_string();
    let output = Command::new("dig")
        .args(["@127.0.0.1", "-p", &at, "+tries=1", "+time=5", "a.example"])
        .output()
        .unwrap();
    let answer = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(answer.contains("status: REFUSED"), "{answer}");
}

#[test]
fn the_clients_of_a_dead_target_are_closed_and_the_log_says_why() {
    let dead = free_port();
    let pair = tunnel(Program::Ssr, &Spec::new(METHOD), "127.0.0.1", dead);
    let mut stream = TcpStream::connect(pair.local.address).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let _sent = stream.write_all(b"anybody there?");
    assert!(!matches!(stream.read(&mut [0]), Ok(1..)));
}

#[test]
fn a_tunnel_without_a_target_does_not_start() {
    for (entry, complaint) in [
        (json!({}), "locals[0].forward_address: missing"),
        (
            json!({"forward_address": "a.example"}),
            "locals[0].forward_port: missing",
        ),
        (
            json!({"forward_address": "a.example", "forward_port": 0}),
            "port 0 cannot be connected to",
        ),
        (
            json!({"forward_address": "a.example:5", "forward_port": 53}),
            "has a port of its own",
        ),
        (
            json!({"forward_address": "http://a.example", "forward_port": 53}),
            "a URL is not an address",
        ),
    ] {
        let mut entry: Value = entry;
        entry["protocol"] = json!("tunnel");
        let config =
            json!({"server": "192.0.2.1", "server_port": 1, "method": "none", "locals": [entry]});
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        std::fs::write(&path, config.to_string()).unwrap();
        let mut command = Program::Ssr.command(Role::Local, &path);
        let mut process = Process::spawn("ssr", &mut command).unwrap();
        let (status, log) = process.wait(DEADLINE);
        assert_eq!(status.code(), Some(78), "{log}");
        assert!(log.contains(complaint), "{log}");
        let checked = ssr(&["check", "-c", path.to_str().unwrap()])
            .output()
            .unwrap();
        assert!(!checked.status.success());
    }
}
