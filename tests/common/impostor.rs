//! `ssr local` whose server is the test.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, UdpSocket},
    thread,
};

use serde_json::{Value, json};

use super::{
    ANSWER, DEADLINE,
    peers::{Half, Program, Spec, Start},
    probe::{End, watch},
    process::v4,
    seal::Sealing,
    socks::{Association, Target},
};

/// A local half, and the ports and the key of the server that it asks.
pub struct Impostor {
    pub local: Half,
    pub sealing: Sealing,
    tcp: TcpListener,
    pub udp: UdpSocket,
}

/// What has come of a request.
pub struct Exchange {
    /// The request as the server gets it.
    pub request: Vec<u8>,
    /// Whether the client could send its data.
    pub written: io::Result<()>,
    /// What the client gets, and how its connection ends.
    pub got: Vec<u8>,
    pub end: End,
}

impl Impostor {
    /// With more keys for the local half.
    pub fn new(method: &str, keys: Value) -> Self {
        eprintln!("{method}");
        let spec = Spec::new(method);
        let (tcp, udp) = (0..100)
            .find_map(|_| {
                let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
                let udp = UdpSocket::bind(tcp.local_addr().unwrap()).ok()?;
                Some((tcp, udp))
            })
            .expect("a port free for TCP and UDP");
        udp.set_read_timeout(Some(ANSWER)).unwrap();
        Self {
            // A spare connection would be taken for the one that asks.
            local: Start::local(Program::Ssr, &spec, tcp.local_addr().unwrap())
                .with(json!({"warm_connections": 0}))
                .with(keys)
                .run(),
            sealing: Sealing::new(&spec),
            tcp,
            udp,
        }
    }

    /// Makes a request through the local half, and answers it with what `answer` makes of it.
    pub fn exchange(&self, answer: impl Fn(&[u8]) -> Vec<u8> + Sync) -> Exchange {
        thread::scope(|scope| {
            let request = scope.spawn(|| {
                let (mut stream, _) = self.tcp.accept().unwrap();
                stream.set_read_timeout(Some(DEADLINE)).unwrap();
                let mut request = vec![0; 4096];
                let len = stream.read(&mut request).unwrap();
                request.truncate(len);
                let _gone = stream.write_all(&answer(&request));
                let _gone = stream.shutdown(Shutdown::Write);
                let _end = stream.read_to_end(&mut Vec::new());
                request
            });
            let mut client = self.local.socks().connect(&Target::name("localhost", 80));
            let written = client.write_all(b"question");
            let (got, end) = watch(&mut client);
            drop(client);
            Exchange {
                request: request.join().unwrap(),
                written,
                got,
                end,
            }
        })
    }

    /// A new association, its first datagram as the server gets it, and where that came from.
    pub fn associated(&self) -> (Association, Vec<u8>, SocketAddr) {
        let association = self.local.socks().associate();
        let mut buf = [0; 4096];
        let (len, from) = (0..20)
            .find_map(|_| {
                association.send(&udp_target(), b"question");
                self.udp.recv_from(&mut buf).ok()
            })
            .expect("a packet from the local half");
        (association, buf[..len].to_vec(), from)
    }
}

/// The target of the datagrams.
pub fn udp_target() -> Target {
    v4(53).into()
}
