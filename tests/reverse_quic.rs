//! Reverse tunnels over QUIC: visitors have streams of their own, and nobody waits for another one.

use crate::common::{
    DEADLINE, SILENCE,
    bytes::{Pattern, digest},
    eventually,
    identity::Identity,
    peers::{Half, Program, Spec, Start, ssr},
    process::{Process, free_port, make_private, v4},
    reverse::*,
    targets::{Order, TcpTarget, write_pattern},
    udp::UdpTarget,
};
use crate::quic::{quic, reactor, stranger};
use crate::reverse::{get, http_target};
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};
use std::{
    fs,
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream, UdpSocket},
    thread,
};
use tempfile::TempDir;

/// What the log of a client says of a visitor with a stream of its own.
const OWN: &str = "reverse: a visitor has a stream of its own";

fn server_of(spec: &Spec, identity: &Identity, more: Value) -> Half {
    let allow = json!({"heartbeat": 1, "allow": [{"bind": "127.0.0.1:1-65535", "host": "*"}]});
    let start = Start::server(Program::Ssr, spec).with(quic(&identity.own()));
    start.with(json!({ "reverse": allow })).with(more).run()
}

fn client_of(spec: &Spec, identity: &Identity, server: SocketAddr, reverse: Value) -> Half {
    let start = Start::local(Program::Ssr, spec, server).with(quic(&identity.trusted()));
    let start = start.with(json!({ "reverse": reverse }));
    start.flags(&["-v"]).run()
}

/// Waits until visitors get streams of their own: the server may open none before the client has heard that it can.
fn ready(client: &Half, bound: SocketAddr) {
    eventually("a visitor has a stream of its own", || {
        serves(bound) && said(client, &[OWN]) > 0
    });
}

/// A server, and a client that publishes `target`, whose visitors have streams of their own.
fn tunnel(target: u16) -> (Half, Half, SocketAddr, (Identity, TcpTarget)) {
    let identity = Identity::new();
    let spec = Spec::new(METHOD);
    let server = server_of(&spec, &identity, json!({}));
    let echo = TcpTarget::echo();
    let list = vec![
        service("echo", free_port(), echo.port()),
        service("target", free_port(), target),
    ];
    let client = client_of(&spec, &identity, server.address, services(list));
    ready(&client, published(&client, "echo"));
    let bound = published(&client, "target");
    (server, client, bound, (identity, echo))
}

#[test]
fn eight_visitors_at_once_have_quic_streams_of_their_own_and_lose_nothing() {
    let duplex = TcpTarget::duplex();
    let (_server, client, bound, _kept) = tunnel(duplex.port());
    let before = said(&client, &[OWN]);
    let visit = move |seed: u64| {
        let order = Order {
            seed,
            up: 2 << 20,
            down: 3 << 20,
        };
        let mut stream = dial(bound);
        stream.write_all(&order.to_bytes()).unwrap();
        let mut reading = stream.try_clone().unwrap();
        let download = thread::spawn(move || {
            let (mut bytes, mut sum) = (vec![0; order.down], digest(&[]).to_vec());
            reading.read_exact(&mut bytes).unwrap();
            reading.read_exact(&mut sum).unwrap();
            (digest(&bytes), sum)
        });
        write_pattern(&mut stream, seed + 100, order.up).unwrap();
        let pattern = |seed, len| {
            let mut bytes = vec![0; len];
            Pattern::new(seed).fill(&mut bytes);
            digest(&bytes)
        };
        let (down, up) = download.join().unwrap();
        assert_eq!(down, pattern(seed, order.down));
        assert_eq!(up, pattern(seed + 100, order.up));
    };
    let visitors: Vec<_> = (0..8)
        .map(|seed| thread::spawn(move || visit(seed)))
        .collect();
    for visitor in visitors {
        visitor.join().unwrap();
    }
    eventually("all eight had streams of their own", || {
        said(&client, &[OWN]) == before + 8
    });
}

/// A target that sends as long as somebody reads.
fn source() -> TcpTarget {
    TcpTarget::serve(|mut stream| {
        let bytes = vec![7; 64 << 10];
        while stream.write_all(&bytes).is_ok() {}
    })
}

/// A visitor for whom the system holds little.
fn narrow(address: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(8 << 10).unwrap();
    socket.connect(&address.into()).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream
}

#[test]
fn stalled_visitors_over_quic_hold_up_nobody_and_are_bounded() {
    let source = source();
    let (server, client, bound, _kept) = tunnel(source.port());
    let before = [&server, &client].map(|half| half.process.memory_kib("VmRSS"));
    // More than have streams of their own. Each reads one byte and then nothing.
    let stalled: Vec<TcpStream> = (0..40)
        .map(|_| {
            let mut stream = narrow(bound);
            stream.read_exact(&mut [0; 1]).unwrap();
            stream
        })
        .collect();
    eventually("those at the limit have streams of their own", || {
        said(&client, &[OWN]) >= 30
    });
    thread::sleep(SILENCE);
    let much = 4 << 20;
    let visit = move || io::copy(&mut dial(bound).take(much), &mut io::sink()).unwrap();
    let active: Vec<_> = (0..4).map(|_| thread::spawn(visit)).collect();
    for visitor in active {
        assert_eq!(visitor.join().unwrap(), much);
    }
    for (half, before) in [&server, &client].into_iter().zip(before) {
        let grown = half.process.memory_kib("VmRSS").saturating_sub(before);
        assert!(grown < 128 << 10, "{grown} KiB for 40 stalled visitors");
    }
    drop(stalled);
    ready(&client, published(&client, "echo"));
}

