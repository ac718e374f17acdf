//! UDP in datagrams of QUIC: both halves against each other, and each against the bytes of docs/wire.md.

use crate::common::{
    DEADLINE, SILENCE,
    bytes::pattern,
    eventually,
    forward::Forwarder,
    identity::{Identity, NAME},
    peers::{Half, Program, Spec, Start, password},
    seal::{Packet, Sealing},
    socks::{Association, Target},
    udp::UdpTarget,
};
use crate::quic::client;
use quinn::{Connection, Endpoint, Incoming, ServerConfig, crypto::rustls::QuicServerConfig};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use serde_json::{Value, json};
use std::{
    collections::HashSet,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{runtime::Runtime, time::timeout};

const NEW: &str = "2022-blake3-aes-256-gcm";
const OLD: &str = "aes-256-gcm";
/// A query, a packet of a web browser, and what is longer than any path takes at once.
const SIZES: [usize; 4] = [40, 1200, 9000, 60_000];
/// `MAX_QUIC_ASSOCIATIONS`, with those that take a while to end.
const MOST: usize = 1024 + 256;

fn quic(tls: &Value) -> Value {
    json!({"transport": {"type": "quic", "tls": tls}})
}

fn server(spec: &Spec, identity: &Identity) -> Half {
    let start = Start::server(Program::Ssr, spec).with(quic(&identity.own()));
    start
        .with(json!({"timeouts": {"handshake": 2}}))
        .flags(&["-v"])
        .run()
}

fn local(spec: &Spec, identity: &Identity, server: SocketAddr, udp_over: &str) -> Half {
    let mut keys = quic(&identity.trusted());
    keys["transport"]["udp_over"] = json!(udp_over);
    let start = Start::local(Program::Ssr, spec, server).with(keys);
    start.flags(&["-v"]).run()
}

#[test]
fn datagrams_of_all_sizes_come_back_in_datagrams_and_in_streams() {
    let (identity, echo) = (Identity::new(), UdpTarget::echo());
    for method in [NEW, "2022-blake3-chacha20-poly1305", OLD] {
        let spec = Spec::new(method);
        let server = server(&spec, &identity);
        for udp_over in ["quic", "stream"] {
            let local = local(&spec, &identity, server.address, udp_over);
            let association = local.socks().associate();
            for size in SIZES {
                let data = pattern(size as u64, size);
                let (from, back) = association.exchange(&echo.target(), &data);
                assert!(
                    from == echo.target() && back == data,
                    "{method}, {udp_over}: {} of {size} bytes",
                    back.len()
                );
            }
        }
    }
}

#[test]
fn packets_count_towards_the_quota_of_their_user() {
    let (identity, echo, spec) = (Identity::new(), UdpTarget::echo(), Spec::new(NEW));
    let users = json!({"users": [
        {"name": "ann", "password": password(NEW, 11), "quota_bytes": 200_000, "quota_period": "once"},
        {"name": "bob", "password": password(NEW, 12)},
    ]});
    let server = Start::server(Program::Ssr, &spec)
        .with(quic(&identity.own()))
        .with(users)
        .run();
    let as_user = |seed| {
        let spec = Spec {
            method: NEW.to_owned(),
            password: [spec.password.clone(), password(NEW, seed)].join(":"),
        };
        local(&spec, &identity, server.address, "quic")
    };
    let (ann, bob) = (as_user(11), as_user(12));
    let (of_ann, of_bob) = (ann.socks().associate(), bob.socks().associate());
    let comes_back = |association: &Association| {
        association.send(&echo.target(), &[1; 1200]);
        association.receive(SILENCE).is_some()
    };
    // Both directions count.
    let came = (0..200).take_while(|_| comes_back(&of_ann)).count();
    assert!((60..120).contains(&came), "{came}");
    assert!(comes_back(&of_bob));
    eventually("the log says so", || {
        let log = server.process.log();
        log.contains("user=ann reason=the user's `quota_bytes` is used up")
    });
}

#[test]
fn associations_of_one_connection_do_not_mix() {
    let (identity, echo) = (Identity::new(), UdpTarget::echo());
    for method in [NEW, OLD] {
        let spec = Spec::new(method);
        let server = server(&spec, &identity);
        let local = local(&spec, &identity, server.address, "quic");
        let associations: Vec<_> = (0..8).map(|_| local.socks().associate()).collect();
        let data = |index: usize, size| pattern(index as u64, size);
        for size in [50, 5000] {
            for (index, association) in associations.iter().enumerate() {
                association.send(&echo.target(), &data(index, size));
            }
            for (index, association) in associations.iter().enumerate() {
                let (_, back) = association.receive(DEADLINE).expect("an answer");
                assert!(back == data(index, size), "{method}: another's answer");
            }
        }
        for association in &associations {
            assert!(association.receive(SILENCE / 20).is_none(), "one too many");
        }
    }
}

/// A reactor that goes on while the test does something else.
fn reactor() -> Runtime {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(1).enable_all().build().unwrap()
}

/// A client by hand.
struct Hand {
    reactor: Runtime,
    endpoint: Endpoint,
    connection: Connection,
    sealing: Sealing,
    session: u64,
    next: u64,
}

impl Hand {
    fn new(spec: &Spec, server: SocketAddr) -> Self {
        let reactor = reactor();
        let (endpoint, connection) = reactor.block_on(client(server));
        Self {
            reactor,
            endpoint,
            connection,
            sealing: Sealing::new(spec),
            session: 0xabcd,
            next: 0,
        }
    }

    /// A packet of this client's session, or one without.
    fn packet(&mut self, target: &Target, data: &[u8]) -> Vec<u8> {
        self.next += 1;
        if self.sealing.is_2022() {
            let packet = Packet::new(self.session, self.next);
            return self.sealing.seal_packet(&packet, target, data);
        }
        self.sealing.seal_packet_2017(target, data)
    }

    fn send(&self, head: &[u8], packet: &[u8]) {
        let datagram = [head, packet].concat();
        self.connection.send_datagram(datagram.into()).unwrap();
    }

    fn send_long(&self, head: &[u8], packet: &[u8]) {
        self.reactor.block_on(async {
            let mut stream = self.connection.open_uni().await.unwrap();
            stream.write_all(&[head, packet].concat()).await.unwrap();
            stream.finish().unwrap();
        });
    }

    fn datagram(&self, wait: Duration) -> Option<Vec<u8>> {
        let read = async { timeout(wait, self.connection.read_datagram()).await };
        let read = self.reactor.block_on(read).ok()?;
        Some(read.unwrap().to_vec())
    }

    fn is_closed(&self, within: Duration) -> bool {
        let closed = async { timeout(within, self.connection.closed()).await };
        self.reactor.block_on(closed).is_ok()
    }

    fn stream(&self) -> Vec<u8> {
        self.reactor.block_on(async {
            let accepted = timeout(DEADLINE, self.connection.accept_uni()).await;
            let mut stream = accepted.expect("a stream").unwrap();
            stream.read_to_end(70_000).await.unwrap()
        })
    }

    fn open(&self, packet: &[u8]) -> (Target, Vec<u8>) {
        if self.sealing.is_2022() {
            let answer = self.sealing.open_packet(packet);
            return (answer.target, answer.data);
        }
        self.sealing.open_packet_2017(packet)
    }

    /// Sends a packet that must be answered.
    fn exchange(&mut self, head: &[u8], echo: &UdpTarget, data: &[u8]) {
        let packet = self.packet(&echo.target(), data);
        self.send(head, &packet);
        let answer = self.datagram(DEADLINE).expect("an answer");
        let (front, packet) = answer.split_at(head.len());
        assert_eq!(front, head);
        assert_eq!(self.open(packet), (echo.target(), data.to_vec()));
    }

    /// How many unidirectional streams the server allows at once, up to eight.
    fn streams(&self) -> usize {
        self.reactor.block_on(async {
            let mut held = Vec::new();
            while held.len() < 8
                && let Ok(opened) = timeout(SILENCE, self.connection.open_uni()).await
            {
                held.push(opened.unwrap());
            }
            held.len()
        })
    }
}

#[test]
fn server_speaks_the_bytes_of_the_documentation() {
    let identity = Identity::new();
    for method in [NEW, OLD] {
        let echo = UdpTarget::echo();
        let spec = Spec::new(method);
        let server = server(&spec, &identity);
        let mut hand = Hand::new(&spec, server.address);
        for (head, data) in [
            (&[7][..], &b"one"[..]),
            (&[0x41, 0x02], b"two"),
            (&[0x80, 0, 0xff, 0xff], b"three"),
        ] {
            hand.exchange(head, &echo, data);
        }
        // A packet that is too long for a datagram, both ways.
        let data = pattern(3, 9000);
        let packet = hand.packet(&echo.target(), &data);
        hand.send_long(&[7], &packet);
        let answer = hand.stream();
        assert_eq!(answer[0], 7);
        assert!(hand.open(&answer[1..]) == (echo.target(), data));
        // What was seen is refused.
        let packet = hand.packet(&echo.target(), b"once");
        for _ in 0..3 {
            hand.send(&[7], &packet);
        }
        assert!(hand.datagram(DEADLINE).is_some());
        hand.exchange(&[7], &echo, b"afterwards");
        assert_eq!(echo.count(b"once"), 1, "{method}: a replay");
    }
}

#[test]
fn old_packets_are_told_apart_by_the_number_of_their_association() {
    let (identity, echo) = (Identity::new(), UdpTarget::echo());
    let spec = Spec::new(OLD);
    let server = server(&spec, &identity);
    let mut one = Hand::new(&spec, server.address);
    let mut other = Hand::new(&spec, server.address);
    for _ in 0..2 {
        for number in 0..3 {
            one.exchange(&[number], &echo, &[number]);
            other.exchange(&[number], &echo, &[10 + number]);
        }
    }
    let sources: HashSet<_> = echo.seen().into_iter().map(|(from, _)| from).collect();
    assert_eq!(sources.len(), 6, "a socket for each association");
}

#[test]
fn association_goes_on_when_the_address_of_the_client_changes() {
    let identity = Identity::new();
    for method in [OLD, NEW] {
        let echo = UdpTarget::echo();
        let spec = Spec::new(method);
        let server = server(&spec, &identity);
        let mut hand = Hand::new(&spec, server.address);
        hand.exchange(&[1], &echo, b"before");
        let before = hand.endpoint.local_addr().unwrap();
        {
            let _inside = hand.reactor.enter();
            let another = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            hand.endpoint.rebind(another).unwrap();
        }
        assert_ne!(hand.endpoint.local_addr().unwrap(), before);
        for _ in 0..3 {
            hand.exchange(&[1], &echo, b"after");
        }
        let seen = echo.seen();
        let last = seen.last().unwrap().0;
        let same = seen.iter().filter(|(from, _)| *from == last);
        assert_eq!(same.count(), 4, "{method}: the target sees one association");
    }
}

#[test]
fn strangers_packets_get_nothing_and_do_not_admit() {
    let identity = Identity::new();
    std::thread::scope(|scope| {
        for method in [NEW, OLD] {
            let identity = &identity;
            scope.spawn(move || strangers_are_not_admitted(method, identity));
        }
    });
}

fn strangers_are_not_admitted(method: &str, identity: &Identity) {
    let (spec, echo) = (Spec::new(method), UdpTarget::echo());
    let server = server(&spec, identity);
    let stranger = Hand::new(&spec, server.address);
    for len in 0..200 {
        stranger.send(&[7], &pattern(len as u64, len));
        stranger.send(&[], &pattern(len as u64, len));
    }
    assert_eq!(stranger.streams(), 4, "{method}: a few streams");
    assert!(stranger.datagram(SILENCE).is_none(), "an answer");
    assert!(stranger.is_closed(DEADLINE), "its time is over");
    eventually("the server says so", || {
        server.process.log().contains("datagram dropped")
    });
    // An authentic packet admits, as an authentic stream does.
    let mut hand = Hand::new(&spec, server.address);
    hand.exchange(&[7], &echo, b"a client");
    assert_eq!(hand.streams(), 8, "{method}: more than for a stranger");
    assert!(!hand.is_closed(Duration::from_secs(3)), "{method}");
    hand.exchange(&[7], &echo, b"still there");
}

#[test]
fn flood_of_associations_stays_within_its_bound_and_ends_with_the_connection() {
    let (identity, echo) = (Identity::new(), UdpTarget::echo());
    let spec = Spec::new(OLD);
    let server = server(&spec, &identity);
    let before = server.process.open_files();
    let mut hand = Hand::new(&spec, server.address);
    for number in 0..3000_u16 {
        let [high, low] = (20_000 + number).to_be_bytes();
        let head = [0x80, 0, high, low];
        match number % 50 {
            // Its answer comes: all before were taken.
            49 => hand.exchange_last(&head, &echo, &[high, low]),
            _ => {
                let packet = hand.packet(&echo.target(), &[high, low]);
                hand.send(&head, &packet);
            }
        }
        if number % 500 == 499 {
            let files = server.process.open_files().saturating_sub(before);
            assert!(files <= MOST + 64, "{files} files after {number}");
        }
    }
    let files = server.process.open_files().saturating_sub(before);
    assert!(files > 256, "{files} files: it has associations");
    hand.connection.close(0u32.into(), b"");
    hand.reactor.block_on(hand.endpoint.wait_idle());
    eventually("associations end with their connection", || {
        server.process.open_files() <= before + 8
    });
    let mut another = Hand::new(&spec, server.address);
    another.exchange(&[1], &echo, b"served");
}

impl Hand {
    /// Sends a packet until it is answered; others' answers may come before.
    fn exchange_last(&mut self, head: &[u8], echo: &UdpTarget, data: &[u8]) {
        for _ in 0..20 {
            let packet = self.packet(&echo.target(), data);
            self.send(head, &packet);
            while let Some(answer) = self.datagram(SILENCE) {
                if answer.starts_with(head) {
                    return;
                }
            }
        }
        panic!("no answer for {head:?}");
    }
}

/// A port through which UDP goes to a server as long as it is open; TCP always does.
struct Gate {
    address: SocketAddr,
    is_open: Arc<AtomicBool>,
    _tcp: Forwarder,
}

impl Gate {
    fn new(server: SocketAddr) -> Self {
        let tcp = Forwarder::tcp(server.port());
        let address = tcp.address;
        let is_open = Arc::new(AtomicBool::new(true));
        let inside = UdpSocket::bind(address).unwrap();
        // One port for all: the client has one connection.
        let outside = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        outside.connect(server).unwrap();
        let client = Arc::new(Mutex::new(None));
        let (up, down) = (inside.try_clone().unwrap(), outside.try_clone().unwrap());
        let (known, opened) = (Arc::clone(&client), Arc::clone(&is_open));
        std::thread::spawn(move || {
            let mut room = [0; 2048];
            while let Ok((len, from)) = up.recv_from(&mut room) {
                *known.lock().unwrap() = Some(from);
                if opened.load(Relaxed) {
                    let _lost = outside.send(&room[..len]);
                }
            }
        });
        let opened = Arc::clone(&is_open);
        std::thread::spawn(move || {
            let mut room = [0; 2048];
            while let Ok(len) = down.recv(&mut room) {
                let to = *client.lock().unwrap();
                if let (true, Some(to)) = (opened.load(Relaxed), to) {
                    let _lost = inside.send_to(&room[..len], to);
                }
            }
        });
        Self {
            address,
            is_open,
            _tcp: tcp,
        }
    }
}

#[test]
fn open_association_goes_on_by_the_fallback_when_udp_is_blocked() {
    let (identity, echo) = (Identity::new(), UdpTarget::echo());
    let spec = Spec::new(NEW);
    let beside = |tls: Value| json!({"transport": {"type": "quic", "fallback": "tcp", "tls": tls}});
    let start = Start::server(Program::Ssr, &spec).with(beside(identity.own()));
    let server = start.run();
    let gate = Gate::new(server.address);
    let start = Start::local(Program::Ssr, &spec, gate.address).with(beside(identity.trusted()));
    let local = start.flags(&["-v"]).run();
    let association = local.socks().associate();
    association.exchange(&echo.target(), b"by QUIC");
    gate.is_open.store(false, Relaxed);
    eventually("the association goes on", || {
        association.send(&echo.target(), b"by TCP");
        let answer = association.receive(SILENCE);
        answer.is_some_and(|(_, data)| data == b"by TCP")
    });
    association.exchange(&echo.target(), &pattern(1, 9000));
}

/// A server of QUIC by hand, to which `ssr local` comes.
struct Impostor {
    reactor: Runtime,
    endpoint: Endpoint,
}

impl Impostor {
    fn new(identity: &Identity) -> Self {
        let own = identity.own();
        let path = |key: &str| own[key].as_str().unwrap().to_owned();
        let cert = CertificateDer::from_pem_file(path("cert")).unwrap();
        let key = PrivateKeyDer::from_pem_file(path("key")).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![cert], key)
            .unwrap();
        tls.alpn_protocols = vec![b"h3".to_vec()];
        let crypto = QuicServerConfig::try_from(tls).unwrap();
        let config = ServerConfig::with_crypto(Arc::new(crypto));
        let reactor = reactor();
        let endpoint = {
            let _inside = reactor.enter();
            Endpoint::server(config, (Ipv4Addr::LOCALHOST, 0).into()).unwrap()
        };
        Self { reactor, endpoint }
    }

    fn accept(&self) -> Connection {
        self.reactor.block_on(async {
            let incoming: Incoming = timeout(DEADLINE, self.endpoint.accept())
                .await
                .expect("a connection")
                .unwrap();
            incoming.await.unwrap()
        })
    }
}

