#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
use std::io;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rcgen::{CertifiedKey, generate_simple_self_signed};
use tokio::task::JoinSet;

use super::{Arrival, Client, Congestion, Ports, Server, Settings};
use crate::limits::MAX_EARLY_DATA;
use crate::net::tasks::Tasks;
use crate::net::tls::{self, Pem, Trust};
use crate::net::{Error, SocketOptions, Stream};

const NAME: &str = "quic.example";
pub(super) const LIMIT: Duration = Duration::from_secs(5);

fn settings() -> Settings {
    Settings {
        alpn: "h3".to_owned(),
        congestion: Congestion::Bbr,
    }
}

/// A certificate and its key.
pub(super) struct Identity {
    cert: Vec<u8>,
    key: Vec<u8>,
}

impl Identity {
    pub(super) fn new() -> Self {
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed([NAME.to_owned()]).unwrap();
        Self {
            cert: cert.pem().into_bytes(),
            key: signing_key.serialize_pem().into_bytes(),
        }
    }

    fn tls(&self, early: bool) -> tls::Server {
        let (cert, key) = (Pem::Text(self.cert.clone()), Pem::Text(self.key.clone()));
        tls::Server::for_quic(cert, key, "h3".to_owned(), early).unwrap()
    }

    fn server(&self, early: bool) -> Arc<Server> {
        Server::new(self.tls(early), settings(), &[7; 32])
    }

    /// One that takes packets, and early data.
    pub(super) fn server_of_packets(&self) -> Arc<Server> {
        Server::with_packets(self.tls(true), settings(), &[7; 32], true)
    }

    pub(super) fn client(&self) -> Client {
        let trust = Trust {
            ca: Some(Pem::Text(self.cert.clone())),
            ..Trust::default()
        };
        let tls = tls::Client::new(NAME, &trust).unwrap();
        Client::new(&tls, &settings(), SocketOptions::default(), LIMIT).unwrap()
    }
}

/// A listener whose connections `serve` serves, and its port.
pub(super) fn listener<S>(
    server: &Arc<Server>,
    port: u16,
    serve: impl Fn(Arrival) -> S + Send + 'static,
) -> (Tasks, u16)
where
    S: Future<Output = ()> + Send + 'static,
{
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
    socket.set_nonblocking(true).unwrap();
    let port = socket.local_addr().unwrap().port();
    let claim = Ports::default().claim(socket).unwrap();
    let listener = server.listen(claim).unwrap();
    let tasks = Tasks::default();
    tasks.spawn(async move {
        let mut sessions = JoinSet::new();
        while let Some(arrival) = listener.accept().await {
            sessions.spawn(serve(arrival));
        }
    });
    (tasks, port)
}

/// A listener that echoes what comes in each stream, and its port.
fn echoes(server: &Arc<Server>, port: u16) -> (Tasks, u16) {
    listener(server, port, serve)
}

async fn serve(arrival: Arrival) {
    let session = arrival.accept().await.unwrap();
    session.admit(0);
    let mut streams = JoinSet::new();
    while let Ok((stream, _)) = session.stream().await {
        streams.spawn(async move {
            let mut room = [0; 4096];
            while let Ok(count @ 1..) = stream.read(&mut room).await {
                stream.write_all(&room[..count]).await.unwrap();
            }
            stream.shutdown().await.unwrap();
        });
    }
}

async fn open(client: &Client, port: u16) -> Stream {
    let addresses = [IpAddr::V4(Ipv4Addr::LOCALHOST)];
    client.open(&addresses, port).await.unwrap()
}

/// Sends `len` bytes, ends, and reads them back.
async fn exchange(stream: &Stream, len: usize) {
    let sent: Vec<u8> = (0..len).map(|at| u8::try_from(at % 251).unwrap()).collect();
    let mut back = Vec::new();
    let send = async {
        stream.write_all(&sent).await.unwrap();
        stream.shutdown().await.unwrap();
    };
    let receive = async {
        let mut room = vec![0; 65536];
        loop {
            match stream.read(&mut room).await.unwrap() {
                0 => break,
                count => back.extend_from_slice(&room[..count]),
            }
        }
    };
    tokio::join!(send, receive);
    assert!(back == sent, "{} of {len} bytes came back", back.len());
}

#[tokio::test]
async fn streams_carry_bytes_and_their_end() {
    let identity = Identity::new();
    let (_server, port) = echoes(&identity.server(true), 0);
    let client = identity.client();
    for len in [0, 1, 5000, 3_000_000] {
        exchange(&open(&client, port).await, len).await;
    }
}

#[tokio::test]
async fn second_connection_sends_with_its_first_packet_and_loses_nothing_if_refused() {
    let identity = Identity::new();
    for accepts in [true, false] {
        let (first, port) = echoes(&identity.server(true), 0);
        let client = identity.client();
        exchange(&open(&client, port).await, 100).await;
        client.end().await;
        let second = match accepts {
            true => first,
            false => {
                // Another process: it does not know the tickets of the first.
                drop(first);
                tokio::task::yield_now().await;
                let server = identity.server(true);
                until(|| UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).is_ok()).await;
                echoes(&server, port).0
            }
        };
        let stream = open(&client, port).await;
        assert_eq!(client.agreed().await, None, "it is open at once");
        // More than may be sent early.
        exchange(&stream, 3 * MAX_EARLY_DATA).await;
        exchange(&open(&client, port).await, 100).await;
        assert_eq!(client.agreed().await, Some(accepts));
        drop(second);
    }
}

#[tokio::test]
async fn port_that_nobody_serves_is_noticed_at_once() {
    let identity = Identity::new();
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = socket.local_addr().unwrap().port();
    let addresses = [IpAddr::V4(Ipv4Addr::LOCALHOST)];
    drop(socket);
    let begun = Instant::now();
    let client = identity.client().careful();
    let refused = client.ready(&addresses, port).await;
    assert!(
        matches!(&refused, Err(Error::Connect { source, .. }) if source.kind() == io::ErrorKind::ConnectionRefused),
        "{refused:?}"
    );
    assert!(begun.elapsed() < LIMIT / 2, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn careful_client_sends_early_only_where_the_server_was_heard() {
    let identity = Identity::new();
    let (_server, port) = echoes(&identity.server(true), 0);
    let addresses = [IpAddr::V4(Ipv4Addr::LOCALHOST)];
    let client = identity.client().careful();
    assert!(!client.is_ready());
    client.ready(&addresses, port).await.unwrap();
    assert!(client.is_ready());
    exchange(&open(&client, port).await, 100).await;
    client.end().await;
    client.ready(&addresses, port).await.unwrap();
    assert_eq!(client.agreed().await, None, "with a ticket, at once");
    exchange(&open(&client, port).await, 100).await;
    // The connection that is there must show that it works on another network, too.
    client.network_changed();
    assert!(!client.is_ready());
    client.ready(&addresses, port).await.unwrap();
    assert!(client.is_ready());
    client.network_changed();
    client.end().await;
    client.ready(&addresses, port).await.unwrap();
    assert!(!client.was_early().await, "the handshake comes first again");
    exchange(&open(&client, port).await, 100).await;
}

pub(super) async fn until(mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !condition() {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
