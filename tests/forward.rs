//! Port forwarding: `ssr forward`, and `forwards` in the config of either half.

use crate::common::{
    self, ANSWER, DEADLINE, SILENCE,
    bytes::pattern,
    eventually,
    forward::{self, Forwarder},
    peers::{Program, Spec, Start, ssr},
    process::{Process, free_port, v4},
    targets::TcpTarget,
    udp::UdpTarget,
};
use serde_json::json;
use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, TcpListener, TcpStream, UdpSocket},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

const MIB: usize = 1 << 20;

#[test]
fn one_byte_and_many_arrive_as_they_were_sent() {
    let target = TcpTarget::duplex();
    let forward = Forwarder::tcp(target.port());
    for (up, down) in [(1, 1), (0, 1), (1, 0), (20 * MIB, 1), (1, 20 * MIB)] {
        forward::both_ways(forward.connect(), up, down);
    }
    forward::both_ways(forward.connect(), 20 * MIB, 20 * MIB);
}

/// Bytes that the process has read and written through memory of its own (`/proc/PID/io`).
fn bytes_through_memory(process: &Process) -> usize {
    let text = std::fs::read_to_string(format!("/proc/{}/io", process.id())).unwrap();
    let fields = text.lines().filter_map(|line| {
        line.strip_prefix("rchar: ")
            .or_else(|| line.strip_prefix("wchar: "))
    });
    fields.map(|digits| digits.parse::<usize>().unwrap()).sum()
}

#[test]
fn bulk_does_not_enter_user_space() {
    let target = TcpTarget::duplex();
    let forward = Forwarder::tcp(target.port());
    let before = bytes_through_memory(&forward.process);
    forward::both_ways(forward.connect(), 50 * MIB, 50 * MIB);
    let copied = bytes_through_memory(&forward.process) - before;
    assert!(copied < 4 * MIB, "{copied} bytes of {}", 100 * MIB);
}

#[test]
fn a_name_and_ipv6_are_targets_too() {
    let target = TcpTarget::echo();
    for host in ["localhost", "[::1]"] {
        let url = format!("tcp://{host}:{}", target.port());
        let forward = Forwarder::start("tcp", "", &url, &[]);
        forward::echoes(forward.connect(), b"there");
    }
}

#[test]
fn the_end_of_an_upload_is_not_the_end_of_the_answer() {
    let target = TcpTarget::digest_at_end();
    let forward = Forwarder::tcp(target.port());
    for len in [0, 1, 5 * MIB] {
        forward::answer_after_the_end(forward.connect(), len);
    }
}

#[test]
fn the_end_of_a_download_is_not_the_end_of_the_upload() {
    let (heard, upload) = mpsc::channel();
    let target = TcpTarget::serve(move |mut stream| {
        stream.write_all(b"all I say").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        heard.send(all).unwrap();
    });
    let forward = Forwarder::tcp(target.port());
    let mut stream = forward.connect();
    let mut said = Vec::new();
    stream.read_to_end(&mut said).unwrap();
    assert_eq!(said, b"all I say");
    stream.write_all(&pattern(1, 3 * MIB)).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert!(upload.recv_timeout(DEADLINE).unwrap() == pattern(1, 3 * MIB));
}

#[test]
fn a_server_may_speak_first() {
    let target = TcpTarget::speaks_first();
    forward::server_speaks_first(Forwarder::tcp(target.port()).connect());
}

#[test]
fn two_hundred_clients_at_once_have_a_connection_each() {
    let target = TcpTarget::duplex();
    let forward = Forwarder::tcp(target.port());
    let streams: Vec<TcpStream> = (0..200).map(|_| forward.connect()).collect();
    eventually("200 connections", || target.accepted() == 200);
    let works: Vec<_> = streams
        .into_iter()
        .map(|stream| thread::spawn(|| forward::both_ways(stream, 100_000, 200_000)))
        .collect();
    for work in works {
        work.join().unwrap();
    }
    assert_eq!(target.accepted(), 200);
}

#[test]
fn a_target_that_refuses_costs_the_client_and_a_line_in_the_log() {
    let port = free_port();
    let forward = Forwarder::tcp(port);
    let mut stream = forward.connect();
    let who = stream.local_addr().unwrap();
    let read = stream.read(&mut [0; 1]);
    assert!(
        matches!(&read, Ok(0))
            || read
                .as_ref()
                .is_err_and(|e| e.kind() == ErrorKind::ConnectionReset),
        "{read:?}"
    );
    eventually("a line about it", || {
        forward.process.log().contains("cannot reach")
    });
    let log = forward.process.log();
    let lines: Vec<&str> = log
        .lines()
        .filter(|line| line.contains("cannot reach"))
        .collect();
    assert_eq!(lines.len(), 1, "{log}");
    for part in [
        "WARN",
        "refused",
        &who.to_string(),
        &format!("127.0.0.1:{port}"),
    ] {
        assert!(lines[0].contains(part), "no {part} in {}", lines[0]);
    }
    let late = TcpListener::bind(v4(port)).unwrap();
    let stream = forward.connect();
    let (mut accepted, _) = late.accept().unwrap();
    accepted.write_all(b"x").unwrap();
    let mut got = [0];
    (&stream).read_exact(&mut got).unwrap();
}

