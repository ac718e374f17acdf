//! Forwards from TCP to QUIC and back.

use crate::common::{
    DEADLINE, eventually,
    forward::{self, Forwarder},
    identity::{Identity, NAME},
    targets::TcpTarget,
};
use crate::quic::{reactor, stranger};
use std::{
    io::Read,
    net::{Shutdown, SocketAddr, TcpStream},
};

const MIB: usize = 1 << 20;

/// TCP to QUIC, and QUIC to TCP.
struct Chain {
    near: Forwarder,
    far: Forwarder,
    _identity: Identity,
}

fn file(identity: &Identity, name: &str) -> String {
    identity.file(name).as_str().unwrap().to_owned()
}

fn far(identity: &Identity, target: u16, flags: &[&str]) -> Forwarder {
    let (cert, key) = (file(identity, "cert.pem"), file(identity, "key.pem"));
    let rest = format!("?cert={cert}&key={key}&alpn=mine");
    Forwarder::start("quic", &rest, &format!("tcp://127.0.0.1:{target}"), flags)
}

fn near(identity: &Identity, far: SocketAddr) -> Forwarder {
    let ca = file(identity, "ca.pem");
    let target = format!("quic://{far}?ca={ca}&server_name={NAME}&alpn=mine");
    Forwarder::start("tcp", "", &target, &[])
}

impl Chain {
    fn new(target: u16) -> Self {
        let identity = Identity::new();
        let far = far(&identity, target, &[]);
        Self {
            near: near(&identity, far.address),
            far,
            _identity: identity,
        }
    }
}

#[test]
fn two_in_a_row_over_quic_carry_what_a_wire_does() {
    let duplex = TcpTarget::duplex();
    let both = Chain::new(duplex.port());
    for (up, down) in [(1, 1), (3 * MIB, 1), (1, 3 * MIB), (5 * MIB, 5 * MIB)] {
        forward::both_ways(both.near.connect(), up, down);
    }
    let works: Vec<_> = (0..30)
        .map(|_| {
            let stream = both.near.connect();
            std::thread::spawn(|| forward::both_ways(stream, 100_000, 200_000))
        })
        .collect();
    for work in works {
        work.join().unwrap();
    }
    let digest = TcpTarget::digest_at_end();
    let both = Chain::new(digest.port());
    for len in [0, 1, 3 * MIB] {
        forward::answer_after_the_end(both.near.connect(), len);
    }
    let banner = TcpTarget::speaks_first();
    forward::server_speaks_first(Chain::new(banner.port()).near.connect());
}

#[test]
fn client_over_quic_learns_that_the_target_refuses_or_has_gone() {
    let chain = Chain::new(crate::common::process::free_port());
    let mut refused = chain.near.connect();
    assert!(!matches!(refused.read(&mut [0]), Ok(1..)));
    eventually("the log says why", || {
        chain.far.process.log().contains("cannot reach the target")
    });
    let target = TcpTarget::serve(|mut stream| {
        // Until its client has gone.
        let _ = std::io::copy(&mut stream, &mut std::io::sink());
    });
    let chain = Chain::new(target.port());
    let stream = chain.near.connect();
    eventually("it is there", || target.accepted() == 1);
    stream.shutdown(Shutdown::Both).unwrap();
    drop(stream);
    forward::both_ways(Chain::new(TcpTarget::duplex().port()).near.connect(), 1, 1);
}

#[test]
fn certificate_of_another_is_refused_over_quic() {
    let target = TcpTarget::echo();
    let (own, other) = (Identity::new(), Identity::new());
    let far = far(&own, target.port(), &[]);
    let near = near(&other, far.address);
    let mut stream = near.connect();
    assert!(!matches!(stream.read(&mut [0]), Ok(1..)));
    eventually("the log says why", || {
        near.process
            .log()
            .contains("the TLS handshake with proxy.example failed")
    });
    assert_eq!(target.accepted(), 0);
}

#[test]
fn connections_without_streams_and_streams_without_a_beginning_are_bounded() {
    let target = TcpTarget::echo();
    let identity = Identity::new();
    let (cert, key) = (file(&identity, "cert.pem"), file(&identity, "key.pem"));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.json");
    let limits = serde_json::json!({"limits": {"handshakes": 8}, "timeouts": {"handshake": 60}});
    std::fs::write(&path, limits.to_string()).unwrap();
    let flags = ["-c", path.to_str().unwrap()];
    let rest = format!("?cert={cert}&key={key}");
    let url = format!("tcp://127.0.0.1:{}", target.port());
    let far = Forwarder::start("quic", &rest, &url, &flags);
    let reactor = reactor();
    let held = reactor.block_on(async {
        let mut held = Vec::new();
        for number in 0..60 {
            let connection = stranger(far.address).await;
            let (mut send, recv) = connection.open_bi().await.unwrap();
            if number % 2 == 0 {
                // A stream that goes on to the target, and one that ends: the connection has none again.
                send.write_all(b"\0bytes").await.unwrap();
                send.finish().unwrap();
            }
            held.push((connection, send, recv));
        }
        held
    });
    let open = || {
        let open = held.iter().filter(|(one, ..)| one.close_reason().is_none());
        open.count()
    };
    eventually("the oldest connections are gone", || {
        reactor.block_on(async { tokio::time::sleep(std::time::Duration::from_millis(20)).await });
        open() <= 8
    });
    let ca = file(&identity, "ca.pem");
    let target = format!("quic://{}?ca={ca}&server_name={NAME}", far.address);
    let near = Forwarder::start("tcp", "", &target, &[]);
    forward::echoes(near.connect(), b"there is room");
}

/// A client of a forward has a place as over TCP: at the limit, the one that is silent makes room.
#[test]
fn silent_visitor_over_quic_makes_room() {
    let target = TcpTarget::echo();
    let identity = Identity::new();
    let (cert, key) = (file(&identity, "cert.pem"), file(&identity, "key.pem"));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.json");
    let limits = serde_json::json!({"limits": {"visitors": 4}});
    std::fs::write(&path, limits.to_string()).unwrap();
    let flags = ["-c", path.to_str().unwrap()];
    let rest = format!("?cert={cert}&key={key}&alpn=mine");
    let url = format!("tcp://127.0.0.1:{}", target.port());
    let far = Forwarder::start("quic", &rest, &url, &flags);
    let near = near(&identity, far.address);
    let mut silent: Vec<TcpStream> = (0..4).map(|_| near.connect()).collect();
    eventually("they are there", || target.accepted() == 4);
    forward::echoes(near.connect(), b"there is room");
    let first = silent.first_mut().unwrap();
    first.set_read_timeout(Some(DEADLINE)).unwrap();
    assert!(!matches!(first.read(&mut [0]), Ok(1..)), "it made room");
}