#[test]
fn client_speaks_the_bytes_of_the_documentation() {
    let identity = Identity::new();
    let spec = Spec::new(OLD);
    let impostor = Impostor::new(&identity);
    let address = impostor.endpoint.local_addr().unwrap();
    let local = local(&spec, &identity, address, "quic");
    let sealing = Sealing::new(&spec);
    let target = Target::name(NAME, 53);
    let associations = [local.socks().associate(), local.socks().associate()];
    for association in &associations {
        association.send(&target, b"a query");
    }
    let connection = impostor.accept();
    let datagram = || {
        let read = async { timeout(DEADLINE, connection.read_datagram()).await };
        let read = impostor.reactor.block_on(read);
        read.expect("a datagram").unwrap().to_vec()
    };
    let (one, other) = (datagram(), datagram());
    let opened = |datagram: &[u8]| sealing.open_packet_2017(&datagram[1..]);
    assert_eq!(opened(&one), (target.clone(), b"a query".to_vec()));
    assert_eq!(opened(&other), (target.clone(), b"a query".to_vec()));
    let numbers = HashSet::from([one[0], other[0]]);
    assert_eq!(numbers, HashSet::from([0, 1]), "each has its number");
    for number in numbers {
        let answer = sealing.seal_packet_2017(&target, &[number]);
        let answer = [&[number], answer.as_slice()].concat();
        connection.send_datagram(answer.into()).unwrap();
    }
    // For no association.
    connection.send_datagram(vec![9; 100].into()).unwrap();
    let answers = associations.each_ref().map(|one| one.receive(DEADLINE));
    let answers: HashSet<_> = answers.map(|answer| answer.unwrap().1[0]).into();
    assert_eq!(answers.len(), 2, "each has its answer");
    // One that is too long for a datagram.
    let [first, second] = &associations;
    let data = pattern(5, 9000);
    first.send(&target, &data);
    let stream = impostor.reactor.block_on(async {
        let accepted = timeout(DEADLINE, connection.accept_uni()).await;
        let mut stream = accepted.expect("a stream").unwrap();
        stream.read_to_end(70_000).await.unwrap()
    });
    assert!(opened(&stream) == (target.clone(), data.clone()));
    impostor.reactor.block_on(async {
        let mut answer = connection.open_uni().await.unwrap();
        answer.write_all(&stream[..1]).await.unwrap();
        let packet = sealing.seal_packet_2017(&target, &data);
        answer.write_all(&packet).await.unwrap();
        answer.finish().unwrap();
        let _ = timeout(DEADLINE, answer.stopped()).await;
    });
    assert!(first.receive(DEADLINE).unwrap().1 == data);
    assert!(second.receive(SILENCE / 8).is_none(), "another's answer");
    // When the connection ends, the association goes on in the next.
    connection.close(0u32.into(), b"");
    first.send(&target, b"again");
    eventually("a new connection", || {
        first.send(&target, b"again");
        let waiting = async { timeout(SILENCE, impostor.endpoint.accept()).await };
        let Ok(Some(incoming)) = impostor.reactor.block_on(waiting) else {
            return false;
        };
        impostor.reactor.block_on(async {
            let connection = incoming.await.unwrap();
            let datagram = timeout(DEADLINE, connection.read_datagram()).await;
            opened(&datagram.expect("a datagram").unwrap()).1 == b"again"
        })
    });
}