/// Another process of the server at `address`.
fn again(spec: &Spec, identity: &Identity, address: SocketAddr) -> (Process, TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.json");
    let mut config = quic(&identity.own());
    let allow = json!({"heartbeat": 1, "allow": [{"bind": "127.0.0.1:1-65535"}]});
    for (key, value) in [
        ("server", json!("127.0.0.1")),
        ("server_port", json!(address.port())),
        ("method", json!(spec.method)),
        ("password", json!(spec.password)),
        ("reverse", allow),
    ] {
        config[key] = value;
    }
    fs::write(&path, config.to_string()).unwrap();
    make_private(&path);
    let mut command = ssr(&["server", "-c", path.to_str().unwrap()]);
    let mut process = Process::spawn("ssr server", &mut command).unwrap();
    process.running().unwrap();
    (process, directory)
}

#[test]
fn link_over_quic_comes_back_after_its_server() {
    let target = TcpTarget::echo();
    let identity = Identity::new();
    let spec = Spec::new(METHOD);
    let first = server_of(&spec, &identity, json!({}));
    let address = first.address;
    let list = vec![service("echo", free_port(), target.port())];
    let client = client_of(&spec, &identity, address, services(list));
    let bound = published(&client, "echo");
    ready(&client, bound);
    let mut open = dial(bound);
    exchange(&mut open, b"before").unwrap();
    let accepted = target.accepted();
    drop(first); // by SIGKILL: it says nothing
    assert!(
        !matches!(open.read(&mut [0]), Ok(1..)),
        "its server is gone"
    );
    let _second = again(&spec, &identity, address);
    let before = said(&client, &[OWN]);
    eventually("a visitor has a stream of its own again", || {
        serves(bound) && said(&client, &[OWN]) > before
    });
    assert!(target.accepted() > accepted);
}

#[test]
fn target_that_refuses_resets_its_visitor_over_quic() {
    let (_server, _client, bound, _kept) = tunnel(free_port());
    let mut visitor = dial(bound);
    let ended = visitor.read(&mut [0]);
    assert!(
        matches!(&ended, Err(error) if error.kind() == io::ErrorKind::ConnectionReset),
        "{ended:?}"
    );
}

#[test]
fn http_and_udp_visitors_go_over_quic_too() {
    let (web, dns) = (http_target("web"), UdpTarget::echo());
    let identity = Identity::new();
    let spec = Spec::new(METHOD);
    let server = server_of(&spec, &identity, json!({}));
    let http = json!({"protocol": "http", "host": "a.example"});
    let udp =
        json!({"protocol": "udp", "target": dns.answers_from().socket().unwrap().to_string()});
    let list = vec![
        with(service("web", free_port(), web.port()), http),
        with(service("dns", free_port(), 1), udp),
    ];
    let client = client_of(&spec, &identity, server.address, services(list));
    let bound = published(&client, "web");
    eventually("a request has a stream of its own", || {
        let (status, body) = get(&mut dial(bound), "a.example", "");
        assert_eq!(status, "HTTP/1.1 200 OK");
        assert!(body.contains("X-Forwarded-For: 127.0.0.1\r\n"), "{body}");
        said(&client, &[OWN]) > 0
    });
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(published(&client, "dns")).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket.send(b"datagram").unwrap();
    let mut back = [0; 20];
    let got = socket.recv(&mut back).unwrap();
    assert_eq!(&back[..got], b"datagram");
}

#[test]
fn client_over_quic_that_knows_no_own_streams_gets_its_visitors_in_the_link() {
    let identity = Identity::new();
    let server = server_of(&Spec::new("none"), &identity, json!({}));
    let port = free_port();
    reactor().block_on(async {
        let connection = stranger(server.address).await;
        connection.set_max_concurrent_bi_streams(quinn::VarInt::from_u32(100));
        let (mut send, mut recv) = connection.open_bi().await.unwrap();
        let request = [&hand::request()[..], &hand::hello(), &hand::register(port)].concat();
        send.write_all(&request).await.unwrap();
        let mut visitor = None;
        // Hello, Ping, and the answer to Register; then what the visitor leads to.
        loop {
            let mut head = [0; 12];
            recv.read_exact(&mut head).await.unwrap();
            let len = u32::from_be_bytes([head[8], head[9], head[10], head[11]]);
            let mut payload = vec![0; usize::try_from(len).unwrap()];
            recv.read_exact(&mut payload).await.unwrap();
            match head[1] {
                7 => {
                    assert_eq!(payload[..2], [0, 0], "published");
                    visitor = Some(dial(v4(port)));
                }
                8 => break,
                _ => {}
            }
        }
        assert!(visitor.is_some());
    });
}

/// What an older client writes.
mod hand {
    pub(super) fn request() -> Vec<u8> {
        let host = b"tunnel.v1.ssr.invalid";
        let len = u8::try_from(host.len()).unwrap();
        [&[3, len][..], host, &9015u16.to_be_bytes()].concat()
    }

    fn frame(op: u8, id: u8, payload: &[u8]) -> Vec<u8> {
        let len = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&[0, op, 0, 0, 0, 0, 0, id][..], &len, payload].concat()
    }

    pub(super) fn hello() -> Vec<u8> {
        let numbers = [0u32, 256 << 10, 16_371].map(u32::to_be_bytes).concat();
        frame(5, 0, &[&[1], numbers.as_slice()].concat())
    }

    pub(super) fn register(port: u16) -> Vec<u8> {
        let bind = [&[1, 127, 0, 0, 1][..], &port.to_be_bytes()].concat();
        frame(6, 1, &[&[0, 0], bind.as_slice(), b"\x04hand\0\0"].concat())
    }
}
