//! Forwards with programs that are not ours at their ends and between them: `websockets`, curl, iperf3, nginx.

use crate::common::{
    self,
    bytes::pattern,
    eventually,
    forward::{self, Forwarder},
    nginx::Cdn,
    process::{Process, free_port, v4},
    targets::TcpTarget,
};
use std::{net::TcpStream, process::Command};

const MIB: usize = 1 << 20;

/// The Python that has `websockets`; scripts/peers-python makes it.
fn python(script: &str, arguments: &[&str]) -> Command {
    let program = std::env::var_os("SSR_PEER_PYTHON").unwrap_or_else(|| {
        concat!(env!("CARGO_MANIFEST_DIR"), "/target/peers/venv/bin/python").into()
    });
    let mut command = Command::new(program);
    command.args(["-c", script]).args(arguments);
    command
}

/// Echoes what comes, cut anew; text frames and fragments among it. Argument: port.
const ECHO_SERVER: &str = r#"
import asyncio, sys, websockets
async def echo(ws):
    async for message in ws:
        if isinstance(message, str): message = message.encode()
        half = len(message) // 2
        await ws.send([message[:half], message[half:]])
async def main():
    async with websockets.serve(echo, "127.0.0.1", int(sys.argv[1]), max_size=None):
        print("serving", flush=True)
        await asyncio.get_running_loop().create_future()
asyncio.run(main())
"#;

/// Sends text, fragments and much, with pings among them, and wants it all back. Argument: URL.
const ECHO_CLIENT: &str = r#"
import asyncio, hashlib, sys, websockets
async def main():
    async with websockets.connect(sys.argv[1], max_size=None, proxy=None) as ws:
        parts = ["from a websocket", [b"one", b"two", b""], bytes(range(256)) * 4096]
        want = b"from a websocketonetwo" + parts[2]
        got = b""
        async def read():
            nonlocal got
            while len(got) < len(want):
                got += await ws.recv()
        reading = asyncio.create_task(read())
        for part in parts:
            await ws.send(part)
            await (await ws.ping())
        await asyncio.wait_for(reading, 15)
        assert hashlib.sha256(got).digest() == hashlib.sha256(want).digest()
    assert ws.close_code == 1000, ws.close_code
    print("all came back")
asyncio.run(main())
"#;

fn succeeds(mut command: Command) -> String {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}; scripts/test installs it"));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}{errors}");
    said
}

#[test]
#[ignore = "needs peers: scripts/test"]
fn tcp_reaches_a_server_of_websockets() {
    let port = free_port();
    let mut server =
        Process::spawn("websockets", &mut python(ECHO_SERVER, &[&port.to_string()])).unwrap();
    eventually("the server serves", || server.log().contains("serving"));
    assert!(server.exited().is_none());
    let forward = Forwarder::start("tcp", "", &format!("ws://127.0.0.1:{port}/any"), &[]);
    for len in [1, 1000, MIB] {
        let mut stream = forward.connect();
        let mut writing = stream.try_clone().unwrap();
        let sent = pattern(1, len);
        let copy = sent.clone();
        let upload = std::thread::spawn(move || {
            std::io::Write::write_all(&mut writing, &copy).unwrap();
        });
        let mut got = vec![0; len];
        std::io::Read::read_exact(&mut stream, &mut got).unwrap();
        upload.join().unwrap();
        assert!(got == sent, "{len} bytes");
    }
}

#[test]
#[ignore = "needs peers: scripts/test"]
fn a_client_of_websockets_reaches_tcp() {
    let target = TcpTarget::echo();
    let url = format!("tcp://127.0.0.1:{}", target.port());
    let forward = Forwarder::start("ws", "/here", &url, &[]);
    let said = succeeds(python(
        ECHO_CLIENT,
        &[&format!("ws://{}/here", forward.address)],
    ));
    assert!(said.contains("all came back"), "{said}");
}

#[test]
#[ignore = "needs peers: scripts/test"]
fn wrong_frames_are_answered_as_by_websockets() {
    let target = TcpTarget::echo();
    let url = format!("tcp://127.0.0.1:{}", target.port());
    let forward = Forwarder::start("ws", "/here", &url, &[]);
    let port = forward.address.port().to_string();
    let said = succeeds(python(
        include_str!("common/ws_cases.py"),
        &[&port, "/here"],
    ));
    assert!(said.contains("31 cases, 0 differ"), "{said}");
}

