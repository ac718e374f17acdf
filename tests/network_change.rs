//! A laptop that changes its network: the link goes down, comes back with another address, and the next request works at
//! once.

use crate::common::{
    DEADLINE, eventually,
    peers::{self, Spec},
    process::{Process, v4},
    socks::{CONNECT, Target, request_bytes},
};
use crate::emulated::{self, Link, Shape};
use serde_json::json;
use std::{
    fs,
    io::{ErrorKind, Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::Path,
    thread,
    time::{Duration, Instant},
};

const METHOD: &str = "2022-blake3-aes-256-gcm";
/// A target behind a link.
pub(crate) const TARGET: SocketAddr =
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(198, 51, 100, 7)), 7000);

/// A connection through `ssr local` that has echoed.
fn open() -> std::io::Result<TcpStream> {
    let mut stream = TcpStream::connect(v4(1080))?;
    stream.set_read_timeout(Some(DEADLINE))?;
    stream.write_all(&[5, 1, 0])?;
    stream.read_exact(&mut [0; 2])?;
    stream.write_all(&request_bytes(CONNECT, &Target::from(TARGET)))?;
    let mut reply = [0; 10];
    stream.read_exact(&mut reply)?;
    echo(&mut stream)?;
    Ok(stream)
}

fn echo(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.write_all(b"hello")?;
    stream.read_exact(&mut [0; 5])
}

/// Asks for an echo. Returns whether it came.
fn echoes() -> bool {
    open().is_ok()
}

/// A laptop, a server with an echo behind a link, and `ssr` at both.
struct Scene {
    link: Link,
    local: Process,
    _server: Process,
    _config: tempfile::TempDir,
}

/// Starts `ssr server` at the far end of the link and `ssr local` at the near one, with the same config.
pub(crate) fn start_both(link: &Link, config: &Path) -> (Process, Process) {
    let start = |role: &str, place: &emulated::Namespace| {
        let mut command = peers::ssr(&[role, "-v", "-c", config.to_str().unwrap()]);
        place.place(&mut command).unwrap();
        let mut process = Process::spawn(&format!("ssr {role}"), &mut command).unwrap();
        process.running().unwrap();
        process
    };
    (start("server", &link.b), start("local", &link.a))
}

/// Serves [`TARGET`] at the far end of the link: `answer` gets what comes, piece by piece.
pub(crate) fn serve_target(link: &Link, answer: fn(&mut TcpStream, &[u8]) -> std::io::Result<()>) {
    link.b
        .ip(&format!("addr add {} dev lo", TARGET.ip()))
        .unwrap();
    let listen = || {
        let listener = TcpListener::bind(TARGET).unwrap();
        thread::spawn(move || {
            for mut stream in listener.incoming().map_while(Result::ok) {
                thread::spawn(move || {
                    let mut room = [0; 64];
                    while let Ok(len @ 1..) = stream.read(&mut room) {
                        let _gone = answer(&mut stream, &room[..len]);
                    }
                });
            }
        });
    };
    link.b.run(listen).unwrap();
}

fn scene() -> Scene {
    let shape = Shape {
        delay: Duration::from_millis(50),
        loss: 0.0,
        rate: 1e8,
        queue: Duration::from_secs(1),
        seed: 1,
    };
    let link = Link::new(shape).expect("root, /dev/net/tun and `ip`");
    serve_target(&link, TcpStream::write_all);
    let (directory, spec) = (tempfile::tempdir().unwrap(), Spec::new(METHOD));
    let path = directory.path().join("config.json");
    let keys = json!({
        "server": emulated::B.to_string(), "server_port": 8388, "method": METHOD, "password": spec.password,
        "local_port": 1080, "warm_connections": 2, "timeouts": {"connect": 5},
    });
    fs::write(&path, keys.to_string()).unwrap();
    let (server, local) = start_both(&link, &path);
    Scene {
        link,
        local,
        _server: server,
        _config: directory,
    }
}

#[test]
#[ignore = "needs root: namespaces and a link between them"]
fn first_request_after_the_link_is_back_takes_less_than_a_second_over_link() {
    let Scene { link, local, .. } = &scene();
    let changes = || local.log().matches("the network has changed").count();
    let request = || link.a.run(echoes).unwrap();
    assert!(request(), "before");
    for (round, address) in ["10.99.0.5", "10.99.0.6", "10.99.0.7"]
        .into_iter()
        .enumerate()
    {
        assert!(request(), "spare connections are there");
        let before = changes();
        link.a.ip("link set link0 down").unwrap();
        eventually("the change is noticed", || changes() > before);
        let begun = Instant::now();
        assert!(!request(), "without a link nothing works");
        assert!(begun.elapsed() < DEADLINE / 2, "{:?}", begun.elapsed());
        link.a.ip("addr flush dev link0").unwrap();
        link.a
            .ip(&format!("addr add {address}/24 dev link0"))
            .unwrap();
        link.a.ip("link set link0 up").unwrap();
        let begun = Instant::now();
        assert!(request(), "round {round}");
        let time = begun.elapsed();
        assert!(time < Duration::from_secs(1), "round {round}: {time:?}");
    }
}

#[test]
#[ignore = "needs root: namespaces and a link between them"]
fn connections_from_an_address_that_is_gone_end_at_once_over_link() {
    let Scene { link, local, .. } = &scene();
    let mut flow = link.a.run(|| open().unwrap()).unwrap();
    // The same address comes back: the connection goes on.
    for command in [
        "link set link0 down",
        "addr flush dev link0",
        "addr add 10.99.0.1/24 dev link0",
        "link set link0 up",
    ] {
        link.a.ip(command).unwrap();
    }
    link.a.ip("route replace default dev link0").unwrap();
    echo(&mut flow).unwrap();
    // Another address comes: no packet reaches the old one any more.
    link.a.ip("addr flush dev link0").unwrap();
    link.a.ip("addr add 10.99.0.9/24 dev link0").unwrap();
    let begun = Instant::now();
    let ended = flow.read(&mut [0; 5]).map_err(|error| error.kind());
    let time = begun.elapsed();
    assert!(
        matches!(ended, Ok(0) | Err(ErrorKind::ConnectionReset)),
        "{ended:?}"
    );
    assert!(time < Duration::from_secs(2), "{time:?}");
    eventually("the log says so", || {
        local
            .log()
            .contains("connections from an address that is gone")
    });
    link.a.ip("route replace default dev link0").unwrap();
    assert!(link.a.run(echoes).unwrap());
}