#[test]
fn a_target_killed_in_mid_flow_is_a_reset_for_the_client() {
    let target = TcpTarget::serve(|mut stream| {
        forward_until_reset(&mut stream);
    });
    let forward = Forwarder::tcp(target.port());
    let mut stream = forward.connect();
    stream.write_all(b"go").unwrap();
    let mut all = Vec::new();
    let end = stream.read_to_end(&mut all).unwrap_err();
    assert_eq!(end.kind(), ErrorKind::ConnectionReset);
}

/// Sends for a while, then vanishes with a reset.
fn forward_until_reset(stream: &mut TcpStream) {
    stream.read_exact(&mut [0; 2]).unwrap();
    common::targets::write_pattern(stream, 1, 3 * MIB).unwrap();
    socket2::SockRef::from(&*stream)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
}

#[test]
fn a_client_that_resets_is_a_reset_for_the_target() {
    let (ended, end) = mpsc::channel();
    let target = TcpTarget::serve(move |mut stream| {
        let mut all = Vec::new();
        let _told = ended.send(stream.read_to_end(&mut all).map_err(|error| error.kind()));
    });
    let forward = Forwarder::tcp(target.port());
    let mut stream = forward.connect();
    common::targets::write_pattern(&mut stream, 1, MIB).unwrap();
    socket2::SockRef::from(&stream)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    drop(stream);
    assert_eq!(
        end.recv_timeout(DEADLINE).unwrap(),
        Err(ErrorKind::ConnectionReset)
    );
}

#[test]
fn a_client_that_does_not_read_holds_its_target_back_and_nobody_else() {
    let target = TcpTarget::duplex();
    let forward = Forwarder::tcp(target.port());
    let before = forward.process.memory_kib("VmRSS");
    let mut stalled = forward.connect();
    let order = common::targets::Order {
        seed: 1,
        up: 0,
        down: 200 * MIB,
    };
    stalled.write_all(&order.to_bytes()).unwrap();
    for _ in 0..3 {
        forward::both_ways(forward.connect(), MIB, 5 * MIB);
    }
    let grown = forward.process.memory_kib("VmRSS").saturating_sub(before);
    assert!(grown < 8 << 10, "{grown} KiB more");
    let mut got = vec![0; 200 * MIB];
    stalled.read_exact(&mut got).unwrap();
    assert!(got == pattern(1, 200 * MIB));
}

#[test]
fn an_idle_connection_holds_its_two_sockets_and_no_pipe() {
    let target = TcpTarget::duplex();
    let forward = Forwarder::start(
        "tcp",
        "",
        &format!("tcp://127.0.0.1:{}", target.port()),
        &["--single-threaded"],
    );
    let before = forward.process.open_files();
    let count = 100;
    let streams: Vec<TcpStream> = (0..count)
        .map(|_| {
            let stream = forward.connect();
            forward::both_ways(stream.try_clone().unwrap(), MIB, MIB);
            stream
        })
        .collect();
    // A worker keeps a few pipes for all.
    let spare = 2 * 16;
    eventually("sockets and a few pipes", || {
        forward.process.open_files() <= before + 2 * count + spare
    });
    drop(streams);
    eventually("a few pipes", || {
        forward.process.open_files() <= before + spare
    });
}

#[test]
fn a_silent_connection_ends_and_a_busy_one_does_not() {
    let target = TcpTarget::echo();
    let url = format!("tcp://127.0.0.1:{}", target.port());
    let forward = Forwarder::start("tcp", "", &url, &["--timeout", "3"]);
    let busy = forward.connect();
    let mut silent = forward.connect();
    let begun = Instant::now();
    silent.write_all(b"x").unwrap();
    silent.read_exact(&mut [0]).unwrap();
    let watch = thread::spawn(move || silent.read(&mut [0]).map(|_| begun.elapsed()));
    while begun.elapsed() < Duration::from_secs(6) {
        forward::echoes(busy.try_clone().unwrap(), b"still here");
        thread::sleep(Duration::from_millis(100));
    }
    let silence = watch.join().unwrap().unwrap();
    assert!(
        silence >= Duration::from_millis(2900) && silence < DEADLINE,
        "{silence:?}"
    );
}

