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
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

const METHOD: &str = "2022-blake3-aes-256-gcm";
const TARGET: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(198, 51, 100, 7)), 7000);

/// Asks for an echo. Returns whether it came.
fn echoes() -> bool {
    let exchange = || -> std::io::Result<()> {
        let mut stream = TcpStream::connect(v4(1080))?;
        stream.set_read_timeout(Some(DEADLINE))?;
        stream.write_all(&[5, 1, 0])?;
        stream.read_exact(&mut [0; 2])?;
        stream.write_all(&request_bytes(CONNECT, &Target::from(TARGET)))?;
        let mut reply = [0; 10];
        stream.read_exact(&mut reply)?;
        stream.write_all(b"hello")?;
        stream.read_exact(&mut [0; 5])
    };
    exchange().is_ok()
}

#[test]
#[ignore = "needs root: namespaces and a link between them"]
fn first_request_after_the_link_is_back_takes_less_than_a_second_over_link() {
    let shape = Shape {
        delay: Duration::from_millis(50),
        loss: 0.0,
        rate: 1e8,
        queue: Duration::from_secs(1),
        seed: 1,
    };
    let link = Link::new(shape).expect("root, /dev/net/tun and `ip`");
    link.b.ip("addr add 198.51.100.7 dev lo").unwrap();
    let listen = || {
        let listener = TcpListener::bind(TARGET).unwrap();
        thread::spawn(move || {
            for mut stream in listener.incoming().map_while(Result::ok) {
                thread::spawn(move || {
                    let mut room = [0; 64];
                    while let Ok(len @ 1..) = stream.read(&mut room) {
                        let _gone = stream.write_all(&room[..len]);
                    }
                });
            }
        });
    };
    link.b.run(listen).unwrap();
    let (directory, spec) = (tempfile::tempdir().unwrap(), Spec::new(METHOD));
    let path = directory.path().join("config.json");
    let keys = json!({
        "server": emulated::B.to_string(), "server_port": 8388, "method": METHOD, "password": spec.password,
        "local_port": 1080, "warm_connections": 2, "timeouts": {"connect": 5},
    });
    fs::write(&path, keys.to_string()).unwrap();
    let start = |role: &str, place: &emulated::Namespace| {
        let mut command = peers::ssr(&[role, "-v", "-c", path.to_str().unwrap()]);
        place.place(&mut command).unwrap();
        let mut process = Process::spawn(&format!("ssr {role}"), &mut command).unwrap();
        process.running().unwrap();
        process
    };
    let _server = start("server", &link.b);
    let local = start("local", &link.a);
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
