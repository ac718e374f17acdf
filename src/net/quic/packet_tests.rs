//! Packets of associations through a client and a server, with early data.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::future::poll_fn;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use tokio::sync::Notify;
use tokio::time::timeout;

use super::tests::{Identity, LIMIT, listener, until};
use super::{Arrival, Carried, Client, Server};
use crate::net::tasks::Tasks;
use crate::net::udp::{Batch, Path, Socket};

/// A listener that echoes packets, and its port.
fn echoes(server: &Arc<Server>, port: u16) -> (Tasks, u16) {
    listener(server, port, serve)
}

async fn serve(arrival: Arrival) {
    let session = arrival.accept().await.unwrap();
    session.admit(0);
    let Ok(first) = session.packet().await else {
        return;
    };
    let (socket, associations, receiving) = session.packets(first, Arc::new(Notify::new()));
    assert!(socket.connection().is_some() && associations.count() == 0);
    let echo = async {
        while let Ok(mut batch) = taken(&socket).await {
            socket.send(&mut batch);
        }
    };
    tokio::join!(receiving, echo);
}

/// What has come, to be sent back.
async fn taken(socket: &Socket) -> std::io::Result<Batch> {
    let mut batch = Batch::default();
    poll_fn(|cx| {
        socket.poll_receive(cx, |mut received| {
            for (packet, path) in received.datagrams() {
                push(&mut batch, path, packet);
            }
        })
    })
    .await?;
    Ok(batch)
}

fn push(batch: &mut Batch, path: Path, packet: &[u8]) {
    let pushed = batch.push::<()>(path, packet.len(), |room| {
        room.copy_from_slice(packet);
        Ok(())
    });
    pushed.unwrap();
}

/// An association of a client.
struct Association {
    socket: Socket,
    tasks: Tasks,
}

impl Association {
    fn new(client: &Arc<Client>, port: u16) -> Self {
        let (socket, ends) = Socket::switched();
        let tasks = Tasks::default();
        let client = Arc::clone(client);
        tasks.spawn(async move {
            let addresses = [IpAddr::V4(Ipv4Addr::LOCALHOST)];
            let ended = client.carry(&ends, &addresses, port).await.unwrap();
            assert_eq!(ended, Carried::Association);
        });
        Self { socket, tasks }
    }

    fn send(&self, packet: &[u8]) {
        let mut batch = Batch::default();
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
        push(&mut batch, Path::to(nowhere), packet);
        assert_eq!(self.socket.send(&mut batch), 0);
    }

    async fn receive(&self) -> Vec<Vec<u8>> {
        let batch = timeout(LIMIT, taken(&self.socket)).await.unwrap().unwrap();
        batch.datagrams().map(|(one, _)| one.to_vec()).collect()
    }

    async fn exchange(&self, packet: &[u8]) {
        self.send(packet);
        assert_eq!(self.receive().await, [packet]);
    }
}

#[tokio::test]
async fn packets_come_back_to_their_association() {
    let identity = Identity::new();
    let (_server, port) = echoes(&identity.server_of_packets(), 0);
    let client = Arc::new(identity.client());
    let all: Vec<_> = (0..5).map(|_| Association::new(&client, port)).collect();
    for len in [1, 100, 1100, 1500, 65_535] {
        for (number, one) in (0..).zip(&all) {
            one.exchange(&vec![number; len]).await;
        }
    }
}

#[tokio::test]
async fn association_that_ends_is_carried_no_more() {
    let identity = Identity::new();
    let (_server, port) = echoes(&identity.server_of_packets(), 0);
    let client = Arc::new(identity.client());
    let Association { socket, tasks } = {
        let one = Association::new(&client, port);
        one.exchange(b"packet").await;
        one
    };
    drop(socket);
    timeout(LIMIT, tasks.ended()).await.unwrap();
}

#[tokio::test]
async fn what_the_connection_does_not_take_is_counted_as_lost() {
    let identity = Identity::new();
    let (_server, port) = echoes(&identity.server_of_packets(), 0);
    let client = Arc::new(identity.client());
    let one = Association::new(&client, port);
    one.exchange(b"packet").await;
    let mut batch = Batch::default();
    for _ in 0..2000 {
        push(&mut batch, Path::to(([0, 0, 0, 0], 0).into()), &[7; 1000]);
    }
    // Nothing leaves before this task waits.
    let lost = one.socket.send(&mut batch);
    assert!((1400..1600).contains(&lost), "{lost} of 2000");
    assert!(one.socket.is_busy());
}

#[tokio::test]
async fn early_packets_reach_the_server_whether_it_agrees_or_not() {
    let identity = Identity::new();
    for accepts in [true, false] {
        let (first, port) = echoes(&identity.server_of_packets(), 0);
        let client = Arc::new(identity.client());
        let one = Association::new(&client, port);
        one.exchange(b"first").await;
        drop(one);
        client.end().await;
        let second = match accepts {
            true => first,
            false => {
                // Another process: it does not know the tickets of the first.
                drop(first);
                tokio::task::yield_now().await;
                let server = identity.server_of_packets();
                until(|| std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).is_ok()).await;
                echoes(&server, port).0
            }
        };
        let one = Association::new(&client, port);
        for packet in [&[1; 100][..], &[2; 9000]] {
            one.send(packet);
        }
        let mut back = Vec::new();
        while back.len() < 2 {
            back.extend(one.receive().await);
        }
        back.sort();
        assert!(back == [vec![1; 100], vec![2; 9000]], "{accepts}");
        assert_eq!(client.agreed().await, Some(accepts));
        drop(second);
    }
}