#[test]
fn a_signal_lets_connections_end_and_takes_no_new_ones() {
    let target = TcpTarget::echo();
    let mut forward = Forwarder::tcp(target.port());
    let stream = forward.connect();
    forward::echoes(stream.try_clone().unwrap(), b"before");
    forward.process.signal(rustix::process::Signal::TERM);
    eventually("the port is closed", || {
        TcpStream::connect(forward.address).is_err()
    });
    forward::echoes(stream.try_clone().unwrap(), b"after");
    drop(stream);
    let (status, log) = forward.process.wait(DEADLINE);
    assert!(status.success(), "{log}");
}

fn udp_client(forward: &Forwarder) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    // Connected: an answer from any other address would not be seen.
    socket.connect(forward.address).unwrap();
    socket.set_read_timeout(Some(ANSWER)).unwrap();
    socket
}

fn udp_echoes(socket: &UdpSocket, data: &[u8]) {
    socket.send(data).unwrap();
    let mut buf = vec![0; 65_536];
    let len = socket.recv(&mut buf).unwrap();
    assert!(&buf[..len] == data);
}

#[test]
fn datagrams_come_back_to_whom_they_belong() {
    let target = UdpTarget::echo();
    for host in ["127.0.0.1", "localhost"] {
        let port = target.address().port();
        let forward = Forwarder::start("udp", "", &format!("udp://{host}:{port}"), &[]);
        let clients = [udp_client(&forward), udp_client(&forward)];
        for round in 0..3 {
            for (seed, (client, size)) in clients.iter().zip([1, 1400]).enumerate() {
                udp_echoes(client, &pattern(seed as u64 + 10 * round, size));
            }
        }
        udp_echoes(&clients[0], &pattern(5, 60_000));
        udp_echoes(&clients[0], b"");
        let seen = target.seen();
        let ours: std::collections::HashSet<_> =
            seen.iter().rev().take(8).map(|(from, _)| *from).collect();
        assert_eq!(ours.len(), 2, "an upstream socket for each client");
    }
}

#[test]
fn strangers_cannot_answer_for_the_target() {
    let target = UdpTarget::answers_from_elsewhere();
    let port = target.address().port();
    let forward = Forwarder::start("udp", "", &format!("udp://127.0.0.1:{port}"), &[]);
    let client = udp_client(&forward);
    client.set_read_timeout(Some(SILENCE)).unwrap();
    client.send(b"who are you").unwrap();
    eventually("the target is asked", || target.saw(b"who are you"));
    assert!(client.recv(&mut [0; 64]).is_err());
}

#[test]
fn a_datagram_target_that_is_not_there_yet_ends_nothing() {
    let port = free_port();
    let forward = Forwarder::start("udp", "", &format!("udp://127.0.0.1:{port}"), &[]);
    let client = udp_client(&forward);
    for _ in 0..5 {
        client.send(b"anybody?").unwrap();
        thread::sleep(Duration::from_millis(20));
    }
    let target = UdpSocket::bind(v4(port)).unwrap();
    target.set_read_timeout(Some(ANSWER)).unwrap();
    client.send(b"now").unwrap();
    let mut buf = [0; 64];
    let from = loop {
        // One of those before may have been on its way still.
        let (len, from) = target.recv_from(&mut buf).unwrap();
        if &buf[..len] == b"now" {
            break from;
        }
        assert_eq!(&buf[..len], b"anybody?");
    };
    target.send_to(b"yes", from).unwrap();
    let len = client.recv(&mut buf).unwrap();
    assert_eq!(&buf[..len], b"yes");
}

#[test]
fn both_halves_run_the_forwards_of_their_config() {
    let (tcp, udp) = (TcpTarget::echo(), UdpTarget::echo());
    let udp_at = udp.address();
    let spec = Spec::new("aes-128-gcm");
    let ports = [free_port(), free_port()];
    let with = |port: u16| {
        json!({"forwards": [
            {"listen": format!("tcp://127.0.0.1:{port}"), "target": {"url": format!("tcp://localhost:{}", tcp.port())}},
            {"listen": format!("udp://127.0.0.1:{port}"), "target": format!("udp://{udp_at}")},
            {"disabled": true, "listen": "nowhere"},
        ]})
    };
    let server = Start::server(Program::Ssr, &spec)
        .with(with(ports[0]))
        .run();
    let local = Start::local(Program::Ssr, &spec, server.address)
        .with(with(ports[1]))
        .run();
    for port in ports {
        forward::echoes(forward::connect(v4(port)), b"carried");
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(v4(port)).unwrap();
        socket.set_read_timeout(Some(ANSWER)).unwrap();
        udp_echoes(&socket, b"carried");
    }
    // And their other service goes on.
    common::matrix::echoes(&local.socks(), &tcp.v4(), 5000);
}