#[test]
#[ignore = "needs peers: scripts/test"]
fn two_in_a_row_pass_nginx() {
    let chain = |target: u16| {
        let far = Forwarder::start("ws", "/tunnel", &format!("tcp://127.0.0.1:{target}"), &[]);
        let comes_from = "proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;";
        let cdn = Cdn::before(far.address, "/tunnel", None, comes_from);
        let near = Forwarder::start("tcp", "", &format!("ws://{}/tunnel", cdn.address), &[]);
        (near, cdn, far)
    };
    let duplex = TcpTarget::duplex();
    let (near, ..) = &chain(duplex.port());
    for (up, down) in [(1, 1), (20 * MIB, 1), (1, 20 * MIB), (5 * MIB, 5 * MIB)] {
        forward::both_ways(near.connect(), up, down);
    }
    let works: Vec<_> = (0..50)
        .map(|_| {
            let stream: TcpStream = near.connect();
            std::thread::spawn(|| forward::both_ways(stream, 50_000, 100_000))
        })
        .collect();
    for work in works {
        work.join().unwrap();
    }
    let digest = TcpTarget::digest_at_end();
    let (near, ..) = &chain(digest.port());
    forward::answer_after_the_end(near.connect(), 3 * MIB);
    let banner = TcpTarget::speaks_first();
    let (near, ..) = &chain(banner.port());
    forward::server_speaks_first(near.connect());
}

#[test]
#[ignore = "needs peers: scripts/test"]
fn curl_fetches_through_every_kind() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("page"), pattern(1, 3 * MIB)).unwrap();
    let port = free_port();
    let mut command = Command::new("python3");
    command.args(["-m", "http.server", "--bind", "127.0.0.1"]);
    command.arg(port.to_string()).current_dir(dir.path());
    let mut web = Process::spawn("http.server", &mut command).unwrap();
    web.listening(&[v4(port)]).unwrap();
    let plain = Forwarder::tcp(port);
    let far = Forwarder::start("ws", "/w", &format!("tcp://127.0.0.1:{port}"), &[]);
    let near = Forwarder::start("tcp", "", &format!("ws://{}/w", far.address), &[]);
    for address in [plain.address, near.address] {
        let got = dir.path().join("got");
        let mut curl = Command::new("curl");
        curl.args([
            "--silent",
            "--show-error",
            "--fail",
            "--max-time",
            "20",
            "-o",
        ]);
        curl.arg(&got).arg(format!("http://{address}/page"));
        succeeds(curl);
        assert!(std::fs::read(&got).unwrap() == pattern(1, 3 * MIB));
    }
    let mut curl = Command::new("curl");
    curl.args([
        "--silent",
        "--max-time",
        "20",
        "-o",
        "/dev/null",
        "-w",
        "%{http_code}",
    ]);
    curl.arg(format!("http://{}/other", far.address));
    assert_eq!(succeeds(curl), "404");
}

#[test]
#[ignore = "needs peers: scripts/test"]
fn iperf3_runs_both_ways_over_tcp_websocket_and_udp() {
    let port = free_port();
    let mut command = Command::new("iperf3");
    command.args([
        "--server",
        "--bind",
        "127.0.0.1",
        "--port",
        &port.to_string(),
    ]);
    let mut server = Process::spawn("iperf3", &mut command).unwrap();
    server.listening(&[v4(port)]).unwrap();
    let plain = Forwarder::tcp(port);
    let far = Forwarder::start("ws", "/w", &format!("tcp://127.0.0.1:{port}"), &[]);
    let near = Forwarder::start("tcp", "", &format!("ws://{}/w", far.address), &[]);
    for address in [plain.address, near.address] {
        for way in [&["--parallel", "4"][..], &["--reverse"]] {
            measured(address, way);
        }
    }
    // Its control connection is TCP, its datagrams go to the same port.
    let both = free_port();
    let mut command = common::peers::ssr(&["forward"]);
    for scheme in ["tcp", "udp"] {
        command.arg(format!("{scheme}://127.0.0.1:{both}"));
        command.arg(format!("{scheme}://127.0.0.1:{port}"));
    }
    let mut process = Process::spawn("ssr forward", &mut command).unwrap();
    process.running().unwrap();
    for way in [
        &["--udp", "--bitrate", "20M"][..],
        &["--udp", "--bitrate", "20M", "--reverse"],
    ] {
        measured(v4(both), way);
    }
}

/// Runs iperf3 for a second and wants that it has moved a megabyte.
fn measured(address: std::net::SocketAddr, way: &[&str]) {
    // The server takes one test after the other, and needs a moment between them.
    let mut last = String::new();
    for _ in 0..20 {
        let mut client = Command::new("iperf3");
        client.args(["--client", "127.0.0.1", "--time", "1", "--json", "--port"]);
        client.arg(address.port().to_string()).args(way);
        let output = client.output().unwrap();
        let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let end = &said["end"];
        let sum = ["sum_received", "sum"].map(|key| end[key]["bytes"].as_u64().unwrap_or(0));
        if sum.iter().any(|bytes| *bytes > 1_000_000) {
            return;
        }
        last = said["error"].to_string();
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
    panic!("iperf3 {way:?}: {last}");
}