#[test]
fn a_file_with_nothing_but_forwards_is_run_by_forward_and_told_of_by_check() {
    let target = TcpTarget::echo();
    let port = free_port();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.json");
    let text = format!(
        r#"{{"forwards": [{{"listen": "tcp://127.0.0.1:{port}", "target": "tcp://127.0.0.1:{}"}}]}}"#,
        target.port()
    );
    std::fs::write(&file, text).unwrap();
    let check = ssr(&["check", "-c", file.to_str().unwrap()])
        .output()
        .unwrap();
    let said = String::from_utf8(check.stdout).unwrap();
    assert!(
        check.status.success(),
        "{said}{}",
        String::from_utf8_lossy(&check.stderr)
    );
    let line = format!(
        "forward     tcp://127.0.0.1:{port} -> tcp://127.0.0.1:{}",
        target.port()
    );
    assert!(said.contains(&line), "{said}");
    assert!(
        said.contains("ssr server: cannot run with this file"),
        "{said}"
    );
    let mut process = Process::spawn(
        "ssr forward",
        &mut ssr(&["forward", "-c", file.to_str().unwrap()]),
    )
    .unwrap();
    process.running().unwrap();
    forward::echoes(forward::connect(v4(port)), b"carried");
    let server = ssr(&["server", "-c", file.to_str().unwrap()])
        .output()
        .unwrap();
    let said = String::from_utf8(server.stderr).unwrap();
    assert_eq!(server.status.code(), Some(78));
    assert!(said.contains("ssr forward -c FILE"), "{said}");
}

#[test]
fn several_pairs_run_in_one_process() {
    let targets = [TcpTarget::echo(), TcpTarget::echo()];
    let ports = [free_port(), free_port()];
    let mut command = ssr(&["forward"]);
    for (port, target) in ports.iter().zip(&targets) {
        command.arg(format!("tcp://127.0.0.1:{port}"));
        command.arg(format!("tcp://127.0.0.1:{}", target.port()));
    }
    let mut process = Process::spawn("ssr forward", &mut command).unwrap();
    process.running().unwrap();
    for (port, target) in ports.iter().zip(&targets) {
        forward::echoes(forward::connect(v4(*port)), b"carried");
        assert_eq!(target.accepted(), 1);
    }
}

#[test]
fn a_wrong_url_is_told_by_part_and_with_a_hint() {
    for (arguments, status, parts) in [
        (
            vec!["tcp://127.0.0.1:1"],
            64,
            ["LISTEN has no TARGET", "pairs"],
        ),
        (vec![], 64, ["nothing to forward", "-c FILE"]),
        (
            vec!["127.0.0.1:80", "tcp://a:1"],
            78,
            ["LISTEN: the URL has no scheme", "`tcp://`"],
        ),
        (
            vec!["tcp://127.0.0.1:0", "tcp://a"],
            78,
            ["TARGET: the URL has no port", "tcp://a:PORT"],
        ),
        (
            vec!["tcp://127.0.0.1:0", "ftp://a:1"],
            78,
            ["TARGET: unknown scheme `ftp`", "`ws`"],
        ),
        (
            vec!["tcp://127.0.0.1:0", "udp://a:1"],
            78,
            ["TARGET: cannot forward `tcp` to `udp`", "forwarded to"],
        ),
        (
            vec!["tcp://127.0.0.1:0", "tcp://0.0.0.0:1"],
            78,
            ["TARGET: 0.0.0.0 is an address to listen on", "127.0.0.1"],
        ),
        (
            vec!["tcp://127.0.0.1:0", "tcp://a:1?host=x"],
            78,
            ["TARGET: a `tcp` URL has no option `host`", "remove it"],
        ),
    ] {
        let output = ssr(&["forward"]).args(&arguments).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(status), "{arguments:?}: {said}");
        for part in parts {
            assert!(said.contains(part), "no {part:?} in {said}");
        }
    }
}

#[test]
fn a_port_that_is_taken_is_an_error_with_its_address() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = format!("tcp://{}", taken.local_addr().unwrap());
    let output = ssr(&["forward", &listen, "tcp://127.0.0.1:9"])
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(69), "{said}");
    assert!(
        said.contains("in use") && said.contains(&taken.local_addr().unwrap().to_string()),
        "{said}"
    );
}
